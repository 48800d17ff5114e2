//! What a pod's containers ask for: names and amounts of resources, their sum over containers that
//! start one after the other or stay, and the quality-of-service class that follows. Defaults,
//! validation, limit ranges and quotas all count with these.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::names::qualified_name;
use crate::quantity::Quantity;

pub const HUGE_PAGES: &str = "hugepages-";

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

fn items(value: &Value) -> impl Iterator<Item = &Value> + Clone {
    value.as_array().into_iter().flatten()
}
fn is_filled(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty())
}

pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(s) => Quantity::parse(s).ok(),
        Value::Number(n) => Quantity::parse(&n.to_string()).ok(),
        _ => None,
    }
}

/// The amounts of a resource list; what cannot be read is left out.
pub fn amounts(list: &Value) -> Amounts {
    let pairs = list.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
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
/// What may be set for a pod as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

/// An init container that keeps running beside the others.
pub fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

pub fn add(sums: &mut Amounts, name: &str, amount: Quantity) {
    let sum = sums.get(name).map_or(amount, |sum| sum.plus(amount));
    sums.insert(name.to_owned(), sum);
}

fn add_all(sums: &mut Amounts, others: &Amounts) {
    others.iter().for_each(|(name, amount)| add(sums, name, *amount));
}

/// The larger of both, name by name.
fn raise(sums: &mut Amounts, others: Amounts) {
    for (name, amount) in others {
        if sums.get(&name).is_none_or(|sum| amount > *sum) {
            sums.insert(name, amount);
        }
    }
}

/// What a pod's containers need together (`kind` is `requests` or `limits`), as they are specified.
pub fn aggregate(spec: &Value, kind: &str) -> Amounts {
    aggregate_of(spec, |container| amounts(&container["resources"][kind]))
}

/// Init containers run one after the other, sidecars stay.
fn aggregate_of(spec: &Value, needs: impl Fn(&Value) -> Amounts) -> Amounts {
    let mut running = Amounts::new();
    let mut sidecars = Amounts::new();
    let mut starting = Amounts::new();
    items(&spec["containers"]).for_each(|container| add_all(&mut running, &needs(container)));
    for container in items(&spec["initContainers"]) {
        let own = needs(container);
        let mut now = sidecars.clone();
        add_all(&mut now, &own);
        if is_sidecar(container) {
            add_all(&mut running, &own);
            sidecars = now.clone();
        }
        raise(&mut starting, now);
    }
    raise(&mut running, starting);
    running
}

/// What a pod as specified may take at most: its containers together, or what it says for itself.
pub fn specified(spec: &Value, kind: &str) -> Amounts {
    with_pod_level(aggregate(spec, kind), spec, kind)
}

fn with_pod_level(mut sums: Amounts, spec: &Value, kind: &str) -> Amounts {
    let own = amounts(&spec["resources"][kind]);
    sums.extend(own.into_iter().filter(|(name, _)| is_pod_level(name)));
    sums
}

/// Whether a pod says for itself, not container by container, what it needs.
pub fn has_pod_level(spec: &Value) -> bool {
    let names = ["requests", "limits"].map(|kind| &spec["resources"][kind]);
    names.into_iter().any(|list| amounts(list).keys().any(|name| is_pod_level(name)))
}

/// What a pod takes up now: while a container is being resized the larger of what was, is and shall
/// be; its overhead is part of it.
pub fn occupied(pod: &Value, kind: &str) -> Amounts {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let infeasible = items(&status["conditions"])
        .any(|c| c["type"] == "PodResizePending" && c["status"] == "True" && c["reason"] == "Infeasible");
    let needs = |container: &Value| {
        let wanted = amounts(&container["resources"][kind]);
        let mut statuses = items(&status["containerStatuses"]).chain(items(&status["initContainerStatuses"]));
        let Some(found) = statuses.find(|s| s["name"] == container["name"] && s["resources"].is_object())
        else {
            return wanted;
        };
        let mut needed = amounts(&found["resources"][kind]);
        if kind == "requests" {
            raise(&mut needed, amounts(&found["allocatedResources"]));
        }
        if !infeasible {
            raise(&mut needed, wanted);
        }
        needed
    };
    let mut sums = with_pod_level(aggregate_of(spec, needs), spec, kind);
    for (name, amount) in amounts(&spec["overhead"]) {
        // Overhead raises a limit, but makes none.
        if kind == "requests" || sums.get(&name).is_some_and(|limit| !limit.is_zero()) {
            add(&mut sums, &name, amount);
        }
    }
    sums
}

/// Guaranteed, Burstable or BestEffort, from the cpu and memory of all containers.
pub fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = &spec["resources"];
    let holders: Vec<&Value> = if is_filled(&pod_level["requests"]) || is_filled(&pod_level["limits"]) {
        vec![pod_level]
    } else {
        items(&spec["containers"]).chain(items(&spec["initContainers"])).map(|c| &c["resources"]).collect()
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

    fn texts(sums: &Amounts) -> Vec<String> {
        sums.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn sums_over_containers() {
        let spec = json!({"overhead": {"cpu": "100m", "memory": "1Mi"}, "initContainers": [
            {"name": "a", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
            {"name": "b", "resources": {"requests": {"cpu": "3"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}}]});
        assert_eq!(texts(&aggregate(&spec, "requests")), ["cpu=4"]);
        assert_eq!(texts(&occupied(&json!({"spec": spec}), "requests")), ["cpu=4100m", "memory=1Mi"]);
        assert_eq!(texts(&occupied(&json!({"spec": spec}), "limits")), ["memory=1025Mi"]);
        let mut own = spec.clone();
        own["resources"] = json!({"requests": {"cpu": "5", "example.com/x": "1"}});
        assert_eq!(texts(&specified(&own, "requests")), ["cpu=5"]);
        assert!(has_pod_level(&own) && !has_pod_level(&spec));
    }

    #[test]
    fn a_resize_takes_the_larger_amounts() {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]},
            "status": {"containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "1"},
                "resources": {"requests": {"cpu": "2"}}}]}});
        assert_eq!(texts(&occupied(&pod, "requests")), ["cpu=3"]);
        pod["status"]["conditions"] =
            json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        assert_eq!(texts(&occupied(&pod, "requests")), ["cpu=2"]);
    }
}
