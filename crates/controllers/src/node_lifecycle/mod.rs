//! Node lifecycle: a node that falls silent is shown as unknown, tainted, and its pods as not ready.
//! Heartbeats are Lease renewals or status updates, measured by when *we* saw them (clocks differ).

pub mod health;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, EventRecorder, Informer, Patch, Resource};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use self::health::Disruption;
use crate::harness::{Controller, Scope, enqueue_all, now};
use crate::{Error, pods};

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Finds pods by their node.
pub const BY_NODE: &str = "node";
/// One node's pods are driven off at most this often (per zone); slower where much is broken.
const EVICTION_PAUSE: Duration = Duration::from_secs(10);
const CAREFUL_EVICTION_PAUSE: Duration = Duration::from_secs(100);
/// Zones with fewer nodes than this do not evict while disrupted.
const LARGE_ZONE: usize = 50;

struct Heartbeat {
    seen: Instant,
    /// What was seen: a change of either is a sign of life.
    renewed: Option<jiff::Timestamp>,
    reported: Option<jiff::Timestamp>,
    /// Whether the node has ever shown one; a new node has longer to start.
    ever: bool,
}

type Heartbeats = Arc<Mutex<HashMap<String, Heartbeat>>>;

struct NodeController {
    scope: Scope,
    nodes: Informer<Node>,
    pods: Informer<CachedPod>,
    events: EventRecorder,
    heartbeats: Heartbeats,
    /// By zone: when a node there was last tainted for eviction.
    evictions: Mutex<HashMap<String, Instant>>,
    /// Nodes by name and what was last told of their readiness.
    readiness: Mutex<HashMap<String, String>>,
}

pub async fn run(scope: Scope) {
    let nodes = scope.informers.get::<Node>();
    let leases = scope.informers.get::<Lease>();
    let pods = scope.informers.get::<CachedPod>();
    pods.add_index(BY_NODE, |pod| vec![pods::node_name(pod).to_owned()]);
    let synced = scope.synced(&nodes).await && scope.synced(&leases).await && scope.synced(&pods).await;
    if !synced {
        return;
    }
    let queue = WorkQueue::new();
    let heartbeats = Heartbeats::default();
    let seen = heartbeats.clone();
    nodes.on_change(move |change| match change {
        Change::Deleted(node) => drop(seen.lock().remove(node.name())),
        other => note_report(&seen, other.object()),
    });
    let seen = heartbeats.clone();
    leases.on_change(move |change| note_renewal(&seen, change.object()));
    enqueue_all(&nodes, &queue);
    let events = scope.events("node-controller");
    tell_comings_and_goings(&nodes, &events);
    let controller = NodeController {
        scope: scope.clone(),
        nodes,
        pods,
        events,
        heartbeats,
        evictions: Mutex::default(),
        readiness: Mutex::default(),
    };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

fn note_report(heartbeats: &Heartbeats, node: &Node) {
    let reported = health::condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
    let mut heartbeats = heartbeats.lock();
    let entry = heartbeats.entry(node.name().to_owned()).or_insert_with(|| Heartbeat {
        seen: Instant::now(),
        renewed: None,
        reported: None,
        ever: false,
    });
    if reported.is_some() && reported != entry.reported {
        (entry.reported, entry.seen, entry.ever) = (reported, Instant::now(), true);
    }
}

fn note_renewal(heartbeats: &Heartbeats, lease: &Lease) {
    if lease.namespace() != LEASE_NAMESPACE {
        return;
    }
    let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
    let mut heartbeats = heartbeats.lock();
    // A lease without a node is not a node's heartbeat.
    let Some(entry) = heartbeats.get_mut(lease.name()) else { return };
    if renewed.is_some() && renewed != entry.renewed {
        (entry.renewed, entry.seen, entry.ever) = (renewed, Instant::now(), true);
    }
}

/// Events on nodes name the node by its name, also as uid, as kubelets do.
fn node_reference(node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn tell_comings_and_goings(nodes: &Informer<Node>, events: &EventRecorder) {
    let events = events.clone();
    nodes.on_change(move |change| {
        let (reason, message) = match change {
            Change::Added(node) => {
                ("RegisteredNode", format!("Node {0} event: Registered Node {0} in Controller", node.name()))
            }
            Change::Deleted(node) => {
                ("RemovingNode", format!("Node {0} event: Removing Node {0} from Controller", node.name()))
            }
            Change::Updated { .. } => return,
        };
        events.record(node_reference(change.object()), "Normal", reason, message);
    });
}

impl Controller for NodeController {
    const QUEUE: &'static str = "node_lifecycle_controller";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(node) = self.nodes.get(key) else {
            self.readiness.lock().remove(key);
            return Ok(None);
        };
        let left = self.time_left(&node);
        let mut node = node.as_ref().clone();
        if left.is_zero()
            && let Some(status) = health::silenced(&node, now())
        {
            node.status = Some(status);
            let api = Api::<Node>::all(self.scope.client.clone());
            node = api.update_status(&node).await?;
        }
        self.note_readiness(&node).await?;
        let again = self.write_taints(&node).await?;
        // Silent nodes have nothing more to lose; their next heartbeat changes the node.
        let check = (!left.is_zero()).then_some(left);
        Ok(match (again, check) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }
}

impl NodeController {
    /// How long until the node's silence lasts too long; zero when it does.
    fn time_left(&self, node: &Node) -> Duration {
        let config = &self.scope.config;
        let heartbeats = self.heartbeats.lock();
        let Some(heartbeat) = heartbeats.get(node.name()) else { return config.node_grace };
        let allowed = if heartbeat.ever { config.node_grace } else { config.node_startup_grace };
        allowed.saturating_sub(heartbeat.seen.elapsed())
    }

    /// When a node stops being ready, its pods are told not ready: no traffic goes to them.
    async fn note_readiness(&self, node: &Node) -> Result<(), Error> {
        let readiness = health::readiness(node).to_owned();
        let before = self.readiness.lock().get(node.name()).cloned();
        if readiness != "True" {
            self.mark_pods(node).await?;
            if before.as_deref() == Some("True") {
                let message = format!("Node {} status is now: NodeNotReady", node.name());
                self.events.record(node_reference(node), "Normal", "NodeNotReady", message);
            }
        }
        self.readiness.lock().insert(node.name().to_owned(), readiness);
        Ok(())
    }

    async fn mark_pods(&self, node: &Node) -> Result<(), Error> {
        for pod in self.pods.by_index(BY_NODE, node.name()) {
            if !pods::is_ready(&pod) || health::readiness(node) != "Unknown" {
                continue;
            }
            let patch = Patch::Strategic(json!({"status": {"conditions": [{
                "type": "Ready", "status": "False", "lastTransitionTime": now().to_string(),
            }]}}));
            match Api::<CachedPod>::of(self.scope.client.clone(), pod.as_ref())
                .patch_status(pod.name(), &patch)
                .await
            {
                Err(error) if error.is_not_found() => {}
                other => drop(other?),
            }
            self.events.warning(pod.as_ref(), "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    /// Writes the taints; Some(delay) where eviction has to wait for its turn.
    async fn write_taints(&self, node: &Node) -> Result<Option<Duration>, Error> {
        let turn = self.eviction_turn(node);
        let wanted = health::taints(node, turn.is_none(), now());
        let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let unready = health::readiness(node) != "True";
        if wanted != current {
            let patch = Patch::Merge(json!({
                "metadata": {"resourceVersion": node.resource_version()},
                "spec": {"taints": wanted.iter().map(taint_json).collect::<Vec<_>>()},
            }));
            Api::<Node>::all(self.scope.client.clone()).patch(node.name(), &patch).await?;
            if unready && !has_eviction(&current) && has_eviction(&wanted) {
                self.evictions.lock().insert(zone_of(node), Instant::now());
            }
        }
        Ok(turn.filter(|_| unready))
    }

    /// None if this node may be (or is) tainted for eviction now; else when to ask again.
    fn eviction_turn(&self, node: &Node) -> Option<Duration> {
        if health::readiness(node) == "True" {
            return None; // nothing to evict, and no need to count its neighbours
        }
        let current = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let zone = zone_of(node);
        let (mut ready, mut unready, mut ready_anywhere) = (0, 0, 0);
        for other in self.nodes.list() {
            let is_ready = health::readiness(&other) == "True";
            ready_anywhere += usize::from(is_ready);
            if zone_of(&other) == zone {
                ready += usize::from(is_ready);
                unready += usize::from(!is_ready);
            }
        }
        if ready_anywhere == 0 {
            return Some(EVICTION_PAUSE);
        }
        if has_eviction(current) {
            return None;
        }
        let pause = match health::disruption(ready, unready) {
            Disruption::None | Disruption::Full => EVICTION_PAUSE,
            Disruption::Partial if ready + unready > LARGE_ZONE => CAREFUL_EVICTION_PAUSE,
            Disruption::Partial => return Some(CAREFUL_EVICTION_PAUSE),
        };
        let last = self.evictions.lock().get(&zone).copied();
        last.map(|last| pause.saturating_sub(last.elapsed())).filter(|left| !left.is_zero())
    }
}

fn has_eviction(taints: &[k8s_openapi::api::core::v1::Taint]) -> bool {
    taints
        .iter()
        .any(|t| t.effect == "NoExecute" && (t.key == health::NOT_READY || t.key == health::UNREACHABLE))
}

fn zone_of(node: &Node) -> String {
    let label = |key| crate::meta::label(&node.metadata, key).unwrap_or("");
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

fn taint_json(taint: &k8s_openapi::api::core::v1::Taint) -> serde_json::Value {
    let mut json = json!({"key": taint.key, "effect": taint.effect});
    if let Some(value) = &taint.value {
        json["value"] = value.clone().into();
    }
    if let Some(time) = &taint.time_added {
        json["timeAdded"] = time.0.to_string().into();
    }
    json
}
