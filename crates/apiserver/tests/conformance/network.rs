//! sig-network: what its tests ask of the API alone.

use serde_json::{Value, json};

use crate::client::{Cluster, NAMESPACE, Patch, over_both_wires, refused, version};
use crate::operations::Walk;

const NETWORKING: &str = "networking.k8s.io/v1";

/// [sig-network] API Server should provide secure master service [Conformance]
#[tokio::test]
async fn the_servers_own_service() {
    over_both_wires(async |cluster: Cluster| {
        let service = cluster.of("v1", "services", "default").get("kubernetes").await.unwrap();
        assert_eq!(service["spec"]["ports"][0]["name"], "https");
        assert_eq!(service["spec"]["ports"][0]["port"], 443);
    })
    .await;
}

/// [sig-network] API Server should have Endpoints and EndpointSlices pointing to API Server [Conformance]
#[tokio::test]
async fn the_servers_own_endpoints() {
    over_both_wires(async |cluster: Cluster| {
        cluster.of("v1", "services", "default").get("kubernetes").await.unwrap();
        let endpoints = cluster.of("v1", "endpoints", "default").get("kubernetes").await.unwrap();
        let slices = cluster.of("discovery.k8s.io/v1", "endpointslices", "default");
        let slices = slices.list("labelSelector=kubernetes.io/service-name=kubernetes").await;
        assert_eq!(slices.len(), 1);
        let (subset, slice) = (&endpoints["subsets"][0], &slices[0]);
        assert_eq!(subset["addresses"][0]["ip"], slice["endpoints"][0]["addresses"][0]);
        assert_eq!(subset["ports"][0]["port"], slice["ports"][0]["port"]);
        assert_eq!(subset["ports"][0]["name"], slice["ports"][0]["name"]);
    })
    .await;
}

/// [sig-network] EndpointSlice should support creating EndpointSlice API operations [Conformance]
#[tokio::test]
async fn endpoint_slices() {
    let walk = Walk {
        api_version: "discovery.k8s.io/v1",
        plural: "endpointslices",
        namespaced: true,
        template: json!({"metadata": {"generateName": "e2e-example-ing", "labels": {"special-label": "slices"}},
            "addressType": "IPv4", "ports": null,
            "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}, {"addresses": ["2.2.3.4", "6.6.7.8"]}]}),
        selection: "labelSelector=special-label=slices",
        status: None,
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// [sig-network] Endpoints should test the lifecycle of an Endpoint [Conformance]
#[tokio::test]
async fn endpoints() {
    over_both_wires(async |cluster: Cluster| {
        let endpoints = cluster.of("v1", "endpoints", NAMESPACE);
        let selection = "labelSelector=test-endpoint-static=true";
        let before = cluster.all("v1", "endpoints").list_whole(selection).await.unwrap();
        let since = before["metadata"]["resourceVersion"].as_str().unwrap();
        let mut watch = endpoints.watch(&format!("resourceVersion={since}&{selection}")).await;
        let made = endpoints
            .create(&json!({"metadata": {"name": "testservice", "labels": {"test-endpoint-static": "true"}},
                "subsets": [{"addresses": [{"ip": "10.0.0.24"}],
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]}))
            .await
            .unwrap();
        watch.until("ADDED", |e| e["metadata"]["name"] == "testservice").await;
        assert_eq!(cluster.all("v1", "endpoints").list(selection).await.len(), 1);
        endpoints
            .change("testservice", |e| e["metadata"]["labels"]["test-service"] = "updated".into())
            .await
            .unwrap();
        watch.until("MODIFIED", |e| e["metadata"]["labels"]["test-service"] == "updated").await;
        let patch = json!({"metadata": {"labels": {"test-service": "patched"}}, "subsets": [
            {"addresses": [{"ip": "10.0.0.25"}], "ports": [{"name": "http-test", "port": 8080}]}]});
        let patched = endpoints.patch("testservice", &Patch::Strategic(patch)).await.unwrap();
        assert!(version(&made) < version(&patched));
        watch.until("MODIFIED", |e| e["metadata"]["labels"]["test-service"] == "patched").await;
        let got = endpoints.get("testservice").await.unwrap();
        assert_eq!(got["subsets"][0]["addresses"][0]["ip"], "10.0.0.25");
        assert_eq!(got["subsets"][0]["ports"][0]["name"], "http-test");
        assert_eq!(got["subsets"][0]["ports"][0]["port"], 8080);
        endpoints.delete_collection(selection).await.unwrap();
        watch.until("DELETED", |e| e["metadata"]["labels"]["test-endpoint-static"] == "true").await;
        refused(endpoints.get("testservice").await, 404);
    })
    .await;
}

/// [sig-network] Ingress API should support creating Ingress API operations [Conformance]
#[tokio::test]
async fn ingresses() {
    let backend = json!({"service": {"name": "default-backend", "port": {"number": 80}}});
    let walk = Walk {
        api_version: NETWORKING,
        plural: "ingresses",
        namespaced: true,
        template: json!({"metadata": {"generateName": "e2e-example-ing", "labels": {"special-label": "ingress"}},
            "spec": {"defaultBackend": backend,
                "rules": [{"host": "foo.bar.com", "http": {"paths": [
                    {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "test-backend", "port": {"number": 8080}}}}]}}]}}),
        selection: "labelSelector=special-label=ingress",
        status: Some(json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}})),
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// [sig-network] IngressClass API should support creating IngressClass API operations [Conformance]
#[tokio::test]
async fn ingress_classes() {
    let walk = Walk {
        api_version: NETWORKING,
        plural: "ingressclasses",
        namespaced: false,
        template: json!({"metadata": {"name": "ingressclass", "labels": {"ingressclass": "e2e"}},
            "spec": {"controller": "example.com/controller"}}),
        selection: "labelSelector=ingressclass=e2e",
        status: None,
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// [sig-network] ServiceCIDR and IPAddress API should support IPAddress API operations [Conformance]
#[tokio::test]
async fn ip_addresses() {
    over_both_wires(async |cluster: Cluster| {
        let addresses = cluster.all(NETWORKING, "ipaddresses");
        let address = |name: &str, kind: &str| {
            json!({"metadata": {"name": name, "labels": {"type": kind}}, "spec": {"parentRef": {
                "group": "mygroup", "resource": "myresources", "namespace": "foo", "name": "bar"}}})
        };
        let ip = "255.255.255.255";
        let made = addresses.create(&address(ip, "broadcast")).await.unwrap();
        addresses.create(&address("fe80::42:1dff:fe84:f9e2", "link-local")).await.unwrap();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"patched": "true"}}}));
        let patched = addresses.patch(ip, &patch).await.unwrap();
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
        assert!(version(&made) < version(&patched));
        let update = |a: &mut Value| a["metadata"]["annotations"]["updated"] = "true".into();
        let updated = addresses.change(ip, update).await.unwrap();
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
        addresses.get(ip).await.unwrap();
        assert_eq!(addresses.list("labelSelector=type=broadcast").await.len(), 1);
        let mut watch = addresses.watch("labelSelector=type=broadcast").await;
        watch.until("ADDED", |a| a["metadata"]["name"] == ip).await;
        addresses.delete(ip).await.unwrap();
        addresses.delete_collection("labelSelector=type=link-local").await.unwrap();
        assert_eq!(addresses.list("labelSelector=type=link-local").await.len(), 0);
    })
    .await;
}

/// [sig-network] ServiceCIDR and IPAddress API should support ServiceCIDR API operations [Conformance]
#[tokio::test]
async fn service_cidrs() {
    over_both_wires(async |cluster: Cluster| {
        let ranges = cluster.all(NETWORKING, "servicecidrs");
        let own = ranges.get("kubernetes").await.unwrap();
        let status = ranges.get_sub("kubernetes", "status").await.unwrap();
        assert_eq!(status["kind"], "ServiceCIDR");
        assert_eq!(status["metadata"]["uid"], own["metadata"]["uid"]);
        assert!(!ranges.list("").await.is_empty());
        let mut watch = ranges.watch("").await;
        watch.until("ADDED", |r| r["metadata"]["name"] == "kubernetes").await;
    })
    .await;
}

fn service(name: &str, label: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {label: "true"}}, "spec": spec})
}

/// [sig-network] Services should complete a service status lifecycle [Conformance]
#[tokio::test]
async fn status_of_services() {
    over_both_wires(async |cluster: Cluster| {
        let services = cluster.of("v1", "services", NAMESPACE);
        let selection = "labelSelector=test-service-static=true";
        let before = cluster.all("v1", "services").list_whole(selection).await.unwrap();
        let since = before["metadata"]["resourceVersion"].as_str().unwrap();
        let mut watch = services.watch(&format!("resourceVersion={since}&{selection}")).await;
        let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/internal-vip",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80}]});
        services.create(&service("test-service", "test-service-static", spec)).await.unwrap();
        watch.until("ADDED", |s| s["metadata"]["name"] == "test-service").await;
        let read = services.get_sub("test-service", "status").await.unwrap();
        assert!(read["status"]["loadBalancer"]["ingress"].is_null());
        let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
        services.patch_sub("test-service", "status", &Patch::Merge(patch)).await.unwrap();
        let seen = watch.until("MODIFIED", |s| s["metadata"]["annotations"]["patchedstatus"] == "true").await;
        assert_eq!(seen["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.1");
        let condition = json!([{"type": "StatusUpdate", "status": "True", "reason": "E2E",
            "message": "Set from e2e test", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let update = |s: &mut Value| s["status"]["conditions"] = condition.clone();
        let updated = services.change_sub("test-service", "status", update).await.unwrap();
        assert_eq!(updated["status"]["conditions"][0]["type"], "StatusUpdate");
        watch.until("MODIFIED", |s| s["status"]["conditions"][0]["reason"] == "E2E").await;
        let patch = Patch::Strategic(json!({"metadata": {"labels": {"test-service": "patched"}}}));
        services.patch("test-service", &patch).await.unwrap();
        watch.until("MODIFIED", |s| s["metadata"]["labels"]["test-service"] == "patched").await;
        services.delete("test-service").await.unwrap();
        watch.until("DELETED", |s| s["metadata"]["name"] == "test-service").await;
    })
    .await;
}

/// [sig-network] Services should delete a collection of services [Conformance]
#[tokio::test]
async fn collections_of_services() {
    over_both_wires(async |cluster: Cluster| {
        let services = cluster.of("v1", "services", NAMESPACE);
        let ports = json!({"ports": [{"name": "http", "protocol": "TCP", "port": 80}]});
        for (name, label) in [("one", "svc-test"), ("two", "svc-test"), ("three", "other")] {
            services.create(&service(name, label, ports.clone())).await.unwrap();
        }
        assert_eq!(services.list("").await.len(), 3);
        services.delete_collection("labelSelector=svc-test=true").await.unwrap();
        let left = services.list("").await;
        assert_eq!(left.len(), 1);
        assert_eq!(left[0]["metadata"]["name"], "three");
    })
    .await;
}

/// [sig-network] Services should find a service from listing all namespaces [Conformance]
#[tokio::test]
async fn services_everywhere() {
    over_both_wires(async |cluster: Cluster| {
        let all = cluster.all("v1", "services").list("").await;
        let own =
            |s: &&Value| s["metadata"]["name"] == "kubernetes" && s["metadata"]["namespace"] == "default";
        assert_eq!(all.iter().filter(own).count(), 1);
    })
    .await;
}
