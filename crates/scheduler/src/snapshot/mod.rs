//! Everything a decision may look at, kept current by difference: nodes in dense slots with what
//! fills them, the rules placed pods have about others, and a log of the slots that changed, from
//! which whoever remembers something about nodes learns what to look at again.

mod budgets;
mod log;
mod rebuild;
mod reserve;
mod workloads;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::{Namespace, Node};

pub use budgets::Budget;
pub use log::ChangeLog;
use rebuild::Growth;
pub use workloads::{Controller, Workloads};

use crate::devices::Devices;
use crate::framework::Event;
use crate::labels::Labels;
use crate::node::{NodeInfo, Shape, Slot};
use crate::pod::{Catalogue, OwnedTerm, PodInfo, Template, TermId, is_finished, node_name};
use crate::storage::Storage;
use crate::symbols::{NumberMap, Symbol};

#[derive(Debug, Default)]
pub struct Snapshot {
    pub catalogue: Catalogue,
    nodes: Vec<NodeInfo>,
    by_name: NumberMap<Symbol, Slot>,
    vacant: Vec<Slot>,
    known: usize,
    pods: HashMap<Arc<str>, Slot>,
    nominated: HashMap<Arc<str>, Slot>,
    /// How many placed and nominated pods have each template.
    templates: NumberMap<u32, u32>,
    terms: NumberMap<TermId, TermUse>,
    terms_generation: u64,
    namespaces: NumberMap<Symbol, Labels>,
    namespaces_generation: u64,
    images: NumberMap<Symbol, u32>,
    pub workloads: Workloads,
    pub storage: Storage,
    pub devices: Devices,
    budgets: BTreeMap<String, Budget>,
    budgets_generation: u64,
    log: ChangeLog,
    growth: Growth,
}

#[derive(Debug)]
struct TermUse {
    term: Arc<OwnedTerm>,
    templates: usize,
}

/// A node that was not there or was otherwise before.
#[derive(Debug)]
pub struct NodeChange {
    pub slot: Slot,
    pub old: Option<Shape>,
}

/// A placed pod before and after.
#[derive(Debug)]
pub struct PodChange {
    pub old: Option<Arc<PodInfo>>,
    pub new: Option<Arc<PodInfo>>,
}

impl PodChange {
    /// What of it may help pods that wait; `None` if nothing.
    pub fn event(&self) -> Option<Event<'_>> {
        match (&self.old, &self.new) {
            (None, None) => None,
            (None, Some(new)) => Some(Event::PodPlaced(new)),
            (Some(old), None) => Some(Event::PodRemoved(old)),
            (Some(old), Some(new)) => {
                (old.template.id != new.template.id).then_some(Event::PodChanged { old, new })
            }
        }
    }
}

/// What classes of pods depend on beside nodes and the pods on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    pub terms: u64,
    pub namespaces: u64,
    pub workloads: u64,
}

// Reading.
impl Snapshot {
    /// Nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = (Slot, &NodeInfo, &Shape)> {
        let all = self.nodes.iter().enumerate();
        all.filter_map(|(slot, node)| Some((slot as Slot, node, node.shape.as_ref()?)))
    }
    pub fn node(&self, slot: Slot) -> &NodeInfo {
        &self.nodes[slot as usize]
    }
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.slot_of(self.catalogue.symbols.find(name)?)
    }
    pub fn slot_of(&self, name: Symbol) -> Option<Slot> {
        self.by_name.get(&name).copied().filter(|slot| self.node(*slot).shape.is_some())
    }
    /// How many slots there are, vacant ones too.
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }
    /// How many nodes exist.
    pub fn node_count(&self) -> usize {
        self.known
    }
    pub fn name(&self, slot: Slot) -> &str {
        self.catalogue.symbols.text(self.node(slot).name)
    }
    pub fn pod(&self, key: &str) -> Option<&Arc<PodInfo>> {
        let slot = self.pods.get(key)?;
        self.node(*slot).pods.iter().find(|pod| &*pod.key == key)
    }
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }
    pub fn nominated_slot(&self, key: &str) -> Option<Slot> {
        self.nominated.get(key).copied()
    }
    /// How many templates placed and nominated pods have.
    pub fn template_count(&self) -> usize {
        self.templates.len()
    }
    /// The rules placed and nominated pods have about others.
    pub fn terms(&self) -> impl Iterator<Item = (TermId, &Arc<OwnedTerm>)> {
        self.terms.iter().map(|(id, used)| (*id, &used.term))
    }
    pub fn namespace_labels(&self, namespace: Symbol) -> Option<&Labels> {
        self.namespaces.get(&namespace)
    }
    /// How many nodes have an image.
    pub fn nodes_with_image(&self, image: Symbol) -> u32 {
        self.images.get(&image).copied().unwrap_or(0)
    }
    pub fn budgets(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.values()
    }
    pub fn budgets_generation(&self) -> u64 {
        self.budgets_generation
    }
    pub fn log(&self) -> &ChangeLog {
        &self.log
    }
    pub fn generations(&self) -> Generations {
        Generations {
            terms: self.terms_generation,
            namespaces: self.namespaces_generation,
            workloads: self.workloads.generation(),
        }
    }
}

// Following the cluster.
impl Snapshot {
    /// `None` if nothing the scheduler looks at has changed.
    pub fn set_node(&mut self, node: &Node) -> Option<NodeChange> {
        let shape = Shape::parse(&mut self.catalogue, node);
        let name = self.catalogue.symbols.intern(node.name());
        let slot = self.slot_for(name);
        if self.node(slot).shape.as_ref() == Some(&shape) {
            return None; // a heartbeat
        }
        for (image, _) in &shape.images {
            *self.images.entry(*image).or_insert(0) += 1;
        }
        let old = self.nodes[slot as usize].shape.replace(shape);
        self.known += usize::from(old.is_none());
        self.forget_images(old.as_ref());
        self.log.record(slot);
        Some(NodeChange { slot, old })
    }
    /// What the node was, if there was one.
    pub fn remove_node(&mut self, name: &str) -> Option<Shape> {
        let slot = self.slot(name)?;
        let old = self.nodes[slot as usize].shape.take();
        self.known -= usize::from(old.is_some());
        self.forget_images(old.as_ref());
        self.log.record(slot);
        self.release_if_vacant(slot);
        old
    }
    /// Whether its labels are new.
    pub fn set_namespace(&mut self, namespace: &Namespace) -> bool {
        let symbols = &mut self.catalogue.symbols;
        let labels = Labels::parse(symbols, namespace.metadata.labels.as_ref());
        let name = symbols.intern(namespace.name());
        let changed = self.namespaces.get(&name) != Some(&labels);
        if changed {
            self.namespaces.insert(name, labels);
            self.namespaces_generation += 1;
        }
        changed
    }
    pub fn remove_namespace(&mut self, name: &str) {
        let name = self.catalogue.symbols.find(name);
        if name.is_some_and(|name| self.namespaces.remove(&name).is_some()) {
            self.namespaces_generation += 1;
        }
    }
    /// Counts a pod on its node, or no longer, when it has none or is finished.
    pub fn set_pod(&mut self, pod: &CachedPod) -> PodChange {
        let Some(node) = node_name(pod).filter(|_| !is_finished(pod)) else {
            return PodChange { old: self.remove_pod(&pod.key()), new: None };
        };
        let info = Arc::new(self.catalogue.pod(pod));
        let name = self.catalogue.symbols.intern(node);
        PodChange { old: self.place_on(info.clone(), name), new: Some(info) }
    }
    /// Counts a pod on a node before the API says so.
    pub fn place(&mut self, pod: &PodInfo, slot: Slot) -> Arc<PodInfo> {
        let node = self.node(slot).name;
        let placed = Arc::new(self.catalogue.settled(pod, node));
        self.place_on(placed.clone(), node);
        placed
    }
    fn place_on(&mut self, pod: Arc<PodInfo>, node: Symbol) -> Option<Arc<PodInfo>> {
        self.denominate(&pod.key);
        let known = self.pods.get(&pod.key).copied().filter(|slot| self.node(*slot).name == node);
        if let Some(known) = known.and_then(|slot| self.refreshed(&pod, slot)) {
            return Some(known);
        }
        let old = self.remove_pod(&pod.key);
        let slot = self.slot_for(node); // only now: it may have been released with the pod
        self.count(&pod.template);
        self.pods.insert(pod.key.clone(), slot);
        self.storage.count_pod(&pod, slot, true);
        self.nodes[slot as usize].add(pod);
        self.log.record(slot);
        old
    }
    /// What the pod was, if it counted.
    pub fn remove_pod(&mut self, key: &str) -> Option<Arc<PodInfo>> {
        self.denominate(key);
        let slot = self.pods.remove(key)?;
        let pod = self.nodes[slot as usize].remove(key);
        if let Some(pod) = &pod {
            self.storage.count_pod(pod, slot, false);
            self.uncount(&pod.template);
        }
        self.log.record(slot);
        self.release_if_vacant(slot);
        pod
    }
    /// Remembers that room is being made for a pod.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, slot: Slot) {
        self.nominate_for(pod, self.node(slot).name);
    }
    /// The same, of a node that may not exist (yet): room is held for the pod once it does.
    pub fn nominate_for(&mut self, pod: Arc<PodInfo>, node: Symbol) {
        self.denominate(&pod.key);
        let slot = self.slot_for(node);
        self.count(&pod.template); // its rules count where it waits
        self.storage.count_waiting(&pod, slot, true);
        self.nominated.insert(pod.key.clone(), slot);
        self.nodes[slot as usize].nominated.push(pod);
        self.log.record(slot);
    }
    /// The node the pod waited for.
    pub fn denominate(&mut self, key: &str) -> Option<Symbol> {
        let slot = self.nominated.remove(key)?;
        let node = self.node(slot).name;
        let waiting = &mut self.nodes[slot as usize].nominated;
        let index = waiting.iter().position(|pod| &*pod.key == key)?;
        let pod = waiting.swap_remove(index);
        self.storage.count_waiting(&pod, slot, false);
        self.uncount(&pod.template);
        self.log.record(slot);
        self.release_if_vacant(slot);
        Some(node)
    }
    pub fn set_budget(&mut self, key: &str, budget: Budget) {
        if self.budgets.get(key) != Some(&budget) {
            self.budgets.insert(key.to_owned(), budget);
            self.budgets_generation += 1;
        }
    }
    pub fn remove_budget(&mut self, key: &str) {
        if self.budgets.remove(key).is_some() {
            self.budgets_generation += 1;
        }
    }

    /// The slot of a node that may not exist (yet).
    fn slot_for(&mut self, name: Symbol) -> Slot {
        if let Some(slot) = self.by_name.get(&name) {
            return *slot;
        }
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.nodes.push(NodeInfo::default());
            (self.nodes.len() - 1) as Slot
        });
        self.nodes[slot as usize].name = name;
        self.by_name.insert(name, slot);
        slot
    }
    fn release_if_vacant(&mut self, slot: Slot) {
        let node = &self.nodes[slot as usize];
        if node.is_vacant() && self.by_name.get(&node.name) == Some(&slot) {
            self.by_name.remove(&node.name);
            self.nodes[slot as usize] = NodeInfo::default();
            self.vacant.push(slot);
        }
    }
    fn forget_images(&mut self, shape: Option<&Shape>) {
        for (image, _) in shape.iter().flat_map(|shape| &shape.images) {
            if let Some(nodes) = self.images.get_mut(image) {
                *nodes -= 1;
                if *nodes == 0 {
                    self.images.remove(image);
                }
            }
        }
    }
    /// Where what is known of a placed pod is news only to itself, the news is taken over.
    fn refreshed(&mut self, pod: &Arc<PodInfo>, slot: Slot) -> Option<Arc<PodInfo>> {
        let pods = &mut self.nodes[slot as usize].pods;
        let known = pods.iter_mut().find(|known| known.key == pod.key)?;
        if known.template.id != pod.template.id || known.uid != pod.uid {
            return None;
        }
        let old = known.clone();
        if known.started != pod.started || known.preempted != pod.preempted {
            *known = pod.clone();
            self.log.record(slot); // the order of victims may differ
        }
        Some(old)
    }
    fn count(&mut self, template: &Template) {
        let pods = self.templates.entry(template.id).or_insert(0);
        *pods += 1;
        if *pods > 1 {
            return;
        }
        for (id, term) in &template.terms {
            let used = self.terms.entry(*id).or_insert_with(|| TermUse { term: term.clone(), templates: 0 });
            used.templates += 1;
            self.terms_generation += u64::from(used.templates == 1);
        }
    }
    fn uncount(&mut self, template: &Template) {
        let Some(pods) = self.templates.get_mut(&template.id) else { return };
        *pods -= 1;
        if *pods > 0 {
            return;
        }
        self.templates.remove(&template.id);
        for (id, _) in &template.terms {
            let Some(used) = self.terms.get_mut(id) else { continue };
            used.templates -= 1;
            if used.templates == 0 {
                self.terms.remove(id);
                self.terms_generation += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
