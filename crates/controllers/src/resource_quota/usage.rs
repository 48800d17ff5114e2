//! How much of a quota one object uses, and whether a quota's scopes cover a pod.

use std::collections::BTreeMap;

use amphipod_api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, ResourceQuota, ResourceRequirements,
    ScopedResourceSelectorRequirement, Service,
};

use crate::pods;

pub type Usage = BTreeMap<String, Quantity>;

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

pub fn one() -> Quantity {
    Quantity::from_units(1, Format::DecimalSi)
}

pub fn add(usage: &mut Usage, name: &str, amount: Quantity) {
    let sum = usage.get(name).map_or(amount, |already| already.plus(amount));
    usage.insert(name.to_owned(), sum);
}

fn parsed(amounts: Option<&Amounts>) -> Usage {
    let pairs = amounts.into_iter().flatten();
    pairs.filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?))).collect()
}

fn larger(a: &mut Usage, b: Usage) {
    for (name, amount) in b {
        match a.get(&name) {
            Some(have) if have.nanos() >= amount.nanos() => {}
            _ => drop(a.insert(name, amount)),
        }
    }
}

/// What a pod asks for in sum: containers and sidecars together, or the largest step of its
/// initialisation, and its overhead.
fn total(pod: &Pod, of: fn(&ResourceRequirements) -> Option<&Amounts>) -> Usage {
    let Some(spec) = &pod.spec else { return Usage::new() };
    let asked = |c: &Container| parsed(c.resources.as_ref().and_then(of));
    let mut running = Usage::new();
    let mut peak = Usage::new();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            asked(container).into_iter().for_each(|(name, amount)| add(&mut running, &name, amount));
            larger(&mut peak, running.clone());
        } else {
            let mut step = running.clone();
            asked(container).into_iter().for_each(|(name, amount)| add(&mut step, &name, amount));
            larger(&mut peak, step);
        }
    }
    for container in &spec.containers {
        asked(container).into_iter().for_each(|(name, amount)| add(&mut running, &name, amount));
    }
    larger(&mut running, peak);
    for (name, amount) in parsed(spec.overhead.as_ref()) {
        if running.contains_key(&name) {
            add(&mut running, &name, amount);
        }
    }
    running
}

/// A pod that ended uses nothing but its place in the store.
pub fn of_pod(pod: &Pod) -> Usage {
    let mut usage = Usage::new();
    add(&mut usage, "count/pods", one());
    if pods::is_terminal(pod) {
        return usage;
    }
    add(&mut usage, "pods", one());
    for (name, amount) in total(pod, |r| r.requests.as_ref()) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            add(&mut usage, &name, amount);
        }
        add(&mut usage, &format!("requests.{name}"), amount);
    }
    for (name, amount) in total(pod, |r| r.limits.as_ref()) {
        add(&mut usage, &format!("limits.{name}"), amount);
    }
    usage
}

pub fn of_service(service: &Service) -> Usage {
    let mut usage = Usage::new();
    add(&mut usage, "services", one());
    add(&mut usage, "count/services", one());
    let Some(spec) = &service.spec else { return usage };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let ports = i64::try_from(spec.ports.as_ref().map_or(0, Vec::len)).unwrap_or(i64::MAX);
    let without = spec.allocate_load_balancer_node_ports == Some(false);
    if kind == "LoadBalancer" {
        add(&mut usage, "services.loadbalancers", one());
    }
    if kind == "NodePort" || (kind == "LoadBalancer" && !without) {
        add(&mut usage, "services.nodeports", Quantity::from_units(ports, Format::DecimalSi));
    }
    usage
}

pub fn of_claim(claim: &PersistentVolumeClaim) -> Usage {
    let mut usage = Usage::new();
    add(&mut usage, "persistentvolumeclaims", one());
    add(&mut usage, "count/persistentvolumeclaims", one());
    let Some(spec) = &claim.spec else { return usage };
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let storage = parsed(requests).get("storage").copied();
    if let Some(storage) = storage {
        add(&mut usage, "requests.storage", storage);
    }
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        let scoped = |name: &str| format!("{class}.storageclass.storage.k8s.io/{name}");
        add(&mut usage, &scoped("persistentvolumeclaims"), one());
        if let Some(storage) = storage {
            add(&mut usage, &scoped("requests.storage"), storage);
        }
    }
    usage
}

fn is_best_effort(pod: &Pod) -> bool {
    let class = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
    match class {
        Some(class) => class == "BestEffort",
        None => {
            let cpu_or_memory = |usage: Usage| usage.contains_key("cpu") || usage.contains_key("memory");
            !cpu_or_memory(total(pod, |r| r.requests.as_ref()))
                && !cpu_or_memory(total(pod, |r| r.limits.as_ref()))
        }
    }
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else { return false };
    let mut terms = Vec::new();
    if let Some(a) = &affinity.pod_affinity {
        terms.extend(a.required_during_scheduling_ignored_during_execution.iter().flatten());
        let preferred = a.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        terms.extend(preferred.map(|weighted| &weighted.pod_affinity_term));
    }
    if let Some(a) = &affinity.pod_anti_affinity {
        terms.extend(a.required_during_scheduling_ignored_during_execution.iter().flatten());
        let preferred = a.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        terms.extend(preferred.map(|weighted| &weighted.pod_affinity_term));
    }
    terms
        .iter()
        .any(|t| t.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || t.namespace_selector.is_some())
}

/// Whether the pod is within one scope.
fn in_scope(pod: &Pod, scope: &ScopedResourceSelectorRequirement) -> bool {
    let spec = pod.spec.as_ref();
    let terminating = spec.and_then(|s| s.active_deadline_seconds).is_some();
    match scope.scope_name.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        "PriorityClass" => {
            let class = spec.and_then(|s| s.priority_class_name.as_deref()).unwrap_or("");
            let listed = scope.values.iter().flatten().any(|value| value == class);
            match scope.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => !class.is_empty(),
                _ => class.is_empty(),
            }
        }
        _ => false,
    }
}

fn scopes(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let Some(spec) = &quota.spec else { return Vec::new() };
    let plain = spec.scopes.iter().flatten().map(|name| ScopedResourceSelectorRequirement {
        scope_name: name.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten().cloned());
    plain.chain(selected).collect()
}

/// A quota without scopes covers all; one with scopes only pods, and only those in every scope.
pub fn covers_pod(quota: &ResourceQuota, pod: &Pod) -> bool {
    scopes(quota).iter().all(|scope| in_scope(pod, scope))
}
pub fn has_scopes(quota: &ResourceQuota) -> bool {
    !scopes(quota).is_empty()
}

/// The limits as quantities; those that cannot be read limit nothing.
pub fn hard(quota: &ResourceQuota) -> Usage {
    parsed(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()))
}

/// Kinds counted by a resource name of their own besides `count/...`.
pub fn plain_count(name: &str) -> Option<&str> {
    ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"]
        .into_iter()
        .find(|kind| *kind == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use amphipod_client::Resource;
    use serde_json::json;

    fn texts(usage: &Usage) -> Vec<String> {
        usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn pods_count_what_they_ask_for() {
        let mut pod: Pod = object(json!({"spec": {
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}],
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1"}}},
            {"name": "b", "resources": {"requests": {"cpu": "1", "example.com/x": "3"}}},
        ]}}));
        assert_eq!(
            texts(&of_pod(&pod)),
            [
                "count/pods=1",
                "cpu=2",
                "limits.cpu=1",
                "memory=1Gi",
                "pods=1",
                "requests.cpu=2",
                "requests.example.com/x=3",
                "requests.memory=1Gi",
            ]
        );
        pod.status.get_or_insert_default().phase = Some("Failed".into());
        assert_eq!(texts(&of_pod(&pod)), ["count/pods=1"]);
    }

    #[test]
    fn services_and_scopes() {
        let service: Service =
            object(json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}));
        let usage = of_service(&service);
        assert_eq!(usage["services.nodeports"].units(), 2);
        assert_eq!(usage["services.loadbalancers"].units(), 1);
        let quota = |spec: serde_json::Value| -> ResourceQuota { object(json!({"spec": spec})) };
        let pod: Pod = object(json!({"spec": {"containers": [], "priorityClassName": "high"}}));
        for (spec, expected) in [
            (json!({}), true),
            (json!({"scopes": ["BestEffort", "NotTerminating"]}), true),
            (json!({"scopes": ["Terminating"]}), false),
            (
                json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
                true,
            ),
        ] {
            assert_eq!(covers_pod(&quota(spec.clone()), &pod), expected, "{spec}");
        }
        let claim: PersistentVolumeClaim = object(json!({"metadata": {"name": "c"}, "spec": {
            "storageClassName": "gold", "resources": {"requests": {"storage": "5Gi"}}}}));
        assert_eq!(of_claim(&claim)["gold.storageclass.storage.k8s.io/requests.storage"].to_string(), "5Gi");
        assert_eq!(claim.name(), "c");
    }
}
