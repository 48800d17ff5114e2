//! InterPodAffinity's required terms: the pod's own affinity and anti-affinity, and the
//! anti-affinity of the pods already there.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::PodAffinityTerm;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Verdict, refuse};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::selectors::labels_match;

/// A topology key and a value: a place.
type Place = (String, String);

#[derive(Default)]
pub struct Prepared {
    /// For each required affinity term: its key, and where it is satisfied.
    affinity: Vec<(String, HashSet<String>)>,
    /// No pod anywhere matches and the pod matches its own terms: the first of a group may start.
    first_of_group: bool,
    /// Where the pod's own anti-affinity forbids it to be, and where others' does.
    own_anti: HashSet<Place>,
    others_anti: HashSet<Place>,
}

fn affinity_terms(pod: &PodState) -> &[PodAffinityTerm] {
    let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.pod_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

fn anti_terms(pod: &PodState) -> &[PodAffinityTerm] {
    let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.pod_anti_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// Whether `other` is one of the pods a term of `owner` speaks of.
fn matches(snapshot: &Snapshot, term: &PodAffinityTerm, owner: &PodState, other: &PodState) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let default = named.is_empty() && term.namespace_selector.is_none();
    let by_selector = |selector: &LabelSelector| {
        labels_match(
            Some(selector),
            Some(snapshot.namespace_labels(other.namespace()).unwrap_or(&Default::default())),
        )
    };
    let in_namespace = (default && other.namespace() == owner.namespace())
        || named.iter().any(|n| n == other.namespace())
        || term.namespace_selector.as_ref().is_some_and(by_selector);
    in_namespace
        && labels_match(term.label_selector.as_ref(), other.labels())
        && keys_match(term, owner, other)
}

fn keys_match(term: &PodAffinityTerm, owner: &PodState, other: &PodState) -> bool {
    let label = |p: &PodState, key: &String| p.labels().and_then(|l| l.get(key)).cloned();
    let equal = |key: &String| label(owner, key).is_none() || label(owner, key) == label(other, key);
    let differs = |key: &String| label(owner, key).is_none() || label(owner, key) != label(other, key);
    term.match_label_keys.iter().flatten().all(equal)
        && term.mismatch_label_keys.iter().flatten().all(differs)
}

pub fn prepare(snapshot: &Snapshot, pod: &PodState) -> Prepared {
    let (affinity, anti) = (affinity_terms(pod), anti_terms(pod));
    let keys = affinity.iter().map(|t| (t.topology_key.clone(), HashSet::new())).collect();
    let mut prepared = Prepared { affinity: keys, ..Prepared::default() };
    for node in snapshot.nodes() {
        for other in node.pods.values() {
            prepared.note_own(snapshot, node, pod, other, affinity, anti);
            for term in anti_terms(other) {
                if let Some(value) = node.label(&term.topology_key)
                    && matches(snapshot, term, other, pod)
                {
                    prepared.others_anti.insert((term.topology_key.clone(), value.to_owned()));
                }
            }
        }
    }
    let satisfied_nowhere = prepared.affinity.iter().all(|(_, places)| places.is_empty());
    prepared.first_of_group = satisfied_nowhere && affinity.iter().all(|t| matches(snapshot, t, pod, pod));
    prepared
}

impl Prepared {
    fn note_own(
        &mut self,
        snapshot: &Snapshot,
        node: &NodeState,
        pod: &PodState,
        other: &PodState,
        affinity: &[PodAffinityTerm],
        anti: &[PodAffinityTerm],
    ) {
        // A pod satisfies affinity only if it matches all the terms, as upstream counts.
        if !affinity.is_empty() && affinity.iter().all(|t| matches(snapshot, t, pod, other)) {
            for (key, places) in &mut self.affinity {
                places.extend(node.label(key).map(str::to_owned));
            }
        }
        for term in anti {
            if let Some(value) = node.label(&term.topology_key)
                && matches(snapshot, term, pod, other)
            {
                self.own_anti.insert((term.topology_key.clone(), value.to_owned()));
            }
        }
    }
}

pub fn filter(prepared: &Prepared, node: &NodeState) -> Verdict {
    let satisfied = |(key, places): &(String, HashSet<String>)| {
        node.label(key).is_some_and(|value| prepared.first_of_group || places.contains(value))
    };
    if !prepared.affinity.iter().all(satisfied) {
        return refuse("node(s) didn't match pod affinity rules");
    }
    let here = |places: &HashSet<Place>| places.iter().any(|(key, value)| node.label(key) == Some(value));
    if here(&prepared.own_anti) {
        return refuse("node(s) didn't match pod anti-affinity rules");
    }
    if here(&prepared.others_anti) {
        return refuse("node(s) didn't satisfy existing pods anti-affinity rules");
    }
    Ok(())
}
