//! Where a DaemonSet's pods belong: node selection and taints, and the affinity that pins a pod to
//! its node while leaving the binding to the scheduler.

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint,
    Toleration,
};

use crate::{meta, pods};

/// Key, effect; None for all effects on host-network pods only.
const TOLERATED: [(&str, &str, bool); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute", false),
    ("node.kubernetes.io/unreachable", "NoExecute", false),
    ("node.kubernetes.io/disk-pressure", "NoSchedule", false),
    ("node.kubernetes.io/memory-pressure", "NoSchedule", false),
    ("node.kubernetes.io/pid-pressure", "NoSchedule", false),
    ("node.kubernetes.io/unschedulable", "NoSchedule", false),
    ("node.kubernetes.io/network-unavailable", "NoSchedule", true),
];

/// Daemons stay where other pods would be driven off.
pub fn add_tolerations(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect, only_host_network) in TOLERATED {
        if only_host_network && !host_network {
            continue;
        }
        let wanted = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&wanted) {
            tolerations.push(wanted);
        }
    }
}

fn field_requirement(node: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    }
}

/// Pins the pod: each required term (or a single new one) also demands this node's name.
pub fn pin(spec: &mut PodSpec, node: &str) {
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let node_affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    // The template's own terms were judged when the node was chosen.
    node_affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![field_requirement(node)]),
            match_expressions: None,
        }],
    });
}

/// The node a daemon pod is on, or is meant for.
pub fn target(pod: &CachedPod) -> Option<&str> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let required = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &required.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    terms.iter().flat_map(|term| term.match_fields.iter().flatten()).find_map(|field| {
        let values = field.values.as_deref()?;
        (field.key == "metadata.name" && field.operator == "In" && values.len() == 1)
            .then(|| values[0].as_str())
    })
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |holds: fn(i64, i64) -> bool| {
        let left = value.and_then(number);
        let right = values.first().and_then(|v| number(v));
        left.zip(right).is_some_and(|(left, right)| holds(left, right))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.iter().any(|v| v == value)),
        "NotIn" => !value.is_some_and(|value| values.iter().any(|v| v == value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|left, right| left > right),
        "Lt" => compare(|left, right| left < right),
        _ => false,
    }
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term that demands nothing selects nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| matches(r, meta::label(&node.metadata, &r.key)))
        && fields.iter().all(|r| matches(r, (r.key == "metadata.name").then(|| node.name())))
}

fn selects(spec: &PodSpec, node: &Node) -> bool {
    let by_name = spec.node_name.as_deref().is_none_or(|name| name.is_empty() || name == node.name());
    let mut labels = spec.node_selector.iter().flatten();
    let by_label = labels.all(|(key, value)| meta::label(&node.metadata, key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = required.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let by_affinity = required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, node)));
    by_name && by_label && by_affinity
}

fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations.iter().flatten().any(|t| crate::taint_eviction::tolerates(t, taint))
}

/// Whether a pod should be made on the node, and whether one there may stay. `spec` is the
/// template's with the daemon's tolerations added.
pub fn suits(spec: &PodSpec, node: &Node) -> (bool, bool) {
    if !selects(spec, node) {
        return (false, false);
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let untolerated = |effect: &str| taints.iter().any(|t| t.effect == effect && !tolerates(spec, t));
    let (schedule, execute) = (untolerated("NoSchedule"), untolerated("NoExecute"));
    (!schedule && !execute, !execute)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::object;
    use serde_json::{Value, json};

    fn spec(json: Value) -> PodSpec {
        let mut spec = object::<k8s_openapi::api::core::v1::Pod>(json!({"spec": json})).spec.unwrap();
        add_tolerations(&mut spec);
        spec
    }

    #[test]
    fn selection_and_taints() {
        let node = |labels: Value, taints: Value| -> Node {
            object(json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}}))
        };
        let plain = spec(json!({"containers": []}));
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let cases = [
            (json!({}), json!([]), (true, true)),
            (json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), (true, true)),
            (json!({}), taint("mine", "NoSchedule"), (false, true)),
            (json!({}), taint("mine", "NoExecute"), (false, false)),
            (json!({}), taint("mine", "PreferNoSchedule"), (true, true)),
        ];
        for (labels, taints, expected) in cases {
            assert_eq!(suits(&plain, &node(labels, taints.clone())), expected, "{taints}");
        }
        let picky = spec(json!({"containers": [], "nodeSelector": {"disk": "ssd"}}));
        assert_eq!(suits(&picky, &node(json!({}), json!([]))), (false, false));
        assert_eq!(suits(&picky, &node(json!({"disk": "ssd"}), json!([]))), (true, true));
        let mut pinned = plain;
        pin(&mut pinned, "n2");
        assert_eq!(suits(&pinned, &node(json!({}), json!([]))), (false, false));
        let pod = CachedPod { spec: Some(Arc::new(pinned)), ..CachedPod::default() };
        assert_eq!(target(&pod), Some("n2"));
    }
}
