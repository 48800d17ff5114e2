//! sig-node: what its tests ask of the API alone.

use serde_json::{Value, json};

use crate::client::{
    Cluster, NAMESPACE, Objects, Patch, name, named, over_both_wires, pod, refused, version,
};
use crate::operations::{Walk, lifecycle};

/// [sig-node] ConfigMap should fail to create ConfigMap with empty key [Conformance]
#[tokio::test]
async fn config_maps_need_keys() {
    over_both_wires(async |cluster: Cluster| {
        let mut map = named("configmap-test-emptyKey".to_lowercase().as_str());
        map["data"] = json!({"": "value-1"});
        refused(cluster.of("v1", "configmaps", NAMESPACE).create(&map).await, 422);
    })
    .await;
}

/// [sig-node] Secrets should fail to create secret due to empty secret key [Conformance]
#[tokio::test]
async fn secrets_need_keys() {
    over_both_wires(async |cluster: Cluster| {
        let mut secret = named("secret-emptykey-test");
        secret["data"] = json!({"": "dmFsdWUtMQ=="});
        refused(cluster.of("v1", "secrets", NAMESPACE).create(&secret).await, 422);
    })
    .await;
}

/// [sig-node] ConfigMap should run through a ConfigMap lifecycle [Conformance]
#[tokio::test]
async fn config_maps() {
    over_both_wires(async |cluster: Cluster| {
        let maps = cluster.of("v1", "configmaps", NAMESPACE);
        let selection = "labelSelector=test-configmap-static=true";
        let mut watch = maps.watch(selection).await;
        let mut map = named("test-configmap");
        map["metadata"]["labels"] = json!({"test-configmap-static": "true"});
        map["data"] = json!({"valueName": "value"});
        maps.create(&map).await.unwrap();
        watch.until("ADDED", |m| m["metadata"]["labels"]["test-configmap-static"] == "true").await;
        let patch =
            json!({"metadata": {"labels": {"test-configmap": "patched"}}, "data": {"valueName": "value1"}});
        maps.patch("test-configmap", &Patch::Strategic(patch)).await.unwrap();
        watch.until("MODIFIED", |m| m["metadata"]["labels"]["test-configmap"] == "patched").await;
        let got = maps.get("test-configmap").await.unwrap();
        assert_eq!(got["data"]["valueName"], "value1");
        assert_eq!(cluster.all("v1", "configmaps").list(selection).await.len(), 1);
        maps.delete_collection(selection).await.unwrap();
        watch.until("DELETED", |m| m["metadata"]["labels"]["test-configmap"] == "patched").await;
        assert_eq!(maps.list(selection).await.len(), 0);
    })
    .await;
}

/// [sig-node] Secrets should patch a secret [Conformance]
#[tokio::test]
async fn secrets_are_patched() {
    over_both_wires(async |cluster: Cluster| {
        let secrets = cluster.of("v1", "secrets", NAMESPACE);
        let mut secret = named("test-secret");
        secret["metadata"]["labels"] = json!({"testsecret-constant": "true"});
        secret["data"] = json!({"key": "dmFsdWU="});
        secret["type"] = "Opaque".into();
        secrets.create(&secret).await.unwrap();
        let everywhere = cluster.all("v1", "secrets");
        assert_eq!(everywhere.list("labelSelector=testsecret-constant=true").await.len(), 1);
        let patch = json!({"metadata": {"labels": {"testsecret": "true"}}, "data": {"key": "dmFsdWUx"}});
        secrets.patch("test-secret", &Patch::Strategic(patch)).await.unwrap();
        let got = secrets.get("test-secret").await.unwrap();
        assert_eq!(
            (&got["metadata"]["labels"]["testsecret"], &got["data"]["key"]),
            (&json!("true"), &json!("dmFsdWUx"))
        );
        secrets.delete_collection("labelSelector=testsecret=true").await.unwrap();
        assert_eq!(everywhere.list("labelSelector=testsecret-constant=true").await.len(), 0);
    })
    .await;
}

fn lease(holder: &str, seconds: i64, transitions: i64, renewed: &str) -> Value {
    json!({"metadata": {"name": "lease"}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds,
        "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": renewed, "leaseTransitions": transitions}})
}

/// [sig-node] Lease lease API should be available [Conformance]
#[tokio::test]
async fn leases() {
    over_both_wires(async |cluster: Cluster| {
        let leases = cluster.of("coordination.k8s.io/v1", "leases", NAMESPACE);
        let first = lease("holder", 30, 0, "2026-01-01T00:00:05.000000Z");
        leases.create(&first).await.unwrap();
        assert_eq!(leases.get("lease").await.unwrap()["spec"], first["spec"]);
        let second = lease("holder2", 60, 1, "2026-01-01T00:00:20.000000Z");
        leases.change("lease", |l| l["spec"] = second["spec"].clone()).await.unwrap();
        assert_eq!(leases.get("lease").await.unwrap()["spec"], second["spec"]);
        let third = lease("holder3", 120, 3, "2026-01-01T00:00:50.000000Z");
        leases.patch("lease", &Patch::Strategic(json!({"spec": third["spec"]}))).await.unwrap();
        assert_eq!(leases.get("lease").await.unwrap()["spec"], third["spec"]);
        let mut other = first.clone();
        other["metadata"] = json!({"name": "lease2", "labels": {"deletecollection": "true"}});
        leases.create(&other).await.unwrap();
        assert_eq!(leases.list("").await.len(), 2);
        leases.delete_collection("labelSelector=deletecollection=true").await.unwrap();
        assert_eq!(leases.list("").await.len(), 1);
        leases.delete("lease").await.unwrap();
        refused(leases.get("lease").await, 404);
    })
    .await;
}

/// [sig-node] Node Lifecycle should run through the lifecycle of a node [Conformance]
#[tokio::test]
async fn nodes() {
    over_both_wires(async |cluster: Cluster| {
        let nodes = cluster.all("v1", "nodes");
        let node = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {"unschedulable": true}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "reason": "E2E", "message": "Set from e2e test"}]}})
        };
        lifecycle(&nodes, &node("e2e-fake-node-1"), &node("e2e-fake-node-2")).await;
        let made = nodes.create(&node("e2e-fake-node-3")).await.unwrap();
        let label = |n: &mut Value| n["metadata"]["labels"]["e2e"] = "updated".into();
        assert!(version(&nodes.change("e2e-fake-node-3", label).await.unwrap()) > version(&made));
    })
    .await;
}

fn template(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {label: "true"}},
        "template": {"spec": {"containers": [{"name": "nginx", "image": "nginx"}]}}})
}

/// [sig-node] PodTemplates should run the lifecycle of PodTemplates [Conformance]
#[tokio::test]
async fn pod_templates() {
    over_both_wires(async |cluster: Cluster| {
        let templates = cluster.of("v1", "podtemplates", NAMESPACE);
        let selection = "labelSelector=podtemplate-static=true";
        assert_eq!(cluster.all("v1", "podtemplates").list(selection).await.len(), 0);
        templates.create(&template("nginx-pod-template", "podtemplate-static")).await.unwrap();
        templates.get("nginx-pod-template").await.unwrap();
        let patch = json!({"metadata": {"labels": {"podtemplate": "patched"}}});
        templates.patch("nginx-pod-template", &Patch::Strategic(patch)).await.unwrap();
        let got = templates.get("nginx-pod-template").await.unwrap();
        assert_eq!(got["metadata"]["labels"]["podtemplate"], "patched");
        templates.delete("nginx-pod-template").await.unwrap();
        assert_eq!(cluster.all("v1", "podtemplates").list(selection).await.len(), 0);
    })
    .await;
}

/// [sig-node] PodTemplates should delete a collection of pod templates [Conformance]
#[tokio::test]
async fn collections_of_pod_templates() {
    over_both_wires(async |cluster: Cluster| {
        let templates = cluster.of("v1", "podtemplates", NAMESPACE);
        for name in ["test-podtemplate-1", "test-podtemplate-2", "test-podtemplate-3"] {
            templates.create(&template(name, "podtemplate-set")).await.unwrap();
        }
        assert_eq!(templates.list("labelSelector=podtemplate-set=true").await.len(), 3);
        templates.delete_collection("labelSelector=podtemplate-set=true").await.unwrap();
        assert_eq!(templates.list("labelSelector=podtemplate-set=true").await.len(), 0);
    })
    .await;
}

/// [sig-node] PodTemplates should replace a pod template [Conformance]
#[tokio::test]
async fn pod_templates_are_replaced() {
    over_both_wires(async |cluster: Cluster| {
        let templates = cluster.of("v1", "podtemplates", NAMESPACE);
        templates.create(&template("podtemplate", "e2e")).await.unwrap();
        let annotate = |t: &mut Value| t["metadata"]["annotations"] = json!({"updated": "true"});
        let updated = templates.change("podtemplate", annotate).await.unwrap();
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    })
    .await;
}

/// [sig-node] RuntimeClass should support RuntimeClasses API operations [Conformance]
#[tokio::test]
async fn runtime_classes() {
    let walk = Walk {
        api_version: "node.k8s.io/v1",
        plural: "runtimeclasses",
        namespaced: false,
        template: json!({"metadata": {"name": "runtimeclass-", "labels": {"test": "walk"}}, "handler": "test-handler"}),
        selection: "labelSelector=test=walk",
        status: None,
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// [sig-node] RuntimeClass should reject a Pod requesting a non-existent RuntimeClass [Conformance] [NodeConformance]
#[tokio::test]
async fn runtime_classes_must_exist() {
    over_both_wires(async |cluster: Cluster| {
        let mut pod = pod("p");
        pod["spec"]["runtimeClassName"] = "nonexistent".into();
        let why = refused(cluster.of("v1", "pods", NAMESPACE).create(&pod).await, 403);
        assert!(why.contains("RuntimeClass \"nonexistent\" not found"), "{why}");
    })
    .await;
}

/// [sig-node] RuntimeClass should reject a Pod requesting a deleted RuntimeClass [Conformance] [NodeConformance]
#[tokio::test]
async fn deleted_runtime_classes_are_gone() {
    over_both_wires(async |cluster: Cluster| {
        let classes = cluster.all("node.k8s.io/v1", "runtimeclasses");
        let mut class = named("delete-me");
        class["handler"] = "runc".into();
        classes.create(&class).await.unwrap();
        classes.delete("delete-me").await.unwrap();
        refused(classes.get("delete-me").await, 404);
        let mut pod = pod("p");
        pod["spec"]["runtimeClassName"] = "delete-me".into();
        refused(cluster.of("v1", "pods", NAMESPACE).create(&pod).await, 403);
    })
    .await;
}

/// [sig-node] Pods should delete a collection of pods [Conformance]
#[tokio::test]
async fn collections_of_pods() {
    over_both_wires(async |cluster: Cluster| {
        let pods = cluster.of("v1", "pods", NAMESPACE);
        for name in ["test-pod-1", "test-pod-2", "test-pod-3"] {
            let mut pod = pod(name);
            pod["metadata"]["labels"] = json!({"type": "Testing"});
            pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
            pods.create(&pod).await.unwrap();
        }
        assert_eq!(pods.list("labelSelector=type=Testing").await.len(), 3);
        pods.delete_collection("labelSelector=type=Testing").await.unwrap();
        assert_eq!(pods.list("labelSelector=type=Testing").await.len(), 0);
    })
    .await;
}

/// [sig-node] Pods should patch a pod status [Conformance]
#[tokio::test]
async fn status_of_pods() {
    over_both_wires(async |cluster: Cluster| {
        let pods = cluster.of("v1", "pods", NAMESPACE);
        pods.create(&pod("pod")).await.unwrap();
        let label = Patch::Strategic(json!({"metadata": {"labels": {"pod": "patched"}}}));
        pods.patch("pod", &label).await.unwrap();
        assert_eq!(pods.list("labelSelector=pod=patched").await.len(), 1);
        let read = pods.get_sub("pod", "status").await.unwrap();
        assert_eq!(read["status"]["phase"], "Pending");
        let patch = json!({"status": {"message": "Patched by e2e test", "reason": "E2E"}});
        let patched = pods.patch_sub("pod", "status", &Patch::Strategic(patch)).await.unwrap();
        assert_eq!(patched["status"]["message"], "Patched by e2e test");
        assert_eq!(patched["status"]["reason"], "E2E");
    })
    .await;
}

/// [sig-node] Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and limits for memory and cpu [Conformance]
#[tokio::test]
async fn pods_have_a_class_of_service() {
    over_both_wires(async |cluster: Cluster| {
        let mut pod = pod("pod-qos-class");
        let amounts = json!({"cpu": "100m", "memory": "100Mi"});
        pod["spec"]["containers"][0]["resources"] = json!({"requests": amounts, "limits": amounts});
        let pods = cluster.of("v1", "pods", NAMESPACE);
        pods.create(&pod).await.unwrap();
        assert_eq!(pods.get("pod-qos-class").await.unwrap()["status"]["qosClass"], "Guaranteed");
    })
    .await;
}

/// What is changed, the generation that makes, and how.
type Change = (&'static str, i64, fn(&mut Value));

async fn generation(pods: &Objects, name: &str) -> i64 {
    pods.get(name).await.unwrap()["metadata"]["generation"].as_i64().expect("a generation")
}

/// [sig-node] Pods Extended (pod generation) Pod Generation pod generation should start at 1 and increment per update [MinimumKubeletVersion:1.34] [Conformance]
#[tokio::test]
async fn pods_count_their_updates() {
    over_both_wires(async |cluster: Cluster| {
        let pods = cluster.of("v1", "pods", NAMESPACE);
        pods.create(&pod("pod")).await.unwrap();
        assert_eq!(generation(&pods, "pod").await, 1);
        let changes: [Change; 4] = [
            ("an annotation is no change", 1, |p| p["metadata"]["annotations"] = json!({"key": "value"})),
            ("a toleration", 2, |p| {
                let toleration = json!({"key": "foo-update", "operator": "Exists", "effect": "NoSchedule"});
                p["spec"]["tolerations"].as_array_mut().unwrap().push(toleration);
            }),
            ("a deadline", 3, |p| p["spec"]["activeDeadlineSeconds"] = 1000.into()),
            ("an image", 4, |p| p["spec"]["containers"][0]["image"] = "agnhost:3".into()),
        ];
        for (what, wanted, change) in changes {
            pods.change("pod", change).await.unwrap();
            assert_eq!(generation(&pods, "pod").await, wanted, "{what}");
        }
        let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        pods.patch_sub("pod", "status", &Patch::Strategic(condition)).await.unwrap();
        assert_eq!(generation(&pods, "pod").await, 4, "a status is no change");
    })
    .await;
}

/// [sig-node] Pods Extended (pod generation) Pod Generation custom-set generation on new pods and graceful delete [Conformance]
#[tokio::test]
async fn generations_are_the_servers_own() {
    over_both_wires(async |cluster: Cluster| {
        let nodes = cluster.all("v1", "nodes");
        nodes.create(&named("n")).await.unwrap();
        let pods = cluster.of("v1", "pods", NAMESPACE);
        let mut custom = pod("custom");
        custom["metadata"]["generation"] = 100.into();
        custom["spec"]["nodeName"] = "n".into();
        pods.create(&custom).await.unwrap();
        assert_eq!(generation(&pods, "custom").await, 1);
        pods.delete("custom").await.unwrap();
        assert_eq!(generation(&pods, "custom").await, 2, "the end of its time is a change");
    })
    .await;
}

/// [sig-node] Sysctls [LinuxOnly] should reject invalid sysctls [Conformance] [NodeConformance]
#[tokio::test]
async fn sysctls_have_names() {
    over_both_wires(async |cluster: Cluster| {
        let mut pod = pod("sysctl");
        let sysctl = |name: &str| json!({"name": name, "value": "100000000"});
        let names = ["foo-", "kernel.shmmax", "safe-and-unsafe", "bar.."];
        pod["spec"]["securityContext"]["sysctls"] = names.map(sysctl).into();
        let why = refused(cluster.of("v1", "pods", NAMESPACE).create(&pod).await, 422);
        assert!(why.contains("Invalid value: \"foo-\""), "{why}");
        assert!(why.contains("Invalid value: \"bar..\""), "{why}");
        assert!(!why.contains("safe-and-unsafe") && !why.contains("kernel.shmmax"), "{why}");
    })
    .await;
}

/// [sig-node] Ephemeral Containers should update the ephemeral containers in an existing pod [Conformance] [NodeConformance]
#[tokio::test]
async fn ephemeral_containers() {
    over_both_wires(async |cluster: Cluster| {
        let pods = cluster.of("v1", "pods", NAMESPACE);
        pods.create(&pod("pod")).await.unwrap();
        let debugger = |name: &str| json!({"name": name, "image": "agnhost:2"});
        let patch = json!({"spec": {"ephemeralContainers": [debugger("debugger")]}});
        pods.patch_sub("pod", "ephemeralcontainers", &Patch::Strategic(patch)).await.unwrap();
        let resources = cluster.get("/api/v1").await;
        let sub = resources["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["name"] == "pods/ephemeralcontainers");
        assert_eq!(sub.expect("is discovered")["kind"], "Pod");
        let got = pods.get_sub("pod", "ephemeralcontainers").await.unwrap();
        assert_eq!(got["spec"]["ephemeralContainers"].as_array().unwrap().len(), 1);
        let add = |p: &mut Value| {
            p["spec"]["ephemeralContainers"].as_array_mut().unwrap().push(debugger("debugger2"));
        };
        let updated = pods.change_sub("pod", "ephemeralcontainers", add).await.unwrap();
        let all: Vec<String> = updated["spec"]["ephemeralContainers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(all, ["debugger", "debugger2"]);
    })
    .await;
}

const RESOURCE: &str = "resource.k8s.io/v1";

/// All verbs and, where it is served, the status; then what only this group's tests do: server-side
/// apply of a label.
async fn device_kind(cluster: Cluster, plural: &str, namespaced: bool, template: Value) {
    let objects =
        if namespaced { cluster.of(RESOURCE, plural, NAMESPACE) } else { cluster.all(RESOURCE, plural) };
    let made = objects.create(&template).await.unwrap();
    let subject = name(&made);
    assert_eq!(objects.get(&subject).await.unwrap(), made);
    let since = version(&made);
    let mut watch = objects.watch(&format!("resourceVersion={since}")).await;
    let label = |how: &str| json!({"metadata": {"labels": {"test.resource.example.com": how}}});
    for (how, patch) in [
        ("apply", Patch::Apply("conformance", label("apply"))),
        ("strategic", Patch::Strategic(label("strategic"))),
        ("merge", Patch::Merge(label("merge"))),
        (
            "json",
            Patch::Json(
                json!([{"op": "replace", "path": "/metadata/labels/test.resource.example.com", "value": "json"}]),
            ),
        ),
    ] {
        let patched = objects.patch(&subject, &patch).await.unwrap();
        assert_eq!(patched["metadata"]["labels"]["test.resource.example.com"], how);
        assert_eq!(patched["spec"], made["spec"]);
        let seen = watch.next().await;
        assert_eq!(seen, ("MODIFIED".to_owned(), patched));
    }
    let updated =
        objects.change(&subject, |o| o["metadata"]["labels"] = json!({"updated": "true"})).await.unwrap();
    assert_eq!(watch.next().await.1, updated);
    let listed = objects.list("labelSelector=updated=true").await;
    assert_eq!(
        (listed.len(), &listed[0]["metadata"], &listed[0]["spec"]),
        (1, &updated["metadata"], &updated["spec"])
    );
    objects.delete(&subject).await.unwrap();
    assert_eq!(watch.next().await.0, "DELETED");
    objects.create(&template).await.unwrap();
    objects.delete_collection("").await.unwrap();
    assert_eq!(objects.list("").await.len(), 0);
}

/// [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 DeviceClass [Conformance]
#[tokio::test]
async fn device_classes() {
    let class = json!({"metadata": {"generateName": "dra-"}, "spec": {"selectors": [{"cel": {"expression": "true"}}]}});
    over_both_wires(async |cluster| device_kind(cluster, "deviceclasses", false, class.clone()).await).await;
}

fn claim_spec() -> Value {
    json!({"devices": {"requests": [{"name": "req-0", "exactly": {"deviceClassName": "class"}}]}})
}

/// [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaim [Conformance]
#[tokio::test]
async fn resource_claims() {
    let claim = json!({"metadata": {"generateName": "dra-"}, "spec": claim_spec()});
    over_both_wires(async |cluster: Cluster| {
        device_kind(cluster.clone(), "resourceclaims", true, claim.clone()).await;
        let claims = cluster.of(RESOURCE, "resourceclaims", NAMESPACE);
        let subject = name(&claims.create(&claim).await.unwrap());
        let allocation = json!({"devices": {"results": [{"request": "req-0", "driver": "driver.example.com",
            "pool": "pool", "device": "device"}]}});
        let allocate = |c: &mut Value| c["status"] = json!({"allocation": allocation});
        let allocated = claims.change_sub(&subject, "status", allocate).await.unwrap();
        assert_eq!(allocated["status"]["allocation"]["devices"]["results"][0]["device"], "device");
        let read = claims.get_sub(&subject, "status").await.unwrap();
        assert_eq!(read["status"], allocated["status"]);
    })
    .await;
}

/// [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaimTemplate [Conformance]
#[tokio::test]
async fn resource_claim_templates() {
    let template = json!({"metadata": {"generateName": "dra-"}, "spec": {"spec": claim_spec()}});
    over_both_wires(async |cluster| {
        device_kind(cluster, "resourceclaimtemplates", true, template.clone()).await
    })
    .await;
}

/// [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceSlice [Conformance]
#[tokio::test]
async fn resource_slices() {
    let slice = json!({"metadata": {"generateName": "dra-"}, "spec": {"driver": "driver.example.com",
        "nodeName": "node", "pool": {"name": "pool", "generation": 0, "resourceSliceCount": 1},
        "devices": [{"name": "device"}]}});
    over_both_wires(async |cluster| device_kind(cluster, "resourceslices", false, slice.clone()).await).await;
}

/// [sig-node] ConfigMap should update ConfigMap successfully [Conformance] [NodeConformance]
#[tokio::test]
async fn config_maps_are_updated() {
    over_both_wires(async |cluster: Cluster| {
        let maps = cluster.of("v1", "configmaps", NAMESPACE);
        maps.create(&named("configmap-test")).await.unwrap();
        let data = json!({"data": "value"});
        maps.change("configmap-test", |m| m["data"] = data.clone()).await.unwrap();
        assert_eq!(maps.get("configmap-test").await.unwrap()["data"], data);
    })
    .await;
}
