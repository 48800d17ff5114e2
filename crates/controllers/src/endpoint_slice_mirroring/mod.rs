//! Slices for Endpoints that users keep by hand (services without a selector), so that whoever reads
//! only slices sees them too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, Change, DeleteParams, Informer, Resource};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use crate::endpoint_slice::{MANAGED_BY, SERVICE_NAME, TRIGGER_TIME};
use crate::harness::{Controller, Scope};
use crate::{Error, meta, pods};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses mirrored of one subset; a slice may hold no more.
const MAX_PER_SUBSET: usize = 1000;
const BY_SERVICE: &str = "mirrored-service-name";

#[derive(Debug, Default)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// Ready addresses first, as far as there is room; those of one family.
fn endpoints(subset: &EndpointSubset, family: &str) -> Vec<Endpoint> {
    let ready = subset.addresses.iter().flatten().map(|a| (a, true));
    let unready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
    let of_family = |a: &EndpointAddress| a.ip.contains(':') == (family == "IPv6");
    ready
        .chain(unready)
        .take(MAX_PER_SUBSET)
        .filter(|(address, _)| of_family(address))
        .map(|(address, ready)| endpoint(address, ready))
        .collect()
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

/// A slice as it should be, for one subset and family.
fn mirror(source: &Endpoints, subset: &EndpointSubset, family: &str) -> Option<EndpointSlice> {
    let endpoints = endpoints(subset, family);
    if endpoints.is_empty() {
        return None;
    }
    let mut slice = EndpointSlice {
        address_type: family.to_owned(),
        endpoints,
        ports: Some(ports(subset)),
        ..EndpointSlice::default()
    };
    slice.metadata.generate_name = Some(pods::name_prefix(source.name()));
    slice.metadata.namespace = source.metadata.namespace.clone();
    dress(source, &mut slice);
    Some(slice)
}

fn dress(source: &Endpoints, slice: &mut EndpointSlice) {
    let mut labels: BTreeMap<String, String> = source.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), source.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    slice.metadata.labels = Some(labels);
    let mut annotations = source.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != LAST_APPLIED && key != TRIGGER_TIME);
    slice.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    slice.metadata.owner_references = Some(vec![meta::controller_reference(source)]);
}

/// `source` is None where nothing is to be mirrored (any more).
fn reconcile(source: Option<&Endpoints>, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut free: Vec<Arc<EndpointSlice>> = existing.to_vec();
    let subsets = source.iter().flat_map(|source| source.subsets.iter().flatten());
    let families = |subset| ["IPv4", "IPv6"].map(|family| mirror(source?, subset, family));
    let mut wanted: Vec<EndpointSlice> = subsets.flat_map(families).flatten().collect();
    // First those whose ports are there already, then any slice of the family, then new ones.
    for same_ports in [true, false] {
        wanted.retain(|slice| {
            let fits = |old: &Arc<EndpointSlice>| {
                old.address_type == slice.address_type
                    && (!same_ports
                        || old.ports.clone().unwrap_or_default() == slice.ports.clone().unwrap_or_default())
            };
            let Some(at) = free.iter().position(fits) else { return true };
            let old = free.swap_remove(at);
            let mut changed = old.as_ref().clone();
            changed.endpoints.clone_from(&slice.endpoints);
            changed.ports.clone_from(&slice.ports);
            changed.metadata.labels.clone_from(&slice.metadata.labels);
            changed.metadata.annotations.clone_from(&slice.metadata.annotations);
            changed.metadata.owner_references.clone_from(&slice.metadata.owner_references);
            if changed != *old {
                plan.update.push(changed);
            }
            false
        });
    }
    plan.create = wanted;
    plan.delete = free;
    plan
}

/// Only Endpoints of a service whose selector is absent, and not those that say no.
fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let by_hand = service.spec.as_ref().is_none_or(|s| s.selector.as_ref().is_none_or(BTreeMap::is_empty));
    by_hand
        && meta::label(&endpoints.metadata, SKIP) != Some("true")
        && meta::annotation(&endpoints.metadata, LEADER).is_none()
        && !endpoints.is_terminating()
}

struct Mirroring {
    scope: Scope,
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

fn service_key(slice: &EndpointSlice) -> Option<String> {
    if meta::label(&slice.metadata, MANAGED_BY) != Some(MANAGER) {
        return None;
    }
    Some(format!("{}/{}", slice.namespace(), meta::label(&slice.metadata, SERVICE_NAME)?))
}

pub async fn run(scope: Scope) {
    let endpoints = scope.informers.get::<Endpoints>();
    let services = scope.informers.get::<Service>();
    let slices = scope.informers.get::<EndpointSlice>();
    slices.add_index(BY_SERVICE, |slice| service_key(slice).into_iter().collect());
    let synced =
        scope.synced(&endpoints).await && scope.synced(&services).await && scope.synced(&slices).await;
    if !synced {
        return;
    }
    let queue = WorkQueue::new();
    crate::harness::enqueue_all(&endpoints, &queue);
    let (by_service, by_slice) = (queue.clone(), queue.clone());
    services.on_change(move |change| {
        let selector = |s: &Service| s.spec.as_ref().and_then(|s| s.selector.clone());
        if !matches!(change, Change::Updated { old, new } if selector(old) == selector(new)) {
            by_service.add(&change.object().key());
        }
    });
    slices.on_change(move |change| {
        if let Some(key) = service_key(change.object()) {
            by_slice.add(&key);
        }
    });
    let controller = Mirroring { scope: scope.clone(), endpoints, services, slices };
    // One worker: the cache may lag behind a create, and only a second look at it would double.
    scope.work(queue, 1, Arc::new(controller)).await;
}

impl Controller for Mirroring {
    const QUEUE: &'static str = "endpoint_slice_mirroring";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some((namespace, _)) = key.split_once('/') else { return Ok(None) };
        let source = self.endpoints.get(key).zip(self.services.get(key));
        let source = source.filter(|(endpoints, service)| is_mirrored(endpoints, service));
        let plan =
            reconcile(source.as_ref().map(|(e, _)| e.as_ref()), &self.slices.by_index(BY_SERVICE, key));
        let api = Api::<EndpointSlice>::namespaced(self.scope.client.clone(), namespace);
        for slice in &plan.create {
            let created = match api.create(slice).await.map_err(Error::from) {
                Err(error) if error.is_namespace_terminating() => return Ok(None),
                other => other?,
            };
            self.shown(&created).await;
        }
        for slice in &plan.update {
            api.update(slice).await?;
        }
        for slice in &plan.delete {
            let params = DeleteParams { uid: Some(slice.uid().to_owned()), ..DeleteParams::default() };
            match api.delete(slice.name(), &params).await {
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
        }
        Ok(None)
    }
}

impl Mirroring {
    /// Waits until the cache shows a slice just made, within reason.
    async fn shown(&self, slice: &EndpointSlice) {
        const PATIENCE: Duration = Duration::from_secs(5);
        const GLANCE: Duration = Duration::from_millis(5);
        let key = slice.key();
        let wait = async {
            while self.slices.get(&key).is_none() {
                tokio::time::sleep(GLANCE).await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn subsets_become_slices_and_follow_changes() {
        let source = |ip: &str| -> Endpoints {
            object(json!({"metadata": {"name": "db", "namespace": "ns", "uid": "e", "labels": {"a": "b"}},
                "subsets": [{"addresses": [{"ip": ip}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.9"}],
                    "ports": [{"port": 5432}]}]}))
        };
        let plan = reconcile(Some(&source("10.0.0.1")), &[]);
        let kinds: Vec<_> =
            plan.create.iter().map(|s| (s.address_type.as_str(), s.endpoints.len())).collect();
        assert_eq!(kinds, [("IPv4", 2), ("IPv6", 1)]);
        assert_eq!(plan.create[0].metadata.labels.as_ref().unwrap()[MANAGED_BY], MANAGER);
        let there: Vec<Arc<EndpointSlice>> = plan.create.into_iter().map(Arc::new).collect();
        let plan = reconcile(Some(&source("10.0.0.1")), &there);
        assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty());
        let plan = reconcile(Some(&source("10.0.0.2")), &there);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        assert_eq!(reconcile(None, &there).delete.len(), 2);
    }
}
