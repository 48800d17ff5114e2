use serde_json::{Value, json};

use super::{pod, spec};
use crate::testing::{PODS, creates, merged, stored};

fn volume(source: Value) -> Value {
    spec(json!({"volumes": [merged(&json!({"name": "v"}), &source)]}))
}

#[test]
fn sources() {
    creates(
        PODS,
        &pod(),
        &[
            (volume(json!({})), &[]),
            (
                spec(
                    json!({"volumes": [{"name": "a", "emptyDir": {"sizeLimit": "-1"}, "hostPath": {"path": "/"}}, {"name": "b"}, {"name": "b"}]}),
                ),
                &[
                    "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
                    "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                    "spec.volumes[2].name: Duplicate value: \"b\"",
                ],
            ),
            (
                volume(json!({"hostPath": {"path": "/a/../b", "type": "Odd"}})),
                &[
                    "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                    "spec.volumes[0].hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
                ],
            ),
            (
                volume(
                    json!({"secret": {"defaultMode": 512, "items": [{"key": "", "path": "/x", "mode": -1}]}}),
                ),
                &[
                    "spec.volumes[0].secret.secretName: Required value",
                    "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                    "spec.volumes[0].secret.items[0].key: Required value",
                    "spec.volumes[0].secret.items[0].path: Invalid value: \"/x\": must be a relative path",
                    "spec.volumes[0].secret.items[0].mode: Invalid value: -1: must be a number between 0 and 0777 (octal), both inclusive",
                ],
            ),
            (
                volume(json!({"nfs": {"path": "x"}})),
                &[
                    "spec.volumes[0].nfs.server: Required value",
                    "spec.volumes[0].nfs.path: Invalid value: \"x\": must be an absolute path",
                ],
            ),
        ],
    );
}

#[test]
fn sources_with_two_names() {
    creates(
        PODS,
        &pod(),
        &[(
            volume(json!({"gcePersistentDisk": {}, "cephfs": {}, "downwardAPI": {}})),
            &[
                "spec.volumes[0].persistentDisk.pdName: Required value",
                "spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type",
            ],
        )],
    );
}

#[test]
fn sources_of_vendors_and_drivers() {
    creates(
        PODS,
        &pod(),
        &[
            (
                volume(
                    json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2015-02.example.com", "lun": 256, "chapAuthSession": true, "initiatorName": "x"}}),
                ),
                &[
                    "spec.volumes[0].iscsi.iqn: Invalid value: \"iqn.2015-02.example.com\": must be valid format",
                    "spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                    "spec.volumes[0].iscsi.secretRef: Required value",
                    "spec.volumes[0].iscsi.initiatorname: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
                ],
            ),
            (
                volume(
                    json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2015-02.example.com:test", "lun": 0}}),
                ),
                &[],
            ),
            (
                volume(
                    json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2015-02.example.com:test", "secretRef": {}}}),
                ),
                &[],
            ),
            (
                volume(json!({"fc": {"targetWWNs": ["a"], "wwids": ["b"]}})),
                &[
                    "spec.volumes[0].fc.targetWWNs: Invalid value: [\"a\"]: targetWWNs and wwids can not be specified simultaneously",
                    "spec.volumes[0].fc.lun: Required value: lun is required if targetWWNs is specified",
                ],
            ),
            (
                volume(json!({"flexVolume": {"driver": "d", "options": {"a.k8s.io/b": "c"}}})),
                &[
                    "spec.volumes[0].flexVolume.options[a.k8s.io/b]: Invalid value: \"a.k8s.io/b\": kubernetes.io and k8s.io namespaces are reserved",
                ],
            ),
            (
                volume(json!({"azureDisk": {"diskName": "d", "diskURI": "x", "kind": "Managed"}})),
                &[
                    "spec.volumes[0].azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
                ],
            ),
            (volume(json!({"rbd": {"image": "x"}})), &["spec.volumes[0].rbd.monitors: Required value"]),
            (volume(json!({"image": {}})), &["spec.volumes[0].image.reference: Required value"]),
            (
                volume(json!({"csi": {"driver": "", "nodePublishSecretRef": {}}})),
                &[
                    "spec.volumes[0].csi.driver: Required value",
                    "spec.volumes[0].csi.nodePublishSecretRef.name: Required value",
                ],
            ),
            (
                spec(
                    json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "x"}, "spec": {}}}},
                    {"name": "w", "persistentVolumeClaim": {"claimName": "p-v"}}]}),
                ),
                &[
                    "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
                    "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required",
                    "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
                    "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-v\": must not reference a PVC that gets created for an ephemeral volume",
                ],
            ),
        ],
    );
}

#[test]
fn projections() {
    let sources = |sources: Value| volume(json!({"projected": {"sources": sources}}));
    creates(
        PODS,
        &merged(&pod(), &spec(json!({"serviceAccountName": "s"}))),
        &[
            (
                sources(
                    json!([{"secret": {"name": "s", "items": [{"key": "a", "path": "x"}]}, "configMap": {"name": "m", "items": [{"key": "a", "path": "x"}]}},
                    {"serviceAccountToken": {"path": "../t", "expirationSeconds": 1}}]),
                ),
                &[
                    "spec.volumes[0].projected: Invalid value: \"m\": conflicting duplicate paths",
                    "spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
                    "spec.volumes[0].projected.sources[1].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                    "spec.volumes[0].projected.path: Invalid value: \"../t\": must not contain '..'",
                ],
            ),
            (
                sources(
                    json!([{"downwardAPI": {"items": [{"path": "a"}, {"path": "..a", "fieldRef": {"fieldPath": "spec.nodeName"}},
                    {"path": "b", "resourceFieldRef": {"resource": "limits.cpu"}}]}}]),
                ),
                &[
                    "spec.volumes[0].projected.sources[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
                    "spec.volumes[0].projected.sources[0].downwardAPI.path: Invalid value: \"..a\": must not start with '..'",
                    "spec.volumes[0].projected.sources[0].downwardAPI.fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
                    "spec.volumes[0].projected.sources[0].downwardAPI.resourceFieldRef.containerName: Required value",
                ],
            ),
        ],
    );
    let token = sources(json!([{"serviceAccountToken": {"path": "t"}}]));
    creates(
        PODS,
        &pod(),
        &[(
            token,
            &[
                "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
            ],
        )],
    );
}

/// They can only stand in objects that another server stored.
#[test]
fn sources_that_are_off() {
    let judge = |sources: Value| {
        let mut faults = crate::check::Faults::new();
        let path = amphipod_api::field::Path::new("p");
        super::super::projected::check(&mut faults, &path, &json!({"sources": sources}));
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        judge(
            json!([{"clusterTrustBundle": {"name": "a", "signerName": "b", "path": "x"}}, {"clusterTrustBundle": {"signerName": "b", "path": "x"}}])
        ),
        [
            "p.sources[0].clusterTrustBundle: Invalid value: {\"name\":\"a\",\"path\":\"x\",\"signerName\":\"b\"}: only one of name and signerName may be used",
            "p.sources[1].clusterTrustBundle.signerName: Invalid value: \"b\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            "p: Invalid value: \"x\": conflicting duplicate paths",
        ]
    );
    assert_eq!(
        judge(
            json!([{"podCertificate": {"signerName": "example.com/x", "keyType": "ED25519", "maxExpirationSeconds": 1}}])
        ),
        [
            "p.sources[0].podCertificate.maxExpirationSeconds: Invalid value: 1: if provided, maxExpirationSeconds must be >= 3600",
            "p.sources[0].podCertificate: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
        ]
    );
    let patch = volume(json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}));
    let object = stored(PODS, &merged(&pod(), &patch));
    assert_eq!(object["spec"]["volumes"][0]["projected"]["sources"], json!([{}]));
}

#[test]
fn mounts() {
    let mounted = |container: Value| {
        let container = merged(&json!({"name": "c", "image": "i"}), &container);
        spec(
            json!({"volumes": [{"name": "v"}, {"name": "b", "persistentVolumeClaim": {"claimName": "x"}}], "containers": [container]}),
        )
    };
    creates(
        PODS,
        &pod(),
        &[
            (
                mounted(
                    json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "/x", "subPathExpr": ".."}, {"name": "z", "mountPath": "/a"}]}),
                ),
                &[
                    "spec.containers[0].volumeMounts.subPath: Invalid value: \"/x\": must be a relative path",
                    "spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: \"..\": subPathExpr and subPath are mutually exclusive",
                    "spec.containers[0].volumeMounts.subPathExpr: Invalid value: \"..\": must not contain '..'",
                    "spec.containers[0].volumeMounts[1].name: Not found: \"z\"",
                    "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                ],
            ),
            (
                mounted(
                    json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional", "recursiveReadOnly": "Enabled"}]}),
                ),
                &[
                    "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
                    "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
                    "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified",
                ],
            ),
            (
                mounted(
                    json!({"volumeMounts": [{"name": "b", "mountPath": "/b"}], "volumeDevices": [{"name": "b", "devicePath": "/b"}, {"name": "v", "devicePath": "/x/.."}]}),
                ),
                &[
                    "spec.containers[0].volumeMounts[0].name: Invalid value: \"b\": must not already exist in volumeDevices",
                    "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/b\": must not already exist as a path in volumeDevices",
                    "spec.containers[0].volumeDevices[0].name: Invalid value: \"b\": must not already exist in volumeMounts",
                    "spec.containers[0].volumeDevices[0].devicePath: Invalid value: \"/b\": must not already exist as a path in volumeMounts",
                    "spec.containers[0].volumeDevices[1].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                    "spec.containers[0].volumeDevices[1].devicePath: Invalid value: \"/x/..\": can not contain backsteps ('..')",
                ],
            ),
        ],
    );
}
