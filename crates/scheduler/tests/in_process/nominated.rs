//! Where a pod is expected to go: the scheduler says so while claims are waited for, and takes others'
//! word for it as a hint that holds room (KEP-5278).

use std::sync::Mutex;

use tower::ServiceExt;

use super::*;

async fn nominated(cluster: &Cluster, name: &str) -> Option<String> {
    cluster.get(name).await?.status?.nominated_node_name.clone().filter(|node| !node.is_empty())
}
async fn expect(cluster: &Cluster, name: &str, node: Value) {
    let patch = Patch::Merge(json!({"status": {"nominatedNodeName": node}}));
    cluster.api::<Pod>("ns").patch_status(name, &patch).await.unwrap();
}
async fn ungate(cluster: &Cluster, name: &str) {
    let patch = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    cluster.api::<Pod>("ns").patch(name, &patch).await.unwrap();
}
/// One that is held back, and expected on a node.
async fn expected(cluster: &Cluster, name: &str, cpu: &str, node: &str) {
    cluster.pod(name, cpu, json!({"schedulingGates": [{"name": "example.com/later"}]})).await;
    expect(cluster, name, node.into()).await;
}

#[tokio::test]
async fn it_is_told_while_claims_are_waited_for_and_only_then() {
    let cluster = unscheduled().await;
    cluster.node("a").await;
    let service = cluster.server.local_service(seam::scheduler_user());
    let written = Arc::new(Mutex::new(Vec::new()));
    let told = written.clone();
    let client = Client::local(tower::service_fn(move |request: http::Request<_>| {
        let (path, service) = (request.uri().path().to_owned(), service.clone());
        if request.method() == http::Method::PATCH && path.contains("/pods/") {
            told.lock().unwrap().push(path);
        }
        service.oneshot(request)
    }));
    cluster.schedule_as(client, Config::default());
    let with_data = late_claim(&cluster, "csi.example.com").await;
    cluster.pod("waiting", "1m", with_data).await;
    let told = || nominated(&cluster, "waiting");
    assert_eq!(eventually("it is told where the pod is to go", told).await, "a");
    cluster.pod("plain", "1m", json!({})).await;
    cluster.bound("plain").await;
    assert_eq!(*written.lock().unwrap(), ["/api/v1/namespaces/ns/pods/waiting/status"]);
    assert_eq!(cluster.get("waiting").await.unwrap().node_name, None);

    let uid = cluster.api::<PersistentVolumeClaim>("ns").get("data").await.unwrap().metadata.uid;
    let reference = json!({"kind": "PersistentVolumeClaim", "namespace": "ns", "name": "data", "uid": uid});
    let volume = json!({"metadata": {"name": "made"}, "spec": {"storageClassName": "late", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "csi.example.com", "volumeHandle": "h"}, "claimRef": reference}});
    cluster.create::<PersistentVolume>("", volume).await;
    let selected = || async {
        let claim = cluster.api::<PersistentVolumeClaim>("ns").get("data").await.unwrap();
        claim.metadata.annotations?.get("volume.kubernetes.io/selected-node").cloned()
    };
    eventually("a node is selected", selected).await;
    bind_claim(&cluster, "data", "made").await;
    assert_eq!(cluster.bound("waiting").await, "a");
    assert_eq!(nominated(&cluster, "waiting").await, None, "the binding says it now");
}

#[tokio::test]
async fn a_node_others_name_is_tried_first_and_not_insisted_on() {
    let cluster = start().await;
    cluster.node("good").await;
    cluster.node("bad").await;
    let taint = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
    cluster.api::<Node>("").patch("bad", &Patch::Merge(json!({"spec": {"taints": taint}}))).await.unwrap();
    cluster.pod("free", "1m", json!({})).await;
    assert_eq!(cluster.bound("free").await, "good");
    expected(&cluster, "hinted", "1m", "bad").await;
    ungate(&cluster, "hinted").await;
    assert_eq!(cluster.bound("hinted").await, "bad");

    cluster.pod("filling", "900m", json!({"nodeSelector": {"kubernetes.io/hostname": "none"}})).await;
    let labels = Patch::Merge(json!({"metadata": {"labels": {"kubernetes.io/hostname": "none"}}}));
    cluster.api::<Node>("").patch("bad", &labels).await.unwrap();
    assert_eq!(cluster.bound("filling").await, "bad");
    expected(&cluster, "misled", "500m", "bad").await;
    ungate(&cluster, "misled").await;
    assert_eq!(cluster.bound("misled").await, "good");
    // Of a hint that leads nowhere nothing is left.
    expected(&cluster, "hopeless", "2", "bad").await;
    ungate(&cluster, "hopeless").await;
    cluster.event("hopeless", "FailedScheduling").await;
    let none = || async { nominated(&cluster, "hopeless").await.is_none().then_some(()) };
    eventually("the hint is taken back", none).await;
}

#[tokio::test]
async fn room_is_held_for_an_expected_pod_and_no_longer() {
    let cluster = start().await;
    cluster.node("a").await;
    expected(&cluster, "first", "800m", "a").await;
    cluster.pod("equal", "500m", json!({})).await;
    let (_, message) = cluster.condition("equal", "PodScheduled").await;
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu. "), "{message}");
    cluster.pod("higher", "300m", json!({"priorityClassName": "high"})).await;
    assert_eq!(cluster.bound("higher").await, "a");
    expect(&cluster, "first", Value::Null).await;
    assert_eq!(cluster.bound("equal").await, "a");
}

#[tokio::test]
async fn room_is_held_for_no_pod_that_ends_without_a_node() {
    let cluster = start().await;
    cluster.node("a").await;
    let pods = cluster.api::<Pod>("ns");
    for (first, waiting) in [("leaving", "next"), ("failed", "last")] {
        expected(&cluster, first, "800m", "a").await;
        cluster.pod(waiting, "500m", json!({})).await;
        let (_, message) = cluster.condition(waiting, "PodScheduled").await;
        assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu. "), "{message}");
        if first == "leaving" {
            let stays = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/stay"]}}));
            pods.patch(first, &stays).await.unwrap();
            pods.delete(first, &DeleteParams::default()).await.unwrap();
        } else {
            let ended = Patch::Merge(json!({"status": {"phase": "Failed"}}));
            pods.patch_status(first, &ended).await.unwrap();
        }
        assert_eq!(cluster.bound(waiting).await, "a", "after {first}");
        assert!(cluster.get(first).await.is_some(), "it is still there");
    }
}

#[tokio::test]
async fn room_is_held_on_a_node_that_is_still_to_come() {
    let cluster = start().await;
    expected(&cluster, "first", "800m", "late").await;
    cluster.pod("eager", "500m", json!({})).await;
    cluster.condition("eager", "PodScheduled").await;
    cluster.node("late").await;
    let refused = || async {
        let (_, message) = cluster.condition("eager", "PodScheduled").await;
        message.starts_with("0/1 nodes are available: 1 Insufficient cpu. ").then_some(())
    };
    eventually("there is no room for others", refused).await;
    ungate(&cluster, "first").await;
    assert_eq!(cluster.bound("first").await, "late");
}
