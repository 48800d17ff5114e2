//! Node selectors and node affinity: which nodes a pod (or the profile, for all its pods) demands and
//! prefers.

use std::borrow::Cow;

use super::normalise;
use crate::framework::{Candidate, Choice, Question, Refusal, Verdict, View};
use crate::labels::NodeTerm;
use crate::node::Shape;
use crate::pod::{PodInfo, Spec};
use crate::snapshot::Snapshot;
use crate::symbols::{Symbol, Symbols};

pub const NAME: &str = "NodeAffinity";
/// Of a pod whose terms leave no node.
pub const CONFLICT: &str = "pod affinity terms conflict";

/// The nodes a pod's required affinity names, if every term of it names some, as those of a
/// DaemonSet's pods do. Terms that contradict themselves leave none, which is an error.
pub fn named_nodes(spec: &Spec) -> Result<Option<Vec<Symbol>>, &'static str> {
    let Some(terms) = spec.node_affinity.as_deref().filter(|terms| !terms.is_empty()) else {
        return Ok(None);
    };
    let names: Option<Vec<Vec<Symbol>>> = terms.iter().map(NodeTerm::names).collect();
    let Some(names) = names else { return Ok(None) };
    let mut names: Vec<Symbol> = names.into_iter().flatten().collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { Err(CONFLICT) } else { Ok(Some(names)) }
}

pub fn before(_: &Snapshot, pod: &PodInfo) -> Result<(), Cow<'static, str>> {
    named_nodes(&pod.template.spec).map(|_| ()).map_err(Cow::Borrowed)
}

/// Of nodes other than those named.
pub fn not_named() -> Refusal {
    Refusal::for_good(NAME, "node(s) didn't satisfy plugin(s) [NodeAffinity]")
}

fn any_matches(symbols: &Symbols, terms: &[NodeTerm], name: Symbol, shape: &Shape) -> bool {
    terms.iter().any(|term| term.matches(symbols, name, &shape.labels))
}

/// Whether the pod's node selector and required node affinity admit the node.
pub fn admits(snapshot: &Snapshot, spec: &Spec, name: Symbol, shape: &Shape) -> bool {
    let mut selector = spec.node_selector.iter();
    selector.all(|(key, value)| shape.labels.get(*key) == Some(*value))
        && spec
            .node_affinity
            .as_deref()
            .is_none_or(|terms| any_matches(&snapshot.catalogue.symbols, terms, name, shape))
}

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    let (name, shape) = (candidate.node.name, candidate.shape);
    let added = view.profile.arguments.added_affinity.required.as_deref();
    if added.is_some_and(|terms| !any_matches(&view.snapshot.catalogue.symbols, terms, name, shape)) {
        return Err(Refusal::for_good(NAME, "node(s) didn't match scheduler-enforced node affinity"));
    }
    if !admits(view.snapshot, &view.pod.spec, name, shape) {
        return Err(Refusal::for_good(NAME, "node(s) didn't match Pod's node affinity/selector"));
    }
    Ok(())
}

/// The weights of the preferred terms that match the node.
pub fn preference(view: &View, candidate: &Candidate) -> i64 {
    let added = view.profile.arguments.added_affinity.preferred.iter();
    let terms = view.pod.spec.preferred_nodes.iter().chain(added);
    let matches = |term: &NodeTerm| {
        term.matches(&view.snapshot.catalogue.symbols, candidate.node.name, &candidate.shape.labels)
    };
    terms.filter(|(_, term)| matches(term)).map(|(weight, _)| weight).sum()
}

pub fn score(_: &View, choices: &[Choice]) -> Vec<i64> {
    normalise(choices.iter().map(|choice| choice.features.affinity).collect(), false)
}

pub fn hint(question: &Question) -> bool {
    let added = question.profile.arguments.added_affinity.required.as_deref();
    let symbols = &question.snapshot.catalogue.symbols;
    question.node_becomes(|name, shape| {
        added.is_none_or(|terms| any_matches(symbols, terms, name, shape))
            && admits(question.snapshot, &question.pod.template.spec, name, shape)
    })
}
