//! Resource names and amounts of containers, pods, quotas and limits.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashSet};

use amphipod_api::field::{Error, Path};
pub use amphipod_api::pod_resources::{
    HUGE_PAGES, aggregate, is_extended, is_huge_page, is_native, is_sidecar, qos_class, quantity,
};
use amphipod_api::quantity::Quantity;
use serde_json::Value;

use crate::check::{Faults, NEGATIVE, dns1123_label, invalid_each, qualified_name};
use crate::json::{fields, items, set, text};

const NOT_INTEGER: &str = "must be an integer";
const NANOS_PER_UNIT: i128 = 1_000_000_000;
/// Counted things of a namespace.
const INTEGER_NAMES: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const COMPUTE_NAMES: [&str; 9] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const CONTAINER_NAMES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const POD_NAMES: [&str; 2] = ["cpu", "memory"];

pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}
fn is_integer(name: &str) -> bool {
    INTEGER_NAMES.contains(&name) || is_extended(name)
}
fn is_quota_huge_page(name: &str) -> bool {
    is_huge_page(name.strip_prefix("requests.").unwrap_or(name))
}
/// A name that a quota may speak of without a domain.
pub fn is_standard_quota(name: &str) -> bool {
    COMPUTE_NAMES.contains(&name)
        || INTEGER_NAMES.contains(&name)
        || name == "requests.storage"
        || is_quota_huge_page(name)
}

pub fn amount(faults: &mut Faults, path: &Path, name: &str, value: &Value) {
    let Some(quantity) = quantity(value) else {
        let reason = Quantity::parse(text(value)).err().map(|e| e.to_string()).unwrap_or_default();
        faults.push(Error::invalid(path, value.clone(), reason));
        return;
    };
    if quantity.is_negative() {
        faults.push(Error::invalid(path, quantity.to_string(), NEGATIVE));
    }
    if is_integer(name) && quantity.nanos() % NANOS_PER_UNIT != 0 {
        faults.push(Error::invalid(path, quantity.to_string(), NOT_INTEGER));
    }
}

/// Any amount that is not negative.
pub fn basic(faults: &mut Faults, path: &Path, value: &Value) {
    match quantity(value) {
        Some(quantity) if quantity.is_negative() => {
            let detail = "must be a valid resource quantity";
            faults.push(Error::invalid(path, quantity.units(), detail));
        }
        Some(_) => {}
        None => amount(faults, path, "", value),
    }
}

/// A qualified name which, without a domain, is one of the system's.
pub fn resource_name(faults: &mut Faults, path: &Path, name: &str) {
    let texts = qualified_name(name);
    if !texts.is_empty() {
        invalid_each(faults, path, name, texts);
    } else if !name.contains('/') && !is_standard_quota(name) && name != "storage" {
        faults.push(Error::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
}

pub fn container_resource_name(faults: &mut Faults, path: &Path, name: &str) {
    resource_name(faults, path, name);
    if !name.contains('/') {
        if !CONTAINER_NAMES.contains(&name) && !is_huge_page(name) {
            faults.push(Error::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        faults.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

pub fn quota_resource_name(faults: &mut Faults, path: &Path, name: &str) {
    resource_name(faults, path, name);
    if !name.contains('/') && !is_standard_quota(name) {
        faults.push(Error::invalid(path, name, "must be a standard resource for quota"));
    }
}

fn pod_resource_name(faults: &mut Faults, path: &Path, name: &str) {
    let before = faults.len();
    resource_name(faults, path, name);
    if faults.len() == before && !POD_NAMES.contains(&name) && !is_huge_page(name) {
        faults.push(Error::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// Huge pages come whole.
fn whole_pages(faults: &mut Faults, path: &Path, name: &str, value: &Value) {
    let (Some(size), Some(amount)) = (name.strip_prefix(HUGE_PAGES), quantity(value)) else { return };
    let page = Quantity::parse(size).ok().map(Quantity::nanos).filter(|n| *n > 0 && n % NANOS_PER_UNIT == 0);
    if page.is_none_or(|page| i128::from(amount.units()) * NANOS_PER_UNIT % page != 0) {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        faults.push(Error::invalid(path, amount.to_string(), detail));
    }
}

/// `resources` of a container or, with `pod_level`, of the pod as a whole.
pub fn requirements(faults: &mut Faults, path: &Path, resources: &Value, claims: &Value, pod_level: bool) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let (limits, requests) = (&resources["limits"], &resources["requests"]);
    let name_rule = if pod_level { pod_resource_name } else { container_resource_name };
    for (name, value) in fields(limits) {
        let at = limits_path.key(name);
        name_rule(faults, &at, name);
        amount(faults, &at, name, value);
        whole_pages(faults, &at, name, value);
    }
    for (name, value) in fields(requests) {
        let at = requests_path.key(name);
        name_rule(faults, &at, name);
        amount(faults, &at, name, value);
        request_within_limit(faults, path, name, value, limits);
        whole_pages(faults, &at, name, value);
    }
    let names = || fields(limits).chain(fields(requests)).map(|(name, _)| name);
    if names().any(is_huge_page) && !names().any(|name| name == "cpu" || name == "memory") {
        faults.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
    claim_names(faults, &path.child("claims"), &resources["claims"], claims);
}

fn request_within_limit(faults: &mut Faults, path: &Path, name: &str, value: &Value, limits: &Value) {
    let Some(request) = quantity(value) else { return };
    let at = path.child("requests");
    match quantity(&limits[name]) {
        Some(limit) if request != limit && !may_overcommit(name) => {
            let detail = format!("must be equal to {name} limit of {limit}");
            faults.push(Error::invalid(&at, request.to_string(), detail));
        }
        Some(limit) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            faults.push(Error::invalid(&at, request.to_string(), detail));
        }
        None if !may_overcommit(name) => {
            let detail = "Limit must be set for non overcommitable resources";
            faults.push(Error::required(&path.child("limits"), detail));
        }
        _ => {}
    }
}

/// `spec.resources`: amounts for the pod as a whole, in which its containers must find room.
pub fn pod_level(faults: &mut Faults, path: &Path, spec: &Value) {
    let resources = &spec["resources"];
    if !set(resources) {
        return;
    }
    if text(&spec["os"]["name"]) == "windows" {
        faults.push(Error::forbidden(path, "may not be set for a windows pod"));
        return;
    }
    if set(&resources["claims"]) {
        let detail = "claims cannot be set for Resources at pod-level";
        faults.push(Error::forbidden(&path.child("claims"), detail));
    }
    requirements(faults, path, resources, &spec["resourceClaims"], true);
    for (kind, all) in [("requests", true), ("limits", false)] {
        for (name, sum) in aggregate(spec, kind) {
            let Some(own) = quantity(&resources[kind][&name]) else { continue };
            if (all || is_huge_page(&name)) && sum > own {
                let detail = format!("must be greater than or equal to aggregate container {kind} of {sum}");
                faults.push(Error::invalid(&path.child(kind).key(&name), own.to_string(), detail));
            }
        }
    }
    for (i, container) in items(&spec["containers"]).iter().enumerate() {
        for (name, value) in fields(&container["resources"]["limits"]) {
            if let (Some(limit), Some(most)) = (quantity(value), quantity(&resources["limits"][name]))
                && limit > most
            {
                let at = path.child("containers").index(i).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {most}");
                faults.push(Error::invalid(&at, limit.to_string(), detail));
            }
        }
    }
}

fn claim_names(faults: &mut Faults, path: &Path, wanted: &Value, declared: &Value) {
    let declared: BTreeSet<&str> =
        items(declared).iter().map(|claim| text(&claim["name"])).filter(|name| !name.is_empty()).collect();
    let unknown = OnceCell::new();
    let (mut names, mut seen) = (HashSet::new(), HashSet::new());
    for (i, claim) in items(wanted).iter().enumerate() {
        let at = path.index(i);
        let (name, request) = (text(&claim["name"]), text(&claim["request"]));
        if name.is_empty() {
            faults.push(Error::required(&at, ""));
            continue;
        }
        let whole_claim_seen = seen.contains(&(name, ""));
        let (name_is_new, is_new) = (names.insert(name), seen.insert((name, request)));
        if !whole_claim_seen && !request.is_empty() {
            invalid_each(faults, &at.child("request"), request, dns1123_label(request));
        }
        if whole_claim_seen || (request.is_empty() && !name_is_new) {
            faults.push(Error::duplicate(&at, name));
        } else if !is_new {
            faults.push(Error::duplicate(&at, format!("{name}/{request}")));
        }
        if !declared.contains(name) && !faults.is_full() {
            let mut fault = Error::not_found(&at, name);
            fault.detail = unknown.get_or_init(|| declared_claims(&declared)).clone();
            faults.push(fault);
        }
    }
}

fn declared_claims(names: &BTreeSet<&str>) -> String {
    let names: Vec<&str> = names.iter().copied().collect();
    let end = if names.is_empty() { " which is empty".to_owned() } else { format!(": {}", names.join(", ")) };
    format!("must be one of the names in pod.spec.resourceClaims{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_and_limits() {
        let mut faults = Faults::new();
        let resources = json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi", "gpu": "1"}});
        requirements(&mut faults, &Path::new("r"), &resources, &Value::Null, false);
        let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "r.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                "r.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                "r.requests: Invalid value: \"2Gi\": must be less than or equal to memory limit of 1Gi",
            ]
        );
    }
}
