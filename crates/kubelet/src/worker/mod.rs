//! One task per pod: it looks (spec, runtime, probes), lets the core decide, acts, and tells the
//! API. It waits for events, never for time, except where the core names a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::Resource;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::allocation;
use crate::context::Context;
use crate::events;
use crate::pod::backoff::{BackOffs, crash_loop};
use crate::pod::resources::pod_cgroup;
use crate::pod::state::{Outcome, ProbeResults, Run, RuntimeState};
use crate::pod::status::{
    StatusView, Verdict, Waiting, deadline, deadline_exceeded, is_terminal, pod_status, rejected,
};
use crate::pod::sync::{Action, View, backoff_key, is_done, sync_pod};
use crate::pod::{ProbeKind, find_container, is_static};
use crate::volumes::{self, Mounted};

mod ending;
mod hooks;
pub mod inbox;
mod kill;
pub mod post;
mod probing;
mod resize;
mod start;
mod upkeep;

#[cfg(test)]
mod tests;

use inbox::{Inbox, News};
use post::{Poster, Target, contradicts};

/// Retries of a sandbox that cannot be made: doubling up to this.
const MAX_SANDBOX_RETRY: SignedDuration = SignedDuration::from_secs(60);
/// Until the runtime is asked again after it gave no answer.
const BLIND_RETRY: Duration = Duration::from_secs(1);
/// Messages from a pod's own tasks waiting for it.
const EVENTS: usize = 256;
/// The longest nap: a look at everything now and then costs little.
const MAX_SLEEP: SignedDuration = SignedDuration::from_secs(90);

/// What a pod's own tasks report.
enum Event {
    Probe { container_id: String, kind: ProbeKind, outcome: Outcome },
    ContainerStarted,
    StartDone(start::Done),
    Stopped { container_id: String },
    Killed,
    Volumes(Result<Mounted, volumes::Failure>),
    Resized(resize::Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Fresh,
    Running,
    Terminating {
        grace: i64,
    },
    /// Nothing runs any more; waiting to be deleted.
    Terminated,
    Gone,
}

pub struct Worker {
    context: Arc<Context>,
    inbox: Arc<Inbox>,
    /// The pod with the resources it holds; `desired` has those it is to have.
    pod: Arc<Pod>,
    desired: Arc<Pod>,
    /// No longer in the API (or the manifest folder).
    removed: bool,
    mirror: Option<Target>,
    life: Life,
    state: RuntimeState,
    stale: bool,
    probes: ProbeResults,
    probers: HashMap<(String, ProbeKind), AbortHandle>,
    backoffs: BackOffs,
    waiting: BTreeMap<String, Waiting>,
    /// Containers not to be tried before a time.
    hold: HashMap<String, Timestamp>,
    /// Restart counts whose back-off was already told.
    told: HashMap<String, u32>,
    sandbox_failures: u32,
    failed: Option<Verdict>,
    status: Option<PodStatus>,
    mounted: Option<Arc<Mounted>>,
    volumes_at: Option<Timestamp>,
    /// Volumes are being brought up to date.
    following: bool,
    starting: Option<CancellationToken>,
    /// Config maps or secrets have changed since the start under way began.
    sources_moved: bool,
    stopping: HashMap<String, AbortHandle>,
    killing: Option<AbortHandle>,
    resizing: resize::Resizing,
    poster: Poster,
    /// What was posted last is not what the API tells.
    contradicted: bool,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    wake: Timestamp,
}

/// Runs a pod until it is gone or the kubelet stops; containers outlive the latter.
pub async fn run(context: Arc<Context>, inbox: Arc<Inbox>, pod: Arc<Pod>, cancel: CancellationToken) {
    let mut worker = Worker::new(context, inbox, pod);
    worker.refresh().await;
    while worker.stale {
        // Without a look at the runtime everything said about the pod would be wrong.
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(BLIND_RETRY) => worker.refresh().await,
        }
    }
    worker.adopt();
    worker.follow_objects();
    loop {
        if worker.stale {
            worker.wake = Timestamp::now() + SignedDuration::try_from(BLIND_RETRY).unwrap_or_default();
        } else if worker.step().await == Life::Gone {
            return;
        }
        let nap = worker.wake.duration_since(Timestamp::now()).clamp(SignedDuration::ZERO, MAX_SLEEP);
        let nap = Duration::try_from(nap).unwrap_or_default();
        tokio::select! {
            () = cancel.cancelled() => return worker.leave(),
            () = worker.inbox.changed() => {}
            event = worker.events.recv() => worker.absorb(event),
            () = tokio::time::sleep(nap) => {}
        }
        while let Ok(event) = worker.events.try_recv() {
            worker.absorb(Some(event));
        }
        let news = worker.inbox.take();
        worker.read(news);
        if worker.stale {
            worker.refresh().await;
        }
    }
}

impl Worker {
    fn new(context: Arc<Context>, inbox: Arc<Inbox>, pod: Arc<Pod>) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let desired = pod;
        let pod = allocation::restored(&context.config, desired.clone());
        let stored = desired.status.clone().filter(|_| !is_static(&desired));
        let poster = Poster::new(context.client.clone(), stored.map(|status| (target_of(&desired), status)));
        Worker {
            poster,
            contradicted: false,
            resizing: resize::Resizing::new(&context, &pod),
            desired,
            context,
            inbox,
            removed: false,
            mirror: None,
            life: Life::Fresh,
            state: RuntimeState::default(),
            stale: false,
            probes: ProbeResults::default(),
            probers: HashMap::new(),
            backoffs: BackOffs::default(),
            waiting: BTreeMap::new(),
            hold: HashMap::new(),
            told: HashMap::new(),
            sandbox_failures: 0,
            failed: None,
            status: pod.status.clone(),
            mounted: None,
            volumes_at: None,
            following: false,
            starting: None,
            sources_moved: false,
            stopping: HashMap::new(),
            killing: None,
            events,
            sender,
            wake: Timestamp::now(),
            pod,
        }
    }

    /// Takes up what an earlier kubelet left: results of probes that its status tells, instances it
    /// stopped to be started anew.
    fn adopt(&mut self) {
        self.adopt_replaced();
        let status = self.pod.status.clone().unwrap_or_default();
        let lists = [&status.init_container_statuses, &status.container_statuses];
        for old in lists.into_iter().flatten().flatten() {
            let Some(id) = old.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id)
            else {
                continue;
            };
            if !self.state.running().any(|c| c.id == id) {
                continue;
            }
            if old.started == Some(true) {
                self.probes.set(id, ProbeKind::Startup, Outcome::Success);
            }
            if old.ready {
                self.probes.set(id, ProbeKind::Readiness, Outcome::Success);
            }
        }
        if is_terminal(&status) && self.state.running().next().is_none() {
            let grace = crate::pod::grace_period_seconds(&self.pod);
            let left_over = self.state.sandboxes.iter().any(|s| s.ready);
            self.life = if left_over { Life::Terminating { grace } } else { Life::Terminated };
        }
    }

    fn leave(&mut self) {
        for (_, probe) in self.probers.drain() {
            probe.abort();
        }
        if let Some(starting) = self.starting.take() {
            starting.cancel();
        }
    }

    fn absorb(&mut self, event: Option<Event>) {
        match event {
            // We hold a sender: the channel cannot close.
            None => {}
            Some(Event::Probe { container_id, kind, outcome }) => {
                self.probes.set(&container_id, kind, outcome)
            }
            Some(Event::ContainerStarted) => self.stale = true,
            Some(Event::StartDone(done)) => self.start_done(done),
            Some(Event::Stopped { container_id }) => {
                self.stopping.remove(&container_id);
                self.stale = true;
            }
            Some(Event::Killed) => {
                self.killing = None;
                self.stale = true;
            }
            Some(Event::Resized(outcome)) => self.resized(outcome),
            Some(Event::Volumes(Ok(mounted))) => {
                self.following = false;
                self.mounted = Some(Arc::new(mounted));
            }
            Some(Event::Volumes(Err(failure))) => {
                self.following = false;
                debug!(volume = failure.volume, error = %failure.error, "a volume could not follow its source");
            }
        }
    }

    fn read(&mut self, news: News) {
        if let Some(pod) = news.pod {
            let meta_changed = pod.metadata.labels != self.pod.metadata.labels
                || pod.metadata.annotations != self.pod.metadata.annotations;
            if meta_changed {
                self.volumes_at = None;
                self.hold.clear();
            }
            self.contradicted |= contradicts(pod.status.as_ref(), self.status.as_ref());
            self.set_desired(pod);
            self.follow_objects();
        }
        if news.sources_changed {
            self.sources_changed();
        }
        self.removed |= news.removed;
        if news.mirror.is_some() {
            self.mirror = news.mirror;
        }
        self.stale |= news.runtime_changed;
    }

    async fn refresh(&mut self) {
        self.stale = false;
        match self.context.runtime.pod_state(self.pod.uid(), &self.state).await {
            Ok(state) => {
                self.context.runtime_health.seen();
                self.state = state;
                for record in &mut self.state.containers {
                    record.replaced = self.resizing.replaced.contains(&record.id);
                }
            }
            Err(error) => {
                debug!(%error, pod = self.pod.name(), "the runtime could not be asked");
                self.stale = true;
            }
        }
    }

    fn start_done(&mut self, done: start::Done) {
        self.starting = None;
        self.stale = true;
        self.mounted = done.mounted.or(self.mounted.take());
        if done.failed {
            self.sandbox_failures = (self.sandbox_failures + 1).min(10);
            let delay = SignedDuration::from_secs(1 << (self.sandbox_failures - 1)).min(MAX_SANDBOX_RETRY);
            self.hold.insert(String::new(), Timestamp::now() + delay);
        } else {
            self.sandbox_failures = 0;
            self.hold.remove("");
        }
        for (name, outcome) in done.outcomes {
            match outcome {
                None => {
                    self.waiting.remove(&name);
                    self.hold.remove(&name);
                }
                Some((waiting, retry)) => {
                    if !waiting.reason.is_empty() {
                        self.waiting.insert(name.clone(), waiting);
                    }
                    self.hold.insert(name, retry);
                }
            }
        }
        // What the start missed may be there by now.
        if std::mem::take(&mut self.sources_moved) {
            self.sources_changed();
        }
    }

    async fn step(&mut self) -> Life {
        let now = Timestamp::now();
        self.wake = now + MAX_SLEEP;
        let before = self.life;
        if self.life == Life::Fresh {
            self.life = if self.admitted(now) { Life::Running } else { Life::Terminated };
        }
        if self.life == Life::Running && !self.must_end(now) {
            self.advance(now);
        }
        self.end_step(now).await;
        if self.life != before {
            self.follow_objects();
        }
        self.reconcile_probes();
        if self.life != Life::Gone {
            self.publish(now);
        }
        self.life
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = self.wake.min(at);
    }

    /// Asks the node's admission once; a refused pod fails on the spot.
    fn admitted(&mut self, now: Timestamp) -> bool {
        let runs = !self.state.sandboxes.is_empty() || is_static(&self.pod);
        let Some(verdict) = self.inbox.admit(&self.pod, runs) else { return true };
        self.context.event(&self.pod, events::refused(&verdict));
        self.status = Some(rejected(&self.pod, &verdict, now));
        false
    }

    /// Begins the end of the pod, if it is time; true if so.
    fn must_end(&mut self, now: Timestamp) -> bool {
        if self.pod.metadata.deletion_timestamp.is_some() || self.removed {
            self.begin_end();
            return true;
        }
        let start = self.status.as_ref().and_then(|s| s.start_time.as_ref());
        if let Some(at) = deadline(&self.pod, start) {
            if now >= at {
                self.context.event(&self.pod, events::deadline_exceeded());
                self.failed = Some(deadline_exceeded());
                self.begin_end();
                return true;
            }
            self.wake_at(at);
        }
        if is_done(&self.pod, &self.state) || is_terminal(&self.compute(now, false)) {
            self.begin_end();
            return true;
        }
        false
    }

    fn compute(&self, now: Timestamp, over: bool) -> PodStatus {
        pod_status(&StatusView {
            pod: &self.pod,
            state: &self.state,
            probes: &self.probes,
            resize: &self.resizing.standing,
            actuated: &self.actuated(),
            waiting: &self.waiting,
            previous: self.status.as_ref(),
            failed: self.failed.as_ref(),
            over,
            host_ips: &self.context.host_ips(),
            runtime_name: &self.context.runtime.name,
            now,
        })
    }

    /// One round for a pod that lives.
    fn advance(&mut self, now: Timestamp) {
        self.resize(now);
        self.refresh_volumes(now);
        self.prune();
        let actions = sync_pod(&View {
            pod: &self.pod,
            state: &self.state,
            probes: &self.probes,
            backoffs: &self.backoffs,
            previous: self.status.as_ref(),
            now,
        });
        let mut starts = Vec::new();
        for action in actions {
            match action {
                Action::Stop { container_id, cause, .. } => self.stop(&container_id, cause),
                Action::BackOff { name, delay, until } => {
                    self.back_off(&name, delay);
                    self.wake_at(until);
                }
                Action::Start { ref name, .. } if self.held(name, now) => {}
                Action::StopSandbox { .. } | Action::CreateSandbox { .. } if self.held("", now) => {}
                other => starts.push(other),
            }
        }
        if !starts.is_empty() && self.starting.is_none() {
            self.start(starts, now);
        }
    }

    fn held(&mut self, name: &str, now: Timestamp) -> bool {
        // Nothing starts in a pod whose volumes could not be made.
        let until = [self.hold.get(name), self.hold.get("")].into_iter().flatten().max().copied();
        match until {
            Some(until) if now < until => {
                self.wake_at(until);
                true
            }
            _ => false,
        }
    }

    fn back_off(&mut self, name: &str, delay: SignedDuration) {
        let Some(spec) = find_container(&self.pod, name) else { return };
        let count = self.state.latest(name).map_or(0, |r| r.restart_count + 1);
        if self.told.insert(name.to_owned(), count) != Some(count) {
            let notice = events::restart_backs_off(name, &crate::pod::display(&self.pod));
            self.context.container_event(&self.pod, &spec, notice);
        }
        self.waiting.insert(name.to_owned(), crash_loop(name, &self.pod, delay));
    }

    fn start(&mut self, actions: Vec<Action>, now: Timestamp) {
        for action in &actions {
            let Action::Start { name, .. } = action else { continue };
            let Some(spec) = find_container(&self.pod, name) else { continue };
            if self.state.latest(name).is_some_and(|r| r.run == Run::Exited && !r.replaced) {
                self.backoffs.next(&backoff_key(&spec), now);
            }
        }
        if self.mounted.is_none() {
            self.resizing.cgroup = Some(pod_cgroup(&self.pod));
        }
        self.resizing.started_with = self.pod.clone();
        let cancel = CancellationToken::new();
        let job = start::Job {
            context: self.context.clone(),
            pod: self.pod.clone(),
            actions,
            mounted: self.mounted.clone(),
            sandbox: self.state.sandboxes.first().map(|s| (s.id.clone(), s.attempt, s.ips.clone())),
            running: self.state.running().map(|r| (r.name.clone(), r.id.clone())).collect(),
            cancel: cancel.clone(),
        };
        self.starting = Some(cancel);
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let started = sender.clone();
            // A full queue already holds a reason to look again.
            let done = job.run(move || drop(started.try_send(Event::ContainerStarted))).await;
            let _ = sender.send(Event::StartDone(done)).await;
        });
    }

    fn stop(&mut self, container_id: &str, cause: crate::pod::sync::Cause) {
        if self.stopping.contains_key(container_id) {
            return;
        }
        let Some(record) = self.state.containers.iter().find(|c| c.id == container_id).cloned() else {
            return;
        };
        let ip = self.pod_ip();
        let (context, pod, sender) = (self.context.clone(), self.pod.clone(), self.sender.clone());
        let id = record.id.clone();
        let task = tokio::spawn(async move {
            let container_id = record.id.clone();
            kill::container(context, pod, record, ip, cause).await;
            let _ = sender.send(Event::Stopped { container_id }).await;
        });
        self.stopping.insert(id, task.abort_handle());
    }

    fn pod_ip(&self) -> String {
        self.context.pod_ip(&self.pod, self.state.ips())
    }

    fn publish(&mut self, now: Timestamp) {
        let over = !matches!(self.life, Life::Running);
        let refused =
            self.life == Life::Terminated && self.state.sandboxes.is_empty() && self.status.is_some();
        let status = match &self.status {
            Some(status) if refused => status.clone(),
            _ => self.compute(now, over),
        };
        self.status = Some(status.clone());
        self.inbox.publish(&status);
        if let Some(target) = self.target() {
            self.poster.post(target, status, std::mem::take(&mut self.contradicted));
        }
    }

    fn target(&self) -> Option<Target> {
        if is_static(&self.pod) {
            return self.mirror.clone();
        }
        Some(target_of(&self.pod))
    }
}

fn target_of(pod: &Pod) -> Target {
    Target { namespace: pod.namespace().to_owned(), name: pod.name().to_owned(), uid: pod.uid().to_owned() }
}
