//! The answer in one sentence.

use std::sync::Arc;

use amphipod_api::scheduling_review::{Eviction, Outcome};

use super::joined;
use super::ranking::Ranking;
use crate::decision::{Decision, Unschedulable};
use crate::node::Slot;
use crate::plugins::scheduling_gates;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// What the sentence is made of.
pub struct Told<'a> {
    pub snapshot: &'a Snapshot,
    pub pod: &'a Arc<PodInfo>,
    /// Its node, and where that is, if it exists.
    pub node: Option<&'a str>,
    pub current: Option<Slot>,
    pub decision: &'a Decision,
    pub preemption: Option<&'a Eviction>,
    pub ranking: &'a Ranking,
}

impl Told<'_> {
    pub fn outcome(&self) -> Outcome {
        if self.node.is_some() {
            return if self.is_where_it_would_be() { Outcome::Placed } else { Outcome::PlacedOtherwise };
        }
        match self.decision {
            _ if !scheduling_gates::admits(&self.pod.template.spec) => Outcome::Gated,
            Decision::Node(_) => Outcome::Fits,
            Decision::Unschedulable(_) if self.preemption.is_some() => Outcome::FitsByPreemption,
            Decision::Unschedulable(_) => Outcome::Unschedulable,
        }
    }
    /// Whether its node is among the best.
    fn is_where_it_would_be(&self) -> bool {
        let score = self.current.and_then(|slot| self.ranking.score(slot));
        score.is_some_and(|score| self.ranking.best().is_some_and(|(_, best)| best == score))
    }

    pub fn summary(&self, outcome: Outcome) -> String {
        let key = &self.pod.key;
        let node = self.node.unwrap_or_default();
        match outcome {
            Outcome::Placed => format!("{key} is on {node}, {}", self.among_the_best()),
            Outcome::PlacedOtherwise => format!("{key} is on {node}{}", self.rather()),
            Outcome::Gated => {
                let gates = self.pod.template.spec.gates.iter();
                let gates: Vec<String> =
                    gates.map(|gate| format!("{:?}", self.snapshot.catalogue.symbols.text(*gate))).collect();
                let then = self.where_to();
                format!(
                    "{key} waits until its scheduling gates are taken away ({}); then {then}",
                    joined(&gates, "and")
                )
            }
            Outcome::Fits | Outcome::FitsByPreemption | Outcome::Unschedulable => {
                format!("{key}: {}", self.where_to())
            }
        }
    }

    fn nodes(&self, number: usize) -> String {
        if number == 1 { "1 node".to_owned() } else { format!("{number} nodes") }
    }

    fn among_the_best(&self) -> String {
        let (ties, all) = (self.ranking.ties(), self.nodes(self.ranking.len()));
        let score = self.ranking.best().map_or(0, |(_, score)| score);
        match (ties, self.ranking.len()) {
            (_, 1) => format!("the only one of {} that takes it", self.nodes(self.snapshot.node_count())),
            (1, _) => format!("the best of {all} that would take it (score {score})"),
            _ => format!("one of {ties} equally good of {all} that would take it (score {score})"),
        }
    }

    /// Of a pod that is somewhere else than it would be put now.
    fn rather(&self) -> String {
        let score = self.current.and_then(|slot| self.ranking.score(slot));
        match (self.current, score, self.ranking.best()) {
            (None, ..) => format!(", which is not there; placed now, {}", self.where_to()),
            (_, Some(score), Some((best, highest))) => format!(
                "; placed now, it would rather go to {} (score {highest} against {score})",
                self.snapshot.name(best)
            ),
            (_, _, Some(_)) => format!(", which would not take it now; placed now, {}", self.where_to()),
            (_, _, None) => format!("; placed now, {}", self.where_to()),
        }
    }

    /// What the scheduler would decide.
    fn where_to(&self) -> String {
        match self.decision {
            Decision::Node(slot) => self.chosen(*slot),
            Decision::Unschedulable(unschedulable) => self.refused(unschedulable),
        }
    }

    fn chosen(&self, slot: Slot) -> String {
        let (name, takers) = (self.snapshot.name(slot), self.ranking.len());
        let all = self.nodes(self.snapshot.node_count());
        let score = self.ranking.score(slot).unwrap_or(0);
        match (takers, self.ranking.ties()) {
            (1, _) => format!("{name} would be chosen, the only one of {all} that would take it"),
            (_, 1) => {
                format!("{name} would be chosen, the best (score {score}) of {takers} that would take it")
            }
            (_, ties) => format!(
                "one of {ties} equally good nodes (score {score}) would be chosen, such as {name}; {takers} of {all} \
                 would take it"
            ),
        }
    }

    fn refused(&self, unschedulable: &Unschedulable) -> String {
        let explanation = &unschedulable.explanation;
        if explanation.nodes == 0 {
            return explanation.message();
        }
        if let Some(Eviction { node_name, summary, .. }) = self.preemption {
            return format!("no node takes it as things are, but on {node_name} {summary}");
        }
        format!("no node takes it: {}", explanation.reasons_text())
    }
}
