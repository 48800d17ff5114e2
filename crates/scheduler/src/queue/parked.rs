//! Refused pods by what they have in common: pods of one template refused by the same plugins hope
//! for the same, and are asked about once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::framework::{Event, PluginSet, Profile, Question};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

#[derive(Default)]
pub struct Parked {
    groups: BTreeMap<GroupKey, Group>,
    /// How many groups there are that more pods on nodes can help.
    caring: usize,
}

/// Of pods with volumes or devices each has claims of its own, and hopes for something else than the others.
type GroupKey = (u32, PluginSet, Option<Arc<str>>);

fn key(pod: &PodInfo, by: PluginSet) -> GroupKey {
    (pod.template.id, by, (pod.volumes.is_some() || pod.devices.is_some()).then(|| pod.key.clone()))
}

struct Group {
    /// One of them, to ask about.
    example: Arc<PodInfo>,
    keys: BTreeSet<Arc<str>>,
}

impl Parked {
    pub fn insert(&mut self, pod: &Arc<PodInfo>, by: PluginSet) {
        let group = self.groups.entry(key(pod, by)).or_insert_with(|| {
            self.caring += usize::from(by.cares_for_placed_pods());
            Group { example: pod.clone(), keys: BTreeSet::new() }
        });
        group.keys.insert(pod.key.clone());
    }
    pub fn remove(&mut self, pod: &PodInfo, by: PluginSet) {
        let Some(group) = self.groups.get_mut(&key(pod, by)) else { return };
        group.keys.remove(&pod.key);
        if group.keys.is_empty() {
            self.groups.remove(&key(pod, by));
            self.caring -= usize::from(by.cares_for_placed_pods());
        }
    }
    /// The pods an event may help.
    pub fn helped(&self, snapshot: &Snapshot, profiles: &[Profile], event: Event) -> Vec<Arc<str>> {
        // Pods are placed all the time, and few of those that wait have use for it.
        if matches!(event, Event::PodPlaced(_)) && self.caring == 0 {
            return Vec::new();
        }
        let hopes = |by: PluginSet, pod: &PodInfo| {
            let name = snapshot.catalogue.symbols.text(pod.template.spec.scheduler);
            let profile = profiles.iter().find(|profile| profile.scheduler_name == name);
            // Refused by nobody: there were no nodes.
            by.is_empty()
                || profile.is_some_and(|profile| by.hopes(&Question { snapshot, profile, pod, event }))
        };
        let helped = self.groups.iter().filter(|((_, by, _), group)| hopes(*by, &group.example));
        helped.flat_map(|(_, group)| group.keys.iter().cloned()).collect()
    }
}
