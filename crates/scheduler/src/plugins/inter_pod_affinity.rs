//! Pods near or apart from other pods: the pod's own rules, and those of the pods that are there.

use crate::class::{Features, Purpose};
use crate::framework::{Choice, Event, MAX_SCORE, Question, Refusal, Verdict, View};
use crate::labels::Labels;
use crate::pod::{Force, PodInfo, Term};

pub const NAME: &str = "InterPodAffinity";

/// `more`: pods each table is to count beyond those it does; empty for none.
pub fn filter(view: &View, features: &Features, more: &[i64]) -> Verdict {
    let here = |table: usize| {
        let pods = view.topology.pods(table, features)?;
        Some(pods + more.get(table).copied().unwrap_or(0))
    };
    let of = |purpose: Purpose| view.topology.tables().filter(move |(_, table)| table.purpose == purpose);
    if !affinity_holds(view, &here, more) {
        return Err(Refusal::for_good(NAME, "node(s) didn't match pod affinity rules"));
    }
    let any = |purpose| of(purpose).any(|(table, _)| here(table).is_some_and(|pods| pods > 0));
    if any(Purpose::AntiAffinity) {
        return Err(Refusal::for_now(NAME, "node(s) didn't match pod anti-affinity rules"));
    }
    if any(Purpose::OthersAntiAffinity) {
        return Err(Refusal::for_now(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));
    }
    Ok(())
}

fn affinity_holds(view: &View, here: &dyn Fn(usize) -> Option<i64>, more: &[i64]) -> bool {
    let tables = || view.topology.tables().filter(|(_, table)| table.purpose == Purpose::Affinity);
    if tables().any(|(table, _)| here(table).is_none()) {
        return false;
    }
    // The first of a group that wants to be together may start where nobody is yet.
    let nobody = |(index, table): (usize, &crate::class::Table)| {
        table.total() + more.get(index).copied().unwrap_or(0) == 0
    };
    tables().all(|(table, _)| here(table).is_some_and(|pods| pods > 0))
        || (view.pod.joins_itself && tables().all(nobody))
}

pub fn score(view: &View, choices: &[Choice]) -> Vec<i64> {
    let tables = || view.topology.tables().filter(|(_, table)| table.purpose == Purpose::Preference);
    let mark =
        |choice: &Choice| tables().filter_map(|(table, _)| view.topology.pods(table, choice.features)).sum();
    let marks: Vec<i64> = choices.iter().map(mark).collect();
    let (Some(least), Some(most)) = (marks.iter().min(), marks.iter().max()) else { return marks };
    let range = (most - least) as f64;
    let scaled = |mark: &i64| match most > least {
        true => (MAX_SCORE as f64 * ((mark - least) as f64 / range)) as i64,
        false => 0,
    };
    marks.iter().map(scaled).collect()
}

/// Pods to be near to that come, pods to be apart from that go, and places where neither is so.
pub fn hint(question: &Question) -> bool {
    let spec = &question.pod.template.spec;
    let near = |pod: &PodInfo| {
        !spec.affinity.is_empty() && spec.affinity.iter().all(|term| speaks_of(question, term, pod))
    };
    let in_the_way = |pod: &PodInfo| {
        let apart = |term: &Term| speaks_of(question, term, pod);
        let mut theirs = pod.template.terms.iter().filter(|(_, t)| t.force == Force::RequiredAntiAffinity);
        spec.anti_affinity.iter().any(apart)
            || theirs.any(|(_, owned)| speaks_of(question, &owned.term, question.pod))
    };
    let has_key = |shape: &crate::node::Shape| {
        spec.affinity.iter().all(|term| shape.labels.get(term.topology_key).is_some())
    };
    match question.event {
        Event::PodPlaced(pod) => near(pod),
        Event::PodRemoved(pod) => in_the_way(pod),
        Event::PodChanged { old, new } => (near(new) && !near(old)) || (in_the_way(old) && !in_the_way(new)),
        Event::NodeAdded { new, .. } => has_key(new),
        Event::NodeChanged { old, new, .. } => old.labels != new.labels && has_key(new),
        Event::NodeRemoved { .. } | Event::Storage(_) | Event::Devices => false,
        Event::NamespaceChanged => true,
    }
}

fn speaks_of(question: &Question, term: &Term, pod: &PodInfo) -> bool {
    let (snapshot, template) = (question.snapshot, &pod.template);
    let nothing_known = Labels::default();
    let about = snapshot.namespace_labels(template.namespace).unwrap_or(&nothing_known);
    term.matches(&snapshot.catalogue.symbols, template.namespace, &template.labels, Some(about))
}
