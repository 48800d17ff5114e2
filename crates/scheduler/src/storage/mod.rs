//! Storage as decisions see it: claims, volumes, classes, what nodes can attach and have attached. Kept
//! current by difference, as nodes and pods are. What classes of pods without claims remember does
//! not depend on it, so it has a log of changes of its own, which only the others follow.

mod assumed;
mod follow;
mod kinds;
mod log;
mod migration;
mod needs;
mod objects;
mod reach;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use assumed::{Binding, Reservation};
pub use kinds::StorageObject;
pub use log::{Affected, StorageLog};
pub use migration::{InTree, Migrated, of_pod as migration_of};
pub use needs::{Attached, Attachment, Bound, Needs, Unbound, What};
pub use objects::{
    AccessModes, Capacity, Claim, Class, Reach, SELECTED_NODE, TOPOLOGY_LABELS, Volume, Wish, reaches,
};
pub use reach::ByNode;

use assumed::Assumed;

use crate::labels::Labels;
use crate::node::Slot;
use crate::symbols::{NumberMap, Symbol, Symbols};

#[derive(Debug, Default)]
pub struct Storage {
    claims: NumberMap<Symbol, Claim>,
    volumes: NumberMap<Symbol, Volume>,
    /// Volumes, and the claims that name them, whether they got them or not.
    named: BTreeSet<(Symbol, Symbol)>,
    classes: NumberMap<Symbol, Class>,
    /// Drivers that say how much room they have.
    measured: NumberMap<Symbol, ()>,
    capacities: BTreeMap<String, Capacity>,
    /// By storage class: the limits there are for some nodes.
    room: NumberMap<Symbol, ByNode<Room>>,
    /// By storage class: volumes anybody may have, the smallest first.
    free: NumberMap<Option<Symbol>, ByNode<(i64, Symbol)>>,
    /// The volumes kept for a claim.
    kept: NumberMap<Symbol, Vec<Symbol>>,
    /// How many volumes, those that placed pods name themselves too, are one and the same for their driver.
    handles: NumberMap<(Symbol, Symbol), u32>,
    /// By node: how many volumes of a driver it can attach.
    limits: NumberMap<Symbol, Box<[(Symbol, i64)]>>,
    /// On how many nodes a driver has a limit.
    limited: NumberMap<Symbol, u32>,
    /// By node: the plugins it has given up for drivers.
    migrated: NumberMap<Symbol, Migrated>,
    attachments: BTreeMap<String, NodeAttachment>,
    /// To how many nodes a volume is attached.
    attached_volumes: NumberMap<Symbol, u32>,
    /// By node: what is attached to it.
    attached: NumberMap<Symbol, Vec<Attached>>,
    /// The slots of the placed pods that use a claim.
    users: NumberMap<Symbol, Vec<Slot>>,
    /// The slots of the nodes on which pods that will use a claim wait for room.
    waiting_users: NumberMap<Symbol, Vec<Slot>>,
    assumed: Assumed,
    log: StorageLog,
}

/// Room for volumes up to a size, and the name of the object that says so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Room {
    limit: i64,
    key: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NodeAttachment {
    node: Symbol,
    driver: Symbol,
    volume: Symbol,
}

// Reading.
impl Storage {
    pub fn claim(&self, key: Symbol) -> Option<&Claim> {
        self.claims.get(&key)
    }
    pub fn volume(&self, name: Symbol) -> Option<&Volume> {
        self.volumes.get(&name)
    }
    /// The claims that name a volume.
    fn claims_of(&self, name: Symbol) -> impl Iterator<Item = Symbol> + '_ {
        let named = self.named.range((name, Symbol::EMPTY)..);
        named.take_while(move |(volume, _)| *volume == name).map(|(_, claim)| *claim)
    }
    pub fn class(&self, name: Symbol) -> Option<&Class> {
        self.classes.get(&name)
    }
    /// How many volumes of a driver a node can attach, where there is a limit.
    pub fn limit(&self, node: Symbol, driver: Symbol) -> Option<i64> {
        let limits = self.limits.get(&node)?.iter();
        limits.into_iter().find(|(name, _)| *name == driver).map(|(_, limit)| *limit)
    }
    /// Whether a node has given up a plugin for a driver.
    pub fn migrates(&self, node: Symbol, plugin: InTree) -> bool {
        self.migrated.get(&node).is_some_and(|migrated| migrated.has(plugin))
    }
    /// How many pods on such nodes use a claim.
    fn users_on(&self, claim: Symbol, exists: impl Fn(Slot) -> bool) -> usize {
        self.users.get(&claim).map_or(0, |slots| slots.iter().filter(|slot| exists(**slot)).count())
    }
    pub fn log(&self) -> &StorageLog {
        &self.log
    }
    /// Whether a claim that waits for its first pod gets its volume where that pod goes.
    pub fn waits(&self, claim: &Claim) -> bool {
        let class = claim.wish.class.and_then(|class| self.class(class));
        class.is_some_and(|class| class.waits == Some(true))
    }
    /// Where the claim's volume is (to be) made, the API's word or ours.
    pub fn selected_node(&self, key: Symbol) -> Option<Symbol> {
        self.assumed.node(key).or_else(|| self.claim(key)?.selected_node)
    }
    /// The volumes that are kept for a claim.
    pub fn kept_for<'a>(
        &'a self,
        key: Symbol,
        claim: &'a Claim,
    ) -> impl Iterator<Item = (Symbol, &'a Volume)> + 'a {
        let is_for = move |volume: &Volume| match &volume.claim {
            Some((of, uid)) => *of == key && uid.as_ref().is_none_or(|uid| *uid == claim.uid),
            None => true, // assumed
        };
        let kept = self.kept.get(&key).into_iter().flatten().chain(self.assumed.volume(key));
        let kept = kept.filter_map(|name| Some((*name, self.volume(*name)?)));
        kept.filter(move |(_, volume)| is_for(volume) && volume.could_be_kept_for(&claim.wish))
    }
    /// The smallest free volume that is as asked and that nodes with these labels reach.
    pub fn smallest(
        &self,
        symbols: &Symbols,
        wish: &Wish,
        labels: &Labels,
        taken: &[Symbol],
    ) -> Option<Symbol> {
        let free = self.free.get(&wish.class)?;
        let least = (wish.size.unwrap_or(0), Symbol::EMPTY);
        let will_do = |(_, name): &&(i64, Symbol)| {
            let volume = self.volumes.get(name);
            !taken.contains(name)
                && volume.is_some_and(|v| v.fulfils(symbols, wish) && reaches(symbols, &v.reach, labels))
        };
        let found = free.within(labels).filter_map(|place| place.range(least..).find(will_do));
        found.min().map(|(_, name)| *name)
    }
    /// Whether the driver has room for the volume where nodes with these labels reach it, as far as
    /// the driver says.
    pub fn has_room(&self, symbols: &Symbols, driver: Symbol, wish: &Wish, labels: &Labels) -> bool {
        let (Some(size), Some(class)) = (wish.size, wish.class) else { return true };
        if !self.measured.contains_key(&driver) {
            return true;
        }
        let Some(room) = self.room.get(&class) else { return false };
        let least = Room { limit: size, key: "".into() };
        let reached = |room: &Room| {
            let capacity = self.capacities.get(&*room.key);
            capacity.is_some_and(|capacity| capacity.topology.matches(symbols, labels))
        };
        room.within(labels).any(|place| place.range(least.clone()..).any(reached))
    }
    /// What else is attached to a node, whoever uses it.
    pub fn attached(&self, node: Symbol) -> &[Attached] {
        self.attached.get(&node).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests;
