//! The classes met so far. Which class a pod is of is worked out once per template.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Class, Identity, Signature};
use crate::framework::Profile;
use crate::pod::PodInfo;
use crate::snapshot::{Generations, Snapshot};
use crate::symbols::{NumberMap, Symbol};

/// What all classes together may weigh (see [`Class::weight`]): some two hundred megabytes. The classes
/// asked for longest ago are forgotten first.
const MAX_WEIGHT: usize = 6_000_000;
/// This part of it is given up at once.
const FORGOTTEN_AT_ONCE: usize = 8;
/// Templates whose class is remembered, so that it need not be worked out for each pod.
const MAX_KNOWN_TEMPLATES: usize = 16_384;

#[derive(Debug, Default)]
pub struct Classes {
    classes: HashMap<Arc<Identity>, Remembered>,
    /// What the classes weigh together.
    weight: usize,
    known: NumberMap<(u32, Option<Symbol>), (Generations, Arc<Identity>)>,
    asked: u64,
}

#[derive(Debug)]
struct Remembered {
    class: Class,
    /// When it was last asked for: what it looks at after that is in it already.
    weight: usize,
    /// By the number of times a class was asked for.
    last_used: u64,
}

impl Classes {
    /// The class of a pod, as it was when last asked for.
    pub fn get(
        &mut self,
        snapshot: &Snapshot,
        profiles: &[Profile],
        profile: usize,
        pod: &PodInfo,
    ) -> &mut Class {
        self.forget_old(MAX_WEIGHT);
        self.asked += 1;
        let (key, generations) = ((pod.template.id, pod.node), snapshot.generations());
        // What volumes and devices come to is the pod's own, and may be another with each decision.
        let plain = pod.volumes.is_none() && pod.devices.is_none();
        let known = self.known.get(&key).filter(|(then, _)| *then == generations && plain);
        let mut signature = None;
        let identity = match known {
            Some((_, identity)) => identity.clone(),
            None => {
                let new = signature.insert(Signature::new(snapshot, profiles, profile, pod));
                if self.known.len() >= MAX_KNOWN_TEMPLATES {
                    self.known.clear();
                }
                if plain {
                    self.known.insert(key, (generations, new.identity.clone()));
                }
                new.identity.clone()
            }
        };
        let asked = self.asked;
        let remembered = self.classes.entry(identity).or_insert_with(|| {
            let signature = signature.unwrap_or_else(|| Signature::new(snapshot, profiles, profile, pod));
            Remembered { class: Class::new(snapshot, signature), weight: 0, last_used: asked }
        });
        remembered.last_used = asked;
        let weight = remembered.class.weight(snapshot.slots());
        self.weight = self.weight - remembered.weight + weight;
        remembered.weight = weight;
        &mut remembered.class
    }

    /// If all weigh more than they may, those asked for longest ago go; some more than need be, so that
    /// looking for them costs little for each. The last one asked for stays, whatever it weighs.
    fn forget_old(&mut self, most: usize) {
        if self.weight <= most {
            return;
        }
        let remembered = self.classes.values();
        let mut by_age: Vec<_> = remembered.map(|r| (Reverse(r.last_used), r.weight)).collect();
        by_age.sort_unstable();
        let mut left = most - most / FORGOTTEN_AT_ONCE;
        let fits = |(_, weight): &&(_, usize)| {
            let rest = left.checked_sub(*weight);
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let since = by_age.iter().take_while(fits).last().map_or(self.asked, |(Reverse(used), _)| *used);
        self.classes.retain(|_, remembered| remembered.last_used >= since);
        self.weight = self.classes.values().map(|remembered| remembered.weight).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::super::OWN_WEIGHT;
    use super::*;
    use amphipod_client::{CachedPod, Resource};
    use serde_json::json;

    fn snapshot(nodes: usize) -> Snapshot {
        let mut snapshot = Snapshot::default();
        (0..nodes).for_each(|number| add_node(&mut snapshot, number));
        snapshot
    }
    fn add_node(snapshot: &mut Snapshot, number: usize) {
        let node =
            json!({"metadata": {"name": format!("node-{number}")}, "status": {"allocatable": {"pods": "9"}}});
        snapshot.set_node(&serde_json::from_value(node).unwrap());
    }
    /// Asks for the class of a pod that asks for so much as no other does.
    fn ask(classes: &mut Classes, snapshot: &mut Snapshot, number: usize) {
        let container = json!({"name": "c", "resources": {"requests": {"memory": number}}});
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]}});
        let pod = snapshot.catalogue.pod(&CachedPod::decode(pod.to_string().as_bytes()).unwrap());
        let profiles = [Profile::default()];
        classes.get(snapshot, &profiles, 0, &pod).refresh(snapshot, &profiles[0]);
    }
    fn sum(classes: &Classes, snapshot: &Snapshot) -> usize {
        classes.classes.values().map(|remembered| remembered.class.weight(snapshot.slots())).sum()
    }

    #[test]
    fn many_classes_of_few_nodes_weigh_as_well_and_the_oldest_are_forgotten() {
        let (mut classes, mut snapshot) = (Classes::default(), snapshot(1));
        (1..=100).for_each(|number| ask(&mut classes, &mut snapshot, number));
        ask(&mut classes, &mut snapshot, 1);
        let one = OWN_WEIGHT + 1;
        assert_eq!((classes.weight, sum(&classes, &snapshot)), (100 * one, 100 * one));
        for (most, left) in [(100, 100), (80, 70), (8, 7), (1, 1), (0, 1)] {
            classes.forget_old(most * one);
            assert_eq!((classes.classes.len(), classes.weight), (left, left * one), "of {most}");
            let oldest = classes.classes.values().map(|remembered| remembered.last_used).min();
            assert_eq!(oldest, Some(classes.asked + 1 - left as u64), "of {most}");
        }
    }

    #[test]
    fn classes_weigh_more_when_nodes_come() {
        let (mut classes, mut snapshot) = (Classes::default(), snapshot(1));
        (1..=2).for_each(|number| ask(&mut classes, &mut snapshot, number));
        let before = classes.weight;
        (1..100).for_each(|number| add_node(&mut snapshot, number));
        (1..=2).for_each(|number| ask(&mut classes, &mut snapshot, number));
        assert_eq!((classes.weight, classes.classes.len()), (before + 2 * 99, 2));
    }
}
