//! From what the API shows to the snapshot and the queue.

use std::sync::Arc;
use std::time::Instant;

use amphipod_client::{CachedPod, Change, Informer, Resource, SharedInformers};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::devices::DeviceSources;
use super::storage::StorageSources;
use super::{Config, Shell, State};
use crate::framework::Event;
use crate::pod::{PodInfo, holds_room, node_name, waits_for_node};
use crate::snapshot::{Budget, Controller, Snapshot};

/// All kinds decisions look at.
pub struct Sources {
    pub pods: Informer<CachedPod>,
    pub nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    replication_controllers: Informer<ReplicationController>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    budgets: Informer<PodDisruptionBudget>,
    pub storage: StorageSources,
    pub devices: DeviceSources,
}

impl Sources {
    pub fn new(informers: &SharedInformers) -> Self {
        Sources {
            pods: informers.get(),
            nodes: informers.get(),
            namespaces: informers.get(),
            services: informers.get(),
            replication_controllers: informers.get(),
            replica_sets: informers.get(),
            stateful_sets: informers.get(),
            budgets: informers.get(),
            storage: StorageSources::new(informers),
            devices: DeviceSources::new(informers),
        }
    }
    pub async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.services.synced().await;
        self.replication_controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.budgets.synced().await;
        self.storage.synced().await;
        self.devices.synced().await;
    }
}

impl Shell {
    pub(super) fn observe(self: &Arc<Self>, sources: &Sources) {
        self.on_change(&sources.nodes, State::node_changed);
        self.on_change(&sources.namespaces, State::namespace_changed);
        self.on_change(&sources.services, State::service_changed);
        self.on_change(&sources.replication_controllers, State::controller_changed);
        self.on_change(&sources.replica_sets, State::controller_changed);
        self.on_change(&sources.stateful_sets, State::controller_changed);
        self.on_change(&sources.budgets, State::budget_changed);
        self.observe_storage(&sources.storage);
        self.observe_devices(&sources.devices);
        self.on_change(&sources.pods, State::pod_changed);
    }

    pub(super) fn on_change<T: Resource>(
        self: &Arc<Self>,
        informer: &Informer<T>,
        take_in: fn(&mut State, &Change<T>),
    ) {
        let this = self.clone();
        informer.on_change(move |change| {
            take_in(&mut this.state.lock(), change);
            this.work.notify_one();
        });
    }
}

impl State {
    /// Built anew from what the informers have. Pods on their way to a node stay on it, and waiting
    /// ones go on waiting, as the new snapshot knows them.
    pub(super) fn rebuilt(config: &Config, old: &mut State, sources: &Sources) -> State {
        let mut state = State::new(config);
        state.feed(&sources.nodes, State::node_changed);
        state.feed(&sources.namespaces, State::namespace_changed);
        state.feed(&sources.services, State::service_changed);
        state.feed(&sources.replication_controllers, State::controller_changed);
        state.feed(&sources.replica_sets, State::controller_changed);
        state.feed(&sources.stateful_sets, State::controller_changed);
        state.feed(&sources.budgets, State::budget_changed);
        sources.storage.tell(&mut state);
        sources.devices.tell(&mut state);
        state.preparations = std::mem::take(&mut old.preparations);
        for preparation in state.preparations.values() {
            state.snapshot.assume(&preparation.volumes);
        }
        state.snapshot.inherit_devices(&old.snapshot);
        // Those on their way first, or they would be taken for waiting ones.
        for pod in old.assumed.values() {
            let node = pod.node.map(|node| old.snapshot.catalogue.symbols.text(node));
            let slot = node.and_then(|node| state.snapshot.slot(node));
            let object = sources.pods.get(&pod.key).filter(|object| object.uid() == &*pod.uid);
            if let (Some(slot), Some(object)) = (slot, object) {
                let info = state.snapshot.catalogue.pod(&object);
                let placed = state.snapshot.place(&info, slot);
                state.assumed.insert(pod.key.clone(), placed);
            }
        }
        state.feed(&sources.pods, State::pod_changed);
        state.queue.inherit(std::mem::take(&mut old.queue));
        state.core.inherit(&old.core);
        state
    }
    pub(super) fn feed<T: Resource>(&mut self, informer: &Informer<T>, take_in: fn(&mut State, &Change<T>)) {
        for object in informer.list() {
            take_in(self, &Change::Added(object));
        }
    }

    fn node_changed(&mut self, change: &Change<Node>) {
        let Snapshot { catalogue, .. } = &mut self.snapshot;
        let node = change.object();
        let name = catalogue.symbols.intern(node.name());
        if let Change::Deleted(_) = change {
            let old = self.snapshot.remove_node(node.name());
            return self.happened(old.as_ref().map(|old| Event::NodeRemoved { old }));
        }
        let Some(changed) = self.snapshot.set_node(node) else { return };
        let Some(new) = self.snapshot.node(changed.slot).shape.clone() else { return };
        let event = match &changed.old {
            None => Event::NodeAdded { name, new: &new },
            Some(old) => Event::NodeChanged { name, old, new: &new },
        };
        self.happened(Some(event));
    }

    fn namespace_changed(&mut self, change: &Change<Namespace>) {
        let namespace = change.object();
        match change {
            Change::Deleted(_) => self.snapshot.remove_namespace(namespace.name()),
            _ => {
                let changed = self.snapshot.set_namespace(namespace);
                self.happened(changed.then_some(Event::NamespaceChanged));
            }
        }
    }

    fn service_changed(&mut self, change: &Change<Service>) {
        let Snapshot { catalogue, workloads, .. } = &mut self.snapshot;
        let service = change.object();
        match change {
            Change::Deleted(_) => {
                workloads.remove_service(&catalogue.symbols, service.namespace(), service.name());
            }
            _ => workloads.set_service(catalogue, service),
        }
    }

    fn controller_changed<C: Controller>(&mut self, change: &Change<C>) {
        let Snapshot { catalogue, workloads, .. } = &mut self.snapshot;
        let controller = change.object();
        match change {
            Change::Deleted(_) => {
                let (namespace, name) = (controller.namespace(), controller.name());
                workloads.remove_controller::<C>(&catalogue.symbols, namespace, name);
            }
            _ => workloads.set_controller(catalogue, &**controller),
        }
    }

    fn budget_changed(&mut self, change: &Change<PodDisruptionBudget>) {
        let budget = change.object();
        let parsed = match change {
            Change::Deleted(_) => None,
            _ => Budget::parse(&mut self.snapshot.catalogue, budget),
        };
        match parsed {
            Some(parsed) => self.snapshot.set_budget(&budget.key(), parsed),
            None => self.snapshot.remove_budget(&budget.key()),
        }
    }

    fn pod_changed(&mut self, change: &Change<CachedPod>) {
        let pod = change.object();
        let key = pod.key();
        let gone = matches!(change, Change::Deleted(_));
        if gone || node_name(pod).is_some() {
            self.assumed.remove(&*key);
            // One that waited for a node leaves the room that was made for it.
            let waited = self.snapshot.nominated_slot(&key).and(self.queue.get(&key).cloned());
            let changed = if gone {
                crate::snapshot::PodChange { old: self.snapshot.remove_pod(&key), new: None }
            } else {
                self.snapshot.set_pod(pod)
            };
            self.queue.remove(&key);
            self.happened(changed.event());
            if gone && let Some(waited) = waited {
                self.happened(Some(Event::PodRemoved(&waited)));
            }
        } else {
            self.waiting_pod_changed(change);
        }
    }

    fn waiting_pod_changed(&mut self, change: &Change<CachedPod>) {
        let pod = change.object();
        let info = Arc::new(self.snapshot.catalogue.pod(pod));
        let ours = self.core.profile_of(&self.snapshot, &info.template).is_some();
        // The API may still show a pod without a node whose binding is on its way.
        let decided = self.assumed.get(&info.key).is_some_and(|assumed| assumed.uid == info.uid);
        if !ours || decided {
            return;
        }
        if !waits_for_node(pod) {
            let held = self.snapshot.denominate(&info.key).is_some();
            self.queue.remove(&info.key);
            // Others may have the room it leaves.
            return self.happened(held.then_some(Event::PodRemoved(&info)));
        }
        self.nominate_as_told(&info, change);
        self.queue.add(info, Instant::now());
    }

    /// Room that is being made for a pod according to the API: from before a restart, or by others, for
    /// whom the node need not exist yet.
    fn nominate_as_told(&mut self, info: &Arc<PodInfo>, change: &Change<CachedPod>) {
        let ours = |name: &str| self.core.profiles().iter().any(|profile| profile.scheduler_name == name);
        let new = holds_room(change.object(), ours);
        let old = match change {
            Change::Updated { old, .. } => holds_room(old, ours),
            Change::Added(_) | Change::Deleted(_) => None,
        };
        if old == new {
            // It may ask for something else than before.
            if let Some(node) = self.snapshot.denominate(&info.key) {
                self.snapshot.nominate_for(info.clone(), node);
            }
            return;
        }
        match new {
            Some(node) => {
                let node = self.snapshot.catalogue.symbols.intern(node);
                self.snapshot.nominate_for(info.clone(), node);
            }
            None => drop(self.snapshot.denominate(&info.key)),
        }
        // Others may have the room it leaves.
        self.happened(old.map(|_| Event::PodRemoved(info)));
    }
}
