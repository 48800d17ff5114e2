//! Making room: which node would take a pod if pods that matter less left it, and which pods those
//! are. Nothing is moved here; the answer is a plan, or kube-scheduler's words for why there is none.

use std::sync::Arc;

use crate::class::{Class, NOT_HELPFUL, rank};
use crate::explanation::Explanation;
use crate::framework::Profile;
use crate::node::Slot;
use crate::pod::{PodInfo, Spec};
use crate::snapshot::Snapshot;

/// Of the `DisruptionTarget` condition that victims get.
pub const PREEMPTED_REASON: &str = "PreemptionByScheduler";
/// Nodes that others are asked about; upstream's least number.
const MAX_ROOMS: usize = 100;
const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const STILL_LEAVING: &str = "not eligible due to a terminating pod on the nominated node.";

#[derive(Debug)]
pub enum Preemption {
    /// Room is made on this node by taking these pods off it.
    Plan(Plan),
    /// The pod is not to make room; where it waits already, it goes on waiting.
    NotEligible(&'static str),
    /// Others left no node.
    Vetoed(String),
    /// No node would take it.
    NoHelp(Explanation),
}

#[derive(Debug)]
pub struct Plan {
    pub slot: Slot,
    /// The most important first.
    pub victims: Vec<Arc<PodInfo>>,
}

/// A node on which room could be made, for others to judge.
#[derive(Clone, Debug)]
pub struct Room {
    pub node: String,
    /// The most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them overrun a disruption budget.
    pub violations: usize,
}

impl Preemption {
    /// What is said of it after the reasons of the nodes.
    pub fn message(&self) -> Option<String> {
        match self {
            Preemption::Plan(_) => None,
            Preemption::NotEligible(text) => Some((*text).to_owned()),
            Preemption::Vetoed(text) => Some(text.clone()),
            Preemption::NoHelp(explanation) => Some(explanation.message()),
        }
    }
}

/// For a pod of a class that no node takes. `waits_at`: where room was being made for it already.
pub fn preempt(
    class: &mut Class,
    snapshot: &Snapshot,
    profile: &Profile,
    waits_at: Option<Slot>,
) -> Preemption {
    if class.signature.spec.never_preempts {
        return Preemption::NotEligible(NEVER);
    }
    if waits_at.is_some_and(|slot| victims_are_leaving(class, snapshot, profile, slot)) {
        return Preemption::NotEligible(STILL_LEAVING);
    }
    let trials = class.try_preemption(snapshot, profile);
    let Some(slot) = trials.best() else {
        let mut explanation = Explanation { nodes: snapshot.node_count(), ..Explanation::default() };
        for (reason, times) in trials.outcomes() {
            explanation.count(reason, times);
        }
        explanation.count(NOT_HELPFUL, class.not_named(snapshot));
        return Preemption::NoHelp(explanation);
    };
    let victims = class.try_node(snapshot, profile, slot).map(|(_, victims)| victims);
    Preemption::Plan(Plan { slot, victims: victims.unwrap_or_default() })
}

/// The best nodes on which room could be made.
pub fn rooms(class: &mut Class, snapshot: &Snapshot, profile: &Profile) -> Vec<Room> {
    let trials = class.try_preemption(snapshot, profile);
    let best: Vec<(usize, Slot)> =
        trials.ranked().take(MAX_ROOMS).map(|(rank, slot)| (rank.violations, *slot)).collect();
    let room = |(violations, slot): (usize, Slot)| {
        let (_, victims) = class.try_node(snapshot, profile, slot)?;
        Some(Room { node: snapshot.name(slot).to_owned(), victims, violations })
    };
    best.into_iter().filter_map(room).collect()
}

/// What is done where others have left these.
pub fn among(snapshot: &Snapshot, rooms: Vec<Room>) -> Preemption {
    let known = rooms.into_iter().filter_map(|room| Some((snapshot.slot(&room.node)?, room)));
    let best = known.min_by_key(|(_, room)| rank(room.violations, &room.victims));
    match best {
        Some((slot, room)) => Preemption::Plan(Plan { slot, victims: room.victims }),
        None => Preemption::Vetoed("no candidate node for preemption".to_owned()),
    }
}

/// Whether pods taken off the node for this one are still on their way out. If the node will not do
/// even without them, waiting is of no use.
fn victims_are_leaving(class: &Class, snapshot: &Snapshot, profile: &Profile, slot: Slot) -> bool {
    let refusal = class.refusal(&class.view(snapshot, profile), slot);
    let priority = class.signature.spec.priority;
    refusal.is_none_or(|refusal| refusal.resolvable)
        && snapshot.node(slot).pods.iter().any(|pod| pod.preempted && pod.priority() < priority)
}

/// For a pod whose own terms exclude every node.
pub fn hopeless(spec: &Spec, nodes: usize) -> Preemption {
    if spec.never_preempts {
        return Preemption::NotEligible(NEVER);
    }
    let mut explanation = Explanation { nodes, ..Explanation::default() };
    explanation.count(NOT_HELPFUL, nodes);
    Preemption::NoHelp(explanation)
}
