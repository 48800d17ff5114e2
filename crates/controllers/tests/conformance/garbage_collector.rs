//! sig-api-machinery: the garbage collector.

use amphipod_client::{DeleteParams, ListParams, Patch, Resource};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, eventually};
use crate::{pod, replication_controller, workload};

const NAMESPACE: &str = "gc";

async fn start() -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    cluster
}

fn propagating(policy: &'static str) -> DeleteParams {
    DeleteParams { propagation: Some(policy), ..DeleteParams::default() }
}

async fn all<K: Resource>(cluster: &Cluster) -> Vec<K> {
    cluster.api::<K>(NAMESPACE).list(&ListParams::default()).await.unwrap().1
}

/// A controller whose pods are all there.
async fn settled(cluster: &Cluster, name: &str, replicas: i32) -> ReplicationController {
    cluster.create::<ReplicationController>(NAMESPACE, replication_controller(name, replicas)).await;
    let full = |rc: &ReplicationController| rc.status.as_ref().is_some_and(|s| s.replicas == replicas);
    cluster.until(name, NAMESPACE, name, full).await
}

async fn rolled_out(cluster: &Cluster) {
    cluster.create::<Deployment>(NAMESPACE, workload("Deployment", "d", 2)).await;
    eventually("a replica set", || async { all::<ReplicaSet>(cluster).await.pop() }).await;
}

/// [sig-api-machinery] Garbage collector should delete pods created by rc when not orphaning [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn pods_go_with_their_controller() {
    let cluster = start().await;
    settled(&cluster, "rc", 2).await;
    cluster.api::<ReplicationController>(NAMESPACE).delete("rc", &propagating("Background")).await.unwrap();
    eventually("no pods", || async { all::<Pod>(&cluster).await.is_empty().then_some(()) }).await;
}

/// [sig-api-machinery] Garbage collector should orphan pods created by rc if delete options say so [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn pods_stay_when_orphaned() {
    let cluster = start().await;
    settled(&cluster, "rc", 5).await;
    cluster.api::<ReplicationController>(NAMESPACE).delete("rc", &propagating("Orphan")).await.unwrap();
    cluster.until_gone::<ReplicationController>(NAMESPACE, "rc").await;
    let pods = all::<Pod>(&cluster).await;
    assert_eq!(pods.len(), 5);
    assert!(
        pods.iter().all(|p| p.metadata.owner_references.is_none() && p.metadata.deletion_timestamp.is_none())
    );
}

/// [sig-api-machinery] Garbage collector should delete RS created by deployment when not orphaning [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replica_sets_go_with_their_deployment() {
    let cluster = start().await;
    rolled_out(&cluster).await;
    cluster.api::<Deployment>(NAMESPACE).delete("d", &propagating("Background")).await.unwrap();
    eventually("no sets and pods", || async {
        (all::<ReplicaSet>(&cluster).await.is_empty() && all::<Pod>(&cluster).await.is_empty()).then_some(())
    })
    .await;
}

/// [sig-api-machinery] Garbage collector should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replica_sets_stay_when_orphaned() {
    let cluster = start().await;
    rolled_out(&cluster).await;
    cluster.api::<Deployment>(NAMESPACE).delete("d", &propagating("Orphan")).await.unwrap();
    cluster.until_gone::<Deployment>(NAMESPACE, "d").await;
    let sets = all::<ReplicaSet>(&cluster).await;
    assert_eq!(sets.len(), 1);
    assert!(sets[0].metadata.owner_references.is_none(), "{sets:?}");
}

/// [sig-api-machinery] Garbage collector should keep the rc around until all its pods are deleted if the deleteOptions says so [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_waits_for_its_pods() {
    let cluster = start().await;
    settled(&cluster, "rc", 3).await;
    let pods = cluster.api::<Pod>(NAMESPACE);
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    let held = all::<Pod>(&cluster).await[0].name().to_owned();
    pods.patch(&held, &hold).await.unwrap();
    cluster.api::<ReplicationController>(NAMESPACE).delete("rc", &propagating("Foreground")).await.unwrap();
    eventually("one pod is left", || async { (all::<Pod>(&cluster).await.len() == 1).then_some(()) }).await;
    let rc = cluster.api::<ReplicationController>(NAMESPACE).get("rc").await.unwrap();
    assert!(rc.metadata.deletion_timestamp.is_some());
    assert_eq!(rc.metadata.finalizers.as_deref(), Some(&["foregroundDeletion".to_owned()][..]));
    pods.patch(&held, &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await.unwrap();
    cluster.until_gone::<ReplicationController>(NAMESPACE, "rc").await;
    assert!(all::<Pod>(&cluster).await.is_empty());
}

/// [sig-api-machinery] Garbage collector should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn another_owner_saves() {
    let cluster = start().await;
    settled(&cluster, "going", 4).await;
    let staying = settled(&cluster, "staying", 0).await;
    let pods = cluster.api::<Pod>(NAMESPACE);
    let reference =
        json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "staying", "uid": staying.uid()});
    let names: Vec<String> = all::<Pod>(&cluster).await.iter().map(|p| p.name().to_owned()).collect();
    for name in &names[..2] {
        let add = Patch::Strategic(json!({"metadata": {"ownerReferences": [reference]}}));
        pods.patch(name, &add).await.unwrap();
    }
    cluster
        .api::<ReplicationController>(NAMESPACE)
        .delete("going", &propagating("Foreground"))
        .await
        .unwrap();
    cluster.until_gone::<ReplicationController>(NAMESPACE, "going").await;
    let left = eventually("the others go", || async {
        Some(all::<Pod>(&cluster).await).filter(|pods| pods.len() == 2)
    })
    .await;
    for pod in left {
        assert!(names[..2].iter().any(|name| name == pod.name()));
        assert!(pod.metadata.deletion_timestamp.is_none());
        let owners = pod.metadata.owner_references.unwrap_or_default();
        assert_eq!(owners.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["staying"]);
    }
}

/// [sig-api-machinery] Garbage collector should not be blocked by dependency circle [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn circles_go() {
    let cluster = start().await;
    let pods = cluster.api::<Pod>(NAMESPACE);
    let mut uids = Vec::new();
    for name in ["pod1", "pod2", "pod3"] {
        uids.push(cluster.create::<Pod>(NAMESPACE, pod(name, &Value::Null)).await.uid().to_owned());
    }
    for (name, owner) in [("pod1", 2), ("pod2", 0), ("pod3", 1)] {
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": format!("pod{}", owner + 1), "uid": uids[owner],
            "controller": true, "blockOwnerDeletion": true});
        pods.patch(name, &Patch::Merge(json!({"metadata": {"ownerReferences": [reference]}}))).await.unwrap();
    }
    pods.delete("pod1", &propagating("Foreground")).await.unwrap();
    eventually("all three go", || async { all::<Pod>(&cluster).await.is_empty().then_some(()) }).await;
}
