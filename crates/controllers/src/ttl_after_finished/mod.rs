//! Deletes finished jobs once their `ttlSecondsAfterFinished` has passed.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, DeleteParams, Informer, Resource};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::harness::{Controller, Scope, enqueue_all, now};
use crate::{Error, job, meta};

/// When the job is due for deletion; None for one that is not (yet).
fn due(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.is_terminating() {
        return None;
    }
    let finished = job::view::finished(job)?.last_transition_time.as_ref()?.0;
    Some(meta::plus_seconds(finished, i64::from(ttl)))
}

struct TtlController {
    scope: Scope,
    jobs: Informer<Job>,
}

pub async fn run(scope: Scope) {
    let jobs = scope.informers.get::<Job>();
    if !scope.synced(&jobs).await {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&jobs, &queue);
    let controller = TtlController { scope: scope.clone(), jobs };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

impl Controller for TtlController {
    const QUEUE: &'static str = "ttl_jobs_to_delete";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(job) = self.jobs.get(key) else { return Ok(None) };
        let Some(at) = due(&job) else { return Ok(None) };
        let left = meta::until(at, now());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        // The ttl may have been raised since the cache last heard.
        let api = Api::<Job>::of(self.scope.client.clone(), job.as_ref());
        let Some(live) = api.get_opt(job.name()).await? else { return Ok(None) };
        if live.uid() != job.uid() || due(&live).is_none_or(|at| at > now()) {
            return Ok(None);
        }
        let params = DeleteParams {
            uid: Some(live.uid().to_owned()),
            resource_version: Some(live.resource_version().to_owned()),
            propagation: Some("Foreground"),
            ..DeleteParams::default()
        };
        match api.delete(live.name(), &params).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => Ok(other.map(|()| None)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::json;

    #[test]
    fn due_counts_from_the_end() {
        let job = |ttl: serde_json::Value, done: bool| -> Job {
            let conditions = if done {
                json!([{"type": "Complete", "status": "True", "lastTransitionTime": at(100).to_string()}])
            } else {
                json!([])
            };
            object(
                json!({"spec": {"template": {}, "ttlSecondsAfterFinished": ttl}, "status": {"conditions": conditions}}),
            )
        };
        assert_eq!(due(&job(json!(10), true)), Some(at(110)));
        assert_eq!(due(&job(json!(10), false)), None);
        assert_eq!(due(&job(serde_json::Value::Null, true)), None);
    }
}
