//! Trials of preemption: what a node would be to a pod of the class without pods that matter less.
//! Each node's trial is remembered until something it depends on changes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Class, Features, filter_node_with_nominated, filter_place_with};
use crate::framework::{Candidate, Profile, Refusal, Verdict, View};
use crate::node::{Fill, Slot};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

pub const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// Which of two nodes is taken: fewer budgets overrun, then victims that matter less, then fewer, then
/// those that ran the shortest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    pub violations: usize,
    highest_priority: i32,
    /// Over priorities shifted to be positive, so that fewer victims sum up to less.
    priorities: i64,
    count: usize,
    /// The earliest start among the victims of the highest priority.
    started: Reverse<i64>,
}

/// What came of a node's trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The node was refused for something no pod on it can help.
    NotHelpful,
    NoVictims,
    /// Even without all pods that matter less.
    Refused(Refusal),
    Helps(Rank),
}

#[derive(Debug, Default)]
pub struct Trials {
    by_slot: Vec<Option<Trial>>,
    ranked: BTreeSet<(Rank, Slot)>,
    /// How often each outcome but success came about, the refusals without their numbers.
    outcomes: BTreeMap<String, usize>,
    /// What the trials were made with: the log's position, and what holds for all nodes.
    made: Option<(u64, Everywhere)>,
}

/// Of what changes here no log says which nodes it is about: all trials are made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Everywhere {
    /// The generation of disruption budgets.
    budgets: u64,
    /// How far storage had changed, for pods with volumes.
    storage: Option<u64>,
    devices: Option<u64>,
}

impl Trials {
    /// The best node, if any helps.
    pub fn best(&self) -> Option<Slot> {
        self.ranked.first().map(|(_, slot)| *slot)
    }
    /// Those that help, the best first.
    pub fn ranked(&self) -> impl Iterator<Item = &(Rank, Slot)> {
        self.ranked.iter()
    }
    /// Why the others do not help, counted.
    pub fn outcomes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.outcomes.iter().map(|(reason, times)| (reason.as_str(), *times))
    }

    /// Of how many slots something is remembered.
    pub fn slots(&self) -> usize {
        self.by_slot.len()
    }
    fn set(&mut self, snapshot: &Snapshot, slot: Slot, trial: Option<Trial>) {
        if self.by_slot.len() <= slot as usize {
            self.by_slot.resize(slot as usize + 1, None);
        }
        let old = std::mem::replace(&mut self.by_slot[slot as usize], trial);
        if let Some(old) = old {
            self.count(snapshot, &old, slot, false);
        }
        if let Some(new) = self.by_slot[slot as usize].clone() {
            self.count(snapshot, &new, slot, true);
        }
    }
    fn count(&mut self, snapshot: &Snapshot, trial: &Trial, slot: Slot, more: bool) {
        let reasons = match trial {
            Trial::Helps(rank) => {
                let entry = (rank.clone(), slot);
                if more {
                    self.ranked.insert(entry)
                } else {
                    self.ranked.remove(&entry)
                };
                return;
            }
            Trial::NotHelpful => vec![NOT_HELPFUL.to_owned()],
            Trial::NoVictims => vec!["No preemption victims found for incoming pod".to_owned()],
            Trial::Refused(refusal) => refusal.reasons(&snapshot.catalogue.resources),
        };
        for reason in reasons {
            let times = self.outcomes.entry(reason).or_insert(0);
            *times = if more { *times + 1 } else { times.saturating_sub(1) };
        }
        self.outcomes.retain(|_, times| *times > 0);
    }
}

impl Class {
    /// Tries what has not been tried on the nodes as they are now. [`Class::refresh`] comes first.
    pub fn try_preemption(&mut self, snapshot: &Snapshot, profile: &Profile) -> &Trials {
        let storage = self.signature.volumes.is_some().then(|| snapshot.storage.log().position());
        let devices = self.signature.devices.is_some().then(|| snapshot.devices.log().position());
        let now = (
            snapshot.log().position(),
            Everywhere { budgets: snapshot.budgets_generation(), storage, devices },
        );
        let mut trials = std::mem::take(&mut self.trials);
        // A trial of a pod with rules about places depends on pods elsewhere as well.
        let alone = !self.signature.has_rules_about_places();
        let made = trials.made.filter(|(_, everywhere)| alone && *everywhere == now.1);
        let changed = made.and_then(|(position, _)| snapshot.log().since(position));
        let changed: Vec<Slot> = match (&self.only, changed) {
            (Some(names), _) => {
                trials = Trials::default();
                names.iter().filter_map(|name| snapshot.slot_of(*name)).collect()
            }
            (None, Some(changed)) => changed.collect(),
            (None, None) => (0..snapshot.slots() as Slot).collect(),
        };
        for slot in changed {
            let trial = self.try_node(snapshot, profile, slot).map(|(trial, _)| trial);
            trials.set(snapshot, slot, trial);
        }
        trials.made = Some(now);
        self.trials = trials;
        &self.trials
    }

    /// One node's trial, and the victims where it helps, the most important first. `None` where
    /// there is no node, or it needs no victims.
    pub fn try_node(
        &mut self,
        snapshot: &Snapshot,
        profile: &Profile,
        slot: Slot,
    ) -> Option<(Trial, Vec<Arc<PodInfo>>)> {
        let refusal = self.refusal(&self.view(snapshot, profile), slot)?;
        if !refusal.resolvable {
            return Some((Trial::NotHelpful, Vec::new()));
        }
        let priority = self.signature.spec.priority;
        let node = snapshot.node(slot);
        let mut victims: Vec<Arc<PodInfo>> =
            node.pods.iter().filter(|pod| pod.priority() < priority).cloned().collect();
        if victims.is_empty() {
            return Some((Trial::NoVictims, Vec::new()));
        }
        victims.sort_by_key(|pod| importance(pod));
        let mut stage = Stage::new(self, snapshot, profile, slot);
        victims.iter().for_each(|victim| stage.take_out(victim));
        if let Err(refusal) = stage.verdict() {
            return Some((Trial::Refused(refusal.kind()), Vec::new()));
        }
        // Those whose budget would be overrun are the first to be spared, then the most important.
        let (protected, others) = split_by_budget(snapshot, victims);
        let spare = |victims: Vec<Arc<PodInfo>>, stage: &mut Stage| -> Vec<Arc<PodInfo>> {
            victims.into_iter().filter(|victim| !stage.spares(victim)).collect()
        };
        let mut victims = spare(protected, &mut stage);
        let violations = victims.len();
        victims.extend(spare(others, &mut stage));
        victims.sort_by_key(|pod| importance(pod));
        let rank = rank(violations, &victims)?;
        Some((Trial::Helps(rank), victims))
    }
}

/// The most important first.
pub fn importance(pod: &PodInfo) -> (Reverse<i32>, i64) {
    (Reverse(pod.priority()), pod.started)
}

/// `None` without victims: then there is nothing to preempt.
pub fn rank(violations: usize, victims: &[Arc<PodInfo>]) -> Option<Rank> {
    let highest_priority = victims.first()?.priority();
    let shift = i64::from(i32::MAX) + 1;
    let foremost = victims.iter().filter(|pod| pod.priority() == highest_priority);
    Some(Rank {
        violations,
        highest_priority,
        priorities: victims.iter().map(|pod| i64::from(pod.priority()) + shift).sum(),
        count: victims.len(),
        started: Reverse(foremost.map(|pod| pod.started).min()?),
    })
}

/// Victims that overrun a disruption budget if all of these go, in this order; and the others.
fn split_by_budget(
    snapshot: &Snapshot,
    victims: Vec<Arc<PodInfo>>,
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<_> = snapshot.budgets().map(|budget| (budget, budget.allowed)).collect();
    let mut overruns = |pod: &Arc<PodInfo>| {
        let mut overrun = false;
        for (budget, allowed) in &mut left {
            if budget.protects(&snapshot.catalogue.symbols, pod) {
                *allowed -= 1;
                overrun |= *allowed < 0;
            }
        }
        overrun
    };
    victims.into_iter().partition(|pod| overruns(pod))
}

/// A node during its trial: what fills it, and what the tables would count of it.
struct Stage<'a> {
    class: &'a Class,
    snapshot: &'a Snapshot,
    profile: &'a Profile,
    slot: Slot,
    fill: Fill,
    /// How many pods fewer (or more) each table counts.
    change: Vec<i64>,
}

impl<'a> Stage<'a> {
    fn new(class: &'a Class, snapshot: &'a Snapshot, profile: &'a Profile, slot: Slot) -> Self {
        let fill = snapshot.node(slot).fill.clone();
        Stage { class, snapshot, profile, slot, fill, change: vec![0; class.topology.len()] }
    }
    fn take_out(&mut self, pod: &PodInfo) {
        self.fill.remove(pod);
        self.count(pod, -1);
    }
    fn put_back(&mut self, pod: &PodInfo) {
        self.fill.add(pod);
        self.count(pod, 1);
    }
    fn count(&mut self, pod: &PodInfo, sign: i64) {
        if self.class.topology.is_empty() {
            return;
        }
        let change =
            self.class.change_by(&self.class.view(self.snapshot, self.profile), self.slot, &pod.template);
        for (sum, amount) in self.change.iter_mut().zip(change.iter()) {
            *sum += sign * amount;
        }
    }
    /// Puts a pod back if the incoming one still fits then.
    fn spares(&mut self, pod: &PodInfo) -> bool {
        self.put_back(pod);
        let fits = self.verdict().is_ok();
        if !fits {
            self.take_out(pod);
        }
        fits
    }
    fn verdict(&self) -> Verdict {
        let node = self.snapshot.node(self.slot);
        let Some(shape) = &node.shape else { return Ok(()) };
        let view: View = self.class.view(self.snapshot, self.profile);
        filter_node_with_nominated(&view, &Candidate { node, shape, fill: &self.fill })?;
        if view.topology.is_empty() {
            return Ok(());
        }
        let places = Features { places: view.topology.places(self.slot), ..Features::default() };
        let nominated = self.class.nominated(&view, self.slot);
        if nominated.iter().any(|pods| *pods != 0) {
            let both: Vec<i64> = self.change.iter().zip(nominated.iter()).map(|(a, b)| a + b).collect();
            filter_place_with(&view, &places, &both)?;
        }
        filter_place_with(&view, &places, &self.change)
    }
}
