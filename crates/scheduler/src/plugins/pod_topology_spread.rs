//! PodTopologySpread's hard constraints (`whenUnsatisfiable: DoNotSchedule`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Verdict, node_affinity, refuse, refuse_for_good, taint_toleration};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::selectors::labels_match;

/// Matching pods per domain, over eligible nodes. Trials change them for each pod they take out, so
/// the least crowded is known without looking at all.
#[derive(Default)]
struct Domains {
    pods: HashMap<String, i64>,
    /// How many domains have so many pods.
    crowded: BTreeMap<i64, usize>,
}

impl Domains {
    fn add(&mut self, domain: &str, by: i64) {
        let before = self.pods.get(domain).copied();
        let now = before.unwrap_or(0) + by;
        self.pods.insert(domain.to_owned(), now);
        *self.crowded.entry(now).or_insert(0) += 1;
        let Some(before) = before else { return };
        if let Entry::Occupied(mut entry) = self.crowded.entry(before) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
    fn minimum(&self) -> i64 {
        self.crowded.first_key_value().map_or(0, |(pods, _)| *pods)
    }
}

struct Constraint {
    spec: TopologySpreadConstraint,
    /// The topology keys of all constraints: a node without one of them does not count.
    keys: Vec<String>,
    /// Whether the pod counts itself.
    own: i64,
    domains: Domains,
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
    /// The fewest pods any domain has; none while there are fewer domains than wanted.
    fn minimum(&self) -> i64 {
        let enough = self.domains.pods.len() as i64 >= i64::from(self.spec.min_domains.unwrap_or(1));
        if enough { self.domains.minimum() } else { 0 }
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
            constraint.domains.add(domain, by);
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
        domains: Domains::default(),
    };
    for node in snapshot.nodes() {
        let Some(domain) = constraint.domain(pod, node) else { continue };
        let matching = node.pods.values().filter(|p| counts(spec, pod, p)).count() as i64;
        constraint.domains.add(domain, matching);
    }
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
        let here = constraint.domains.pods.get(domain).copied().unwrap_or(0);
        if here + constraint.own - constraint.minimum() > i64::from(constraint.spec.max_skew) {
            return refuse("node(s) didn't match pod topology spread constraints");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_crowded_domain_is_known_through_all_changes() {
        let mut domains = Domains::default();
        assert_eq!(domains.minimum(), 0);
        let changes = [("a", 2, 2), ("b", 1, 1), ("c", 0, 0), ("c", 3, 1), ("b", -1, 0), ("b", 2, 2)];
        for (domain, by, minimum) in changes {
            domains.add(domain, by);
            assert_eq!(domains.minimum(), minimum, "{domain} {by:+}");
            assert_eq!(domains.pods.values().min(), Some(&minimum));
        }
        assert_eq!(domains.crowded, BTreeMap::from([(2, 2), (3, 1)]));
    }
}
