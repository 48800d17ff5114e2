//! sig-api-machinery: quotas as admission charges and the controller counts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use amphipod_client::{DeleteParams, ListParams, Patch, Resource, Writable};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ReplicationController, ResourceQuota, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use crate::cluster::{self, Cluster};
use crate::{pod, replication_controller, workload};

const NAMESPACE: &str = "quota";
const NAME: &str = "test-quota";

async fn start() -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    // It is counted like any other, so it has to be there first.
    cluster.until::<ConfigMap>("root CA", NAMESPACE, "kube-root-ca.crt", |_| true).await;
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

/// The quota most of the published tests share.
fn wide() -> Value {
    json!({"hard": {"pods": "5", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1",
        "replicationcontrollers": "10", "resourcequotas": "1", "cpu": "1", "memory": "500Mi",
        "configmaps": "2", "secrets": "10", "persistentvolumeclaims": "10", "requests.storage": "10Gi",
        "ephemeral-storage": "50Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "10",
        "gold.storageclass.storage.k8s.io/requests.storage": "10Gi", "count/replicasets.apps": "5",
        "requests.example.com/dongle": "3"}})
}

fn refusal<K: std::fmt::Debug>(outcome: Result<K, amphipod_client::Error>) -> String {
    let error = outcome.expect_err("refused");
    let status = error.status().expect("a status").clone();
    assert_eq!(status.code, 403, "{status:?}");
    status.message
}

async fn try_create<K: Writable>(cluster: &Cluster, object: &Value) -> Result<K, amphipod_client::Error> {
    cluster.api::<K>(NAMESPACE).create(&K::decode(object.to_string().as_bytes()).unwrap()).await
}

async fn delete<K: Writable>(cluster: &Cluster, name: &str) {
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.api::<K>(NAMESPACE).delete(name, &now).await.unwrap();
}

fn service(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": kind, "ports": [{"port": 80, "targetPort": 80}]}})
}

/// [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a service. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_follows_services() {
    let cluster = start().await;
    create_quota(&cluster, wide()).await;
    until_used(&cluster, &[("resourcequotas", "1")]).await;
    cluster.create::<Service>(NAMESPACE, service("test-service", "ClusterIP")).await;
    cluster.create::<Service>(NAMESPACE, service("test-service-np", "NodePort")).await;
    let refused = try_create::<Service>(&cluster, &service("test-service-lb", "LoadBalancer")).await;
    assert_eq!(
        refusal(refused),
        "services \"test-service-lb\" is forbidden: exceeded quota: test-quota, requested: services.nodeports=1, \
         used: services.nodeports=1, limited: services.nodeports=1"
    );
    until_used(&cluster, &[("resourcequotas", "1"), ("services", "2"), ("services.nodeports", "1")]).await;
    delete::<Service>(&cluster, "test-service").await;
    delete::<Service>(&cluster, "test-service-np").await;
    until_used(&cluster, &[("services", "0"), ("services.nodeports", "0")]).await;
}

/// An object of a kind that is merely counted comes and goes.
async fn counted<K: Writable>(name: &str, object: Value) {
    let cluster = start().await;
    let there = cluster.api::<K>(NAMESPACE).list(&ListParams::default()).await.unwrap().1.len();
    create_quota(&cluster, wide()).await;
    let (before, with) = (there.to_string(), (there + 1).to_string());
    until_used(&cluster, &[("resourcequotas", "1"), (name, &before)]).await;
    let created = cluster.create::<K>(NAMESPACE, object).await;
    until_used(&cluster, &[(name, &with)]).await;
    let background = DeleteParams { propagation: Some("Background"), ..DeleteParams::default() };
    cluster.api::<K>(NAMESPACE).delete(created.name(), &background).await.unwrap();
    until_used(&cluster, &[(name, &before)]).await;
}

/// [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a secret. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_follows_secrets() {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "test-secret"},
        "data": {"data-1": "dmFsdWUtMQo="}});
    counted::<Secret>("secrets", secret).await;
}

/// [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a configMap. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_follows_config_maps() {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "test-configmap"},
        "data": {"a": "b"}});
    counted::<ConfigMap>("configmaps", map).await;
}

/// [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replication controller. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_follows_replication_controllers() {
    counted::<ReplicationController>("replicationcontrollers", replication_controller("test-rc", 0)).await;
}

/// [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replica set. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_follows_replica_sets() {
    counted::<ReplicaSet>("count/replicasets.apps", workload("ReplicaSet", "test-rs", 0)).await;
}

fn asking(name: &str, requests: Value, limits: Value) -> Value {
    let mut pod = pod(name, &json!({"app": name}));
    pod["spec"]["containers"][0]["resources"] = json!({"requests": requests, "limits": limits});
    pod
}

/// [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a pod. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_follows_pods() {
    let cluster = start().await;
    create_quota(&cluster, wide()).await;
    until_used(&cluster, &[("resourcequotas", "1")]).await;
    let dongles = json!({"example.com/dongle": "2"});
    let requests =
        json!({"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"});
    let fits = asking("test-pod", requests.clone(), dongles.clone());
    let mut made = cluster.create::<Pod>(NAMESPACE, fits).await;
    let used = [
        ("pods", "1"),
        ("cpu", "500m"),
        ("memory", "252Mi"),
        ("ephemeral-storage", "30Gi"),
        ("requests.example.com/dongle", "2"),
    ];
    until_used(&cluster, &used).await;
    let large = asking("fail-pod", json!({"cpu": "600m", "memory": "100Mi"}), json!({}));
    assert_eq!(
        refusal(try_create::<Pod>(&cluster, &large).await),
        "pods \"fail-pod\" is forbidden: exceeded quota: test-quota, requested: cpu=600m, used: cpu=500m, limited: cpu=1"
    );
    let extended = asking("fail-pod-for-extended-resource", requests, dongles);
    assert_eq!(
        refusal(try_create::<Pod>(&cluster, &extended).await),
        "pods \"fail-pod-for-extended-resource\" is forbidden: exceeded quota: test-quota, \
         requested: ephemeral-storage=30Gi,memory=252Mi,requests.example.com/dongle=2, \
         used: ephemeral-storage=30Gi,memory=252Mi,requests.example.com/dongle=2, \
         limited: ephemeral-storage=50Gi,memory=500Mi,requests.example.com/dongle=3"
    );
    let silent = pod("silent", &json!({}));
    assert_eq!(
        refusal(try_create::<Pod>(&cluster, &silent).await),
        "pods \"silent\" is forbidden: failed quota: test-quota: must specify cpu for: c; memory for: c"
    );
    // What a pod asks for cannot be changed, and trying costs nothing.
    made = cluster.api::<Pod>(NAMESPACE).get(made.name()).await.unwrap();
    let spec = made.spec.as_mut().unwrap();
    let asked = spec.containers[0].resources.as_mut().unwrap().requests.as_mut().unwrap();
    asked.insert("cpu".into(), Quantity("100m".into()));
    cluster.api::<Pod>(NAMESPACE).update(&made).await.expect_err("immutable");
    until_used(&cluster, &used).await;
    delete::<Pod>(&cluster, "test-pod").await;
    until_used(
        &cluster,
        &[
            ("pods", "0"),
            ("cpu", "0"),
            ("memory", "0"),
            ("ephemeral-storage", "0"),
            ("requests.example.com/dongle", "0"),
        ],
    )
    .await;
}

async fn until_pods(cluster: &Cluster, quota: &str, pods: &str, cpu: Option<&str>) {
    let fits = |found: &ResourceQuota| {
        let used = found.status.as_ref().and_then(|status| status.used.clone()).unwrap_or_default();
        let is = |name: &str, amount: &str| used.get(name).is_some_and(|u| u.0 == amount);
        is("pods", pods) && cpu.is_none_or(|cpu| is("requests.cpu", cpu))
    };
    cluster.until::<ResourceQuota>(&format!("{quota}: pods {pods}"), NAMESPACE, quota, fits).await;
}

/// Two quotas share the pods of a namespace: each sees only those in its scope.
async fn scoped(scopes: [&str; 2], hard: Value, pods: [Value; 2], cpu: [Option<&str>; 2]) {
    let cluster = start().await;
    for scope in scopes {
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": scope.to_lowercase()},
            "spec": {"hard": hard.clone(), "scopes": [scope]}});
        cluster.create::<ResourceQuota>(NAMESPACE, quota).await;
        until_pods(&cluster, &scope.to_lowercase(), "0", None).await;
    }
    for i in 0..2 {
        let made = cluster.create::<Pod>(NAMESPACE, pods[i].clone()).await;
        until_pods(&cluster, &scopes[i].to_lowercase(), "1", cpu[i]).await;
        until_pods(&cluster, &scopes[1 - i].to_lowercase(), "0", cpu[i].and(Some("0"))).await;
        delete::<Pod>(&cluster, made.name()).await;
        until_pods(&cluster, &scopes[i].to_lowercase(), "0", cpu[i].and(Some("0"))).await;
    }
}

fn burstable(name: &str) -> Value {
    asking(name, json!({"cpu": "500m", "memory": "200Mi"}), json!({"cpu": "1", "memory": "400Mi"}))
}

/// [sig-api-machinery] ResourceQuota should verify ResourceQuota with terminating scopes. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn terminating_scopes() {
    let hard = json!({"pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "limits.cpu": "2",
        "limits.memory": "1Gi"});
    let mut ending = burstable("terminating-pod");
    ending["spec"]["activeDeadlineSeconds"] = 3600.into();
    let cpu = [Some("500m"), Some("500m")];
    scoped(["NotTerminating", "Terminating"], hard, [burstable("test-pod"), ending], cpu).await;
}

/// [sig-api-machinery] ResourceQuota should verify ResourceQuota with best effort scope. [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn best_effort_scopes() {
    let pods = [pod("pfpod", &json!({})), burstable("burstable-pod")];
    scoped(["BestEffort", "NotBestEffort"], json!({"pods": "5"}), pods, [None, None]).await;
}

/// Not a published test: what is gone is given back though charges never pause.
#[tokio::test(flavor = "multi_thread")]
async fn usage_falls_under_churn() {
    let cluster = Arc::new(start().await);
    create_quota(&cluster, json!({"hard": {"configmaps": "100000"}})).await;
    cluster.until::<ResourceQuota>("counted", NAMESPACE, NAME, |quota| used_maps(quota).is_some()).await;
    let made = Arc::new(AtomicI64::new(0));
    let (client, counter) = (cluster.clone(), made.clone());
    let churn = tokio::spawn(async move {
        loop {
            let name = format!("m{}", counter.fetch_add(1, Ordering::Relaxed));
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
            client.create::<ConfigMap>(NAMESPACE, map).await;
            delete::<ConfigMap>(&client, &name).await;
        }
    });
    let given_back = |quota: &ResourceQuota| {
        let made = made.load(Ordering::Relaxed);
        made > MADE && used_maps(quota).is_some_and(|used| used < made / 2)
    };
    cluster.until::<ResourceQuota>("given back", NAMESPACE, NAME, given_back).await;
    assert!(!churn.is_finished(), "charges were still coming");
    churn.abort();
}

/// So many that usage must have been lowered for most not to be in it.
const MADE: i64 = 100;

fn used_maps(quota: &ResourceQuota) -> Option<i64> {
    quota.status.as_ref()?.used.as_ref()?.get("configmaps")?.0.parse().ok()
}

/// Not a published test: many clients at once never get more than there is, and all of it.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_creates_share_what_there_is() {
    const CLIENTS: usize = 24;
    const LIMIT: usize = 7;
    let cluster = Arc::new(start().await);
    create_quota(&cluster, json!({"hard": {"pods": LIMIT.to_string(), "count/pods": "100"}})).await;
    until_used(&cluster, &[("pods", "0"), ("count/pods", "0")]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            let mut object = pod(&format!("p{number}"), &json!({"fate": "stuck"}));
            object["metadata"]["namespace"] = NAMESPACE.into();
            match try_create::<Pod>(&cluster, &object).await {
                Ok(_) => true,
                refused => {
                    let message = refusal(refused);
                    assert!(
                        message.contains(
                            "exceeded quota: test-quota, requested: pods=1, used: pods=7, limited: pods=7"
                        ),
                        "{message}"
                    );
                    false
                }
            }
        });
    }
    let made = tasks.join_all().await.into_iter().filter(|made| *made).count();
    assert_eq!(made, LIMIT);
    assert_eq!(cluster.api::<Pod>(NAMESPACE).list(&ListParams::default()).await.unwrap().1.len(), LIMIT);
    until_used(&cluster, &[("pods", "7"), ("count/pods", "7")]).await;
    // A name that is taken is charged and given back.
    delete::<Pod>(
        &cluster,
        cluster.api::<Pod>(NAMESPACE).list(&ListParams::default()).await.unwrap().1[0].name(),
    )
    .await;
    until_used(&cluster, &[("pods", "6")]).await;
    let taken =
        cluster.api::<Pod>(NAMESPACE).list(&ListParams::default()).await.unwrap().1[0].name().to_owned();
    try_create::<Pod>(&cluster, &pod(&taken, &json!({}))).await.expect_err("taken");
    until_used(&cluster, &[("pods", "6"), ("count/pods", "6")]).await;
}
