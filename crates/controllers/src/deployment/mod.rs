//! Deployments: ReplicaSets, one per template, and how pods move from the old ones to the new.

mod conditions;
mod core;
mod plan;
mod replica_sets;
mod rollout;
mod scaling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, DeleteParams, EventRecorder, Informer, Resource};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use self::core::View;
use self::plan::Plan;
use crate::claim::{self, claim};
use crate::harness::{
    BY_CONTROLLER, Controller, Scope, candidates, enqueue_all, enqueue_owners, index_by_controller, now,
    owner_key,
};
use crate::selector::Labels;
use crate::{Error, pods, selector};

struct DeploymentController {
    scope: Scope,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    pods: Informer<CachedPod>,
    events: EventRecorder,
}

pub async fn run(scope: Scope) {
    let deployments = scope.informers.get::<Deployment>();
    let replica_sets = scope.informers.get::<ReplicaSet>();
    let pods = scope.informers.get::<CachedPod>();
    index_by_controller(&replica_sets);
    index_by_controller(&pods);
    let synced =
        scope.synced(&deployments).await && scope.synced(&replica_sets).await && scope.synced(&pods).await;
    if !synced {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&deployments, &queue);
    let takes = |d: &Deployment, labels: Labels<'_>| {
        selector::object_matches(d.spec.as_ref().map(|s| &s.selector), labels)
    };
    enqueue_owners(&replica_sets, &deployments, &queue, takes, |_, _| {});
    wake_recreate(&pods, &replica_sets, &deployments, &queue);
    let events = scope.events("deployment-controller");
    let controller = DeploymentController { scope: scope.clone(), deployments, replica_sets, pods, events };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

/// A Recreate deployment goes on when the last old pod is gone, which only the pod's end tells.
fn wake_recreate(
    pods: &Informer<CachedPod>,
    replica_sets: &Informer<ReplicaSet>,
    deployments: &Informer<Deployment>,
    queue: &WorkQueue,
) {
    let (replica_sets, deployments, queue) = (replica_sets.clone(), deployments.clone(), queue.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let ended = matches!(change, amphipod_client::Change::Deleted(_)) || pods::is_terminal(pod);
        if !ended {
            return;
        }
        let owner = owner_key(&replica_sets, pod.as_ref()).and_then(|key| replica_sets.get(&key));
        let Some(key) = owner.and_then(|owner| owner_key(&deployments, owner.as_ref())) else { return };
        if deployments.get(&key).is_some_and(|d| core::is_recreate(&d)) {
            queue.add(&key);
        }
    });
}

impl Controller for DeploymentController {
    const QUEUE: &'static str = "deployment";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(None) };
        let spec_selector = deployment.spec.as_ref().map(|spec| &spec.selector);
        let Some(selector) = selector::from_object(spec_selector) else { return Ok(None) };
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.warning(deployment.as_ref(), "SelectingAll", message);
            return Ok(None);
        }
        let found = candidates(&self.replica_sets, deployment.uid(), deployment.namespace());
        let claim = claim(deployment.uid(), deployment.is_terminating(), &selector, &found);
        let owned = claim::carry_out(&self.scope.client, deployment.as_ref(), claim, None).await?;
        let view = View { pods_running: self.pods_running(&owned), replica_sets: owned };
        let plan = core::reconcile(&view, &deployment, now());
        let again = plan.again;
        self.execute(&deployment, plan).await?;
        Ok(again)
    }
}

impl DeploymentController {
    /// ReplicaSets (by uid) with pods that have not ended.
    fn pods_running(&self, owned: &[Arc<ReplicaSet>]) -> BTreeMap<String, bool> {
        let running = |rs: &Arc<ReplicaSet>| {
            self.pods.by_index(BY_CONTROLLER, rs.uid()).iter().any(|pod| !pods::is_terminal(pod))
        };
        owned.iter().map(|rs| (rs.uid().to_owned(), running(rs))).collect()
    }

    async fn execute(&self, deployment: &Deployment, plan: Plan) -> Result<(), Error> {
        let api = Api::<ReplicaSet>::of(self.scope.client.clone(), &named_namespace(deployment));
        if let Some(create) = &plan.create {
            match api.create(create).await {
                Ok(_) => {}
                Err(error) if error.is_already_exists() => {
                    return self.resolve_clash(deployment, create, &api).await;
                }
                Err(error) => return self.report_failed_create(deployment, create, error.into()).await,
            }
        }
        for replica_set in &plan.update {
            api.update(replica_set).await?;
        }
        for (reason, message) in plan.events {
            self.events.normal(deployment, reason, message);
        }
        for replica_set in &plan.delete {
            let params = DeleteParams { uid: Some(replica_set.uid().to_owned()), ..DeleteParams::default() };
            match api.delete(replica_set.name(), &params).await {
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
        }
        if let Some(status) = &plan.status {
            self.write_status(deployment, status).await?;
        }
        Ok(())
    }

    async fn write_status(&self, deployment: &Deployment, changed: &Deployment) -> Result<(), Error> {
        let api = Api::<Deployment>::of(self.scope.client.clone(), deployment);
        api.update_status(changed).await?;
        Ok(())
    }

    /// The name is taken: by our own earlier try (fine), or by other content, which calls for
    /// another hash.
    async fn resolve_clash(
        &self,
        deployment: &Deployment,
        wanted: &ReplicaSet,
        api: &Api<ReplicaSet>,
    ) -> Result<(), Error> {
        let there = api.get(wanted.name()).await?;
        if core::is_same_set(deployment, &there) {
            // The cache has not shown it yet; its arrival brings the key back.
            return Err(Error::Stale(there.key()));
        }
        self.write_status(deployment, &core::with_collision(deployment)).await?;
        Err(Error::Stale(deployment.key()))
    }

    async fn report_failed_create(
        &self,
        deployment: &Deployment,
        wanted: &ReplicaSet,
        error: Error,
    ) -> Result<(), Error> {
        if error.is_namespace_terminating() {
            return Ok(());
        }
        let message = format!("Failed to create new replica set \"{}\": {error}", wanted.name());
        self.events.warning(deployment, "ReplicaSetCreateError", message.clone());
        if let Some(changed) = core::with_failed_create(deployment, &message, now()) {
            self.write_status(deployment, &changed).await?;
        }
        Err(error)
    }
}

/// ReplicaSets live where their deployment does.
fn named_namespace(deployment: &Deployment) -> ReplicaSet {
    let mut replica_set = ReplicaSet::default();
    replica_set.metadata.namespace = deployment.metadata.namespace.clone();
    replica_set
}
