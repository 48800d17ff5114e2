//! Hollow nodes against the API of this process: what they write, how often, and what becomes of
//! their pods.

use std::time::Duration;

use amphipod_client::SharedInformers;
use amphipod_kubelet::hollow;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::api::MiniApi;
use super::{called_unready, container, is_ready, until};

struct Hollow {
    api: MiniApi,
    cancel: CancellationToken,
    run: Option<JoinHandle<()>>,
}

impl Hollow {
    async fn start(config: &str) -> Self {
        let mut nodes = Hollow { api: MiniApi::new(), cancel: CancellationToken::new(), run: None };
        nodes.run(config).await;
        nodes
    }
    async fn run(&mut self, config: &str) {
        self.cancel = CancellationToken::new();
        let informers = SharedInformers::new(self.api.client(), self.cancel.clone());
        let config = hollow::parse(config, 0, "10.244.0.0/24".parse().unwrap()).unwrap();
        let (sender, registered) = tokio::sync::oneshot::channel();
        let run = hollow::run(config, self.api.client(), informers, sender, self.cancel.clone());
        self.run = Some(tokio::spawn(async move { run.await.unwrap() }));
        registered.await.unwrap();
    }
    async fn stop(&mut self) {
        self.cancel.cancel();
        self.run.take().unwrap().await.unwrap();
    }
    fn create(&self, name: &str, node: &str, spec: Value) {
        let mut whole = json!({"nodeName": node, "containers": [{"name": "a", "image": "x"}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
        let metadata = json!({"name": name, "namespace": "ns", "generation": 1});
        self.api.put("pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}));
    }
    async fn until_pod(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        until(name, || self.api.get("pods", "ns", name).filter(&condition)).await
    }
    async fn until_gone(&self, name: &str) {
        until("gone", || self.api.get("pods", "ns", name).is_none().then_some(())).await;
    }
    /// What was written of a pod, in order: what each status says, and how it went.
    fn history(&self, name: &str) -> Vec<String> {
        let of_pod = |(_, object): &(String, Value)| object["metadata"]["name"] == name;
        let all = self.api.history("pods");
        let told = all.iter().filter(|entry| of_pod(entry)).map(|(kind, object)| {
            let state = container(object, 0)["state"].clone();
            let state = state.as_object().and_then(|s| s.keys().next().cloned()).unwrap_or_default();
            let deleted = if object["metadata"]["deletionTimestamp"].is_null() { "" } else { " terminating" };
            let phase = object["status"]["phase"].as_str().unwrap_or("new");
            format!("{kind} {phase} {state}{deleted}")
        });
        told.collect()
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn waits_for(reason: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| container(pod, 0)["state"]["waiting"]["reason"] == reason
}

#[tokio::test]
async fn nodes_register_as_they_are_described() {
    let config = "nodes: [{count: 2, capacity: {cpu: 4, a.io/gpu: 2}, allocatable: {cpu: 3500m},
        labels: {disk: ssd}, taints: [{key: a, value: b, effect: NoSchedule}], zones: [east, west]},
        {count: 1, namePrefix: plain-}]";
    let mut nodes = Hollow::start(config).await;
    assert_eq!((nodes.api.all("nodes").len(), nodes.api.all("leases").len()), (3, 3));
    let node = nodes.api.get("nodes", "", "hollow-1").unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    let labels = &node["metadata"]["labels"];
    assert_eq!((&labels["disk"], &labels["topology.kubernetes.io/zone"]), (&json!("ssd"), &json!("west")));
    assert_eq!(node["spec"]["taints"], json!([{"key": "a", "value": "b", "effect": "NoSchedule"}]));
    assert_eq!(node["status"]["capacity"]["cpu"], "4");
    assert_eq!(node["status"]["allocatable"]["cpu"], "3500m");
    assert_eq!(node["status"]["allocatable"]["a.io/gpu"], "2");
    let ids = |name| nodes.api.get("nodes", "", name).unwrap()["status"]["nodeInfo"]["systemUUID"].clone();
    assert_ne!(ids("hollow-0"), ids("hollow-1"));
    let lease = nodes.api.get("leases", "kube-node-lease", "plain-0").unwrap();
    assert_eq!(lease["metadata"]["ownerReferences"][0]["name"], "plain-0");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);

    // Another run finds them, and gives them what it says now.
    let before = lease["spec"]["renewTime"].clone();
    nodes.stop().await;
    nodes.run("nodes: [{count: 1, namePrefix: plain-, labels: {disk: hdd}, capacity: {cpu: 1}}]").await;
    let node = nodes.api.get("nodes", "", "plain-0").unwrap();
    assert_eq!(node["metadata"]["labels"]["disk"], "hdd");
    assert_eq!(node["status"]["capacity"]["cpu"], "1");
    let lease = nodes.api.get("leases", "kube-node-lease", "plain-0").unwrap();
    assert_ne!(lease["spec"]["renewTime"], before);
}

#[tokio::test]
async fn a_pod_takes_as_few_writes_as_a_kubelet() {
    let nodes = Hollow::start("nodes: [{count: 1}]").await;
    nodes.create("p", "hollow-0", json!({}));
    nodes.create("q", "elsewhere", json!({}));
    let pod = nodes.until_pod("p", is_ready).await;
    assert_eq!(pod["status"]["podIP"], "10.244.0.2");
    nodes.api.put("pods", called_unready(pod));
    nodes.until_pod("p", is_ready).await;
    nodes.api.delete("pods", "ns", "p", Some(30));
    nodes.until_gone("p").await;
    assert_eq!(
        nodes.history("p"),
        [
            "ADDED new ",
            "MODIFIED Running running",
            "MODIFIED Running running", // someone else's
            "MODIFIED Running running",
            "MODIFIED Running running terminating", // the deletion
            "MODIFIED Succeeded terminated terminating",
            "DELETED Succeeded terminated terminating",
        ]
    );
    assert_eq!(nodes.history("q"), ["ADDED new "]);
    nodes.create("again", "hollow-0", json!({"hostNetwork": true}));
    let pod = nodes.until_pod("again", is_ready).await;
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"]);
    nodes.create("next", "hollow-0", json!({}));
    assert_eq!(nodes.until_pod("next", is_ready).await["status"]["podIP"], "10.244.0.3");
}

#[tokio::test]
async fn latencies_and_failures_show() {
    let config = "events: true
nodes:
- {count: 1, namePrefix: slow-, latencies: {start: 50ms, stop: 50ms}}
- {count: 1, namePrefix: bad-, failures: {imagePull: 1}}
- {count: 1, namePrefix: frail-, failures: {crash: 1, crashAfter: 10ms}}
- {count: 1, namePrefix: works-, latencies: {completion: 10ms}}";
    let nodes = Hollow::start(config).await;
    for (name, spec) in [("slow", json!({})), ("bad", json!({})), ("frail", json!({}))] {
        nodes.create(name, &format!("{name}-0"), spec);
    }
    let owner =
        json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true}]);
    nodes.api.put(
        "pods",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job", "namespace": "ns", "ownerReferences": owner},
            "spec": {"nodeName": "works-0", "restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}),
    );
    nodes.until_pod("slow", is_ready).await;
    assert_eq!(nodes.history("slow"), ["ADDED new ", "MODIFIED Pending waiting", "MODIFIED Running running"]);
    nodes.api.delete("pods", "ns", "slow", Some(30));
    nodes.until_gone("slow").await;
    nodes.until_pod("bad", waits_for("ErrImagePull")).await;
    nodes.until_pod("bad", waits_for("ImagePullBackOff")).await;
    let pod = nodes.until_pod("frail", waits_for("CrashLoopBackOff")).await;
    assert_eq!(container(&pod, 0)["restartCount"], 1);
    assert_eq!(container(&pod, 0)["lastState"]["terminated"]["exitCode"], 1);
    let pod = nodes.until_pod("job", |p| p["status"]["phase"] == "Succeeded").await;
    assert_eq!(container(&pod, 0)["state"]["terminated"]["reason"], "Completed");
    for (name, reason) in [("slow", "Started"), ("slow", "Killing"), ("bad", "Failed"), ("frail", "BackOff")]
    {
        let told = |e: &Value| e["involvedObject"]["name"] == name && e["reason"] == reason;
        let event = until(reason, || nodes.api.all("events").into_iter().find(told)).await;
        assert_eq!(event["source"]["host"], format!("{name}-0"));
    }
}

#[tokio::test]
async fn another_run_goes_on_with_what_is_there() {
    let mut nodes = Hollow::start("nodes: [{count: 1}]").await;
    nodes.create("p", "hollow-0", json!({}));
    let before = nodes.until_pod("p", is_ready).await;
    nodes.stop().await;
    nodes.run("nodes: [{count: 1}]").await;
    nodes.create("q", "hollow-0", json!({}));
    let other = nodes.until_pod("q", is_ready).await;
    assert_ne!(other["status"]["podIP"], before["status"]["podIP"]);
    assert_eq!(nodes.api.get("pods", "ns", "p").unwrap(), before, "it rests");
}

#[tokio::test]
async fn a_silent_node_does_nothing_for_its_pods() {
    let config = "nodes: [{count: 1, outages: {after: 20ms, duration: 1h}}, {count: 1, namePrefix: back-, outages: {after: 20ms, duration: 20ms}}]";
    let nodes = Hollow::start(config).await;
    // Falling silent is not told, of course: it shows in a pod that stays as it was given while others,
    // one after the other, come to life on a node that comes back each time.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    for turn in 0.. {
        nodes.create(&format!("p-{turn}"), "hollow-0", json!({}));
        for name in ["q", "r", "s"].map(|name| format!("{name}-{turn}")) {
            nodes.create(&name, "back-0", json!({}));
            nodes.until_pod(&name, is_ready).await;
        }
        if nodes.api.get("pods", "ns", &format!("p-{turn}")).unwrap()["status"].is_null() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "hollow-0 never fell silent");
    }
}

#[tokio::test]
async fn a_deleted_node_stays_away() {
    // Nodes that come back from one outage after the other tell their status each time.
    let nodes = Hollow::start("nodes: [{count: 2, outages: {after: 5ms, duration: 5ms}}]").await;
    nodes.api.delete("nodes", "", "hollow-0", None);
    let told =
        || nodes.api.history("nodes").iter().filter(|(_, o)| o["metadata"]["name"] == "hollow-1").count();
    let before = told();
    until("the other node is heard of", || (told() > before + 3).then_some(())).await;
    assert!(nodes.api.get("nodes", "", "hollow-0").is_none());
}
