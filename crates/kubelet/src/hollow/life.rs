//! The life of one hollow pod: a runtime that is only imagined, under the kubelet's own decisions
//! ([`sync_pod`]) and its own status ([`pod_status`]). [`plan`] is a function of the pod, what was
//! imagined of it so far, its chance and the time.
//!
//! What is imagined is remembered only while something is to come; of a pod at rest the status tells
//! all there is to know, here as with a kubelet that was restarted.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use amphipod_client::pod::cut_resources;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::chance::{Chance, Draw};
use super::config::Behaviour;
use super::imagined::{Instance, Life, told, whole};
use crate::events::{self, Notice};
use crate::pod::backoff::{CRASH_LOOP, crash_loop};
use crate::pod::conditions::is_owned;
use crate::pod::resize::Standing;
use crate::pod::state::{Outcome, ProbeResults, Run, RuntimeState};
use crate::pod::status::{
    StatusView, Verdict, Waiting, deadline, deadline_exceeded, is_terminal, pod_status,
};
use crate::pod::sync::{Action, View as SyncView, backoff_key, is_done, sync_pod};
use crate::pod::{ContainerSpec, Kind, ProbeKind, annotation, display, find_container, grace_period_seconds};

/// Runs the containers of a pod for this many milliseconds, whatever its group says.
pub const COMPLETE_AFTER: &str = "hollow.amphipod.io/complete-after-ms";
/// What a process that ends on TERM, is killed, or crashes leaves behind.
const EXIT_TERMINATED: i32 = 0;
const EXIT_KILLED: i32 = 137;
const EXIT_CRASHED: i32 = 1;
/// A failed pull shows as `ErrImagePull` this long before it shows that it backs off.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);
const PULL_BACKS_OFF: &str = "ImagePullBackOff";
const PULL_ERROR: &str = "rpc error: code = Unavailable desc = hollow nodes were told to fail pulls";
/// Decisions at one moment: each starts or ends a container, so more than some for each container
/// would be a circle.
const ROUNDS_PER_CONTAINER: usize = 4;

/// What a plan looks at, besides what is imagined.
pub struct View<'a> {
    pub pod: &'a Pod,
    pub behaviour: &'a Behaviour,
    /// The pod's own.
    pub chance: Chance,
    pub host_ip: &'a str,
    /// Events are wanted.
    pub tell: bool,
    pub now: Timestamp,
}

/// An event, and the container it is about where it is not about the pod.
#[derive(Debug, PartialEq)]
pub struct Told {
    pub field_path: Option<String>,
    pub notice: Notice,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// What the API is to say, where it says something else.
    pub status: Option<PodStatus>,
    /// After that the object is to go.
    pub delete: bool,
    /// When there will be something to do again.
    pub due: Option<Timestamp>,
    pub told: Vec<Told>,
}

impl Plan {
    /// Nothing is left to do or to come: the status tells all.
    pub fn is_settled(&self) -> bool {
        self.status.is_none() && self.due.is_none() && !self.delete
    }
    fn wake_at(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

fn after(at: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration).ok().and_then(|d| at.checked_add(d).ok()).unwrap_or(Timestamp::MAX)
}

/// Brings a pod to `now`: what it does next, and when after that.
pub fn plan(view: &View, life: &mut Life) -> Plan {
    let mut plan = Plan::default();
    let pod = view.pod;
    if pod.status.as_ref().is_some_and(is_terminal) {
        plan.delete = is_to_go(pod) && !life.is_let_go;
        return plan;
    }
    let mut step = Step { view, life, plan: &mut plan, waiting: BTreeMap::new() };
    let (failed, over) = if pod.metadata.deletion_timestamp.is_some() {
        (None, step.end())
    } else if let Some(verdict) = step.deadline() {
        (Some(verdict), true)
    } else {
        (None, step.advance())
    };
    let waiting = step.waiting;
    if let (false, (_, Some(changes))) = (over, readiness(view, life)) {
        plan.wake_at(changes);
    }
    let mut new = status(view, life, &waiting, failed.as_ref(), over);
    if !over && is_terminal(&new) {
        // Nothing of it will start, as after an init container that failed for good.
        life.end_all(EXIT_TERMINATED, view.now);
        new = status(view, life, &waiting, None, true);
    }
    plan.delete = over && is_to_go(pod) && !life.is_let_go;
    plan.status = Some(new).filter(|new| differs(pod, new));
    plan
}

/// Deleted, and not yet let go of by its node: that is told by a grace period of 0.
fn is_to_go(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds != Some(0)
}

struct Step<'a> {
    view: &'a View<'a>,
    life: &'a mut Life,
    plan: &'a mut Plan,
    /// By container name, why it does not run.
    waiting: BTreeMap<String, Waiting>,
}

impl Step<'_> {
    /// A deleted pod runs down; true once nothing of it runs.
    fn end(&mut self) -> bool {
        let (pod, now) = (self.view.pod, self.view.now);
        let began = *self.life.ending.get_or_insert(now);
        if !self.life.is_ended() {
            let grace = Duration::from_secs(grace_period_seconds(pod).unsigned_abs());
            let wanted = self.view.chance.within(self.view.behaviour.stop, Draw::Stop, 0);
            if began == now {
                self.tell_killing();
            }
            let due = after(began, wanted.min(grace));
            if now < due {
                self.plan.wake_at(due);
                return false;
            }
            self.life.end_all(if wanted <= grace { EXIT_TERMINATED } else { EXIT_KILLED }, now);
        }
        true
    }

    fn deadline(&mut self) -> Option<Verdict> {
        let start = self.view.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
        let at = deadline(self.view.pod, start)?;
        if self.view.now < at {
            self.plan.wake_at(at);
            return None;
        }
        self.life.end_all(EXIT_TERMINATED, self.view.now);
        self.tell(None, events::deadline_exceeded);
        Some(deadline_exceeded())
    }

    /// Does all there is to do now; true if the pod ran to its end.
    fn advance(&mut self) -> bool {
        let (pod, now) = (self.view.pod, self.view.now);
        if !self.life.has_sandbox {
            let due =
                after(self.life.seen, self.view.chance.within(self.view.behaviour.start, Draw::Start, 0));
            if now < due {
                self.plan.wake_at(due);
                return false;
            }
            self.life.has_sandbox = true;
        }
        for _ in 0..=self.life.instances.len() * ROUNDS_PER_CONTAINER {
            self.end_those_due();
            let state = self.life.state(pod, true);
            if is_done(pod, &state) {
                self.life.end_all(EXIT_TERMINATED, now);
                return true;
            }
            if !self.act(&state) {
                break;
            }
        }
        false
    }

    fn end_those_due(&mut self) {
        for index in 0..self.life.instances.len() {
            let instance = &self.life.instances[index];
            let Some((duration, exit_code)) = self.run_of(instance) else { continue };
            let due = after(instance.started, duration);
            if due <= self.view.now {
                self.life.instances[index].end(exit_code, due);
            }
        }
        let dues = self.life.instances.iter().filter_map(|i| Some(after(i.started, self.run_of(i)?.0)));
        let next = dues.min();
        if let Some(next) = next {
            self.plan.wake_at(next);
        }
    }

    /// How long this instance runs, and how it ends, if it does so by itself.
    fn run_of(&self, instance: &Instance) -> Option<(Duration, i32)> {
        if instance.run != Run::Running {
            return None;
        }
        let (behaviour, turn) = (self.view.behaviour, instance.restarts);
        let chance = self.view.chance.part(&instance.name);
        let kind = find_container(self.view.pod, &instance.name)?.kind;
        if chance.happens(behaviour.crashes, Draw::Crash, turn) {
            return Some((chance.within(behaviour.crash_after, Draw::CrashAfter, turn), EXIT_CRASHED));
        }
        match kind {
            Kind::Init => Some((chance.within(behaviour.init, Draw::Init, turn), 0)),
            Kind::App => Some((self.completion(chance, turn)?, 0)),
            Kind::Sidecar | Kind::Ephemeral => None,
        }
    }

    fn completion(&self, chance: Chance, turn: u32) -> Option<Duration> {
        if let Some(told) = annotation(self.view.pod, COMPLETE_AFTER).and_then(|text| text.parse().ok()) {
            return Some(Duration::from_millis(told));
        }
        let owners = self.view.pod.metadata.owner_references.iter().flatten();
        let of_job = owners.into_iter().any(|o| o.controller == Some(true) && o.kind == "Job");
        let span = self.view.behaviour.completion.filter(|_| of_job)?;
        Some(chance.within(span, Draw::Completion, turn))
    }

    /// Follows the kubelet's decisions; false when there are none left to follow now.
    fn act(&mut self, state: &RuntimeState) -> bool {
        let (pod, now) = (self.view.pod, self.view.now);
        self.waiting.clear();
        let actions = sync_pod(&SyncView {
            pod,
            state,
            probes: &ProbeResults::default(),
            backoffs: &self.life.backoffs,
            previous: pod.status.as_ref(),
            now,
        });
        let mut acted = false;
        for action in actions {
            match action {
                Action::Start { name, restart_count, .. } => acted |= self.start(&name, restart_count),
                Action::Stop { name, cause, .. } => {
                    if let Some(instance) = self.life.instances.iter_mut().find(|i| i.name == name) {
                        instance.end(EXIT_TERMINATED, now);
                        instance.replaced = true;
                        acted = true;
                        self.tell(Some(&name), || events::killing(cause.message(&name)));
                    }
                }
                Action::BackOff { name, delay, until } => {
                    self.plan.wake_at(until);
                    if !self.says(&name, CRASH_LOOP) {
                        self.tell(Some(&name), || events::restart_backs_off(&name, &display(pod)));
                    }
                    self.waiting.insert(name.clone(), crash_loop(&name, pod, delay));
                }
                // The one sandbox there is will always do.
                Action::StopSandbox { .. } | Action::CreateSandbox { .. } => {}
            }
        }
        acted
    }

    /// True if the container runs now.
    fn start(&mut self, name: &str, restarts: u32) -> bool {
        let Some(spec) = find_container(self.view.pod, name) else { return false };
        let Some(index) = self.life.instances.iter().position(|i| i.name == name) else { return false };
        let is_new = self.life.instances[index].run == Run::Created;
        if is_new && !self.pull(index, &spec) {
            return false;
        }
        let instance = &mut self.life.instances[index];
        if instance.run == Run::Exited && !instance.replaced {
            self.life.backoffs.next(&backoff_key(&spec), self.view.now);
        }
        instance.begin(&spec, restarts, self.view.now);
        if !is_new {
            self.tell(Some(name), || events::image_present(spec.container.image.as_deref().unwrap_or("")));
        }
        self.tell(Some(name), events::created);
        self.tell(Some(name), events::started);
        true
    }

    /// True once the image is there.
    fn pull(&mut self, index: usize, spec: &ContainerSpec) -> bool {
        let now = self.view.now;
        let image = spec.container.image.clone().unwrap_or_default();
        let key = format!("pull_{image}");
        let chance = self.view.chance.part(spec.name());
        let instance = &mut self.life.instances[index];
        if let Some((_, until)) = self.life.backoffs.waiting_since_update(&key, now) {
            let shown = instance.pull_failed + PULL_ERROR_SHOWN;
            let waiting = if now < shown {
                self.plan.wake_at(shown);
                Waiting { reason: "ErrImagePull".to_owned(), message: PULL_ERROR.to_owned() }
            } else {
                let notice = events::pull_backs_off(&image);
                let message = format!("{}: ErrImagePull: {PULL_ERROR}", notice.message);
                if !self.says(spec.name(), PULL_BACKS_OFF) {
                    self.tell(Some(spec.name()), || notice);
                }
                Waiting { reason: PULL_BACKS_OFF.to_owned(), message }
            };
            self.plan.wake_at(until);
            self.waiting.insert(spec.name().to_owned(), waiting);
            return false;
        }
        let attempt = instance.failed_pulls;
        if chance.happens(self.view.behaviour.image_pull_failures, Draw::ImagePull, attempt) {
            instance.failed_pulls += 1;
            instance.pull_failed = now;
            self.life.backoffs.next(&key, now);
            self.plan.wake_at(now + PULL_ERROR_SHOWN);
            self.tell(Some(spec.name()), || events::pulling(&image));
            self.tell(Some(spec.name()), || events::pull_failed(&image, PULL_ERROR));
            self.tell(Some(spec.name()), || events::start_failed("ErrImagePull"));
            let waiting = Waiting { reason: "ErrImagePull".to_owned(), message: PULL_ERROR.to_owned() };
            self.waiting.insert(spec.name().to_owned(), waiting);
            return false;
        }
        self.tell(Some(spec.name()), || events::image_present(&image));
        true
    }

    /// The API says already that this container waits for that reason.
    fn says(&self, name: &str, reason: &str) -> bool {
        let status = self.view.pod.status.as_ref().and_then(|s| told(s, name));
        let waiting = status.and_then(|s| s.state.as_ref()?.waiting.as_ref());
        waiting.is_some_and(|w| w.reason.as_deref() == Some(reason))
    }

    fn tell_killing(&mut self) {
        let running = self.life.instances.iter().filter(|i| i.run == Run::Running);
        for name in running.map(|i| i.name.clone()).collect::<Vec<_>>() {
            self.tell(Some(&name), || events::killing(format!("Stopping container {name}")));
        }
    }

    /// About a container, or the pod.
    fn tell(&mut self, container: Option<&str>, notice: impl FnOnce() -> Notice) {
        if self.view.tell {
            let spec = container.and_then(|name| find_container(self.view.pod, name));
            self.plan.told.push(Told { field_path: spec.map(|s| s.field_path()), notice: notice() });
        }
    }
}

/// What readiness probes say by now, and when they will say something else.
fn readiness(view: &View, life: &Life) -> (ProbeResults, Option<Timestamp>) {
    let (mut results, mut changes) = (ProbeResults::default(), None);
    let Some(readiness) = view.behaviour.readiness else { return (results, changes) };
    for instance in life.instances.iter().filter(|instance| instance.run == Run::Running) {
        let Some(begins) = life.probes.get(&instance.name) else { continue };
        let (chance, turn) = (view.chance.part(&instance.name), instance.restarts);
        if chance.happens(readiness.never, Draw::NeverReady, turn) {
            continue;
        }
        let passes = after(instance.started, chance.within(readiness.after, Draw::Ready, turn).max(*begins));
        if passes <= view.now {
            results.set(&instance.id(view.pod, turn), ProbeKind::Readiness, Outcome::Success);
        } else {
            changes = Some(changes.map_or(passes, |known: Timestamp| known.min(passes)));
        }
    }
    (results, changes)
}

fn status(
    view: &View,
    life: &Life,
    waiting: &BTreeMap<String, Waiting>,
    failed: Option<&Verdict>,
    over: bool,
) -> PodStatus {
    pod_status(&StatusView {
        pod: view.pod,
        state: &life.state(view.pod, !over),
        probes: &readiness(view, life).0,
        resize: &Standing::default(),
        actuated: &HashMap::new(),
        waiting,
        previous: view.pod.status.as_ref(),
        failed,
        over,
        host_ips: &[view.host_ip.to_owned()],
        runtime_name: "hollow",
        now: whole(view.now),
    })
}

/// Whether the API says something else, in what is a kubelet's to say. Others change conditions that
/// are ours as well: those of a node that was not heard of say that it is not ready.
fn differs(pod: &Pod, new: &PodStatus) -> bool {
    let Some(old) = &pod.status else { return true };
    let says = |condition: &PodCondition| old.conditions.iter().flatten().any(|c| c == condition);
    let own = new.conditions.iter().flatten().filter(|c| is_owned(&c.type_));
    !own.into_iter().all(says)
        || (&new.phase, &new.reason, &new.message) != (&old.phase, &old.reason, &old.message)
        || (&new.pod_ip, &new.pod_ips) != (&old.pod_ip, &old.pod_ips)
        || (&new.host_ip, &new.host_ips) != (&old.host_ip, &old.host_ips)
        || (&new.start_time, &new.qos_class) != (&old.start_time, &old.qos_class)
        || new.observed_generation != old.observed_generation
        || told_of(pod, &new.container_statuses) != told_of(pod, &old.container_statuses)
        || told_of(pod, &new.init_container_statuses) != told_of(pod, &old.init_container_statuses)
}

/// Without resources that are as asked for: caches leave those out.
fn told_of(pod: &Pod, statuses: &Option<Vec<ContainerStatus>>) -> Vec<ContainerStatus> {
    let mut statuses = statuses.clone().unwrap_or_default();
    for status in &mut statuses {
        if let Some(spec) = find_container(pod, &status.name) {
            cut_resources(status, spec.container.resources.as_ref());
        }
    }
    statuses
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
