//! PodSchedulingReview through the real API server: who may ask, what is refused, and that the answer
//! is that of the cluster as it is.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use amphipod_api::scheduling_review::Changes;
use amphipod_api::status::Status;
use amphipod_apiserver::seams::{SchedulingExplainer, UserInfo};
use amphipod_apiserver::{ApiServer, Config as ServerConfig};
use amphipod_client::{Client, SharedInformers};
use amphipod_scheduler::Config;
use amphipod_scheduler::Metrics;
use amphipod_scheduler::why::{Explainer, QueueView, Source};
use amphipod_store::EmbeddedStore;
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const REVIEWS: &str = "/apis/scheduling.amphipod.dev/v1alpha1/namespaces/shop/podschedulingreviews";

const DEADLINE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(20);

struct Adapter(Explainer);

#[async_trait]
impl SchedulingExplainer for Adapter {
    async fn explain(&self, pod: &[u8], changes: &Changes) -> Result<Value, Status> {
        Ok(serde_json::to_value(self.0.explain(pod, changes).await?).unwrap())
    }
}

struct Cluster {
    server: Arc<ApiServer>,
    cancel: CancellationToken,
    queue: QueueView,
    explainer: Option<Arc<dyn SchedulingExplainer>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.server.close();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum From {
    Informers,
    Lists,
    Nobody,
}

/// A full node, a cordoned one, and a pod that waits.
async fn start(from: From) -> Cluster {
    let store = Arc::new(EmbeddedStore::memory().unwrap());
    let server = ApiServer::start(ServerConfig::default(), store).await.unwrap();
    let (cancel, queue) = (CancellationToken::new(), QueueView::default());
    let mut cluster = Cluster { server, cancel, queue: queue.clone(), explainer: None };
    let scheduler = cluster.client("system:kube-scheduler", &[]);
    let source = match from {
        From::Lists => Some(Source::Lists(scheduler.clone())),
        From::Informers => {
            Some(Source::Informers(SharedInformers::new(scheduler.clone(), cluster.cancel.clone())))
        }
        From::Nobody => None,
    };
    if let Some(source) = source {
        let queue = (from == From::Informers).then_some(queue);
        let explainer = Explainer::new(scheduler, source, Config::default(), queue);
        let explainer: Arc<dyn SchedulingExplainer> = Arc::new(Adapter(explainer));
        cluster.server.explain_scheduling_by(Arc::downgrade(&explainer));
        cluster.explainer = Some(explainer);
    }
    cluster.fill().await;
    cluster
}

impl Cluster {
    fn client(&self, user: &str, groups: &[&str]) -> Client {
        let groups: Vec<&str> = groups.iter().copied().chain(["system:authenticated"]).collect();
        Client::local(self.server.local_service(UserInfo::new(user, &groups)))
    }
    async fn send(&self, user: &str, method: &str, path: &str, body: &Value) -> Result<Value, (u16, String)> {
        let groups: &[&str] = if user == "admin" { &["system:masters"] } else { &[] };
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(body.to_string().into_bytes()).unwrap();
        match self.client(user, groups).request(request).await {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap()),
            Err(amphipod_client::Error::Api(status)) => Err((status.code, status.message.clone())),
            Err(other) => panic!("{other}"),
        }
    }
    async fn create(&self, path: &str, object: Value) {
        self.send("admin", "POST", path, &object).await.unwrap();
    }
    async fn fill(&self) {
        self.create("/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
        let account = json!({"metadata": {"name": "default"}});
        self.create("/api/v1/namespaces/shop/serviceaccounts", account).await;
        let class = json!({"metadata": {"name": "high"}, "value": 1000});
        self.create("/apis/scheduling.k8s.io/v1/priorityclasses", class).await;
        for (name, cordoned) in [("n1", false), ("n2", true)] {
            self.create("/api/v1/nodes", json!({"metadata": {"name": name}})).await;
            let path = format!("/api/v1/nodes/{name}");
            let room = json!({"cpu": "1", "memory": "1Gi", "pods": "10"});
            let status = json!({"status": {"allocatable": room, "capacity": room}});
            self.send("admin", "PATCH", &format!("{path}/status"), &status).await.unwrap();
            let spec = json!({"spec": {"taints": null, "unschedulable": cordoned}});
            self.send("admin", "PATCH", &path, &spec).await.unwrap();
        }
        let pods = "/api/v1/namespaces/shop/pods";
        self.create(pods, pod("there", "800m", json!({"nodeName": "n1"}))).await;
        self.create(pods, pod("web", "500m", json!({}))).await;
    }
    async fn ask(&self, user: &str, spec: Value) -> Result<Value, (u16, String)> {
        self.send(user, "POST", REVIEWS, &json!({"spec": spec})).await.map(|review| review["status"].clone())
    }
    async fn allow(&self, user: &str, rules: Value) {
        let group = "/apis/rbac.authorization.k8s.io/v1";
        let name = format!("{user}-{}", rules[0]["resources"][0].as_str().unwrap());
        let role = json!({"metadata": {"name": name}, "rules": rules});
        self.create(&format!("{group}/clusterroles"), role).await;
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
        self.create(&format!("{group}/clusterrolebindings"), binding).await;
    }
}

fn pod(name: &str, cpu: &str, extra: Value) -> Value {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [container]}});
    for (key, value) in extra.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[tokio::test]
async fn the_cluster_is_seen_the_same_through_caches_and_lists() {
    let mut answers = Vec::new();
    for from in [From::Informers, From::Lists] {
        let cluster = start(from).await;
        // Caches follow what was written a moment ago.
        let settled = async {
            loop {
                let answer = cluster.ask("admin", json!({"podName": "web"})).await.unwrap();
                if !answer["nearestMiss"]["without"].is_null() {
                    return answer;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        answers.push(tokio::time::timeout(DEADLINE, settled).await.unwrap());
    }
    let queues: Vec<Value> = answers.iter_mut().map(|answer| answer["queue"].take()).collect();
    let unknown = |why: &str| json!({"state": "Unknown", "message": why});
    assert_eq!(
        queues,
        [
            unknown(
                "not seen: the scheduler here has not seen the whole cluster yet, or another instance leads"
            ),
            unknown("not seen from here: the scheduler runs in another process"),
        ]
    );
    assert_eq!(answers[0], answers[1]);
    let answer = &answers[0];
    assert_eq!(
        answer["summary"],
        "shop/web: no node takes it: 1 Insufficient cpu, 1 node(s) were unschedulable"
    );
    assert_eq!(answer["nearestMiss"]["summary"], "n1 would take the pod if 300m more cpu were free");
    assert_eq!(answer["nearestMiss"]["without"]["pods"][0]["name"], "there");
    assert_eq!(
        answer["message"],
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. no new claims to deallocate, \
         preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not \
         helpful for scheduling."
    );
}

#[tokio::test]
async fn questions_that_assume_something() {
    let cluster = start(From::Lists).await;
    let ask =
        async |spec: Value| cluster.ask("admin", spec).await.unwrap()["summary"].as_str().unwrap().to_owned();
    let only = |node: &str, all: &str| {
        format!("shop/web: {node} would be chosen, the only one of {all} nodes that would take it")
    };
    let changed = |changes: Value| json!({"podName": "web", "changes": changes});
    assert_eq!(ask(changed(json!({"requests": {"cpu": "200m"}}))).await, only("n1", "2"));
    assert_eq!(ask(changed(json!({"uncordonNodes": ["n2"]}))).await, only("n2", "2"));
    assert_eq!(ask(changed(json!({"addNodes": [{"count": 1}]}))).await, only("added-1", "3"));
    // A pod that does not exist is one that would be admitted: its class gives it a priority.
    let new = pod("new", "500m", json!({"priorityClassName": "high"}));
    assert_eq!(
        ask(json!({"pod": new})).await,
        "shop/new: no node takes it as things are, but on n1 preempting shop/there would do"
    );
    let placed = ask(json!({"podName": "there"})).await;
    assert_eq!(placed, "shop/there is on n1, the only one of 2 nodes that takes it");
    // Nothing of all that has happened.
    let nodes = cluster.send("admin", "GET", "/api/v1/nodes", &Value::Null).await.unwrap();
    let pods = cluster.send("admin", "GET", "/api/v1/pods", &Value::Null).await.unwrap();
    assert_eq!([&nodes, &pods].map(|list| list["items"].as_array().unwrap().len()), [2, 2]);
}

#[tokio::test]
async fn who_may_not_see_nodes_and_pods_is_told_nothing() {
    let cluster = start(From::Lists).await;
    let spec = || json!({"podName": "web"});
    let refused = async |user: &str| cluster.ask(user, spec()).await.unwrap_err();
    let forbidden = |verb: &str, resource: &str, group: &str, place: &str| {
        let name = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let why =
            format!("User \"eve\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}");
        (403, format!("{name} is forbidden: {why}"))
    };
    let (group, kind) = ("scheduling.amphipod.dev", "podschedulingreviews");
    assert_eq!(refused("eve").await, forbidden("create", kind, group, "in the namespace \"shop\""));
    cluster.allow("eve", json!([{"apiGroups": [group], "resources": [kind], "verbs": ["create"]}])).await;
    assert_eq!(refused("eve").await, forbidden("list", "nodes", "", "at the cluster scope"));
    cluster
        .allow("eve", json!([{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]}]))
        .await;
    assert!(cluster.ask("eve", spec()).await.unwrap()["summary"].is_string());
    let created = cluster.ask("eve", json!({"pod": pod("new", "1", json!({}))})).await.unwrap_err();
    assert_eq!(created, forbidden("create", "pods", "", "in the namespace \"shop\""));
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_said() {
    let cluster = start(From::Lists).await;
    let kind = "PodSchedulingReview.scheduling.amphipod.dev \"\" is invalid: ";
    let cases = [
        (json!({"podName": "none"}), 404, "pods \"none\" not found".to_owned()),
        (json!({}), 422, format!("{kind}spec.podName: Required value: or `pod`: which pod it is about")),
        (
            json!({"podName": "web", "changes": {"removeNodes": ["n9"]}}),
            422,
            format!("{kind}spec.changes.removeNodes[0]: Not found: \"n9\""),
        ),
    ];
    for (spec, code, message) in cases {
        assert_eq!(cluster.ask("admin", spec.clone()).await.unwrap_err(), (code, message), "{spec}");
    }
    let (code, message) = cluster.ask("admin", json!({"podname": "web"})).await.unwrap_err();
    assert!(code == 400 && message.contains("unknown field `podname`"), "{message}");
    let (code, message) =
        cluster.ask("admin", json!({"pod": {"spec": {"containers": []}}})).await.unwrap_err();
    assert!(code == 422 && message.contains("spec.containers: Required value"), "{message}");
    let listed = cluster.send("admin", "GET", REVIEWS, &Value::Null).await.unwrap_err();
    assert_eq!(listed.0, 405);
    let (code, _) = start(From::Nobody).await.ask("admin", json!({"podName": "web"})).await.unwrap_err();
    assert_eq!(code, 503);
}

#[tokio::test]
async fn the_queue_of_a_scheduler_that_decides_here_is_told() {
    let cluster = start(From::Informers).await;
    let client = cluster.client("system:kube-scheduler", &[]);
    let (queue, deciding) = (cluster.queue.clone(), cluster.cancel.child_token());
    let cancel = deciding.clone();
    let scheduler = tokio::spawn(async move {
        let informers = SharedInformers::new(client.clone(), cancel.clone());
        amphipod_scheduler::run(client, &informers, Config::default(), Metrics::default(), queue, cancel)
            .await
    });
    let gates = json!({"schedulingGates": [{"name": "example.com/wait"}]});
    cluster.create("/api/v1/namespaces/shop/pods", pod("gated", "1m", gates)).await;
    let told = async |name: &str, state: &str| {
        let told = async {
            loop {
                let answer = cluster.ask("admin", json!({"podName": name})).await.unwrap();
                if answer["queue"]["state"] == state {
                    return answer;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        tokio::time::timeout(DEADLINE, told).await.unwrap()
    };
    let parked = told("web", "Parked").await;
    let queue = &parked["queue"];
    assert!(queue["attempts"].as_u64() >= Some(1) && queue["until"].is_string(), "{queue}");
    let refusing = queue["refusedBy"].as_array().unwrap().iter().map(|hope| hope["plugin"].as_str().unwrap());
    assert_eq!(refusing.collect::<Vec<_>>(), ["NodeUnschedulable", "NodeResourcesFit"]);
    assert!(parked["waitsFor"].is_null(), "the queue knows better than the condition: {parked}");
    told("gated", "Gated").await;
    // Of pods that do not wait, or do not exist, no queue knows.
    for spec in [json!({"podName": "there"}), json!({"pod": pod("new", "1", json!({}))})] {
        assert!(cluster.ask("admin", spec).await.unwrap()["queue"].is_null());
    }
    deciding.cancel();
    scheduler.await.unwrap().unwrap();
    told("web", "Unknown").await;
}

#[tokio::test]
async fn a_server_does_not_keep_its_explainer_alive() {
    let mut cluster = start(From::Lists).await;
    let server = Arc::downgrade(&cluster.server);
    cluster.explainer.take();
    let (code, _) = cluster.ask("admin", json!({"podName": "web"})).await.unwrap_err();
    assert_eq!(code, 503);
    cluster.server.close();
    drop(cluster);
    let gone = async {
        while server.strong_count() > 0 {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
}
