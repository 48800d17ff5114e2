//! EndpointSlices: where a service's traffic can go, in small pieces.

mod core;
pub mod ports;
#[cfg(test)]
mod stale_tests;
#[cfg(test)]
mod tests;
mod trigger;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, DeleteParams, EventRecorder, Informer, Resource};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;

pub use self::core::{HEADLESS, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, hostname, target, tolerates_unready};
use self::core::{MANAGER, Plan, View};
use self::trigger::Told;
use crate::harness::{Controller, Scope, enqueue_all};
use crate::{Error, meta, selector};

/// Finds slices by `namespace/service`.
const BY_SERVICE: &str = "service-name";

struct SliceController {
    scope: Scope,
    services: Informer<Service>,
    pods: Informer<CachedPod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    events: EventRecorder,
    /// By service key.
    state: Mutex<HashMap<String, State>>,
}

/// What is remembered for one service between syncs.
#[derive(Default)]
struct State {
    told: Told,
    /// Versions of our own writes by slice name (None for a deletion): an older cache is not acted on.
    written: HashMap<String, Option<u64>>,
}

pub async fn run(scope: Scope) {
    let controller = SliceController::new(scope.clone());
    if !controller.synced().await {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&controller.services, &queue);
    enqueue_services_of_pods(&controller.pods, &controller.services, &queue);
    let by_slice = queue.clone();
    controller.slices.on_change(move |change| {
        // Someone else's hand on our slice; our own writes come back as no difference.
        if let Some(key) = service_key(change.object()) {
            by_slice.add(&key);
        }
    });
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

fn service_key(slice: &EndpointSlice) -> Option<String> {
    if meta::label(&slice.metadata, MANAGED_BY) != Some(MANAGER) {
        return None;
    }
    let name = meta::label(&slice.metadata, SERVICE_NAME)?;
    Some(format!("{}/{name}", slice.namespace()))
}

/// Puts services on the queue whose endpoints a pod's change may alter. Shared with the legacy
/// Endpoints controller.
pub fn enqueue_services_of_pods(pods: &Informer<CachedPod>, services: &Informer<Service>, queue: &WorkQueue) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.on_change(move |change| {
        let (new, old) = match change {
            Change::Updated { old, new } if !is_relevant(old, new) => return,
            Change::Updated { old, new } => (new, Some(old)),
            Change::Added(pod) | Change::Deleted(pod) => (pod, None),
        };
        let relabelled = old.filter(|old| old.metadata.labels != new.metadata.labels);
        for service in services.list_namespace(new.namespace()) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let takes = |pod: &Arc<CachedPod>| selector::map_matches(selector, pod.metadata.labels.as_ref());
            if takes(new) || relabelled.is_some_and(takes) {
                queue.add(&service.key());
            }
        }
    });
}

/// Whether an update of a pod can change any endpoint.
fn is_relevant(old: &CachedPod, new: &CachedPod) -> bool {
    crate::pods::is_ready(old) != crate::pods::is_ready(new)
        || old.is_terminating() != new.is_terminating()
        || old.metadata.labels != new.metadata.labels
        || old.uid() != new.uid()
        || crate::pods::node_name(old) != crate::pods::node_name(new)
        || crate::pods::phase(old) != crate::pods::phase(new)
        || old.own.pod_ip != new.own.pod_ip
        || old.own.pod_ips != new.own.pod_ips
}

impl Controller for SliceController {
    const QUEUE: &'static str = "endpoint_slice";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(service) = self.services.get(key) else {
            // Its slices go with it by their owner reference.
            self.state.lock().remove(key);
            return Ok(None);
        };
        let spec = service.spec.as_ref();
        let external = spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName");
        let selector = spec.and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty() && !external);
        if selector.is_none() || service.is_terminating() {
            return Ok(None);
        }
        let slices = self.slices.by_index(BY_SERVICE, key);
        self.check_cache(&service, &slices).await?;
        let pods: Vec<Arc<CachedPod>> = self
            .pods
            .list_namespace(service.namespace())
            .into_iter()
            .filter(|pod| selector::map_matches(selector, pod.metadata.labels.as_ref()))
            .collect();
        let changed = self.state.lock().entry(key.to_owned()).or_default().told.advance(&service, &pods);
        let plan = {
            let zone_of = |node: &str| self.nodes.get(node).and_then(|node| core::zone(&node));
            let trigger_time = changed.map(|at| at.to_string());
            core::reconcile(&View { pods: &pods, slices: &slices, zone_of: &zone_of, trigger_time }, &service)
        };
        let outcome = self.execute(key, &service, plan).await;
        if let Err(error) = &outcome
            && !error.is_race()
            && !error.is_namespace_terminating()
        {
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            self.events.warning(service.as_ref(), "FailedToUpdateEndpointSlices", message);
        }
        match outcome {
            Err(error) if error.is_namespace_terminating() => Ok(None),
            other => other.map(|()| None),
        }
    }
}

fn version(slice: &EndpointSlice) -> u64 {
    slice.resource_version().parse().unwrap_or(0)
}

impl SliceController {
    fn new(scope: Scope) -> Self {
        let slices = scope.informers.get::<EndpointSlice>();
        slices.add_index(BY_SERVICE, |slice| service_key(slice).into_iter().collect());
        SliceController {
            services: scope.informers.get(),
            pods: scope.informers.get(),
            nodes: scope.informers.get(),
            slices,
            events: scope.events("endpoint-slice-controller"),
            state: Mutex::default(),
            scope,
        }
    }

    /// False when cancelled meanwhile.
    async fn synced(&self) -> bool {
        let scope = &self.scope;
        scope.synced(&self.services).await
            && scope.synced(&self.pods).await
            && scope.synced(&self.nodes).await
            && scope.synced(&self.slices).await
    }

    /// Refuses to act while the cache is behind our own writes: endpoints would be placed twice.
    async fn check_cache(&self, service: &Service, slices: &[Arc<EndpointSlice>]) -> Result<(), Error> {
        let key = service.key();
        let unseen = self.unseen(&key, slices);
        self.forget_lost(service, unseen).await?;
        let is_behind = self.state.lock().get(&key).is_some_and(|state| !state.written.is_empty());
        if is_behind { Err(Error::Stale(format!("a slice of {key}"))) } else { Ok(()) }
    }

    /// Forgets the writes that the cache shows, and names the slices of those left that it lacks.
    fn unseen(&self, key: &str, slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        let mut states = self.state.lock();
        let Some(state) = states.get_mut(key) else { return Vec::new() };
        let cached = |name: &String| slices.iter().find(|slice| slice.name() == name);
        state.written.retain(|name, wrote| match (wrote, cached(name)) {
            (Some(wrote), Some(slice)) => version(slice) < *wrote,
            (Some(_), None) => true,
            (None, cached) => cached.is_some(),
        });
        state.written.keys().filter(|name| cached(name).is_none()).cloned().collect()
    }

    /// A slice we wrote that the cache does not show will come, unless another hand took it from us:
    /// then there is nothing to wait for.
    async fn forget_lost(&self, service: &Service, unseen: Vec<String>) -> Result<(), Error> {
        let key = service.key();
        let api = Api::<EndpointSlice>::namespaced(self.scope.client.clone(), service.namespace());
        for name in unseen {
            let is_ours =
                api.get_opt(&name).await?.is_some_and(|slice| service_key(&slice).as_ref() == Some(&key));
            if !is_ours && let Some(state) = self.state.lock().get_mut(&key) {
                state.written.remove(&name);
            }
        }
        Ok(())
    }

    fn wrote(&self, key: &str, name: &str, version: Option<u64>) {
        let mut states = self.state.lock();
        states.entry(key.to_owned()).or_default().written.insert(name.to_owned(), version);
    }

    async fn execute(&self, key: &str, service: &Service, plan: Plan) -> Result<(), Error> {
        let api = Api::<EndpointSlice>::namespaced(self.scope.client.clone(), service.namespace());
        for slice in &plan.create {
            let created = api.create(slice).await?;
            self.wrote(key, created.name(), Some(version(&created)));
        }
        for slice in &plan.update {
            let updated = api.update(slice).await?;
            self.wrote(key, updated.name(), Some(version(&updated)));
        }
        for slice in &plan.delete {
            let params = DeleteParams { uid: Some(slice.uid().to_owned()), ..DeleteParams::default() };
            match api.delete(slice.name(), &params).await {
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error.into()),
                Ok(()) => self.wrote(key, slice.name(), None),
            }
        }
        Ok(())
    }
}
