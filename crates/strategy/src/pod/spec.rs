//! The pod spec as a whole, shared by pods and by every template of pods.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use super::containers::{self, Scope};
use super::volumes::Volumes;
use super::{resources, scheduling, security};
use crate::check::{self, Faults, invalid_each};
use crate::json::{int, items, set, text};

type NameCheck = fn(&str) -> Vec<String>;

const MAX_DNS_NAMESERVERS: usize = 3;
const MAX_DNS_SEARCHES: usize = 32;
const MAX_DNS_SEARCH_CHARS: usize = 2048;
const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
pub const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

/// `pod_name` is empty for templates.
pub fn validate(faults: &mut Faults, path: &Path, spec: &Value, pod_name: &str, is_pod: bool) {
    if !set(&spec["terminationGracePeriodSeconds"]) {
        faults.push(Error::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = Volumes::check(faults, &path.child("volumes"), spec, pod_name);
    resource_claims(faults, &path.child("resourceClaims"), &spec["resourceClaims"]);
    let scope = Scope { spec, volumes: &volumes, is_pod };
    containers::regular(faults, &path.child("containers"), &scope);
    containers::init(faults, &path.child("initContainers"), &scope);
    containers::ephemeral(faults, &path.child("ephemeralContainers"), &scope);
    if set(&spec["resources"]) {
        let at = path.child("resources");
        resources::requirements(faults, &at, &spec["resources"], &Value::Null, true);
    }
    containers::host_network_ports(faults, path, &scope);
    check::one_of(faults, &path.child("restartPolicy"), &spec["restartPolicy"], &RESTART_POLICIES);
    check::one_of(faults, &path.child("dnsPolicy"), &spec["dnsPolicy"], &DNS_POLICIES);
    scheduling::node_labels(faults, &path.child("nodeSelector"), &spec["nodeSelector"]);
    security::pod(faults, &path.child("securityContext"), spec);
    scheduling::affinity(faults, &path.child("affinity"), &spec["affinity"]);
    dns_config(faults, &path.child("dnsConfig"), spec);
    gates(faults, path, spec);
    scheduling::topology_spread(
        faults,
        &path.child("topologySpreadConstraints"),
        &spec["topologySpreadConstraints"],
    );
    security::host_users(faults, path, spec);
    names(faults, path, spec);
    scheduling::tolerations(faults, &path.child("tolerations"), &spec["tolerations"]);
    host_aliases(faults, &path.child("hostAliases"), &spec["hostAliases"]);
    rest(faults, path, spec);
}

fn names(faults: &mut Faults, path: &Path, spec: &Value) {
    let rules: [(&str, NameCheck); 6] = [
        ("serviceAccountName", check::dns1123_subdomain),
        ("nodeName", check::dns1123_subdomain),
        ("hostname", check::dns1123_label),
        ("subdomain", check::dns1123_label),
        ("priorityClassName", check::dns1123_subdomain),
        ("runtimeClassName", check::dns1123_subdomain),
    ];
    for (key, rule) in rules {
        let value = text(&spec[key]);
        if !value.is_empty() {
            invalid_each(faults, &path.child(key), value, rule(value));
        }
    }
    if let Some(seconds) = int(&spec["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = inclusive_range_text(1, i64::from(i32::MAX));
        faults.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
}

fn rest(faults: &mut Faults, path: &Path, spec: &Value) {
    let policies = ["Never", "PreemptLowerPriority"];
    check::optional_one_of(faults, &path.child("preemptionPolicy"), &spec["preemptionPolicy"], &policies);
    for (name, value) in crate::json::fields(&spec["overhead"]) {
        resources::amount(faults, &path.child("overhead").key(name), name, value);
    }
    if set(&spec["os"]) {
        check::one_of(faults, &path.child("os").child("name"), &spec["os"]["name"], &["linux", "windows"]);
    }
}

fn resource_claims(faults: &mut Faults, path: &Path, claims: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, claim) in items(claims).iter().enumerate() {
        let at = path.index(i);
        let name = text(&claim["name"]);
        if name.is_empty() {
            faults.push(Error::required(&at.child("name"), ""));
        } else if seen.contains(&name) {
            faults.push(Error::duplicate(&at.child("name"), name));
        } else {
            invalid_each(faults, &at.child("name"), name, check::dns1123_label(name));
            seen.push(name);
        }
        let detail = match (set(&claim["resourceClaimName"]), set(&claim["resourceClaimTemplateName"])) {
            (true, true) => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
            (false, false) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => continue,
        };
        faults.push(Error::invalid(&at, claim.clone(), detail));
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
        check::ip(faults, &path.child("nameservers").index(i), text(server));
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
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let at = path.child("schedulingGates").index(i);
        let name = text(&gate["name"]);
        invalid_each(faults, &at, name, check::qualified_name(name));
        if seen.contains(&name) {
            faults.push(Error::duplicate(&at, name));
        }
        seen.push(name);
    }
}

fn host_aliases(faults: &mut Faults, path: &Path, aliases: &Value) {
    for (i, alias) in items(aliases).iter().enumerate() {
        check::ip(faults, &path.index(i).child("ip"), text(&alias["ip"]));
        for (h, name) in items(&alias["hostnames"]).iter().enumerate() {
            let at = path.index(i).child("hostnames").index(h);
            invalid_each(faults, &at, text(name), check::dns1123_subdomain(text(name)));
        }
    }
}

/// A `PodTemplateSpec`.
pub fn template(faults: &mut Faults, path: &Path, template: &Value) {
    let metadata = path.child("metadata");
    check::labels(faults, &path.child("labels"), &template["metadata"]["labels"]);
    crate::metadata::annotations(
        faults,
        &metadata.child("annotations"),
        &template["metadata"]["annotations"],
    );
    validate(faults, &path.child("spec"), &template["spec"], "", false);
    if !items(&template["spec"]["ephemeralContainers"]).is_empty() {
        let at = path.child("spec").child("ephemeralContainers");
        faults.push(Error::forbidden(&at, "ephemeral containers not allowed in pod template"));
    }
}
