//! Resource names and amounts of containers, pods, quotas and limits; the quality-of-service class
//! that follows from them.

use amphipod_api::field::{Error, Path};
use amphipod_api::quantity::Quantity;
use serde_json::Value;

use crate::check::{Faults, NEGATIVE, dns1123_label, invalid_each, qualified_name};
use crate::json::{fields, items, set, text};

const NOT_INTEGER: &str = "must be an integer";
const HUGE_PAGES: &str = "hugepages-";
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

pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(s) => Quantity::parse(s).ok(),
        Value::Number(n) => Quantity::parse(&n.to_string()).ok(),
        _ => None,
    }
}
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}
/// Unprefixed names and those of kubernetes.io are the system's own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}
fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}
fn is_integer(name: &str) -> bool {
    INTEGER_NAMES.contains(&name) || name.starts_with("count/") || is_extended(name)
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
    if is_integer(name) && quantity.nanos() % 1_000_000_000 != 0 {
        faults.push(Error::invalid(path, quantity.to_string(), NOT_INTEGER));
    }
}

fn container_resource_name(faults: &mut Faults, path: &Path, name: &str) {
    let texts = qualified_name(name);
    if !texts.is_empty() {
        invalid_each(faults, path, name, texts);
    } else if !name.contains('/') {
        if !["cpu", "memory", "ephemeral-storage"].contains(&name) && !is_huge_page(name) {
            faults.push(Error::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        faults.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// `resources` of a container or, with `pod_level`, of the pod as a whole.
pub fn requirements(faults: &mut Faults, path: &Path, resources: &Value, claims: &Value, pod_level: bool) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let (limits, requests) = (&resources["limits"], &resources["requests"]);
    for (name, value) in fields(limits) {
        let at = limits_path.key(name);
        resource_name(faults, &at, name, pod_level);
        amount(faults, &at, name, value);
    }
    for (name, value) in fields(requests) {
        let at = requests_path.key(name);
        resource_name(faults, &at, name, pod_level);
        amount(faults, &at, name, value);
        let Some(request) = quantity(value) else { continue };
        match quantity(&limits[name]) {
            Some(limit) if request != limit && !may_overcommit(name) => faults.push(Error::invalid(
                &requests_path,
                request.to_string(),
                format!("must be equal to {name} limit of {limit}"),
            )),
            Some(limit) if request > limit => faults.push(Error::invalid(
                &requests_path,
                request.to_string(),
                format!("must be less than or equal to {name} limit of {limit}"),
            )),
            None if !may_overcommit(name) => {
                faults.push(Error::required(
                    &limits_path,
                    "Limit must be set for non overcommitable resources",
                ));
            }
            _ => {}
        }
    }
    let names = || fields(limits).chain(fields(requests)).map(|(name, _)| name);
    if names().any(is_huge_page) && !names().any(|name| name == "cpu" || name == "memory") {
        faults.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
    if pod_level && set(&resources["claims"]) {
        faults
            .push(Error::forbidden(&path.child("claims"), "claims cannot be set for Resources at pod-level"));
    } else {
        claim_names(faults, &path.child("claims"), &resources["claims"], claims);
    }
}

fn resource_name(faults: &mut Faults, path: &Path, name: &str, pod_level: bool) {
    if !pod_level {
        container_resource_name(faults, path, name);
    } else if !["cpu", "memory"].contains(&name) && !is_huge_page(name) {
        faults.push(Error::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

fn claim_names(faults: &mut Faults, path: &Path, wanted: &Value, declared: &Value) {
    let declared: Vec<&str> = items(declared).iter().map(|claim| text(&claim["name"])).collect();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, claim) in items(wanted).iter().enumerate() {
        let at = path.index(i);
        let (name, request) = (text(&claim["name"]), text(&claim["request"]));
        if name.is_empty() {
            faults.push(Error::required(&at, ""));
            continue;
        }
        if !request.is_empty() {
            invalid_each(faults, &at.child("request"), request, dns1123_label(request));
        }
        if seen.iter().any(|(n, r)| *n == name && (r.is_empty() || request.is_empty() || *r == request)) {
            let shown = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
            faults.push(Error::duplicate(&at, shown));
        }
        seen.push((name, request));
        if !declared.contains(&name) {
            let mut fault = Error::not_found(&at, name);
            fault.detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if declared.is_empty() {
                fault.detail.push_str(" which is empty");
            } else {
                fault.detail.push_str(": ");
                fault.detail.push_str(&declared.join(", "));
            }
            faults.push(fault);
        }
    }
}

/// Guaranteed, Burstable or BestEffort, from the cpu and memory of all containers.
pub fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = &spec["resources"];
    let holders: Vec<&Value> =
        if fields(&pod_level["requests"]).chain(fields(&pod_level["limits"])).next().is_some() {
            vec![pod_level]
        } else {
            items(&spec["containers"])
                .iter()
                .chain(items(&spec["initContainers"]))
                .map(|c| &c["resources"])
                .collect()
        };
    for resources in holders {
        for name in ["cpu", "memory"] {
            let positive = |v: &Value| quantity(v).filter(|q| !q.is_zero() && !q.is_negative());
            let request = positive(&resources["requests"][name]);
            let limit = positive(&resources["limits"][name]);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quality_of_service() {
        let class = |resources: Value| qos_class(&json!({"containers": [{"resources": resources}]}));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        let equal = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(class(json!({"requests": equal, "limits": equal})), "Guaranteed");
        assert_eq!(class(json!({"limits": {"cpu": "1"}})), "Burstable");
    }

    #[test]
    fn requests_and_limits() {
        let mut faults = Faults::new();
        let resources = json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi", "gpu": "1"}});
        requirements(&mut faults, &Path::new("r"), &resources, &Value::Null, false);
        let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "r.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                "r.requests: Invalid value: \"2Gi\": must be less than or equal to memory limit of 1Gi",
            ]
        );
    }
}
