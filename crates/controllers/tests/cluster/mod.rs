//! A cluster without nodes: the real API server in this process, all controllers, and a stand-in
//! for the kubelets that reports what a healthy node would.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use amphipod_apiserver::seams::UserInfo;
use amphipod_apiserver::{ApiServer, Config as ServerConfig};
use amphipod_client::{
    Api, CachedPod, Client, DeleteParams, Metrics, Patch, Resource, SharedInformers, Writable,
};
use amphipod_controllers::{Config, Context};
use amphipod_store::EmbeddedStore;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(20);

pub struct Cluster {
    pub client: Client,
    server: Arc<ApiServer>,
    cancel: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.server.close();
    }
}

/// An image that cannot be pulled: its pods stay pending.
const NO_IMAGE: &str = "foo:non-existent";

/// What shall become of a pod: its label `fate`; `ready` without one.
fn fate(pod: &CachedPod) -> &str {
    let image = pod.spec.iter().flat_map(|spec| &spec.containers).find_map(|c| c.image.as_deref());
    if image == Some(NO_IMAGE) {
        return "stuck";
    }
    pod.metadata.labels.as_ref().and_then(|l| l.get("fate")).map_or("ready", String::as_str)
}

/// How the stand-in kubelet treats a pod as it was seen: where it has changed since, or another has its
/// name, the write is refused, and the change is seen in its turn.
async fn play(client: Client, pod: Arc<CachedPod>, number: usize) {
    let api = Api::<CachedPod>::of(client, pod.as_ref());
    let say = async |status: Value| {
        let seen = json!({"resourceVersion": pod.resource_version()});
        let _ = api
            .patch_status(pod.name(), &Patch::Strategic(json!({"metadata": seen, "status": status})))
            .await;
    };
    if pod.is_terminating() {
        // What runs ends before it goes.
        if pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running")) {
            return say(json!({"phase": "Failed"})).await;
        }
        let uid = Some(pod.uid().to_owned());
        let now = DeleteParams { grace_period_seconds: Some(0), uid, ..DeleteParams::default() };
        let _ = api.delete(pod.name(), &now).await;
        return;
    }
    if pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|phase| phase != "Pending") {
        return;
    }
    let ip = format!("10.244.{}.{}", number / 250, number % 250 + 1);
    let condition = |status: &str| {
        json!([{"type": "Ready", "status": status,
        "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    };
    let status = match fate(&pod) {
        "stuck" => return,
        "succeed" => json!({"phase": "Succeeded", "conditions": condition("False")}),
        "fail" => json!({"phase": "Failed", "conditions": condition("False")}),
        _ => {
            json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": condition("True")})
        }
    };
    say(status).await;
}

fn play_kubelet(client: &Client, informers: &SharedInformers) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Arc<CachedPod>>();
    informers.get::<CachedPod>().on_change(move |change| {
        if !matches!(change, amphipod_client::Change::Deleted(_)) {
            let _ = sender.send(change.object().clone());
        }
    });
    let client = client.clone();
    tokio::spawn(async move {
        let mut number = 0;
        while let Some(pod) = receiver.recv().await {
            number += 1;
            tokio::spawn(play(client.clone(), pod, number));
        }
    });
}

pub async fn start() -> Cluster {
    start_with(Config::new("-----BEGIN CERTIFICATE-----\n")).await
}

pub async fn start_with(config: Config) -> Cluster {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .try_init();
    let store = Arc::new(EmbeddedStore::memory().unwrap());
    // A documentation address: nobody connects, but loopback is no valid endpoint.
    let serving = ServerConfig { advertise_address: [192, 0, 2, 1].into(), ..ServerConfig::default() };
    let server = ApiServer::start(serving, store).await.unwrap();
    let cancel = CancellationToken::new();
    let client = Client::local(server.local_service(UserInfo::new("admin", &["system:masters"])));
    let informers = SharedInformers::new(client.clone(), cancel.clone());
    play_kubelet(&client, &informers);
    let (host, metrics) = (server.clone(), Metrics::default());
    let shown = metrics.clone();
    server.metrics.also(move || shown.render());
    let client_for = Arc::new(move |name: &str| {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
        let user = UserInfo::new(&format!("system:serviceaccount:kube-system:{name}"), &groups);
        Client::local(host.local_service(user)).counted(&metrics)
    });
    let context = Context { client_for, informers, config };
    tokio::spawn(amphipod_controllers::run(context, cancel.clone()));
    Cluster { client, server, cancel }
}

/// Waits until `probe` gives something.
pub async fn eventually<T, F, Fut>(what: &str, probe: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Option<T>>,
{
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

impl Cluster {
    pub fn api<K: Resource>(&self, namespace: &str) -> Api<K> {
        if K::NAMESPACED {
            Api::namespaced(self.client.clone(), namespace)
        } else {
            Api::all(self.client.clone())
        }
    }

    pub async fn create<K: Writable>(&self, namespace: &str, json: Value) -> K {
        let object = K::decode(json.to_string().as_bytes()).unwrap();
        self.api::<K>(namespace).create(&object).await.unwrap()
    }

    /// A namespace whose pods can be created.
    pub async fn namespace(&self, name: &str) {
        self.create::<Namespace>(
            "",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await;
        let accounts = self.api::<ServiceAccount>(name);
        eventually("default service account", || async { accounts.get_opt("default").await.unwrap() }).await;
    }

    /// Waits until the object is there and fits.
    pub async fn until<K: Resource>(
        &self,
        what: &str,
        namespace: &str,
        name: &str,
        fits: impl Fn(&K) -> bool,
    ) -> K {
        let api = self.api::<K>(namespace);
        eventually(what, || async { api.get_opt(name).await.unwrap().filter(|object| fits(object)) }).await
    }

    pub async fn until_gone<K: Resource>(&self, namespace: &str, name: &str) {
        let api = self.api::<K>(namespace);
        let what = format!("{} {name} gone", K::KIND);
        eventually(&what, || async { api.get_opt(name).await.unwrap().is_none().then_some(()) }).await;
    }
}
