//! Devices are written into a pod's claims before the pod is bound.

use std::collections::BTreeSet;
use std::sync::Mutex;

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use tower::ServiceExt;

use super::*;

/// A device on the node, and claims of one each.
async fn one_device(cluster: &Cluster, node: &str, claims: &[&str]) {
    let selector = json!([{"cel": {"expression": "device.driver == 'gpu.com'"}}]);
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": selector}});
    cluster.create::<DeviceClass>("", class).await;
    let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
    let spec = json!({"driver": "gpu.com", "nodeName": node, "pool": pool, "devices": [{"name": "d0"}]});
    cluster.create::<ResourceSlice>("", json!({"metadata": {"name": "s"}, "spec": spec})).await;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    for name in claims {
        let claim = json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}});
        cluster.create::<ResourceClaim>("ns", claim).await;
    }
}

fn using(claim: &str) -> Value {
    json!({"resourceClaims": [{"name": "g", "resourceClaimName": claim}]})
}

#[tokio::test]
async fn a_claim_is_given_a_device_before_its_pod_is_bound_and_the_next_waits() {
    let cluster = start().await;
    cluster.node("a").await;
    cluster.node("b").await;
    one_device(&cluster, "b", &["x", "y"]).await;
    cluster.pod("p", "1m", using("x")).await;
    assert_eq!(cluster.bound("p").await, "b");
    let claims = cluster.api::<ResourceClaim>("ns");
    let claim = claims.get("x").await.unwrap();
    let uid = cluster.get("p").await.unwrap().metadata.uid;
    let status = claim.status.unwrap();
    let consumers: Vec<Option<String>> =
        status.reserved_for.unwrap().into_iter().map(|c| Some(c.uid)).collect();
    assert_eq!(consumers, [uid]);
    let results = status.allocation.unwrap().devices.unwrap().results.unwrap();
    assert_eq!((results.len(), &*results[0].device), (1, "d0"));
    assert_eq!(claim.metadata.finalizers.unwrap(), ["resource.kubernetes.io/delete-protection"]);
    cluster.pod("q", "1m", using("y")).await;
    let (_, message) = cluster.condition("q", "PodScheduled").await;
    let expected = "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, \
        preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(message, expected);
    // The device comes back.
    let free = Patch::Merge(json!({"status": {"allocation": null, "reservedFor": null}}));
    claims.patch_status("x", &free).await.unwrap();
    assert_eq!(cluster.bound("q").await, "b");
}

#[tokio::test]
async fn a_pod_whose_claim_is_still_to_be_made_is_not_looked_at() {
    let cluster = unscheduled().await;
    cluster.node("b").await;
    one_device(&cluster, "b", &[]).await;
    let metrics = cluster.schedule(Config::default());
    cluster
        .pod("p", "1m", json!({"resourceClaims": [{"name": "g", "resourceClaimTemplateName": "t"}]}))
        .await;
    let gated = "scheduler_pending_pods{queue=\"gated\"} 1";
    let held = || async { metrics.render().contains(gated).then_some(()) };
    eventually("it is held", held).await;
    // What the controller of claims does.
    let pod = cluster.get("p").await.unwrap();
    let owner =
        json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod.metadata.uid, "controller": true});
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let claim = json!({"metadata": {"name": "p-g", "ownerReferences": [owner]}, "spec": {"devices": {"requests": [request]}}});
    cluster.create::<ResourceClaim>("ns", claim).await;
    let made = json!({"status": {"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "p-g"}]}});
    cluster.api::<Pod>("ns").patch_status("p", &Patch::Merge(made)).await.unwrap();
    assert_eq!(cluster.bound("p").await, "b");
}

#[tokio::test]
async fn a_claim_others_write_at_the_same_time_is_written_all_the_same() {
    let cluster = unscheduled().await;
    cluster.node("b").await;
    one_device(&cluster, "b", &["x"]).await;
    // Whatever of a claim the scheduler writes first, somebody else has just written it.
    let service = cluster.server.local_service(seam::scheduler_user());
    let claims = cluster.api::<ResourceClaim>("ns");
    let written = Arc::new(Mutex::new(BTreeSet::new()));
    let overtaken = written.clone();
    let client = Client::local(tower::service_fn(move |request: http::Request<_>| {
        let path = request.uri().path().to_owned();
        let writes = request.method() == http::Method::PATCH && path.contains("/resourceclaims/");
        let (service, claims) = (service.clone(), claims.clone());
        let first = writes && overtaken.lock().unwrap().insert(path.clone());
        async move {
            if first {
                let note = json!({"metadata": {"annotations": {"written-before": path}}});
                claims.patch("x", &Patch::Merge(note)).await.unwrap();
            }
            service.oneshot(request).await
        }
    }));
    let metrics = cluster.schedule_as(client, Config::default());
    cluster.pod("p", "1m", using("x")).await;
    assert_eq!(cluster.bound("p").await, "b");
    assert_eq!(written.lock().unwrap().len(), 2, "its finalizers and its status");
    let counted = metrics.render();
    assert!(!counted.contains("result=\"error\""), "{counted}");
    for (point, plugin) in [("PreBind", "DynamicResources"), ("Bind", "DefaultBinder")] {
        let of_point = format!(
            "extension_point_duration_seconds_count{{extension_point=\"{point}\",status=\"Success\",profile=\"default-scheduler\"}} 1\n"
        );
        let of_plugin = format!(
            "plugin_execution_duration_seconds_count{{plugin=\"{plugin}\",extension_point=\"{point}\",status=\"Success\"}} 1\n"
        );
        assert!(counted.contains(&of_point) && counted.contains(&of_plugin), "{counted}");
    }
}

#[tokio::test]
async fn a_claim_gives_its_devices_back_where_no_pod_can_go() {
    let cluster = start().await;
    let class = json!({"metadata": {"name": "gpu"}, "spec": {}});
    cluster.create::<DeviceClass>("", class).await;
    for node in ["a", "b"] {
        cluster.node(node).await;
        let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": "gpu.com", "nodeName": node, "pool": pool, "devices": [{"name": "d"}]});
        cluster.create::<ResourceSlice>("", json!({"metadata": {"name": node}, "spec": spec})).await;
    }
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let claim = json!({"metadata": {"name": "x"}, "spec": {"devices": {"requests": [request]}}});
    cluster.create::<ResourceClaim>("ns", claim).await;
    let claims = cluster.api::<ResourceClaim>("ns");
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
    let result = json!({"request": "r", "driver": "gpu.com", "pool": "a", "device": "d"});
    let allocation = json!({
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
    });
    claims.patch_status("x", &Patch::Merge(json!({"status": {"allocation": allocation}}))).await.unwrap();
    cluster
        .api::<Node>("")
        .patch("a", &Patch::Merge(json!({"spec": {"unschedulable": true}})))
        .await
        .unwrap();
    cluster.pod("p", "1m", json!({"resourceClaims": [{"name": "g", "resourceClaimName": "x"}]})).await;
    assert_eq!(cluster.bound("p").await, "b");
    let status = claims.get("x").await.unwrap().status.unwrap();
    assert_eq!(status.allocation.unwrap().devices.unwrap().results.unwrap()[0].pool, "b");
}
