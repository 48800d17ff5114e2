//! Counterparts of the published conformance tests that need controllers but no running container:
//! each carries the name of the one it answers. `docs/conformance.md` lists all of them; the
//! server's own are beside the server.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../cluster/mod.rs"]
mod cluster;

mod apps;
mod daemon_sets;
mod deployments;
mod garbage_collector;
mod jobs;
mod namespaces;
mod network;
mod quotas;
mod stateful_sets;

use serde_json::{Value, json};

/// A pod template whose pods carry this label.
fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "agnhost:2"}]}})
}

/// A ReplicaSet, Deployment or StatefulSet by the name of its pods' label.
fn workload(kind: &str, name: &str, replicas: i32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name)}})
}

fn replication_controller(name: &str, replicas: i32) -> Value {
    json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"app": name}, "template": template(name)}})
}

fn pod(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "agnhost:2"}]}})
}
