//! sig-apps: how Deployments roll out.

use amphipod_client::{DeleteParams, ListParams, Patch, Resource};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, eventually};
use crate::{template, workload};

const NAMESPACE: &str = "rollouts";
const REVISION: &str = "deployment.kubernetes.io/revision";

async fn start() -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    cluster
}

/// A Deployment called `x` whose selector takes in what `old` owns.
fn deployment(replicas: i32, image: &str, extra: &Value) -> Value {
    let mut object = workload("Deployment", "x", replicas);
    object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    object["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    object
}

/// A ReplicaSet from before the Deployment, with other pods under the same label.
async fn old_set(cluster: &Cluster, replicas: i32, annotations: Value) {
    let mut set = workload("ReplicaSet", "old", replicas);
    set["metadata"]["annotations"] = annotations;
    set["metadata"]["labels"] = json!({"app": "x", "pod": "httpd"});
    set["spec"]["selector"]["matchLabels"] = json!({"app": "x", "pod": "httpd"});
    set["spec"]["template"] = template("x");
    set["spec"]["template"]["metadata"]["labels"]["pod"] = "httpd".into();
    set["spec"]["template"]["spec"]["containers"][0]["image"] = "httpd:2".into();
    cluster.create::<ReplicaSet>(NAMESPACE, set).await;
    let ready = |set: &ReplicaSet| set.status.as_ref().is_some_and(|s| s.ready_replicas == Some(replicas));
    cluster.until::<ReplicaSet>("old pods", NAMESPACE, "old", ready).await;
}

fn with_image(image: &str) -> Patch {
    Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}}))
}

fn is_complete(d: &Deployment) -> bool {
    let wanted = d.spec.as_ref().and_then(|s| s.replicas);
    d.status.as_ref().is_some_and(|s| {
        [s.replicas, s.updated_replicas, s.available_replicas] == [wanted; 3]
            && s.observed_generation == d.metadata.generation
    })
}

async fn complete(cluster: &Cluster, revision: &str) -> Deployment {
    let d = cluster.until::<Deployment>("complete", NAMESPACE, "x", is_complete).await;
    assert_eq!(d.metadata.annotations.as_ref().unwrap()[REVISION], revision);
    d
}

async fn sets(cluster: &Cluster) -> Vec<ReplicaSet> {
    cluster.api::<ReplicaSet>(NAMESPACE).list(&ListParams::default()).await.unwrap().1
}
fn image(set: &ReplicaSet) -> &str {
    let template = set.spec.as_ref().and_then(|s| s.template.as_ref());
    template.and_then(|t| t.spec.as_ref()?.containers[0].image.as_deref()).unwrap_or("")
}
fn replicas(set: &ReplicaSet) -> (Option<i32>, i32) {
    (set.spec.as_ref().and_then(|s| s.replicas), set.status.as_ref().map_or(0, |s| s.replicas))
}

/// Waits until the set with this image wants and has so many pods.
async fn until_sized(cluster: &Cluster, image_name: &str, count: i32) {
    eventually(&format!("{image_name} at {count}"), || async {
        sets(cluster)
            .await
            .iter()
            .any(|s| image(s) == image_name && replicas(s) == (Some(count), count))
            .then_some(())
    })
    .await;
}

/// [sig-apps] Deployment RollingUpdateDeployment should delete old pods and create new ones [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update() {
    let cluster = start().await;
    old_set(&cluster, 1, json!({REVISION: "3546343826724305832"})).await;
    let made = cluster.create::<Deployment>(NAMESPACE, deployment(1, "agnhost:2", &json!({}))).await;
    complete(&cluster, "3546343826724305833").await;
    until_sized(&cluster, "httpd:2", 0).await;
    let old = cluster.api::<ReplicaSet>(NAMESPACE).get("old").await.unwrap();
    assert!(old.metadata.owner_references.iter().flatten().any(|owner| owner.uid == made.uid()), "adopted");
}

/// [sig-apps] Deployment RecreateDeployment should delete old pods and create new ones [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_recreation() {
    let cluster = start().await;
    let recreate = deployment(1, "agnhost:2", &json!({"strategy": {"type": "Recreate"}}));
    cluster.create::<Deployment>(NAMESPACE, recreate).await;
    complete(&cluster, "1").await;
    cluster.api::<Deployment>(NAMESPACE).patch("x", &with_image("httpd:2")).await.unwrap();
    let overlaps =
        |s: &DeploymentStatus| s.updated_replicas.unwrap_or(0) > 0 && s.updated_replicas != s.replicas;
    let alone = |d: &Deployment| {
        let is_current = d.status.as_ref().is_some_and(|s| s.observed_generation == d.metadata.generation);
        assert!(!is_current || !d.status.as_ref().is_some_and(overlaps), "old and new pods at once");
        is_complete(d)
    };
    cluster.until::<Deployment>("recreated", NAMESPACE, "x", alone).await;
    complete(&cluster, "2").await;
}

/// [sig-apps] Deployment deployment should delete old replica sets [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn old_sets_are_removed() {
    let cluster = start().await;
    old_set(&cluster, 1, json!({})).await;
    let forgetful = deployment(1, "agnhost:2", &json!({"revisionHistoryLimit": 0}));
    cluster.create::<Deployment>(NAMESPACE, forgetful).await;
    cluster.until_gone::<ReplicaSet>(NAMESPACE, "old").await;
    assert!(sets(&cluster).await.iter().all(|set| image(set) == "agnhost:2"));
}

/// [sig-apps] Deployment deployment should support rollover [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_rollover() {
    let cluster = start().await;
    old_set(&cluster, 1, json!({})).await;
    let careful = json!({"minReadySeconds": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    cluster.create::<Deployment>(NAMESPACE, deployment(1, "foo:non-existent", &careful)).await;
    until_sized(&cluster, "foo:non-existent", 1).await;
    cluster.api::<Deployment>(NAMESPACE).patch("x", &with_image("agnhost:2")).await.unwrap();
    complete(&cluster, "2").await;
    until_sized(&cluster, "httpd:2", 0).await;
    until_sized(&cluster, "foo:non-existent", 0).await;
    until_sized(&cluster, "agnhost:2", 1).await;
}

/// [sig-apps] Deployment deployment should support proportional scaling [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn proportional_scaling() {
    let cluster = start().await;
    let slack =
        json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2, "maxSurge": 3}}});
    cluster.create::<Deployment>(NAMESPACE, deployment(10, "httpd:2", &slack)).await;
    complete(&cluster, "1").await;
    let api = cluster.api::<Deployment>(NAMESPACE);
    api.patch("x", &with_image("foo:non-existent")).await.unwrap();
    until_sized(&cluster, "httpd:2", 8).await;
    until_sized(&cluster, "foo:non-existent", 5).await;
    // The sizes that the next scaling starts from, as the controller itself sees them.
    let halfway = |d: &Deployment| {
        let sizes = |s: &DeploymentStatus| [s.replicas, s.updated_replicas, s.available_replicas];
        d.status.as_ref().is_some_and(|status| sizes(status) == [Some(13), Some(5), Some(8)])
    };
    cluster.until::<Deployment>("as few available as may be", NAMESPACE, "x", halfway).await;
    api.patch("x", &Patch::Merge(json!({"spec": {"replicas": 30}}))).await.unwrap();
    until_sized(&cluster, "httpd:2", 20).await;
    until_sized(&cluster, "foo:non-existent", 13).await;
}

/// [sig-apps] Deployment should run the lifecycle of a Deployment [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn deployments() {
    let cluster = start().await;
    let mut first = deployment(1, "agnhost:2", &json!({}));
    first["metadata"]["labels"] = json!({"test-deployment-static": "true"});
    cluster.create::<Deployment>(NAMESPACE, first).await;
    complete(&cluster, "1").await;
    let api = cluster.api::<Deployment>(NAMESPACE);
    let patch = json!({"metadata": {"labels": {"test-deployment": "patched"}}, "spec": {"replicas": 2, "template": {
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "pause:3"}]}}}});
    let patched = api.patch("x", &Patch::Strategic(patch)).await.unwrap();
    assert_eq!(patched.metadata.labels.as_ref().unwrap()["test-deployment"], "patched");
    complete(&cluster, "2").await;
    let selected = |label: &str| ListParams { label_selector: Some(label.into()), ..ListParams::default() };
    let everywhere = amphipod_client::Api::<Deployment>::all(cluster.client.clone());
    let found = everywhere.list(&selected("test-deployment-static=true")).await.unwrap().1;
    assert_eq!(found.iter().map(Resource::name).collect::<Vec<_>>(), ["x"]);
    let image =
        found[0].spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].image.as_deref();
    assert_eq!((image, found[0].spec.as_ref().unwrap().replicas), (Some("pause:3"), Some(2)));
    let none = Patch::Strategic(
        json!({"metadata": {"annotations": {"seen": "status"}}, "status": {"readyReplicas": 0, "availableReplicas": 0}}),
    );
    let patched = api.patch_status("x", &none).await.unwrap();
    assert_eq!(patched.status.unwrap().ready_replicas.unwrap_or(0), 0);
    let counted = |d: &Deployment| d.status.as_ref().is_some_and(|s| s.ready_replicas == Some(2));
    cluster.until::<Deployment>("counted again", NAMESPACE, "x", counted).await;
    let grown = eventually("updated", || async {
        let mut d = api.get("x").await.unwrap();
        d.metadata.labels.get_or_insert_default().insert("test-deployment".into(), "updated".into());
        api.update(&d).await.ok()
    })
    .await;
    assert_eq!(grown.metadata.labels.unwrap()["test-deployment"], "updated");
    api.delete_collection(&DeleteParams::default(), &selected("test-deployment-static=true")).await.unwrap();
    cluster.until_gone::<Deployment>(NAMESPACE, "x").await;
}
