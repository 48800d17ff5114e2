//! sig-apps: workloads whose pods a stand-in kubelet runs.

use amphipod_api::codec::JSON;
use amphipod_client::{DeleteParams, Error, ListParams, Patch, Resource, Writable};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, eventually};
use crate::{pod, replication_controller, template, workload};

const NAMESPACE: &str = "apps";

async fn start() -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    cluster
}

fn labelled(selector: &str) -> ListParams {
    ListParams { label_selector: Some(selector.to_owned()), ..ListParams::default() }
}

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MERGE: &str = "application/merge-patch+json";

/// A request on a workload called `x`, or on a part of it, in JSON.
async fn ask<K: Writable>(
    cluster: &Cluster,
    namespace: &str,
    method: &str,
    subresource: &str,
    (content_type, body): (&str, Option<Value>),
) -> Result<Value, Error> {
    let path = cluster.api::<K>(namespace).path("x", subresource);
    let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
    let request = http::Request::builder().method(method).uri(path).header("accept", JSON);
    let request = request.header("content-type", content_type).body(body).unwrap();
    Ok(serde_json::from_slice(&cluster.client.request(request).await?).unwrap())
}

/// Reads and writes `/scale` of a workload called `x`.
async fn scales<K: Writable>(cluster: &Cluster, replicas: impl Fn(&K) -> Option<i32>) {
    let api = cluster.api::<K>(NAMESPACE);
    let dynamic = async |method: &str, content_type: &str, body: Option<Value>| {
        ask::<K>(cluster, NAMESPACE, method, "scale", (content_type, body)).await.unwrap()
    };
    let mut scale = dynamic("GET", JSON, None).await;
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    scale["metadata"]["resourceVersion"] = Value::Null;
    scale["spec"]["replicas"] = 2.into();
    let updated = dynamic("PUT", JSON, Some(scale)).await;
    assert_eq!(updated["spec"]["replicas"], 2);
    assert_eq!(replicas(&api.get("x").await.unwrap()), Some(2));
    let patched = dynamic("PATCH", STRATEGIC, Some(json!({"spec": {"replicas": 4}}))).await;
    assert_eq!(patched["spec"]["replicas"], 4);
    cluster.until::<K>("four", NAMESPACE, "x", |k| replicas(k) == Some(4)).await;
}

/// [sig-apps] Deployment Deployment should have a working scale subresource [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn deployments_scale() {
    let cluster = start().await;
    cluster.create::<Deployment>(NAMESPACE, workload("Deployment", "x", 1)).await;
    scales::<Deployment>(&cluster, |d| d.spec.as_ref().and_then(|s| s.replicas)).await;
}

/// [sig-apps] ReplicaSet Replicaset should have a working scale subresource [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replica_sets_scale() {
    let cluster = start().await;
    cluster.create::<ReplicaSet>(NAMESPACE, workload("ReplicaSet", "x", 1)).await;
    scales::<ReplicaSet>(&cluster, |d| d.spec.as_ref().and_then(|s| s.replicas)).await;
}

/// [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should have a working scale subresource [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn stateful_sets_scale() {
    let cluster = start().await;
    cluster.create::<StatefulSet>(NAMESPACE, workload("StatefulSet", "x", 1)).await;
    scales::<StatefulSet>(&cluster, |d| d.spec.as_ref().and_then(|s| s.replicas)).await;
}

/// [sig-apps] ReplicationController should get and update a ReplicationController scale [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replication_controllers_scale() {
    let cluster = start().await;
    cluster.create::<ReplicationController>(NAMESPACE, replication_controller("x", 1)).await;
    scales::<ReplicationController>(&cluster, |d| d.spec.as_ref().and_then(|s| s.replicas)).await;
}

/// Three of a kind go at once.
async fn collection<K: Writable>(cluster: &Cluster, object: impl Fn(&str) -> Value) {
    for name in ["one", "two", "three"] {
        let mut object = object(name);
        object["metadata"]["labels"] = json!({"name": "set"});
        cluster.create::<K>(NAMESPACE, object).await;
    }
    let api = cluster.api::<K>(NAMESPACE);
    assert_eq!(api.list(&labelled("name=set")).await.unwrap().1.len(), 3);
    api.delete_collection(&DeleteParams::default(), &labelled("name=set")).await.unwrap();
    eventually("all gone", || async {
        api.list(&labelled("name=set")).await.unwrap().1.is_empty().then_some(())
    })
    .await;
}

/// [sig-apps] ReplicaSet should list and delete a collection of ReplicaSets [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn collections_of_replica_sets() {
    let cluster = start().await;
    collection::<ReplicaSet>(&cluster, |name| workload("ReplicaSet", name, 1)).await;
}

/// The status of a workload called `x` is read, replaced and patched, and a condition written into it
/// by hand stays while its controller goes on with it.
pub async fn condition_stays<K: Writable>(cluster: &Cluster, namespace: &str) {
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "Set from e2e test"});
    let replaced = eventually("a status replaced", || async {
        let mut read = ask::<K>(cluster, namespace, "GET", "status", (JSON, None)).await.unwrap();
        assert_eq!(read["kind"], K::KIND);
        let mut conditions = read["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.push(condition("StatusUpdate"));
        read["status"]["conditions"] = conditions.into();
        match ask::<K>(cluster, namespace, "PUT", "status", (JSON, Some(read))).await {
            Err(error) if error.is_conflict() => None, // the controller was faster
            answer => Some(answer.unwrap()),
        }
    })
    .await;
    outlives_a_sync::<K>(cluster, namespace, &replaced, "StatusUpdate").await;
    let patch = json!({"status": {"conditions": [condition("StatusPatched")]}});
    let patched = ask::<K>(cluster, namespace, "PATCH", "status", (MERGE, Some(patch))).await.unwrap();
    outlives_a_sync::<K>(cluster, namespace, &patched, "StatusPatched").await;
}

/// What `written` says of this condition is still said when the controller has seen another spec.
async fn outlives_a_sync<K: Writable>(cluster: &Cluster, namespace: &str, written: &Value, kind: &str) {
    let find = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().find(|condition| condition["type"] == kind).map(|c| c["message"].clone())
    };
    assert_eq!(find(written), Some(json!("Set from e2e test")), "{written}");
    let seconds = written["spec"]["minReadySeconds"].as_i64().unwrap_or(0) + 1;
    let patch = json!({"spec": {"minReadySeconds": seconds}});
    let changed = ask::<K>(cluster, namespace, "PATCH", "", (MERGE, Some(patch))).await.unwrap();
    let generation = changed["metadata"]["generation"].as_i64().unwrap();
    assert!(Some(generation) > written["metadata"]["generation"].as_i64());
    let seen = eventually("the new spec seen", || async {
        let read = ask::<K>(cluster, namespace, "GET", "status", (JSON, None)).await.unwrap();
        (read["status"]["observedGeneration"].as_i64() >= Some(generation)).then_some(read)
    })
    .await;
    assert_eq!(find(&seen), find(written), "{seen}");
}

/// [sig-apps] Deployment should validate Deployment Status endpoints [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn status_of_deployments() {
    let cluster = start().await;
    cluster.create::<Deployment>(NAMESPACE, workload("Deployment", "x", 1)).await;
    condition_stays::<Deployment>(&cluster, NAMESPACE).await;
}

/// [sig-apps] ReplicaSet should validate Replicaset Status endpoints [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn status_of_replica_sets() {
    let cluster = start().await;
    cluster.create::<ReplicaSet>(NAMESPACE, workload("ReplicaSet", "x", 1)).await;
    condition_stays::<ReplicaSet>(&cluster, NAMESPACE).await;
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"))
}

fn owned_by(pod: &Pod, uid: &str) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|o| o.uid == uid && o.controller == Some(true))
}

/// A pod that was there before its controller, called `x`, is taken in.
async fn adopts<K: Writable>(cluster: &Cluster, controller: Value) -> K {
    cluster.create::<Pod>(NAMESPACE, pod("orphan", &json!({"app": "x"}))).await;
    // Once it runs the caches know it, and no other is made in its place.
    cluster.until::<Pod>("running", NAMESPACE, "orphan", is_running).await;
    let controller = cluster.create::<K>(NAMESPACE, controller).await;
    let uid = controller.uid();
    cluster.until::<Pod>("adopted", NAMESPACE, "orphan", |p| owned_by(p, uid)).await;
    controller
}

async fn releases<K: Writable>(cluster: &Cluster, controller: &K, name: &str) {
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "not-x"}}}));
    cluster.api::<Pod>(NAMESPACE).patch(name, &relabel).await.unwrap();
    cluster.until::<Pod>("released", NAMESPACE, name, |p| !owned_by(p, controller.uid())).await;
}

/// [sig-apps] ReplicationController should adopt matching pods on creation [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replication_controllers_adopt() {
    let cluster = start().await;
    adopts::<ReplicationController>(&cluster, replication_controller("x", 1)).await;
}

/// [sig-apps] ReplicationController should release no longer matching pods [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replication_controllers_release() {
    let cluster = start().await;
    let rc = cluster.create::<ReplicationController>(NAMESPACE, replication_controller("x", 1)).await;
    let pods = cluster.api::<Pod>(NAMESPACE);
    let name = eventually("a pod", || async {
        pods.list(&labelled("app=x")).await.unwrap().1.first().map(|p| p.name().to_owned())
    })
    .await;
    releases(&cluster, &rc, &name).await;
}

/// [sig-apps] ReplicaSet should adopt matching pods on creation and release no longer matching pods [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replica_sets_adopt_and_release() {
    let cluster = start().await;
    let set = adopts::<ReplicaSet>(&cluster, workload("ReplicaSet", "x", 1)).await;
    releases(&cluster, &set, "orphan").await;
}

/// [sig-apps] ReplicaSet Replace and Patch tests [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replica_sets_are_replaced_and_patched() {
    let cluster = start().await;
    cluster.create::<ReplicaSet>(NAMESPACE, workload("ReplicaSet", "x", 1)).await;
    let ready =
        |n: i32| move |rs: &ReplicaSet| rs.status.as_ref().is_some_and(|s| s.ready_replicas == Some(n));
    cluster.until::<ReplicaSet>("one", NAMESPACE, "x", ready(1)).await;
    let api = cluster.api::<ReplicaSet>(NAMESPACE);
    eventually("updated", || async {
        let mut set = api.get("x").await.unwrap();
        set.spec.as_mut()?.replicas = Some(2);
        api.update(&set).await.ok()
    })
    .await;
    cluster.until::<ReplicaSet>("two", NAMESPACE, "x", ready(2)).await;
    let patch = json!({"metadata": {"labels": {"test-rs": "patched"}}, "spec": {"replicas": 3, "template": {
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "pause:3"}]}}}});
    let patched = api.patch("x", &Patch::Strategic(patch)).await.unwrap();
    assert_eq!(patched.metadata.labels.as_ref().unwrap()["test-rs"], "patched");
    let template = patched.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap();
    assert_eq!(template.containers[0].image.as_deref(), Some("pause:3"));
    cluster.until::<ReplicaSet>("three", NAMESPACE, "x", ready(3)).await;
}

/// [sig-apps] ReplicationController should test the lifecycle of a ReplicationController [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn replication_controllers() {
    let cluster = start().await;
    let mut rc = replication_controller("x", 1);
    rc["metadata"]["labels"] = json!({"test-rc-static": "true"});
    cluster.create::<ReplicationController>(NAMESPACE, rc).await;
    let ready = |n: i32| {
        move |rc: &ReplicationController| rc.status.as_ref().is_some_and(|s| s.ready_replicas == Some(n))
    };
    cluster.until::<ReplicationController>("one", NAMESPACE, "x", ready(1)).await;
    let api = cluster.api::<ReplicationController>(NAMESPACE);
    let patch = Patch::Strategic(json!({"metadata": {"labels": {"test-rc": "patched"}}}));
    let patched = api.patch("x", &patch).await.unwrap();
    assert_eq!(patched.metadata.labels.unwrap()["test-rc"], "patched");
    let none = Patch::Strategic(json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    let patched = api.patch_status("x", &none).await.unwrap();
    assert_eq!(patched.status.unwrap().ready_replicas.unwrap_or(0), 0);
    cluster.until::<ReplicationController>("counted again", NAMESPACE, "x", ready(1)).await;
    let grow = (STRATEGIC, Some(json!({"spec": {"replicas": 2}})));
    ask::<ReplicationController>(&cluster, NAMESPACE, "PATCH", "scale", grow).await.unwrap();
    cluster.until::<ReplicationController>("two", NAMESPACE, "x", ready(2)).await;
    let everywhere = amphipod_client::Api::<ReplicationController>::all(cluster.client.clone());
    assert_eq!(everywhere.list(&labelled("test-rc-static=true")).await.unwrap().1.len(), 1);
    api.delete_collection(&DeleteParams::default(), &labelled("test-rc-static=true")).await.unwrap();
    cluster.until_gone::<ReplicationController>(NAMESPACE, "x").await;
}

fn budget(minimum: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "foo", "labels": {"l": "v"}},
        "spec": {"minAvailable": minimum, "selector": {"matchLabels": {"foo": "bar"}}}})
}

/// Until the controller has looked at the newest budget.
async fn processed(cluster: &Cluster, fits: impl Fn(&PodDisruptionBudget) -> bool) -> PodDisruptionBudget {
    let current = |b: &PodDisruptionBudget| {
        b.status.as_ref().is_some_and(|s| s.observed_generation >= b.metadata.generation) && fits(b)
    };
    cluster.until::<PodDisruptionBudget>("processed", NAMESPACE, "foo", current).await
}

fn allowed(budget: &PodDisruptionBudget) -> i32 {
    budget.status.as_ref().map_or(0, |s| s.disruptions_allowed)
}

async fn guarded_pods(cluster: &Cluster, count: usize) {
    for number in 0..count {
        let name = format!("pod-{number}");
        cluster.create::<Pod>(NAMESPACE, pod(&name, &json!({"foo": "bar"}))).await;
        cluster.until::<Pod>("running", NAMESPACE, &name, is_running).await;
    }
}

/// [sig-apps] DisruptionController should create a PodDisruptionBudget [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn disruption_budgets() {
    let cluster = start().await;
    cluster.create::<PodDisruptionBudget>(NAMESPACE, budget(json!("1%"))).await;
    processed(&cluster, |_| true).await;
    let api = cluster.api::<PodDisruptionBudget>(NAMESPACE);
    api.patch("foo", &Patch::Merge(json!({"spec": {"minAvailable": "2%"}}))).await.unwrap();
    processed(&cluster, |b| {
        b.spec.as_ref().unwrap().min_available
            == Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("2%".into()))
    })
    .await;
    let patch = Patch::Strategic(json!({"spec": {"minAvailable": "3%"}}));
    api.patch("foo", &patch).await.unwrap();
    processed(&cluster, |_| true).await;
    api.delete("foo", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<PodDisruptionBudget>(NAMESPACE, "foo").await;
}

/// [sig-apps] DisruptionController should observe PodDisruptionBudget status updated [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn disruption_budgets_count() {
    let cluster = start().await;
    cluster.create::<PodDisruptionBudget>(NAMESPACE, budget(json!(1))).await;
    guarded_pods(&cluster, 3).await;
    processed(&cluster, |b| allowed(b) > 0).await;
}

/// [sig-apps] DisruptionController should update/patch PodDisruptionBudget status [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn status_of_disruption_budgets() {
    let cluster = start().await;
    cluster.create::<PodDisruptionBudget>(NAMESPACE, budget(json!(1))).await;
    guarded_pods(&cluster, 1).await;
    processed(&cluster, |_| true).await;
    let api = cluster.api::<PodDisruptionBudget>(NAMESPACE);
    let disrupted = json!({"status": {"disruptedPods": {"pod-0": "2026-01-01T00:00:00Z"}}});
    let patched = api.patch_status("foo", &Patch::Merge(disrupted)).await.unwrap();
    assert!(patched.status.unwrap().disrupted_pods.unwrap().contains_key("pod-0"));
    let none = json!({"status": {"disruptedPods": null}});
    let patched = api.patch_status("foo", &Patch::Merge(none)).await.unwrap();
    assert!(patched.status.unwrap().disrupted_pods.unwrap_or_default().is_empty());
}

/// [sig-apps] DisruptionController should block an eviction until the PDB is updated to allow it [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn evictions_wait_for_the_budget() {
    let cluster = start().await;
    guarded_pods(&cluster, 3).await;
    cluster.create::<PodDisruptionBudget>(NAMESPACE, budget(json!(3))).await;
    processed(&cluster, |b| b.status.as_ref().unwrap().current_healthy == 3).await;
    let pods = cluster.api::<Pod>(NAMESPACE);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "pod-0", "namespace": NAMESPACE}});
    let refusal =
        pods.create_subresource("pod-0", "eviction", &eviction).await.expect_err("too few would be left");
    let why = refusal.to_string();
    assert!(why.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{why}");
    let api = cluster.api::<PodDisruptionBudget>(NAMESPACE);
    api.patch("foo", &Patch::Merge(json!({"spec": {"minAvailable": 2}}))).await.unwrap();
    processed(&cluster, |b| allowed(b) == 1).await;
    pods.create_subresource("pod-0", "eviction", &eviction).await.unwrap();
    cluster.until_gone::<Pod>(NAMESPACE, "pod-0").await;
}

fn job(fate: &str) -> Value {
    let mut template = template("x");
    template["metadata"]["labels"]["fate"] = fate.into();
    template["spec"]["restartPolicy"] = "Never".into();
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x", "labels": {"e2e": "job"}},
        "spec": {"parallelism": 2, "completions": 4, "backoffLimit": 6, "template": template}})
}

fn active(wanted: i32) -> impl Fn(&Job) -> bool {
    move |job| job.status.as_ref().is_some_and(|s| s.active == Some(wanted))
}

/// [sig-apps] Job should delete a job [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_deleted() {
    let cluster = start().await;
    cluster.create::<Job>(NAMESPACE, job("ready")).await;
    cluster.until::<Job>("two pods", NAMESPACE, "x", active(2)).await;
    let foreground = DeleteParams { propagation: Some("Foreground"), ..DeleteParams::default() };
    cluster.api::<Job>(NAMESPACE).delete("x", &foreground).await.unwrap();
    cluster.until_gone::<Job>(NAMESPACE, "x").await;
    let pods = cluster.api::<Pod>(NAMESPACE);
    eventually("no pods", || async {
        pods.list(&ListParams::default()).await.unwrap().1.is_empty().then_some(())
    })
    .await;
}

/// [sig-apps] Job should apply changes to a job status [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn status_of_jobs() {
    let cluster = start().await;
    cluster.create::<Job>(NAMESPACE, job("ready")).await;
    cluster.until::<Job>("two pods", NAMESPACE, "x", active(2)).await;
    let api = cluster.api::<Job>(NAMESPACE);
    let now = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"conditions": [{"type": "CustomConditionType", "status": "True", "reason": "E2E", "message": "Set from e2e test"}]}});
    let patched = api.patch_status("x", &Patch::Merge(now)).await.unwrap();
    assert_eq!(patched.metadata.annotations.unwrap()["patchedstatus"], "true");
    let types: Vec<String> =
        patched.status.unwrap().conditions.unwrap().into_iter().map(|c| c.type_).collect();
    assert!(types.contains(&"CustomConditionType".to_owned()), "{types:?}");
}

/// [sig-apps] Job should manage the lifecycle of a job [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn jobs() {
    let cluster = start().await;
    let mut suspended = job("succeed");
    suspended["spec"]["suspend"] = true.into();
    cluster.create::<Job>(NAMESPACE, suspended).await;
    let api = cluster.api::<Job>(NAMESPACE);
    let label = Patch::Strategic(json!({"metadata": {"labels": {"x": "patched"}}}));
    assert_eq!(api.patch("x", &label).await.unwrap().metadata.labels.unwrap()["x"], "patched");
    api.patch(
        "x",
        &Patch::Merge(json!({"metadata": {"annotations": {"updated": "true"}}, "spec": {"suspend": false}})),
    )
    .await
    .unwrap();
    let complete = |job: &Job| {
        job.status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten())
            .any(|c| c.type_ == "Complete" && c.status == "True")
    };
    let done = cluster.until::<Job>("complete", NAMESPACE, "x", complete).await;
    assert_eq!(done.status.unwrap().succeeded, Some(4));
    let everywhere = amphipod_client::Api::<Job>::all(cluster.client.clone());
    assert_eq!(everywhere.list(&labelled("x=patched")).await.unwrap().1.len(), 1);
    let background = DeleteParams { propagation: Some("Background"), ..DeleteParams::default() };
    api.delete_collection(&background, &labelled("x=patched")).await.unwrap();
    cluster.until_gone::<Job>(NAMESPACE, "x").await;
}

/// [sig-apps] ReplicationController should surface a failure condition on a common issue like exceeded quota [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_fails_replicas() {
    let cluster = start().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "condition-test"},
        "spec": {"hard": {"pods": "2"}}});
    cluster.create::<ResourceQuota>(NAMESPACE, quota).await;
    let counted = |q: &ResourceQuota| {
        let used = q.status.as_ref().and_then(|s| s.used.as_ref()).and_then(|u| u.get("pods"));
        used.is_some_and(|pods| pods.0 == "0")
    };
    cluster.until::<ResourceQuota>("counted", NAMESPACE, "condition-test", counted).await;
    cluster.create::<ReplicationController>(NAMESPACE, replication_controller("condition-test", 3)).await;
    let failure = |rc: &ReplicationController| {
        let status = rc.status.clone().unwrap_or_default();
        status.conditions.into_iter().flatten().find(|c| c.type_ == "ReplicaFailure")
    };
    let failed = cluster
        .until::<ReplicationController>("fails", NAMESPACE, "condition-test", |rc| failure(rc).is_some())
        .await;
    let condition = failure(&failed).unwrap();
    assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
    let message = condition.message.unwrap();
    assert!(
        message.ends_with("exceeded quota: condition-test, requested: pods=1, used: pods=2, limited: pods=2"),
        "{message}"
    );
    let fewer = Patch::Merge(json!({"spec": {"replicas": 2}}));
    cluster.api::<ReplicationController>(NAMESPACE).patch("condition-test", &fewer).await.unwrap();
    let settled = |rc: &ReplicationController| {
        failure(rc).is_none()
            && rc.status.as_ref().is_some_and(|s| s.observed_generation == rc.metadata.generation)
    };
    cluster.until::<ReplicationController>("recovers", NAMESPACE, "condition-test", settled).await;
}
