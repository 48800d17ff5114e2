//! Creating and deleting pods on behalf of an owner, with the events users look for.

use std::future::Future;
use std::sync::Arc;

use amphipod_client::{Api, CachedPod, Client, DeleteParams, EventRecorder, Resource};
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Pod;

use crate::Error;

/// The first batch of creations; each batch that works doubles the next.
const FIRST_BATCH: usize = 1;
/// Creations, and deletions, under way at once for one owner: enough to keep a server busy, and fewer
/// than it lets wait in one flow's queues (`docs/flow-control.md`).
const CREATES_AT_ONCE: usize = 64;
const DELETES_AT_ONCE: usize = 64;

#[derive(Clone)]
pub struct PodControl {
    pub client: Client,
    pub events: EventRecorder,
}

impl PodControl {
    pub async fn create<O: Resource>(&self, owner: &O, pod: &Pod) -> Result<Pod, Error> {
        match Api::<Pod>::namespaced(self.client.clone(), pod.namespace()).create(pod).await {
            Ok(created) => {
                let message = format!("Created pod: {}", created.name());
                self.events.normal(owner, "SuccessfulCreate", message);
                Ok(created)
            }
            Err(error) => {
                let error = Error::from(error);
                if !error.is_namespace_terminating() {
                    self.events.warning(owner, "FailedCreate", format!("Error creating: {error}"));
                }
                Err(error)
            }
        }
    }

    pub async fn delete<O: Resource>(&self, owner: &O, pod: &CachedPod) -> Result<(), Error> {
        let params = DeleteParams { uid: Some(pod.uid().to_owned()), ..DeleteParams::default() };
        match Api::<Pod>::namespaced(self.client.clone(), pod.namespace()).delete(pod.name(), &params).await {
            Ok(()) => {
                self.events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                Ok(())
            }
            // Gone, or another pod of that name: what we wanted deleted is deleted.
            Err(error) if error.is_not_found() || error.is_conflict() => Err(error.into()),
            Err(error) => {
                self.events.warning(owner, "FailedDelete", format!("Error deleting: {error}"));
                Err(error.into())
            }
        }
    }

    /// Deletes all, in parallel; the pods whose deletion failed with why. A pod already gone counts
    /// as deleted, but `unseen` hears of it since no watch event will come.
    pub async fn delete_all<O: Resource>(
        &self,
        owner: &O,
        pods: &[Arc<CachedPod>],
        unseen: impl Fn(&CachedPod),
    ) -> Result<(), Error> {
        let deletions = pods.iter().cloned().map(|pod| async move {
            let outcome = self.delete(owner, &pod).await;
            (pod, outcome)
        });
        let mut running = stream::iter(deletions).buffer_unordered(DELETES_AT_ONCE);
        let mut errors = Vec::new();
        while let Some((pod, outcome)) = running.next().await {
            if let Err(error) = outcome {
                unseen(&pod);
                if !error.is_race() {
                    errors.push(error);
                }
            }
        }
        Error::combine(errors)
    }
}

/// What a slow start achieved.
pub struct Started<R> {
    pub done: Vec<R>,
    /// Items not tried, or tried in vain.
    pub missing: usize,
    pub error: Option<Error>,
}

/// Works through the items in batches of 1, 2, 4 ... and stops at the first batch with a failure, so
/// that a refusal that hits all (a quota) is asked for once, not five hundred times.
pub async fn slow_start<T, R, F, Fut>(items: Vec<T>, work: F) -> Started<R>
where
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<R, Error>>,
{
    let mut started = Started { done: Vec::new(), missing: items.len(), error: None };
    let mut rest = items.into_iter();
    let mut size = FIRST_BATCH;
    while started.error.is_none() {
        let batch: Vec<T> = rest.by_ref().take(size).collect();
        if batch.is_empty() {
            break;
        }
        let mut batch = stream::iter(batch).map(&work).buffer_unordered(CREATES_AT_ONCE);
        while let Some(outcome) = batch.next().await {
            match outcome {
                Ok(done) => {
                    started.done.push(done);
                    started.missing -= 1;
                }
                Err(error) => started.error = Some(error),
            }
        }
        size *= 2;
    }
    started
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn a_failing_batch_is_the_last() {
        let tried = Cell::new(0);
        let started = slow_start((0..100).collect(), |i| {
            tried.set(tried.get() + 1);
            async move { if i == 4 { Err(Error::Stale("x".into())) } else { Ok(i) } }
        })
        .await;
        // Batches 1 + 2 + 4, the failure in the third.
        assert_eq!((tried.get(), started.done.len(), started.missing), (7, 6, 94));
        assert!(started.error.is_some());
    }
}
