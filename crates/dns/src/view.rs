//! What of the cluster an answer depends on. The informers' caches are the view: they are always
//! current, so nothing has to be rebuilt when an object changes.

use std::net::IpAddr;
use std::sync::Arc;

use amphipod_client::{Informer, SharedInformers};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

const SLICES_BY_SERVICE: &str = "dns-service";
const SLICES_BY_ADDRESS: &str = "dns-endpoint-address";
const SERVICES_BY_ADDRESS: &str = "dns-cluster-ip";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

pub trait View {
    fn has_namespace(&self, name: &str) -> bool;
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>>;
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>>;
}

/// The informers the server reads.
#[derive(Clone)]
pub struct Caches {
    pub services: Informer<Service>,
    pub slices: Informer<EndpointSlice>,
    pub namespaces: Informer<Namespace>,
}

/// The service a slice belongs to: `(namespace, name)`.
pub fn owner(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some((slice.metadata.namespace.as_deref()?, name))
}

impl Caches {
    pub fn new(informers: &SharedInformers) -> Self {
        let caches =
            Caches { services: informers.get(), slices: informers.get(), namespaces: informers.get() };
        caches.slices.add_index(SLICES_BY_SERVICE, |slice| {
            owner(slice).map(|(namespace, name)| format!("{namespace}/{name}")).into_iter().collect()
        });
        caches.slices.add_index(SLICES_BY_ADDRESS, |slice| {
            slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect()
        });
        caches.services.add_index(SERVICES_BY_ADDRESS, |service| cluster_ips(service).to_vec());
        caches
    }

    pub async fn synced(&self) {
        tokio::join!(self.services.synced(), self.slices.synced(), self.namespaces.synced());
    }
}

/// A service's own addresses, as text; none for headless ones.
pub fn cluster_ips(service: &Service) -> &[String] {
    let ips = service.spec.as_ref().and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
    if ips.first().is_some_and(|ip| ip == "None") { &[] } else { ips }
}

impl View for Caches {
    fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get(name).is_some()
    }
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&format!("{namespace}/{name}"))
    }
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(SLICES_BY_SERVICE, &format!("{namespace}/{service}"))
    }
    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>> {
        self.services.by_index(SERVICES_BY_ADDRESS, &address.to_string()).into_iter().next()
    }
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(SLICES_BY_ADDRESS, &address.to_string())
    }
}
