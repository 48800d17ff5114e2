//! Hints about pods that are accepted but hardly meant: deprecated fields, duplicates, fractions of
//! bytes. Templates get the same hints, with their own path before them.

use std::collections::{HashMap, HashSet};

use amphipod_api::field::{Path, go_quote};
use serde_json::Value;

use super::annotations::{self, SECCOMP_CONTAINER, SECCOMP_POD};
use super::resources::quantity;
use crate::addresses::warn_ip;
use crate::check;
use crate::contract::Warnings;
use crate::json::{fields, int, items, number, set, text};
use crate::node::old_label;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WHOLE_BYTES: [&str; 2] = ["memory", "ephemeral-storage"];
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const APPARMOR: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// Kind of source, the name its hint uses, and the hint.
const VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Hints about a pod (`path` empty) or a template (`path` is `spec.template`, say).
pub fn for_template(path: &Path, template: &Value) -> Warnings {
    let (metadata, spec) = (&template["metadata"], &template["spec"]);
    let at = path.child("spec");
    let annotations_path = path.child("metadata").child("annotations");
    let mut texts = Warnings::new();
    node_labels(&mut texts, &at, spec);
    for (key, hint) in ANNOTATIONS.iter().filter(|(key, _)| set(&metadata["annotations"][*key])) {
        texts.push(format!("{}: {hint}", annotations_path.key(key)));
    }
    volumes(&mut texts, &at, spec);
    token_paths(&mut texts, &at.child("volumes"), spec);
    duplicates(&mut texts, &at, spec);
    for name in WHOLE_BYTES {
        fraction(&mut texts, &at.child("overhead").key(name), &spec["overhead"][name]);
    }
    let seccomp = &spec["securityContext"]["seccompProfile"];
    if !set(seccomp) && set(&metadata["annotations"][SECCOMP_POD]) {
        texts.push(format!("{}: {SECCOMP}", annotations_path.key(SECCOMP_POD)));
    }
    let is_template = *path != Path::default();
    super::visit(spec, &at, |container, at| {
        profile_annotations(&mut texts, &annotations_path, metadata, spec, container, is_template);
        for name in WHOLE_BYTES {
            for kind in ["limits", "requests"] {
                let at = at.child("resources").child(kind).key(name);
                fraction(&mut texts, &at, &container["resources"][kind][name]);
            }
        }
        hidden_variables(&mut texts, &at.child("env"), container);
    });
    overlapping_ports(&mut texts, &at, spec);
    if int(&spec["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        let at = at.child("terminationGracePeriodSeconds");
        texts.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    null_selectors(&mut texts, &at.child("affinity"), &spec["affinity"]);
    addresses(&mut texts, &at, spec);
    texts
}

/// What a controller says of its own name, which its pods will carry.
pub fn for_name(object: &Value, noun: &str) -> Warnings {
    let faults = check::dns1123_label(text(&object["metadata"]["name"]));
    if faults.is_empty() {
        return Warnings::new();
    }
    Warnings::from(format!(
        "metadata.name: this is used in {noun}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        faults.join(" ")
    ))
}

fn node_labels(texts: &mut Warnings, at: &Path, spec: &Value) {
    for (key, _) in fields(&spec["nodeSelector"]) {
        if let Some(hint) = old_label(key) {
            texts.push(format!("{}: {hint}", at.child("nodeSelector").key(key)));
        }
    }
    let affinity = &spec["affinity"]["nodeAffinity"];
    let affinity_path = at.child("affinity").child("nodeAffinity");
    let terms_path = affinity_path.child(REQUIRED).child("nodeSelectorTerms");
    for (i, term) in items(&affinity[REQUIRED]["nodeSelectorTerms"]).iter().enumerate() {
        term_labels(texts, &terms_path.index(i), term, false);
    }
    for (i, term) in items(&affinity[PREFERRED]).iter().enumerate() {
        let at = affinity_path.child(PREFERRED).index(i).child("preference");
        term_labels(texts, &at, &term["preference"], true);
    }
    for (i, constraint) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let at = at.child("topologySpreadConstraints").index(i);
        let key = text(&constraint["topologyKey"]);
        if let Some(hint) = old_label(key) {
            texts.push(format!("{}: {key} is {hint}", at.child("topologyKey")));
        }
        if !set(&constraint["labelSelector"]) {
            texts.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
        }
    }
}

/// A preference may name values no label can have: nothing but a hint says so.
fn term_labels(texts: &mut Warnings, path: &Path, term: &Value, values_too: bool) {
    for (i, expression) in items(&term["matchExpressions"]).iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        let key = text(&expression["key"]);
        if let Some(hint) = old_label(key) {
            texts.push(format!("{}: {key} is {hint}", at.child("key")));
        }
        for (v, value) in items(&expression["values"]).iter().enumerate().filter(|_| values_too) {
            let (at, value) = (at.child("values").index(v), text(value));
            let hints = check::label_value(value).into_iter();
            texts.extend(hints.map(|fault| format!("{at}: {value} is invalid, {fault}")));
        }
    }
}

fn volumes(texts: &mut Warnings, at: &Path, spec: &Value) {
    for (i, volume) in items(&spec["volumes"]).iter().enumerate() {
        let at = at.child("volumes").index(i);
        for (_, shown, hint) in VOLUMES.iter().filter(|(kind, _, _)| set(&volume[*kind])) {
            texts.push(format!("{}: {hint}", at.child(shown)));
        }
        let template = &volume["ephemeral"]["volumeClaimTemplate"];
        let at = at.child("ephemeral").child("volumeClaimTemplate").child("spec");
        claim_spec(texts, &at, &template["spec"]);
    }
}

/// A claim for a fraction of a byte.
pub fn claim_spec(texts: &mut Warnings, path: &Path, spec: &Value) {
    for kind in ["requests", "limits"] {
        let storage = &spec["resources"][kind]["storage"];
        fraction(texts, &path.child("resources").child(kind).key("storage"), storage);
    }
}

/// Files of other sources where a token will stand.
fn token_paths(texts: &mut Warnings, path: &Path, spec: &Value) {
    let volumes = items(&spec["volumes"]);
    let tokens: HashSet<&str> = volumes
        .iter()
        .flat_map(|volume| items(&volume["projected"]["sources"]))
        .map(|source| &source["serviceAccountToken"])
        .filter(|token| set(token))
        .map(|token| text(&token["path"]))
        .collect();
    let mut hint = |at: Path, file: &str| {
        if tokens.contains(file) {
            texts.push(format!("{at}: has duplicated path with ServiceAccountToken {}", go_quote(file)));
        }
    };
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i).child("projected").child("sources");
        for source in items(&volume["projected"]["sources"]) {
            for (kind, shown) in
                [("configMap", "configMap"), ("secret", "secrets"), ("downwardAPI", "downwardAPI")]
            {
                for (j, item) in items(&source[kind]["items"]).iter().enumerate() {
                    hint(at.child(shown).index(j), text(&item["path"]));
                }
            }
            let bundle = &source["clusterTrustBundle"];
            if set(bundle) {
                hint(at.child("ClusterTrustBundle"), text(&bundle["path"]));
            }
        }
    }
}

fn duplicates(texts: &mut Warnings, at: &Path, spec: &Value) {
    for (list, key, noun) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen = HashSet::new();
        for (i, item) in items(&spec[list]).iter().enumerate() {
            if !seen.insert(text(&item[key])) {
                let at = at.child(list).index(i).child(key);
                texts.push(format!("{at}: duplicate {noun} {}", go_quote(text(&item[key]))));
            }
        }
    }
    for (i, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(&secret["name"]).is_empty() {
            let at = at.child("imagePullSecrets").index(i).child("name");
            texts.push(format!("{at}: invalid empty name \"\""));
        }
    }
}

fn fraction(texts: &mut Warnings, at: &Path, amount: &Value) {
    if let Some(amount) = quantity(amount).filter(|q| q.nanos() % 1_000_000_000 != 0) {
        let shown = go_quote(&amount.to_string());
        texts.push(format!("{at}: fractional byte value {shown} is invalid, must be an integer"));
    }
}

fn profile_annotations(
    texts: &mut Warnings,
    path: &Path,
    metadata: &Value,
    spec: &Value,
    container: &Value,
    is_template: bool,
) {
    let context = &container["securityContext"];
    let name = text(&container["name"]);
    let seccomp = format!("{SECCOMP_CONTAINER}{name}");
    if !set(&context["seccompProfile"]) && set(&metadata["annotations"][&seccomp]) {
        texts.push(format!("{}: {SECCOMP}", path.key(&seccomp)));
    }
    // In a pod the annotation has been written into the field by now.
    let has_field =
        set(&spec["securityContext"]["appArmorProfile"]) || (set(&context["appArmorProfile"]) && is_template);
    let key = format!("{}{name}", annotations::APPARMOR);
    if !has_field && set(&metadata["annotations"][&key]) {
        texts.push(format!("{}: {APPARMOR}", path.key(&key)));
    }
}

/// A later variable of the same name that does not build on the earlier one.
fn hidden_variables(texts: &mut Warnings, at: &Path, container: &Value) {
    let mut seen = HashSet::new();
    for (i, variable) in items(&container["env"]).iter().enumerate() {
        let name = text(&variable["name"]);
        if seen.insert(name) {
            continue;
        }
        let (value, reference) = (text(&variable["value"]), format!("$({name})"));
        if set(&variable["valueFrom"]) || value == reference || !value.contains(&reference) {
            texts.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                at.index(i),
                go_quote(name)
            ));
        }
    }
}

fn overlapping_ports(texts: &mut Warnings, at: &Path, spec: &Value) {
    let mut seen = Ports::default();
    super::visit(spec, at, |container, at| {
        for (i, port) in items(&container["ports"]).iter().enumerate() {
            if texts.is_full() {
                return;
            }
            let at = at.child("ports").index(i);
            let (host_port, host_ip) = (number(&port["hostPort"]), text(&port["hostIP"]));
            if !host_ip.is_empty() && host_port == 0 {
                texts.push(format!("{at}: hostIP set without hostPort: {}", shown_port(port)));
            }
            for (place, other) in seen.in_the_way_of(port) {
                let (other_port, other_ip) = (number(&other["hostPort"]), text(&other["hostIP"]));
                let what = if (host_ip, host_port) == (other_ip, other_port) {
                    "duplicate"
                } else if host_port == 0 || other_port == 0 {
                    "overlapping"
                } else {
                    "dangerously ambiguous"
                };
                texts.push(format!("{at}: {what} port definition with {place}"));
            }
            seen.add(at, port);
        }
    });
}

/// The definitions so far, found by what a later one can conflict with: nothing is looked at that
/// earns no warning.
#[derive(Default)]
struct Ports<'a> {
    all: Vec<(Path, &'a Value)>,
    places: HashMap<(i64, &'a str, Part<'a>), Vec<usize>>,
}

#[derive(PartialEq, Eq, Hash)]
enum Part<'a> {
    Any,
    HostPort(i64),
    HostAddress(i64, &'a str),
}

impl<'a> Ports<'a> {
    fn in_the_way_of(&self, port: &'a Value) -> impl Iterator<Item = &(Path, &'a Value)> {
        let (host_port, host_ip) = (number(&port["hostPort"]), text(&port["hostIP"]));
        let parts = match (host_port, host_ip) {
            (0, _) => vec![Part::Any],
            (_, "") => vec![Part::HostPort(0), Part::HostPort(host_port)],
            _ => vec![
                Part::HostPort(0),
                Part::HostAddress(host_port, ""),
                Part::HostAddress(host_port, host_ip),
            ],
        };
        let (number, protocol) = (number(&port["containerPort"]), text(&port["protocol"]));
        let found = parts.into_iter().filter_map(|part| self.places.get(&(number, protocol, part)));
        let mut found: Vec<usize> = found.flatten().copied().collect();
        found.sort_unstable();
        found.into_iter().map(|place| &self.all[place])
    }

    fn add(&mut self, at: Path, port: &'a Value) {
        let (host_port, host_ip) = (number(&port["hostPort"]), text(&port["hostIP"]));
        for part in [Part::Any, Part::HostPort(host_port), Part::HostAddress(host_port, host_ip)] {
            let key = (number(&port["containerPort"]), text(&port["protocol"]), part);
            self.places.entry(key).or_default().push(self.all.len());
        }
        self.all.push((at, port));
    }
}

fn shown_port(port: &Value) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        text(&port["name"]),
        number(&port["hostPort"]),
        number(&port["containerPort"]),
        text(&port["protocol"]),
        text(&port["hostIP"])
    )
}

fn null_selectors(texts: &mut Warnings, at: &Path, affinity: &Value) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = at.child(kind);
        for (i, term) in items(&affinity[kind][REQUIRED]).iter().enumerate() {
            if !set(&term["labelSelector"]) {
                let at = at.child(REQUIRED).index(i).child("labelSelector");
                texts.push(format!("{at}: {NULL_SELECTOR}"));
            }
        }
        for (i, term) in items(&affinity[kind][PREFERRED]).iter().enumerate() {
            if !set(&term["podAffinityTerm"]["labelSelector"]) {
                let at = at.child(PREFERRED).index(i).child("podAffinityTerm").child("labelSelector");
                texts.push(format!("{at}: {NULL_SELECTOR}"));
            }
        }
    }
}

fn addresses(texts: &mut Warnings, at: &Path, spec: &Value) {
    for (i, server) in items(&spec["dnsConfig"]["nameservers"]).iter().enumerate() {
        warn_ip(texts, &at.child("dnsConfig").child("nameservers").index(i), text(server));
    }
    for (i, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        warn_ip(texts, &at.child("hostAliases").index(i).child("ip"), text(&alias["ip"]));
    }
}
