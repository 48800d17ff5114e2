//! InterPodAffinity's required terms: the pod's own affinity and anti-affinity, and the
//! anti-affinity of the pods already there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use k8s_openapi::api::core::v1::PodAffinityTerm;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Verdict, refuse, refuse_for_good};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::selectors::labels_match;

/// How often something is so where: by topology key, then by the label's value.
type Places = HashMap<String, HashMap<String, i64>>;

#[derive(Default)]
pub struct Prepared {
    /// For each required affinity term: its key, and how often it is satisfied where.
    affinity: Vec<(String, HashMap<String, i64>)>,
    /// The pod matches its own terms: the first of a group may start where nobody is yet.
    matches_itself: bool,
    /// Where the pod's own anti-affinity forbids it to be, and where others' does.
    own_anti: Places,
    others_anti: Places,
}

/// Counts up or down; what nobody counts is not there.
fn count(counts: &mut HashMap<String, i64>, value: &str, by: i64) {
    match counts.entry(value.to_owned()) {
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += by;
            if *entry.get() <= 0 {
                entry.remove();
            }
        }
        Entry::Vacant(entry) if by > 0 => {
            entry.insert(by);
        }
        Entry::Vacant(_) => {}
    }
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
    let affinity = affinity_terms(pod);
    let mut prepared = Prepared {
        affinity: affinity.iter().map(|t| (t.topology_key.clone(), HashMap::new())).collect(),
        matches_itself: affinity.iter().all(|t| matches(snapshot, t, pod, pod)),
        ..Prepared::default()
    };
    for node in snapshot.nodes() {
        for other in node.pods.values() {
            prepared.count(snapshot, pod, node, other, 1);
        }
    }
    prepared
}

impl Prepared {
    /// Counts `by` more pods like `other` on the node.
    pub fn count(
        &mut self,
        snapshot: &Snapshot,
        pod: &PodState,
        node: &NodeState,
        other: &PodState,
        by: i64,
    ) {
        let (affinity, anti) = (affinity_terms(pod), anti_terms(pod));
        // A pod satisfies affinity only if it matches all the terms, as upstream counts.
        if !affinity.is_empty() && affinity.iter().all(|t| matches(snapshot, t, pod, other)) {
            for (key, places) in &mut self.affinity {
                if let Some(value) = node.label(key) {
                    count(places, value, by);
                }
            }
        }
        for term in anti {
            if let Some(value) = node.label(&term.topology_key)
                && matches(snapshot, term, pod, other)
            {
                count(self.own_anti.entry(term.topology_key.clone()).or_default(), value, by);
            }
        }
        for term in anti_terms(other) {
            if let Some(value) = node.label(&term.topology_key)
                && matches(snapshot, term, other, pod)
            {
                count(self.others_anti.entry(term.topology_key.clone()).or_default(), value, by);
            }
        }
    }

    fn first_of_group(&self) -> bool {
        self.matches_itself && self.affinity.iter().all(|(_, places)| places.is_empty())
    }
}

pub fn filter(prepared: &Prepared, node: &NodeState) -> Verdict {
    let first_of_group = prepared.first_of_group();
    let satisfied = |(key, places): &(String, HashMap<String, i64>)| {
        node.label(key).is_some_and(|value| first_of_group || places.contains_key(value))
    };
    if !prepared.affinity.iter().all(satisfied) {
        return refuse_for_good("node(s) didn't match pod affinity rules");
    }
    // By the few keys, not by the places, which are as many as nodes.
    let here = |places: &Places| {
        places.iter().any(|(key, values)| node.label(key).is_some_and(|value| values.contains_key(value)))
    };
    if here(&prepared.own_anti) {
        return refuse("node(s) didn't match pod anti-affinity rules");
    }
    if here(&prepared.others_anti) {
        return refuse("node(s) didn't satisfy existing pods anti-affinity rules");
    }
    Ok(())
}
