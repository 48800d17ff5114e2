//! Refused pods by what they have in common: pods of one template refused by the same plugins hope
//! for the same, and are asked about once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::framework::{Event, PluginSet, Profile, Question};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

#[derive(Default)]
pub struct Parked {
    groups: BTreeMap<(u32, PluginSet), Group>,
    /// How many groups there are that more pods on nodes can help.
    caring: usize,
}

struct Group {
    /// One of them, to ask about.
    example: Arc<PodInfo>,
    keys: BTreeSet<Arc<str>>,
}

impl Parked {
    pub fn insert(&mut self, pod: &Arc<PodInfo>, by: PluginSet) {
        let group = self.groups.entry((pod.template.id, by)).or_insert_with(|| {
            self.caring += usize::from(by.cares_for_placed_pods());
            Group { example: pod.clone(), keys: BTreeSet::new() }
        });
        group.keys.insert(pod.key.clone());
    }
    pub fn remove(&mut self, pod: &PodInfo, by: PluginSet) {
        let Some(group) = self.groups.get_mut(&(pod.template.id, by)) else { return };
        group.keys.remove(&pod.key);
        if group.keys.is_empty() {
            self.groups.remove(&(pod.template.id, by));
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
        let helped = self.groups.iter().filter(|((_, by), group)| hopes(*by, &group.example));
        helped.flat_map(|(_, group)| group.keys.iter().cloned()).collect()
    }
}
