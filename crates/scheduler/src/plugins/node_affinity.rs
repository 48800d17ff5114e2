//! NodeName, node selectors and NodeAffinity.

use std::collections::BTreeSet;

use super::{Verdict, normalise, refuse_for_good};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::selectors::term_matches;

pub fn node_name(pod: &PodState, node: &NodeState) -> Verdict {
    match pod.node_name() {
        Some(name) if name != node.name => refuse_for_good("node(s) didn't match the requested node name"),
        _ => Ok(()),
    }
}

/// The nodes a pod's required affinity names, if every term of it names some (as those of a
/// DaemonSet's pods do). Terms that contradict themselves leave none, which is an error.
pub fn named_nodes(pod: &PodState) -> Result<Option<BTreeSet<String>>, &'static str> {
    let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|r| r.node_selector_terms.as_slice()).unwrap_or_default();
    let mut all = BTreeSet::new();
    for term in terms {
        let fields = term.match_fields.iter().flatten();
        let by_name = fields.filter(|r| r.key == "metadata.name" && r.operator == "In");
        let sets = by_name.map(|r| r.values.iter().flatten().cloned().collect::<BTreeSet<String>>());
        let Some(names) = sets.reduce(|a, b| a.intersection(&b).cloned().collect()) else {
            return Ok(None);
        };
        all.extend(names);
    }
    match terms {
        [] => Ok(None),
        _ if all.is_empty() => Err("pod affinity terms conflict"),
        _ => Ok(Some(all)),
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
    if admits(pod, node) {
        Ok(())
    } else {
        refuse_for_good("node(s) didn't match Pod's node affinity/selector")
    }
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
