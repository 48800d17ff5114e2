//! The rules, one file each, under the names kube-scheduler gives them. A filter says why not, in
//! kube-scheduler's words; a score is 0 to 100 and higher is better.

pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_ports;
pub mod node_resources;
pub mod pod_topology_spread;
pub mod spread;
pub mod taint_toleration;

use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;

pub const MAX_SCORE: i64 = 100;

/// Why a node will not do: one or more reasons, counted over all nodes for the event.
pub type Verdict = Result<(), Vec<String>>;

fn refuse(reason: &str) -> Verdict {
    Err(vec![reason.to_owned()])
}

/// What filters work out once per pod, before looking at nodes.
pub struct Prepared {
    affinity: inter_pod_affinity::Prepared,
    spread: pod_topology_spread::Prepared,
}

pub fn prepare(snapshot: &Snapshot, pod: &PodState) -> Prepared {
    Prepared {
        affinity: inter_pod_affinity::prepare(snapshot, pod),
        spread: pod_topology_spread::prepare(snapshot, pod),
    }
}

/// All filters in kube-scheduler's order; the first that refuses speaks.
pub fn filter(prepared: &Prepared, pod: &PodState, node: &NodeState) -> Verdict {
    taint_toleration::unschedulable(pod, node)?;
    node_affinity::node_name(pod, node)?;
    taint_toleration::filter(pod, node)?;
    node_affinity::filter(pod, node)?;
    node_ports::filter(pod, node)?;
    node_resources::fit(pod, node)?;
    pod_topology_spread::filter(&prepared.spread, node)?;
    inter_pod_affinity::filter(&prepared.affinity, node)
}

/// A scorer's raw marks for all feasible nodes, normalised to 0..=100.
type Scorer = fn(&Snapshot, &PodState, &[&NodeState]) -> Vec<i64>;

/// With kube-scheduler's default weights.
pub const SCORERS: [(&str, Scorer, i64); 5] = [
    ("TaintToleration", taint_toleration::score, 3),
    ("NodeAffinity", node_affinity::score, 2),
    ("PodTopologySpread", spread::score, 2),
    ("NodeResourcesFit", node_resources::least_allocated, 1),
    ("NodeResourcesBalancedAllocation", node_resources::balanced, 1),
];

/// Stretches marks so that the largest becomes 100; `reverse` turns small into good.
fn normalise(mut marks: Vec<i64>, reverse: bool) -> Vec<i64> {
    let largest = marks.iter().copied().max().unwrap_or(0);
    for mark in &mut marks {
        let scaled = if largest == 0 { 0 } else { *mark * MAX_SCORE / largest };
        *mark = if reverse { MAX_SCORE - scaled } else { scaled };
    }
    marks
}
