//! Table tests over the placing of endpoints.

use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::core::{Plan, View, reconcile};
use crate::testing::{at, object, set_ready};

fn service(spec: Value) -> Service {
    object(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "a"}},
        "spec": spec}))
}

fn web() -> Service {
    service(json!({"selector": {"app": "web"}, "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.9",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}]}))
}

fn pod(number: usize, ready: bool) -> CachedPod {
    let mut pod: CachedPod = object(json!({
        "metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number}")},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [
            {"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": format!("10.244.{}.{}", number / 250, number % 250 + 1)},
    }));
    set_ready(&mut pod, ready.then(|| at(100)));
    pod
}

fn run(service: &Service, pods: &[Arc<CachedPod>], slices: &[Arc<EndpointSlice>]) -> Plan {
    let zone_of = |_: &str| None;
    reconcile(&View { pods, slices, zone_of: &zone_of, trigger_time: None }, service)
}

fn stored(plan: Plan) -> Vec<Arc<EndpointSlice>> {
    let named = plan.create.into_iter().chain(plan.update).enumerate().map(|(i, mut slice)| {
        slice.metadata.name.get_or_insert_with(|| format!("web-{i}"));
        slice.metadata.uid.get_or_insert_with(|| format!("uid-{i}"));
        Arc::new(slice)
    });
    named.collect()
}

fn counts(slices: &[EndpointSlice]) -> Vec<usize> {
    slices.iter().map(|slice| slice.endpoints.len()).collect()
}

#[test]
fn conditions_ports_and_labels() {
    let mut leaving = pod(3, true);
    leaving.metadata.deletion_timestamp = crate::meta::time(at(200));
    let mut over = pod(4, false);
    Arc::make_mut(over.status.as_mut().unwrap()).phase = Some("Succeeded".into());
    let pods = [pod(1, true), pod(2, false), leaving, over].map(Arc::new);
    let plan = run(&web(), &pods, &[]);
    let slice = &plan.create[0];
    let shown: Vec<_> = slice
        .endpoints
        .iter()
        .map(|e| e.conditions.clone().map(|c| (c.ready, c.serving, c.terminating)).unwrap())
        .collect();
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(shown, [(yes, yes, no), (no, no, no), (no, yes, yes)]);
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(labels["team"], "a");
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));

    let mut open = web();
    open.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let plan = run(&open, &pods[1..2], &[]);
    assert_eq!(plan.create[0].endpoints[0].conditions.as_ref().unwrap().ready, yes);
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let plan = run(&web(), &[], &[]);
    assert_eq!(counts(&plan.create), [0]);
    assert_eq!(plan.create[0].ports, Some(vec![]));
    let slices = stored(plan);
    let plan = run(&web(), &[], &slices);
    assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty());
    // The first endpoint moves into it.
    let plan = run(&web(), &[Arc::new(pod(1, true))], &slices);
    assert_eq!((plan.create.len(), counts(&plan.update), plan.delete.len()), (0, vec![1], 0));
    // And the last leaves it behind.
    let slices = stored(plan);
    let plan = run(&web(), &[], &slices);
    assert_eq!((plan.create.len(), counts(&plan.update), plan.delete.len()), (0, vec![0], 0));
    assert_eq!(plan.update[0].ports, Some(vec![]));
}

#[test]
fn slices_are_filled_and_left_alone() {
    let pods: Vec<Arc<CachedPod>> = (0..250).map(|i| Arc::new(pod(i, true))).collect();
    let plan = run(&web(), &pods, &[]);
    assert_eq!(counts(&plan.create), [100, 100, 50]);
    let slices = stored(plan);
    let plan = run(&web(), &pods, &slices);
    assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty());
    // One turns unready: one slice is written, nothing moves.
    let mut pods = pods;
    pods[120] = Arc::new(pod(120, false));
    let plan = run(&web(), &pods, &slices);
    assert_eq!((plan.create.len(), counts(&plan.update), plan.delete.len()), (0, vec![100], 0));
    // One more finds room in the last.
    pods[120] = Arc::new(pod(120, true));
    pods.push(Arc::new(pod(250, true)));
    let plan = run(&web(), &pods, &slices);
    assert_eq!((plan.create.len(), counts(&plan.update), plan.delete.len()), (0, vec![51], 0));
    // Emptied slices go.
    let plan = run(&web(), &pods[..1], &slices);
    assert_eq!((plan.create.len(), counts(&plan.update), plan.delete.len()), (0, vec![1], 2));
}

#[test]
fn named_ports_with_other_numbers_need_slices_of_their_own() {
    let mut other = pod(2, true);
    let container = &mut Arc::make_mut(other.spec.as_mut().unwrap()).containers[0];
    container.ports.as_mut().unwrap()[0].container_port = 9090;
    let mut lacking = pod(3, true);
    Arc::make_mut(lacking.spec.as_mut().unwrap()).containers[0].ports = None;
    let pods = [pod(1, true), other, lacking].map(Arc::new);
    let plan = run(&web(), &pods, &[]);
    let ports: Vec<_> = plan.create.iter().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
    assert_eq!((ports, counts(&plan.create)), (vec![8080, 9090], vec![1, 1]));
}

#[test]
fn headless_services_need_no_ports_and_show_hostnames() {
    let headless = service(json!({"selector": {"app": "web"}, "clusterIP": "None", "ipFamilies": ["IPv4"]}));
    let mut member = pod(1, true);
    let spec = Arc::make_mut(member.spec.as_mut().unwrap());
    (spec.hostname, spec.subdomain) = (Some("web-0".into()), Some("web".into()));
    let plan = run(&headless, &[Arc::new(member)], &[]);
    let slice = &plan.create[0];
    assert_eq!(slice.endpoints[0].hostname.as_deref(), Some("web-0"));
    assert_eq!(slice.ports, Some(vec![]));
    assert_eq!(slice.metadata.labels.as_ref().unwrap()["service.kubernetes.io/headless"], "");
    assert_eq!(slice.namespace(), "ns");
}
