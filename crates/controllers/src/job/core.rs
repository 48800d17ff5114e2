//! One sync of a job as two functions: `plan` decides what to create, delete, count and release;
//! `settle` closes the books once the finalizers are off.
//!
//! A pod's end is counted exactly once: its uid goes into `uncountedTerminatedPods` (or its index
//! into `completedIndexes`), that is stored, the finalizer is removed, and only then does the uid
//! turn into a number.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{CachedPod, Resource};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};

use super::backoff::Backoff;
use super::failure_policy;
use super::indexes::Indexes;
use super::view::{Settings, condition, is_tracked, make_condition, removable};
use crate::{meta, pods};

/// Pods made or deleted in one sync.
const BURST: usize = 500;
/// Uids held in the status at once.
const MAX_UNCOUNTED: usize = 500;

pub struct View<'a> {
    pub pods: &'a [Arc<CachedPod>],
    /// The cache shows all pods this controller made and deleted.
    pub may_manage: bool,
    /// Pods whose finalizer is off already, whatever the cache says.
    pub released: &'a HashSet<String>,
    pub backoff: Backoff,
}

/// Type, reason and message of an event on the job.
pub type Told = (&'static str, String, String);

#[derive(Debug, Default)]
pub struct Plan {
    pub delete: Vec<Arc<CachedPod>>,
    /// The deleted pods were too many, not failures: their finalizers go first, uncounted.
    pub discard: bool,
    /// One entry per pod; its completion index for indexed jobs.
    pub create: Vec<Option<i32>>,
    /// Finalizers to remove, after `status` is stored.
    pub release: Vec<Arc<CachedPod>>,
    pub status: JobStatus,
    /// The terminal condition, due once every pod is counted and gone.
    pub finish: Option<JobCondition>,
    pub events: Vec<Told>,
    pub backoff: Backoff,
    pub again: Option<Duration>,
}

struct Work<'a> {
    job: &'a Job,
    settings: Settings<'a>,
    view: &'a View<'a>,
    now: Timestamp,
    active: Vec<Arc<CachedPod>>,
    uncounted: UncountedTerminatedPods,
    succeeded_indexes: Indexes,
    succeeded: i32,
    failed: i32,
    plan: Plan,
}

pub fn plan(view: &View, job: &Job, now: Timestamp) -> Plan {
    let Some(spec) = &job.spec else { return Plan::default() };
    let mut work = Work::new(job, Settings::of(spec), view, now);
    work.start_clock();
    work.count();
    let finish = work.verdict();
    let finish = match finish {
        Some(finish) => work.wind_down(finish),
        None => work.carry_on(),
    };
    work.account(finish.as_ref());
    work.plan.finish = work.note_interim(finish);
    let uncounted = work.uncounted;
    work.plan.status.uncounted_terminated_pods = Some(uncounted);
    work.plan
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl<'a> Work<'a> {
    fn new(job: &'a Job, settings: Settings<'a>, view: &'a View<'a>, now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let completions = settings.completions.unwrap_or(i32::MAX);
        let succeeded_indexes =
            Indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions);
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let active = view.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let plan = Plan { status, backoff: view.backoff, ..Plan::default() };
        Work { job, settings, view, now, active, uncounted, succeeded_indexes, succeeded: 0, failed: 0, plan }
    }

    fn start_clock(&mut self) {
        if self.plan.status.start_time.is_none() && !self.settings.suspended {
            self.plan.status.start_time = meta::time(self.now);
        }
    }

    fn wake_in(&mut self, delay: Duration) {
        self.plan.again = Some(self.plan.again.map_or(delay, |already| already.min(delay)));
    }

    /// Tracked pods of a kind whose end is not in the books yet.
    fn fresh(&self, counted: Option<&Vec<String>>, is: impl Fn(&CachedPod) -> bool) -> Vec<Arc<CachedPod>> {
        let known = |pod: &CachedPod| counted.is_some_and(|uids| uids.iter().any(|uid| uid == pod.uid()));
        let fresh = |pod: &&Arc<CachedPod>| {
            is(pod)
                && is_tracked(pod)
                && !known(pod)
                && !self.view.released.contains(pod.uid())
                && self.settings.is_countable(pod)
        };
        self.view.pods.iter().filter(fresh).cloned().collect()
    }

    /// What has succeeded and failed so far, books and fresh ends together.
    fn count(&mut self) {
        let succeeded = self.fresh(self.uncounted.succeeded.as_ref(), |pod| pods::phase(pod) == "Succeeded");
        let failed = self.fresh(self.uncounted.failed.as_ref(), |pod| self.settings.has_failed(pod));
        let status = &self.plan.status;
        let in_books = |uids: Option<&Vec<String>>| number(uids.map_or(0, Vec::len));
        self.succeeded = if self.settings.indexed {
            let indexes = succeeded.iter().filter_map(|pod| self.settings.index(pod));
            self.succeeded_indexes.with(indexes).len()
        } else {
            status.succeeded.unwrap_or(0)
                + number(succeeded.len())
                + in_books(self.uncounted.succeeded.as_ref())
        };
        let counting = failed.iter().filter(|pod| !failure_policy::is_ignored(self.settings.spec, pod));
        self.failed =
            status.failed.unwrap_or(0) + number(counting.count()) + in_books(self.uncounted.failed.as_ref());
        self.plan.backoff = self.view.backoff.after(&succeeded, &failed, self.now);
        self.refresh_counts();
    }

    fn refresh_counts(&mut self) {
        let ready = self.active.iter().filter(|pod| pods::is_ready(pod)).count();
        let terminating =
            self.view.pods.iter().filter(|pod| pod.is_terminating() && !pods::is_terminal(pod)).count();
        let status = &mut self.plan.status;
        status.active = Some(number(self.active.len())).filter(|n| *n != 0);
        status.ready = Some(number(ready));
        status.terminating = Some(number(terminating));
    }

    /// Whether the job is to end, and why.
    fn verdict(&mut self) -> Option<JobCondition> {
        let (status, now) = (&self.plan.status, self.now);
        if let Some(target) = condition(status, "FailureTarget") {
            return Some(target.clone());
        }
        if let Some(met) = condition(status, "SuccessCriteriaMet") {
            return Some(met.clone());
        }
        if let Some(message) = failure_policy::fail_job_message(self.settings.spec, self.view.pods) {
            return Some(make_condition("FailureTarget", "PodFailurePolicy", &message, now));
        }
        if self.failed > self.settings.backoff_limit || self.restarts_exhausted() {
            let message = "Job has reached the specified backoff limit";
            return Some(make_condition("FailureTarget", "BackoffLimitExceeded", message, now));
        }
        let deadline = self.settings.spec.active_deadline_seconds.filter(|_| !self.settings.suspended)?;
        let start = status.start_time.as_ref()?.0;
        let remaining = meta::until(meta::plus_seconds(start, deadline), now);
        if remaining.is_zero() {
            let message = "Job was active longer than specified deadline";
            return Some(make_condition("FailureTarget", "DeadlineExceeded", message, now));
        }
        self.wake_in(remaining);
        None
    }

    /// With restartPolicy OnFailure failures show as restarts, not as failed pods.
    fn restarts_exhausted(&self) -> bool {
        let spec = self.settings.spec.template.spec.as_ref();
        if spec.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = |pod: &&Arc<CachedPod>| matches!(pods::phase(pod), "Running" | "Pending");
        let restarts =
            self.view.pods.iter().filter(running).map(|pod| pods::restarts(pod)).fold(0, i32::saturating_add);
        match self.settings.backoff_limit {
            0 => restarts > 0,
            limit => restarts >= limit,
        }
    }

    /// The job ends: its active pods go, and it may be declared finished once all are known gone.
    fn wind_down(&mut self, finish: JobCondition) -> Option<JobCondition> {
        let doomed = std::mem::take(&mut self.active);
        let ready_gone = doomed.len();
        self.plan.delete = doomed;
        self.plan.status.active = None;
        self.plan.status.ready = Some(0);
        if let Some(terminating) = &mut self.plan.status.terminating {
            *terminating += number(ready_gone);
        }
        self.view.may_manage.then_some(finish)
    }

    fn carry_on(&mut self) -> Option<JobCondition> {
        let manage = self.view.may_manage && !self.job.is_terminating();
        if manage {
            self.manage();
        }
        let active = number(self.active.len());
        let complete = match self.settings.completions {
            None => self.succeeded > 0 && active == 0,
            Some(completions) => self.succeeded >= completions && active == 0,
        };
        if complete && self.plan.create.is_empty() {
            let message = "Reached expected number of succeeded pods";
            return Some(make_condition("SuccessCriteriaMet", "CompletionsReached", message, self.now));
        }
        if manage {
            self.note_suspension();
        }
        None
    }

    fn manage(&mut self) {
        if self.settings.suspended {
            return self.remove(self.active.len());
        }
        let active = number(self.active.len());
        let wanted = match self.settings.completions {
            None if self.succeeded > 0 => active,
            None => self.settings.parallelism,
            Some(completions) => (completions - self.succeeded).min(self.settings.parallelism).max(0),
        };
        let surplus = usize::try_from(active - wanted).unwrap_or(0);
        let foreign = removable(&self.settings, &self.active, 0, self.now).len();
        if surplus.max(foreign) > 0 {
            return self.remove(surplus);
        }
        let terminating = self.plan.status.terminating.unwrap_or(0);
        let waiting_for = if self.settings.replace_only_failed { terminating } else { 0 };
        let lack = usize::try_from(wanted - active - waiting_for).unwrap_or(0).min(BURST);
        if lack > 0 {
            self.add(lack);
        }
    }

    fn remove(&mut self, at_least: usize) {
        let mut doomed = removable(&self.settings, &self.active, at_least, self.now);
        doomed.truncate(BURST);
        let gone: HashSet<&str> = doomed.iter().map(|pod| pod.uid()).collect();
        self.active.retain(|pod| !gone.contains(pod.uid()));
        self.refresh_counts();
        if let Some(terminating) = &mut self.plan.status.terminating {
            *terminating += number(doomed.len());
        }
        self.plan.delete = doomed;
        self.plan.discard = true;
    }

    fn add(&mut self, lack: usize) {
        let pause = self.plan.backoff.remaining(self.now);
        if !pause.is_zero() {
            return self.wake_in(pause);
        }
        self.plan.create = if self.settings.indexed {
            let busy = |pod: &&Arc<CachedPod>| {
                pods::is_active(pod) || (self.settings.replace_only_failed && !pods::is_terminal(pod))
            };
            let taken: BTreeSet<i32> =
                self.view.pods.iter().filter(busy).filter_map(|pod| self.settings.index(pod)).collect();
            let fresh = self
                .fresh(None, |pod| pods::phase(pod) == "Succeeded")
                .iter()
                .filter_map(|pod| self.settings.index(pod))
                .collect::<Vec<_>>();
            let done = self.succeeded_indexes.with(fresh);
            let completions = self.settings.completions.unwrap_or(0);
            done.missing(&taken, completions, lack).into_iter().map(Some).collect()
        } else {
            vec![None; lack]
        };
        let active = number(self.active.len() + self.plan.create.len());
        self.plan.status.active = Some(active).filter(|n| *n != 0);
    }

    fn note_suspension(&mut self) {
        let now = self.now;
        let conditions = self.plan.status.conditions.get_or_insert_default();
        let current = conditions.iter_mut().find(|c| c.type_ == "Suspended");
        let (status, reason, message) = if self.settings.suspended {
            ("True", "JobSuspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Job resumed")
        };
        let changed = match current {
            Some(condition) if condition.status == status => false,
            Some(condition) => {
                *condition = make_condition("Suspended", reason, message, now);
                condition.status = status.to_owned();
                true
            }
            None if self.settings.suspended => {
                conditions.push(make_condition("Suspended", reason, message, now));
                true
            }
            None => false,
        };
        if !changed {
            return;
        }
        if !self.settings.suspended {
            self.plan.status.start_time = meta::time(now);
        }
        let event = if self.settings.suspended { "Suspended" } else { "Resumed" };
        self.plan.events.push(("Normal", event.to_owned(), message.to_owned()));
    }

    /// Enters ended pods in the books and lists whose finalizer may go.
    fn account(&mut self, finish: Option<&JobCondition>) {
        let failing = finish.is_some_and(|c| c.type_ == "FailureTarget");
        let mut indexes = Vec::new();
        let mut entries = self.uncounted.succeeded.as_ref().map_or(0, Vec::len)
            + self.uncounted.failed.as_ref().map_or(0, Vec::len);
        for pod in self.view.pods {
            if !is_tracked(pod) || self.view.released.contains(pod.uid()) {
                continue;
            }
            let succeeded = pods::phase(pod) == "Succeeded";
            let failed = self.settings.has_failed(pod);
            if !(succeeded || failed || finish.is_some() || self.job.is_terminating()) {
                continue;
            }
            self.plan.release.push(pod.clone());
            if !self.settings.is_countable(pod) {
                continue;
            }
            if succeeded && self.settings.indexed {
                indexes.extend(self.settings.index(pod));
                entries += 1;
            } else if succeeded {
                entries += note(self.uncounted.succeeded.get_or_insert_default(), pod.uid());
            } else if (failed || failing) && !failure_policy::is_ignored(self.settings.spec, pod) {
                entries += note(self.uncounted.failed.get_or_insert_default(), pod.uid());
            }
            if entries >= MAX_UNCOUNTED {
                break;
            }
        }
        if self.settings.indexed {
            let all = self.succeeded_indexes.with(indexes);
            self.plan.status.succeeded = Some(all.len()).filter(|n| *n != 0);
            self.plan.status.completed_indexes = Some(all.to_string()).filter(|text| !text.is_empty());
        }
    }

    /// The condition that announces the end is shown before the one that states it.
    fn note_interim(&mut self, finish: Option<JobCondition>) -> Option<JobCondition> {
        let finish = finish?;
        let last = if finish.type_ == "FailureTarget" { "Failed" } else { "Complete" };
        let terminal = make_condition(
            last,
            finish.reason.as_deref().unwrap_or(""),
            finish.message.as_deref().unwrap_or(""),
            self.now,
        );
        if condition(&self.plan.status, &finish.type_).is_none() {
            self.plan.status.conditions.get_or_insert_default().push(finish);
        }
        Some(terminal)
    }
}

/// Adds a uid once; how many entries that made.
fn note(uids: &mut Vec<String>, uid: &str) -> usize {
    if uids.iter().any(|known| known == uid) {
        return 0;
    }
    uids.push(uid.to_owned());
    1
}

/// Uids whose pod no longer holds a finalizer become numbers. With the books empty and no pod left
/// the job finishes, which the event tells.
pub fn settle(
    job: &Job,
    mut status: JobStatus,
    finish: Option<&JobCondition>,
    still_tracked: &HashSet<String>,
    now: Timestamp,
) -> (JobStatus, Option<Told>) {
    let mut books = status.uncounted_terminated_pods.take().unwrap_or_default();
    let close = |uids: &mut Option<Vec<String>>, total: &mut Option<i32>| {
        let Some(open) = uids else { return };
        let before = open.len();
        open.retain(|uid| still_tracked.contains(uid));
        let closed = number(before - open.len());
        *total = Some(total.unwrap_or(0) + closed).filter(|n| *n != 0);
        *uids = uids.take().filter(|open| !open.is_empty());
    };
    close(&mut books.succeeded, &mut status.succeeded);
    close(&mut books.failed, &mut status.failed);
    let open = books.succeeded.is_some() || books.failed.is_some();
    status.uncounted_terminated_pods = Some(books);
    let gone =
        still_tracked.is_empty() && status.terminating.unwrap_or(0) == 0 && status.active.unwrap_or(0) == 0;
    let Some(finish) = finish.filter(|_| !open && gone) else { return (status, None) };
    status.conditions.get_or_insert_default().push(finish.clone());
    let told = if finish.type_ == "Complete" {
        status.completion_time = meta::time(now);
        ("Normal", "Completed".to_owned(), "Job completed".to_owned())
    } else {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        ("Warning", text(&finish.reason), text(&finish.message))
    };
    debug_assert!(job.status.as_ref().is_none_or(|s| condition(s, &finish.type_).is_none()));
    (status, Some(told))
}
