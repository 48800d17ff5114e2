//! PodTopologySpread's hard constraints (`whenUnsatisfiable: DoNotSchedule`).

use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Verdict, node_affinity, refuse, refuse_for_good, taint_toleration};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::selectors::labels_match;

struct Constraint {
    spec: TopologySpreadConstraint,
    /// The topology keys of all constraints: a node without one of them does not count.
    keys: Vec<String>,
    /// Whether the pod counts itself.
    own: i64,
    /// Matching pods per domain, over eligible nodes.
    domains: HashMap<String, i64>,
    minimum: i64,
}

impl Constraint {
    /// The domain a node is counted in, if it is counted.
    fn domain<'a>(&self, pod: &PodState, node: &'a NodeState) -> Option<&'a str> {
        let has_keys = self.keys.iter().all(|key| node.label(key).is_some());
        if !has_keys || !eligible(&self.spec, pod, node) {
            return None;
        }
        node.label(&self.spec.topology_key)
    }
    fn set_minimum(&mut self) {
        let enough = self.domains.len() as i64 >= i64::from(self.spec.min_domains.unwrap_or(1));
        self.minimum = if enough { self.domains.values().copied().min().unwrap_or(0) } else { 0 };
    }
}

#[derive(Default)]
pub struct Prepared(Vec<Constraint>);

pub fn prepare(snapshot: &Snapshot, pod: &PodState) -> Prepared {
    let constraints = pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref());
    let hard = constraints.unwrap_or_default().iter().filter(|c| c.when_unsatisfiable == "DoNotSchedule");
    let hard: Vec<&TopologySpreadConstraint> = hard.collect();
    let keys: Vec<String> = hard.iter().map(|c| c.topology_key.clone()).collect();
    Prepared(hard.into_iter().map(|c| count(snapshot, pod, c, keys.clone())).collect())
}

impl Prepared {
    /// Counts `by` more pods like `other` on the node.
    pub fn count(&mut self, pod: &PodState, node: &NodeState, other: &PodState, by: i64) {
        for constraint in &mut self.0 {
            if !counts(&constraint.spec, pod, other) {
                continue;
            }
            let Some(domain) = constraint.domain(pod, node) else { continue };
            if let Some(count) = constraint.domains.get_mut(domain) {
                *count += by;
                constraint.set_minimum();
            }
        }
    }
}

fn count(
    snapshot: &Snapshot,
    pod: &PodState,
    spec: &TopologySpreadConstraint,
    keys: Vec<String>,
) -> Constraint {
    let mut constraint = Constraint {
        own: i64::from(labels_match(spec.label_selector.as_ref(), pod.labels())),
        spec: spec.clone(),
        keys,
        domains: HashMap::new(),
        minimum: 0,
    };
    for node in snapshot.nodes() {
        let Some(domain) = constraint.domain(pod, node) else { continue };
        let matching = node.pods.values().filter(|p| counts(spec, pod, p)).count() as i64;
        *constraint.domains.entry(domain.to_owned()).or_insert(0) += matching;
    }
    constraint.set_minimum();
    constraint
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
        let Some(domain) = node.label(&constraint.spec.topology_key) else {
            return refuse_for_good(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            );
        };
        let here = constraint.domains.get(domain).copied().unwrap_or(0);
        if here + constraint.own - constraint.minimum > i64::from(constraint.spec.max_skew) {
            return refuse("node(s) didn't match pod topology spread constraints");
        }
    }
    Ok(())
}
