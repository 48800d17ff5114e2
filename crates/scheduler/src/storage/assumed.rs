//! What was decided about claims and volumes and the API does not show yet: nobody else is to be given
//! a volume that is about to be bound, and a claim whose volume is about to be made on one node is not
//! to be made on another.

use crate::labels::Labels;
use crate::storage::{Claim, Reach, Storage, Volume, reaches};
use crate::symbols::{NumberMap, Symbol, Symbols};

#[derive(Debug, Default)]
pub(super) struct Assumed {
    /// By claim.
    nodes: NumberMap<Symbol, Symbol>,
    /// By claim.
    volumes: NumberMap<Symbol, Symbol>,
    /// By volume.
    takers: NumberMap<Symbol, Symbol>,
}

impl Assumed {
    pub fn node(&self, claim: Symbol) -> Option<Symbol> {
        self.nodes.get(&claim).copied()
    }
    pub fn volume(&self, claim: Symbol) -> Option<&Symbol> {
        self.volumes.get(&claim)
    }
    pub fn is_taken(&self, volume: Symbol) -> bool {
        self.takers.contains_key(&volume)
    }
    pub fn forget_node(&mut self, claim: Symbol) {
        self.nodes.remove(&claim);
    }
    pub fn forget_volume(&mut self, volume: Symbol) {
        if let Some(claim) = self.takers.remove(&volume) {
            self.volumes.remove(&claim);
        }
    }
}

/// How an unbound claim gets its volume on the node that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    Volume(Symbol),
    /// It is made there.
    Provision,
}

/// What is to be written for a pod's claims before the pod is bound, by names: they outlive a
/// snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    pub node: String,
    /// Claims (`namespace/name`) and the volumes they get.
    pub volumes: Vec<(String, String)>,
    /// Claims whose volumes are made.
    pub provisions: Vec<String>,
}

impl Reservation {
    pub fn new(symbols: &Symbols, node: Symbol, bindings: &[(Symbol, Binding)]) -> Self {
        let mut reservation = Reservation { node: symbols.text(node).to_owned(), ..Reservation::default() };
        for (claim, binding) in bindings {
            let claim = symbols.text(*claim).to_owned();
            match binding {
                Binding::Provision => reservation.provisions.push(claim),
                Binding::Volume(volume) => {
                    reservation.volumes.push((claim, symbols.text(*volume).to_owned()));
                }
            }
        }
        reservation
    }
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.provisions.is_empty()
    }
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        let bound = self.volumes.iter().map(|(claim, _)| claim);
        bound.chain(&self.provisions).map(String::as_str)
    }
}

impl Storage {
    /// Takes for granted what is about to be written.
    pub fn assume(&mut self, symbols: &mut Symbols, reservation: &Reservation) {
        let node = symbols.intern(&reservation.node);
        for claim in &reservation.provisions {
            self.assumed.nodes.insert(symbols.intern(claim), node);
        }
        for (claim, volume) in &reservation.volumes {
            let (claim, volume) = (symbols.intern(claim), symbols.intern(volume));
            let known = self.volume(volume);
            if known.is_some_and(|known| known.claim.is_none()) && !self.assumed.is_taken(volume) {
                self.withdraw(volume);
                self.assumed.takers.insert(volume, claim);
                self.assumed.volumes.insert(claim, volume);
            }
        }
    }
    /// It came to nothing, or the API shows it.
    pub fn release(&mut self, symbols: &Symbols, reservation: &Reservation) {
        for claim in reservation.provisions.iter().filter_map(|claim| symbols.find(claim)) {
            self.assumed.forget_node(claim);
        }
        for volume in reservation.volumes.iter().filter_map(|(_, volume)| symbols.find(volume)) {
            if self.assumed.is_taken(volume) {
                self.assumed.forget_volume(volume);
                self.offer(volume);
            }
        }
    }

    /// Whether all that was reserved is bound, according to the API; an error says why it will not be.
    pub fn is_bound(
        &self,
        symbols: &Symbols,
        reservation: &Reservation,
        labels: &Labels,
    ) -> Result<bool, String> {
        for (key, volume) in &reservation.volumes {
            let claim = self.find_claim(symbols, key).ok_or("failed to check binding")?;
            self.suits(symbols, volume, reservation, labels)
                .unwrap_or(Err("failed to check binding".into()))?;
            let kept = symbols.find(volume).and_then(|name| self.volume(name)?.claim.as_ref());
            if kept.is_none_or(|(_, uid)| uid.is_none()) {
                return Err(format!("ClaimRef got reset for pv {volume:?}"));
            }
            if !claim.bound {
                return Ok(false);
            }
        }
        for key in &reservation.provisions {
            let claim = self.find_claim(symbols, key).ok_or("failed to check provisioning pvc")?;
            let selected = claim.selected_node.map(|node| symbols.text(node));
            if selected != Some(&*reservation.node) {
                let name = key.split_once('/').map_or(&**key, |(_, name)| name);
                return Err(format!("provisioning failed for PVC {name:?}"));
            }
            if let Some(volume) = claim.volume {
                match self.suits(symbols, symbols.text(volume), reservation, labels) {
                    Some(suits) => suits?,
                    None => return Ok(false), // it is still to be seen
                }
            }
            if !claim.bound {
                return Ok(false);
            }
        }
        Ok(true)
    }
    fn find_claim(&self, symbols: &Symbols, key: &str) -> Option<&Claim> {
        self.claim(symbols.find(key)?)
    }
    /// Where a volume is, as far as a node is concerned.
    fn reach_on<'a>(&self, volume: &'a Volume, node: Symbol) -> &'a Reach {
        let in_tree = volume.in_tree.as_ref().filter(|in_tree| self.migrates(node, in_tree.plugin));
        in_tree.map_or(&volume.reach, |in_tree| &in_tree.reach)
    }
    /// Whether the node reaches a volume; `None` where there is no such volume.
    fn suits(
        &self,
        symbols: &Symbols,
        volume: &str,
        reservation: &Reservation,
        labels: &Labels,
    ) -> Option<Result<(), String>> {
        let known = self.volume(symbols.find(volume)?)?;
        let node = symbols.find(&reservation.node)?;
        Some(match reaches(symbols, self.reach_on(known, node), labels) {
            true => Ok(()),
            false => Err(format!(
                "pv {volume:?} node affinity doesn't match node {:?}: no matching NodeSelectorTerms",
                reservation.node
            )),
        })
    }
}
