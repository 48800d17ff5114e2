//! A class of pods: those the plugins cannot tell apart. It remembers what each node is to such a pod
//! and, before each decision, looks only at the nodes that changed since the last; so a decision
//! costs what has happened meanwhile, not what the cluster has.

mod features;
mod groups;
mod memory;
mod signature;
mod table;
mod topology;
mod trial;

use std::collections::HashMap;

pub use features::{Features, Place};
pub use groups::Group;
pub use memory::Classes;
pub use signature::{Hard, Identity, Signature, constraints};
pub use table::{Purpose, Table};
pub use topology::Topology;
pub use trial::{NOT_HELPFUL, Rank, Trial, Trials, importance, rank};

use groups::{Groups, Member};

use crate::framework::{Candidate, Choice, Filter, Point, Profile, Refusal, Score, Verdict, View};
use crate::node::{Fill, Slot};
use crate::plugins::node_affinity;
use crate::pod::Template;
use crate::snapshot::Snapshot;
use crate::symbols::Symbol;

/// What a class weighs that knows no slot: its rules, its groups, how it is found.
const OWN_WEIGHT: usize = 100;
/// What each table adds for a slot, or for a template it has met.
const PLACE_WEIGHT: usize = 3;
/// What a slot's trial adds.
const TRIAL_WEIGHT: usize = 4;

#[derive(Debug)]
pub struct Class {
    pub signature: Signature,
    /// The only nodes that come into question, if the pods name any.
    only: Option<Vec<Symbol>>,
    topology: Topology,
    groups: Groups,
    /// By slot.
    standings: Vec<Standing>,
    refusals: Refusals,
    trials: Trials,
    /// How far in the logs of nodes, of storage and of devices it has looked.
    position: Option<[u64; 3]>,
}

/// What a node is to the class, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Absent,
    Refused(u32),
    Member(Member),
}

/// How many nodes are refused for what.
#[derive(Debug, Default)]
struct Refusals {
    kinds: Vec<(Refusal, usize)>,
    by_kind: HashMap<Refusal, u32>,
}

impl Refusals {
    fn count(&mut self, refusal: Refusal) -> u32 {
        let kind = refusal.kind();
        let index = match self.by_kind.get(&kind) {
            Some(index) => *index,
            None => {
                let index = self.kinds.len() as u32;
                self.kinds.push((kind.clone(), 0));
                self.by_kind.insert(kind, index);
                index
            }
        };
        self.kinds[index as usize].1 += 1;
        index
    }
}

/// What became of a class's nodes in a decision.
pub struct Judgement<'a> {
    /// Groups that will do, with what is added to the scores of their nodes.
    pub feasible: Vec<(&'a Group, i64)>,
    /// Why nodes will not do, and how many each.
    pub refused: Vec<(Refusal, usize)>,
}

impl Class {
    pub fn new(snapshot: &Snapshot, signature: Signature) -> Self {
        let topology = Topology::new(snapshot, &signature);
        Class {
            only: node_affinity::named_nodes(&signature.spec).ok().flatten(),
            topology,
            groups: Groups::default(),
            standings: Vec::new(),
            refusals: Refusals::default(),
            trials: Trials::default(),
            position: None,
            signature,
        }
    }

    pub fn view<'a>(&'a self, snapshot: &'a Snapshot, profile: &'a Profile) -> View<'a> {
        View { snapshot, pod: &self.signature, profile, topology: &self.topology }
    }
    pub fn topology(&self) -> &Topology {
        &self.topology
    }
    /// What it takes of memory once it knows so many slots, in standings, thirty bytes each.
    fn weight(&self, slots: usize) -> usize {
        let slots = slots.max(self.standings.len());
        let places = PLACE_WEIGHT * (slots * self.topology.len() + self.topology.remembered());
        OWN_WEIGHT + slots + places + TRIAL_WEIGHT * self.trials.slots()
    }

    /// Looks at what changed since the last time. The slots looked at are returned.
    pub fn refresh(&mut self, snapshot: &Snapshot, profile: &Profile) -> Vec<Slot> {
        let mut changed = self.changed(snapshot).unwrap_or_else(|| (0..snapshot.slots() as Slot).collect());
        let (storage, devices) = (snapshot.storage.log(), snapshot.devices.log());
        self.position = Some([snapshot.log().position(), storage.position(), devices.position()]);
        self.standings.resize(snapshot.slots().max(self.standings.len()), Standing::Absent);
        let mut stale = Vec::new();
        for slot in &changed {
            self.topology.update(snapshot, profile, &self.signature, *slot, &mut stale);
        }
        if !stale.is_empty() {
            changed.append(&mut stale);
            changed.sort_unstable();
            changed.dedup();
        }
        for slot in &changed {
            self.look_at(snapshot, profile, *slot);
        }
        changed
    }

    /// The slots to look at; `None` for all.
    fn changed(&self, snapshot: &Snapshot) -> Option<Vec<Slot>> {
        let [nodes, storage, devices] = self.position?;
        let mut changed: Vec<Slot> = snapshot.log().since(nodes)?.collect();
        if self.signature.volumes.is_some() {
            changed.append(&mut snapshot.storage.log().since(snapshot, storage)?);
        }
        if self.signature.devices.is_some() {
            changed.append(&mut snapshot.devices.log().since(snapshot, devices)?);
        }
        if self.signature.volumes.is_some() || self.signature.devices.is_some() {
            changed.sort_unstable();
            changed.dedup();
        }
        Some(changed)
    }

    fn look_at(&mut self, snapshot: &Snapshot, profile: &Profile, slot: Slot) {
        self.forget(slot);
        let standing = match self.assess(snapshot, profile, slot) {
            None => Standing::Absent,
            Some(Err(refusal)) => Standing::Refused(self.refusals.count(refusal)),
            Some(Ok((features, score))) => Standing::Member(self.groups.add(features, score, slot)),
        };
        self.standings[slot as usize] = standing;
    }

    fn forget(&mut self, slot: Slot) {
        match self.standings[slot as usize] {
            Standing::Absent => {}
            Standing::Refused(kind) => self.refusals.kinds[kind as usize].1 -= 1,
            Standing::Member(member) => {
                let moved = self.groups.remove(member);
                if let Some(Standing::Member(other)) = moved.map(|slot| &mut self.standings[slot as usize]) {
                    *other = other.at(member.position());
                }
            }
        }
        self.standings[slot as usize] = Standing::Absent;
    }

    /// Whether a node of this name comes into question.
    fn names(&self, node: Symbol) -> bool {
        self.only.as_ref().is_none_or(|names| names.contains(&node))
    }
    /// How many nodes do not come into question by their names.
    pub fn not_named(&self, snapshot: &Snapshot) -> usize {
        let exists = |name: &&Symbol| snapshot.slot_of(**name).is_some();
        let named = self.only.as_ref().map(|names| names.iter().filter(exists).count());
        named.map_or(0, |named| snapshot.node_count() - named)
    }

    /// What a node is by itself: refused, or with features and a score. `None` if there is none.
    fn assess(
        &self,
        snapshot: &Snapshot,
        profile: &Profile,
        slot: Slot,
    ) -> Option<Result<(Features, i64), Refusal>> {
        let node = snapshot.node(slot);
        let shape = node.shape.as_ref()?;
        if !self.names(node.name) {
            return None; // told of all others at once
        }
        let candidate = Candidate { node, shape, fill: &node.fill };
        let view = self.view(snapshot, profile);
        if let Err(refusal) = filter_node_with_nominated(&view, &candidate) {
            return Some(Err(refusal));
        }
        let nominated = self.nominated(&view, slot);
        Some(Ok((Features::of(&view, &candidate, slot, nominated), score_node(&view, &candidate))))
    }

    /// What makes a node better or worse, whether it will do or not. `None` if there is none.
    pub fn features(&self, view: &View, slot: Slot) -> Option<Features> {
        let node = view.snapshot.node(slot);
        let candidate = Candidate { node, shape: node.shape.as_ref()?, fill: &node.fill };
        Some(Features::of(view, &candidate, slot, self.nominated(view, slot)))
    }

    /// What pods that wait for room on the node, and matter at least as much, would add to the tables.
    fn nominated(&self, view: &View, slot: Slot) -> Box<[i64]> {
        let waiting = &view.snapshot.node(slot).nominated;
        let waiting = waiting.iter().filter(|pod| pod.priority() >= self.signature.spec.priority);
        let mut sums: Vec<i64> = Vec::new();
        for pod in waiting.filter(|_| !self.topology.is_empty()) {
            let change = self.change_by(view, slot, &pod.template);
            sums.resize(change.len(), 0);
            sums.iter_mut().zip(change.iter()).for_each(|(sum, amount)| *sum += amount);
        }
        sums.into()
    }
    fn change_by(&self, view: &View, slot: Slot, template: &Template) -> Box<[i64]> {
        self.topology.change_by(view.snapshot, view.profile, &self.signature, slot, template)
    }

    /// Judges by what the class knows; [`Class::refresh`] comes first.
    pub fn judge(&self, snapshot: &Snapshot, profile: &Profile) -> Judgement<'_> {
        let view = self.view(snapshot, profile);
        let mut refused: Vec<(Refusal, usize)> =
            self.refusals.kinds.iter().filter(|(_, nodes)| *nodes > 0).cloned().collect();
        let not_named = self.not_named(snapshot);
        if not_named > 0 {
            refused.push((node_affinity::not_named(), not_named));
        }
        let mut groups = Vec::new();
        for group in self.groups.iter() {
            match filter_place(&view, &group.features) {
                Ok(()) => groups.push(group),
                Err(refusal) => match refused.iter_mut().find(|(kind, _)| *kind == refusal) {
                    Some((_, nodes)) => *nodes += group.nodes,
                    None => refused.push((refusal, group.nodes)),
                },
            }
        }
        let choices = groups.iter().map(|g| Choice { features: &g.features, nodes: g.nodes });
        let choices: Vec<Choice> = choices.collect();
        let totals = score_groups(&view, &choices);
        Judgement { feasible: groups.into_iter().zip(totals).collect(), refused }
    }

    /// Whether a node will do.
    pub fn takes(&self, snapshot: &Snapshot, profile: &Profile, slot: Slot) -> bool {
        let exists = snapshot.node(slot).shape.is_some();
        exists && self.refusal(&self.view(snapshot, profile), slot).is_none()
    }
    /// Why a node will not do, if it will not; what preemption may be tried on.
    pub fn refusal(&self, view: &View, slot: Slot) -> Option<Refusal> {
        let node = view.snapshot.node(slot);
        if node.shape.is_some() && !self.names(node.name) {
            return Some(node_affinity::not_named());
        }
        match self.standings.get(slot as usize)? {
            Standing::Absent => None,
            Standing::Refused(kind) => Some(self.refusals.kinds[*kind as usize].0.clone()),
            Standing::Member(member) => filter_place(view, self.groups.features(*member)?).err(),
        }
    }
}

impl Judgement<'_> {
    /// The best node; `tie_break` chooses among equals, any number will do.
    pub fn best(&self, tie_break: u64) -> Option<Slot> {
        let tops =
            || self.feasible.iter().filter_map(|(g, more)| g.best().map(|(s, slots)| (s + more, slots)));
        let highest = tops().map(|(score, _)| score).max()?;
        let winners = || tops().filter(|(score, _)| *score == highest).map(|(_, slots)| slots);
        let count: usize = winners().map(<[Slot]>::len).sum();
        winners().flatten().copied().nth((tie_break % count.max(1) as u64) as usize)
    }
    /// All feasible nodes with their scores.
    pub fn scores(&self) -> impl Iterator<Item = (Slot, i64)> + '_ {
        self.feasible
            .iter()
            .flat_map(|(group, more)| group.slots().map(move |(slot, score)| (slot, score + more)))
    }
}

/// The filters that judge a node by itself; the first that refuses speaks.
pub fn filter_node(view: &View, candidate: &Candidate) -> Verdict {
    for enabled in view.profile.at(Point::Filter) {
        if let Filter::Node(filter) = enabled.plugin.filter {
            enabled.count(Point::Filter);
            filter(view, candidate)?;
        }
    }
    Ok(())
}

/// The same, where pods wait for room that matter at least as much: with them and without.
pub fn filter_node_with_nominated(view: &View, candidate: &Candidate) -> Verdict {
    let priority = view.pod.spec.priority;
    let mut nominated = candidate.node.nominated.iter().filter(|pod| pod.priority() >= priority).peekable();
    if nominated.peek().is_some() {
        let mut fill: Fill = candidate.fill.clone();
        nominated.for_each(|pod| fill.add(pod));
        filter_node(view, &Candidate { fill: &fill, ..*candidate })?;
    }
    filter_node(view, candidate)
}

/// The filters that judge a place among others.
pub fn filter_place_with(view: &View, features: &Features, more: &[i64]) -> Verdict {
    for enabled in view.profile.at(Point::Filter) {
        if let Filter::Place(filter) = enabled.plugin.filter {
            enabled.count(Point::Filter);
            filter(view, features, more)?;
        }
    }
    Ok(())
}

fn filter_place(view: &View, features: &Features) -> Verdict {
    if view.topology.is_empty() {
        return Ok(());
    }
    if !features.nominated.is_empty() {
        filter_place_with(view, features, &features.nominated)?;
    }
    filter_place_with(view, features, &[])
}

fn score_node(view: &View, candidate: &Candidate) -> i64 {
    let scores = view.profile.scores().map(|(enabled, score)| match score {
        Score::Node(score) => {
            enabled.count(Point::Score);
            enabled.weight * score(view, candidate)
        }
        _ => 0,
    });
    scores.sum()
}

fn score_groups(view: &View, choices: &[Choice]) -> Vec<i64> {
    let mut totals = vec![0; choices.len()];
    for (enabled, score) in view.profile.scores() {
        if let Score::Groups(score) = score {
            enabled.count(Point::Score);
            for (total, mark) in totals.iter_mut().zip(score(view, choices)) {
                *total += enabled.weight * mark;
            }
        }
    }
    totals
}
