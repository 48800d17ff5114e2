//! The decision itself: which node is best for a pod, and what is to be done if none will do. Pure:
//! the same snapshot, pod and tie-break give the same answer; what is remembered of classes of pods
//! makes it fast and changes nothing.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::class::{Class, Classes, Judgement, Signature, Topology, filter_node_with_nominated};
use crate::explanation::Explanation;
use crate::framework::{Candidate, Enabled, PluginSet, Point, Profile, View};
use crate::node::Slot;
use crate::plugins::dynamic_resources::Deallocation;
use crate::plugins::{default_preemption, dynamic_resources, node_affinity};
use crate::pod::{PodInfo, Template};
use crate::preemption::{Preemption, Room, among, hopeless, preempt, rooms};
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub enum Decision {
    Node(Slot),
    Unschedulable(Unschedulable),
}

#[derive(Debug)]
pub struct Unschedulable {
    pub explanation: Explanation,
    /// The plugins that refused nodes: what may help the pod is for them to say.
    pub plugins: PluginSet,
    /// Whether one of its claims is to be given other devices, if that was looked for.
    pub deallocation: Option<Deallocation>,
    pub preemption: Option<Preemption>,
}

/// What others than the plugins say about the nodes that would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Those that are left, with what is added to their scores.
    pub nodes: HashMap<String, i64>,
    /// Why the others will not do.
    pub refused: Vec<String>,
}

impl Advice {
    fn best(&self, snapshot: &Snapshot, judgement: &Judgement, tie_break: u64) -> Option<Slot> {
        let left = judgement.scores();
        let left: Vec<(Slot, i64)> = left
            .filter_map(|(slot, score)| Some((slot, score + self.nodes.get(snapshot.name(slot))?)))
            .collect();
        let highest = left.iter().map(|(_, score)| *score).max()?;
        let mut winners: Vec<Slot> =
            left.into_iter().filter(|(_, score)| *score == highest).map(|(slot, _)| slot).collect();
        let index = (tie_break % winners.len() as u64) as usize;
        Some(winners.swap_remove(index))
    }
}

/// How often a plugin was asked at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluated {
    pub plugin: &'static str,
    pub point: &'static str,
    /// The name of the profile's scheduler.
    pub profile: String,
    pub times: u64,
}

/// One decision.
#[derive(Clone, Copy)]
struct Question<'a> {
    pod: &'a PodInfo,
    profile: usize,
    /// Where room was being made for the pod.
    waited_at: Option<Slot>,
    tie_break: u64,
    advice: Option<&'a Advice>,
}

/// Decides for all profiles, and remembers classes of pods between decisions.
#[derive(Debug)]
pub struct Scheduler {
    profiles: Vec<Profile>,
    classes: Classes,
}

impl Scheduler {
    pub fn new(profiles: Vec<Profile>) -> Self {
        Scheduler { profiles, classes: Classes::default() }
    }
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }
    /// Takes over what another with the same profiles counted.
    pub fn inherit(&self, old: &Scheduler) {
        self.enabled().zip(old.enabled()).for_each(|((_, new), (_, old))| new.inherit(old));
    }
    fn enabled(&self) -> impl Iterator<Item = (&Profile, &Enabled)> {
        self.profiles.iter().flat_map(|profile| profile.enabled.iter().map(move |enabled| (profile, enabled)))
    }
    /// How often each plugin was asked since this was last called.
    pub fn take_evaluations(&self) -> Vec<Evaluated> {
        let counts = self.enabled().flat_map(|(profile, enabled)| {
            enabled.take_counts().map(|(point, times)| Evaluated {
                plugin: enabled.plugin.name,
                point,
                profile: profile.scheduler_name.clone(),
                times,
            })
        });
        counts.collect()
    }
    /// The profile of a pod, if the pod is ours.
    pub fn profile_of(&self, snapshot: &Snapshot, template: &Template) -> Option<usize> {
        let name = snapshot.catalogue.symbols.text(template.spec.scheduler);
        self.profiles.iter().position(|profile| profile.scheduler_name == name)
    }

    /// Where a waiting pod is to go. `tie_break` chooses among equally good nodes; any number will
    /// do. The node that room is held on for the pod, whoever said so, is asked first. In the snapshot
    /// the pod waits for a node afterwards if room is (still) being made for it.
    pub fn decide(&mut self, snapshot: &mut Snapshot, pod: &Arc<PodInfo>, tie_break: u64) -> Decision {
        self.decide_advised(snapshot, pod, tie_break, None)
    }

    /// The nodes that will do for a waiting pod, for others to be asked about.
    pub fn feasible(&mut self, snapshot: &mut Snapshot, pod: &Arc<PodInfo>) -> Vec<Slot> {
        let profile = self.profile_of(snapshot, &pod.template).unwrap_or(0);
        if self.refusal_beforehand(snapshot, pod, profile).is_some() {
            return Vec::new();
        }
        let waited_for = snapshot.denominate(&pod.key);
        let (class, profile) = self.class(snapshot, pod);
        let slots = class.judge(snapshot, profile).scores().map(|(slot, _)| slot).collect();
        if let Some(node) = waited_for {
            snapshot.nominate_for(pod.clone(), node);
        }
        slots
    }

    /// The same as [`Scheduler::decide`], among the nodes that others left.
    pub fn decide_advised(
        &mut self,
        snapshot: &mut Snapshot,
        pod: &Arc<PodInfo>,
        tie_break: u64,
        advice: Option<&Advice>,
    ) -> Decision {
        let profile = self.profile_of(snapshot, &pod.template).unwrap_or(0);
        // What waits for the pod itself must not be in its way.
        let waited_for = snapshot.denominate(&pod.key);
        let waited_at = waited_for.and_then(|node| snapshot.slot_of(node));
        let question = Question { pod, profile, waited_at, tie_break, advice };
        let decision = self.decide_afresh(snapshot, &question);
        let waits_for = match &decision {
            Decision::Node(_) => None,
            Decision::Unschedulable(unschedulable) => match &unschedulable.preemption {
                Some(Preemption::Plan(plan)) => Some(snapshot.node(plan.slot).name),
                Some(Preemption::NoHelp(_) | Preemption::Vetoed(_)) => None,
                Some(Preemption::NotEligible(_)) => waited_for,
                // Where nothing at all was tried, nothing is left to wait for.
                None => waited_for.filter(|_| unschedulable.deallocation.is_some()),
            },
        };
        if let Some(node) = waits_for {
            snapshot.nominate_for(pod.clone(), node);
        }
        decision
    }

    fn decide_afresh(&mut self, snapshot: &Snapshot, question: &Question) -> Decision {
        let Question { pod, profile, waited_at, tie_break, advice } = *question;
        let nodes = snapshot.node_count();
        let [deallocates, preempts] = [dynamic_resources::NAME, default_preemption::NAME]
            .map(|name| self.profiles[profile].is_enabled(name, Point::PostFilter));
        if let Some((plugin, text)) = self.refusal_beforehand(snapshot, pod, profile) {
            let explanation = Explanation { nodes, beforehand: Some(text), ..Explanation::default() };
            let plugins = PluginSet::of([plugin]);
            let deallocation = deallocates.then_some(Deallocation::NoClaims);
            let preemption = preempts.then(|| hopeless(&pod.template.spec, nodes));
            return unschedulable(Unschedulable { explanation, plugins, deallocation, preemption });
        }
        let named = node_affinity::named_nodes(&pod.template.spec).ok().flatten();
        if let Some([name]) = named.as_deref()
            && advice.is_none()
            && let Some(slot) = snapshot.slot_of(*name)
            && self.takes_named(snapshot, pod, profile, slot)
        {
            return Decision::Node(slot);
        }
        let class = self.classes.get(snapshot, &self.profiles, profile, pod);
        let profile = &self.profiles[profile];
        class.refresh(snapshot, profile);
        let left = |slot: &Slot| advice.is_none_or(|advice| advice.nodes.contains_key(snapshot.name(*slot)));
        if let Some(slot) = waited_at.filter(left).filter(|slot| class.takes(snapshot, profile, *slot)) {
            return Decision::Node(slot);
        }
        let judgement = class.judge(snapshot, profile);
        let best = match advice {
            None => judgement.best(tie_break),
            Some(advice) => advice.best(snapshot, &judgement, tie_break),
        };
        if let Some(slot) = best {
            return Decision::Node(slot);
        }
        let mut explanation = Explanation::of(&snapshot.catalogue.resources, nodes, &judgement.refused);
        for reason in advice.iter().flat_map(|advice| &advice.refused) {
            explanation.count(reason, 1);
        }
        // What may help a pod that others refused nodes to, nobody knows.
        let refusing = judgement.refused.iter().filter(|_| advice.is_none());
        let plugins = PluginSet::of(refusing.map(|(refusal, _)| refusal.plugin));
        let view = class.view(snapshot, profile);
        let refused = || {
            snapshot
                .nodes()
                .filter(|(slot, _, _)| dynamic_resources::is_elsewhere(class.refusal(&view, *slot)))
        };
        let deallocation =
            deallocates.then(|| dynamic_resources::deallocation(snapshot, pod, refused, tie_break));
        let preemption = preempts.then(|| preempt(class, snapshot, profile, waited_at));
        unschedulable(Unschedulable { explanation, plugins, deallocation, preemption })
    }

    /// Where room could be made for a pod that no node takes, for others to be asked about.
    pub fn rooms(&mut self, snapshot: &mut Snapshot, pod: &Arc<PodInfo>) -> Vec<Room> {
        let waits_for = snapshot.denominate(&pod.key);
        let (class, profile) = self.class(snapshot, pod);
        let rooms = rooms(class, snapshot, profile);
        if let Some(node) = waits_for {
            snapshot.nominate_for(pod.clone(), node);
        }
        rooms
    }

    /// The plugin that refuses a pod every node, and why, if one does.
    pub fn refusal_beforehand(
        &self,
        snapshot: &Snapshot,
        pod: &PodInfo,
        profile: usize,
    ) -> Option<(&'static str, Cow<'static, str>)> {
        let mut enabled = self.profiles[profile].at(Point::PreFilter);
        enabled.find_map(|enabled| {
            let before = enabled.plugin.before?;
            enabled.count(Point::PreFilter);
            let text = before(snapshot, pod).err()?;
            Some((enabled.plugin.name, text))
        })
    }

    /// The class of a pod as it is now: what each node is to the pod, and why.
    pub fn class(&mut self, snapshot: &Snapshot, pod: &PodInfo) -> (&mut Class, &Profile) {
        let profile = self.profile_of(snapshot, &pod.template).unwrap_or(0);
        let class = self.classes.get(snapshot, &self.profiles, profile, pod);
        class.refresh(snapshot, &self.profiles[profile]);
        (class, &self.profiles[profile])
    }

    /// Whether the only node a pod can go to takes it. Pods of a DaemonSet name one each, and would
    /// each be a class of its own; where other pods are does not matter to most.
    fn takes_named(&self, snapshot: &Snapshot, pod: &PodInfo, profile: usize, slot: Slot) -> bool {
        let signature = Signature::new(snapshot, &self.profiles, profile, pod);
        if signature.has_rules_about_places() {
            return false;
        }
        let node = snapshot.node(slot);
        let Some(shape) = &node.shape else { return false };
        let profile = &self.profiles[profile];
        let view = View { snapshot, pod: &signature, profile, topology: &Topology::default() };
        filter_node_with_nominated(&view, &Candidate { node, shape, fill: &node.fill }).is_ok()
    }
}

fn unschedulable(mut refused: Unschedulable) -> Decision {
    refused.preemption = refused.preemption.filter(|_| refused.explanation.nodes > 0);
    refused.deallocation = refused.deallocation.filter(|_| refused.explanation.nodes > 0);
    refused.tell_what_was_tried();
    Decision::Unschedulable(refused)
}

impl Unschedulable {
    /// Takes over what others made of the places where room could be made.
    pub fn revise(&mut self, snapshot: &mut Snapshot, pod: &Arc<PodInfo>, left: Result<Vec<Room>, String>) {
        snapshot.denominate(&pod.key);
        let preemption = left.map_or_else(Preemption::Vetoed, |rooms| among(snapshot, rooms));
        if let Preemption::Plan(plan) = &preemption {
            snapshot.nominate(pod.clone(), plan.slot);
        }
        self.preemption = Some(preemption);
        self.tell_what_was_tried();
    }
    /// Where room is being made, nothing else is told.
    fn tell_what_was_tried(&mut self) {
        let makes_room = matches!(self.preemption, Some(Preemption::Plan(_)));
        let claims = self.deallocation.iter().map(|tried| tried.message().to_owned());
        let message = self.preemption.as_ref().and_then(Preemption::message);
        let preemption = message.map(|message| format!("preemption: {message}"));
        self.explanation.afterwards = match makes_room {
            true => Vec::new(),
            false => claims.chain(preemption).collect(),
        };
    }
}

#[cfg(test)]
mod tests;
