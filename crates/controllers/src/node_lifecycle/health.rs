//! Judging a node by its heartbeats: the conditions it should show, and the taints they mean.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Taint};

use crate::meta;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that the kubelet reports and that turn unknown with it.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Condition, the status that taints, the taint.
const NO_SCHEDULE: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

pub fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |c| c.status.as_str())
}

/// The status with every reported condition turned unknown; None where it shows that already.
pub fn silenced(node: &Node, now: Timestamp) -> Option<NodeStatus> {
    let mut status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for kind in REPORTED {
        let Some(current) = conditions.iter_mut().find(|c| c.type_ == kind) else {
            changed = true;
            conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: meta::time(now),
            });
            continue;
        };
        if current.status == "Unknown" {
            continue;
        }
        changed = true;
        current.status = "Unknown".to_owned();
        current.reason = Some("NodeStatusUnknown".to_owned());
        current.message = Some("Kubelet stopped posting node status.".to_owned());
        current.last_transition_time = meta::time(now);
    }
    changed.then_some(status)
}

fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added: meta::time(now) }
}

fn is_ours(taint: &Taint) -> bool {
    let scheduling = NO_SCHEDULE.iter().any(|(_, _, key)| taint.key == *key) || taint.key == UNSCHEDULABLE;
    match taint.effect.as_str() {
        "NoSchedule" => scheduling,
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

/// The taints the node should carry. `evict` says whether an unready node's pods may be driven off.
pub fn taints(node: &Node, evict: bool, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<Taint> = NO_SCHEDULE
        .iter()
        .filter(|(kind, status, _)| condition(node, kind).is_some_and(|c| c.status == *status))
        .map(|(_, _, key)| taint(key, "NoSchedule", now))
        .collect();
    let spec = node.spec.as_ref();
    if spec.and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule", now));
    }
    match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("False") if evict => wanted.push(taint(NOT_READY, "NoExecute", now)),
        Some("Unknown") if evict => wanted.push(taint(UNREACHABLE, "NoExecute", now)),
        _ => {}
    }
    let current = spec.and_then(|s| s.taints.as_ref());
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    // Those already there keep their place and time.
    let mut result: Vec<Taint> = current
        .into_iter()
        .flatten()
        .filter(|t| !is_ours(t) || wanted.iter().any(|w| same(w, t)))
        .cloned()
        .collect();
    for new in wanted {
        if !result.iter().any(|t| same(t, &new)) {
            result.push(new);
        }
    }
    result
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Disruption {
    /// Nodes fail one at a time: evict.
    None,
    /// More than half of a zone is gone: evict with care.
    Partial,
    /// Nobody is ready: likelier our own eyes than every node.
    Full,
}

/// How a zone fares, by its numbers of ready and unready nodes.
pub fn disruption(ready: usize, unready: usize) -> Disruption {
    match (ready, unready) {
        (0, 1..) => Disruption::Full,
        // Three or more gone, and they are 55 % or more.
        (_, 3..) if unready * 100 >= (ready + unready) * 55 => Disruption::Partial,
        _ => Disruption::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::json;

    fn node(ready: &str, taints: &serde_json::Value) -> Node {
        object(json!({"metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
    }

    #[test]
    fn conditions_become_taints() {
        let keys = |node: &Node, evict| -> Vec<String> {
            taints(node, evict, at(9)).iter().map(|t| format!("{}:{}", t.key, t.effect)).collect()
        };
        let (soft, hard) =
            ("node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute");
        let gone = node("Unknown", &json!([]));
        assert_eq!(keys(&gone, true), [soft, hard]);
        assert_eq!(keys(&gone, false), [soft]);
        let own = json!([{"key": "mine", "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        assert_eq!(keys(&node("True", &own), true), ["mine:NoSchedule"]);
        let mut cordoned = node("True", &json!([]));
        cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
        assert_eq!(keys(&cordoned, true), ["node.kubernetes.io/unschedulable:NoSchedule"]);
    }

    #[test]
    fn silence_turns_conditions_unknown_once() {
        let mut node = node("True", &json!([]));
        let status = silenced(&node, at(9)).unwrap();
        let conditions = status.conditions.clone().unwrap();
        assert_eq!(conditions.len(), 4);
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        node.status = Some(status);
        assert_eq!(silenced(&node, at(10)), None);
    }

    #[test]
    fn zones() {
        for (ready, unready, expected) in [
            (1, 0, Disruption::None),
            (0, 0, Disruption::None),
            (0, 1, Disruption::Full),
            (1, 2, Disruption::None),
            (2, 3, Disruption::Partial),
            (10, 3, Disruption::None),
        ] {
            assert_eq!(disruption(ready, unready), expected, "{ready} {unready}");
        }
    }
}
