//! The objects a decision looks at, at one moment; a snapshot is built from them for each question.

use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

use crate::devices::DeviceObject;
use crate::pod::{is_finished, node_name};
use crate::snapshot::{Budget, Snapshot};
use crate::storage::StorageObject;

#[derive(Clone, Default)]
pub struct Cluster {
    pub nodes: Vec<Arc<Node>>,
    pub pods: Vec<Arc<CachedPod>>,
    pub namespaces: Vec<Arc<Namespace>>,
    pub services: Vec<Arc<Service>>,
    pub replication_controllers: Vec<Arc<ReplicationController>>,
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    pub stateful_sets: Vec<Arc<StatefulSet>>,
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    pub volumes: Vec<Arc<PersistentVolume>>,
    pub storage_classes: Vec<Arc<StorageClass>>,
    pub csi_nodes: Vec<Arc<CSINode>>,
    pub csi_drivers: Vec<Arc<CSIDriver>>,
    pub capacities: Vec<Arc<CSIStorageCapacity>>,
    pub attachments: Vec<Arc<VolumeAttachment>>,
    pub resource_claims: Vec<Arc<ResourceClaim>>,
    pub resource_slices: Vec<Arc<ResourceSlice>>,
    pub device_classes: Vec<Arc<DeviceClass>>,
}

fn store<T: StorageObject>(snapshot: &mut Snapshot, objects: &[Arc<T>]) {
    for object in objects {
        object.set(&mut snapshot.storage, &mut snapshot.catalogue.symbols);
    }
}

fn offer<T: DeviceObject>(snapshot: &mut Snapshot, objects: &[Arc<T>]) {
    for object in objects {
        object.set(&mut snapshot.devices, &mut snapshot.catalogue.symbols);
    }
}

impl Cluster {
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in &self.nodes {
            snapshot.set_node(node);
        }
        for namespace in &self.namespaces {
            snapshot.set_namespace(namespace);
        }
        self.set_workloads(&mut snapshot);
        for budget in &self.budgets {
            if let Some(parsed) = Budget::parse(&mut snapshot.catalogue, budget) {
                snapshot.set_budget(&budget.key(), parsed);
            }
        }
        self.set_storage_and_devices(&mut snapshot);
        for pod in &self.pods {
            snapshot.set_pod(pod);
        }
        self.nominate(&mut snapshot);
        snapshot
    }

    fn set_workloads(&self, snapshot: &mut Snapshot) {
        let Snapshot { catalogue, workloads, .. } = snapshot;
        for service in &self.services {
            workloads.set_service(catalogue, service);
        }
        for controller in &self.replication_controllers {
            workloads.set_controller(catalogue, &**controller);
        }
        for controller in &self.replica_sets {
            workloads.set_controller(catalogue, &**controller);
        }
        for controller in &self.stateful_sets {
            workloads.set_controller(catalogue, &**controller);
        }
    }

    fn set_storage_and_devices(&self, snapshot: &mut Snapshot) {
        store(snapshot, &self.claims);
        store(snapshot, &self.volumes);
        store(snapshot, &self.storage_classes);
        store(snapshot, &self.csi_nodes);
        store(snapshot, &self.csi_drivers);
        store(snapshot, &self.capacities);
        store(snapshot, &self.attachments);
        offer(snapshot, &self.resource_claims);
        offer(snapshot, &self.resource_slices);
        offer(snapshot, &self.device_classes);
    }

    /// Pods that wait for room count where it is being made.
    fn nominate(&self, snapshot: &mut Snapshot) {
        for pod in self.pods.iter().filter(|pod| node_name(pod).is_none() && !is_finished(pod)) {
            let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
            if let Some(slot) = nominated.and_then(|name| snapshot.slot(name)) {
                let info = Arc::new(snapshot.catalogue.pod(pod));
                snapshot.nominate(info, slot);
            }
        }
    }
}
