//! NodeName, node selectors and NodeAffinity.

use super::{Verdict, normalise, refuse};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::selectors::term_matches;

pub fn node_name(pod: &PodState, node: &NodeState) -> Verdict {
    match pod.node_name() {
        Some(name) if name != node.name => refuse("node(s) didn't match the requested node name"),
        _ => Ok(()),
    }
}

/// Whether nodeSelector and required node affinity admit the node.
pub fn admits(pod: &PodState, node: &NodeState) -> bool {
    let Some(spec) = &pod.pod.spec else { return true };
    let selector = spec.node_selector.iter().flatten();
    if !selector.into_iter().all(|(key, value)| node.label(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let Some(required) =
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
    else {
        return true;
    };
    required.node_selector_terms.iter().any(|term| term_matches(term, &node.name, node.labels()))
}

pub fn filter(pod: &PodState, node: &NodeState) -> Verdict {
    if admits(pod, node) { Ok(()) } else { refuse("node(s) didn't match Pod's node affinity/selector") }
}

pub fn score(_: &Snapshot, pod: &PodState, nodes: &[&NodeState]) -> Vec<i64> {
    let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let terms = terms.unwrap_or_default();
    let weight = |node: &&NodeState| -> i64 {
        let matching = terms.iter().filter(|t| term_matches(&t.preference, &node.name, node.labels()));
        matching.map(|t| i64::from(t.weight)).sum()
    };
    normalise(nodes.iter().map(weight).collect(), false)
}
