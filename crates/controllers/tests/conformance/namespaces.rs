//! sig-api-machinery and sig-auth: what namespaces end with and begin with.

use amphipod_client::{DeleteParams, ListParams, Patch};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use serde_json::{Value, json};

use crate::cluster::{self, eventually};
use crate::pod;

/// [sig-api-machinery] Namespaces should ensure that all pods are removed when a namespace is deleted [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn pods_go_with_their_namespace() {
    let cluster = cluster::start().await;
    cluster.namespace("nsdeletetest").await;
    cluster.create::<Pod>("nsdeletetest", pod("test-pod", &Value::Null)).await;
    let running = |p: &Pod| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
    cluster.until::<Pod>("running", "nsdeletetest", "test-pod", running).await;
    cluster.api::<Namespace>("").delete("nsdeletetest", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<Namespace>("", "nsdeletetest").await;
    cluster.namespace("nsdeletetest").await;
    assert!(cluster.api::<Pod>("nsdeletetest").get_opt("test-pod").await.unwrap().is_none());
}

/// [sig-api-machinery] Namespaces should ensure that all services are removed when a namespace is deleted [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn services_go_with_their_namespace() {
    let cluster = cluster::start().await;
    cluster.namespace("nsdeletetest").await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "test-service"},
        "spec": {"selector": {"foo": "bar"}, "ports": [{"port": 80, "targetPort": 80}]}});
    cluster.create::<Service>("nsdeletetest", service).await;
    cluster.api::<Namespace>("").delete("nsdeletetest", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<Namespace>("", "nsdeletetest").await;
    cluster.namespace("nsdeletetest").await;
    assert!(cluster.api::<Service>("nsdeletetest").get_opt("test-service").await.unwrap().is_none());
}

/// [sig-api-machinery] OrderedNamespaceDeletion namespace deletion should delete pod first [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn pods_go_first() {
    let cluster = cluster::start().await;
    cluster.namespace("ordered").await;
    let mut held = pod("pod", &Value::Null);
    held["metadata"]["finalizers"] = json!(["example.com/finalizer"]);
    cluster.create::<Pod>("ordered", held).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "finalizers": ["example.com/finalizer"]}});
    cluster.create::<ConfigMap>("ordered", map).await;
    cluster.api::<Namespace>("").delete("ordered", &DeleteParams::default()).await.unwrap();
    cluster
        .until::<Pod>("the pod is going", "ordered", "pod", |p| p.metadata.deletion_timestamp.is_some())
        .await;
    let says_so = |n: &Namespace| {
        let conditions = n.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions
            .iter()
            .any(|c| c.type_ == "NamespaceDeletionContentFailure" || c.type_ == "NamespaceContentRemaining")
    };
    cluster.until::<Namespace>("it waits", "", "ordered", says_so).await;
    let map = cluster.api::<ConfigMap>("ordered").get("cm").await.unwrap();
    assert!(map.metadata.deletion_timestamp.is_none(), "not before the pods");
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.api::<Pod>("ordered").patch("pod", &release).await.unwrap();
    cluster
        .until::<ConfigMap>("then the rest", "ordered", "cm", |m| m.metadata.deletion_timestamp.is_some())
        .await;
    cluster.api::<ConfigMap>("ordered").patch("cm", &release).await.unwrap();
    cluster.until_gone::<Namespace>("", "ordered").await;
}

/// [sig-auth] ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_has_the_root_certificate() {
    let cluster = cluster::start().await;
    cluster.namespace("ca").await;
    let maps = cluster.api::<ConfigMap>("ca");
    let whole = |m: &ConfigMap| m.data.as_ref().is_some_and(|d| d.contains_key("ca.crt"));
    let first = cluster.until::<ConfigMap>("published", "ca", "kube-root-ca.crt", whole).await;
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    cluster
        .until::<ConfigMap>("published again", "ca", "kube-root-ca.crt", |m| {
            whole(m) && m.metadata.uid != first.metadata.uid
        })
        .await;
    maps.patch("kube-root-ca.crt", &Patch::Merge(json!({"data": {"ca.crt": ""}}))).await.unwrap();
    let mended = |m: &ConfigMap| m.data == first.data;
    cluster.until::<ConfigMap>("mended", "ca", "kube-root-ca.crt", mended).await;
    eventually("listed once", || async {
        (maps.list(&ListParams::default()).await.unwrap().1.len() == 1).then_some(())
    })
    .await;
}
