//! sig-apps: StatefulSets, their order and their updates.

use amphipod_client::{DeleteParams, ListParams, Patch, Resource};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::cluster::{self, Cluster};
use crate::workload;

const NAMESPACE: &str = "stateful";
const HASH: &str = "controller-revision-hash";

async fn start(name: &str, replicas: i32, strategy: Value) -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    let mut set = workload("StatefulSet", name, replicas);
    set["spec"]["serviceName"] = "test".into();
    set["spec"]["updateStrategy"] = strategy;
    cluster.create::<StatefulSet>(NAMESPACE, set).await;
    ready(&cluster, name, replicas).await;
    cluster
}

async fn ready(cluster: &Cluster, name: &str, replicas: i32) -> StatefulSet {
    let fits = |set: &StatefulSet| {
        set.status.as_ref().is_some_and(|s| {
            (s.ready_replicas, s.replicas, s.observed_generation)
                == (Some(replicas), replicas, set.metadata.generation)
        })
    };
    cluster.until::<StatefulSet>("ready", NAMESPACE, name, fits).await
}

/// Current and update revision.
fn revisions(set: &StatefulSet) -> (String, String) {
    let status = set.status.clone().unwrap();
    (status.current_revision.unwrap(), status.update_revision.unwrap())
}

fn with_image(image: &str) -> Patch {
    Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}}))
}

/// Waits until each pod is ready at this image and revision.
async fn until_at(cluster: &Cluster, set: &str, wanted: [(&str, &str); 3]) {
    for (ordinal, (image, revision)) in wanted.into_iter().enumerate() {
        let fits = |pod: &Pod| {
            let found = pod.spec.as_ref().and_then(|s| s.containers[0].image.as_deref());
            let hash = pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)).map(String::as_str);
            (found, hash) == (Some(image), Some(revision))
                && pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"))
                && !pod.is_terminating()
        };
        let what = format!("{set}-{ordinal} at {image}");
        cluster.until::<Pod>(&what, NAMESPACE, &format!("{set}-{ordinal}"), fits).await;
    }
}

/// Waits until the set has seen its newest template.
async fn updated(cluster: &Cluster, old: &str) -> String {
    let seen = |set: &StatefulSet| {
        set.status.as_ref().is_some_and(|s| s.observed_generation == set.metadata.generation)
            && revisions(set).1 != old
    };
    let set = cluster.until::<StatefulSet>("a new revision", NAMESPACE, "ss2", seen).await;
    revisions(&set).1
}

async fn settled(cluster: &Cluster, revision: &str) {
    let fits = |set: &StatefulSet| revisions(set) == (revision.to_owned(), revision.to_owned());
    cluster.until::<StatefulSet>("settled", NAMESPACE, "ss2", fits).await;
}

/// [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform rolling updates and roll backs of template modifications [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn rolled_over_and_back() {
    let cluster = start("ss2", 3, json!({"type": "RollingUpdate"})).await;
    let (current, update) = revisions(&ready(&cluster, "ss2", 3).await);
    assert_eq!(current, update);
    until_at(&cluster, "ss2", [("agnhost:2", &current); 3]).await;
    let api = cluster.api::<StatefulSet>(NAMESPACE);
    api.patch("ss2", &with_image("httpd:3")).await.unwrap();
    let next = updated(&cluster, &current).await;
    until_at(&cluster, "ss2", [("httpd:3", &next); 3]).await;
    settled(&cluster, &next).await;
    api.patch("ss2", &with_image("agnhost:2")).await.unwrap();
    assert_eq!(updated(&cluster, &next).await, current, "the same template is the same revision");
    until_at(&cluster, "ss2", [("agnhost:2", &current); 3]).await;
    settled(&cluster, &current).await;
}

/// [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform canary updates and phased rolling updates of template modifications [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn canaries_and_phases() {
    let partition = |from: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": from}});
    let cluster = start("ss2", 3, partition(3)).await;
    let (old, _) = revisions(&ready(&cluster, "ss2", 3).await);
    let api = cluster.api::<StatefulSet>(NAMESPACE);
    api.patch("ss2", &with_image("httpd:3")).await.unwrap();
    let new = updated(&cluster, &old).await;
    let (was, is) = (("agnhost:2", old.as_str()), ("httpd:3", new.as_str()));
    until_at(&cluster, "ss2", [was; 3]).await;
    let move_to = |from: i32| Patch::Merge(json!({"spec": {"updateStrategy": partition(from)}}));
    api.patch("ss2", &move_to(2)).await.unwrap();
    until_at(&cluster, "ss2", [was, was, is]).await;
    // What is deleted comes back at the revision of its side.
    for name in ["ss2-0", "ss2-2"] {
        let pods = cluster.api::<Pod>(NAMESPACE);
        let before = pods.get(name).await.unwrap();
        pods.delete(name, &DeleteParams::default()).await.unwrap();
        cluster.until::<Pod>("again", NAMESPACE, name, |pod| pod.uid() != before.uid()).await;
    }
    until_at(&cluster, "ss2", [was, was, is]).await;
    api.patch("ss2", &move_to(1)).await.unwrap();
    until_at(&cluster, "ss2", [was, is, is]).await;
    api.patch("ss2", &move_to(0)).await.unwrap();
    until_at(&cluster, "ss2", [is; 3]).await;
    settled(&cluster, &new).await;
}

/// [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Should recreate evicted statefulset [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn evicted_pods_come_again() {
    let cluster = start("ss", 1, json!({"type": "RollingUpdate"})).await;
    let pods = cluster.api::<Pod>(NAMESPACE);
    let first = pods.get("ss-0").await.unwrap();
    let failed = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    pods.patch_status("ss-0", &Patch::Merge(failed)).await.unwrap();
    let runs_again = |pod: &Pod| {
        pod.uid() != first.uid() && pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"))
    };
    cluster.until::<Pod>("again", NAMESPACE, "ss-0", runs_again).await;
    ready(&cluster, "ss", 1).await;
}

/// [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should list, patch and delete a collection of StatefulSets [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn collections_of_stateful_sets() {
    let cluster = start("test-ss", 1, json!({"type": "RollingUpdate"})).await;
    let selected = |label: &str| ListParams { label_selector: Some(label.into()), ..ListParams::default() };
    let everywhere = amphipod_client::Api::<StatefulSet>::all(cluster.client.clone());
    assert_eq!(everywhere.list(&selected("app=test-ss")).await.unwrap().1.len(), 1);
    let patch = json!({"metadata": {"labels": {"test-ss": "patched"}}, "spec": {"replicas": 2, "template": {
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "pause:3"}]}}}});
    let api = cluster.api::<StatefulSet>(NAMESPACE);
    let patched = api.patch("test-ss", &Patch::Strategic(patch)).await.unwrap();
    assert_eq!(patched.metadata.labels.as_ref().unwrap()["test-ss"], "patched");
    let spec = patched.spec.unwrap();
    let containers = spec.template.spec.unwrap().containers;
    assert_eq!((spec.replicas, containers[0].image.as_deref()), (Some(2), Some("pause:3")));
    ready(&cluster, "test-ss", 2).await;
    api.delete_collection(&DeleteParams::default(), &selected("test-ss=patched")).await.unwrap();
    cluster.until_gone::<StatefulSet>(NAMESPACE, "test-ss").await;
}

/// [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should validate Statefulset Status endpoints [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn status_of_stateful_sets() {
    let cluster = start("x", 1, json!({"type": "RollingUpdate"})).await;
    crate::apps::condition_stays::<StatefulSet>(&cluster, NAMESPACE).await;
}
