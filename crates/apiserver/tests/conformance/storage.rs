//! sig-storage: what its tests ask of the API alone.

use serde_json::{Value, json};

use crate::client::{Cluster, NAMESPACE, Objects, Patch, eventually, named, over_both_wires, pod, refused};
use crate::operations::{Walk, lifecycle};

const STORAGE: &str = "storage.k8s.io/v1";

/// [sig-storage] CSIInlineVolumes should support CSIVolumeSource in Pod API [Conformance]
#[tokio::test]
async fn csi_volumes_in_pods() {
    over_both_wires(async |cluster: Cluster| {
        let pods = cluster.of("v1", "pods", NAMESPACE);
        let mut inline = pod("pod-csi-inline-volumes");
        inline["spec"]["volumes"] = json!([
            {"name": "vol1", "csi": {"driver": "e2e.example.com"}},
            {"name": "vol2", "csi": {"driver": "e2e.example.com", "fsType": "ext4", "readOnly": true}}]);
        inline["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "vol1", "mountPath": "/mnt/vol1"}, {"name": "vol2", "mountPath": "/mnt/vol2"}]);
        let made = pods.create(&inline).await.unwrap();
        refused(pods.create(&inline).await, 409);
        let got = pods.get("pod-csi-inline-volumes").await.unwrap();
        assert_eq!(got["metadata"]["uid"], made["metadata"]["uid"]);
        assert_eq!(got["spec"]["volumes"][1]["csi"], inline["spec"]["volumes"][1]["csi"]);
        assert_eq!(pods.list("").await.len(), 1);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"patched": "true"}}}));
        let patched = pods.patch("pod-csi-inline-volumes", &patch).await.unwrap();
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
        pods.delete("pod-csi-inline-volumes").await.unwrap();
        pods.assert_leaving("pod-csi-inline-volumes").await;
    })
    .await;
}

/// [sig-storage] CSIInlineVolumes should run through the lifecycle of a CSIDriver [Conformance]
#[tokio::test]
async fn csi_drivers() {
    over_both_wires(async |cluster: Cluster| {
        let drivers = cluster.all(STORAGE, "csidrivers");
        let driver = |name: &str, modes: Value| {
            json!({"metadata": {"name": name, "labels": {"e2e-test": "drivers"}},
                "spec": {"volumeLifecycleModes": modes, "fsGroupPolicy": "ReadWriteOnceWithFSType"}})
        };
        let (one, two) = ("inline-driver-1", "inline-driver-2");
        let first = drivers.create(&driver(one, json!(["Ephemeral"]))).await.unwrap();
        drivers.create(&driver(two, json!(["Persistent", "Ephemeral"]))).await.unwrap();
        refused(drivers.create(&driver(one, json!(["Ephemeral"]))).await, 409);
        assert_eq!(drivers.get(one).await.unwrap()["metadata"]["uid"], first["metadata"]["uid"]);
        let patch = Patch::Strategic(json!({"metadata": {"labels": {two: "patched"}}}));
        assert_eq!(drivers.patch(two, &patch).await.unwrap()["metadata"]["labels"][two], "patched");
        let updated = drivers.change(two, |d| d["metadata"]["labels"][two] = "updated".into()).await.unwrap();
        assert_eq!(updated["metadata"]["labels"][two], "updated");
        assert_eq!(drivers.list("labelSelector=e2e-test=drivers").await.len(), 2);
        drivers.delete(one).await.unwrap();
        drivers.assert_leaving(one).await;
        drivers.delete_collection(&format!("labelSelector={two}=updated")).await.unwrap();
        drivers.assert_leaving(two).await;
    })
    .await;
}

/// [sig-storage] CSINodes CSI Conformance should run through the lifecycle of a csinode [Conformance]
#[tokio::test]
async fn csi_nodes() {
    over_both_wires(async |cluster: Cluster| {
        // A typed client writes the list even where it is empty.
        let node = |name: &str| json!({"metadata": {"name": name}, "spec": {"drivers": null}});
        let nodes = cluster.all(STORAGE, "csinodes");
        lifecycle(&nodes, &node("e2e-csinode-1"), &node("e2e-csinode-2")).await;
    })
    .await;
}

/// [sig-storage] CSIStorageCapacity should support CSIStorageCapacities API operations [Conformance]
#[tokio::test]
async fn csi_storage_capacities() {
    let walk = Walk {
        api_version: STORAGE,
        plural: "csistoragecapacities",
        namespaced: true,
        template: json!({"metadata": {"generateName": "e2e-example-", "labels": {"test": "capacity"}},
            "storageClassName": "e2e"}),
        selection: "labelSelector=test=capacity",
        status: None,
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// A kind whose data may be frozen for good.
async fn freezes(cluster: Cluster, plural: &str) {
    let objects = cluster.of("v1", plural, NAMESPACE);
    let mut object = named("immutable");
    let (one, two, three) = match plural {
        "secrets" => ("dmFsdWUtMQ==", "dmFsdWUtMg==", "dmFsdWUtMw=="),
        _ => ("value-1", "value-2", "value-3"),
    };
    object["data"] = json!({"data-1": one});
    objects.create(&object).await.unwrap();
    let current = objects.change("immutable", |o| o["data"]["data-2"] = two.into()).await.unwrap();
    assert_eq!(current["data"]["data-2"], two);
    objects.change("immutable", |o| o["immutable"] = true.into()).await.unwrap();
    let why = refused(objects.change("immutable", |o| o["data"]["data-3"] = three.into()).await, 422);
    assert!(why.contains("data: Forbidden: field is immutable when `immutable` is set"), "{why}");
    refused(objects.change("immutable", |o| o["immutable"] = false.into()).await, 422);
    let labelled =
        objects.change("immutable", |o| o["metadata"]["labels"] = json!({"l": "v"})).await.unwrap();
    assert_eq!(labelled["metadata"]["labels"]["l"], "v");
    objects.delete("immutable").await.unwrap();
}

/// [sig-storage] ConfigMap should be immutable if `immutable` field is set [Conformance]
#[tokio::test]
async fn config_maps_freeze() {
    over_both_wires(async |cluster| freezes(cluster, "configmaps").await).await;
}

/// [sig-storage] Secrets should be immutable if `immutable` field is set [Conformance]
#[tokio::test]
async fn secrets_freeze() {
    over_both_wires(async |cluster| freezes(cluster, "secrets").await).await;
}

fn volume(label: &str) -> Value {
    json!({"metadata": {"generateName": "pv-", "labels": {"e2e-pv": label}}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": label,
        "persistentVolumeReclaimPolicy": "Retain",
        "csi": {"driver": "e2e-driver", "volumeHandle": "e2e-handle"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "topology.hostpath.csi/node", "operator": "In", "values": ["n"]}]}]}}}})
}

fn claim(label: &str) -> Value {
    json!({"metadata": {"generateName": "pvc-", "labels": {"e2e-pvc": label}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": label,
        "resources": {"requests": {"storage": "1Gi"}}}})
}

/// [sig-storage] PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC [Conformance]
#[tokio::test]
async fn volumes_and_claims() {
    over_both_wires(async |cluster: Cluster| {
        let volumes = cluster.all("v1", "persistentvolumes");
        let claims = cluster.of("v1", "persistentvolumeclaims", NAMESPACE);
        let pv = volumes.create(&volume("first")).await.unwrap();
        let pvc = claims.create(&claim("first")).await.unwrap();
        assert_eq!(volumes.list("labelSelector=e2e-pv=first").await.len(), 1);
        assert_eq!(claims.list("labelSelector=e2e-pvc=first").await.len(), 1);
        assert_eq!(pvc["status"]["phase"], "Pending");
        for (objects, object) in [(&volumes, &pv), (&claims, &pvc)] {
            let name = crate::client::name(object);
            let patch = Patch::Strategic(json!({"metadata": {"labels": {name.as_str(): "patched"}}}));
            let patched = objects.patch(&name, &patch).await.unwrap();
            assert_eq!(patched["metadata"]["labels"][&name], "patched");
            assert_eq!(objects.get(&name).await.unwrap()["metadata"]["uid"], object["metadata"]["uid"]);
            objects.delete(&name).await.unwrap();
            release(objects, &name).await;
        }
        let pv = volumes.create(&volume("second")).await.unwrap();
        let pvc = claims.create(&claim("second")).await.unwrap();
        for (objects, object, everywhere) in [
            (&volumes, &pv, cluster.all("v1", "persistentvolumes")),
            (&claims, &pvc, cluster.all("v1", "persistentvolumeclaims")),
        ] {
            let name = crate::client::name(object);
            let label = |o: &mut Value| o["metadata"]["labels"] = json!({name.as_str(): "updated"});
            objects.change(&name, label).await.unwrap();
            let selection = format!("labelSelector={name}=updated");
            assert_eq!(everywhere.list(&selection).await.len(), 1);
            objects.delete_collection(&selection).await.unwrap();
            release(objects, &name).await;
        }
    })
    .await;
}

/// What the protection controllers do with a claim or volume that nobody uses.
async fn release(objects: &Objects, name: &str) {
    let waiting = objects.get(name).await.unwrap();
    let finalizer = waiting["metadata"]["finalizers"][0].as_str().unwrap();
    assert!(finalizer.ends_with("-protection") && waiting["metadata"]["deletionTimestamp"].is_string());
    objects.patch(name, &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await.unwrap();
    eventually("gone", async || objects.get(name).await.err()).await;
}

/// [sig-storage] PersistentVolumes CSI Conformance should apply changes to a pv/pvc status [Conformance]
#[tokio::test]
async fn status_of_volumes_and_claims() {
    over_both_wires(async |cluster: Cluster| {
        let volumes = cluster.all("v1", "persistentvolumes");
        let claims = cluster.of("v1", "persistentvolumeclaims", NAMESPACE);
        let pv = crate::client::name(&volumes.create(&volume("status")).await.unwrap());
        let pvc = crate::client::name(&claims.create(&claim("status")).await.unwrap());
        for name in ["status"] {
            assert_eq!(claims.get_sub(&pvc, name).await.unwrap()["status"]["phase"], "Pending");
            assert_eq!(volumes.get_sub(&pv, name).await.unwrap()["metadata"]["name"], pv.as_str());
        }
        let condition = |kind: &str| {
            json!([{"type": kind, "status": "True", "reason": "E2E patchedStatus", "message": "Set from e2e test"}])
        };
        let patch = Patch::Merge(json!({"status": {"conditions": condition("StatusPatched")}}));
        let patched = claims.patch_sub(&pvc, "status", &patch).await.unwrap();
        assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatched");
        let patch = Patch::Merge(json!({"status": {"message": "StatusPatched", "reason": "E2E patchStatus"}}));
        let patched = volumes.patch_sub(&pv, "status", &patch).await.unwrap();
        assert_eq!(patched["status"]["reason"], "E2E patchStatus");
        assert_eq!(patched["status"]["message"], "StatusPatched");
        let updated = claims
            .change_sub(&pvc, "status", |c| c["status"]["conditions"] = condition("StatusUpdated"))
            .await
            .unwrap();
        assert_eq!(updated["status"]["conditions"][0]["type"], "StatusUpdated");
        let updated = volumes
            .change_sub(&pv, "status", |v| v["status"]["reason"] = "E2E updateStatus".into())
            .await
            .unwrap();
        assert_eq!(updated["status"]["reason"], "E2E updateStatus");
        claims.delete(&pvc).await.unwrap();
        volumes.delete(&pv).await.unwrap();
        claims.assert_leaving(&pvc).await;
        volumes.assert_leaving(&pv).await;
    })
    .await;
}

/// [sig-storage] StorageClasses CSI Conformance should run through the lifecycle of a StorageClass [Conformance]
#[tokio::test]
async fn storage_classes() {
    over_both_wires(async |cluster: Cluster| {
        let class = |stem: &str| {
            json!({"metadata": {"generateName": stem}, "provisioner": "e2e-fake-provisioner",
                "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"})
        };
        lifecycle(&cluster.all(STORAGE, "storageclasses"), &class("e2e-"), &class("e2e-v2-")).await;
    })
    .await;
}

fn attachment(name: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "status": {"attached": false}, "spec": {
        "attacher": "e2e-test.storage.k8s.io", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}})
}

/// [sig-storage] VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment [Conformance]
#[tokio::test]
async fn volume_attachments() {
    over_both_wires(async |cluster: Cluster| {
        let attachments = cluster.all(STORAGE, "volumeattachments");
        lifecycle(&attachments, &attachment("va-1"), &attachment("va-2")).await;
        for name in ["va-3", "va-4"] {
            attachments.create(&attachment(name)).await.unwrap();
            let label = |a: &mut Value| a["metadata"]["labels"] = json!({"va-e2e": "updated"});
            attachments.change(name, label).await.unwrap();
        }
        attachments.delete_collection("labelSelector=va-e2e=updated").await.unwrap();
        assert_eq!(attachments.list("labelSelector=va-e2e=updated").await.len(), 0);
    })
    .await;
}

/// [sig-storage] VolumeAttachment Conformance should apply changes to a volumeattachment status [Conformance]
#[tokio::test]
async fn status_of_volume_attachments() {
    over_both_wires(async |cluster: Cluster| {
        let attachments = cluster.all(STORAGE, "volumeattachments");
        attachments.create(&attachment("va")).await.unwrap();
        let patch = Patch::Merge(json!({"metadata": {"labels": {"va": "patched"}}}));
        assert_eq!(attachments.patch("va", &patch).await.unwrap()["metadata"]["labels"]["va"], "patched");
        let attached = |object: &Value| object["status"]["attached"].as_bool().unwrap_or(false);
        assert!(!attached(&attachments.get_sub("va", "status").await.unwrap()));
        let patch = Patch::Merge(json!({"status": {"attached": true}}));
        assert!(attached(&attachments.patch_sub("va", "status", &patch).await.unwrap()));
        let detach = |a: &mut Value| a["status"]["attached"] = false.into();
        assert!(!attached(&attachments.change_sub("va", "status", detach).await.unwrap()));
        attachments.delete("va").await.unwrap();
        assert_eq!(attachments.list("labelSelector=va=patched").await.len(), 0);
    })
    .await;
}

/// [sig-storage] VolumeAttributesClass [FeatureGate:VolumeAttributesClass] should run through the lifecycle of a VolumeAttributesClass [Conformance]
#[tokio::test]
async fn volume_attributes_classes() {
    over_both_wires(async |cluster: Cluster| {
        let class = |stem: &str| {
            json!({"metadata": {"generateName": stem}, "driverName": "e2e-fake-csi-driver",
                "parameters": {"foo": "bar"}})
        };
        let classes = cluster.all(STORAGE, "volumeattributesclasses");
        lifecycle(&classes, &class("e2e-"), &class("e2e-v2-")).await;
    })
    .await;
}
