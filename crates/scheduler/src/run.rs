//! The shell: informers feed the cache and the queue, decisions are made one after the other on
//! the current snapshot, bindings are written side by side.

use std::sync::Arc;
use std::time::Instant;

use amphipod_client::{
    Api, CachedPod, Change, Client, Error, EventRecorder, Informer, Patch, Resource, SharedInformers,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::decision::{Decision, Scheduler as Core};
use crate::framework::Profile;
use crate::plugins::scheduling_gates;
use crate::pod::{PodInfo, is_finished, node_name};
use crate::queue::Queue;
use crate::snapshot::Snapshot;

/// The longest an event's message may be; conditions hold it whole.
const MAX_EVENT_BYTES: usize = 1024;
/// Bindings on their way at once; beyond, decisions wait.
const BINDINGS_IN_FLIGHT: usize = 64;

#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that name this scheduler are ours.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Config { scheduler_name: "default-scheduler".to_owned() }
    }
}

struct State {
    snapshot: Snapshot,
    core: Core,
    queue: Queue,
}

struct Scheduler {
    client: Client,
    config: Config,
    recorder: EventRecorder,
    state: Mutex<State>,
    work: Notify,
    bindings: Arc<Semaphore>,
}

/// Schedules until cancelled.
pub async fn run(
    client: Client,
    informers: &SharedInformers,
    config: Config,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let scheduler = Arc::new(Scheduler {
        recorder: EventRecorder::new(client.clone(), &config.scheduler_name, None),
        client,
        config,
        state: Mutex::new(State {
            snapshot: Snapshot::default(),
            core: Core::new(vec![Profile::default()]),
            queue: Queue::default(),
        }),
        work: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS_IN_FLIGHT)),
    });
    let informers = informers.for_run(&cancel);
    let (nodes, pods, namespaces) =
        (informers.get::<Node>(), informers.get::<CachedPod>(), informers.get::<Namespace>());
    // Pods are only decided once all three are known: half a view places badly.
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = async { nodes.synced().await; pods.synced().await; namespaces.synced().await } => {}
    }
    scheduler.observe(&nodes, &namespaces, &pods);
    scheduler.decide_forever(&pods, cancel).await;
    Ok(())
}

impl Scheduler {
    fn observe(
        self: &Arc<Self>,
        nodes: &Informer<Node>,
        namespaces: &Informer<Namespace>,
        pods: &Informer<CachedPod>,
    ) {
        let this = self.clone();
        nodes.on_change(move |change| {
            let mut state = this.state.lock();
            match change {
                Change::Deleted(node) => state.snapshot.remove_node(node.name()),
                Change::Added(node) => state.snapshot.set_node(node),
                Change::Updated { old, new } => {
                    state.snapshot.set_node(new);
                    if !matters(old, new) {
                        return; // heartbeats
                    }
                }
            }
            state.queue.cluster_changed(Instant::now());
            drop(state);
            this.work.notify_one();
        });
        let this = self.clone();
        namespaces.on_change(move |change| {
            let mut state = this.state.lock();
            match change {
                Change::Deleted(namespace) => state.snapshot.remove_namespace(namespace.name()),
                other => state.snapshot.set_namespace(other.object()),
            }
        });
        let this = self.clone();
        pods.on_change(move |change| this.pod_changed(change));
    }

    fn pod_changed(&self, change: &Change<CachedPod>) {
        let pod = change.object();
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Change::Deleted(_) = change {
            state.snapshot.remove_pod(&pod.key());
            state.queue.remove(&pod.key());
            state.queue.cluster_changed(now);
        } else if node_name(pod).is_some() {
            let requests = |state: &State| {
                let known = state.snapshot.pod(&pod.key());
                known.map(|pod| pod.template.spec.requests.clone())
            };
            let before = requests(&state);
            state.snapshot.set_pod(pod);
            state.queue.remove(&pod.key());
            let after = requests(&state);
            // A finished or shrunk pod frees room; a placed one may satisfy another's affinity.
            if before != after || matches!(change, Change::Added(_)) {
                state.queue.cluster_changed(now);
            }
        } else if self.is_ours(pod) {
            let only_status = matches!(change, Change::Updated { old, new } if old.spec == new.spec
                && old.metadata.labels == new.metadata.labels
                && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp);
            if only_status {
                return; // our own condition
            }
            let candidate = state.snapshot.catalogue.pod(pod);
            let gated = !scheduling_gates::admits(&candidate.template.spec);
            if gated || pod.is_terminating() || is_finished(pod) {
                state.queue.remove(&candidate.key);
            } else {
                state.queue.add(&candidate.key, candidate.priority(), now);
            }
        }
        drop(state);
        self.work.notify_one();
    }

    fn is_ours(&self, pod: &CachedPod) -> bool {
        let name = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
        name.unwrap_or("default-scheduler") == self.config.scheduler_name
    }

    async fn decide_forever(self: Arc<Self>, pods: &Informer<CachedPod>, cancel: CancellationToken) {
        loop {
            let (next, wake) = {
                let mut state = self.state.lock();
                (state.queue.pop(Instant::now()), state.queue.next_wake())
            };
            let Some(key) = next else {
                let wake = async {
                    match wake {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = self.work.notified() => {}
                    () = wake => {}
                }
                continue;
            };
            match pods.get(&key) {
                Some(pod) => self.decide(pod).await,
                None => self.state.lock().queue.remove(&key),
            }
            if cancel.is_cancelled() {
                return;
            }
        }
    }

    async fn decide(self: &Arc<Self>, pod: Arc<CachedPod>) {
        if node_name(&pod).is_some() {
            return self.state.lock().queue.remove(&pod.key());
        }
        let (info, decision, node) = {
            let mut state = self.state.lock();
            let State { snapshot, core, .. } = &mut *state;
            let info = Arc::new(snapshot.catalogue.pod(&pod));
            let decision = core.decide(snapshot, &info, rand::random());
            snapshot.denominate(&info.key); // nobody is evicted yet, so no room comes free
            let mut name = String::new();
            if let Decision::Node(slot) = &decision {
                name = snapshot.name(*slot).to_owned();
                snapshot.place(&info, *slot);
            }
            (info, decision, name)
        };
        match decision {
            Decision::Node(_) => {
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                let this = self.clone();
                tokio::spawn(async move {
                    this.bind(&pod, &info, &node).await;
                    drop(permit);
                });
            }
            Decision::Unschedulable(unschedulable) => {
                self.state.lock().queue.refused(&info.key, Instant::now());
                self.tell_unschedulable(&pod, &unschedulable.explanation.message()).await;
            }
        }
    }

    async fn bind(&self, object: &CachedPod, pod: &PodInfo, node: &str) {
        let api = Api::<CachedPod>::namespaced(self.client.clone(), object.namespace());
        let name = object.name();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": object.namespace(), "uid": object.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match api.create_subresource(name, "binding", &binding).await {
            Ok(_) => {
                debug!(pod = &*pod.key, node, "bound");
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.normal(object, "Scheduled", message);
                self.state.lock().queue.remove(&pod.key);
            }
            Err(error) => {
                let mut state = self.state.lock();
                state.snapshot.remove_pod(&pod.key);
                if error.is_not_found() {
                    state.queue.remove(&pod.key);
                    return;
                }
                warn!(pod = &*pod.key, node, %error, "binding failed");
                let now = Instant::now();
                state.queue.refused(&pod.key, now);
                state.queue.cluster_changed(now);
                drop(state);
                self.work.notify_one();
            }
        }
    }

    async fn tell_unschedulable(&self, pod: &CachedPod, message: &str) {
        self.recorder.warning(pod, "FailedScheduling", shortened(message));
        let Some(condition) = unschedulable(pod, message, Timestamp::now()) else { return };
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": pod.uid()},
            "status": {"conditions": [condition]},
        }));
        let api = Api::<CachedPod>::namespaced(self.client.clone(), pod.namespace());
        match api.patch_status(pod.name(), &patch).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                warn!(pod = pod.key(), %error, "the PodScheduled condition was not written");
            }
            _ => {}
        }
    }
}

/// The `PodScheduled` condition that says so, unless the pod has it already.
fn unschedulable(pod: &CachedPod, message: &str, now: Timestamp) -> Option<Value> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let old = conditions.iter().find(|c| c.type_ == "PodScheduled");
    let reason = "Unschedulable";
    if old.is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    }) {
        return None;
    }
    // Another reason for the same status is no transition.
    let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.as_ref());
    let since = since.map_or(now, |time| time.0).round(jiff::Unit::Second).unwrap_or_default();
    Some(json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastTransitionTime": since.to_string(), "observedGeneration": pod.metadata.generation,
    }))
}

fn shortened(message: &str) -> String {
    if message.len() <= MAX_EVENT_BYTES {
        return message.to_owned();
    }
    const SUFFIX: &str = " ...";
    let mut end = MAX_EVENT_BYTES - SUFFIX.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SUFFIX}", &message[..end])
}

/// Whether a node's change can make room for a refused pod.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_of_a_pod_without_a_node() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let with = |conditions: Value| -> CachedPod {
            let meta = json!({"name": "p", "generation": 4});
            let pod = json!({"metadata": meta, "status": {"conditions": conditions}});
            CachedPod::decode(pod.to_string().as_bytes()).unwrap()
        };
        let scheduled = |status: &str, reason: &str, message: &str| {
            json!([{"type": "PodScheduled", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "1970-01-01T00:00:01Z"}])
        };
        let first = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full",
            "lastTransitionTime": "1970-01-01T00:01:40Z", "observedGeneration": 4});
        let mut later = first.clone();
        later["lastTransitionTime"] = "1970-01-01T00:00:01Z".into();
        let cases = [
            (json!([]), Some(&first)),
            (scheduled("True", "", ""), Some(&first)),
            (scheduled("False", "SchedulingGated", "full"), Some(&later)),
            (scheduled("False", "Unschedulable", "other"), Some(&later)),
            (scheduled("False", "Unschedulable", "full"), None),
        ];
        for (conditions, expected) in cases {
            let condition = unschedulable(&with(conditions.clone()), "full", at(100));
            assert_eq!(condition.as_ref(), expected, "{conditions}");
        }
    }

    #[test]
    fn events_are_cut_to_what_the_api_takes() {
        assert_eq!(shortened("short"), "short");
        let long = shortened(&"ä".repeat(2000));
        assert!(long.len() <= MAX_EVENT_BYTES && long.ends_with("ä ..."));
    }
}
