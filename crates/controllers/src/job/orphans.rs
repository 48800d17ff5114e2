//! Pods with the tracking finalizer whose job is gone: nobody would ever let them go.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, Client, Informer, Patch, Resource};
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::view::{self, FINALIZER};
use crate::harness::{BY_CONTROLLER, Controller, Scope};
use crate::{Error, meta};

pub struct Orphans {
    client: Client,
    jobs: Informer<Job>,
    pods: Informer<CachedPod>,
}

impl Orphans {
    pub fn new(scope: &Scope, jobs: Informer<Job>, pods: Informer<CachedPod>) -> Self {
        Orphans { client: scope.client.clone(), jobs, pods }
    }
}

pub async fn run(scope: Scope, jobs: Informer<Job>, pods: Informer<CachedPod>) {
    let queue = WorkQueue::new();
    let (by_pod, known) = (queue.clone(), jobs.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        if view::is_tracked(pod) && !has_job(&known, pod) {
            by_pod.add(&pod.key());
        }
    });
    let (by_job, dependents) = (queue.clone(), pods.clone());
    jobs.on_change(move |change| {
        if let Change::Deleted(job) = change {
            let owned = dependents.by_index(BY_CONTROLLER, job.uid());
            owned.iter().filter(|pod| view::is_tracked(pod)).for_each(|pod| by_job.add(&pod.key()));
        }
    });
    let orphans = Orphans::new(&scope, jobs, pods);
    scope.work(queue, 2, Arc::new(orphans)).await;
}

fn has_job(jobs: &Informer<Job>, pod: &CachedPod) -> bool {
    let Some(owner) = meta::controller_of(&pod.metadata) else { return false };
    // Under another controller's care the finalizer is not ours to judge.
    if owner.kind != "Job" {
        return true;
    }
    jobs.get(&format!("{}/{}", pod.namespace(), owner.name)).is_some_and(|job| job.uid() == owner.uid)
}

impl Controller for Orphans {
    const QUEUE: &'static str = "job_orphan_pod";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        if !view::is_tracked(&pod) || has_job(&self.jobs, &pod) {
            return Ok(None);
        }
        if let Some(owner) = meta::controller_of(&pod.metadata) {
            // The cache may be behind: only the server's word makes an orphan.
            let api = Api::<Job>::namespaced(self.client.clone(), pod.namespace());
            if api.get_opt(&owner.name).await?.is_some_and(|job| job.uid() == owner.uid) {
                return Ok(None);
            }
        }
        // As it was when it was judged: a job may have adopted it since.
        let unchanged =
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": pod.resource_version()});
        take_off(&self.client, &pod, Some(unchanged)).await?;
        Ok(None)
    }
}

/// Takes the tracking finalizer off, and no one else's.
pub async fn release(client: &Client, pod: &CachedPod) -> Result<(), Error> {
    take_off(client, pod, None).await
}

async fn take_off(client: &Client, pod: &CachedPod, condition: Option<Value>) -> Result<(), Error> {
    let finalizers = pod.metadata.finalizers.iter().flatten();
    let Some(at) = finalizers.into_iter().position(|f| f == FINALIZER) else { return Ok(()) };
    let path = format!("/metadata/finalizers/{at}");
    let removal = [
        json!({"op": "test", "path": "/metadata/uid", "value": pod.uid()}),
        json!({"op": "test", "path": path, "value": FINALIZER}),
        json!({"op": "remove", "path": path}),
    ];
    let patch = Patch::Json(condition.into_iter().chain(removal).collect());
    match Api::<CachedPod>::of(client.clone(), pod).patch(pod.name(), &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}
