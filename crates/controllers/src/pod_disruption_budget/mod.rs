//! PodDisruptionBudgets: keeps their status, by which evictions are granted.

mod core;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::dynamic::{self, Dynamic};
use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, EventRecorder, Informer, Resource};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use self::core::View;
use crate::harness::{Controller, Scope, enqueue_all, now};
use crate::{Error, meta, selector};

struct BudgetController {
    scope: Scope,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<CachedPod>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    replication_controllers: Informer<ReplicationController>,
    stateful_sets: Informer<StatefulSet>,
    events: EventRecorder,
}

pub async fn run(scope: Scope) {
    let informers = &scope.informers;
    let controller = BudgetController {
        budgets: informers.get(),
        pods: informers.get(),
        deployments: informers.get(),
        replica_sets: informers.get(),
        replication_controllers: informers.get(),
        stateful_sets: informers.get(),
        events: scope.events("controllermanager"),
        scope: scope.clone(),
    };
    let synced = scope.synced(&controller.budgets).await
        && scope.synced(&controller.pods).await
        && scope.synced(&controller.deployments).await
        && scope.synced(&controller.replica_sets).await
        && scope.synced(&controller.replication_controllers).await
        && scope.synced(&controller.stateful_sets).await;
    if !synced {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&controller.budgets, &queue);
    let (budgets, by_pod) = (controller.budgets.clone(), queue.clone());
    controller.pods.on_change(move |change| {
        let pod = change.object();
        let before = if let Change::Updated { old, .. } = change { Some(old) } else { None };
        for budget in budgets.list_namespace(pod.namespace()) {
            let selects = |pod: &Arc<CachedPod>| selects(&budget, pod);
            if selects(pod) || before.is_some_and(selects) {
                by_pod.add(&budget.key());
            }
        }
    });
    scope.work(queue, 1, Arc::new(controller)).await;
}

fn selects(budget: &PodDisruptionBudget, pod: &CachedPod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector::from_object(selector).is_some_and(|s| selector::matches(&s, pod.metadata.labels.as_ref()))
}

impl Controller for BudgetController {
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(budget) = self.budgets.get(key).filter(|b| !b.is_terminating()) else { return Ok(None) };
        let all = self.pods.list_namespace(budget.namespace());
        let pods: Vec<Arc<CachedPod>> = all.into_iter().filter(|pod| selects(&budget, pod)).collect();
        if pods.is_empty() {
            self.events.normal(budget.as_ref(), "NoPods", "No matching pods found");
        }
        let scale = if core::needs_scale(&budget) { self.scale(&pods).await } else { Ok(0) };
        let failed = scale.clone().err();
        let plan = core::reconcile(&View { pods: &pods, scale }, &budget, now());
        if budget.status.as_ref() != Some(&plan.status) {
            let mut changed = budget.as_ref().clone();
            changed.status = Some(plan.status);
            let api = Api::<PodDisruptionBudget>::of(self.scope.client.clone(), budget.as_ref());
            api.update_status(&changed).await?;
        }
        if let Some(why) = failed {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            self.events.warning(budget.as_ref(), "CalculateExpectedPodCountFailed", message);
        }
        Ok(plan.again)
    }
}

impl BudgetController {
    /// The sizes of all controllers of these pods, each once.
    async fn scale(&self, pods: &[Arc<CachedPod>]) -> Result<i32, String> {
        let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
        for pod in pods {
            let Some(owner) = meta::controller_of(&pod.metadata) else { continue };
            if sizes.contains_key(&owner.uid) {
                continue;
            }
            let (uid, size) = self.size_of(owner, pod.namespace()).await?;
            sizes.insert(owner.uid.clone(), 0);
            sizes.insert(uid, size);
        }
        Ok(sizes.values().sum())
    }

    /// The size of a pod's controller, or of the Deployment over it.
    async fn size_of(&self, owner: &OwnerReference, namespace: &str) -> Result<(String, i32), String> {
        let key = format!("{namespace}/{}", owner.name);
        let same = |meta: &ObjectMeta| meta.uid.as_deref() == Some(owner.uid.as_str());
        let group = meta::group_of(&owner.api_version);
        let size = match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let Some(rs) = self.replica_sets.get(&key).filter(|rs| same(&rs.metadata)) else {
                    return Ok((owner.uid.clone(), 0));
                };
                if let Some(deployment) = self.deployment_over(&rs) {
                    let size = deployment.spec.as_ref().and_then(|s| s.replicas);
                    return Ok((deployment.uid().to_owned(), size.unwrap_or(1)));
                }
                rs.spec.as_ref().and_then(|s| s.replicas)
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(&key).filter(|s| same(&s.metadata));
                set.map_or(Some(0), |set| set.spec.as_ref().and_then(|s| s.replicas))
            }
            ("", "ReplicationController") => {
                let set = self.replication_controllers.get(&key).filter(|s| same(&s.metadata));
                set.map_or(Some(0), |set| set.spec.as_ref().and_then(|s| s.replicas))
            }
            _ => return self.foreign_size(owner, namespace).await,
        };
        Ok((owner.uid.clone(), size.unwrap_or(1)))
    }

    fn deployment_over(&self, rs: &ReplicaSet) -> Option<Arc<Deployment>> {
        let owner = meta::controller_of(&rs.metadata)?;
        let deployment = self.deployments.get(&format!("{}/{}", rs.namespace(), owner.name))?;
        (deployment.uid() == owner.uid).then_some(deployment)
    }

    /// Other kinds tell their size by their scale subresource.
    async fn foreign_size(&self, owner: &OwnerReference, namespace: &str) -> Result<(String, i32), String> {
        let discovery = dynamic::discover(&self.scope.client).await.map_err(|e| e.to_string())?;
        let group = meta::group_of(&owner.api_version);
        let kind = discovery.kinds.iter().find(|k| k.group == group && k.kind == owner.kind);
        let Some(kind) = kind else {
            return Err(format!(
                "no matches for kind \"{}\" in version \"{}\"",
                owner.kind, owner.api_version
            ));
        };
        let api = Dynamic::new(self.scope.client.clone(), kind, namespace);
        match api.get_subresource(&owner.name, "scale").await {
            Ok(scale) => {
                let replicas = scale.pointer("/spec/replicas").and_then(serde_json::Value::as_i64);
                Ok((owner.uid.clone(), replicas.and_then(|n| i32::try_from(n).ok()).unwrap_or(0)))
            }
            Err(_) => Err(format!("{} does not implement the scale subresource", kind.qualified())),
        }
    }
}
