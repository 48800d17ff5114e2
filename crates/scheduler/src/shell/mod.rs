//! The shell: informers feed the snapshot and the queue, decisions are made one after the other,
//! bindings and evictions are written side by side. Whatever happens in the cluster is taken in under
//! the lock under which decisions are made, so nothing can fall between a decision and its parking.

mod evict;
mod observe;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use amphipod_client::{Api, CachedPod, Client, Error, EventRecorder, Informer, Resource, SharedInformers};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::decision::{Decision, Scheduler as Core};
use crate::framework::{Event, Profile};
use crate::pod::{PodInfo, node_name};
use crate::preemption::{Plan, Preemption};
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use observe::Sources;

/// Bindings on their way at once; beyond, decisions wait.
const BINDINGS_IN_FLIGHT: usize = 64;
/// Of symbols no object has any more the memory is only given back by building anew; that this is due
/// is looked for after so many decisions.
const DECISIONS_BETWEEN_CHECKS: u64 = 10_000;

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

impl Config {
    pub(crate) fn profiles(&self) -> Vec<Profile> {
        vec![Profile { scheduler_name: self.scheduler_name.clone(), ..Profile::default() }]
    }
}

/// What decisions are made of.
struct State {
    snapshot: Snapshot,
    core: Core,
    queue: Queue,
    /// Pods placed that the API has not been seen to have placed yet.
    assumed: HashMap<Arc<str>, Arc<PodInfo>>,
}

impl State {
    fn new(config: &Config) -> Self {
        State {
            snapshot: Snapshot::default(),
            core: Core::new(config.profiles()),
            queue: Queue::default(),
            assumed: HashMap::new(),
        }
    }
    /// Lets parked pods know.
    fn happened(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.queue.happened(&self.snapshot, self.core.profiles(), event, Instant::now());
        }
    }
}

struct Shell {
    client: Client,
    config: Config,
    recorder: EventRecorder,
    state: Mutex<State>,
    work: Notify,
    bindings: Arc<Semaphore>,
}

/// A decision that is to be carried out.
enum Step {
    Bind { pod: Arc<PodInfo>, object: Arc<CachedPod>, node: String },
    Refuse(Refused),
}

struct Refused {
    object: Arc<CachedPod>,
    message: String,
    /// Where room is being made for it; empty for nowhere.
    nominated: String,
    eviction: Option<Plan>,
}

/// Schedules until cancelled.
pub async fn run(
    client: Client,
    informers: &SharedInformers,
    config: Config,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let shell = Arc::new(Shell {
        recorder: EventRecorder::new(client.clone(), &config.scheduler_name, None),
        client,
        state: Mutex::new(State::new(&config)),
        config,
        work: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS_IN_FLIGHT)),
    });
    let sources = Sources::new(&informers.for_run(&cancel));
    // Pods are only decided once all kinds are known: half a view places badly.
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = sources.synced() => {}
    }
    shell.observe(&sources);
    shell.decide_forever(&sources, cancel).await;
    Ok(())
}

impl Shell {
    async fn decide_forever(self: Arc<Self>, sources: &Sources, cancel: CancellationToken) {
        for decisions in 1_u64.. {
            let (step, wake) = {
                let mut state = self.state.lock();
                if decisions % DECISIONS_BETWEEN_CHECKS == 0 && state.snapshot.is_overgrown() {
                    *state = State::rebuilt(&self.config, &mut state, sources);
                }
                (self.next_step(&mut state, &sources.pods), state.queue.next_wake())
            };
            if let Some(step) = step {
                self.take(step).await;
            } else if !self.wait(wake, &cancel).await {
                return;
            }
            if cancel.is_cancelled() {
                return;
            }
        }
    }

    /// Waits until there may be something to do. Whether there will be.
    async fn wait(&self, wake: Option<Instant>, cancel: &CancellationToken) -> bool {
        let due = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return false,
            () = self.work.notified() => {}
            () = due => {}
        }
        true
    }

    /// Decides about the next pod, if one is ready.
    fn next_step(&self, state: &mut State, pods: &Informer<CachedPod>) -> Option<Step> {
        loop {
            let now = Instant::now();
            let pod = state.queue.pop(now)?;
            let waits = |object: &Arc<CachedPod>| object.uid() == &*pod.uid && node_name(object).is_none();
            let object = pods.get(&pod.key).filter(waits);
            let Some(object) = object else {
                state.queue.remove(&pod.key);
                continue;
            };
            let decision = state.core.decide(&mut state.snapshot, &pod, rand::random());
            let refused = match decision {
                Decision::Node(slot) => {
                    let node = state.snapshot.name(slot).to_owned();
                    let placed = state.snapshot.place(&pod, slot);
                    state.assumed.insert(pod.key.clone(), placed.clone());
                    state.happened(Some(Event::PodPlaced(&placed)));
                    return Some(Step::Bind { pod, object, node });
                }
                Decision::Unschedulable(refused) => refused,
            };
            let nominated = state.snapshot.nominated_slot(&pod.key);
            let nominated = nominated.map(|slot| state.snapshot.name(slot).to_owned());
            let eviction = match refused.preemption {
                Some(Preemption::Plan(plan)) => Some(plan),
                _ => None,
            };
            state.queue.hold(&pod.key);
            state.queue.refused(&pod.key, refused.plugins, now);
            let message = refused.explanation.message();
            let nominated = nominated.unwrap_or_default();
            return Some(Step::Refuse(Refused { object, message, nominated, eviction }));
        }
    }

    async fn take(self: &Arc<Self>, step: Step) {
        let this = self.clone();
        match step {
            Step::Bind { pod, object, node } => {
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                tokio::spawn(async move {
                    this.bind(&object, &pod, &node).await;
                    drop(permit);
                });
            }
            Step::Refuse(refused) => {
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                tokio::spawn(async move {
                    this.carry_out(&refused).await;
                    drop(permit);
                });
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
                self.state.lock().queue.remove_instance(pod);
            }
            Err(error) => {
                warn!(pod = &*pod.key, node, %error, "binding failed");
                self.take_back(object, pod, error.is_not_found());
            }
        }
    }

    async fn carry_out(&self, refused: &Refused) {
        self.tell_unschedulable(&refused.object, &refused.message, &refused.nominated).await;
        let evicted = match &refused.eviction {
            Some(plan) => self.evict(&refused.object, &refused.nominated, plan).await,
            None => true,
        };
        self.state.lock().queue.let_go(&refused.object.key(), !evicted, Instant::now());
        self.work.notify_one();
    }

    /// A pod that could not be bound no longer counts where it was to be, and is looked at again: on
    /// a conflict it may be bound already, which its informer will tell.
    fn take_back(&self, object: &CachedPod, pod: &PodInfo, is_gone: bool) {
        let mut state = self.state.lock();
        // Another pod of the name may have come meanwhile.
        let assumed = state.assumed.get(&pod.key).is_some_and(|assumed| assumed.uid == pod.uid);
        if assumed {
            state.assumed.remove(&pod.key);
            let removed = state.snapshot.remove_pod(&pod.key);
            state.happened(removed.as_deref().map(Event::PodRemoved));
        }
        if is_gone || !assumed {
            state.queue.remove_instance(pod);
        } else {
            let (now, info) = (Instant::now(), state.snapshot.catalogue.pod(object));
            state.queue.add(Arc::new(info), now);
            state.queue.failed(&pod.key, now);
        }
        drop(state);
        self.work.notify_one();
    }
}

#[cfg(test)]
mod tests;
