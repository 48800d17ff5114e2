//! Whether a pod could be helped to a node by taking less important pods off it: a trial run that
//! moves nothing and tells, in kube-scheduler's words, why it would not help. (Evicting the victims
//! is not done; a pod that could be helped waits like any other.)

use crate::cache::{NodeState, Snapshot};
use crate::decision::Explanation;
use crate::plugins::{self, Prepared};
use crate::pod::PodState;

const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// No node was refused for what runs on it.
pub fn hopeless(pod: &PodState, nodes: usize) -> Option<String> {
    if pod.never_preempts() {
        return Some(NEVER.to_owned());
    }
    let mut explanation = Explanation { nodes, ..Explanation::default() };
    explanation.count(NOT_HELPFUL, nodes);
    Some(explanation.message())
}

/// `resolvable`: the nodes that refused the pod for what runs on them, out of `nodes` in all.
/// `None`: without less important pods one of them would take it. `prepared` is left as found.
pub fn dry_run(
    snapshot: &Snapshot,
    prepared: &mut Prepared,
    pod: &PodState,
    resolvable: &[&NodeState],
    nodes: usize,
) -> Option<String> {
    if pod.never_preempts() || resolvable.is_empty() {
        return hopeless(pod, nodes);
    }
    let mut explanation = Explanation { nodes, ..Explanation::default() };
    explanation.count(NOT_HELPFUL, nodes - resolvable.len());
    for node in resolvable {
        let victims = node.pods_below(pod.priority());
        if victims.is_empty() {
            explanation.count(NO_VICTIMS, 1);
            continue;
        }
        for victim in &victims {
            prepared.take_out(snapshot, pod, node, victim);
        }
        let verdict = plugins::filter(prepared, pod, &node.without(&victims));
        for victim in &victims {
            prepared.put_back(snapshot, pod, node, victim);
        }
        let Err(refusal) = verdict else { return None };
        for reason in &refusal.reasons {
            explanation.count(reason, 1);
        }
    }
    Some(explanation.message())
}
