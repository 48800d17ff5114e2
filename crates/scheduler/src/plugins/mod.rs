//! The rules, one file each, under the names kube-scheduler gives them. A filter says why not, in
//! kube-scheduler's words; a score is 0 to 100 and higher is better.

pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_ports;
pub mod node_resources;
pub mod pod_topology_spread;
pub mod spread;
pub mod taint_toleration;

use std::collections::BTreeSet;

use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;

pub const MAX_SCORE: i64 = 100;

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One or more, counted over all nodes for the event.
    pub reasons: Vec<String>,
    /// Whether fewer pods on the node could change it.
    pub resolvable: bool,
}

pub type Verdict = Result<(), Refusal>;

/// The node as it is filled now will not do.
fn refuse(reason: &str) -> Verdict {
    Err(Refusal { reasons: vec![reason.to_owned()], resolvable: true })
}

/// The node will not do, whatever runs on it.
fn refuse_for_good(reason: &str) -> Verdict {
    Err(Refusal { reasons: vec![reason.to_owned()], resolvable: false })
}

/// What filters work out once per pod, before looking at nodes.
pub struct Prepared {
    /// The only nodes that come into question, if the pod names any.
    only: Option<BTreeSet<String>>,
    affinity: inter_pod_affinity::Prepared,
    spread: pod_topology_spread::Prepared,
}

/// The error is a reason that holds for every node.
pub fn prepare(snapshot: &Snapshot, pod: &PodState) -> Result<Prepared, &'static str> {
    Ok(Prepared {
        only: node_affinity::named_nodes(pod)?,
        affinity: inter_pod_affinity::prepare(snapshot, pod),
        spread: pod_topology_spread::prepare(snapshot, pod),
    })
}

impl Prepared {
    /// Counts as if `other` had left its node.
    pub fn take_out(&mut self, snapshot: &Snapshot, pod: &PodState, node: &NodeState, other: &PodState) {
        self.affinity.count(snapshot, pod, node, other, -1);
        self.spread.count(pod, node, other, -1);
    }
    /// Undoes `take_out`.
    pub fn put_back(&mut self, snapshot: &Snapshot, pod: &PodState, node: &NodeState, other: &PodState) {
        self.affinity.count(snapshot, pod, node, other, 1);
        self.spread.count(pod, node, other, 1);
    }
}

/// All filters in kube-scheduler's order; the first that refuses speaks.
pub fn filter(prepared: &Prepared, pod: &PodState, node: &NodeState) -> Verdict {
    if prepared.only.as_ref().is_some_and(|names| !names.contains(&node.name)) {
        return refuse_for_good("node(s) didn't satisfy plugin(s) [NodeAffinity]");
    }
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
