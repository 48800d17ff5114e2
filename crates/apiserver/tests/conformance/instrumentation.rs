//! sig-instrumentation: events, in both of their groups.

use serde_json::{Value, json};

use crate::client::{Cluster, NAMESPACE, Patch, items, name, over_both_wires};

fn core_event(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {label: "true"}}, "message": format!("This is {name}"),
        "reason": "Test", "type": "Normal", "count": 1, "involvedObject": {"namespace": NAMESPACE}})
}

fn event(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {label: "true"}}, "regarding": {"namespace": NAMESPACE},
        "eventTime": "2017-09-19T13:49:16.000000Z", "note": format!("This is {name}"), "action": "Do",
        "reason": "Test", "type": "Normal", "reportingController": "test-controller",
        "reportingInstance": "test-node"})
}

/// What a client compares once the fields that the server writes are cleared.
fn cleared(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("resourceVersion");
    metadata.remove("managedFields");
    object
}

/// [sig-instrumentation] Events should manage the lifecycle of an event [Conformance]
#[tokio::test]
async fn core_events() {
    over_both_wires(async |cluster: Cluster| {
        let events = cluster.of("v1", "events", NAMESPACE);
        events.create(&core_event("event-test", "testevent-constant")).await.unwrap();
        let everywhere = cluster.all("v1", "events");
        assert_eq!(everywhere.list("labelSelector=testevent-constant=true").await.len(), 1);
        let patch = Patch::Strategic(json!({"message": "This is a test event - patched"}));
        events.patch("event-test", &patch).await.unwrap();
        let patched = events.get("event-test").await.unwrap();
        assert_eq!(patched["message"], "This is a test event - patched");
        let mut series = patched.clone();
        series["series"] = json!({"count": 100, "lastObservedTime": "2014-05-22T10:10:10.123000Z"});
        events.update(&series).await.unwrap();
        let updated = events.get("event-test").await.unwrap();
        assert_eq!(cleared(updated), cleared(series));
        events.delete("event-test").await.unwrap();
        assert_eq!(everywhere.list("labelSelector=testevent-constant=true").await.len(), 0);
    })
    .await;
}

/// Three events go at once.
async fn collection(cluster: Cluster, api_version: &str, event: fn(&str, &str) -> Value) {
    let events = cluster.of(api_version, "events", NAMESPACE);
    for name in ["test-event-1", "test-event-2", "test-event-3"] {
        events.create(&event(name, "testevent-set")).await.unwrap();
    }
    assert_eq!(events.list("labelSelector=testevent-set=true").await.len(), 3);
    events.delete_collection("labelSelector=testevent-set=true").await.unwrap();
    assert_eq!(events.list("labelSelector=testevent-set=true").await.len(), 0);
}

/// [sig-instrumentation] Events should delete a collection of events [Conformance]
#[tokio::test]
async fn collections_of_core_events() {
    over_both_wires(async |cluster| collection(cluster, "v1", core_event).await).await;
}

/// [sig-instrumentation] Events API should delete a collection of events [Conformance]
#[tokio::test]
async fn collections_of_events() {
    over_both_wires(async |cluster| collection(cluster, "events.k8s.io/v1", event).await).await;
}

/// [sig-instrumentation] Events API should ensure that an event can be fetched, patched, deleted, and listed [Conformance]
#[tokio::test]
async fn events() {
    over_both_wires(async |cluster: Cluster| {
        let events = cluster.of("events.k8s.io/v1", "events", NAMESPACE);
        let everywhere = cluster.all("events.k8s.io/v1", "events");
        events.create(&event("event-test", "testevent-constant")).await.unwrap();
        let selection = "labelSelector=testevent-constant=true";
        assert_eq!((events.list(selection).await.len(), everywhere.list(selection).await.len()), (1, 1));
        let core = cluster.of("v1", "events", NAMESPACE);
        for list in [
            core.list_whole("fieldSelector=source=test-controller").await.unwrap(),
            events.list_whole("fieldSelector=reportingController=test-controller").await.unwrap(),
        ] {
            let names: Vec<String> = items(&list).iter().map(name).collect();
            assert_eq!(names, ["event-test"]);
        }
        let mut wanted = events.get("event-test").await.unwrap();
        wanted["series"] = json!({"count": 2, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
        events.patch("event-test", &Patch::Strategic(json!({"series": wanted["series"]}))).await.unwrap();
        let patched = events.get("event-test").await.unwrap();
        let current = patched["metadata"]["resourceVersion"].clone();
        assert_eq!(cleared(patched), cleared(wanted.clone()));
        wanted["metadata"]["resourceVersion"] = current;
        wanted["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
        events.update(&wanted).await.unwrap();
        let updated = events.get("event-test").await.unwrap();
        assert_eq!(cleared(updated), cleared(wanted));
        events.delete("event-test").await.unwrap();
        assert_eq!((events.list(selection).await.len(), everywhere.list(selection).await.len()), (0, 0));
    })
    .await;
}
