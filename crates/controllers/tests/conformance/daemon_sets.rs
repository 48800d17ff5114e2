//! sig-apps: DaemonSets on nodes that only exist as objects.

use amphipod_client::{DeleteParams, ListParams, Patch, Resource};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, eventually};
use crate::template;

const NAMESPACE: &str = "daemons";
const HASH: &str = "controller-revision-hash";

async fn start() -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    for name in ["one", "two"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.create::<Node>("", node).await;
        let untaint = Patch::Merge(json!({"spec": {"taints": null}}));
        cluster.api::<Node>("").patch(name, &untaint).await.unwrap();
    }
    cluster
}

fn daemon_set(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name)}})
}

async fn pods(cluster: &Cluster) -> Vec<Pod> {
    let pods = cluster.api::<Pod>(NAMESPACE).list(&ListParams::default()).await.unwrap().1;
    pods.into_iter().filter(|pod| !pod.is_terminating()).collect()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}
fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.containers[0].image.as_deref()).unwrap_or("")
}
/// The node a daemon pod is made for.
fn node(pod: &Pod) -> String {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let terms =
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()).unwrap();
    let fields = terms.node_selector_terms[0].match_fields.as_ref().unwrap();
    fields[0].values.as_ref().unwrap()[0].clone()
}

/// One running pod on each of these nodes, and the status says so.
async fn runs_on(cluster: &Cluster, name: &str, nodes: &[&str]) {
    eventually(&format!("running on {nodes:?}"), || async {
        let pods = pods(cluster).await;
        let mut found: Vec<String> = pods.iter().filter(|p| phase(p) == "Running").map(node).collect();
        found.sort();
        (found == nodes && pods.len() == nodes.len()).then_some(())
    })
    .await;
    let count = i32::try_from(nodes.len()).unwrap();
    let counted = |set: &DaemonSet| {
        set.status.as_ref().is_some_and(|s| {
            [s.desired_number_scheduled, s.current_number_scheduled, s.number_ready] == [count; 3]
        })
    };
    cluster.until::<DaemonSet>("counted", NAMESPACE, name, counted).await;
}

/// [sig-apps] Daemon set should run and stop simple daemon [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn simple_daemons() {
    let cluster = start().await;
    cluster.create::<DaemonSet>(NAMESPACE, daemon_set("daemon")).await;
    runs_on(&cluster, "daemon", &["one", "two"]).await;
    let stopped = pods(&cluster).await.remove(0);
    cluster.api::<Pod>(NAMESPACE).delete(stopped.name(), &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<Pod>(NAMESPACE, stopped.name()).await;
    runs_on(&cluster, "daemon", &["one", "two"]).await;
}

/// [sig-apps] Daemon set should run and stop complex daemon [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn daemons_follow_labels() {
    let cluster = start().await;
    let paint = |color: Value| Patch::Merge(json!({"metadata": {"labels": {"daemonset-color": color}}}));
    let nodes = cluster.api::<Node>("");
    let mut set = daemon_set("daemon");
    set["spec"]["template"]["spec"]["nodeSelector"] = json!({"daemonset-color": "blue"});
    cluster.create::<DaemonSet>(NAMESPACE, set).await;
    let observed = |set: &DaemonSet| {
        set.status.as_ref().is_some_and(|s| s.observed_generation == set.metadata.generation)
    };
    cluster.until::<DaemonSet>("observed", NAMESPACE, "daemon", observed).await;
    runs_on(&cluster, "daemon", &[]).await;
    nodes.patch("one", &paint(json!("blue"))).await.unwrap();
    runs_on(&cluster, "daemon", &["one"]).await;
    nodes.patch("one", &paint(json!("green"))).await.unwrap();
    runs_on(&cluster, "daemon", &[]).await;
    let follow = json!({"spec": {"updateStrategy": {"type": "RollingUpdate"},
        "template": {"spec": {"nodeSelector": {"daemonset-color": "green"}}}}});
    cluster.api::<DaemonSet>(NAMESPACE).patch("daemon", &Patch::Merge(follow)).await.unwrap();
    runs_on(&cluster, "daemon", &["one"]).await;
}

/// [sig-apps] Daemon set should retry creating failed daemon pods [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn failed_daemons_come_again() {
    let cluster = start().await;
    cluster.create::<DaemonSet>(NAMESPACE, daemon_set("daemon")).await;
    runs_on(&cluster, "daemon", &["one", "two"]).await;
    let failing = pods(&cluster).await.remove(0);
    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    cluster.api::<Pod>(NAMESPACE).patch_status(failing.name(), &failed).await.unwrap();
    cluster.until_gone::<Pod>(NAMESPACE, failing.name()).await;
    runs_on(&cluster, "daemon", &["one", "two"]).await;
}

/// The hash of the newest of so many revisions.
async fn revision(cluster: &Cluster, count: usize) -> String {
    let api = cluster.api::<ControllerRevision>(NAMESPACE);
    let revisions = eventually(&format!("{count} revisions"), || async {
        let found = api.list(&ListParams::default()).await.unwrap().1;
        (found.len() == count).then_some(found)
    })
    .await;
    let newest = revisions.into_iter().max_by_key(|revision| revision.revision).unwrap();
    assert_eq!(newest.revision, i64::try_from(count).unwrap());
    newest.metadata.labels.unwrap()[HASH].clone()
}

fn with_image(image: &str) -> Patch {
    Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}}))
}

async fn all_have(cluster: &Cluster, image_name: &str) {
    eventually(image_name, || async {
        let pods = pods(cluster).await;
        let ready = pods.iter().filter(|p| image(p) == image_name && phase(p) == "Running").count();
        (ready == 2 && pods.len() == 2).then_some(())
    })
    .await;
}

/// [sig-apps] Daemon set should update pod when spec was updated and update strategy is RollingUpdate [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn daemons_are_rolled_over() {
    let cluster = start().await;
    let mut set = daemon_set("daemon");
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    cluster.create::<DaemonSet>(NAMESPACE, set).await;
    runs_on(&cluster, "daemon", &["one", "two"]).await;
    let first = revision(&cluster, 1).await;
    let carries = |pods: Vec<Pod>, hash: &str| {
        pods.iter().all(|pod| pod.metadata.labels.as_ref().is_some_and(|l| l[HASH] == hash))
    };
    assert!(carries(pods(&cluster).await, &first));
    cluster.api::<DaemonSet>(NAMESPACE).patch("daemon", &with_image("agnhost:3")).await.unwrap();
    all_have(&cluster, "agnhost:3").await;
    runs_on(&cluster, "daemon", &["one", "two"]).await;
    let second = revision(&cluster, 2).await;
    assert_ne!(first, second);
    assert!(carries(pods(&cluster).await, &second));
}

/// [sig-apps] Daemon set should rollback without unnecessary restarts [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn daemons_are_rolled_back() {
    let cluster = start().await;
    cluster.create::<DaemonSet>(NAMESPACE, daemon_set("daemon")).await;
    runs_on(&cluster, "daemon", &["one", "two"]).await;
    let api = cluster.api::<DaemonSet>(NAMESPACE);
    api.patch("daemon", &with_image("foo:non-existent")).await.unwrap();
    eventually("halfway", || async {
        pods(&cluster).await.iter().any(|p| image(p) == "foo:non-existent").then_some(())
    })
    .await;
    let kept: Vec<String> =
        pods(&cluster).await.iter().filter(|p| image(p) == "agnhost:2").map(|p| p.uid().to_owned()).collect();
    assert_eq!(kept.len(), 1);
    api.patch("daemon", &with_image("agnhost:2")).await.unwrap();
    all_have(&cluster, "agnhost:2").await;
    let now: Vec<String> = pods(&cluster).await.iter().map(|p| p.uid().to_owned()).collect();
    assert!(kept.iter().all(|uid| now.contains(uid)), "what already ran is not restarted");
}

/// [sig-apps] Daemon set should list and delete a collection of DaemonSets [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn collections_of_daemon_sets() {
    let cluster = start().await;
    cluster.create::<DaemonSet>(NAMESPACE, daemon_set("daemon")).await;
    runs_on(&cluster, "daemon", &["one", "two"]).await;
    let selected = ListParams { label_selector: Some("app=daemon".into()), ..ListParams::default() };
    let everywhere = amphipod_client::Api::<DaemonSet>::all(cluster.client.clone());
    assert_eq!(everywhere.list(&selected).await.unwrap().1.len(), 1);
    let api = cluster.api::<DaemonSet>(NAMESPACE);
    api.delete_collection(&DeleteParams::default(), &selected).await.unwrap();
    cluster.until_gone::<DaemonSet>(NAMESPACE, "daemon").await;
}

/// [sig-apps] Daemon set should verify changes to a daemon set status [Conformance] [Serial]
#[tokio::test(flavor = "multi_thread")]
async fn status_of_daemon_sets() {
    let cluster = start().await;
    cluster.create::<DaemonSet>(NAMESPACE, daemon_set("x")).await;
    runs_on(&cluster, "x", &["one", "two"]).await;
    crate::apps::condition_stays::<DaemonSet>(&cluster, NAMESPACE).await;
}
