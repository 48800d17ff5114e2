//! A snapshot that is kept from one question to the next: it follows the cluster by what has changed,
//! which is far less than there is. What was assumed for one question is undone in the same way, as
//! the next one's cluster is without it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};

use super::Cluster;
use crate::config::DEFAULT_SCHEDULER;
use crate::devices::DeviceObject;
use crate::pod::holds_room;
use crate::snapshot::{Budget, Controller, Snapshot};
use crate::storage::StorageObject;

#[derive(Default)]
pub struct Kept {
    snapshot: Snapshot,
    /// What the snapshot was made of.
    cluster: Cluster,
    /// Pods without a node that name one, by key.
    nominated: BTreeMap<String, Arc<CachedPod>>,
}

impl Kept {
    /// Brings the snapshot to these objects, as the default scheduler sees them.
    pub fn follow(&mut self, now: Cluster) -> &mut Snapshot {
        self.follow_as(now, |scheduler| scheduler == DEFAULT_SCHEDULER)
    }
    /// The same as schedulers of other names do.
    pub fn follow_as(&mut self, now: Cluster, ours: impl Fn(&str) -> bool) -> &mut Snapshot {
        if self.snapshot.is_overgrown() {
            *self = Kept::default();
        }
        let before = std::mem::replace(&mut self.cluster, now);
        let (now, snapshot) = (&self.cluster, &mut self.snapshot);
        follow(
            &before.nodes,
            &now.nodes,
            snapshot,
            |s, gone| drop(s.remove_node(gone.name())),
            |s, new| drop(s.set_node(new)),
        );
        follow(
            &before.namespaces,
            &now.namespaces,
            snapshot,
            |s, gone| s.remove_namespace(gone.name()),
            |s, new| {
                s.set_namespace(new);
            },
        );
        workloads(&before, now, snapshot);
        follow(
            &before.budgets,
            &now.budgets,
            snapshot,
            |s, gone| s.remove_budget(&gone.key()),
            |s, new| {
                if let Some(parsed) = Budget::parse(&mut s.catalogue, new) {
                    s.set_budget(&new.key(), parsed);
                }
            },
        );
        storage_and_devices(&before, now, snapshot);
        self.pods(&before.pods, ours);
        &mut self.snapshot
    }
    pub fn into_snapshot(self) -> Snapshot {
        self.snapshot
    }
    /// The snapshot has lost the pod, if it had it: it is taken in again next time.
    pub fn lost_pod(&mut self, namespace: &str, name: &str) {
        self.cluster.pods.retain(|pod| pod.name() != name || pod.namespace() != namespace);
    }

    /// Pods that wait for room count where it is being made; whether that is there, and they are `ours`,
    /// is asked each time.
    fn pods(&mut self, before: &[Arc<CachedPod>], ours: impl Fn(&str) -> bool) {
        let Kept { snapshot, cluster, nominated } = self;
        for key in nominated.keys() {
            snapshot.denominate(key);
        }
        let (gone, new) = difference(before, &cluster.pods);
        for pod in gone {
            let key = pod.key();
            snapshot.remove_pod(&key);
            nominated.remove(&key);
        }
        for pod in new {
            snapshot.set_pod(pod);
            if holds_room(pod, |_| true).is_some() {
                nominated.insert(pod.key(), pod.clone());
            }
        }
        for pod in nominated.values() {
            if let Some(slot) = holds_room(pod, &ours).and_then(|name| snapshot.slot(name)) {
                let info = Arc::new(snapshot.catalogue.pod(pod));
                snapshot.nominate(info, slot);
            }
        }
    }
}

/// What is there no longer, and what was not there before. An object that changed is another one.
fn difference<'a, T>(before: &'a [Arc<T>], now: &'a [Arc<T>]) -> (Vec<&'a Arc<T>>, Vec<&'a Arc<T>>) {
    let same = before.iter().zip(now).take_while(|(old, new)| Arc::ptr_eq(old, new)).count();
    let (before, now) = (&before[same..], &now[same..]);
    let addresses = |objects: &[Arc<T>]| -> HashSet<*const T> { objects.iter().map(Arc::as_ptr).collect() };
    let (old, new) = (addresses(before), addresses(now));
    let without = |objects: &'a [Arc<T>], others: &HashSet<*const T>| {
        objects.iter().filter(|object| !others.contains(&Arc::as_ptr(object))).collect()
    };
    (without(before, &new), without(now, &old))
}

fn follow<T>(
    before: &[Arc<T>],
    now: &[Arc<T>],
    snapshot: &mut Snapshot,
    remove: impl Fn(&mut Snapshot, &T),
    set: impl Fn(&mut Snapshot, &T),
) {
    let (gone, new) = difference(before, now);
    gone.into_iter().for_each(|object| remove(snapshot, object));
    new.into_iter().for_each(|object| set(snapshot, object));
}

fn workloads(before: &Cluster, now: &Cluster, snapshot: &mut Snapshot) {
    follow(
        &before.services,
        &now.services,
        snapshot,
        |s, gone| s.workloads.remove_service(&s.catalogue.symbols, gone.namespace(), gone.name()),
        |s, new| s.workloads.set_service(&mut s.catalogue, new),
    );
    controllers(&before.replication_controllers, &now.replication_controllers, snapshot);
    controllers(&before.replica_sets, &now.replica_sets, snapshot);
    controllers(&before.stateful_sets, &now.stateful_sets, snapshot);
}

fn controllers<C: Controller>(before: &[Arc<C>], now: &[Arc<C>], snapshot: &mut Snapshot) {
    let remove = |s: &mut Snapshot, gone: &C| {
        s.workloads.remove_controller::<C>(&s.catalogue.symbols, gone.namespace(), gone.name());
    };
    follow(before, now, snapshot, remove, |s, new| s.workloads.set_controller(&mut s.catalogue, new));
}

fn storage_and_devices(before: &Cluster, now: &Cluster, snapshot: &mut Snapshot) {
    store(&before.claims, &now.claims, snapshot);
    store(&before.volumes, &now.volumes, snapshot);
    store(&before.storage_classes, &now.storage_classes, snapshot);
    store(&before.csi_nodes, &now.csi_nodes, snapshot);
    store(&before.csi_drivers, &now.csi_drivers, snapshot);
    store(&before.capacities, &now.capacities, snapshot);
    store(&before.attachments, &now.attachments, snapshot);
    offer(&before.resource_claims, &now.resource_claims, snapshot);
    offer(&before.resource_slices, &now.resource_slices, snapshot);
    offer(&before.device_classes, &now.device_classes, snapshot);
}

fn store<T: StorageObject>(before: &[Arc<T>], now: &[Arc<T>], snapshot: &mut Snapshot) {
    let remove = |s: &mut Snapshot, gone: &T| T::remove(&mut s.storage, &s.catalogue.symbols, &gone.key());
    follow(before, now, snapshot, remove, |s, new| {
        new.set(&mut s.storage, &mut s.catalogue.symbols);
    });
}

fn offer<T: DeviceObject>(before: &[Arc<T>], now: &[Arc<T>], snapshot: &mut Snapshot) {
    let remove = |s: &mut Snapshot, gone: &T| T::remove(&mut s.devices, &s.catalogue.symbols, &gone.key());
    follow(before, now, snapshot, remove, |s, new| {
        new.set(&mut s.devices, &mut s.catalogue.symbols);
    });
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Namespace, Node};
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use serde_json::{Value, json};

    use super::*;

    fn of<T: Resource>(object: Value) -> Arc<T> {
        Arc::new(T::decode(object.to_string().as_bytes()).unwrap())
    }
    fn node(name: &str, cpu: &str) -> Arc<Node> {
        let meta = json!({"name": name, "labels": {"kubernetes.io/hostname": name}});
        of(json!({"metadata": meta, "status": {"allocatable": {"cpu": cpu, "pods": "9"}}}))
    }
    fn pod(name: &str, node: &str, status: Value) -> Arc<CachedPod> {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
        of(json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"containers": [container], "nodeName": node}, "status": status}))
    }

    /// Nodes and pods of several moments: all come, change, are nominated, and go.
    fn moments() -> Vec<Cluster> {
        let nominated = || json!({"nominatedNodeName": "b"});
        let budget: Arc<PodDisruptionBudget> = of(json!({"metadata": {"name": "b", "namespace": "ns"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}));
        let namespace: Arc<Namespace> = of(json!({"metadata": {"name": "ns", "labels": {"a": "b"}}}));
        let first = Cluster {
            nodes: vec![node("a", "4")],
            pods: vec![pod("p", "a", json!({})), pod("q", "", nominated())],
            namespaces: vec![namespace],
            ..Cluster::default()
        };
        let mut second = first.clone(); // room is made where there is a node now
        second.nodes.push(node("b", "4"));
        second.budgets.push(budget);
        let mut third = second.clone(); // one node is another, a pod is gone, a pod has moved
        third.nodes[0] = node("a", "8");
        third.pods = vec![pod("p", "b", json!({})), pod("r", "a", json!({})), pod("s", "", nominated())];
        third.namespaces.clear();
        let fourth = Cluster { pods: vec![pod("r", "a", json!({"phase": "Failed"}))], ..third.clone() };
        vec![first.clone(), second, third, fourth, first, Cluster::default()]
    }

    #[test]
    fn what_is_kept_is_what_one_built_anew_is() {
        let mut kept = Kept::default();
        for (moment, cluster) in moments().into_iter().enumerate() {
            let built = cluster.snapshot();
            let differences = kept.follow(cluster).differences(&built);
            assert_eq!(differences, [] as [String; 0], "at moment {moment}");
        }
    }

    #[test]
    fn room_is_held_for_pods_the_scheduler_still_waits_for() {
        let held = |change: Value, ours: &str| {
            let mut object = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "p"},
                "spec": {"containers": []}, "status": {"nominatedNodeName": "a"}});
            for (part, fields) in change.as_object().unwrap() {
                object[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            }
            let pods = vec![of::<CachedPod>(object)];
            let cluster = Cluster { nodes: vec![node("a", "4")], pods, ..Cluster::default() };
            let mut kept = Kept::default();
            let snapshot = kept.follow_as(cluster, |name| name == ours);
            snapshot.nominated_slot("ns/p").is_some()
        };
        let cases = [
            (json!({}), "default-scheduler", true),
            (json!({}), "other", false),
            (json!({"spec": {"schedulerName": "other"}}), "default-scheduler", false),
            (json!({"spec": {"schedulerName": "other"}}), "other", true),
            (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), "default-scheduler", false),
            (json!({"status": {"phase": "Succeeded"}}), "default-scheduler", false),
            (json!({"status": {"nominatedNodeName": ""}}), "default-scheduler", false),
            (json!({"spec": {"nodeName": "a"}}), "default-scheduler", false),
        ];
        for (change, ours, expected) in cases {
            assert_eq!(held(change.clone(), ours), expected, "{change} {ours}");
        }
    }

    #[test]
    fn a_pod_that_was_explained_is_taken_in_again() {
        let cluster = moments().swap_remove(1);
        let mut kept = Kept::default();
        kept.follow(cluster.clone()).remove_pod("ns/p");
        kept.lost_pod("ns", "p");
        let built = cluster.snapshot();
        assert_eq!(built.pod_count(), 1);
        assert_eq!(kept.follow(cluster).differences(&built), [] as [String; 0]);
    }
}
