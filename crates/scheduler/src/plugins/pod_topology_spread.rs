//! Pods of a kind spread evenly over the values of node labels: as a rule, or as a wish.

use std::collections::BTreeSet;

use super::{node_affinity, taint_toleration};
use crate::class::{Features, Place, Purpose, constraints};
use crate::framework::{Choice, Event, MAX_SCORE, Question, Refusal, Verdict, View};
use crate::node::Shape;
use crate::pod::{PodInfo, Spec, SpreadConstraint, Template};
use crate::snapshot::Snapshot;
use crate::symbols::{Symbol, Symbols};

pub const NAME: &str = "PodTopologySpread";
const MISSING_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
const TOO_MANY: &str = "node(s) didn't match pod topology spread constraints";

/// `more`: pods each table is to count beyond those it does; empty for none.
pub fn filter(view: &View, features: &Features, more: &[i64]) -> Verdict {
    for (index, hard) in view.pod.hard.iter().enumerate() {
        let Some((id, table)) = view.topology.table(Purpose::Hard(index)) else { continue };
        let Some(here) = view.topology.pods(id, features) else {
            return Err(Refusal::for_good(NAME, MISSING_LABEL));
        };
        let more = more.get(id).copied().unwrap_or(0);
        let enough = table.domain_count() >= hard.constraint.min_domains;
        let least = if enough { table.least(here, more) } else { 0 };
        if here + more + i64::from(hard.counts_itself) - least > hard.constraint.max_skew {
            return Err(Refusal::for_now(NAME, TOO_MANY));
        }
    }
    Ok(())
}

pub fn score(view: &View, choices: &[Choice]) -> Vec<i64> {
    let soft = &view.pod.soft;
    if soft.is_empty() {
        return vec![0; choices.len()];
    }
    let tables: Vec<usize> =
        (0..soft.len()).filter_map(|i| view.topology.table(Purpose::Soft(i)).map(|(id, _)| id)).collect();
    let takes_part = |choice: &&Choice| {
        let everywhere = || tables.iter().all(|t| view.topology.pods(*t, choice.features).is_some());
        !view.pod.soft_needs_all_keys || everywhere()
    };
    let taking_part: Vec<&Choice> = choices.iter().filter(takes_part).collect();
    let weights: Vec<f64> = tables.iter().map(|table| weight(view, *table, &taking_part)).collect();
    let crowding = |choice: &Choice| {
        let mut sum = 0.0;
        for ((constraint, table), weight) in soft.iter().zip(&tables).zip(&weights) {
            if let Some(pods) = view.topology.pods(*table, choice.features) {
                sum += pods as f64 * weight + (constraint.max_skew - 1) as f64;
            }
        }
        sum.round() as i64
    };
    let marks: Vec<Option<i64>> =
        choices.iter().map(|choice| takes_part(&choice).then(|| crowding(choice))).collect();
    let most = marks.iter().flatten().copied().max().unwrap_or(0);
    let least = marks.iter().flatten().copied().min().unwrap_or(0);
    let scaled = |mark: &Option<i64>| match mark {
        None => 0,
        Some(_) if most == 0 => MAX_SCORE,
        Some(mark) => MAX_SCORE * (most + least - mark) / most,
    };
    marks.iter().map(scaled).collect()
}

/// The more domains there are, the more one pod in one of them weighs: otherwise a constraint over
/// few domains would drown one over many.
fn weight(view: &View, table: usize, choices: &[&Choice]) -> f64 {
    let domains = if view.topology.is_by_node(table) {
        choices.iter().map(|choice| choice.nodes).sum()
    } else {
        let places = choices.iter().map(|choice| match view.topology.place(table, choice.features) {
            Place::Domain(value) => Some(*value),
            _ => None,
        });
        places.collect::<BTreeSet<_>>().len()
    };
    ((domains + 2) as f64).ln()
}

/// Whether a constraint counts what is on a node at all.
pub fn includes(
    snapshot: &Snapshot,
    spec: &Spec,
    constraint: &SpreadConstraint,
    name: Symbol,
    shape: &Shape,
) -> bool {
    let affinity = !constraint.honors_affinity || node_affinity::admits(snapshot, spec, name, shape);
    affinity && (!constraint.honors_taints || taint_toleration::tolerates_all(spec, shape))
}

/// Whether a constraint counts pods of a template in its namespace.
pub fn counts(symbols: &Symbols, constraint: &SpreadConstraint, template: &Template) -> bool {
    !template.terminating && constraint.selector.matches(symbols, &template.labels)
}

/// What changes a count, or which domains there are.
pub fn hint(question: &Question) -> bool {
    let Question { snapshot, profile, pod, event } = question;
    let template = &pod.template;
    let (constraints, _) = constraints(snapshot, profile, template);
    let hard = || constraints.iter().filter(|constraint| constraint.hard);
    let counted = |constraint: &SpreadConstraint, other: &PodInfo| {
        other.template.namespace == template.namespace
            && counts(&snapshot.catalogue.symbols, constraint, &other.template)
    };
    let complete = |shape: &Shape| hard().all(|c| shape.labels.get(c.topology_key).is_some());
    let moves = |name: Symbol, old: &Shape, new: &Shape| {
        let included = |c, shape| includes(snapshot, &template.spec, c, name, shape);
        hard().any(|c| {
            old.labels.get(c.topology_key) != new.labels.get(c.topology_key)
                || included(c, old) != included(c, new)
        })
    };
    match *event {
        Event::PodPlaced(other) | Event::PodRemoved(other) => hard().any(|c| counted(c, other)),
        Event::PodChanged { old, new } => hard().any(|c| counted(c, old) != counted(c, new)),
        Event::NodeAdded { new, .. } => complete(new),
        Event::NodeChanged { name, old, new } => (complete(old) || complete(new)) && moves(name, old, new),
        Event::NodeRemoved { old } => complete(old),
        Event::NamespaceChanged | Event::Storage(_) | Event::Devices => false,
    }
}
