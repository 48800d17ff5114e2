//! The cluster as the API shows it, and the changes that happen to it.

use std::collections::BTreeMap;

use amphipod_scheduler::Snapshot;
use amphipod_scheduler::snapshot::Budget;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::devices::Devices;
use crate::random::{NAMESPACES, Random};
use crate::volumes::Storage;

/// What a pod that was sent away for another says of it.
pub const PREEMPTED: &str = "PreemptionByScheduler";

#[derive(Clone, Default)]
pub struct World {
    pub nodes: BTreeMap<String, Node>,
    pub pods: BTreeMap<String, Pod>,
    /// With the node they wait for.
    pub nominated: BTreeMap<String, (Pod, String)>,
    pub namespaces: BTreeMap<String, Namespace>,
    pub services: BTreeMap<String, Service>,
    pub replica_sets: BTreeMap<String, ReplicaSet>,
    pub budgets: BTreeMap<String, PodDisruptionBudget>,
    pub storage: Storage,
    pub devices: Devices,
    pub made: usize,
}

pub fn key(pod: &Pod) -> String {
    format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or(""),
        pod.metadata.name.as_deref().unwrap_or("")
    )
}

/// The pod is being deleted, perhaps for another's sake.
fn leave(pod: &mut Pod, preempted: bool) {
    let meta = json!({"deletionTimestamp": "2026-01-01T01:00:00Z"});
    let meta: ObjectMeta = serde_json::from_value(meta).expect("metadata");
    pod.metadata.deletion_timestamp = meta.deletion_timestamp;
    if preempted {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": PREEMPTED});
        let condition = serde_json::from_value(condition).expect("a condition");
        pod.status.get_or_insert_default().conditions = Some(vec![condition]);
    }
}

pub fn nominate(snapshot: &mut Snapshot, pod: &Pod, node: &str) {
    let info = snapshot.catalogue.pod(&pod.clone().into());
    let node = snapshot.catalogue.symbols.intern(node);
    snapshot.nominate_for(info.into(), node);
}

impl World {
    /// Built anew from all objects.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in self.nodes.values() {
            snapshot.set_node(node);
        }
        for namespace in self.namespaces.values() {
            snapshot.set_namespace(namespace);
        }
        for pod in self.pods.values() {
            snapshot.set_pod(&pod.clone().into());
        }
        self.storage.tell(&mut snapshot);
        self.devices.tell(&mut snapshot);
        for (pod, node) in self.nominated.values() {
            nominate(&mut snapshot, pod, node);
        }
        snapshot
    }

    pub fn new_pod(&mut self, random: &mut Random, snapshot: &mut Snapshot) -> Pod {
        self.made += 1;
        let mut pod = random.pod(&format!("p{}", self.made));
        if random.put_device_claims(&mut pod) {
            self.make_claims(random, snapshot, &pod);
        }
        pod
    }
    /// A pod that is decided about again, with the node it waited for.
    pub fn waiting_pod(&mut self, random: &mut Random) -> Option<(Pod, String)> {
        let key = random.pick_key(&self.nominated)?;
        self.nominated.remove(&key)
    }
    /// A victim leaves, at once or slowly.
    pub fn send_away(&mut self, key: &str, at_once: bool, snapshot: &mut Snapshot) {
        if at_once {
            self.pods.remove(key);
            snapshot.remove_pod(key);
        } else if let Some(pod) = self.pods.get_mut(key) {
            leave(pod, true);
            snapshot.set_pod(&pod.clone().into());
        }
    }
    /// Somebody expects a pod on a node, which need not be there.
    fn expect_pod(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let (pod, any) = (self.new_pod(random, snapshot), format!("n{}", random.below(20)));
        let node = if random.one_in(4) { any } else { random.pick_key(&self.nodes).unwrap_or(any) };
        nominate(snapshot, &pod, &node);
        self.nominated.insert(key(&pod), (pod, node));
    }
    pub fn bind(&mut self, mut pod: Pod, node: &str) -> &Pod {
        self.made += 1;
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        let started = format!("2026-01-01T00:{:02}:{:02}Z", self.made / 60 % 60, self.made % 60);
        let started = serde_json::from_value(started.into()).expect("a time");
        pod.status.get_or_insert_default().start_time = Some(started);
        self.pods.entry(key(&pod)).insert_entry(pod).into_mut()
    }
    pub fn add_node(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let name = format!("n{}", random.below(20));
        let node = random.node(&name);
        snapshot.set_node(&node);
        self.nodes.insert(name, node);
    }
    /// One that is placed already, wherever it fits or not.
    pub fn add_pod(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let pod = self.new_pod(random, snapshot);
        let Some(node) = random.pick_key(&self.nodes) else { return };
        snapshot.set_pod(&self.bind(pod, &node).clone().into());
    }

    pub fn change(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        match random.below(if random.about_devices { 24 } else { 20 }) {
            0 | 1 => self.add_node(random, snapshot),
            2 => self.remove_node(random, snapshot),
            3..=5 => self.add_pod(random, snapshot),
            6 => self.remove_pod(random, snapshot),
            7 => self.see_again(random, snapshot),
            8 => self.set_namespace(random, snapshot),
            9 => self.set_service(random, snapshot),
            10 => self.set_replica_set(random, snapshot),
            11 => self.set_budget(random, snapshot),
            12 | 13 => self.expect_pod(random, snapshot),
            14.. if random.about_devices => self.change_devices(random, snapshot),
            14 => self.change_devices(random, snapshot),
            _ => self.change_storage(random, snapshot),
        }
    }
    pub fn set_up_storage(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        for class in random.classes() {
            let Snapshot { catalogue, storage, .. } = &mut *snapshot;
            storage.set_class(&mut catalogue.symbols, &class);
            self.storage.classes.insert(class.metadata.name.clone().unwrap_or_default(), class);
        }
        // Most of what names there are for is there.
        let changes = if random.about_storage { 200 } else { 20 };
        for _ in 0..changes {
            self.change_storage(random, snapshot);
        }
    }
    fn change_storage(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let Snapshot { catalogue, storage, .. } = snapshot;
        let symbols = &mut catalogue.symbols;
        let name = |meta: &ObjectMeta| meta.name.clone().unwrap_or_default();
        match random.below(9) {
            0 | 1 => {
                let claim = random.claim();
                let key = format!(
                    "{}/{}",
                    claim.metadata.namespace.as_deref().unwrap_or(""),
                    name(&claim.metadata)
                );
                if random.one_in(8) {
                    self.storage.claims.remove(&key);
                    return storage.remove_claim(symbols, &key);
                }
                storage.set_claim(symbols, &claim);
                self.storage.claims.insert(key, claim);
            }
            2 | 3 => {
                let volume = random.volume();
                if random.one_in(6) {
                    self.storage.volumes.remove(&name(&volume.metadata));
                    return storage.remove_volume(symbols, &name(&volume.metadata));
                }
                storage.set_volume(symbols, &volume);
                self.storage.volumes.insert(name(&volume.metadata), volume);
            }
            4 | 5 => {
                let limits = random.limits();
                storage.set_limits(symbols, &limits);
                self.storage.limits.insert(name(&limits.metadata), limits);
            }
            6 => {
                let attachment = random.attachment();
                if random.one_in(3) {
                    self.storage.attachments.remove(&name(&attachment.metadata));
                    return storage.remove_attachment(symbols, &name(&attachment.metadata));
                }
                storage.set_attachment(symbols, &attachment);
                self.storage.attachments.insert(name(&attachment.metadata), attachment);
            }
            7 => {
                let driver = random.driver();
                storage.set_driver(symbols, &driver);
                self.storage.drivers.insert(name(&driver.metadata), driver);
            }
            _ => {
                let capacity = random.capacity();
                let key = format!("ns/{}", name(&capacity.metadata));
                if random.one_in(6) {
                    self.storage.capacities.remove(&key);
                    return storage.remove_capacity(symbols, &key);
                }
                storage.set_capacity(symbols, &capacity);
                self.storage.capacities.insert(key, capacity);
            }
        }
    }
    fn remove_node(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let Some(name) = random.pick_key(&self.nodes) else { return };
        // Its pods are still there for a while; those that wait for it go on waiting.
        self.nodes.remove(&name);
        snapshot.remove_node(&name);
    }
    fn remove_pod(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let pods = if random.one_in(4) {
            self.nominated.keys().cloned().collect()
        } else {
            self.pods.keys().cloned().collect::<Vec<_>>()
        };
        let Some(key) = random.pick(&pods) else { return };
        self.pods.remove(&key);
        self.nominated.remove(&key);
        snapshot.remove_pod(&key);
    }
    /// A pod's own changes: being deleted, another label, or nothing of interest.
    fn see_again(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let Some(key) = random.pick_key(&self.pods) else { return };
        let Some(pod) = self.pods.get_mut(&key) else { return };
        match random.below(4) {
            0 => leave(pod, random.one_in(2)),
            1 => {
                let labels = pod.metadata.labels.get_or_insert_default();
                labels.insert("app".to_owned(), random.label("app"));
            }
            2 => pod.status.get_or_insert_default().phase = Some("Succeeded".to_owned()),
            _ => pod.metadata.resource_version = Some("9".to_owned()),
        }
        snapshot.set_pod(&pod.clone().into());
    }
    fn set_namespace(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let name = random.one_of(&NAMESPACES).to_owned();
        if random.one_in(5) {
            self.namespaces.remove(&name);
            return snapshot.remove_namespace(&name);
        }
        let labels = json!({"team": random.label("app")});
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        let namespace: Namespace = serde_json::from_value(namespace).expect("a namespace");
        snapshot.set_namespace(&namespace);
        self.namespaces.insert(name, namespace);
    }
    fn set_service(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let (namespace, name) = (random.one_of(&NAMESPACES), format!("s{}", random.below(3)));
        let key = format!("{namespace}/{name}");
        let Snapshot { catalogue, workloads, .. } = snapshot;
        if random.one_in(4) {
            self.services.remove(&key);
            return workloads.remove_service(&catalogue.symbols, namespace, &name);
        }
        let selector = if random.one_in(5) { json!(null) } else { json!({"app": random.label("app")}) };
        let service =
            json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"selector": selector}});
        let service: Service = serde_json::from_value(service).expect("a service");
        workloads.set_service(catalogue, &service);
        self.services.insert(key, service);
    }
    fn set_replica_set(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let (namespace, name) = (random.one_of(&NAMESPACES), format!("rs{}", random.below(3)));
        let key = format!("{namespace}/{name}");
        let Snapshot { catalogue, workloads, .. } = snapshot;
        if random.one_in(4) {
            self.replica_sets.remove(&key);
            return workloads.remove_controller::<ReplicaSet>(&catalogue.symbols, namespace, &name);
        }
        let selector = json!({"matchLabels": {"tier": random.label("tier")}});
        let set = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"selector": selector}});
        let set: ReplicaSet = serde_json::from_value(set).expect("a replica set");
        workloads.set_controller(catalogue, &set);
        self.replica_sets.insert(key, set);
    }
    fn set_budget(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let (namespace, name) = (random.one_of(&NAMESPACES), format!("b{}", random.below(3)));
        let key = format!("{namespace}/{name}");
        let selector =
            if random.one_in(6) { json!({}) } else { json!({"matchLabels": {"app": random.label("app")}}) };
        let status = json!({"disruptionsAllowed": random.below(3), "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        let budget = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"selector": selector}, "status": status});
        let budget: PodDisruptionBudget = serde_json::from_value(budget).expect("a budget");
        match Budget::parse(&mut snapshot.catalogue, &budget) {
            Some(parsed) => snapshot.set_budget(&key, parsed),
            None => snapshot.remove_budget(&key),
        }
        self.budgets.insert(key, budget);
    }
}
