//! TaintToleration and NodeUnschedulable.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Verdict, normalise, refuse_for_good};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn tolerations(pod: &PodState) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

pub fn unschedulable(pod: &PodState, node: &NodeState) -> Verdict {
    let taint = Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    if node.is_unschedulable() && !tolerations(pod).iter().any(|t| tolerates(t, &taint)) {
        return refuse_for_good("node(s) were unschedulable");
    }
    Ok(())
}

pub fn filter(pod: &PodState, node: &NodeState) -> Verdict {
    let hard = node.taints().iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
    for taint in hard {
        if !tolerations(pod).iter().any(|t| tolerates(t, taint)) {
            return refuse_for_good("node(s) had untolerated taint(s)");
        }
    }
    Ok(())
}

/// Fewer PreferNoSchedule taints the pod does not tolerate is better.
pub fn score(_: &Snapshot, pod: &PodState, nodes: &[&NodeState]) -> Vec<i64> {
    let soft = |t: &&Toleration| matches!(t.effect.as_deref(), None | Some("" | "PreferNoSchedule"));
    let tolerations: Vec<&Toleration> = tolerations(pod).iter().filter(soft).collect();
    let untolerated = |node: &&NodeState| {
        let taints = node.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
        taints.filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint))).count() as i64
    };
    normalise(nodes.iter().map(untolerated).collect(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toleration_rules() {
        let taint =
            Taint { key: "k".into(), value: Some("v".into()), effect: "NoSchedule".into(), time_added: None };
        let toleration = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
            key: Some(key.into()),
            operator: Some(operator.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        };
        let cases = [
            (toleration("k", "Equal", "v", "NoSchedule"), true),
            (toleration("k", "", "v", ""), true),
            (toleration("k", "Exists", "", ""), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("k", "Equal", "w", ""), false),
            (toleration("k", "Equal", "v", "NoExecute"), false),
            (toleration("x", "Exists", "", ""), false),
        ];
        for (toleration, expected) in cases {
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }
}
