//! How the view of storage follows the cluster, object by object.

use std::hash::Hash;

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

use super::migration::{MIGRATED_PLUGINS, Migrated};
use super::reach::handhold;
use super::{Affected, Attached, Capacity, Claim, Class, NodeAttachment, Room, Storage, Volume, What};
use crate::node::Slot;
use crate::pod::PodInfo;
use crate::symbols::{NumberMap, Symbol, Symbols};

impl Storage {
    pub fn set_claim(&mut self, symbols: &mut Symbols, claim: &PersistentVolumeClaim) -> bool {
        let key = symbols.intern(&claim.key());
        let new = Claim::parse(symbols, claim);
        if self.claims.get(&key) == Some(&new) {
            return false;
        }
        if new.selected_node.is_some() || new.bound {
            self.assumed.forget_node(key);
        }
        self.forget_claim(key);
        self.named.extend(new.volume.map(|volume| (volume, key)));
        self.claims.insert(key, new);
        self.record_users(key);
        true
    }
    fn forget_claim(&mut self, key: Symbol) {
        if let Some(volume) = self.claims.remove(&key).and_then(|old| old.volume) {
            self.named.remove(&(volume, key));
        }
    }
    pub fn remove_claim(&mut self, symbols: &Symbols, key: &str) {
        let Some(key) = symbols.find(key) else { return };
        self.assumed.forget_node(key);
        self.forget_claim(key);
        self.record_users(key);
    }
    pub fn set_volume(&mut self, symbols: &mut Symbols, volume: &PersistentVolume) -> bool {
        let name = symbols.intern(volume.name());
        let new = Volume::parse(symbols, volume);
        if self.volumes.get(&name) == Some(&new) {
            return false;
        }
        self.take_volume(name);
        if new.claim.is_some() {
            self.assumed.forget_volume(name);
        }
        if let Some((claim, _)) = &new.claim {
            self.kept.entry(*claim).or_default().push(name);
        }
        if let Some(handle) = new.csi {
            *self.handles.entry(handle).or_insert(0) += 1;
        }
        self.volumes.insert(name, new);
        self.offer(name);
        self.record_volume(name);
        true
    }
    pub fn remove_volume(&mut self, symbols: &Symbols, name: &str) {
        let Some(name) = symbols.find(name) else { return };
        self.assumed.forget_volume(name);
        self.take_volume(name);
    }
    fn take_volume(&mut self, name: Symbol) {
        self.withdraw(name);
        self.record_volume(name);
        let Some(old) = self.volumes.remove(&name) else { return };
        if let Some((claim, _)) = old.claim
            && let Some(kept) = self.kept.get_mut(&claim)
        {
            kept.retain(|kept| *kept != name);
            if kept.is_empty() {
                self.kept.remove(&claim);
            }
        }
        if let Some(handle) = old.csi {
            uncount(&mut self.handles, handle);
        }
    }
    /// Lets anybody have the volume, if it is nobody's.
    pub(super) fn offer(&mut self, name: Symbol) {
        let Some(volume) = self.volumes.get(&name).filter(|volume| self.is_free(name, volume)) else {
            return;
        };
        let free = self.free.entry(volume.class).or_default();
        free.insert(handhold(&volume.reach), (volume.size, name));
        self.log.record(Affected::Reaching(volume.reach.clone()));
    }
    /// The opposite, before it becomes somebody's.
    pub(super) fn withdraw(&mut self, name: Symbol) {
        let Some(volume) = self.volumes.get(&name).filter(|volume| self.is_free(name, volume)) else {
            return;
        };
        if let Some(free) = self.free.get_mut(&volume.class) {
            free.remove(handhold(&volume.reach), &(volume.size, name));
            if free.is_empty() {
                self.free.remove(&volume.class);
            }
        }
        self.log.record(Affected::Reaching(volume.reach.clone()));
    }
    fn is_free(&self, name: Symbol, volume: &Volume) -> bool {
        volume.available && volume.claim.is_none() && !self.assumed.is_taken(name)
    }

    pub fn set_class(&mut self, symbols: &mut Symbols, class: &StorageClass) -> bool {
        let name = symbols.intern(class.name());
        let new = Class::parse(symbols, class);
        let changed = self.classes.get(&name) != Some(&new);
        if changed {
            self.classes.insert(name, new);
            self.log.record(Affected::Everywhere);
        }
        changed
    }
    pub fn remove_class(&mut self, symbols: &Symbols, name: &str) {
        if symbols.find(name).is_some_and(|name| self.classes.remove(&name).is_some()) {
            self.log.record(Affected::Everywhere);
        }
    }
    pub fn set_driver(&mut self, symbols: &mut Symbols, driver: &CSIDriver) -> bool {
        let name = symbols.intern(driver.name());
        let changed = match driver.spec.storage_capacity {
            Some(true) => self.measured.insert(name, ()).is_none(),
            _ => self.measured.remove(&name).is_some(),
        };
        if changed {
            self.log.record(Affected::Everywhere);
        }
        changed
    }
    pub fn remove_driver(&mut self, symbols: &Symbols, name: &str) {
        if symbols.find(name).is_some_and(|name| self.measured.remove(&name).is_some()) {
            self.log.record(Affected::Everywhere);
        }
    }
    pub fn set_capacity(&mut self, symbols: &mut Symbols, capacity: &CSIStorageCapacity) -> bool {
        let (key, new) = (capacity.key(), Capacity::parse(symbols, capacity));
        if self.capacities.get(&key) == new.as_ref() {
            return false;
        }
        self.remove_capacity(symbols, &key);
        let Some(new) = new else { return true };
        let room = Room { limit: new.limit, key: key.as_str().into() };
        self.room.entry(new.class).or_default().insert(new.topology.handhold(), room);
        self.log.record(Affected::Selected(new.topology.clone()));
        self.capacities.insert(key, new);
        true
    }
    pub fn remove_capacity(&mut self, _: &Symbols, key: &str) {
        let Some(old) = self.capacities.remove(key) else { return };
        if let Some(room) = self.room.get_mut(&old.class) {
            room.remove(old.topology.handhold(), &Room { limit: old.limit, key: key.into() });
            if room.is_empty() {
                self.room.remove(&old.class);
            }
        }
        self.log.record(Affected::Selected(old.topology));
    }
    pub fn set_limits(&mut self, symbols: &mut Symbols, node: &CSINode) -> bool {
        let name = symbols.intern(node.name());
        let limits = node.spec.drivers.iter().filter_map(|driver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((symbols.intern(&driver.name), i64::from(count)))
        });
        let changed = self.replace_limits(name, limits.collect());
        let plugins = node.metadata.annotations.as_ref().and_then(|known| known.get(MIGRATED_PLUGINS));
        self.replace_migrated(name, plugins.map_or("", String::as_str)) || changed
    }
    pub fn remove_limits(&mut self, symbols: &Symbols, node: &str) {
        if let Some(name) = symbols.find(node) {
            self.replace_limits(name, Box::default());
            self.replace_migrated(name, "");
        }
    }
    fn replace_migrated(&mut self, node: Symbol, plugins: &str) -> bool {
        let new = Migrated::parse(plugins);
        let old = match new.is_empty() {
            true => self.migrated.remove(&node),
            false => self.migrated.insert(node, new),
        };
        let changed = old.unwrap_or_default() != new;
        if changed {
            self.log.record(Affected::Node(node));
        }
        changed
    }
    fn replace_limits(&mut self, node: Symbol, new: Box<[(Symbol, i64)]>) -> bool {
        let old = self.limits.remove(&node).unwrap_or_default();
        let changed = old != new;
        for (driver, _) in old {
            uncount(&mut self.limited, driver);
        }
        for (driver, _) in &new {
            *self.limited.entry(*driver).or_insert(0) += 1;
        }
        if !new.is_empty() {
            self.limits.insert(node, new);
        }
        if changed {
            self.log.record(Affected::Node(node));
        }
        changed
    }
    pub fn set_attachment(&mut self, symbols: &mut Symbols, attachment: &VolumeAttachment) -> bool {
        let spec = &attachment.spec;
        let volume = spec.source.persistent_volume_name.as_deref().filter(|_| !spec.attacher.is_empty());
        let new = volume.map(|volume| NodeAttachment {
            node: symbols.intern(&spec.node_name),
            driver: symbols.intern(&spec.attacher),
            volume: symbols.intern(volume),
        });
        if self.attachments.get(attachment.name()) == new.as_ref() {
            return false;
        }
        self.remove_attachment(symbols, attachment.name());
        if let Some(new) = new {
            let attached = Attached { driver: new.driver, volume: new.volume };
            self.attached.entry(new.node).or_default().push(attached);
            *self.attached_volumes.entry(new.volume).or_insert(0) += 1;
            self.log.record(Affected::Node(new.node));
            self.attachments.insert(attachment.name().to_owned(), new);
        }
        true
    }
    pub fn remove_attachment(&mut self, _: &Symbols, name: &str) {
        let Some(old) = self.attachments.remove(name) else { return };
        uncount(&mut self.attached_volumes, old.volume);
        if let Some(attached) = self.attached.get_mut(&old.node) {
            let gone = Attached { driver: old.driver, volume: old.volume };
            if let Some(index) = attached.iter().position(|attached| *attached == gone) {
                attached.swap_remove(index);
            }
            if attached.is_empty() {
                self.attached.remove(&old.node);
            }
        }
        self.log.record(Affected::Node(old.node));
    }

    /// A placed pod uses its claims and disks, or no longer.
    pub(crate) fn count_pod(&mut self, pod: &PodInfo, slot: Slot, more: bool) {
        self.count_disks(pod, more);
        count_users(&mut self.users, pod, slot, more);
    }
    fn count_disks(&mut self, pod: &PodInfo, more: bool) {
        for disk in pod.volumes.iter().flat_map(|volumes| &volumes.inline) {
            let What::Handle(handle) = disk.what else { continue };
            match more {
                true => *self.handles.entry((disk.driver, handle)).or_insert(0) += 1,
                false => uncount(&mut self.handles, (disk.driver, handle)),
            }
        }
    }
    /// A pod waits for room on a node, or no longer: what it will use there counts for others.
    pub(crate) fn count_waiting(&mut self, pod: &PodInfo, slot: Slot, more: bool) {
        self.count_disks(pod, more);
        count_users(&mut self.waiting_users, pod, slot, more);
    }
    /// What is attached where a claim is used may be another volume now.
    fn record_users(&mut self, claim: Symbol) {
        let users = [&self.users, &self.waiting_users].map(|users| users.get(&claim));
        for slot in users.into_iter().flatten().flatten() {
            self.log.record(Affected::Slot(*slot));
        }
    }
    /// The same where a volume is used by way of a claim, or attached.
    fn record_volume(&mut self, name: Symbol) {
        let claims: Vec<Symbol> = self.claims_of(name).collect();
        claims.into_iter().for_each(|claim| self.record_users(claim));
        if self.attached_volumes.contains_key(&name) {
            let there = self.attachments.values().filter(|attachment| attachment.volume == name);
            there.for_each(|attachment| self.log.record(Affected::Node(attachment.node)));
        }
    }
}

fn uncount<K: Eq + Hash>(counts: &mut NumberMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

fn count_users(users: &mut NumberMap<Symbol, Vec<Slot>>, pod: &PodInfo, slot: Slot, more: bool) {
    for claim in pod.volumes.iter().flat_map(|volumes| &volumes.claims) {
        let slots = users.entry(claim.key).or_default();
        if more {
            slots.push(slot);
        } else if let Some(index) = slots.iter().position(|user| *user == slot) {
            slots.swap_remove(index);
        }
        if slots.is_empty() {
            users.remove(&claim.key);
        }
    }
}
