//! sig-scheduling: what its tests ask of the API alone.

use serde_json::{Value, json};

use crate::client::{Cluster, NAMESPACE, Patch, named, over_both_wires, pod, refused};

fn amounts(cpu: &str, memory: &str, storage: &str) -> Value {
    let all = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", storage)];
    Value::Object(
        all.iter().filter(|(_, a)| !a.is_empty()).map(|(n, a)| ((*n).to_owned(), (*a).into())).collect(),
    )
}

fn limit_range(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"e2e-test": name, name: "created"}}, "spec": {"limits": [{
        "type": "Container", "min": amounts("50m", "100Mi", "100Gi"), "max": amounts("500m", "500Mi", "500Gi"),
        "default": amounts("500m", "500Mi", "500Gi"), "defaultRequest": amounts("100m", "200Mi", "200Gi")}]}})
}

fn asking(name: &str, requests: Value, limits: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": requests, "limits": limits});
    pod
}

/// [sig-scheduling] LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied. [Conformance]
#[tokio::test]
async fn limit_ranges_fill_and_bound() {
    over_both_wires(async |cluster: Cluster| {
        let ranges = cluster.of("v1", "limitranges", NAMESPACE);
        let pods = cluster.of("v1", "pods", NAMESPACE);
        let mut watch = ranges.watch("labelSelector=e2e-test=limit-range").await;
        ranges.create(&limit_range("limit-range")).await.unwrap();
        watch.until("ADDED", |r| r["metadata"]["name"] == "limit-range").await;
        let limit = ranges.get("limit-range").await.unwrap()["spec"]["limits"][0].clone();
        assert_eq!(limit["default"], amounts("500m", "500Mi", "500Gi"));
        assert_eq!(limit["defaultRequest"], amounts("100m", "200Mi", "200Gi"));

        let made = pods.create(&pod("pod-no-resources")).await.unwrap();
        let resources = &made["spec"]["containers"][0]["resources"];
        assert_eq!(
            (&resources["requests"], &resources["limits"]),
            (&limit["defaultRequest"], &limit["default"])
        );
        let partial = asking("partial", amounts("", "150Mi", "150Gi"), amounts("300m", "", ""));
        let made = pods.create(&partial).await.unwrap();
        let resources = &made["spec"]["containers"][0]["resources"];
        assert_eq!(resources["requests"], amounts("300m", "150Mi", "150Gi"));
        assert_eq!(resources["limits"], amounts("300m", "500Mi", "500Gi"));

        let little = asking("pfpod", amounts("10m", "50Mi", "50Gi"), json!({}));
        let much = asking("pfpod2", amounts("600m", "600Mi", "600Gi"), json!({}));
        refused(pods.create(&little).await, 403);
        refused(pods.create(&much).await, 422);
        let lower = |r: &mut Value| r["spec"]["limits"][0]["min"] = amounts("9m", "49Mi", "49Gi");
        let lowered = ranges.change("limit-range", lower).await.unwrap();
        assert_eq!(lowered["spec"]["limits"][0]["min"], amounts("9m", "49Mi", "49Gi"));
        pods.create(&little).await.unwrap();
        refused(pods.create(&much).await, 422);
        ranges.delete_with("limit-range", &json!({"gracePeriodSeconds": 30})).await.unwrap();
        assert_eq!(ranges.list("").await.len(), 0);
        pods.create(&much).await.unwrap();
    })
    .await;
}

/// [sig-scheduling] LimitRange should list, patch and delete a LimitRange by collection [Conformance]
#[tokio::test]
async fn limit_ranges() {
    over_both_wires(async |cluster: Cluster| {
        let ranges = cluster.of("v1", "limitranges", NAMESPACE);
        ranges.create(&limit_range("e2e")).await.unwrap();
        cluster.create_namespace("e2e").await;
        cluster.of("v1", "limitranges", "e2e").create(&limit_range("e2e")).await.unwrap();
        assert_eq!(cluster.all("v1", "limitranges").list("labelSelector=e2e-test=e2e").await.len(), 2);
        let mut limits = ranges.get("e2e").await.unwrap()["spec"]["limits"].clone();
        limits[0]["min"] = amounts("9m", "49Mi", "49Gi");
        let patch = json!({"metadata": {"creationTimestamp": null, "labels": {"e2e": "patched"}}, "spec": {"limits": limits}});
        let patched = ranges.patch("e2e", &Patch::Strategic(patch)).await.unwrap();
        assert_eq!(patched["metadata"]["labels"]["e2e"], "patched");
        assert_eq!(patched["spec"]["limits"][0]["min"], amounts("9m", "49Mi", "49Gi"));
        ranges.delete_collection("labelSelector=e2e=patched").await.unwrap();
        assert_eq!(ranges.list("labelSelector=e2e=patched").await.len(), 0);
        assert_eq!(cluster.all("v1", "limitranges").list("labelSelector=e2e-test=e2e").await.len(), 1);
    })
    .await;
}

/// [sig-scheduling] SchedulerPreemption PriorityClass endpoints verify PriorityClass endpoints can be operated with different HTTP methods [Conformance] [Serial]
#[tokio::test]
async fn priority_classes() {
    over_both_wires(async |cluster: Cluster| {
        let classes = cluster.all("scheduling.k8s.io/v1", "priorityclasses");
        for (name, value) in [("p1", 1), ("p2", 2)] {
            let mut class = named(name);
            class["value"] = value.into();
            classes.create(&class).await.unwrap();
        }
        for name in ["p1", "p2"] {
            let why = refused(classes.change(name, |c| c["value"] = 10.into()).await, 422);
            assert!(why.contains("may not be changed in an update"), "{why}");
            let patch = Patch::Json(json!([{"op": "replace", "path": "/value", "value": 10}]));
            refused(classes.patch(name, &patch).await, 422);
            let updated = classes.change(name, |c| c["description"] = "updated".into()).await.unwrap();
            assert_eq!(updated["description"], "updated");
            let patch = Patch::Json(json!([{"op": "replace", "path": "/description", "value": "patched"}]));
            classes.patch(name, &patch).await.unwrap();
            let got = classes.get(name).await.unwrap();
            assert_eq!((&got["description"], &got["metadata"]["name"]), (&json!("patched"), &json!(name)));
        }
        classes.delete("p1").await.unwrap();
        refused(classes.get("p1").await, 404);
        let patch = Patch::Merge(json!({"metadata": {"labels": {"e2e": "p2"}}}));
        classes.patch("p2", &patch).await.unwrap();
        classes.delete_collection("labelSelector=e2e=p2").await.unwrap();
        assert_eq!(classes.list("labelSelector=e2e=p2").await.len(), 0);
    })
    .await;
}
