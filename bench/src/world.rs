//! What pods are scheduled in: nodes without kubelets and a namespace, made through the API of any
//! cluster and taken away again. The nodes are said to be Ready once and kept so by their leases, as
//! kubelets keep them, so that no controller takes them for dead.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::Outcome;
use crate::api::{NAMESPACE, wait_for_service_account};
use crate::flood::Flood;
use crate::scheduler::scenarios::{HIGH_PRIORITY, HIGH_PRIORITY_CLASS, Make, NODE_PREFIX, node_name};
use crate::wire::{Call, Wire};

const NODES: &str = "/api/v1/nodes";
const NAMESPACES: &str = "/api/v1/namespaces";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
/// Well within the 40 s after which Kubernetes takes a silent node for dead, renewing itself included.
const RENEW_EVERY: Duration = Duration::from_secs(25);
/// Few, so that a round of renewals is no burst.
const RENEWING_CLIENTS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(120);
/// The original takes minutes to empty a namespace of 50,000 pods.
const CLEAR_PATIENCE: Duration = Duration::from_secs(900);

pub struct World {
    pub wire: Wire,
    pub nodes: usize,
    pub node: Make,
}

impl World {
    /// The namespace, a priority class, and the nodes, once the cluster would use them.
    pub async fn build(&self) -> Outcome<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        self.wire.drain(Call::post(NAMESPACES, &namespace)).await?;
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": HIGH_PRIORITY_CLASS}, "value": HIGH_PRIORITY});
        self.wire.drain(Call::post(CLASSES, &class)).await?;
        let lease = |index| (LEASES.to_owned(), lease(&node_name(index)).to_string().into());
        Flood::posts(self.nodes).send(&self.wire, lease).await?;
        let make = self.node;
        let node = move |index| (NODES.to_owned(), make(index).to_string().into());
        Flood::posts(self.nodes).send(&self.wire, node).await?;
        // Admission taints a new node; the node controller sees that it is Ready.
        let path = format!("{NODES}?resourceVersion=0");
        until(&self.wire, &path, PATIENCE, "nodes are tainted", |list| mentions(list, "\"taints\":") == 0)
            .await?;
        wait_for_service_account(&self.wire, NAMESPACE).await
    }

    /// Works on something while the nodes live. None of what takes less than an interval is disturbed
    /// by renewals.
    pub async fn alive<T>(&self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        self.renew().await?;
        tokio::select! {
            done = work => done,
            Err(error) = self.keep_renewing() => Err(error),
        }
    }

    async fn keep_renewing(&self) -> Outcome<Infallible> {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            self.renew().await?;
        }
    }

    async fn renew(&self) -> Outcome<()> {
        let body: Bytes = json!({"spec": {"renewTime": now()}}).to_string().into();
        let each = move |index| (format!("{LEASES}/{}", node_name(index)), body.clone());
        Flood::patches(self.nodes, RENEWING_CLIENTS).send(&self.wire, each).await
    }

    /// Takes away what this or an earlier run has made. Nodes of others are an error: pods would run
    /// there.
    pub async fn clear(&self) -> Outcome<()> {
        let names = names(&self.wire, NODES).await?;
        if let Some(strange) = names.iter().find(|name| !name.starts_with(NODE_PREFIX)) {
            return Err(format!("the cluster has a node of its own, {strange}: pods would run on it").into());
        }
        delete(&self.wire, NODES, names).await?;
        let mut leases = self::names(&self.wire, LEASES).await?;
        leases.retain(|name| name.starts_with(NODE_PREFIX));
        delete(&self.wire, LEASES, leases).await?;
        for (collection, name) in [(CLASSES, HIGH_PRIORITY_CLASS), (NAMESPACES, NAMESPACE)] {
            let path = format!("{collection}?fieldSelector=metadata.name%3D{name}");
            if self::names(&self.wire, &path).await?.is_empty() {
                continue;
            }
            self.wire.drain(Call::delete(&format!("{collection}/{name}"))).await?;
            let gone = |list: &[u8]| mentions(list, name) == 0;
            until(&self.wire, &path, CLEAR_PATIENCE, "it is still there", gone).await?;
        }
        Ok(())
    }
}

async fn names(wire: &Wire, path: &str) -> Outcome<Vec<String>> {
    let list: Value = serde_json::from_slice(&wire.call(Call::get(path)).await?)?;
    let name = |object: &Value| object["metadata"]["name"].as_str().map(str::to_owned);
    Ok(list["items"].as_array().into_iter().flatten().filter_map(name).collect())
}

async fn delete(wire: &Wire, collection: &'static str, names: Vec<String>) -> Outcome<()> {
    let flood = Flood::deletes(names.len());
    flood.send(wire, move |index| (format!("{collection}/{}", names[index]), Bytes::new())).await
}

/// Asks for a list until it is as it should be.
pub async fn until(
    wire: &Wire,
    path: &str,
    patience: Duration,
    otherwise: &str,
    is_so: impl Fn(&[u8]) -> bool,
) -> Outcome<()> {
    let begin = Instant::now();
    while !is_so(&wire.call(Call::get(path)).await?) {
        if begin.elapsed() > patience {
            return Err(format!("{path}: after {} s {otherwise}", patience.as_secs()).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// How often a text is in a list.
pub fn mentions(list: &[u8], text: &str) -> usize {
    list.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}

fn lease(node: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now()}})
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
