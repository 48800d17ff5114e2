//! An APIService for every group version this server itself answers for.

use amphipod_api::resource;
use serde_json::{Value, json};

/// The aggregator's own group: it serves that itself and has no APIService for it.
const AGGREGATOR: &str = "apiregistration.k8s.io";
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

fn service(group: &resource::Group, version: &resource::GroupVersion, now: &str) -> Value {
    let mut spec = json!({
        "version": version.version, "groupPriorityMinimum": group.group_priority_minimum,
        "versionPriority": version.version_priority,
    });
    if !group.name.is_empty() {
        spec["group"] = group.name.into();
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {
            "name": format!("{}.{}", version.version, group.name), "labels": {MANAGED: "onstart"},
        },
        "spec": spec,
        "status": {"conditions": [{
            "type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available", "lastTransitionTime": now,
        }]},
    })
}

/// The objects with the status they are to have.
pub fn objects(now: &str) -> Vec<Value> {
    let groups = resource::groups().iter().filter(|group| group.name != AGGREGATOR);
    groups.flat_map(|group| group.versions.iter().map(move |version| service(group, version, now))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_for_each_group_version() {
        let all = objects("2026-01-01T00:00:00Z");
        let names: Vec<&str> = all.iter().filter_map(|o| o["metadata"]["name"].as_str()).collect();
        for name in ["v1.", "v1.apps", "v1.autoscaling", "v2.autoscaling", "v1.resource.k8s.io"] {
            assert!(names.contains(&name), "{name}");
        }
        assert!(!names.iter().any(|name| name.contains(AGGREGATOR)));
    }
}
