//! CronJobs: jobs by the clock.

mod core;
pub mod schedule;

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, DeleteParams, EventRecorder, Informer, Resource};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};

use crate::harness::{
    BY_CONTROLLER, Controller, Scope, enqueue_all, enqueue_owners, index_by_controller, now,
};
use crate::{Error, meta};

struct CronJobController {
    scope: Scope,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    events: EventRecorder,
}

pub async fn run(scope: Scope) {
    let crons = scope.informers.get::<CronJob>();
    let jobs = scope.informers.get::<Job>();
    index_by_controller(&jobs);
    if !(scope.synced(&crons).await && scope.synced(&jobs).await) {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&crons, &queue);
    // Jobs are not adopted: only those made for the CronJob count.
    enqueue_owners(&jobs, &crons, &queue, |_: &CronJob, _| false, |_, _| {});
    let events = scope.events("cronjob-controller");
    let controller = CronJobController { scope: scope.clone(), crons, jobs, events };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

impl Controller for CronJobController {
    const QUEUE: &'static str = "cronjob";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(cron) = self.crons.get(key) else { return Ok(None) };
        let jobs = self.jobs.by_index(BY_CONTROLLER, cron.uid());
        let plan = core::reconcile(&cron, &jobs, now());
        for (kind, reason, message) in plan.events {
            let reference = amphipod_client::events::reference(cron.as_ref());
            self.events.record(reference, kind, reason, message);
        }
        for job in &plan.delete {
            self.delete(&cron, job).await?;
        }
        let mut status = plan.status;
        if let (Some(job), Some(at)) = (&plan.create, plan.scheduled) {
            let Some(created) = self.create(&cron, job).await? else { return Ok(plan.again) };
            status = core::started(status, &created, at);
        }
        self.write_status(&cron, status).await?;
        Ok(plan.again)
    }
}

impl CronJobController {
    /// None where the namespace goes away.
    async fn create(&self, cron: &CronJob, job: &Job) -> Result<Option<Job>, Error> {
        let api = Api::<Job>::namespaced(self.scope.client.clone(), cron.namespace());
        match api.create(job).await {
            Ok(created) => {
                self.events.normal(cron, "SuccessfulCreate", format!("Created job {}", created.name()));
                Ok(Some(created))
            }
            Err(error) if error.is_already_exists() => {
                let there = api.get(job.name()).await?;
                if meta::is_controlled_by(&there.metadata, cron.uid()) {
                    return Ok(Some(there)); // ours, from a sync that ended before its status was written
                }
                let what = format!("Job {}", there.key());
                Err(Error::Invalid { what, why: "exists and is not this CronJob's".to_owned() })
            }
            Err(error) => {
                let error = Error::from(error);
                if error.is_namespace_terminating() {
                    return Ok(None);
                }
                self.events.warning(cron, "FailedCreate", format!("Error creating job: {error}"));
                Err(error)
            }
        }
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let params = DeleteParams {
            uid: Some(job.uid().to_owned()),
            propagation: Some("Background"),
            ..DeleteParams::default()
        };
        match Api::<Job>::of(self.scope.client.clone(), job).delete(job.name(), &params).await {
            Ok(()) => self.events.normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name())),
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                self.events.warning(cron, "FailedDelete", format!("Deleted job: {error}"));
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn write_status(&self, cron: &CronJob, status: CronJobStatus) -> Result<(), Error> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let mut changed = cron.clone();
        changed.status = Some(status);
        Api::<CronJob>::of(self.scope.client.clone(), cron).update_status(&changed).await?;
        Ok(())
    }
}
