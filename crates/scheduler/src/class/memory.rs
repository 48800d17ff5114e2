//! The classes met so far. Which class a pod is of is worked out once per template.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Class, Identity, Signature};
use crate::framework::Profile;
use crate::pod::PodInfo;
use crate::snapshot::{Generations, Snapshot};
use crate::symbols::{NumberMap, Symbol};

/// What is remembered of nodes over all classes together, some twenty bytes each; the classes asked
/// for longest ago are forgotten first.
const MAX_REMEMBERED_SLOTS: usize = 2_000_000;
/// Templates whose class is remembered, so that it need not be worked out for each pod.
const MAX_KNOWN_TEMPLATES: usize = 16_384;

#[derive(Debug, Default)]
pub struct Classes {
    classes: HashMap<Arc<Identity>, Remembered>,
    known: NumberMap<(u32, Option<Symbol>), (Generations, Arc<Identity>)>,
    asked: u64,
}

#[derive(Debug)]
struct Remembered {
    class: Class,
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
        if !self.classes.contains_key(&identity) {
            self.forget_old(snapshot.slots());
        }
        let asked = self.asked;
        let remembered = self.classes.entry(identity).or_insert_with(|| {
            let signature = signature.unwrap_or_else(|| Signature::new(snapshot, profiles, profile, pod));
            Remembered { class: Class::new(snapshot, signature), last_used: asked }
        });
        remembered.last_used = asked;
        &mut remembered.class
    }

    /// Makes room for one more class.
    fn forget_old(&mut self, slots: usize) {
        let mut total = slots + self.classes.values().map(|r| r.class.slots()).sum::<usize>();
        while total > MAX_REMEMBERED_SLOTS {
            let oldest = self.classes.iter().min_by_key(|(_, remembered)| remembered.last_used);
            let Some(identity) = oldest.map(|(identity, _)| identity.clone()) else { return };
            if let Some(forgotten) = self.classes.remove(&identity) {
                total -= forgotten.class.slots();
            }
        }
    }
}
