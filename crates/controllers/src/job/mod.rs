//! Jobs: pods that run to completion, each end counted exactly once.

mod backoff;
mod core;
mod failure_policy;
mod indexes;
mod orphans;
#[cfg(test)]
mod stale_tests;
mod template;
#[cfg(test)]
mod tests;
pub mod view;
mod written;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, Informer, Resource};
use futures::StreamExt;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use parking_lot::Mutex;

use self::backoff::Backoff;
use self::core::{Plan, View};
use self::written::Written;
use crate::claim::{self, claim};
use crate::expectations::Expectations;
use crate::harness::{
    BY_CONTROLLER, Controller, Scope, candidates, enqueue_all, enqueue_owners, index_by_controller, now,
};
use crate::pod_control::{PodControl, slow_start};
use crate::selector::Labels;
use crate::{Error, selector};

/// Finalizers taken off at once, for one job.
const RELEASES_AT_ONCE: usize = 32;

struct JobController {
    scope: Scope,
    jobs: Informer<Job>,
    pods: Informer<CachedPod>,
    control: PodControl,
    expectations: Arc<Expectations>,
    /// Uids of pods whose finalizer we took off and the cache has not shown without yet.
    released: Arc<Mutex<HashSet<String>>>,
    backoff: Mutex<HashMap<String, Backoff>>,
    written: Written,
}

pub async fn run(scope: Scope) {
    let controller = Arc::new(JobController::new(scope.clone()));
    if !controller.synced().await {
        return;
    }
    let queue = WorkQueue::new();
    controller.watch(&queue);
    let orphans = orphans::run(scope.clone(), controller.jobs.clone(), controller.pods.clone());
    let work = scope.work(queue, scope.config.workers, controller);
    tokio::join!(work, orphans);
}

impl Controller for JobController {
    const QUEUE: &'static str = "job";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(job) = self.jobs.get(key) else {
            self.expectations.forget(key);
            self.backoff.lock().remove(key);
            self.written.forget(key);
            return Ok(None);
        };
        if self.written.is_ahead_of(&job) {
            return Ok(None);
        }
        let spec = job.spec.as_ref();
        let managed_by = spec.and_then(|s| s.managed_by.as_deref()).unwrap_or("kubernetes.io/job-controller");
        let selector = selector::from_object(spec.and_then(|s| s.selector.as_ref()));
        let Some(selector) = selector.filter(|_| managed_by == "kubernetes.io/job-controller") else {
            return Ok(None);
        };
        if view::finished(&job).is_some() {
            self.expectations.forget(key);
            self.backoff.lock().remove(key);
            return self.release_leftovers(&job).await.map(|()| None);
        }
        let may_manage = self.expectations.satisfied(key);
        // Before the pods are looked at: a pod that the cache shows without its finalizer in between
        // would be taken for one that still has it, and counted again.
        let released = self.released.lock().clone();
        let found = candidates(&self.pods, job.uid(), job.namespace());
        let claim = claim(job.uid(), job.is_terminating(), &selector, &found);
        let owned = claim::carry_out(&self.scope.client, job.as_ref(), claim, Some(view::FINALIZER)).await?;
        let backoff = self.backoff.lock().get(key).copied().unwrap_or_default();
        let view = View { pods: &owned, may_manage, released: &released, backoff };
        let plan = core::plan(&view, &job, now());
        let again = plan.again;
        self.execute(key, &job, plan, &owned, released).await?;
        Ok(again)
    }
}

impl JobController {
    fn new(scope: Scope) -> Self {
        let pods = scope.informers.get::<CachedPod>();
        index_by_controller(&pods);
        JobController {
            jobs: scope.informers.get::<Job>(),
            pods,
            control: PodControl { client: scope.client.clone(), events: scope.events("job-controller") },
            expectations: Arc::default(),
            released: Arc::default(),
            backoff: Mutex::default(),
            written: Written::default(),
            scope,
        }
    }

    /// False when cancelled meanwhile.
    async fn synced(&self) -> bool {
        self.scope.synced(&self.jobs).await && self.scope.synced(&self.pods).await
    }

    /// Puts jobs on the queue when they or their pods change.
    fn watch(&self, queue: &WorkQueue) {
        enqueue_all(&self.jobs, queue);
        let (observer, settled) = (self.expectations.clone(), self.released.clone());
        let takes = |job: &Job, labels: Labels<'_>| {
            selector::object_matches(job.spec.as_ref().and_then(|s| s.selector.as_ref()), labels)
        };
        enqueue_owners(&self.pods, &self.jobs, queue, takes, move |change: &Change<CachedPod>, key: &str| {
            observer.observe(change, key);
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) || !view::is_tracked(pod) {
                settled.lock().remove(pod.uid());
            }
        });
    }

    /// `released` are pods whose finalizer is off, whatever `owned` says.
    async fn execute(
        &self,
        key: &str,
        job: &Job,
        plan: Plan,
        owned: &[Arc<CachedPod>],
        mut released: HashSet<String>,
    ) -> Result<(), Error> {
        let Plan { delete, discard, create, release, mut status, finish, events, backoff, .. } = plan;
        let mut outcome = Ok(());
        if discard {
            let (removed, done) = self.release(&delete).await;
            released.extend(removed);
            done?;
        }
        if !delete.is_empty() {
            self.expectations.expect_deletes(key, delete.iter().map(|pod| pod.uid().to_owned()));
            let unseen = |pod: &CachedPod| self.expectations.deleted(key, pod.uid());
            outcome = self.control.delete_all(job, &delete, unseen).await;
        }
        if !create.is_empty() {
            let missing = self.create(key, job, create, &mut outcome).await;
            let active = status.active.unwrap_or(0) - i32::try_from(missing).unwrap_or(0);
            status.active = (active > 0).then_some(active);
        }
        for (kind, reason, message) in events {
            self.tell(job, (kind, reason, message));
        }
        let mut current = job.clone();
        if !release.is_empty() && job.status.as_ref() != Some(&status) {
            current = self.write_status(&current, status.clone()).await?;
        }
        let (removed, done) = self.release(&release).await;
        released.extend(removed);
        let still: HashSet<String> = owned
            .iter()
            .filter(|pod| view::is_tracked(pod) && !released.contains(pod.uid()))
            .map(|pod| pod.uid().to_owned())
            .collect();
        let (status, told) = core::settle(job, status, finish.as_ref(), &still, now());
        if current.status.as_ref() != Some(&status) {
            self.write_status(&current, status).await?;
        }
        self.backoff.lock().insert(key.to_owned(), backoff);
        if let Some(told) = told {
            self.tell(job, told);
        }
        outcome.and(done)
    }

    fn tell(&self, job: &Job, (kind, reason, message): core::Told) {
        let reference = amphipod_client::events::reference(job);
        self.control.events.record(reference, kind, &reason, message);
    }

    /// How many could not be made.
    async fn create(
        &self,
        key: &str,
        job: &Job,
        indexes: Vec<Option<i32>>,
        outcome: &mut Result<(), Error>,
    ) -> usize {
        self.expectations.expect_creates(key, indexes.len());
        let started = slow_start(indexes, |index| {
            let pod = template::pod(job, index);
            async move { self.control.create(job, &pod).await }
        })
        .await;
        self.expectations.created_many(key, started.missing);
        if let Some(error) = started.error.filter(|error| !error.is_namespace_terminating()) {
            *outcome = Err(error);
        }
        started.missing
    }

    async fn write_status(&self, job: &Job, status: JobStatus) -> Result<Job, Error> {
        let mut changed = job.clone();
        changed.status = Some(status);
        let api = Api::<Job>::of(self.scope.client.clone(), job);
        let written = api.update_status(&changed).await?;
        self.written.note(&written);
        Ok(written)
    }

    /// Takes the finalizer off; the uids of those that now are without, and what went wrong.
    async fn release(&self, pods: &[Arc<CachedPod>]) -> (HashSet<String>, Result<(), Error>) {
        let removals = pods.iter().cloned().map(|pod| async move {
            // Noted first: the watch may show the pod without it before the call returns.
            self.released.lock().insert(pod.uid().to_owned());
            let outcome = orphans::release(&self.scope.client, &pod).await;
            if outcome.is_err() {
                self.released.lock().remove(pod.uid());
            }
            (pod.uid().to_owned(), outcome)
        });
        let mut running = futures::stream::iter(removals).buffer_unordered(RELEASES_AT_ONCE);
        let (mut removed, mut errors) = (HashSet::new(), Vec::new());
        while let Some((uid, outcome)) = running.next().await {
            match outcome {
                Ok(()) => drop(removed.insert(uid)),
                Err(error) => errors.push(error),
            }
        }
        (removed, Error::combine(errors))
    }

    /// A finished job holds no pod: one that came late is let go uncounted.
    async fn release_leftovers(&self, job: &Job) -> Result<(), Error> {
        let released = self.released.lock().clone();
        let pods = self.pods.by_index(BY_CONTROLLER, job.uid()).into_iter();
        let left: Vec<_> =
            pods.filter(|pod| view::is_tracked(pod) && !released.contains(pod.uid())).collect();
        self.release(&left).await.1
    }
}
