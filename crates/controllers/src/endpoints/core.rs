//! From a service and its pods to the one Endpoints object: subsets of addresses that share ports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};

use crate::endpoint_slice::ports::{self, Port};
use crate::endpoint_slice::{HEADLESS, TRIGGER_TIME, hostname, target, tolerates_unready};
use crate::{meta, pods};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

#[derive(Debug, PartialEq)]
pub enum Plan {
    Nothing,
    Create(Box<Endpoints>),
    Update(Box<Endpoints>),
}

/// An address and where it stands, comparable so that equal sets of addresses meet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    ip: String,
    uid: String,
    ready: bool,
}

pub fn reconcile(service: &Service, all: &[Arc<CachedPod>], existing: Option<&Endpoints>) -> Plan {
    let (subsets, truncated) = subsets(service, all);
    let mut object = existing.cloned().unwrap_or_default();
    object.subsets = (!subsets.is_empty()).then_some(subsets);
    object.metadata.name = service.metadata.name.clone();
    object.metadata.namespace = service.metadata.namespace.clone();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if ports::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    object.metadata.labels = Some(labels);
    if truncated {
        meta::annotate(&mut object.metadata, OVER_CAPACITY, "truncated");
    } else if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
        annotations.remove(TRIGGER_TIME);
    }
    object.metadata.annotations = object.metadata.annotations.take().filter(|a| !a.is_empty());
    match existing {
        None => Plan::Create(Box::new(object)),
        Some(existing) if *existing == object => Plan::Nothing,
        Some(_) => Plan::Update(Box::new(object)),
    }
}

fn subsets(service: &Service, all: &[Arc<CachedPod>]) -> (Vec<EndpointSubset>, bool) {
    let unready_too = tolerates_unready(service);
    let mut addresses: BTreeMap<Place, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<Port>, BTreeSet<Place>> = BTreeMap::new();
    let mut truncated = false;
    for pod in all {
        let ip = pod.own.pod_ip.as_deref().unwrap_or("");
        if ip.is_empty() || pods::is_terminal(pod) || (pod.is_terminating() && !unready_too) {
            continue;
        }
        let offered = ports::of(service, pod);
        let has_ports = service.spec.as_ref().and_then(|s| s.ports.as_ref()).is_some_and(|p| !p.is_empty());
        if offered.is_empty() && (has_ports || !ports::is_headless(service)) {
            continue;
        }
        if addresses.len() >= MAX_ADDRESSES {
            truncated = true;
            break;
        }
        let ready = unready_too || pods::is_ready(pod);
        let place = Place { ip: ip.to_owned(), uid: pod.uid().to_owned(), ready };
        let node = pods::node_name(pod);
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(service, pod),
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            target_ref: Some(target(pod)),
        };
        addresses.insert(place.clone(), address);
        let keys: Vec<Option<Port>> =
            if offered.is_empty() { vec![None] } else { offered.into_iter().map(Some).collect() };
        for key in keys {
            by_port.entry(key).or_default().insert(place.clone());
        }
    }
    (pack(&addresses, by_port), truncated)
}

/// Ports with the very same addresses share a subset.
fn pack(
    addresses: &BTreeMap<Place, EndpointAddress>,
    by_port: BTreeMap<Option<Port>, BTreeSet<Place>>,
) -> Vec<EndpointSubset> {
    let mut by_places: BTreeMap<BTreeSet<Place>, Vec<Port>> = BTreeMap::new();
    for (port, places) in by_port {
        by_places.entry(places).or_default().extend(port);
    }
    let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let subset = |(places, ports): (BTreeSet<Place>, Vec<Port>)| {
        let (ready, unready): (Vec<&Place>, Vec<&Place>) = places.iter().partition(|place| place.ready);
        let of = |places: Vec<&Place>| places.iter().filter_map(|p| addresses.get(p)).cloned().collect();
        let ports: Vec<EndpointPort> = ports.into_iter().map(wire_port).collect();
        EndpointSubset {
            addresses: some(of(ready)),
            not_ready_addresses: some(of(unready)),
            ports: (!ports.is_empty()).then_some(ports),
        }
    };
    by_places.into_iter().map(subset).collect()
}

fn wire_port(port: Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, set_ready};
    use serde_json::json;

    #[test]
    fn subsets_group_by_ports_and_readiness() {
        let service: Service = object(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {
            "selector": {"a": "b"}, "ports": [
                {"name": "a", "port": 1, "targetPort": 10}, {"name": "b", "port": 2, "targetPort": "b"}]}}));
        let pod = |name: &str, ip: &str, ready: bool, named: bool| {
            let ports = if named { json!([{"name": "b", "containerPort": 20}]) } else { json!([]) };
            let mut pod: CachedPod =
                object(json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
                "spec": {"containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIP": ip}}));
            set_ready(&mut pod, ready.then(|| at(1)));
            Arc::new(pod)
        };
        let pods = [pod("x", "10.0.0.1", true, true), pod("y", "10.0.0.2", false, true)];
        let Plan::Create(endpoints) = reconcile(&service, &pods, None) else { panic!("creates") };
        let subsets = endpoints.subsets.as_ref().unwrap();
        assert_eq!(subsets.len(), 1);
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert_eq!(subsets[0].ports.as_ref().unwrap().len(), 2);
        assert_eq!(reconcile(&service, &pods, Some(&endpoints)), Plan::Nothing);

        let pods = [pods[0].clone(), pod("z", "10.0.0.3", true, false)];
        let Plan::Update(endpoints) = reconcile(&service, &pods, Some(&endpoints)) else { panic!("updates") };
        assert_eq!(endpoints.subsets.unwrap().len(), 2);
    }
}
