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
    let controller = BudgetController::new(scope.clone());
    if !controller.synced().await {
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
    const QUEUE: &'static str = "disruption";
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
            return Err(Error::Invalid { what: format!("PodDisruptionBudget {key}"), why });
        }
        Ok(plan.again)
    }
}

impl BudgetController {
    fn new(scope: Scope) -> Self {
        let informers = &scope.informers;
        BudgetController {
            budgets: informers.get(),
            pods: informers.get(),
            deployments: informers.get(),
            replica_sets: informers.get(),
            replication_controllers: informers.get(),
            stateful_sets: informers.get(),
            events: scope.events("controllermanager"),
            scope,
        }
    }

    /// False when cancelled meanwhile.
    async fn synced(&self) -> bool {
        let scope = &self.scope;
        scope.synced(&self.budgets).await
            && scope.synced(&self.pods).await
            && scope.synced(&self.deployments).await
            && scope.synced(&self.replica_sets).await
            && scope.synced(&self.replication_controllers).await
            && scope.synced(&self.stateful_sets).await
    }

    /// The sizes of all controllers of these pods, each once.
    async fn scale(&self, pods: &[Arc<CachedPod>]) -> Result<i32, String> {
        let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
        for pod in pods {
            let Some(owner) = meta::controller_of(&pod.metadata) else { continue };
            if sizes.contains_key(&owner.uid) {
                continue;
            }
            let (uid, size) = match self.cached_size(owner, pod.namespace()) {
                Some(found) => found,
                // A controller of another kind, or one the cache has not heard of.
                None => (owner.uid.clone(), self.live_size(owner, pod).await?),
            };
            sizes.insert(owner.uid.clone(), 0);
            sizes.insert(uid, size);
        }
        Ok(sizes.values().sum())
    }

    /// The size of a pod's controller, or of the Deployment over it, with its uid.
    fn cached_size(&self, owner: &OwnerReference, namespace: &str) -> Option<(String, i32)> {
        let key = format!("{namespace}/{}", owner.name);
        let same = |meta: &ObjectMeta| meta.uid.as_deref() == Some(owner.uid.as_str());
        let size = match (meta::group_of(&owner.api_version), owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let rs = self.replica_sets.get(&key).filter(|rs| same(&rs.metadata))?;
                if let Some(deployment) = self.deployment_over(&rs) {
                    let size = deployment.spec.as_ref().and_then(|s| s.replicas);
                    return Some((deployment.uid().to_owned(), size.unwrap_or(1)));
                }
                rs.spec.as_ref().and_then(|s| s.replicas)
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(&key).filter(|s| same(&s.metadata))?;
                set.spec.as_ref().and_then(|s| s.replicas)
            }
            ("", "ReplicationController") => {
                let set = self.replication_controllers.get(&key).filter(|s| same(&s.metadata))?;
                set.spec.as_ref().and_then(|s| s.replicas)
            }
            _ => return None,
        };
        Some((owner.uid.clone(), size.unwrap_or(1)))
    }

    fn deployment_over(&self, rs: &ReplicaSet) -> Option<Arc<Deployment>> {
        let owner = meta::controller_of(&rs.metadata)?;
        let deployment = self.deployments.get(&format!("{}/{}", rs.namespace(), owner.name))?;
        (deployment.uid() == owner.uid).then_some(deployment)
    }

    /// What the controller's scale subresource says.
    async fn live_size(&self, owner: &OwnerReference, pod: &CachedPod) -> Result<i32, String> {
        let discovery = dynamic::discover(&self.scope.client).await.map_err(|e| e.to_string())?;
        let group = meta::group_of(&owner.api_version);
        let kind = discovery.kinds.iter().find(|k| k.group == group && k.kind == owner.kind);
        let Some(kind) = kind else {
            return Err(format!(
                "no matches for kind \"{}\" in version \"{}\"",
                owner.kind, owner.api_version
            ));
        };
        let lost = || format!("found no controllers for pod \"{}\"", pod.name());
        let api = Dynamic::new(self.scope.client.clone(), kind, pod.namespace());
        match api.get_subresource(&owner.name, "scale").await {
            Ok(scale) if scale["metadata"]["uid"] == owner.uid => {
                let replicas = scale["spec"]["replicas"].as_i64();
                Ok(replicas.and_then(|n| i32::try_from(n).ok()).unwrap_or(0))
            }
            Ok(_) => Err(lost()),
            Err(error) if !error.is_not_found() => Err(error.to_string()),
            // Either of the two is not there.
            Err(_) => match api.get(&owner.name).await {
                Err(error) if error.is_not_found() => Err(lost()),
                _ => Err(format!("{} does not implement the scale subresource", kind.qualified())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::testing::{World, eventually};

    /// A healthy pod of a ReplicaSet.
    async fn member(world: &World, name: &str, owner: &str) {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": owner, "controller": true});
        let metadata = json!({"name": name, "labels": {"app": "web"}, "ownerReferences": [owner]});
        let spec = json!({"containers": [{"name": "c", "image": "agnhost:2"}]});
        world.create::<Pod>("ns", json!({"metadata": metadata, "spec": spec})).await;
        let ready =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        world.api::<Pod>("ns").patch_status(name, &amphipod_client::Patch::Merge(ready)).await.unwrap();
    }

    #[tokio::test]
    async fn controllers_the_cache_has_not_heard_of_count() {
        let world = World::with_namespace("ns").await;
        let controller = BudgetController::new(world.scope());
        assert!(controller.synced().await);
        world.hold("replicasets?watch");
        let labels = json!({"app": "web"});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "agnhost:2"}]}});
        let spec = json!({"replicas": 3, "selector": {"matchLabels": labels}, "template": template});
        let set = world.create::<ReplicaSet>("ns", json!({"metadata": {"name": "web"}, "spec": spec})).await;
        let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": labels}});
        world.create::<PodDisruptionBudget>("ns", json!({"metadata": {"name": "b"}, "spec": spec})).await;
        for name in ["x", "y"] {
            member(&world, name, set.uid()).await;
        }
        let known = async || {
            let ready = controller.pods.list().into_iter().filter(|pod| crate::pods::is_ready(pod)).count();
            (ready == 2 && controller.budgets.get("ns/b").is_some()).then_some(())
        };
        eventually("the pods are known", known).await;
        controller.sync("ns/b").await.unwrap();
        let budgets = world.api::<PodDisruptionBudget>("ns");
        let status = budgets.get("b").await.unwrap().status.unwrap();
        assert_eq!((status.expected_pods, status.desired_healthy, status.disruptions_allowed), (3, 2, 0));

        // One of a controller that is no more leaves nothing to go by.
        member(&world, "z", "11111111-2222-3333-4444-555555555555").await;
        eventually("the third is known", async || controller.pods.get("ns/z")).await;
        let current = async || controller.budgets.get("ns/b").filter(|b| b.status.is_some());
        eventually("the status is known", current).await;
        controller.sync("ns/b").await.expect_err("to be tried again");
        let status = budgets.get("b").await.unwrap().status.unwrap();
        let condition = status.conditions.unwrap().remove(0);
        assert_eq!((status.disruptions_allowed, condition.reason.as_str()), (0, "SyncFailed"));
        assert_eq!(condition.message, "found no controllers for pod \"z\"");
    }
}
