//! What a pod's claims come to: the conditions they put on nodes, without their names wherever a name
//! makes no difference. Pods of a StatefulSet have a claim each; only so can they be of one class.

use std::sync::Arc;

use super::{InTree, Reach, Storage, Volume, Wish};
use crate::node::Slot;
use crate::pod::{Disk, PodClaim, PodInfo};
use crate::symbols::Symbol;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Needs {
    pub disks: Box<[Disk]>,
    pub bound: Box<[Bound]>,
    /// Zones and regions bound volumes are in.
    pub zones: Box<[(Symbol, Box<[Symbol]>)]>,
    /// The smallest first, so that the smallest volumes that will do are left for them.
    pub unbound: Box<[Unbound]>,
    /// Volumes that are attached where the pod goes, of drivers with limits.
    pub attachments: Box<[Attachment]>,
    /// Claims for one pod only that have one already, with the number of placed pods that use them.
    pub exclusive: Box<[(Symbol, usize)]>,
}

/// Where a bound claim can be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    Reach(Reach),
    /// For nodes that have given up the plugin, and for the others.
    InTree(InTree, [Reach; 2]),
    /// Its volume does not exist.
    NoVolume,
}

/// A claim that gets its volume where its first pod goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unbound {
    pub wish: Wish,
    /// The only node where its volume can be made: it has been decided.
    pub selected_node: Option<Symbol>,
    /// The volumes kept for it, as a rule one at most, with the nodes that reach them.
    pub kept: Box<[(Symbol, Reach)]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attachment {
    pub driver: Symbol,
    pub what: What,
    /// The driver has it only where this has been given up.
    pub plugin: Option<InTree>,
}

impl Attachment {
    /// The same on a node; `None` where it is not the driver's.
    pub fn on(self, storage: &Storage, node: Symbol) -> Option<Self> {
        let there = self.plugin.is_none_or(|plugin| storage.migrates(node, plugin));
        there.then_some(Attachment { plugin: None, ..self })
    }
}

impl Bound {
    fn of(volume: &Volume) -> Self {
        match &volume.in_tree {
            None => Bound::Reach(volume.reach.clone()),
            Some(in_tree) => Bound::InTree(in_tree.plugin, [in_tree.reach.clone(), volume.reach.clone()]),
        }
    }
}

/// Which of a driver's volumes; one that is attached nowhere needs no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    Handle(Symbol),
    /// Whatever volume the claim gets.
    Of(Symbol),
    New(u32),
}

/// What a node has attached, by the volume's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub driver: Symbol,
    pub volume: Symbol,
}

impl Attached {
    /// `None` for a volume that is gone or is no driver's.
    pub fn attachment(&self, storage: &Storage) -> Option<Attachment> {
        let volume = storage.volume(self.volume).filter(|volume| volume.in_tree.is_none())?;
        let (_, handle) = volume.csi?;
        Some(Attachment { driver: self.driver, what: What::Handle(handle), plugin: None })
    }
}

impl Storage {
    /// `None` for a pod without such volumes. Claims that do not exist ask for nothing: whoever
    /// needs them has refused the pod before. `exists`: whether there is (still) a node in a slot;
    /// pods of one that is gone hold nothing.
    pub fn needs(&self, pod: &PodInfo, exists: impl Fn(Slot) -> bool) -> Option<Arc<Needs>> {
        let volumes = pod.volumes.as_ref()?;
        let claims = || volumes.claims.iter().filter_map(|claim| Some((claim, self.claim(claim.key)?)));
        let mut bound: Vec<Bound> = Vec::new();
        let mut zones = Vec::new();
        for (of, claim) in claims() {
            let volume = claim.volume.map(|name| self.volume(name));
            if claim.bound {
                let needed = volume.flatten().map_or(Bound::NoVolume, Bound::of);
                if !bound.contains(&needed) {
                    bound.push(needed);
                }
            }
            if let Some(Some(volume)) = volume.filter(|_| !of.ephemeral) {
                zones.extend(volume.zones.iter().cloned());
            }
        }
        zones.sort_unstable();
        zones.dedup();
        Some(Arc::new(Needs {
            disks: volumes.disks.clone(),
            bound: bound.into(),
            zones: zones.into(),
            unbound: self.unbound(pod).into_iter().map(|(_, unbound)| unbound).collect(),
            attachments: self.attachments(pod),
            exclusive: claims()
                .filter(|(of, claim)| !of.ephemeral && claim.wish.modes.is_for_one_pod())
                .map(|(of, _)| (of.key, self.users_on(of.key, &exists)))
                .filter(|(_, users)| *users > 0)
                .collect(),
        }))
    }

    /// The claims of a pod that wait for it, the smallest first.
    pub fn unbound(&self, pod: &PodInfo) -> Vec<(Symbol, Unbound)> {
        let claims = pod.volumes.iter().flat_map(|volumes| &volumes.claims);
        let unbound = |of: &PodClaim| {
            let claim = self.claim(of.key).filter(|claim| claim.volume.is_none() && self.waits(claim))?;
            let kept = self.kept_for(of.key, claim).map(|(name, volume)| (name, volume.reach.clone()));
            let mut kept: Box<[(Symbol, Reach)]> = kept.collect();
            kept.sort_unstable_by_key(|(name, _)| *name);
            let selected_node = self.selected_node(of.key);
            Some((of.key, Unbound { wish: claim.wish.clone(), selected_node, kept }))
        };
        let mut found: Vec<(Symbol, Unbound)> = claims.filter_map(unbound).collect();
        // A claim that is mounted twice is bound once.
        let mut seen = Vec::new();
        found.retain(|(key, _)| {
            !seen.contains(key) && {
                seen.push(*key);
                true
            }
        });
        found.sort_by_key(|(_, unbound)| unbound.wish.size);
        found
    }

    fn attachments(&self, pod: &PodInfo) -> Box<[Attachment]> {
        let claims = pod.volumes.iter().flat_map(|volumes| &volumes.claims);
        let mut found = Vec::new();
        for of in claims {
            let Some(attachment) = self.attachment(of.key) else { continue };
            if self.limited.contains_key(&attachment.driver) && !found.iter().any(|(_, a)| *a == attachment) {
                found.push((of.key, attachment));
            }
        }
        let mut new = 0;
        let anonymous = found.into_iter().map(|(claim, attachment)| {
            if self.may_be_attached(claim, attachment) {
                return attachment;
            }
            new += 1;
            Attachment { what: What::New(new), ..attachment }
        });
        let mut attachments: Vec<Attachment> = anonymous.collect();
        let own = pod.volumes.iter().flat_map(|volumes| volumes.inline.iter());
        attachments.extend(own.filter(|own| self.limited.contains_key(&own.driver)));
        attachments.sort_unstable();
        attachments.into()
    }
    /// Whether some node may have the volume already, or will have it as soon as there is room.
    fn may_be_attached(&self, claim: Symbol, attachment: Attachment) -> bool {
        let shared = match attachment.what {
            What::Handle(handle) => {
                self.handles.get(&(attachment.driver, handle)).is_some_and(|volumes| *volumes > 1)
            }
            What::Of(_) | What::New(_) => false,
        };
        let is_used =
            |claim: Symbol| self.users.contains_key(&claim) || self.waiting_users.contains_key(&claim);
        let volume = self.claim(claim).and_then(|claim| claim.volume);
        shared
            || is_used(claim)
            || volume.is_some_and(|name| {
                self.attached_volumes.contains_key(&name) || self.claims_of(name).any(is_used)
            })
    }

    /// What a claim is for its driver; `None` where no driver attaches it.
    pub fn attachment(&self, key: Symbol) -> Option<Attachment> {
        let claim = self.claim(key)?;
        match claim.volume.map(|name| self.volume(name)) {
            Some(Some(volume)) => {
                let plugin = volume.in_tree.as_ref().map(|in_tree| in_tree.plugin);
                volume.csi.map(|(driver, handle)| Attachment { driver, what: What::Handle(handle), plugin })
            }
            // It has none yet, or one that is not there (any more): it will be one of its class.
            Some(None) | None => {
                let (driver, plugin) = self.class(claim.wish.class?)?.driver?;
                Some(Attachment { driver, what: What::Of(key), plugin })
            }
        }
    }
}
