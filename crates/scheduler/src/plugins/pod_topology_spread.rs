//! PodTopologySpread's hard constraints (`whenUnsatisfiable: DoNotSchedule`).

use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Verdict, node_affinity, refuse, taint_toleration};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::selectors::labels_match;

struct Constraint {
    key: String,
    max_skew: i64,
    /// Whether the pod counts itself.
    own: i64,
    /// Matching pods per domain, over eligible nodes.
    domains: HashMap<String, i64>,
    minimum: i64,
}

#[derive(Default)]
pub struct Prepared(Vec<Constraint>);

pub fn prepare(snapshot: &Snapshot, pod: &PodState) -> Prepared {
    let constraints = pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref());
    let hard = constraints.unwrap_or_default().iter().filter(|c| c.when_unsatisfiable == "DoNotSchedule");
    let hard: Vec<&TopologySpreadConstraint> = hard.collect();
    Prepared(hard.iter().map(|c| count(snapshot, pod, c, &hard)).collect())
}

fn count(
    snapshot: &Snapshot,
    pod: &PodState,
    constraint: &TopologySpreadConstraint,
    all: &[&TopologySpreadConstraint],
) -> Constraint {
    let mut domains: HashMap<String, i64> = HashMap::new();
    for node in snapshot.nodes() {
        let has_keys = all.iter().all(|c| node.label(&c.topology_key).is_some());
        if !has_keys || !eligible(constraint, pod, node) {
            continue;
        }
        let matching = node.pods.values().filter(|p| counts(constraint, pod, p)).count() as i64;
        if let Some(domain) = node.label(&constraint.topology_key) {
            *domains.entry(domain.to_owned()).or_insert(0) += matching;
        }
    }
    let enough = domains.len() as i64 >= i64::from(constraint.min_domains.unwrap_or(1));
    let minimum = if enough { domains.values().copied().min().unwrap_or(0) } else { 0 };
    Constraint {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        own: i64::from(labels_match(constraint.label_selector.as_ref(), pod.labels())),
        domains,
        minimum,
    }
}

fn eligible(constraint: &TopologySpreadConstraint, pod: &PodState, node: &NodeState) -> bool {
    let affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (!affinity || node_affinity::admits(pod, node))
        && (!taints || taint_toleration::filter(pod, node).is_ok())
}

fn counts(constraint: &TopologySpreadConstraint, pod: &PodState, other: &PodState) -> bool {
    let same_label = |key: &String| {
        let of = |p: &PodState| p.labels().and_then(|l| l.get(key)).cloned();
        of(pod).is_none() || of(pod) == of(other)
    };
    other.namespace() == pod.namespace()
        && other.pod.metadata.deletion_timestamp.is_none()
        && labels_match(constraint.label_selector.as_ref(), other.labels())
        && constraint.match_label_keys.iter().flatten().all(same_label)
}

pub fn filter(prepared: &Prepared, node: &NodeState) -> Verdict {
    for constraint in &prepared.0 {
        let Some(domain) = node.label(&constraint.key) else {
            return refuse("node(s) didn't match pod topology spread constraints (missing required label)");
        };
        let here = constraint.domains.get(domain).copied().unwrap_or(0);
        if here + constraint.own - constraint.minimum > constraint.max_skew {
            return refuse("node(s) didn't match pod topology spread constraints");
        }
    }
    Ok(())
}
