//! The objects a decision looks at, at one moment; a snapshot is built from them for each question.

use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::pod::{is_finished, node_name};
use crate::snapshot::{Budget, Snapshot};

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
