//! NodeResourcesFit with its least-allocated score, and NodeResourcesBalancedAllocation.

use super::{MAX_SCORE, Refusal, Verdict};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::resources::{CPU, MEMORY};

pub fn fit(pod: &PodState, node: &NodeState) -> Verdict {
    let mut reasons = Vec::new();
    let mut resolvable = true;
    if node.pods.len() as i64 + 1 > node.pod_slots() {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in pod.requests.iter() {
        if wanted > 0 && wanted > node.allocatable.get(name) - node.requested.get(name) {
            reasons.push(format!("Insufficient {name}"));
            // More than the empty node has.
            resolvable &= wanted <= node.allocatable.get(name);
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, resolvable }) }
}

pub fn least_allocated(_: &Snapshot, pod: &PodState, nodes: &[&NodeState]) -> Vec<i64> {
    let free_share = |node: &NodeState, name: &str| {
        let (capacity, wanted) = (node.allocatable.get(name), node.scored.get(name) + pod.scored.get(name));
        if capacity == 0 || wanted > capacity { 0 } else { (capacity - wanted) * MAX_SCORE / capacity }
    };
    nodes.iter().map(|node| (free_share(node, CPU) + free_share(node, MEMORY)) / 2).collect()
}

/// The nearer CPU and memory are to being used in equal shares, the better.
pub fn balanced(_: &Snapshot, pod: &PodState, nodes: &[&NodeState]) -> Vec<i64> {
    let share = |node: &NodeState, name: &str| {
        let (capacity, wanted) =
            (node.allocatable.get(name), node.requested.get(name) + pod.requests.get(name));
        if capacity == 0 { 1.0 } else { (wanted as f64 / capacity as f64).min(1.0) }
    };
    let deviation = |node: &&NodeState| (share(node, CPU) - share(node, MEMORY)).abs() / 2.0;
    nodes.iter().map(|node| ((1.0 - deviation(node)) * MAX_SCORE as f64) as i64).collect()
}
