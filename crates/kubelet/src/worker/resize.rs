//! Resizing a pod in place: asking for room, putting what was granted in force, telling both.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use amphipod_client::Resource;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use tracing::{debug, warn};

use super::{Event, Worker};
use crate::allocation::{self, Actuated};
use crate::context::Context;
use crate::events;
use crate::pod::resize::{self, Pending, Plan, Progress, Running, Standing, Step};
use crate::pod::resources::{PodCgroup, pod_cgroup, qos_class};
use crate::pod::state::ContainerRecord;
use crate::pod::sync::Cause;
use crate::pod::{find_container, is_static};

/// Until a resize that failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

pub struct Resizing {
    pub standing: Standing,
    pub actuated: Actuated,
    /// The pod as it was when containers were last started.
    pub started_with: Arc<Pod>,
    /// What the pod's cgroup is set to, once known.
    pub cgroup: Option<PodCgroup>,
    /// Instances stopped to be started anew with other resources.
    pub replaced: HashSet<String>,
    under_way: bool,
    not_before: Timestamp,
}

/// What came of putting a plan in force: the pod's cgroup as it is then, and why it went no further.
pub struct Outcome {
    pod: Arc<Pod>,
    plan: Plan,
    cgroup: Option<PodCgroup>,
    error: Option<String>,
}

impl Resizing {
    pub fn new(context: &Context, pod: &Arc<Pod>) -> Self {
        Resizing {
            standing: pod.status.as_ref().map(Standing::restored).unwrap_or_default(),
            actuated: allocation::read_actuated(&context.config, pod.uid()),
            started_with: pod.clone(),
            cgroup: None,
            replaced: HashSet::new(),
            under_way: false,
            not_before: Timestamp::UNIX_EPOCH,
        }
    }
}

impl Worker {
    /// One round for a pod that lives.
    pub(super) fn resize(&mut self, now: Timestamp) {
        self.note_started();
        self.ask_for_room();
        self.put_in_force(now);
    }

    /// The spec as it is wanted now; resources change only when they are granted.
    pub(super) fn set_desired(&mut self, desired: Arc<Pod>) {
        self.pod = if resize::same_resources(&desired, &self.pod) {
            desired.clone()
        } else {
            Arc::new(resize::with_resources(&desired, &self.pod))
        };
        self.desired = desired;
    }

    /// New instances have the resources they were started with.
    fn note_started(&mut self) {
        let mut changed = false;
        for record in self.state.running() {
            if self.resizing.actuated.contains_key(&record.id) {
                continue;
            }
            let Some(spec) = find_container(&self.resizing.started_with, &record.name) else { continue };
            let resources = spec.container.resources.clone().unwrap_or_default();
            self.resizing.actuated.insert(record.id.clone(), (record.name.clone(), resources));
            changed = true;
        }
        let Resizing { replaced, actuated, .. } = &mut self.resizing;
        let containers = &self.state.containers;
        replaced.retain(|id| containers.iter().any(|c| c.id == *id));
        // What a stopped instance had says that it was stopped to be started anew: should this
        // kubelet end before that, the next one reads it here.
        let to_come = |c: &ContainerRecord| {
            replaced.contains(&c.id) && self.state.latest(&c.name).is_some_and(|latest| latest.id == c.id)
        };
        let before = actuated.len();
        actuated.retain(|id, _| containers.iter().any(|c| c.id == *id && (!c.is_over() || to_come(c))));
        if changed || actuated.len() != before {
            self.write_actuated();
        }
    }

    /// Takes up what an earlier kubelet began: instances that ended while they had what only a
    /// restart changes into what the pod holds.
    pub(super) fn adopt_replaced(&mut self) {
        for record in self.state.containers.iter_mut().filter(|c| c.is_over()) {
            let Some((name, actuated)) = self.resizing.actuated.get(&record.id) else { continue };
            let Some(spec) = find_container(&self.pod, name) else { continue };
            if resize::is_resizable(&self.pod, name) && resize::needs_restart(&spec.container, actuated) {
                record.replaced = true;
                self.resizing.replaced.insert(record.id.clone());
            }
        }
    }

    fn write_actuated(&self) {
        let (config, actuated) = (&self.context.config, &self.resizing.actuated);
        if let Err(error) = allocation::write_actuated(config, self.pod.uid(), actuated) {
            warn!(%error, pod = self.pod.name(), "what containers were given was not written down");
        }
    }

    fn ask_for_room(&mut self) {
        if is_static(&self.pod) {
            return;
        }
        let has_all = resize::same_resources(&self.desired, &self.pod);
        if has_all && self.resizing.standing.pending.is_none() {
            return;
        }
        let generation = self.desired.metadata.generation;
        match self.inbox.resize(&self.desired) {
            // What was asked for may have been granted just before it was wanted no more: only
            // asking for what is there gives that back.
            Ok(()) if has_all => self.resizing.standing.pending = None,
            Ok(()) => {
                self.pod = self.desired.clone();
                let progress = Some(Progress { error: None, generation });
                self.resizing.standing = Standing { pending: None, progress };
                self.resizing.not_before = Timestamp::UNIX_EPOCH;
                self.context.event(&self.pod, events::resize_started(&self.pod));
            }
            Err(refusal) => {
                let (reason, message) = (refusal.reason().to_owned(), refusal.message().to_owned());
                let known = self.resizing.standing.pending.as_ref();
                if known.is_none_or(|p| p.reason != reason || p.message != message) {
                    self.context.event(&self.pod, events::resize_pending(&self.desired, &refusal));
                }
                self.resizing.standing.pending = Some(Pending { reason, message, generation });
            }
        }
    }

    fn put_in_force(&mut self, now: Timestamp) {
        if self.resizing.under_way {
            return;
        }
        let actuated = &self.resizing.actuated;
        let running: Vec<Running> = self
            .state
            .running()
            .filter(|r| resize::is_resizable(&self.pod, &r.name))
            .filter_map(|r| Some(Running { id: &r.id, name: &r.name, actuated: &actuated.get(&r.id)?.1 }))
            .collect();
        let current =
            self.resizing.cgroup.unwrap_or_else(|| pod_cgroup(&resize::in_force(&self.pod, &running)));
        let plan = resize::plan(current, &self.pod, &running, self.context.machine.memory_bytes);
        let ids: Vec<String> = running.iter().map(|r| r.id.to_owned()).collect();
        self.resizing.cgroup = Some(current);
        if plan.is_empty() {
            return self.complete();
        }
        for id in &plan.restarts {
            self.resizing.replaced.insert(id.clone());
            self.stop(id, Cause::Resized);
        }
        if plan.steps.is_empty() {
            // With instances yet to stop there is nothing to do before they have, and that wakes us.
            if !plan.done.is_empty() {
                self.note_done(&plan, &self.pod.clone());
            }
            return;
        }
        if now < self.resizing.not_before {
            return self.wake_at(self.resizing.not_before);
        }
        self.resizing.under_way = true;
        let (context, pod, sender) = (self.context.clone(), self.pod.clone(), self.sender.clone());
        tokio::spawn(async move {
            let outcome = act(&context, pod, plan, &ids).await;
            let _ = sender.send(Event::Resized(outcome)).await;
        });
    }

    /// Everything granted is in force, unless an instance stopped for it is yet to come back.
    fn complete(&mut self) {
        let coming = self.state.containers.iter().any(|c| {
            self.resizing.replaced.contains(&c.id)
                && self.state.latest(&c.name).is_some_and(|latest| latest.id == c.id)
        });
        if coming {
            return;
        }
        if let Some(progress) = self.resizing.standing.progress.take() {
            self.context.event(&self.pod, events::resize_completed(&self.pod, progress.generation));
        }
    }

    pub(super) fn resized(&mut self, outcome: Outcome) {
        self.resizing.under_way = false;
        if outcome.cgroup.is_some() {
            self.resizing.cgroup = outcome.cgroup;
        }
        let Some(error) = outcome.error else {
            self.resizing.not_before = Timestamp::UNIX_EPOCH;
            return self.note_done(&outcome.plan, &outcome.pod);
        };
        debug!(error, pod = self.pod.name(), "a resize was not put in force");
        self.resizing.not_before = Timestamp::now() + RETRY;
        let progress = self.resizing.standing.progress.get_or_insert_default();
        progress.generation = self.pod.metadata.generation;
        if progress.error.as_ref() != Some(&error) {
            progress.error = Some(error.clone());
            self.context.event(&self.pod, events::resize_error(&self.pod, &error));
        }
    }

    fn note_done(&mut self, plan: &Plan, pod: &Pod) {
        for (id, name) in &plan.done {
            let Some(spec) = find_container(pod, name) else { continue };
            let resources = spec.container.resources.clone().unwrap_or_default();
            self.resizing.actuated.insert(id.clone(), (name.clone(), resources));
        }
        if let Some(progress) = &mut self.resizing.standing.progress {
            progress.error = None;
        }
        self.write_actuated();
        // The next look says whether that was all.
        self.wake_at(Timestamp::now());
    }

    /// By container id, for the status.
    pub(super) fn actuated(&self) -> HashMap<&str, &ResourceRequirements> {
        self.resizing.actuated.iter().map(|(id, (_, resources))| (id.as_str(), resources)).collect()
    }
}

async fn act(context: &Context, pod: Arc<Pod>, plan: Plan, running: &[String]) -> Outcome {
    let mut outcome =
        Outcome { error: too_much_used(context, &plan, running).await, pod, plan, cgroup: None };
    if outcome.error.is_some() {
        return outcome;
    }
    for step in &outcome.plan.steps {
        let done = match step {
            Step::Pod(limits) => {
                let done = context.cgroups.update(outcome.pod.uid(), qos_class(&outcome.pod), limits);
                if done.is_ok() {
                    outcome.cgroup = Some(*limits);
                }
                done
            }
            Step::Container { id, resources } => {
                context.runtime.update_resources(id, resources.clone()).await
            }
        };
        if let Err(error) = done {
            outcome.error = Some(error.with_code());
            break;
        }
    }
    outcome
}

async fn too_much_used(context: &Context, plan: &Plan, running: &[String]) -> Option<String> {
    if plan.lowered.is_empty() && plan.pod_lowered.is_none() {
        return None;
    }
    let mut usage = HashMap::new();
    for id in running {
        if let Some(bytes) = context.runtime.memory_usage(id).await {
            usage.insert(id.as_str(), bytes);
        }
    }
    let pod = (usage.len() == running.len()).then(|| usage.values().sum());
    resize::still_used(plan, |id| usage.get(id).copied(), pod)
}
