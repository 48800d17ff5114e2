//! sig-api-machinery: quotas as the controller counts them.

use amphipod_client::{DeleteParams, Patch};
use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::json;

use crate::cluster::{self, Cluster};

const NAMESPACE: &str = "quota";
const NAME: &str = "test-quota";

async fn start() -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    cluster
}

async fn until_used(cluster: &Cluster, used: &[(&str, &str)]) {
    let fits = |quota: &ResourceQuota| {
        let Some(status) = &quota.status else { return false };
        let equal = |name: &str, amount: &str| {
            status.used.as_ref().and_then(|u| u.get(name)).is_some_and(|found| found.0 == amount)
        };
        status.hard == quota.spec.as_ref().and_then(|s| s.hard.clone())
            && used.iter().all(|(n, a)| equal(n, a))
    };
    cluster.until::<ResourceQuota>(&format!("{used:?}"), NAMESPACE, NAME, fits).await;
}

async fn create_quota(cluster: &Cluster, spec: serde_json::Value) {
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": NAME}, "spec": spec});
    cluster.create::<ResourceQuota>(NAMESPACE, quota).await;
}

/// [sig-api-machinery] ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_counts_itself() {
    let cluster = start().await;
    create_quota(&cluster, json!({"hard": {"pods": "5", "services": "10", "resourcequotas": "1"}})).await;
    until_used(&cluster, &[("resourcequotas", "1"), ("pods", "0"), ("services", "0")]).await;
}

/// [sig-api-machinery] ResourceQuota should apply changes to a resourcequota status [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn status_of_quotas() {
    let cluster = start().await;
    create_quota(&cluster, json!({"hard": {"cpu": "500m", "memory": "500Mi"}})).await;
    until_used(&cluster, &[("cpu", "0"), ("memory", "0")]).await;
    let quotas = cluster.api::<ResourceQuota>(NAMESPACE);
    let grown = Patch::Merge(json!({"spec": {"hard": {"cpu": "1", "memory": "1Gi"}}}));
    quotas.patch(NAME, &grown).await.unwrap();
    until_used(&cluster, &[("cpu", "0"), ("memory", "0")]).await;
    // What is written into the status stands until the controller has counted again.
    let more = json!({"status": {"hard": {"cpu": "2", "memory": "2Gi"}}});
    let patched = quotas.patch_status(NAME, &Patch::Merge(more)).await.unwrap();
    let hard = patched.status.unwrap().hard.unwrap();
    assert_eq!((hard["cpu"].0.as_str(), hard["memory"].0.as_str()), ("2", "2Gi"));
    assert_eq!(patched.spec.unwrap().hard.unwrap()["cpu"].0, "1");
    until_used(&cluster, &[("cpu", "0"), ("memory", "0")]).await;
    quotas.delete(NAME, &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<ResourceQuota>(NAMESPACE, NAME).await;
}
