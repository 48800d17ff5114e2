//! Devices as decisions see them: the slices drivers publish, the classes that select among them, and
//! the claims that ask for them or have been given some. Kept current by difference, with a log of
//! the nodes that changes are about, as storage is.

mod allocator;
mod expression;
mod kinds;
mod limits;
mod objects;
mod result;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphipod_client::Resource;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};

pub use allocator::{Given, allocate};
pub use kinds::DeviceObject;
pub use objects::{Claim, Class, MAX_CONSUMERS, Place, Wish};
pub use result::ClaimWork;

use objects::{DeviceId, PoolId, Slice};

use crate::labels::NodeTerm;
use crate::pod::PodInfo;
use crate::storage::{Affected, StorageLog};
use crate::symbols::{NumberMap, Symbol, Symbols};
use crate::version;

#[derive(Debug, Default)]
pub struct Devices {
    classes: NumberMap<Symbol, Class>,
    slices: BTreeMap<String, Arc<Slice>>,
    /// Of slices of one node, by node; the others by no name.
    by_node: NumberMap<Option<Symbol>, BTreeSet<String>>,
    by_pool: NumberMap<PoolId, BTreeSet<String>>,
    claims: NumberMap<Symbol, Claim>,
    /// The version at which the API showed each.
    versions: NumberMap<Symbol, u64>,
    /// What was decided and the API does not show yet.
    assumed: NumberMap<Symbol, Assumed>,
    /// How many claims have a device; more than one is somebody's mistake.
    allocated: NumberMap<DeviceId, u32>,
    log: StorageLog,
}

/// What a claim is about to have, though the API does not say so.
#[derive(Debug)]
struct Assumed {
    work: ClaimWork,
    devices: Vec<DeviceId>,
    /// The version of the claim that has it: what the API shows from there on counts, even if the claim
    /// has lost it by then.
    written: Option<u64>,
}

impl Assumed {
    /// Whether the API's word, of this version, is newer.
    fn is_past(&self, version: u64, is_allocated: bool) -> bool {
        self.written.map_or(is_allocated, |written| version >= written)
    }
}

/// What a pod's claims come to, without their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceNeeds {
    /// Where what was given already can be used.
    pub places: Box<[Arc<[NodeTerm]>]>,
    pub wishes: Box<[Arc<Wish>]>,
}

// Reading.
impl Devices {
    pub fn claim(&self, key: Symbol) -> Option<&Claim> {
        self.claims.get(&key)
    }
    pub fn class(&self, name: Symbol) -> Option<&Class> {
        self.classes.get(&name)
    }
    /// Whether a claim is being given devices right now.
    pub fn is_pending(&self, key: Symbol) -> bool {
        self.assumed.contains_key(&key)
    }
    pub fn log(&self) -> &StorageLog {
        &self.log
    }
    fn is_allocated(&self, id: DeviceId) -> bool {
        self.allocated.contains_key(&id)
    }
    fn slices_of(&self, pool: PoolId) -> impl Iterator<Item = &Slice> {
        let names = self.by_pool.get(&pool).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name).map(|slice| &**slice))
    }
    /// The node's own slices and those for more than one.
    fn slices_near(&self, node: Symbol) -> impl Iterator<Item = &Slice> {
        let names = [Some(node), None].into_iter().filter_map(|node| self.by_node.get(&node)).flatten();
        names.filter_map(|name| self.slices.get(name).map(|slice| &**slice))
    }
    /// `None` for a pod without claims.
    pub fn needs(&self, pod: &PodInfo) -> Option<Arc<DeviceNeeds>> {
        let keys = pod.devices.as_ref()?.iter().filter_map(|claim| claim.key.ok().flatten());
        let claims: Vec<&Claim> = keys.filter_map(|key| self.claim(key)).collect();
        let allocations = claims.iter().filter_map(|claim| claim.allocation.as_ref());
        let unallocated = claims.iter().filter(|claim| claim.allocation.is_none());
        Some(Arc::new(DeviceNeeds {
            places: allocations.filter_map(|allocation| allocation.terms.clone()).collect(),
            wishes: unallocated.map(|claim| claim.wish.clone()).collect(),
        }))
    }
}

// Following the cluster.
impl Devices {
    pub fn set_class(&mut self, symbols: &mut Symbols, class: &DeviceClass) -> bool {
        let (name, new) = (symbols.intern(class.name()), Class::parse(class));
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
    pub fn set_slice(&mut self, symbols: &mut Symbols, slice: &ResourceSlice) -> bool {
        let new = Slice::parse(symbols, slice);
        if self.slices.get(slice.name()).is_some_and(|known| **known == new) {
            return false;
        }
        self.remove_slice(symbols, slice.name());
        let (name, pool) = (slice.name().to_owned(), new.pool_id());
        self.by_node.entry(only_node(&new)).or_default().insert(name.clone());
        self.by_pool.entry(pool).or_default().insert(name.clone());
        self.slices.insert(name, Arc::new(new));
        self.record_pool(pool);
        true
    }
    pub fn remove_slice(&mut self, _: &Symbols, name: &str) {
        let Some(old) = self.slices.remove(name) else { return };
        forget(&mut self.by_node, &only_node(&old), name);
        forget(&mut self.by_pool, &old.pool_id(), name);
        self.record_place(&old.place);
        self.record_pool(old.pool_id());
    }
    /// Of a pool each slice counts, wherever it is.
    fn record_pool(&mut self, pool: PoolId) {
        let places: Vec<Place> = self.slices_of(pool).map(|slice| slice.place.clone()).collect();
        places.iter().for_each(|place| self.record_place(place));
    }
    fn record_place(&mut self, place: &Place) {
        self.log.record(match place {
            Place::Node(node) => Affected::Node(*node),
            Place::Selected { .. } | Place::Everywhere | Place::Nowhere => Affected::Everywhere,
        });
    }
    pub fn set_claim(&mut self, symbols: &mut Symbols, claim: &ResourceClaim) -> bool {
        let key = symbols.intern(&claim.key());
        let new = Claim::parse(symbols, claim, self.claims.get(&key));
        let version = version(claim);
        self.versions.insert(key, version);
        let is_past =
            self.assumed.get(&key).is_some_and(|known| known.is_past(version, new.allocation.is_some()));
        if !is_past && self.claims.get(&key) == Some(&new) {
            return false;
        }
        self.count(key, false);
        if is_past {
            self.assumed.remove(&key);
        }
        self.claims.insert(key, new);
        self.count(key, true);
        true
    }
    pub fn remove_claim(&mut self, symbols: &Symbols, key: &str) {
        let Some(key) = symbols.find(key) else { return };
        self.count(key, false);
        self.assumed.remove(&key);
        self.claims.remove(&key);
        self.versions.remove(&key);
    }
    /// What a claim has, by the API's word or ours, is had by nobody else.
    fn count(&mut self, key: Symbol, more: bool) {
        let claimed = self.claims.get(&key).and_then(|claim| claim.allocation.as_ref());
        let mut devices = claimed.map(|allocation| allocation.devices.clone()).unwrap_or_default();
        for id in self.assumed.get(&key).iter().flat_map(|assumed| &assumed.devices) {
            if !devices.contains(id) {
                devices.push(*id);
            }
        }
        for id in devices {
            let users = self.allocated.entry(id).or_insert(0);
            *users = if more { *users + 1 } else { users.saturating_sub(1) };
            if *users == 0 {
                self.allocated.remove(&id);
            }
            let (driver, pool, _) = id;
            self.record_pool((driver, pool));
        }
    }

    /// Takes for granted what is about to be written.
    pub fn assume(&mut self, symbols: &mut Symbols, work: &ClaimWork) {
        let key = symbols.intern(&work.claim);
        if self.claim(key).is_none_or(|claim| claim.allocation.is_none()) {
            self.hold(symbols, key, work, None);
        }
    }
    /// It was written, which made this version of the claim. Whether others may have the devices: the
    /// claim may have lost them before the answer came.
    pub fn written(&mut self, symbols: &mut Symbols, work: &ClaimWork, version: u64) -> bool {
        let key = symbols.intern(&work.claim);
        if self.versions.get(&key).is_none_or(|seen| *seen >= version) {
            return self.release(symbols, work);
        }
        self.hold(symbols, key, work, Some(version));
        false
    }
    fn hold(&mut self, symbols: &mut Symbols, key: Symbol, work: &ClaimWork, written: Option<u64>) {
        if let Some(known) = self.assumed.get_mut(&key) {
            if known.work.pod == work.pod {
                known.written = written.or(known.written);
            }
        } else if work.allocation.is_some() {
            let ids = work.devices.iter().map(|[driver, pool, device]| {
                (symbols.intern(driver), symbols.intern(pool), symbols.intern(device))
            });
            let assumed = Assumed { work: work.clone(), devices: ids.collect(), written };
            self.count(key, false);
            self.assumed.insert(key, assumed);
            self.count(key, true);
        }
    }
    /// It came to nothing, or the API shows it. Whether it was taken for granted until now; what is for
    /// another pod still is.
    pub fn release(&mut self, symbols: &Symbols, work: &ClaimWork) -> bool {
        let key = symbols.find(&work.claim);
        let is_its_own = |key: &Symbol| self.assumed.get(key).is_some_and(|known| known.work.pod == work.pod);
        let Some(key) = key.filter(is_its_own) else { return false };
        self.count(key, false);
        self.assumed.remove(&key);
        self.count(key, true);
        true
    }
    /// Takes for granted what another view of the same cluster does.
    pub fn inherit(&mut self, symbols: &mut Symbols, old: &Devices) {
        for Assumed { work, written, .. } in old.assumed.values() {
            match written {
                Some(version) => drop(self.written(symbols, work, *version)),
                None => self.assume(symbols, work),
            }
        }
    }
}

/// One of the names under a key.
fn forget<K: Eq + std::hash::Hash>(index: &mut NumberMap<K, BTreeSet<String>>, key: &K, name: &str) {
    let Some(names) = index.get_mut(key) else { return };
    names.remove(name);
    if names.is_empty() {
        index.remove(key);
    }
}

fn only_node(slice: &Slice) -> Option<Symbol> {
    match slice.place {
        Place::Node(node) => Some(node),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
