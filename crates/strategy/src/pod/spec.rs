//! The pod spec as a whole, shared by pods and by every template of pods.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::{Value, json};

use super::containers::{self, Scope};
use super::volume_source::Owner;
use super::volumes::Volumes;
use super::{annotations, env, resources, scheduling, security, windows};
use crate::addresses::legacy_ip;
use crate::check::{self, Faults, invalid_each};
use crate::json::{int, items, set, text, truthy};

const HOSTNAME_MAX: usize = 64;
const CLAIM_SOURCES: [&str; 2] = ["resourceClaimName", "resourceClaimTemplateName"];
const MAX_DNS_NAMESERVERS: usize = 3;
const MAX_DNS_SEARCHES: usize = 32;
const MAX_DNS_SEARCH_CHARS: usize = 2048;
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
pub const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];

/// The spec of a pod or of a template of pods.
pub fn validate(faults: &mut Faults, path: &Path, spec: &Value, owner: Owner) {
    if !set(&spec["terminationGracePeriodSeconds"]) {
        faults.push(Error::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = Volumes::check(faults, &path.child("volumes"), spec, owner);
    if owner.is_mirror {
        let refused = |_: &Value| check::forbidden_whole("static pods do not support resource claims");
        faults.extend(items(&spec["resourceClaims"]).iter().map(refused));
    } else {
        resource_claims(faults, &path.child("resourceClaims"), &spec["resourceClaims"]);
    }
    let scope = Scope { spec, volumes: &volumes, is_pod: owner.is_pod };
    containers::regular(faults, &path.child("containers"), &scope);
    containers::init(faults, &path.child("initContainers"), &scope);
    containers::ephemeral(faults, &path.child("ephemeralContainers"), &scope);
    resources::pod_level(faults, &path.child("resources"), spec);
    containers::host_network_ports(faults, path, &scope);
    check::one_of(faults, &path.child("restartPolicy"), &spec["restartPolicy"], &RESTART_POLICIES);
    check::one_of(faults, &path.child("dnsPolicy"), &spec["dnsPolicy"], &DNS_POLICIES);
    scheduling::node_labels(faults, &path.child("nodeSelector"), &spec["nodeSelector"]);
    security::pod(faults, &path.child("securityContext"), spec);
    scheduling::affinity(faults, &path.child("affinity"), &spec["affinity"]);
    dns_config(faults, &path.child("dnsConfig"), spec);
    gates(faults, path, spec);
    let spread = path.child("topologySpreadConstraints");
    scheduling::topology_spread(faults, &spread, &spec["topologySpreadConstraints"]);
    windows::host_process(faults, path, spec);
    security::host_users(faults, path, spec);
    hostname_override(faults, &path.child("hostnameOverride"), spec);
    names(faults, path, spec, &["serviceAccountName", "nodeName"]);
    if let Some(seconds) = int(&spec["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = inclusive_range_text(1, i64::from(i32::MAX));
        faults.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
    names(faults, path, spec, &["hostname", "subdomain"]);
    scheduling::tolerations(faults, &path.child("tolerations"), &spec["tolerations"]);
    host_aliases(faults, &path.child("hostAliases"), &spec["hostAliases"]);
    names(faults, path, spec, &["priorityClassName", "runtimeClassName"]);
    rest(faults, path, spec);
}

fn names(faults: &mut Faults, path: &Path, spec: &Value, keys: &[&str]) {
    for key in keys {
        let value = text(&spec[*key]);
        // A class that is named must have a name; the others may be left empty.
        if value.is_empty() && !(*key == "runtimeClassName" && set(&spec[*key])) {
            continue;
        }
        let texts = match *key {
            "hostname" | "subdomain" => check::dns1123_label(value),
            _ => check::dns1123_subdomain(value),
        };
        invalid_each(faults, &path.child(key), value, texts);
    }
}

fn hostname_override(faults: &mut Faults, path: &Path, spec: &Value) {
    if !set(&spec["hostnameOverride"]) {
        return;
    }
    if truthy(&spec["setHostnameAsFQDN"]) {
        faults.push(Error::forbidden(path, "may not be specified when setHostnameAsFQDN is true"));
    }
    if truthy(&spec["hostNetwork"]) {
        faults.push(Error::forbidden(path, "may not be specified when hostNetwork is true"));
    }
    let name = text(&spec["hostnameOverride"]);
    if name.len() > HOSTNAME_MAX {
        faults.push(Error::too_long(path, HOSTNAME_MAX));
    }
    invalid_each(faults, path, name, check::dns1123_subdomain(name));
}

fn rest(faults: &mut Faults, path: &Path, spec: &Value) {
    if set(&spec["preemptionPolicy"]) {
        let policies = ["PreemptLowerPriority", "Never"];
        check::one_of(faults, &path.child("preemptionPolicy"), &spec["preemptionPolicy"], &policies);
    }
    if set(&spec["overhead"]) {
        let limits = json!({"limits": spec["overhead"]});
        resources::requirements(faults, &path.child("overhead"), &limits, &Value::Null, false);
    }
    windows::operating_system(faults, path, spec);
    env::file_key_volumes(faults, path, spec);
}

fn resource_claims(faults: &mut Faults, path: &Path, claims: &Value) {
    let mut seen = HashSet::new();
    for (i, claim) in items(claims).iter().enumerate() {
        let at = path.index(i);
        let name = text(&claim["name"]);
        if name.is_empty() {
            faults.push(Error::required(&at.child("name"), ""));
        } else if !seen.insert(name) {
            faults.push(Error::duplicate(&at.child("name"), name));
        } else {
            invalid_each(faults, &at.child("name"), name, check::dns1123_label(name));
        }
        let given = CLAIM_SOURCES.iter().filter(|key| set(&claim[**key])).count();
        if given != 1 {
            let detail = if given == 0 {
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            } else {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            };
            faults.push(Error::invalid(&at, claim.clone(), detail));
        }
        for key in CLAIM_SOURCES.iter().filter(|key| set(&claim[**key])) {
            let name = text(&claim[*key]);
            invalid_each(faults, &at.child(key), name, check::dns1123_subdomain(name));
        }
    }
}

fn dns_config(faults: &mut Faults, path: &Path, spec: &Value) {
    let config = &spec["dnsConfig"];
    let nameservers = items(&config["nameservers"]);
    if text(&spec["dnsPolicy"]) == "None" {
        if !set(config) {
            faults.push(Error::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if nameservers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            faults.push(Error::required(&path.child("nameservers"), detail));
            return;
        }
    }
    if nameservers.len() > MAX_DNS_NAMESERVERS {
        let detail = format!("must not have more than {MAX_DNS_NAMESERVERS} nameservers");
        faults.push(Error::invalid(&path.child("nameservers"), config["nameservers"].clone(), detail));
    }
    for (i, server) in nameservers.iter().enumerate() {
        legacy_ip(faults, &path.child("nameservers").index(i), text(server));
    }
    let searches: Vec<&str> = items(&config["searches"]).iter().map(text).collect();
    let at = path.child("searches");
    if searches.len() > MAX_DNS_SEARCHES {
        let detail = format!("must not have more than {MAX_DNS_SEARCHES} search paths");
        faults.push(Error::invalid(&at, config["searches"].clone(), detail));
    }
    if searches.join(" ").len() > MAX_DNS_SEARCH_CHARS {
        let detail = format!(
            "must not have more than {MAX_DNS_SEARCH_CHARS} characters (including spaces) in the search list"
        );
        faults.push(Error::invalid(&at, config["searches"].clone(), detail));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        invalid_each(faults, &at.index(i), search, check::dns_subdomain_underscore(search));
    }
    for (i, option) in items(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            faults.push(Error::required(&path.child("options").index(i), "must not be empty"));
        }
    }
}

fn gates(faults: &mut Faults, path: &Path, spec: &Value) {
    for (i, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        let kind = text(&gate["conditionType"]);
        invalid_each(faults, &at, kind, check::qualified_name(kind));
    }
    let mut seen = HashSet::new();
    for (i, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let at = path.child("schedulingGates").index(i);
        let name = text(&gate["name"]);
        invalid_each(faults, &at, name, check::qualified_name(name));
        if !seen.insert(name) {
            faults.push(Error::duplicate(&at, name));
        }
    }
}

fn host_aliases(faults: &mut Faults, path: &Path, aliases: &Value) {
    for (i, alias) in items(aliases).iter().enumerate() {
        legacy_ip(faults, &path.index(i).child("ip"), text(&alias["ip"]));
        for (h, name) in items(&alias["hostnames"]).iter().enumerate() {
            let at = path.index(i).child("hostnames").index(h);
            invalid_each(faults, &at, text(name), check::dns1123_subdomain(text(name)));
        }
    }
}

/// A `PodTemplateSpec`.
pub fn template(faults: &mut Faults, path: &Path, template: &Value) {
    let (metadata, spec) = (&template["metadata"], &template["spec"]);
    template_metadata(faults, path, template);
    let spec_path = path.child("spec");
    validate(faults, &spec_path, spec, Owner { pod_name: "", is_pod: false, is_mirror: false });
    annotations::agree_with_fields(faults, &spec_path, metadata, spec);
    if !items(&spec["ephemeralContainers"]).is_empty() {
        let at = spec_path.child("ephemeralContainers");
        faults.push(Error::forbidden(&at, "ephemeral containers not allowed in pod template"));
    }
}

/// Labels and annotations of a template; they are reported without the word metadata.
pub fn template_metadata(faults: &mut Faults, path: &Path, template: &Value) {
    let metadata = &template["metadata"];
    check::labels(faults, &path.child("labels"), &metadata["labels"]);
    let at = path.child("annotations");
    crate::metadata::annotations(faults, &at, &metadata["annotations"]);
    annotations::check(faults, &at, metadata, &template["spec"]);
}
