//! Pods whose containers get other amounts of CPU and memory while they run.

use serde_json::{Value, json};

use super::{Node, container, is_ready, until};

const MIB: i64 = 1 << 20;

impl Node {
    /// What the resize subresource does to a pod: new resources, one generation on.
    fn resize(&self, name: &str, resources: &Value) {
        let mut pod = self.pod(name);
        pod["spec"]["containers"][0]["resources"] = resources.clone();
        pod["metadata"]["generation"] = (pod["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
        self.api.put("pods", pod);
    }
    fn cpu_capacity(&self) -> i64 {
        let amount = self.api.get("nodes", "", "n1").unwrap()["status"]["allocatable"]["cpu"].clone();
        amphipod_api::quantity::Quantity::parse(amount.as_str().unwrap()).unwrap().milli()
    }
}

fn exact(cpu: i64, memory: &str) -> Value {
    json!({"requests": {"cpu": format!("{cpu}m"), "memory": memory}, "limits": {"cpu": format!("{cpu}m"), "memory": memory}})
}

fn condition(pod: &Value, kind: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == kind).unwrap_or(Value::Null)
}

/// The status agrees with `resources`, and nothing is under way.
fn has(resources: &Value) -> impl Fn(&Value) -> bool {
    let resources = resources.clone();
    move |pod| {
        let status = container(pod, 0);
        status["resources"] == resources
            && status["allocatedResources"] == resources["requests"]
            && condition(pod, "PodResizePending").is_null()
            && condition(pod, "PodResizeInProgress").is_null()
    }
}

#[tokio::test]
async fn a_running_container_gets_other_limits() {
    let node = Node::start().await;
    node.create("p", json!({"containers": [{"name": "a", "image": "x:1", "resources": exact(100, "64Mi")}]}));
    node.until_pod("ready", "p", is_ready).await;
    let id = node.runtime.running("a").unwrap().id;
    node.resize("p", &exact(200, "128Mi"));
    let pod = node.until_pod("resized", "p", has(&exact(200, "128Mi"))).await;
    assert_eq!(container(&pod, 0)["restartCount"], 0);
    let updates: Vec<(String, i64, i64)> = {
        let state = node.runtime.state.lock();
        state.updates.iter().map(|(id, r)| (id.clone(), r.memory_limit_in_bytes, r.cpu_quota)).collect()
    };
    assert_eq!(
        updates,
        [(id.clone(), 128 * MIB, 10_000), (id.clone(), 128 * MIB, 20_000)],
        "memory, then CPU"
    );
    let summary = r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"200m","memory":"128Mi"},"requests":{"cpu":"200m","memory":"128Mi"}}}],"generation":2}"#;
    node.until_event(&format!(" ResizeStarted Pod resize started: {summary}")).await;
    node.until_event(&format!(" ResizeCompleted Pod resize completed: {summary}")).await;

    // Less than is in use is refused; once it is used no more it is set.
    node.runtime.state.lock().memory_usage = Some(100 * (MIB as u64));
    node.resize("p", &exact(200, "32Mi"));
    let failed = |pod: &Value| condition(pod, "PodResizeInProgress")["reason"] == "Error";
    let pod = node.until_pod("an error", "p", failed).await;
    let progress = condition(&pod, "PodResizeInProgress");
    assert_eq!(
        progress["message"],
        "cannot decrease memory limits: [attempting to set pod memory limit (33554432) below current usage (104857600), \
         attempting to set container \"a\" memory limit (33554432) below current usage (104857600)]"
    );
    assert_eq!(progress["observedGeneration"], 3);
    assert_eq!(container(&pod, 0)["resources"], exact(200, "128Mi"), "what is in force");
    assert_eq!(container(&pod, 0)["allocatedResources"]["memory"], "32Mi", "what is granted");
    node.until_event(" ResizeError Pod resize error: ").await;
    node.runtime.state.lock().memory_usage = Some(MIB as u64);
    node.until_pod("smaller", "p", has(&exact(200, "32Mi"))).await;
}

#[tokio::test]
async fn a_container_may_want_a_restart() {
    let node = Node::start().await;
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    node.create(
        "p",
        json!({"restartPolicy": "OnFailure",
            "containers": [{"name": "a", "image": "x:1", "resizePolicy": policy, "resources": exact(100, "64Mi")}]}),
    );
    node.until_pod("ready", "p", is_ready).await;
    let first = node.runtime.running("a").unwrap().id;
    for (count, memory) in [(1, "128Mi"), (2, "32Mi")] {
        node.resize("p", &exact(100, memory));
        let pod = node
            .until_pod("restarted", "p", |p| {
                container(p, 0)["restartCount"] == count && is_ready(p) && has(&exact(100, memory))(p)
            })
            .await;
        assert_eq!(pod["status"]["phase"], "Running");
    }
    assert!(node.runtime.state.lock().updates.iter().all(|(id, _)| *id != first));
    let second = node.runtime.running("a").unwrap().id;
    let limits = node.runtime.state.lock().configs[&second].linux.clone().unwrap().resources.unwrap();
    assert_eq!(limits.memory_limit_in_bytes, 32 * MIB);
    node.until_event("spec.containers{a} Killing Container a resize requires restart").await;
}

/// A pod whose container, when its memory changes, is stopped to be started anew.
async fn to_be_restarted(node: &Node) -> String {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    node.create(
        "p",
        json!({"restartPolicy": "OnFailure",
            "containers": [{"name": "a", "image": "x:1", "resizePolicy": policy, "resources": exact(100, "128Mi")}]}),
    );
    node.until_pod("ready", "p", is_ready).await;
    node.runtime.running("a").unwrap().id
}

#[tokio::test]
async fn nothing_is_done_while_a_container_stops() {
    use std::os::unix::fs::MetadataExt;
    let node = Node::start().await;
    let first = to_be_restarted(&node).await;
    let uid = node.pod("p")["metadata"]["uid"].as_str().unwrap().to_owned();
    let file = node.dir.path().join("kubelet/pods").join(uid).join("actuated.json");
    let written = || {
        let file = std::fs::metadata(&file).unwrap();
        (file.ino(), file.mtime(), file.mtime_nsec())
    };
    let before = written();
    node.runtime.stops_held.send_replace(true);
    node.resize("p", &exact(100, "64Mi"));
    let told_to_stop = || node.runtime.state.lock().stopped.iter().any(|(id, _)| *id == first);
    until("told to stop", || told_to_stop().then_some(())).await;
    // Another pod's life, from its creation to its end, is time enough for many looks.
    node.create("q", json!({"containers": [{"name": "b", "image": "x:1"}]}));
    node.until_pod("ready", "q", is_ready).await;
    assert_eq!(written(), before, "written again though nothing was done");
    assert_eq!(node.runtime.state.lock().stopped.len(), 1);
    node.runtime.stops_held.send_replace(false);
    let again = |p: &Value| container(p, 0)["restartCount"] == 1 && has(&exact(100, "64Mi"))(p);
    node.until_pod("restarted", "p", again).await;
}

#[tokio::test]
async fn a_kubelet_that_ends_while_a_container_stops_is_succeeded() {
    let mut node = Node::start().await;
    let first = to_be_restarted(&node).await;
    node.runtime.stops_held.send_replace(true);
    node.resize("p", &exact(100, "64Mi"));
    until("told to stop", || (node.runtime.state.lock().stopped.len() == 1).then_some(())).await;
    node.stop_kubelet().await;
    node.runtime.end(&first, 0);
    node.runtime.stops_held.send_replace(false);
    node.run_kubelet(node.config());
    let ready = |p: &Value| container(p, 0)["restartCount"] == 1 && is_ready(p);
    let pod = node.until_pod("restarted", "p", |p| ready(p) && has(&exact(100, "64Mi"))(p)).await;
    assert_eq!(pod["status"]["phase"], "Running");
}

#[tokio::test]
async fn what_does_not_fit_waits_until_there_is_room() {
    let mut node = Node::start().await;
    let capacity = node.cpu_capacity();
    let of = |name: &str, cpu: i64| json!({"containers": [{"name": name, "image": "x:1", "resources": exact(cpu, "16Mi")}]});
    node.create("big", of("b", capacity - 300));
    node.create("p", of("a", 100));
    for name in ["big", "p"] {
        node.until_pod("ready", name, is_ready).await;
    }
    node.resize("p", &exact(capacity + 1, "16Mi"));
    let never = |p: &Value| condition(p, "PodResizePending")["reason"] == "Infeasible";
    let pod = node.until_pod("infeasible", "p", never).await;
    let (wanted, used) = (capacity + 1, capacity - 300);
    assert_eq!(
        condition(&pod, "PodResizePending")["message"],
        format!("Node didn't have enough capacity: cpu, requested: {wanted}, capacity: {capacity}")
    );
    node.until_event(" ResizeInfeasible Pod resize Infeasible: ").await;

    node.resize("p", &exact(400, "16Mi"));
    let later = |p: &Value| condition(p, "PodResizePending")["reason"] == "Deferred";
    let pod = node.until_pod("deferred", "p", later).await;
    let pending = condition(&pod, "PodResizePending");
    assert_eq!(
        pending["message"],
        format!("Node didn't have enough resource: cpu, requested: 400, used: {used}, capacity: {capacity}")
    );
    assert_eq!((&pending["status"], &pending["observedGeneration"]), (&json!("True"), &json!(3)));
    assert_eq!(container(&pod, 0)["resources"], exact(100, "16Mi"));
    node.until_event(" ResizeDeferred Pod resize Deferred: ").await;

    // A kubelet that starts anew does not take the wanted for the granted.
    node.stop_kubelet().await;
    node.run_kubelet(node.config());
    let again = node.until_pod("deferred still", "p", later).await;
    assert_eq!(container(&again, 0)["allocatedResources"]["cpu"], "100m");
    assert!(node.runtime.state.lock().updates.is_empty());

    node.api.delete("pods", "ns", "big", Some(1));
    node.until_pod("room", "p", has(&exact(400, "16Mi"))).await;
    assert_eq!(node.runtime.state.lock().updates.last().unwrap().1.cpu_quota, 40_000);
    until("gone", || node.api.get("pods", "ns", "big").is_none().then_some(())).await;
}
