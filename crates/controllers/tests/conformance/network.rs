//! sig-network: endpoints as the controllers keep them.

use amphipod_client::{DeleteParams, ListParams, Patch, Resource};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, eventually};

const NAMESPACE: &str = "net";

async fn start() -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    cluster
}

async fn service(cluster: &Cluster, name: &str, selector: &Value, target: Value) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": selector,
        "publishNotReadyAddresses": true, "ports": [{"name": "example", "port": 80, "targetPort": target, "protocol": "TCP"}]}});
    cluster.create::<Service>(NAMESPACE, service).await;
}

async fn slices_of(cluster: &Cluster, service: &str) -> Vec<EndpointSlice> {
    let of_service = ListParams {
        label_selector: Some(format!("kubernetes.io/service-name={service}")),
        ..ListParams::default()
    };
    cluster.api::<EndpointSlice>(NAMESPACE).list(&of_service).await.unwrap().1
}

/// A service that selects nothing.
async fn empty(cluster: &Cluster) {
    service(cluster, "example-empty-selector", &json!({"does-not-match-anything": "x"}), json!(80)).await;
}

async fn two_pods(cluster: &Cluster) -> Vec<String> {
    let mut addresses = Vec::new();
    for (name, port) in [("pod1", 3000), ("pod2", 3001)] {
        let labels = json!({name: "on", "shared12": "on"});
        let mut pod = crate::pod(name, &labels);
        pod["spec"]["containers"][0]["ports"] = json!([{"name": "example-name", "containerPort": port}]);
        cluster.create::<Pod>(NAMESPACE, pod).await;
        let address = |p: &Pod| p.status.as_ref().and_then(|s| s.pod_ip.clone());
        let pod = cluster.until::<Pod>("has an address", NAMESPACE, name, |p| address(p).is_some()).await;
        addresses.push(address(&pod).unwrap());
    }
    addresses
}

/// [sig-network] EndpointsController should create and delete Endpoints for a Service with a selector that matches no pods [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn empty_endpoints() {
    let cluster = start().await;
    empty(&cluster).await;
    cluster.until::<Endpoints>("made", NAMESPACE, "example-empty-selector", |_| true).await;
    cluster
        .api::<Service>(NAMESPACE)
        .delete("example-empty-selector", &DeleteParams::default())
        .await
        .unwrap();
    cluster.until_gone::<Endpoints>(NAMESPACE, "example-empty-selector").await;
}

/// [sig-network] EndpointSlice should create and delete EndpointSlices for a Service with a selector that matches no pods [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn empty_slices() {
    let cluster = start().await;
    empty(&cluster).await;
    let slice =
        eventually("made", || async { slices_of(&cluster, "example-empty-selector").await.pop() }).await;
    let manager =
        slice.metadata.labels.as_ref().and_then(|l| l.get("endpointslice.kubernetes.io/managed-by"));
    assert_eq!(manager.map(String::as_str), Some("endpointslice-controller.k8s.io"));
    assert!(slice.endpoints.is_empty());
    cluster
        .api::<Service>(NAMESPACE)
        .delete("example-empty-selector", &DeleteParams::default())
        .await
        .unwrap();
    eventually("gone", || async {
        slices_of(&cluster, "example-empty-selector").await.is_empty().then_some(())
    })
    .await;
}

/// The address and port of every endpoint in the slices.
async fn found(cluster: &Cluster, service: &str) -> Vec<(String, i32)> {
    let mut found = Vec::new();
    for slice in slices_of(cluster, service).await {
        let port = slice.ports.as_ref().and_then(|p| p.first()).and_then(|p| p.port).unwrap_or(0);
        found.extend(slice.endpoints.iter().map(|e| (e.addresses[0].clone(), port)));
    }
    found.sort();
    found
}

async fn until_found(cluster: &Cluster, service: &str, wanted: &[(String, i32)]) {
    eventually(service, || async { (found(cluster, service).await == wanted).then_some(()) }).await;
}

/// [sig-network] EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn slices_of_pods() {
    let cluster = start().await;
    let addresses = two_pods(&cluster).await;
    service(&cluster, "example-int-port", &json!({"pod1": "on"}), json!(3000)).await;
    service(&cluster, "example-named-port", &json!({"shared12": "on"}), json!("example-name")).await;
    service(&cluster, "example-no-match", &json!({"pod3": "on"}), json!(8080)).await;
    let mut both = vec![(addresses[0].clone(), 3000), (addresses[1].clone(), 3001)];
    both.sort();
    until_found(&cluster, "example-int-port", &[(addresses[0].clone(), 3000)]).await;
    until_found(&cluster, "example-named-port", &both).await;
    eventually("an empty slice", || async { slices_of(&cluster, "example-no-match").await.pop() }).await;
    let before = eventually("one for each port", || async {
        Some(slices_of(&cluster, "example-named-port").await).filter(|slices| slices.len() == 2)
    })
    .await;
    for slice in &before {
        cluster.api::<EndpointSlice>(NAMESPACE).delete(slice.name(), &DeleteParams::default()).await.unwrap();
    }
    until_found(&cluster, "example-named-port", &both).await;
    let after = slices_of(&cluster, "example-named-port").await;
    assert!(after.iter().all(|s| before.iter().all(|b| b.metadata.uid != s.metadata.uid)));
}

/// [sig-network] EndpointsController should create Endpoints for Pods matching a Service [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_pods() {
    let cluster = start().await;
    let addresses = two_pods(&cluster).await;
    service(&cluster, "example-int-port", &json!({"pod1": "on"}), json!(3000)).await;
    service(&cluster, "example-named-port", &json!({"shared12": "on"}), json!("example-name")).await;
    let flat = |endpoints: &Endpoints| {
        let mut flat = Vec::new();
        for subset in endpoints.subsets.iter().flatten() {
            for address in subset.addresses.iter().flatten() {
                flat.push((address.ip.clone(), subset.ports.as_ref().unwrap()[0].port));
            }
        }
        flat.sort();
        flat
    };
    let one = vec![(addresses[0].clone(), 3000)];
    cluster.until::<Endpoints>("one", NAMESPACE, "example-int-port", |e| flat(e) == one).await;
    let mut both = vec![(addresses[0].clone(), 3000), (addresses[1].clone(), 3001)];
    both.sort();
    let two = |e: &Endpoints| flat(e) == both && e.subsets.as_ref().is_some_and(|s| s.len() == 2);
    cluster.until::<Endpoints>("two", NAMESPACE, "example-named-port", two).await;
}

/// [sig-network] EndpointSliceMirroring should mirror a custom Endpoints resource through create update and delete [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_mirrored() {
    let cluster = start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "example-custom-endpoints"},
        "spec": {"ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}});
    cluster.create::<Service>(NAMESPACE, service).await;
    let subsets =
        |address: &str| json!([{"addresses": [{"ip": address}], "ports": [{"port": 80, "name": "example"}]}]);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "example-custom-endpoints"},
        "subsets": subsets("10.1.2.3")});
    cluster.create::<Endpoints>(NAMESPACE, endpoints).await;
    until_found(&cluster, "example-custom-endpoints", &[("10.1.2.3".to_owned(), 80)]).await;
    let api = cluster.api::<Endpoints>(NAMESPACE);
    let moved = Patch::Merge(json!({"subsets": subsets("10.2.3.4")}));
    api.patch("example-custom-endpoints", &moved).await.unwrap();
    until_found(&cluster, "example-custom-endpoints", &[("10.2.3.4".to_owned(), 80)]).await;
    api.delete("example-custom-endpoints", &DeleteParams::default()).await.unwrap();
    eventually("gone", || async {
        slices_of(&cluster, "example-custom-endpoints").await.is_empty().then_some(())
    })
    .await;
}
