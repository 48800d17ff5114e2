//! The same against the real API server, in process, with a node's own identity: its defaulting,
//! validation, authorization and patching must suit what the kubelet writes.

use std::sync::Arc;

use amphipod_apiserver::{ApiServer, UserInfo};
use amphipod_client::{Api, Client, DeleteParams, Resource, Writable};
use amphipod_store::{EmbeddedStore, Store};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node as NodeObject, Pod, ServiceAccount};

use super::*;

struct Cluster {
    dir: tempfile::TempDir,
    server: Arc<ApiServer>,
    runtime: MindRuntime,
    cancel: CancellationToken,
}

fn decode<T: Resource>(value: &Value) -> T {
    T::decode(value.to_string().as_bytes()).unwrap()
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&dir.path().join("store"), Default::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let config = amphipod_apiserver::Config { service_account_key_pem: Some(key), ..Default::default() };
        let server = ApiServer::start(config, store).await.unwrap();
        let runtime = MindRuntime::serve(&dir.path().join("cri.sock"));
        let cluster = Cluster { dir, server, runtime, cancel: CancellationToken::new() };
        let endpoint = format!("unix://{}", cluster.dir.path().join("cri.sock").display());
        let mut config = Config::new("n1", "127.0.0.1".parse().unwrap(), &endpoint);
        config.root_dir = cluster.dir.path().join("kubelet");
        config.pod_logs_dir = cluster.dir.path().join("logs");
        config.listen = None;
        config.cgroups = CgroupConfig { enabled: false, ..config.cgroups };
        let informers = SharedInformers::new(cluster.admin(), cluster.cancel.clone());
        let client = cluster.client("system:node:n1", &["system:nodes", "system:authenticated"]);
        let run = amphipod_kubelet::run(config, client, informers, cluster.cancel.clone());
        tokio::spawn(async move { run.await.unwrap() });
        cluster
    }
    fn client(&self, user: &str, groups: &[&str]) -> Client {
        Client::local(self.server.local_service(UserInfo::new(user, groups)))
    }
    fn admin(&self) -> Client {
        self.client("admin", &["system:masters", "system:authenticated"])
    }
    async fn until_pod(&self, what: &str, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let pod = Api::<Pod>::namespaced(self.admin(), "ns").get_opt(name).await.unwrap();
            let pod = pod.map_or(Value::Null, |p| serde_json::from_slice(&p.encode()).unwrap());
            if condition(&pod) {
                return pod;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {:#}", pod["status"]);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_server_agrees() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    Api::<Namespace>::all(admin.clone()).create(&decode(&json!({"metadata": {"name": "ns"}}))).await.unwrap();
    Api::<ServiceAccount>::namespaced(admin.clone(), "ns")
        .create(&decode(&json!({"metadata": {"name": "default"}})))
        .await
        .unwrap();
    Api::<ConfigMap>::namespaced(admin.clone(), "ns")
        .create(&decode(&json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "x"}})))
        .await
        .unwrap();
    let nodes = Api::<NodeObject>::all(admin.clone());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while nodes.get_opt("n1").await.unwrap().is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the node does not register");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pods = Api::<Pod>::namespaced(admin.clone(), "ns");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "a", "image": "x:1"}]}});
    let began = tokio::time::Instant::now();
    pods.create(&decode(&pod)).await.unwrap();
    let pod = cluster.until_pod("ready", "p", is_ready).await;
    println!("create to Ready: {:?}", began.elapsed());
    assert_eq!(pod["status"]["phase"], "Running");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let volumes = cluster.dir.path().join("kubelet/pods").join(uid).join("volumes/kubernetes.io~projected");
    let token = std::fs::read_dir(volumes).unwrap().next().unwrap().unwrap().path().join("token");
    assert_eq!(std::fs::read_to_string(token).unwrap().split('.').count(), 3);
    let id = cluster.runtime.running("a").unwrap().id;
    cluster.runtime.end(&id, 1);
    cluster.until_pod("restarted", "p", |p| container(p, 0)["restartCount"] == 1 && is_ready(p)).await;
    let grace = DeleteParams::default();
    pods.delete("p", &grace).await.unwrap();
    cluster.until_pod("gone", "p", Value::is_null).await;
    assert_eq!(cluster.runtime.state.lock().stopped.last().unwrap().1, 5);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (_, events) =
            Api::<Event>::namespaced(admin.clone(), "ns").list(&Default::default()).await.unwrap();
        let reasons: Vec<String> = events.iter().filter_map(|e| e.reason.clone()).collect();
        if ["Pulled", "Created", "Started", "Killing"].iter().all(|r| reasons.iter().any(|s| s == r)) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{reasons:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
