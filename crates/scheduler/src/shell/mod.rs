//! The shell: informers feed the snapshot and the queue, decisions are made one after the other,
//! bindings and evictions are written side by side. Whatever happens in the cluster is taken in under
//! the lock under which decisions are made, so nothing can fall between a decision and its parking.

mod devices;
mod evict;
mod observe;
mod status;
mod storage;

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
use crate::devices::ClaimWork;
use crate::framework::{Event, Profile};
use crate::node::Slot;
use crate::pod::{PodInfo, node_name};
use crate::preemption::{Plan, Preemption};
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use crate::storage::Reservation;
use observe::Sources;
use storage::Work;

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
    /// What is being written for the claims of those among them that wait for volumes.
    reservations: HashMap<Arc<str>, (Reservation, Vec<ClaimWork>)>,
}

impl State {
    fn new(config: &Config) -> Self {
        State {
            snapshot: Snapshot::default(),
            core: Core::new(config.profiles()),
            queue: Queue::default(),
            assumed: HashMap::new(),
            reservations: HashMap::new(),
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
    /// Told when anything of storage changes.
    storage_news: Notify,
    bindings: Arc<Semaphore>,
    sources: Sources,
    cancel: CancellationToken,
}

/// A decision that is to be carried out.
enum Step {
    Bind { pod: Arc<PodInfo>, object: Arc<CachedPod>, node: String, work: Work },
    Refuse(Refused),
}

/// A pod that could not be bound.
struct Unbound {
    /// For there is no such pod.
    is_gone: bool,
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
        storage_news: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS_IN_FLIGHT)),
        sources: Sources::new(&informers.for_run(&cancel)),
        cancel: cancel.clone(),
    });
    let sources = &shell.sources;
    // Pods are only decided once all kinds are known: half a view places badly.
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = sources.synced() => {}
    }
    shell.observe(sources);
    shell.clone().decide_forever(sources, cancel).await;
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
                    let work = reserve(state, &pod, slot);
                    let placed = state.snapshot.place(&pod, slot);
                    state.assumed.insert(pod.key.clone(), placed.clone());
                    state.happened(Some(Event::PodPlaced(&placed)));
                    return Some(Step::Bind { pod, object, node, work });
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
            // A pod may wait for its volumes for long; the others do not wait for it.
            Step::Bind { pod, object, node, work } if !work.is_empty() => {
                tokio::spawn(async move { this.prepare_and_bind(&object, &pod, &node, &work).await });
            }
            Step::Bind { pod, object, node, .. } => {
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                tokio::spawn(async move {
                    if let Err(unbound) = this.bind(&object, &pod, &node).await {
                        this.take_back(&object, &pod, unbound.is_gone);
                    }
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

    /// Does what is to be done about the pod's claims, and undoes what can be undone if it is not bound.
    async fn prepare_and_bind(&self, object: &CachedPod, pod: &PodInfo, node: &str, work: &Work) {
        let prepared = self.prepare(object, work).await;
        let message = prepared.as_ref().err().cloned();
        let outcome = match prepared {
            Ok(()) => {
                let Ok(_permit) = self.bindings.clone().acquire_owned().await else { return };
                self.bind(object, pod, node).await
            }
            Err(_) => Err(Unbound { is_gone: false }),
        };
        self.state.lock().reservations.remove(&pod.key);
        let Err(unbound) = outcome else { return };
        if self.cancel.is_cancelled() {
            return; // whoever leads next decides anew
        }
        self.disclaim_devices(object, &work.claims).await;
        if let Some(message) = message {
            warn!(pod = &*pod.key, message, "binding failed");
            self.tell_failed(object, &message).await;
        }
        self.take_back(object, pod, unbound.is_gone);
    }
    async fn prepare(&self, object: &CachedPod, work: &Work) -> Result<(), String> {
        let bound = self.bind_volumes(object, work).await;
        {
            let mut state = self.state.lock();
            state.snapshot.release(&work.reservation);
            if bound.is_err() {
                state.snapshot.release_devices(&work.claims);
            }
        }
        bound?;
        self.claim_devices(object, &work.claims).await
    }

    async fn bind(&self, object: &CachedPod, pod: &PodInfo, node: &str) -> Result<(), Unbound> {
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
                Ok(())
            }
            Err(error) => {
                warn!(pod = &*pod.key, node, %error, "binding failed");
                Err(Unbound { is_gone: error.is_not_found() })
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

/// Settles how the pod's claims get their volumes and devices where it goes.
fn reserve(state: &mut State, pod: &PodInfo, slot: Slot) -> Work {
    let reservation = match pod.volumes {
        Some(_) => state.snapshot.reserve(pod, slot),
        None => Reservation::default(),
    };
    let claims = match pod.devices {
        Some(_) => state.snapshot.reserve_devices(pod, slot),
        None => Vec::new(),
    };
    if !reservation.is_empty() || !claims.is_empty() {
        state.reservations.insert(pod.key.clone(), (reservation.clone(), claims.clone()));
    }
    let profile = state.core.profile_of(&state.snapshot, &pod.template).unwrap_or(0);
    let timeout = state.core.profiles()[profile].arguments.volume_binding.bind_timeout;
    Work { reservation, claims, timeout }
}

#[cfg(test)]
mod tests;
