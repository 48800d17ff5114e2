//! Wiring shared by the roles: identities, clients on the in-process server, the objects a cluster
//! starts with, and what is reported of its health.

use std::path::Path;
use std::sync::Arc;

use amphipod_api::scheduling_review::Changes;
use amphipod_api::status::Status;
use amphipod_apiserver::seams::SchedulingExplainer;
use amphipod_apiserver::{ApiServer, UserInfo};
use amphipod_client::{Client, Metrics, SharedInformers};
use amphipod_cluster::Files;
use amphipod_scheduler::why;
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub const DNS_USER: &str = "system:amphipod:dns";
const INFORMERS_USER: &str = "system:amphipod:informers";

/// Any failure that ends a command; printed once, by `main`.
#[derive(Debug)]
pub struct Failure(String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}
impl Failure {
    pub fn new(text: impl Into<String>) -> Self {
        Failure(text.into())
    }
}

/// What components are called; upstream, too, where they are there.
const OWN: &str = "amphipod";
pub const SCHEDULER: &str = "kube-scheduler";
pub const CONTROLLERS: &str = "kube-controller-manager";
pub const KUBELET: &str = "kubelet";
pub const PROXY: &str = "kube-proxy";
pub const DNS: &str = "amphipod-dns";

/// Clients of a server in this process, one identity each.
#[derive(Clone)]
pub struct Local(pub Arc<ApiServer>, Metrics);

impl Local {
    /// What the clients do, and those who work with them, is shown with the server's series.
    pub fn new(server: Arc<ApiServer>) -> Self {
        let metrics = Metrics::default();
        let shown = metrics.clone();
        server.metrics.also(move || shown.render());
        Local(server, metrics)
    }
    /// For a component, under the name it has upstream: it stands in the managedFields of what it writes.
    pub fn client(&self, component: &str, user: &str, groups: &[&str]) -> Client {
        let mut groups = groups.to_vec();
        groups.push("system:authenticated");
        let service = self.0.local_service(UserInfo::new(user, &groups));
        Client::local(service).counted(&self.1).called(component)
    }
    pub fn admin(&self) -> Client {
        self.client(OWN, "kubernetes-admin", &["system:masters"])
    }
    pub fn scheduler(&self) -> Client {
        self.client(SCHEDULER, "system:kube-scheduler", &[])
    }
    /// Has the server explain scheduling, with the scheduler's own eyes, for as long as what is returned
    /// lives. `queue`: that of the scheduler of this process.
    pub fn explain_scheduling(
        &self,
        config: amphipod_scheduler::Config,
        source: impl FnOnce(&Client) -> why::Source,
        queue: Option<why::QueueView>,
    ) -> Arc<dyn SchedulingExplainer> {
        let client = self.scheduler();
        let source = source(&client);
        let explainer: Arc<dyn SchedulingExplainer> =
            Arc::new(Why(why::Explainer::new(client, source, config, queue)));
        self.0.explain_scheduling_by(Arc::downgrade(&explainer));
        explainer
    }
    /// A controller's own service account, as kube-controller-manager uses them.
    pub fn controller(&self, name: &str) -> Client {
        let user = format!("system:serviceaccount:kube-system:{name}");
        self.client(CONTROLLERS, &user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
    }
    /// The informers every component of this process shares: read-only, but of everything.
    pub fn informers(&self, cancel: CancellationToken) -> SharedInformers {
        SharedInformers::new(self.client(OWN, INFORMERS_USER, &[]), cancel)
    }
}

/// The scheduler's explainer behind the API server's seam.
struct Why(why::Explainer);

#[async_trait]
impl SchedulingExplainer for Why {
    async fn explain(&self, pod: &[u8], changes: &Changes) -> Result<Value, Status> {
        let report = self.0.explain(pod, changes).await?;
        serde_json::to_value(report).map_err(Status::internal)
    }
}

/// Rights of the identities only Amphipod has. Upstream's own come with the API server.
fn rights() -> Vec<(&'static str, Value, &'static str)> {
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]);
    let dns = json!([
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "endpoints"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "create", "update", "patch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
         "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"]},
    ]);
    vec![("system:amphipod:informers", all, INFORMERS_USER), ("system:amphipod:dns", dns, DNS_USER)]
}

/// A controller manager of its own acts as each controller's service account.
fn controller_manager_rights() -> [(String, Value); 2] {
    let (group, name) = ("rbac.authorization.k8s.io", "system:amphipod:controllers");
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Role",
        "metadata": {"name": name, "namespace": "kube-system"},
        "rules": [{"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]}],
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": "kube-system"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "system:kube-controller-manager"}],
    });
    let base = format!("/apis/{group}/v1/namespaces/kube-system");
    [(format!("{base}/roles/{name}"), role), (format!("{base}/rolebindings/{name}"), binding)]
}

/// Applies them; running again changes nothing.
pub async fn grant_rights(admin: &Client) -> Result<(), Failure> {
    for (uri, object) in controller_manager_rights() {
        let uri = format!("{uri}?fieldManager=amphipod&force=true");
        admin.request(http_request("PATCH", &uri, Some(("application/apply-patch+yaml", &object)))?).await?;
    }
    for (name, rules, user) in rights() {
        let group = "rbac.authorization.k8s.io";
        let role = json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules,
        });
        let binding = json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        });
        for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
            let uri = format!("/apis/{group}/v1/{plural}/{name}?fieldManager=amphipod&force=true");
            let request = http_request("PATCH", &uri, Some(("application/apply-patch+yaml", &object)))?;
            admin.request(request).await?;
        }
    }
    Ok(())
}

pub fn http_request(
    method: &str,
    uri: &str,
    body: Option<(&str, &Value)>,
) -> Result<http::Request<Vec<u8>>, Failure> {
    let builder = http::Request::builder().method(method).uri(uri).header("accept", "application/json");
    Ok(match body {
        Some((content_type, value)) => {
            builder.header("content-type", content_type).body(value.to_string().into_bytes())?
        }
        None => builder.body(Vec::new())?,
    })
}

async fn get(client: &Client, uri: &str) -> Result<Value, Failure> {
    let bytes = client.request(http_request("GET", uri, None)?).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Whether a node of this name is Ready and has said so since then: what an earlier run stored
/// does not count.
pub async fn node_is_ready(client: &Client, name: &str, since: jiff::Timestamp) -> bool {
    let Ok(node) = get(client, &format!("/api/v1/nodes/{name}")).await else { return false };
    condition(&node, "Ready") == "True"
        && heartbeat(&node).is_some_and(|at| at.as_second() >= since.as_second())
}

/// What the node says its container runtime's network lacks.
pub async fn network_problem(client: &Client, name: &str) -> Option<String> {
    let node = get(client, &format!("/api/v1/nodes/{name}")).await.ok()?;
    let conditions = node.pointer("/status/conditions")?.as_array()?;
    let ready = conditions.iter().find(|c| c["type"] == "Ready" && c["status"] == "False")?;
    let message = ready["message"].as_str()?;
    message.contains("network not ready").then(|| message.to_owned())
}

fn heartbeat(node: &Value) -> Option<jiff::Timestamp> {
    let conditions = node.pointer("/status/conditions")?.as_array()?;
    let ready = conditions.iter().find(|c| c["type"] == "Ready")?;
    ready["lastHeartbeatTime"].as_str()?.parse().ok()
}

fn condition<'a>(object: &'a Value, name: &str) -> &'a str {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|c| c["type"] == name);
    found.and_then(|c| c["status"].as_str()).unwrap_or("Unknown")
}

/// The part of `status` that asks the cluster itself.
pub async fn report_health(files: &Files) -> Result<(), Failure> {
    let client = Client::from_kubeconfig(Path::new(&files.admin_kubeconfig())).await?;
    let ready = client.request(http_request("GET", "/readyz", None)?).await.is_ok();
    println!("health      {}", if ready { "API server is ready" } else { "API server is not ready" });
    let nodes = get(&client, "/api/v1/nodes?limit=500").await?;
    let items: Vec<&Value> = nodes["items"].as_array().into_iter().flatten().collect();
    let up = items.iter().filter(|n| condition(n, "Ready") == "True").count();
    println!("nodes       {up} of {} Ready", items.len());
    let pods = get(&client, "/api/v1/pods?limit=5000").await?;
    let mut phases = std::collections::BTreeMap::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Unknown");
        *phases.entry(phase).or_insert(0) += 1;
    }
    let phases: Vec<String> = phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    println!("pods        {}", if phases.is_empty() { "none".to_owned() } else { phases.join(", ") });
    Ok(())
}
