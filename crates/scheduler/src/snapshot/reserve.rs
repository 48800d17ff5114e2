//! What is taken for granted between a decision and its being written: volumes and devices that a pod's
//! claims are about to get.

use super::Snapshot;
use crate::devices::{ClaimWork, Wish, allocate};
use crate::node::Slot;
use crate::plugins::volume_binding;
use crate::pod::PodInfo;
use crate::storage::{Binding, Reservation, Unbound};
use crate::symbols::Symbol;

impl Snapshot {
    /// Settles how the pod's claims get their volumes on a node that takes it, before anything of it is
    /// written. Whoever asks writes it, or releases it.
    pub fn reserve(&mut self, pod: &PodInfo, slot: Slot) -> Reservation {
        let (claims, unbound): (Vec<Symbol>, Vec<Unbound>) = self.storage.unbound(pod).into_iter().unzip();
        let node = &self.nodes[slot as usize];
        let Some(shape) = &node.shape else { return Reservation::default() };
        let (symbols, storage) = (&self.catalogue.symbols, &self.storage);
        let bindings = volume_binding::bindings(storage, symbols, &unbound, node.name, &shape.labels);
        let bindings: Vec<(Symbol, Binding)> = claims.into_iter().zip(bindings.unwrap_or_default()).collect();
        let reservation = Reservation::new(symbols, node.name, &bindings);
        self.assume(&reservation);
        reservation
    }
    /// Settles what the pod's claims of devices are given on a node that takes it.
    pub fn reserve_devices(&mut self, pod: &PodInfo, slot: Slot) -> Vec<ClaimWork> {
        let (symbols, node) = (&self.catalogue.symbols, &self.nodes[slot as usize]);
        let Some(shape) = &node.shape else { return Vec::new() };
        let keys = pod.devices.iter().flat_map(|claims| claims.iter().filter_map(|c| c.key.ok().flatten()));
        let claims: Vec<_> = keys.filter_map(|key| Some((key, self.devices.claim(key)?))).collect();
        let consume = |key: Symbol| ClaimWork::to_consume(symbols.text(key).to_owned(), pod.uid.clone());
        let (given, wanted): (Vec<_>, Vec<_>) =
            claims.iter().partition(|(_, claim)| claim.allocation.is_some());
        let consumed = given.iter().filter(|(_, claim)| !claim.consumers.contains(&pod.uid));
        let mut works: Vec<ClaimWork> = consumed.map(|(key, _)| consume(*key)).collect();
        let wishes: Vec<&Wish> = wanted.iter().map(|(_, claim)| &*claim.wish).collect();
        let given = allocate(&self.devices, symbols, &wishes, node.name, shape).unwrap_or_default();
        works.extend(wanted.iter().zip(&given).map(|((key, claim), given)| {
            consume(*key).to_allocate(&self.devices, symbols, &claim.wish, given, node.name)
        }));
        self.assume_devices(&works);
        works
    }
    pub fn assume_devices(&mut self, works: &[ClaimWork]) {
        works.iter().for_each(|work| self.devices.assume(&mut self.catalogue.symbols, work));
    }
    pub fn release_devices(&mut self, works: &[ClaimWork]) {
        for work in works {
            self.devices.release(&self.catalogue.symbols, work);
        }
    }
    /// Takes for granted of devices what another snapshot of the cluster does.
    pub fn inherit_devices(&mut self, old: &Snapshot) {
        self.devices.inherit(&mut self.catalogue.symbols, &old.devices);
    }
    /// The same of one made on another snapshot.
    pub fn assume(&mut self, reservation: &Reservation) {
        self.storage.assume(&mut self.catalogue.symbols, reservation);
    }
    /// Whether all that was reserved is bound, according to the API; an error says why it will not be.
    pub fn is_bound(&self, reservation: &Reservation) -> Result<bool, String> {
        let node = &reservation.node;
        let shape = self.slot(node).and_then(|slot| self.node(slot).shape.as_ref());
        let shape = shape.ok_or_else(|| format!("failed to get node {node:?}: node {node:?} not found"))?;
        self.storage.is_bound(&self.catalogue.symbols, reservation, &shape.labels)
    }
    /// What was reserved came to nothing, or the API shows it.
    pub fn release(&mut self, reservation: &Reservation) {
        self.storage.release(&self.catalogue.symbols, reservation);
    }
}
