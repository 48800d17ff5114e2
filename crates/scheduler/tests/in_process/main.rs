//! The scheduler with the real API server in this process, under the identity RBAC knows it by.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod books;
mod devices;
mod ending;
mod extender;
mod extender_tls;
mod killed;
mod leaders;
mod nominated;
mod seam;
mod serving;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use amphipod_apiserver::seams::UserInfo;
use amphipod_apiserver::{ApiServer, Config as ServerConfig};
use amphipod_client::{
    Api, CachedPod, Client, DeleteParams, Error, ListParams, Patch, Resource, SharedInformers, Writable,
};
use amphipod_scheduler::why::QueueView;
use amphipod_scheduler::{Config, Metrics};
use amphipod_store::EmbeddedStore;
use k8s_openapi::api::core::v1::{
    Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(20);

struct Cluster {
    client: Client,
    server: Arc<ApiServer>,
    cancel: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.server.close();
    }
}

async fn start() -> Cluster {
    start_with(Config::default()).await
}

async fn start_with(config: Config) -> Cluster {
    let cluster = unscheduled().await;
    let metrics = cluster.schedule(config);
    cluster.server.metrics.also(move || metrics.render());
    cluster
}

/// One that nobody schedules yet.
async fn unscheduled() -> Cluster {
    unscheduled_on(ServerConfig::default()).await
}

async fn unscheduled_on(config: ServerConfig) -> Cluster {
    let store = Arc::new(EmbeddedStore::memory().unwrap());
    let server = ApiServer::start(config, store).await.unwrap();
    let client = Client::local(server.local_service(UserInfo::new("admin", &["system:masters"])));
    let cluster = Cluster { client, server, cancel: CancellationToken::new() };
    cluster.create::<Namespace>("", json!({"metadata": {"name": "ns"}})).await;
    cluster.create::<ServiceAccount>("ns", json!({"metadata": {"name": "default"}})).await;
    cluster.create::<PriorityClass>("", json!({"metadata": {"name": "high"}, "value": 1000})).await;
    cluster
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, probe: impl Fn() -> F) -> T {
    let wait = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(found) => found,
        Err(_) => panic!("never happened: {what}"),
    }
}

/// A scheduler with caches and a queue of its own.
async fn scheduler(
    client: Client,
    config: Config,
    metrics: Metrics,
    run: CancellationToken,
) -> Result<(), Error> {
    let informers = SharedInformers::new(client.clone(), run.clone());
    amphipod_scheduler::run(client, &informers, config, metrics, QueueView::default(), run).await
}

impl Cluster {
    fn schedule(&self, config: Config) -> Metrics {
        let client = Client::local(self.server.local_service(seam::scheduler_user()));
        self.schedule_as(client, config)
    }
    fn schedule_as(&self, client: Client, config: Config) -> Metrics {
        let metrics = Metrics::default();
        let running = scheduler(client, config, metrics.clone(), self.cancel.clone());
        tokio::spawn(async { running.await.unwrap() });
        metrics
    }
    fn api<K: Resource>(&self, namespace: &str) -> Api<K> {
        match namespace {
            "" => Api::all(self.client.clone()),
            namespace => Api::namespaced(self.client.clone(), namespace),
        }
    }
    async fn create<K: Writable>(&self, namespace: &str, object: Value) -> K {
        let object = K::decode(object.to_string().as_bytes()).unwrap();
        self.api::<K>(namespace).create(&object).await.unwrap()
    }
    /// A node of one CPU.
    async fn node(&self, name: &str) {
        self.create::<Node>("", json!({"metadata": {"name": name}})).await;
        let status = json!({"status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"},
            "capacity": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
        self.api::<Node>("").patch_status(name, &Patch::Merge(status)).await.unwrap();
        let taints = Patch::Merge(json!({"spec": {"taints": null}}));
        self.api::<Node>("").patch(name, &taints).await.unwrap();
    }
    async fn pod(&self, name: &str, cpu: &str, extra: Value) {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
        let mut pod =
            json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [container]}});
        for (key, value) in extra.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        self.create::<Pod>("ns", pod).await;
    }
    async fn get(&self, name: &str) -> Option<CachedPod> {
        self.api::<CachedPod>("ns").get_opt(name).await.unwrap()
    }
    async fn bound(&self, name: &str) -> String {
        let node = || async { self.get(name).await?.node_name.map(String::from) };
        eventually(&format!("{name} is bound"), node).await
    }
    async fn condition(&self, name: &str, kind: &str) -> (String, String) {
        let probe = || async {
            let pod = self.get(name).await?;
            let found = pod.condition(kind)?;
            Some((found.reason?.to_owned(), found.message?.to_owned()))
        };
        eventually(&format!("{name} has the condition {kind}"), probe).await
    }
    async fn event(&self, name: &str, reason: &str) -> String {
        let probe = || async {
            let (_, events) = self.api::<Event>("ns").list(&ListParams::default()).await.unwrap();
            let about = |e: &Event| e.involved_object.name.as_deref() == Some(name);
            let found = events.into_iter().find(|e| about(e) && e.reason.as_deref() == Some(reason))?;
            found.message
        };
        eventually(&format!("{name} has the event {reason}"), probe).await
    }
    /// What a kubelet does once a terminating pod has ended.
    async fn finish(&self, name: &str) {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.api::<CachedPod>("ns").delete(name, &now).await.unwrap();
    }
}

#[tokio::test]
async fn a_pod_without_a_node_is_told_why_and_placed_when_one_comes() {
    let cluster = start().await;
    cluster.node("small").await;
    cluster.pod("large", "3", json!({})).await;
    let (reason, message) = cluster.condition("large", "PodScheduled").await;
    let expected = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, \
        preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!((reason.as_str(), message.as_str()), ("Unschedulable", expected));
    assert_eq!(cluster.event("large", "FailedScheduling").await, expected);
    cluster.node("big").await;
    let more = json!({"status": {"allocatable": {"cpu": "4"}, "capacity": {"cpu": "4"}}});
    cluster.api::<Node>("").patch_status("big", &Patch::Merge(more)).await.unwrap();
    assert_eq!(cluster.bound("large").await, "big");
    assert_eq!(cluster.event("large", "Scheduled").await, "Successfully assigned ns/large to big");
}

#[tokio::test]
async fn why_a_pod_was_not_bound_is_told_and_it_is_tried_again() {
    let cluster = unscheduled().await;
    cluster.node("n0").await;
    let service = cluster.server.local_service(seam::scheduler_user());
    let (repair, repaired) = tokio::sync::watch::channel(false);
    // Where there is no such pod the server says so; what it says of another namespace is an error.
    let misled = tower::service_fn(move |mut request: http::Request<_>| {
        if seam::is_binding(&request) && !*repaired.borrow() {
            let path = request.uri().path().replace("/namespaces/ns/", "/namespaces/other/");
            *request.uri_mut() = path.parse().unwrap();
        }
        tower::ServiceExt::oneshot(service.clone(), request)
    });
    cluster.schedule_as(Client::local(misled), Config::default());
    cluster.pod("a", "100m", json!({})).await;
    let why = "running Bind plugin \"DefaultBinder\": ";
    let (reason, message) = cluster.condition("a", "PodScheduled").await;
    assert_eq!(reason, "SchedulerError");
    assert!(message.starts_with(why), "{message}");
    assert!(cluster.event("a", "FailedScheduling").await.starts_with(why));
    repair.send_replace(true);
    assert_eq!(cluster.bound("a").await, "n0");
}

#[tokio::test]
async fn a_gated_pod_waits_for_its_gates() {
    let cluster = start().await;
    cluster.node("n").await;
    cluster.pod("gated", "1m", json!({"schedulingGates": [{"name": "example.com/wait"}]})).await;
    // Another that came later is placed meanwhile.
    cluster.pod("free", "1m", json!({})).await;
    cluster.bound("free").await;
    assert_eq!(cluster.get("gated").await.unwrap().node_name, None);
    let patch = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    cluster.api::<CachedPod>("ns").patch("gated", &patch).await.unwrap();
    assert_eq!(cluster.bound("gated").await, "n");
}

#[tokio::test]
async fn room_is_made_for_what_matters_more_and_for_no_more() {
    let cluster = start().await;
    cluster.node("n").await;
    for name in ["protected", "victim"] {
        cluster.pod(name, "400m", json!({})).await;
        cluster.bound(name).await;
    }
    let selector = json!({"matchLabels": {"app": "protected"}});
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": selector}});
    cluster.create::<PodDisruptionBudget>("ns", budget).await;
    cluster.pod("important", "500m", json!({"priorityClassName": "high"})).await;
    let (reason, message) = cluster.condition("victim", "DisruptionTarget").await;
    assert_eq!(reason, "PreemptionByScheduler");
    assert_eq!(message, "default-scheduler: preempting to accommodate a higher priority pod");
    let terminating = || async { cluster.get("victim").await.filter(CachedPod::is_terminating) };
    eventually("the victim is on its way out", terminating).await;
    let uid = cluster.get("important").await.unwrap().metadata.uid.unwrap();
    assert_eq!(cluster.event("victim", "Preempted").await, format!("Preempted by pod {uid} on node n"));
    let nominated = || async { cluster.get("important").await?.status?.nominated_node_name.clone() };
    assert_eq!(eventually("a node is nominated", nominated).await, "n");
    // What comes later and matters less does not get the room, though it would fit.
    cluster.pod("later", "300m", json!({})).await;
    let (_, message) = cluster.condition("later", "PodScheduled").await;
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu. "), "{message}");
    cluster.finish("victim").await;
    assert_eq!(cluster.bound("important").await, "n");
    let protected = cluster.get("protected").await.unwrap();
    assert!(!protected.is_terminating(), "one victim was enough");
}

#[tokio::test]
async fn a_node_is_filled_to_the_last_and_no_further() {
    let cluster = start().await;
    cluster.node("a").await;
    cluster.node("b").await;
    for index in 0..12 {
        cluster.pod(&format!("p{index}"), "200m", json!({})).await;
    }
    let all_decided = || async {
        let (_, pods) = cluster.api::<CachedPod>("ns").list(&ListParams::default()).await.unwrap();
        let told = |pod: &CachedPod| pod.status.as_ref().is_some_and(|s| s.conditions.is_some());
        let on = |node: &str| pods.iter().filter(|p| p.node_name.as_deref() == Some(node)).count();
        pods.iter().all(|pod| pod.node_name.is_some() || told(pod)).then(|| (on("a"), on("b")))
    };
    assert_eq!(eventually("all are decided", all_decided).await, (5, 5));
}

fn configured(body: &str) -> Config {
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    Config::parse(format!("{head}{body}").as_bytes()).unwrap()
}

#[tokio::test]
async fn pods_choose_a_profile_by_name_and_other_schedulers_pods_are_left_alone() {
    let packing = "
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 100}]}}
  plugins:
    score: {disabled: [{name: NodeResourcesBalancedAllocation}, {name: PodTopologySpread}]}";
    let cluster = start_with(configured(packing)).await;
    cluster.node("empty").await;
    cluster.node("filled").await;
    cluster.pod("first", "300m", json!({"nodeSelector": {"kubernetes.io/hostname": "none"}})).await;
    cluster.condition("first", "PodScheduled").await;
    let labels = Patch::Merge(json!({"metadata": {"labels": {"kubernetes.io/hostname": "none"}}}));
    cluster.api::<Node>("").patch("filled", &labels).await.unwrap();
    assert_eq!(cluster.bound("first").await, "filled");

    cluster.pod("elsewhere", "10m", json!({"schedulerName": "second"})).await;
    cluster.pod("packed", "10m", json!({"schedulerName": "packing"})).await;
    cluster.pod("spread", "10m", json!({})).await;
    assert_eq!(
        (cluster.bound("packed").await.as_str(), cluster.bound("spread").await.as_str()),
        ("filled", "empty")
    );
    cluster.event("packed", "Scheduled").await;
    let (_, events) = cluster.api::<Event>("ns").list(&ListParams::default()).await.unwrap();
    let told = events.iter().find(|event| event.involved_object.name.as_deref() == Some("packed"));
    assert_eq!(told.unwrap().reporting_component.as_deref(), Some("packing"));
    assert_eq!(cluster.get("elsewhere").await.unwrap().node_name, None);
    cluster.schedule(configured("profiles: [{schedulerName: second}]"));
    cluster.bound("elsewhere").await;
    let counted = || async {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = cluster.client.request(request).await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(
            text.contains("apiserver_request_total") && !text.contains("# EOF"),
            "the server's own are there"
        );
        let has = |line: &str| text.lines().any(|found| found == line);
        let counts = has("scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"packing\"} 1")
            && has("scheduler_pending_pods{queue=\"active\"} 0")
            && has("scheduler_cache_size{type=\"nodes\"} 2")
            && has("scheduler_cache_size{type=\"pods\"} 4");
        counts.then_some(())
    };
    eventually("attempts are counted", counted).await;
}

#[tokio::test]
async fn extenders_filter_prioritize_and_bind_the_pods_they_are_interested_in() {
    let server = extender::Server::start().await;
    let cluster = start_with(configured(&format!(
        "
extenders:
- urlPrefix: {url}/api/
  filterVerb: filter
  prioritizeVerb: prioritize
  bindVerb: bind
  weight: 5
  nodeCacheCapable: true
  managedResources: [{{name: example.com/device, ignoredByScheduler: true}}]
- {{urlPrefix: http://127.0.0.1:1, filterVerb: filter, ignorable: true}}",
        url = server.url
    )))
    .await;
    for name in ["a", "b", "c"] {
        cluster.node(name).await;
    }
    cluster.pod("plain", "10m", json!({})).await;
    cluster.bound("plain").await;
    assert_eq!(server.asked(), Vec::<String>::new(), "pods it is not interested in are not its business");

    let device = |name: &str| {
        let resources =
            json!({"requests": {"example.com/device": "1"}, "limits": {"example.com/device": "1"}});
        json!({"containers": [{"name": name, "image": "i", "resources": resources}]})
    };
    server.answer("filter", json!({"NodeNames": ["a", "c"], "FailedNodes": {"b": "no device"}}));
    server.answer("prioritize", json!([{"Host": "a", "Score": 1}, {"Host": "c", "Score": 10}]));
    server.answer("bind", json!({"Error": ""}));
    cluster.pod("wanting", "10m", device("wanting")).await;
    let asked = || async { server.question("bind") };
    let binding = eventually("the extender is asked to bind", asked).await;
    assert_eq!(
        (&binding["PodName"], &binding["PodNamespace"], &binding["Node"]),
        (&json!("wanting"), &json!("ns"), &json!("c"))
    );
    let question = server.question("filter").unwrap();
    assert_eq!(question["NodeNames"], json!(["a", "b", "c"]));
    assert_eq!(question["Pod"]["metadata"]["name"], "wanting");
    assert_eq!(cluster.event("wanting", "Scheduled").await, "Successfully assigned ns/wanting to c");

    server.answer(
        "filter",
        json!({"NodeNames": [], "FailedNodes": {"a": "no device", "b": "no device", "c": "broken"}}),
    );
    cluster.pod("refused", "10m", device("refused")).await;
    let (reason, message) = cluster.condition("refused", "PodScheduled").await;
    assert_eq!(reason, "Unschedulable");
    assert!(message.starts_with("0/3 nodes are available: 1 broken, 2 no device. "), "{message}");

    server.answer("filter", json!({"Error": "out of order"}));
    cluster.pod("failed", "10m", device("failed")).await;
    let expected = ("SchedulerError".to_owned(), "out of order".to_owned());
    assert_eq!(cluster.condition("failed", "PodScheduled").await, expected);
}

#[tokio::test]
async fn extenders_have_a_say_where_room_is_made() {
    let server = extender::Server::start().await;
    let cluster = start_with(configured(&format!(
        "extenders: [{{urlPrefix: {}/api, preemptVerb: preempt}}]",
        server.url
    )))
    .await;
    let mut uids = Vec::new();
    for name in ["a", "b"] {
        cluster.node(name).await;
        let there = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}});
        let victim = format!("on-{name}");
        cluster.pod(&victim, "800m", there).await;
        assert_eq!(cluster.bound(&victim).await, name);
        uids.push(cluster.get(&victim).await.unwrap().metadata.uid.unwrap());
    }
    // The later victim on b would have been taken.
    server.answer("preempt", json!({"NodeNameToMetaVictims": {"a": {"Pods": [{"UID": uids[0]}]}}}));
    cluster.pod("important", "500m", json!({"priorityClassName": "high"})).await;
    cluster.condition("on-a", "DisruptionTarget").await;
    let nominated = || async { cluster.get("important").await?.status?.nominated_node_name.clone() };
    assert_eq!(eventually("a node is nominated", nominated).await, "a");
    let question = server.question("preempt").unwrap();
    assert_eq!(question["NodeNameToVictims"]["b"]["Pods"][0]["metadata"]["uid"], uids[1].as_str());
    assert!(!cluster.get("on-b").await.unwrap().is_terminating());

    server.answer("preempt", json!({"NodeNameToMetaVictims": {}}));
    cluster.pod("vetoed", "900m", json!({"priorityClassName": "high"})).await;
    let (_, message) = cluster.condition("vetoed", "PodScheduled").await;
    assert!(
        message.ends_with("no new claims to deallocate, preemption: no candidate node for preemption"),
        "{message}"
    );
}

#[tokio::test]
async fn extenders_name_the_victims() {
    let server = extender::Server::start().await;
    let cluster = start_with(configured(&format!(
        "extenders: [{{urlPrefix: {}/api, preemptVerb: preempt, nodeCacheCapable: true}}]",
        server.url
    )))
    .await;
    cluster.create::<PriorityClass>("", json!({"metadata": {"name": "mid"}, "value": 10})).await;
    cluster.node("n").await;
    let mut uids = Vec::new();
    for (name, extra) in [("lesser", json!({})), ("better", json!({"priorityClassName": "mid"}))] {
        cluster.pod(name, "400m", extra).await;
        cluster.bound(name).await;
        uids.push(cluster.get(name).await.unwrap().metadata.uid.unwrap());
    }
    let names = |uid: &str| json!({"NodeNameToMetaVictims": {"n": {"Pods": [{"UID": uid}]}}});
    server.answer("preempt", names("nobody"));
    cluster.pod("misled", "500m", json!({"priorityClassName": "high"})).await;
    let (_, message) = cluster.condition("misled", "PodScheduled").await;
    let expected = format!(
        "preemption: extender: {}/api claims to preempt pod (UID: nobody) on node: n, but the pod is not found on that \
         node",
        server.url
    );
    assert!(message.ends_with(&expected), "{message}");
    cluster.finish("misled").await;

    server.answer("preempt", names(&uids[1]));
    cluster.pod("important", "500m", json!({"priorityClassName": "high"})).await;
    cluster.condition("better", "DisruptionTarget").await;
    let nominated = || async { cluster.get("important").await?.status?.nominated_node_name.clone() };
    assert_eq!(eventually("a node is nominated", nominated).await, "n");
    // The scheduler itself would have taken the one that matters less.
    let ours = server.question("preempt").unwrap()["NodeNameToMetaVictims"]["n"]["Pods"].clone();
    assert_eq!(ours, json!([{"UID": uids[0]}]));
    assert!(!cluster.get("lesser").await.unwrap().is_terminating());
}

/// Plays the controller that binds claims to volumes.
async fn bind_claim(cluster: &Cluster, claim: &str, volume: &str) {
    let annotations = json!({"pv.kubernetes.io/bind-completed": "yes"});
    let patch = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume}});
    cluster.api::<PersistentVolumeClaim>("ns").patch(claim, &Patch::Merge(patch)).await.unwrap();
}
async fn late_claim(cluster: &Cluster, provisioner: &str) -> Value {
    let class = json!({"metadata": {"name": "late"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.create::<StorageClass>("", class).await;
    let spec = json!({"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    cluster.create::<PersistentVolumeClaim>("ns", json!({"metadata": {"name": "data"}, "spec": spec})).await;
    json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]})
}

#[tokio::test]
async fn a_claim_gets_a_free_volume_where_its_pod_goes() {
    let cluster = start().await;
    cluster.node("a").await;
    cluster.node("b").await;
    let labels = Patch::Merge(json!({"metadata": {"labels": {"disk": "here"}}}));
    cluster.api::<Node>("").patch("b", &labels).await.unwrap();
    let with_data = late_claim(&cluster, "kubernetes.io/no-provisioner").await;
    cluster.pod("p", "1m", with_data).await;
    let (_, message) = cluster.condition("p", "PodScheduled").await;
    let expected = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. ";
    assert!(message.starts_with(expected), "{message}");
    let term = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["here"]}]});
    let volume = json!({"metadata": {"name": "v"}, "spec": {"storageClassName": "late", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "local": {"path": "/v"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}});
    cluster.create::<PersistentVolume>("", volume).await;
    let available = Patch::Merge(json!({"status": {"phase": "Available"}}));
    let volumes = cluster.api::<PersistentVolume>("");
    volumes.patch_status("v", &available).await.unwrap();
    let kept = || async { volumes.get("v").await.unwrap().spec?.claim_ref?.name };
    assert_eq!(eventually("the volume is kept for the claim", kept).await, "data");
    assert_eq!(cluster.get("p").await.unwrap().node_name, None, "it waits until the claim is bound");
    bind_claim(&cluster, "data", "v").await;
    assert_eq!(cluster.bound("p").await, "b");
}

#[tokio::test]
async fn a_volume_is_asked_for_where_its_pod_goes_and_again_if_that_failed() {
    let cluster = start().await;
    cluster.node("a").await;
    let with_data = late_claim(&cluster, "csi.example.com").await;
    cluster.pod("p", "1m", with_data).await;
    // Others do not wait meanwhile.
    cluster.pod("other", "1m", json!({})).await;
    cluster.bound("other").await;
    let claims = cluster.api::<PersistentVolumeClaim>("ns");
    let selected = || async {
        let annotations = claims.get("data").await.unwrap().metadata.annotations?;
        annotations.get("volume.kubernetes.io/selected-node").cloned()
    };
    assert_eq!(eventually("a node is selected", selected).await, "a");
    // A provisioner that could not make the volume takes the node away.
    let failed =
        Patch::Merge(json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": null}}}));
    claims.patch("data", &failed).await.unwrap();
    let message = cluster.event("p", "FailedScheduling").await;
    assert_eq!(
        message,
        "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"data\""
    );
    assert_eq!(eventually("a node is selected again", selected).await, "a");
    let reference = json!({"kind": "PersistentVolumeClaim", "namespace": "ns", "name": "data", "uid": claims.get("data").await.unwrap().metadata.uid});
    let volume = json!({"metadata": {"name": "made"}, "spec": {"storageClassName": "late", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "csi.example.com", "volumeHandle": "h"}, "claimRef": reference}});
    cluster.create::<PersistentVolume>("", volume).await;
    bind_claim(&cluster, "data", "made").await;
    assert_eq!(cluster.bound("p").await, "a");
}

#[tokio::test]
async fn an_extender_binds_once_the_claims_are_bound() {
    let server = extender::Server::start().await;
    let cluster = start_with(configured(&format!(
        "extenders: [{{urlPrefix: {}/api, filterVerb: filter, bindVerb: bind, nodeCacheCapable: true}}]",
        server.url
    )))
    .await;
    cluster.node("a").await;
    server.answer("filter", json!({"NodeNames": ["a"]}));
    server.answer("bind", json!({"Error": ""}));
    let claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}]});
    cluster.pod("without", "1m", claim).await;
    let (_, message) = cluster.condition("without", "PodScheduled").await;
    assert!(message.contains("persistentvolumeclaim \"none\" not found"), "{message}");
    assert_eq!(server.asked(), Vec::<String>::new(), "no node will do: there is nothing to ask about");

    let with_data = late_claim(&cluster, "csi.example.com").await;
    cluster.pod("p", "1m", with_data).await;
    let claims = cluster.api::<PersistentVolumeClaim>("ns");
    let selected = || async { claims.get("data").await.unwrap().metadata.annotations };
    eventually("a node is selected", selected).await;
    assert_eq!(server.asked(), ["filter"], "it waits until the claim is bound");
    let uid = claims.get("data").await.unwrap().metadata.uid;
    let reference = json!({"kind": "PersistentVolumeClaim", "namespace": "ns", "name": "data", "uid": uid});
    let volume = json!({"metadata": {"name": "made"}, "spec": {"storageClassName": "late", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "csi.example.com", "volumeHandle": "h"}, "claimRef": reference}});
    cluster.create::<PersistentVolume>("", volume).await;
    bind_claim(&cluster, "data", "made").await;
    let asked = || async { server.question("bind") };
    let binding = eventually("the extender is asked to bind", asked).await;
    assert_eq!((&binding["PodName"], &binding["Node"]), (&json!("p"), &json!("a")));
}
