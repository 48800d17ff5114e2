//! Puts the server where every cluster's DNS is expected: behind the Service
//! `kube-system/kube-dns`. The Service is made when absent; its EndpointSlice is kept as it must be.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use amphipod_client::{Api, Client, Error, Resource};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::view::Caches;

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
const SLICE: &str = "kube-dns-amphipod";
const PORT: u16 = 53;
const PORTS: [(&str, &str); 2] = [("dns", "UDP"), ("dns-tcp", "TCP")];
/// While the namespace or the API server is not there yet; doubles up to the other.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How often to look whether somebody changed what must stay.
const CHECK: Duration = Duration::from_secs(2);

/// Where the server can be reached.
#[derive(Clone, Debug)]
pub struct Place {
    pub service_ip: IpAddr,
    pub listen: Vec<SocketAddr>,
    pub node_name: Option<String>,
}

fn labels() -> BTreeMap<String, String> {
    [("k8s-app", "kube-dns"), ("kubernetes.io/cluster-service", "true"), ("kubernetes.io/name", "CoreDNS")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The Service, without a selector: the server is no pod.
pub fn service(place: &Place) -> Service {
    let mut service = Service::default();
    service.metadata.name = Some(SERVICE.to_owned());
    service.metadata.namespace = Some(NAMESPACE.to_owned());
    service.metadata.labels = Some(labels());
    let ports = PORTS.map(|(name, protocol)| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(PORT),
        protocol: Some(protocol.to_owned()),
        target_port: Some(IntOrString::Int(i32::from(PORT))),
        ..Default::default()
    });
    service.spec = Some(ServiceSpec {
        cluster_ip: Some(place.service_ip.to_string()),
        ports: Some(ports.to_vec()),
        ..Default::default()
    });
    service
}

pub fn slice(place: &Place) -> EndpointSlice {
    let mut labels = labels();
    labels.insert("kubernetes.io/service-name".to_owned(), SERVICE.to_owned());
    labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), "amphipod-dns".to_owned());
    let mut slice = EndpointSlice { address_type: "IPv4".to_owned(), ..Default::default() };
    slice.metadata.name = Some(SLICE.to_owned());
    slice.metadata.namespace = Some(NAMESPACE.to_owned());
    slice.metadata.labels = Some(labels);
    let port = place.listen.first().map_or(PORT, SocketAddr::port);
    let ports = PORTS.map(|(name, protocol)| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(i32::from(port)),
        protocol: Some(protocol.to_owned()),
        ..Default::default()
    });
    slice.ports = Some(ports.to_vec());
    slice.endpoints = place
        .listen
        .iter()
        .filter(|address| address.is_ipv4())
        .map(|address| Endpoint {
            addresses: vec![address.ip().to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                serving: Some(true),
                terminating: Some(false),
            }),
            node_name: place.node_name.clone(),
            ..Default::default()
        })
        .collect();
    slice
}

/// Whether the slice in the cluster says what it must.
fn is_right(there: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let wanted_labels = wanted.metadata.labels.iter().flatten();
    let has = |(key, value): (&String, &String)| {
        there.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
    };
    there.endpoints == wanted.endpoints && there.ports == wanted.ports && wanted_labels.into_iter().all(has)
}

/// Keeps Service and slice until cancelled.
pub async fn keep(client: Client, caches: &Caches, place: &Place, cancel: &CancellationToken) {
    let mut retry = FIRST_RETRY;
    loop {
        let pause = match reconcile(&client, caches, place).await {
            Ok(()) => {
                retry = FIRST_RETRY;
                CHECK
            }
            Err(error) => {
                // Normal at first: the namespace may not be there yet.
                if retry == LAST_RETRY {
                    warn!(%error, "cluster DNS could not be published, trying again");
                } else {
                    debug!(%error, "cluster DNS could not be published yet");
                }
                let pause = retry;
                retry = (retry * 2).min(LAST_RETRY);
                pause
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn reconcile(client: &Client, caches: &Caches, place: &Place) -> Result<(), Error> {
    if caches.services.get(&format!("{NAMESPACE}/{SERVICE}")).is_none() {
        let api = Api::<Service>::namespaced(client.clone(), NAMESPACE);
        existing_is_fine(api.create(&service(place)).await)?;
    }
    let wanted = slice(place);
    let Some(there) = caches.slices.get(&wanted.key()) else {
        let api = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE);
        return existing_is_fine(api.create(&wanted).await);
    };
    if is_right(&there, &wanted) {
        return Ok(());
    }
    let mut changed = EndpointSlice::clone(&there);
    changed.endpoints = wanted.endpoints;
    changed.ports = wanted.ports;
    changed.metadata.labels.get_or_insert_default().extend(wanted.metadata.labels.unwrap_or_default());
    Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE).update(&changed).await.map(|_| ())
}

/// The caches lag behind what we just made.
fn existing_is_fine<T>(outcome: Result<T, Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_slices_are_noticed() {
        let place = Place {
            service_ip: "10.96.0.10".parse().unwrap(),
            listen: vec!["10.244.0.1:53".parse().unwrap()],
            node_name: Some("here".into()),
        };
        let wanted = slice(&place);
        assert!(is_right(&wanted, &wanted));
        let mut other = wanted.clone();
        other.endpoints.clear();
        assert!(!is_right(&other, &wanted));
        let mut more = wanted.clone();
        more.metadata.labels.get_or_insert_default().insert("theirs".into(), "x".into());
        assert!(is_right(&more, &wanted));
        more.metadata.labels.get_or_insert_default().remove("kubernetes.io/service-name");
        assert!(!is_right(&more, &wanted));
    }
}
