//! The shell: informers feed the snapshot and the queue, decisions are made one after the other,
//! bindings and evictions are written side by side. Whatever happens in the cluster is taken in under
//! the lock under which decisions are made, so nothing can fall between a decision and its parking.

mod bind;
mod call;
mod consult;
mod devices;
mod evict;
mod observe;
mod status;
mod storage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use amphipod_client::{CachedPod, Client, Error, EventRecorder, Informer, Resource, SharedInformers};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, DEFAULT_SCHEDULER};
use crate::decision::{Decision, Scheduler as Core};
use crate::extender::Extenders;
use crate::framework::Event;
use crate::metrics::{Metrics, Outcome, Standing};
use crate::plugins::dynamic_resources::Deallocation;
use crate::pod::{PodInfo, scheduler_name, waits_for_node};
use crate::preemption::{Plan, Preemption};
use crate::queue::{Attempt, Queue};
use crate::snapshot::Snapshot;
use crate::why::QueueView;
use bind::{Binding, Preparation};
use observe::Sources;

/// The reasons of the condition of a pod without a node.
const UNSCHEDULABLE: &str = "Unschedulable";
const SCHEDULER_ERROR: &str = "SchedulerError";
/// Pods something is being written for at once; beyond, decisions wait.
const WRITES_IN_FLIGHT: usize = 64;
/// Of symbols no object has any more the memory is only given back by building anew; that this is due
/// is looked for after so many decisions.
const DECISIONS_BETWEEN_CHECKS: u64 = 10_000;

/// What decisions are made of.
struct State {
    snapshot: Snapshot,
    core: Core,
    queue: Queue,
    /// Pods placed that the API has not been seen to have placed yet.
    assumed: HashMap<Arc<str>, Arc<PodInfo>>,
    /// Of those among them that have claims to be seen to first.
    preparations: HashMap<Arc<str>, Preparation>,
    /// How many events parked pods were told of: a pod that is being decided about misses them.
    events: u64,
}

impl State {
    fn new(config: &Config) -> Self {
        let mut snapshot = Snapshot::default();
        State {
            core: Core::new(config.profiles(&mut snapshot.catalogue)),
            snapshot,
            queue: Queue::new(config.backoff()),
            assumed: HashMap::new(),
            preparations: HashMap::new(),
            events: 0,
        }
    }
    /// Where room is being made for a pod; empty for nowhere.
    fn nominated(&self, key: &str) -> String {
        let slot = self.snapshot.nominated_slot(key);
        slot.map(|slot| self.snapshot.name(slot).to_owned()).unwrap_or_default()
    }
    /// What is to be done about a decision. `missed`: something happened since the pod was taken from
    /// the queue, which may have been what helps it.
    fn settle(
        &mut self,
        pod: Arc<PodInfo>,
        object: Arc<CachedPod>,
        decision: Decision,
        missed: bool,
    ) -> Step {
        let now = Instant::now();
        let unknown = Attempt { number: 1, first: now, started: now };
        let attempt = self.queue.attempt(&pod.key).unwrap_or(unknown);
        let refused = match decision {
            Decision::Node(slot) => {
                let node = self.snapshot.name(slot).to_owned();
                let work = self.reserve(&pod, slot);
                let placed = self.snapshot.place(&pod, slot);
                self.assumed.insert(pod.key.clone(), placed.clone());
                self.happened(Some(Event::PodPlaced(&placed)));
                return Step::Bind(Binding { pod, object, node, work, attempt });
            }
            Decision::Unschedulable(refused) => refused,
        };
        let preemption_tried = refused.preemption.is_some();
        let eviction = match refused.preemption {
            Some(Preemption::Plan(plan)) => Some(plan),
            _ => None,
        };
        let deallocation = match refused.deallocation {
            Some(Deallocation::Of(claim)) => Some(claim),
            _ => None,
        };
        self.queue.hold(&pod.key);
        if missed {
            self.queue.missed(&pod.key);
        }
        self.queue.refused(&pod.key, refused.plugins, now);
        let (reason, message) = (UNSCHEDULABLE, refused.explanation.message());
        let nominated = self.nominated(&pod.key);
        Step::Refuse(Refused {
            object,
            attempt,
            reason,
            message,
            nominated,
            deallocation,
            eviction,
            preemption_tried,
        })
    }

    fn standing(&mut self) -> Standing {
        let mut refused: BTreeMap<(&'static str, &str), usize> = BTreeMap::new();
        for (pod, by) in self.queue.parked() {
            let profile = self.snapshot.catalogue.symbols.text(pod.template.spec.scheduler);
            by.names().for_each(|plugin| *refused.entry((plugin, profile)).or_default() += 1);
        }
        let told = refused.into_iter();
        let unschedulable =
            told.map(|((plugin, profile), pods)| (plugin, profile.to_owned(), pods)).collect();
        Standing {
            queue: self.queue.counts(),
            nodes: self.snapshot.node_count(),
            pods: self.snapshot.pod_count(),
            assumed_pods: self.assumed.len(),
            unschedulable,
            incoming: self.queue.take_incoming(),
            evaluated: self.core.take_evaluations(),
        }
    }
    /// Lets parked pods know.
    fn happened(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.events += 1;
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
    writes: Arc<Semaphore>,
    /// What is being carried out.
    tasks: TaskTracker,
    extenders: Extenders,
    metrics: Metrics,
    sources: Sources,
    cancel: CancellationToken,
}

/// A decision that is to be carried out.
enum Step {
    Bind(Binding),
    Refuse(Refused),
}

/// What a pod taken from the queue comes to.
enum Next {
    /// Others have a say first.
    Consult(consult::Question),
    Decided(Decided),
}

/// What a decision comes to.
enum Decided {
    /// Others have a say about where room is made.
    MakeRoom(Box<consult::RoomQuestion>),
    Step(Step),
}

struct Refused {
    object: Arc<CachedPod>,
    attempt: Attempt,
    /// Of its condition.
    reason: &'static str,
    message: String,
    /// Where room is being made for it; empty for nowhere.
    nominated: String,
    /// The claim (`namespace/name`) that gives its devices back.
    deallocation: Option<String>,
    eviction: Option<Plan>,
    preemption_tried: bool,
}

/// Schedules until cancelled; nothing of it goes on when this returns. Meanwhile `queue` shows where pods
/// are that wait.
pub async fn run(
    client: Client,
    informers: &SharedInformers,
    config: Config,
    metrics: Metrics,
    queue: QueueView,
    cancel: CancellationToken,
) -> Result<(), Error> {
    metrics.starts();
    let extenders = Extenders::connect(&config.extenders).await?;
    let sources = Sources::new(&informers.for_run(&cancel));
    let shell = Arc::new(Shell::new(client, sources, extenders, config, metrics, cancel.clone()));
    let sources = &shell.sources;
    // Pods are only decided once all kinds are known: half a view places badly.
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = sources.synced() => {}
    }
    shell.observe(sources);
    let watched = Arc::downgrade(&shell);
    let standing = move || watched.upgrade().map(|shell| shell.state.lock().standing()).unwrap_or_default();
    shell.metrics.look_at(standing);
    let watched = Arc::downgrade(&shell);
    queue.look_at(move |key, uid| Some(watched.upgrade()?.state.lock().seen(key, uid)));
    cancel.run_until_cancelled(shell.decide_forever(sources)).await;
    shell.tasks.close();
    shell.tasks.wait().await;
    Ok(())
}

/// What the API shows of this very pod, if it waits for a node yet. Of another pod of its name the
/// handlers tell.
fn still_waiting(pods: &Informer<CachedPod>, pod: &PodInfo) -> Option<Arc<CachedPod>> {
    pods.get(&pod.key).filter(|now| now.uid() == &*pod.uid && waits_for_node(now))
}

impl Shell {
    fn new(
        client: Client,
        sources: Sources,
        extenders: Extenders,
        config: Config,
        metrics: Metrics,
        cancel: CancellationToken,
    ) -> Self {
        Shell {
            recorder: EventRecorder::new(client.clone(), DEFAULT_SCHEDULER, None),
            client,
            state: Mutex::new(State::new(&config)),
            config,
            work: Notify::new(),
            storage_news: Notify::new(),
            writes: Arc::new(Semaphore::new(WRITES_IN_FLIGHT)),
            tasks: TaskTracker::new(),
            extenders,
            metrics,
            sources,
            cancel,
        }
    }

    /// Events are told under the name of the scheduler the pod has chosen.
    fn recorder(&self, pod: &CachedPod) -> EventRecorder {
        self.recorder.as_component(scheduler_name(pod))
    }

    /// May be dropped wherever it waits.
    async fn decide_forever(self: &Arc<Self>, sources: &Sources) {
        for decisions in 1_u64.. {
            if self.cancel.is_cancelled() {
                return; // not every round waits for something
            }
            let (next, wake) = {
                let mut state = self.state.lock();
                if decisions % DECISIONS_BETWEEN_CHECKS == 0 && state.snapshot.is_overgrown() {
                    *state = State::rebuilt(&self.config, &mut state, sources);
                }
                (self.next_step(&mut state, &sources.pods), state.queue.next_wake())
            };
            let decided = match next {
                Some(Next::Consult(question)) => self.consult(question, sources).await,
                Some(Next::Decided(decided)) => Some(decided),
                None => {
                    self.wait(wake).await;
                    None
                }
            };
            let step = match decided {
                Some(Decided::MakeRoom(question)) => self.make_room(*question).await,
                Some(Decided::Step(step)) => Some(step),
                None => None,
            };
            if let Some(step) = step {
                self.take(step).await;
            }
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&self, wake: Option<Instant>) {
        let due = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.work.notified() => {}
            () = due => {}
        }
    }

    /// Decides about the next pod, if one is ready.
    fn next_step(&self, state: &mut State, pods: &Informer<CachedPod>) -> Option<Next> {
        loop {
            let now = Instant::now();
            let pod = state.queue.pop(now)?;
            let Some(object) = still_waiting(pods, &pod) else {
                state.queue.remove(&pod.key);
                continue;
            };
            if self.extenders.consults(&object) {
                let slots = state.core.feasible(&mut state.snapshot, &pod);
                let nodes = slots.into_iter().map(|slot| state.snapshot.name(slot).to_owned());
                let nodes: Vec<_> = nodes.collect();
                if !nodes.is_empty() {
                    let events = state.events;
                    return Some(Next::Consult(consult::Question { pod, object, nodes, events }));
                }
            }
            let decision = state.core.decide(&mut state.snapshot, &pod, rand::random());
            return Some(Next::Decided(self.decided(state, pod, object, decision, false)));
        }
    }

    async fn take(self: &Arc<Self>, step: Step) {
        let this = self.clone();
        match step {
            // A pod may wait for its volumes for long; the others do not wait for it.
            Step::Bind(binding) if !binding.work.is_empty() => {
                self.metrics.decided(&binding.attempt);
                self.tasks.spawn(async move { this.prepare_and_bind(binding).await });
            }
            Step::Bind(binding) => {
                self.metrics.decided(&binding.attempt);
                let Some(permit) = self.place_to_write().await else { return };
                self.tasks.spawn(async move {
                    if let Err(not_bound) = this.bind(&binding).await {
                        this.tell_and_take_back(&binding, &not_bound).await;
                    }
                    drop(permit);
                });
            }
            Step::Refuse(refused) => {
                let Some(permit) = self.place_to_write().await else { return };
                self.tasks.spawn(async move {
                    this.carry_out(&refused).await;
                    drop(permit);
                });
            }
        }
    }

    async fn carry_out(&self, refused: &Refused) {
        let outcome = if refused.reason == UNSCHEDULABLE { Outcome::Unschedulable } else { Outcome::Error };
        self.metrics.ended(outcome, scheduler_name(&refused.object), &refused.attempt);
        if refused.preemption_tried {
            self.metrics.preemption_tried();
        }
        self.tell(&refused.object, (refused.reason, &refused.message), &refused.nominated).await;
        if let Some(claim) = &refused.deallocation {
            self.deallocate(claim).await;
        }
        let evicted = match &refused.eviction {
            Some(plan) => {
                self.metrics.preempted(plan.victims.len());
                self.evict(&refused.object, &refused.nominated, plan).await
            }
            None => true,
        };
        self.state.lock().queue.let_go(&refused.object.key(), !evicted, Instant::now());
        self.work.notify_one();
    }
}

#[cfg(test)]
mod tests;
