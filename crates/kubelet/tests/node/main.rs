//! The whole kubelet against an API and a runtime that exist only in this process: lives of pods
//! from creation to the end, crashes, probes, restarts of the kubelet.
#![allow(clippy::unwrap_used)] // tests: what must not fail may panic

mod api;
mod hollow;
mod real;
mod resize;
mod runtime;
mod serving;

use std::time::Duration;

use amphipod_client::SharedInformers;
use amphipod_kubelet::{CgroupConfig, Config};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use api::MiniApi;
use runtime::MindRuntime;

/// How long a condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    dir: tempfile::TempDir,
    api: MiniApi,
    runtime: MindRuntime,
    cancel: CancellationToken,
    kubelet: Option<tokio::task::JoinHandle<()>>,
}

impl Node {
    async fn start() -> Self {
        Node::start_with(|_, _| {}).await
    }
    async fn start_with(change: impl FnOnce(&mut Config, &std::path::Path)) -> Self {
        Node::start_all(|_| {}, change).await
    }
    async fn start_with_runtime(change: impl FnOnce(&MindRuntime)) -> Self {
        Node::start_all(change, |_, _| {}).await
    }
    async fn start_all(
        prepare: impl FnOnce(&MindRuntime),
        change: impl FnOnce(&mut Config, &std::path::Path),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = MindRuntime::serve(&dir.path().join("cri.sock"));
        prepare(&runtime);
        let mut node =
            Node { dir, api: MiniApi::new(), runtime, cancel: CancellationToken::new(), kubelet: None };
        let mut config = node.config();
        change(&mut config, node.dir.path());
        node.run_kubelet(config);
        until("the node registers", || node.api.get("nodes", "", "n1")).await;
        node
    }
    fn config(&self) -> Config {
        let endpoint = format!("unix://{}", self.dir.path().join("cri.sock").display());
        let mut config = Config::new("n1", "127.0.0.1".parse().unwrap(), &endpoint);
        config.root_dir = self.dir.path().join("kubelet");
        config.pod_logs_dir = self.dir.path().join("logs");
        config.manifest_dir = Some(self.dir.path().join("manifests"));
        std::fs::create_dir_all(self.dir.path().join("manifests")).unwrap();
        config.listen = None;
        config.cgroups = CgroupConfig { enabled: false, ..config.cgroups };
        config
    }
    fn run_kubelet(&mut self, config: Config) {
        self.cancel = CancellationToken::new();
        let informers = SharedInformers::new(self.api.client(), self.cancel.clone());
        let run = amphipod_kubelet::run(config, self.api.client(), informers, self.cancel.clone());
        self.kubelet = Some(tokio::spawn(async move { run.await.unwrap() }));
    }
    async fn stop_kubelet(&mut self) {
        self.cancel.cancel();
        self.kubelet.take().unwrap().await.unwrap();
    }
    fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = "n1".into();
        self.api.put(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns", "labels": {"a": "b"}},
                "spec": spec, "status": {"phase": "Pending"}}),
        );
    }
    fn pod(&self, name: &str) -> Value {
        self.api.get("pods", "ns", name).unwrap_or(Value::Null)
    }
    async fn until_pod(&self, what: &str, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let check = || Some(self.pod(name)).filter(&condition);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(pod) = check() {
                return pod;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {:#}", self.pod(name)["status"]);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    fn events(&self) -> Vec<String> {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let events = self.api.all("events");
        events
            .iter()
            .map(|e| {
                format!(
                    "{} {} {}",
                    text(&e["involvedObject"]["fieldPath"]),
                    text(&e["reason"]),
                    text(&e["message"])
                )
            })
            .collect()
    }
    async fn until_event(&self, wanted: &str) {
        until(wanted, || self.events().iter().any(|e| e.starts_with(wanted)).then_some(())).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn until<T>(what: &str, condition: impl Fn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn container(status: &Value, index: usize) -> &Value {
    &status["status"]["containerStatuses"][index]
}
fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

#[tokio::test]
async fn a_pod_lives_crashes_and_ends() {
    let node = Node::start().await;
    node.create(
        "p",
        json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a", "image": "x:1", "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]}),
    );
    let pod = node.until_pod("ready", "p", is_ready).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.9.8.7");
    assert_eq!(container(&pod, 0)["image"], "x:1");
    let first = node.runtime.running("a").unwrap();
    let config = node.runtime.state.lock().configs[&first.id].clone();
    assert!(config.envs.iter().any(|e| e.key == "IP" && e.value == "10.9.8.7"));
    node.until_event("spec.containers{a} Pulled Container image \"x:1\" already present on machine").await;
    node.until_event("spec.containers{a} Started Container started").await;
    node.until_event(" Starting Starting kubelet.").await;
    node.until_event(" NodeHasSufficientPID Node n1 status is now: NodeHasSufficientPID").await;

    node.runtime.end(&first.id, 1);
    let pod = node.until_pod("restarted", "p", |p| container(p, 0)["restartCount"] == 1 && is_ready(p)).await;
    assert_eq!(container(&pod, 0)["lastState"]["terminated"]["exitCode"], 1);
    node.runtime.end(&node.runtime.running("a").unwrap().id, 2);
    let waits = |p: &Value| container(p, 0)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let pod = node.until_pod("backs off", "p", waits).await;
    let message = container(&pod, 0)["state"]["waiting"]["message"].as_str().unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    assert_eq!(message, format!("back-off 10s restarting failed container=a pod=p_ns({uid})"));
    node.until_event(&format!(
        "spec.containers{{a}} BackOff Back-off restarting failed container a in pod p_ns({uid})"
    ))
    .await;

    node.api.delete("pods", "ns", "p", None);
    until("gone", || node.api.get("pods", "ns", "p").is_none().then_some(())).await;
    let state = node.runtime.state.lock();
    assert!(state.sandboxes.is_empty() && state.containers.is_empty());
    assert!(!node.dir.path().join("kubelet/pods").join(uid).exists());
}

#[tokio::test]
async fn graceful_deletion_takes_hooks_and_the_grace_period() {
    let node = Node::start().await;
    let lifecycle =
        json!({"preStop": {"exec": {"command": ["bye"]}}, "postStart": {"exec": {"command": ["hello"]}}});
    node.create("p", json!({"containers": [{"name": "a", "image": "x:1", "lifecycle": lifecycle}]}));
    node.until_pod("ready", "p", is_ready).await;
    node.api.delete("pods", "ns", "p", Some(9));
    until("gone", || node.api.get("pods", "ns", "p").is_none().then_some(())).await;
    let (execs, stopped) = {
        let state = node.runtime.state.lock();
        (state.execs.clone(), state.stopped.clone())
    };
    assert_eq!(execs, ["hello", "bye"]);
    assert_eq!(stopped.last().unwrap().1, 9);
    node.until_event("spec.containers{a} Killing Stopping container a").await;
}

#[tokio::test]
async fn init_containers_sidecars_and_completion() {
    let node = Node::start().await;
    node.create(
        "p",
        json!({"restartPolicy": "Never",
            "initContainers": [{"name": "i", "image": "x:1"}, {"name": "s", "image": "x:1", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "image": "x:1"}]}),
    );
    let init = until("init runs", || node.runtime.running("i")).await;
    let pod = node
        .until_pod("status", "p", |p| p["status"]["initContainerStatuses"][0]["state"]["running"].is_object())
        .await;
    assert_eq!(container(&pod, 0)["state"]["waiting"]["reason"], "PodInitializing");
    assert!(node.runtime.running("s").is_none() && node.runtime.running("a").is_none());
    node.runtime.end(&init.id, 0);
    node.until_pod("ready", "p", is_ready).await;
    node.runtime.end(&node.runtime.running("a").unwrap().id, 0);
    node.until_pod("succeeded", "p", |p| p["status"]["phase"] == "Succeeded").await;
    until("the sidecar ends", || node.runtime.running("s").is_none().then_some(())).await;
}

#[tokio::test]
async fn probes_decide_readiness_and_restarts() {
    let node = Node::start().await;
    let probe =
        |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
    node.create(
        "r",
        json!({"containers": [{"name": "a", "image": "x:1", "readinessProbe": probe("false")}]}),
    );
    node.create("l", json!({"containers": [{"name": "b", "image": "x:1", "startupProbe": probe("true"), "livenessProbe": probe("false")}]}));
    node.until_event("spec.containers{a} Unhealthy Readiness probe failed: said").await;
    assert!(!is_ready(&node.pod("r")));
    node.until_pod("restarted", "l", |p| container(p, 0)["restartCount"] == 1).await;
    node.until_event("spec.containers{b} Killing Container b failed liveness probe, will be restarted").await;
    assert_eq!(container(&node.pod("r"), 0)["restartCount"], 0);
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let node = Node::start().await;
    node.create(
        "image",
        json!({"imagePullSecrets": [{"name": "one"}, {"name": "two"}],
            "containers": [{"name": "a", "image": "missing:1"}]}),
    );
    node.create("key", json!({"containers": [{"name": "a", "image": "x:1", "env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k"}}}]}]}));
    node.create("volume", json!({"volumes": [{"name": "v", "configMap": {"name": "no"}}], "containers": [{"name": "a", "image": "x:1"}]}));
    node.create(
        "cpu",
        json!({"containers": [{"name": "a", "image": "x:1", "resources": {"requests": {"cpu": "9000"}}}]}),
    );
    let waits =
        |reason: &'static str| move |p: &Value| container(p, 0)["state"]["waiting"]["reason"] == reason;
    node.until_pod("pull error", "image", waits("ErrImagePull")).await;
    node.until_pod("back-off", "image", waits("ImagePullBackOff")).await;
    node.until_event(
        "spec.containers{a} Failed Failed to pull image \"missing:1\": rpc error: code = NotFound desc = no such image",
    ).await;
    let secrets = "Unable to retrieve some image pull secrets (one, two); attempting to pull the image may not succeed.";
    node.until_event(&format!(" FailedToRetrieveImagePullSecret {secrets}")).await;
    let pod = node.until_pod("config error", "key", waits("CreateContainerConfigError")).await;
    assert_eq!(container(&pod, 0)["state"]["waiting"]["message"], "secret \"no\" not found");
    node.until_event(" FailedMount MountVolume.SetUp failed for volume \"v\" : configmap \"no\" not found")
        .await;
    let pod = node.until_pod("refused", "cpu", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    // What was missing appears: both start.
    node.api.put("configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "no", "namespace": "ns"}, "data": {"k": "v"}}));
    node.until_pod("ready", "volume", is_ready).await;
    let uid = node.pod("volume")["metadata"]["uid"].as_str().unwrap().to_owned();
    let file = node.dir.path().join("kubelet/pods").join(uid).join("volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "v");
    for name in ["image", "key", "cpu"] {
        node.api.delete("pods", "ns", name, None);
        until("gone", || node.api.get("pods", "ns", name).is_none().then_some(())).await;
    }
}

#[tokio::test]
async fn a_claim_that_is_being_deleted_is_kept_but_not_begun_with() {
    let mut node = Node::start().await;
    let claim = |name: &str, more: Value| {
        let mut metadata = json!({"name": name, "namespace": "ns", "uid": name});
        metadata.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}})
    };
    let deleted =
        json!({"deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["kubernetes.io/pvc-protection"]});
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "ns"}, "data": {"k": value}});
    node.api.put(
        "persistentvolumes",
        json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "v"}, "spec": {"hostPath": {"path": node.dir.path()}}}),
    );
    node.api.put("persistentvolumeclaims", claim("c", json!({})));
    node.api.put("configmaps", map("one"));
    let spec = json!({"volumes": [
            {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "m", "configMap": {"name": "m"}}],
        "containers": [{"name": "a", "image": "x:1"}]});
    node.create("early", spec.clone());
    let early = node.until_pod("ready", "early", is_ready).await;
    node.api.put("persistentvolumeclaims", claim("c", deleted));
    node.create("late", spec);
    let why = "error processing PVC ns/c: PVC is being deleted";
    node.until_event(&format!(" FailedMount MountVolume.SetUp failed for volume \"v\" : {why}")).await;
    // The pod that has it goes on in every way: its other volumes still follow their sources.
    node.api.put("configmaps", map("two"));
    let uid = early["metadata"]["uid"].as_str().unwrap();
    let file = node.dir.path().join("kubelet/pods").join(uid).join("volumes/kubernetes.io~configmap/m/k");
    until("a change", || (std::fs::read_to_string(&file).ok()? == "two").then_some(())).await;
    assert_eq!(node.runtime.state.lock().containers.len(), 1, "the late pod has none");
    node.stop_kubelet().await;
    let container = node.runtime.running("a").unwrap().id;
    node.runtime.end(&container, 1);
    node.run_kubelet(node.config());
    let again = |p: &Value| p["status"]["containerStatuses"][0]["restartCount"] == 1 && is_ready(p);
    node.until_pod("started anew", "early", again).await;
}

#[tokio::test]
async fn pods_wait_for_the_network() {
    let node = Node::start_with_runtime(|runtime| {
        runtime.state.lock().network = Some("cni plugin not initialized".into());
    })
    .await;
    node.create("p", json!({"containers": [{"name": "a", "image": "x:1"}]}));
    node.create("host", json!({"hostNetwork": true, "containers": [{"name": "h", "image": "x:1"}]}));
    let why = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized";
    node.until_event(&format!(" NetworkNotReady network is not ready: {why}")).await;
    until("a pod on the host's network", || node.runtime.running("h")).await;
    assert!(node.runtime.running("a").is_none());
    let conditions = node.api.get("nodes", "", "n1").unwrap()["status"]["conditions"].clone();
    assert!(conditions.to_string().contains(why), "{conditions}");
    node.runtime.state.lock().network = None;
    node.until_pod("ready", "p", is_ready).await;
    node.until_event(" NodeReady Node n1 status is now: NodeReady").await;
}

#[tokio::test]
async fn a_restarted_kubelet_adopts_what_runs() {
    let mut node = Node::start().await;
    let probe = json!({"exec": {"command": ["true"]}});
    node.create("stays", json!({"containers": [{"name": "a", "image": "x:1", "readinessProbe": probe}]}));
    node.create(
        "goes",
        json!({"terminationGracePeriodSeconds": 3, "containers": [{"name": "b", "image": "x:1"}]}),
    );
    node.until_pod("ready", "stays", is_ready).await;
    node.until_pod("ready", "goes", is_ready).await;
    let before = node.runtime.running("a").unwrap().id;
    node.stop_kubelet().await;
    assert!(node.runtime.running("a").is_some() && node.runtime.running("b").is_some());
    node.api.delete("pods", "ns", "goes", Some(0)); // while nobody looks
    node.run_kubelet(node.config());
    until("the orphan ends", || node.runtime.running("b").is_none().then_some(())).await;
    assert_eq!(node.runtime.state.lock().stopped.last().unwrap().1, 3);
    let after = node.runtime.running("a").unwrap().id;
    assert_eq!(before, after);
    let pod = node.pod("stays");
    assert!(is_ready(&pod), "{:#}", pod["status"]);
    assert_eq!(container(&pod, 0)["restartCount"], 0);
}

#[tokio::test]
async fn static_pods_run_and_are_mirrored() {
    let node = Node::start().await;
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: ns}\nspec:\n  containers:\n  - {name: w, image: 'x:1'}\n";
    let path = node.dir.path().join("manifests/web.yaml");
    std::fs::write(&path, manifest).unwrap();
    let pod = node.until_pod("mirrored", "web-n1", is_ready).await;
    assert!(pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    assert!(node.runtime.running("w").is_some());
    std::fs::remove_file(path).unwrap();
    until("stopped", || node.runtime.running("w").is_none().then_some(())).await;
    until("unmirrored", || node.api.get("pods", "ns", "web-n1").is_none().then_some(())).await;
}

/// A pod as it is marked while its node is not heard of.
fn called_unready(mut pod: Value) -> Value {
    let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
    let ready = conditions.iter_mut().find(|c| c["type"] == "Ready").unwrap();
    ready["status"] = "False".into();
    pod
}

#[tokio::test]
async fn a_pod_called_unready_by_others_is_ready_again() {
    let node = Node::start().await;
    node.create("p", json!({"containers": [{"name": "a", "image": "x:1"}]}));
    let pod = node.until_pod("ready", "p", is_ready).await;
    node.api.put("pods", called_unready(pod));
    node.until_pod("ready again", "p", is_ready).await;
}

#[tokio::test]
async fn sources_are_watched_one_by_one_while_pods_use_them() {
    let node = Node::start().await;
    let map = |name: &str, value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "ns"}, "data": {"k": value}})
    };
    node.api.put("configmaps", map("c", "one"));
    node.api.put(
        "secrets",
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "fixed", "namespace": "ns"},
            "immutable": true, "data": {"k": "eA=="}}),
    );
    let spec = json!({
        "volumes": [
            {"name": "v", "configMap": {"name": "c"}},
            {"name": "late", "configMap": {"name": "late", "optional": true}}],
        "containers": [{"name": "a", "image": "x:1", "env": [
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "fixed", "key": "k"}}}]}]});
    node.create("p", spec.clone());
    node.create("q", spec);
    let p = node.until_pod("ready", "p", is_ready).await;
    node.until_pod("ready", "q", is_ready).await;
    let volumes = node.dir.path().join("kubelet/pods").join(p["metadata"]["uid"].as_str().unwrap());
    let read = |volume: &str| {
        let file = volumes.join("volumes/kubernetes.io~configmap").join(volume).join("k");
        std::fs::read_to_string(file).ok()
    };
    assert_eq!((read("v").as_deref(), read("late")), (Some("one"), None));
    let watched = |resource: &str| {
        let mut names = node.api.watched(resource);
        names.sort();
        names
    };
    until("one watch each", || (watched("configmaps") == ["c", "late"]).then_some(())).await;
    until("none of what cannot change", || watched("secrets").is_empty().then_some(())).await;

    node.api.put("configmaps", map("c", "two"));
    until("a change", || (read("v").as_deref() == Some("two")).then_some(())).await;
    node.api.put("configmaps", map("late", "here"));
    until("a late source", || (read("late").as_deref() == Some("here")).then_some(())).await;
    node.api.delete("configmaps", "ns", "late", None);
    until("a source that left", || read("late").is_none().then_some(())).await;

    node.api.delete("pods", "ns", "p", Some(1));
    until("the first pod to go", || node.api.get("pods", "ns", "p").is_none().then_some(())).await;
    assert_eq!(watched("configmaps"), ["c", "late"], "the other pod still uses them");
    node.api.delete("pods", "ns", "q", Some(1));
    until("no watch without a pod", || watched("configmaps").is_empty().then_some(())).await;
}
