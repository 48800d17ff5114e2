//! The older Endpoints objects, one per service, for clients that have not moved to slices.

mod core;

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, DeleteParams, Informer, Resource};
use k8s_openapi::api::core::v1::{Endpoints, Service};

use self::core::Plan;
use crate::endpoint_slice::enqueue_services_of_pods;
use crate::harness::{Controller, Scope, enqueue_all};
use crate::{Error, meta, selector};

/// Old leader elections kept their record on an Endpoints object without a service.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

struct EndpointsController {
    scope: Scope,
    services: Informer<Service>,
    pods: Informer<CachedPod>,
    endpoints: Informer<Endpoints>,
}

pub async fn run(scope: Scope) {
    let controller = EndpointsController::new(scope.clone());
    if !controller.synced().await {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&controller.services, &queue);
    watch_endpoints(&controller.endpoints, &controller.services, &queue);
    enqueue_services_of_pods(&controller.pods, &controller.services, &queue);
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

/// A change by another hand to a service's endpoints is mended. Endpoints without a service are
/// someone's own, except those left over from before the start.
fn watch_endpoints(endpoints: &Informer<Endpoints>, services: &Informer<Service>, queue: &WorkQueue) {
    endpoints.list().iter().for_each(|leftover| queue.add(&leftover.key()));
    let (services, queue) = (services.clone(), queue.clone());
    endpoints.on_change(move |change| {
        let key = change.object().key();
        if services.get(&key).is_some() {
            queue.add(&key);
        }
    });
}

impl Controller for EndpointsController {
    const QUEUE: &'static str = "endpoint";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some((namespace, name)) = key.split_once('/') else { return Ok(None) };
        let api = Api::<Endpoints>::namespaced(self.scope.client.clone(), namespace);
        let existing = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            let of_leader = |e: &Endpoints| meta::annotation(&e.metadata, LEADER).is_some();
            if existing.is_some_and(|e| of_leader(&e)) || !self.is_gone(namespace, name).await? {
                return Ok(None);
            }
            // Asked for: the cache may not show yet what an earlier sync made.
            if api.get_opt(name).await?.is_some_and(|e| !of_leader(&e)) {
                match api.delete(name, &DeleteParams::default()).await {
                    Err(error) if error.is_not_found() => {}
                    other => other?,
                }
            }
            return Ok(None);
        };
        let spec = service.spec.as_ref();
        let external = spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName");
        let selector = spec.and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty() && !external);
        if selector.is_none() {
            return Ok(None);
        }
        let pods: Vec<Arc<CachedPod>> = self
            .pods
            .list_namespace(namespace)
            .into_iter()
            .filter(|pod| selector::map_matches(selector, pod.metadata.labels.as_ref()))
            .collect();
        let written = match core::reconcile(&service, &pods, existing.as_deref()) {
            Plan::Nothing => return Ok(None),
            Plan::Create(endpoints) => api.create(&endpoints).await,
            Plan::Update(endpoints) => api.update(&endpoints).await,
        };
        match written.map_err(Error::from) {
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(Error::Client(error)) if error.is_already_exists() => Err(Error::Stale(key.to_owned())),
            other => other.map(|_| None),
        }
    }
}

impl EndpointsController {
    fn new(scope: Scope) -> Self {
        EndpointsController {
            services: scope.informers.get(),
            pods: scope.informers.get(),
            endpoints: scope.informers.get(),
            scope,
        }
    }

    /// False when cancelled meanwhile.
    async fn synced(&self) -> bool {
        let scope = &self.scope;
        scope.synced(&self.services).await
            && scope.synced(&self.pods).await
            && scope.synced(&self.endpoints).await
    }

    /// A cache that has not seen the service yet must not cost it its endpoints.
    async fn is_gone(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        let api = Api::<Service>::namespaced(self.scope.client.clone(), namespace);
        Ok(api.get_opt(name).await?.is_none())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, eventually};

    #[tokio::test]
    async fn endpoints_the_cache_has_not_heard_of_go_with_their_service() {
        let world = World::with_namespace("ns").await;
        let controller = EndpointsController::new(world.scope());
        assert!(controller.synced().await);
        world.hold("endpoints?watch");
        let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
        world.create::<Service>("ns", json!({"metadata": {"name": "web"}, "spec": spec})).await;
        eventually("the service is known", async || controller.services.get("ns/web")).await;
        controller.sync("ns/web").await.unwrap();
        let endpoints = world.api::<Endpoints>("ns");
        endpoints.get("web").await.unwrap();
        world.api::<Service>("ns").delete("web", &DeleteParams::default()).await.unwrap();
        let gone = async || controller.services.get("ns/web").is_none().then_some(());
        eventually("the service is known to be gone", gone).await;
        controller.sync("ns/web").await.unwrap();
        assert!(endpoints.get_opt("web").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_service_the_cache_has_not_heard_of_keeps_its_endpoints() {
        let world = World::with_namespace("ns").await;
        let controller = EndpointsController::new(world.scope());
        assert!(controller.synced().await);
        world.hold("services?watch");
        let spec = json!({"ports": [{"port": 80}]});
        world.create::<Service>("ns", json!({"metadata": {"name": "db"}, "spec": spec})).await;
        world.create::<Endpoints>("ns", json!({"metadata": {"name": "db"}})).await;
        eventually("the endpoints are known", async || controller.endpoints.get("ns/db")).await;
        controller.sync("ns/db").await.unwrap();
        world.api::<Endpoints>("ns").get("db").await.unwrap();
    }
}
