//! Persistent volumes.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use super::volume_source::{KINDS, source};
use super::{VOLUME_MODES, access_modes, annotation_warning, class_name};
use crate::check::{self, Faults};
use crate::contract::{Context, Warnings};
use crate::json::{copy, default, default_text, fields, items, put, remove, same, set, text, with, within};
use crate::kind::{Kind, PLAIN};
use crate::node::old_label;
use crate::pod::defaults::canonical_list;
use crate::pod::resources::{basic, quantity};
use crate::pod::scheduling::node_selector;
use crate::pod::volume_source::shown_beside_another;

const NOT_INLINE: &str = "may not be specified in the context of inline volumes";
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];

pub static VOLUME: Kind = Kind {
    status: true,
    default: defaults,
    create: |context, object| {
        put(object, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": context.now}));
    },
    update: phase_time,
    validate: |object| {
        let mut faults = Faults::new();
        volume_spec(
            &mut faults,
            &Path::new("spec"),
            &object["spec"],
            Some(text(&object["metadata"]["name"])),
        );
        faults
    },
    validate_change: change,
    warn: warnings,
    ..PLAIN
};

fn defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        with(spec, "capacity", canonical_list);
        with(spec, "hostPath", |source| default(source, "type", ""));
        with(spec, "iscsi", |source| default_text(source, "iscsiInterface", "default"));
        with(spec, "rbd", |source| {
            default_text(source, "pool", "rbd");
            default_text(source, "user", "admin");
            default_text(source, "keyring", "/etc/ceph/keyring");
        });
        with(spec, "scaleIO", |source| {
            default_text(source, "storageMode", "ThinProvisioned");
            default_text(source, "fsType", "xfs");
        });
        with(spec, "azureDisk", |source| {
            default(source, "cachingMode", "ReadWrite");
            default(source, "kind", "Shared");
            default(source, "fsType", "ext4");
            default(source, "readOnly", false);
        });
    });
    within(object, "status", |status| default_text(status, "phase", "Pending"));
}

/// When the phase last changed, unless the writer says so itself.
fn phase_time(context: &Context, object: &mut Value, old: &Value) {
    if context.subresource != "status" || object["status"]["phase"] == old["status"]["phase"] {
        return;
    }
    let (now, before) =
        (&object["status"]["lastPhaseTransitionTime"], &old["status"]["lastPhaseTransitionTime"]);
    if !set(now) || now == before {
        within(object, "status", |status| put(status, "lastPhaseTransitionTime", context.now));
    }
}

/// Without a name it is the copy of a volume that a VolumeAttachment carries for volumes of pods.
pub fn volume_spec(faults: &mut Faults, path: &Path, spec: &Value, name: Option<&str>) {
    let inline = name.is_none();
    if inline {
        inline_only(faults, path, spec);
    }
    if items(&spec["accessModes"]).is_empty() {
        faults.push(Error::required(&path.child("accessModes"), ""));
    }
    access_modes(faults, &path.child("accessModes"), &spec["accessModes"]);
    let policy = &spec["persistentVolumeReclaimPolicy"];
    let at = path.child("persistentVolumeReclaimPolicy");
    if !inline {
        capacity(faults, &path.child("capacity"), &spec["capacity"]);
        check::optional_one_of(faults, &at, policy, &RECLAIM_POLICIES);
    } else if !text(policy).is_empty() && text(policy) != "Retain" {
        faults.push(Error::forbidden(&at, "may only be Retain in the context of inline volumes"));
    }
    let affinity = path.child("nodeAffinity");
    if set(&spec["nodeAffinity"]) && inline {
        faults.push(Error::forbidden(&affinity, NOT_INLINE));
    } else if set(&spec["nodeAffinity"]) {
        match &spec["nodeAffinity"]["required"] {
            Value::Null => {
                let detail = "must specify required node constraints";
                faults.push(Error::required(&affinity.child("required"), detail));
            }
            required => node_selector(faults, &affinity.child("required"), required),
        }
    }
    sources(faults, path, spec, name.unwrap_or(""));
    if text(policy) == "Recycle" && is_root(text(&spec["hostPath"]["path"])) {
        faults.push(Error::forbidden(&at, "may not be 'recycle' for a hostPath mount of '/'"));
    }
    names(faults, path, spec, inline);
}

fn inline_only(faults: &mut Faults, path: &Path, spec: &Value) {
    for key in ["claimRef", "capacity"] {
        if set(&spec[key]) {
            faults.push(Error::forbidden(&path.child(key), NOT_INLINE));
        }
    }
    if !set(&spec["csi"]) {
        let detail = "has to be specified in the context of inline volumes";
        faults.push(Error::required(&path.child("csi"), detail));
    }
}

fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

fn capacity(faults: &mut Faults, path: &Path, capacity: &Value) {
    if fields(capacity).next().is_none() {
        faults.push(Error::required(path, ""));
    }
    if !set(&capacity["storage"]) || fields(capacity).count() > 1 {
        faults.push(Error::not_supported(path, capacity.clone(), &["storage"]));
    }
    for (name, value) in fields(capacity) {
        let at = path.key(name);
        basic(faults, &at, value);
        if let Some(q) = quantity(value).filter(|q| q.is_negative() || q.is_zero()) {
            faults.push(Error::invalid(&at, q.to_string(), "must be greater than zero"));
        }
    }
}

fn sources(faults: &mut Faults, path: &Path, spec: &Value, name: &str) {
    let mut found = 0;
    for kind in KINDS.iter().filter(|kind| set(&spec[**kind])) {
        found += 1;
        // One flexVolume may stand beside another source.
        if found > 1 && *kind != "flexVolume" {
            let at = path.child(shown_beside_another(kind));
            faults.push(Error::forbidden(&at, "may not specify more than 1 volume type"));
            continue;
        }
        source(faults, path, kind, spec, name);
        if *kind == "local" && !set(&spec["nodeAffinity"]) {
            faults.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    if found == 0 {
        faults.push(Error::required(path, "must specify a volume type"));
    }
}

fn names(faults: &mut Faults, path: &Path, spec: &Value, inline: bool) {
    let (class, mode) = (&spec["storageClassName"], &spec["volumeMode"]);
    if inline {
        if !text(class).is_empty() {
            faults.push(Error::forbidden(&path.child("storageClassName"), NOT_INLINE));
        }
        if set(mode) && text(mode) != "Filesystem" {
            let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            faults.push(Error::forbidden(&path.child("volumeMode"), detail));
        }
    } else {
        if !text(class).is_empty() {
            class_name(faults, &path.child("storageClassName"), class);
        }
        check::optional_one_of(faults, &path.child("volumeMode"), mode, &VOLUME_MODES);
    }
    let attributes = &spec["volumeAttributesClassName"];
    if !set(attributes) {
        return;
    }
    let at = path.child("volumeAttributesClassName");
    if text(attributes).is_empty() {
        faults.push(Error::required(&at, "an empty string is disallowed"));
    } else {
        class_name(faults, &at, attributes);
    }
    if !set(&spec["csi"]) {
        let detail = "has to be specified when using volumeAttributesClassName";
        faults.push(Error::required(&path.child("csi"), detail));
    }
}

fn change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let (mut now, before) = (new["spec"].clone(), &old["spec"]);
    // Expanding may become possible later.
    if !set(&before["csi"]["controllerExpandSecretRef"]) {
        with(&mut now, "csi", |csi| remove(csi, "controllerExpandSecretRef"));
    }
    if KINDS.iter().any(|kind| !same(&now[*kind], &before[*kind])) {
        let at = Path::new("spec").child("persistentvolumesource");
        faults.push(Error::forbidden(&at, "spec.persistentvolumesource is immutable after creation"));
    }
    check::immutable(&mut faults, &Path::new("volumeMode"), &now["volumeMode"], &before["volumeMode"]);
    if set(&before["nodeAffinity"]) && !same(&relabelled(&now, before), &before["nodeAffinity"]) {
        let detail = "field is immutable, except for updating from beta label to GA";
        faults.push(Error::invalid(&Path::new("nodeAffinity"), now["nodeAffinity"].clone(), detail));
    }
    if set(&before["volumeAttributesClassName"]) && !set(&now["volumeAttributesClassName"]) {
        let at = Path::new("spec").child("volumeAttributesClassName");
        faults.push(Error::forbidden(&at, "update from non-nil value to nil is forbidden"));
    }
    faults
}

/// The new affinity with each key that was only moved from its beta name put back.
fn relabelled(now: &Value, before: &Value) -> Value {
    let mut affinity = now["nodeAffinity"].clone();
    let old_terms = items(&before["nodeAffinity"]["required"]["nodeSelectorTerms"]);
    let mut terms = old_terms.iter();
    with(&mut affinity, "required", |required| {
        crate::json::each(required, "nodeSelectorTerms", |term| {
            let mut old = items(&terms.next().unwrap_or(&Value::Null)["matchExpressions"]).iter();
            crate::json::each(term, "matchExpressions", |expression| {
                let Some(old) = old.next() else { return };
                let renamed = old_label(text(&old["key"]))
                    .filter(|hint| hint.starts_with("deprecated"))
                    .is_some_and(|hint| hint.contains(&format!("\"{}\"", text(&expression["key"]))));
                if renamed {
                    copy(expression, "key", old);
                }
            });
        });
    });
    affinity
}

const OLD_SOURCES: [(&str, &str, &str); 6] = [
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn warnings(object: &Value, _: Option<&Value>) -> Warnings {
    let mut texts = Warnings::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    annotation_warning(&mut texts, object);
    if text(&spec["persistentVolumeReclaimPolicy"]) == "Recycle" {
        texts.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let terms = path.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    for (t, term) in items(&spec["nodeAffinity"]["required"]["nodeSelectorTerms"]).iter().enumerate() {
        for (e, expression) in items(&term["matchExpressions"]).iter().enumerate() {
            let key = text(&expression["key"]);
            if let Some(hint) = old_label(key) {
                let at = terms.index(t).child("matchExpressions").index(e).child("key");
                texts.push(format!("{at}: {key} is {hint}"));
            }
        }
    }
    if let Some((_, shown, hint)) = OLD_SOURCES.iter().find(|(kind, _, _)| set(&spec[*kind])) {
        texts.push(format!("{}: {hint}", path.child(shown)));
    }
    texts
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge, patched, stored, updated, warned};
    use serde_json::{Value, json};

    fn volume(patch: Value) -> Value {
        let base = json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}}});
        merge(base, json!({"spec": patch}))
    }

    #[test]
    fn faults() {
        for (patch, expected) in [
            (json!({}), vec![]),
            (
                json!({"accessModes": null, "capacity": null, "hostPath": null}),
                vec![
                    "spec.accessModes: Required value",
                    "spec.capacity: Required value",
                    "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                    "spec: Required value: must specify a volume type",
                ],
            ),
            (
                json!({"capacity": {"storage": "-1"}, "nfs": {"path": "a"}, "persistentVolumeReclaimPolicy": "X"}),
                vec![
                    "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                    "spec.capacity[storage]: Invalid value: \"-1\": must be greater than zero",
                    "spec.persistentVolumeReclaimPolicy: Unsupported value: \"X\": supported values: \"Delete\", \"Recycle\", \"Retain\"",
                    "spec.nfs: Forbidden: may not specify more than 1 volume type",
                ],
            ),
            (
                json!({"cephfs": {}, "flexVolume": {}}),
                vec![
                    "spec.cephFS: Forbidden: may not specify more than 1 volume type",
                    "spec.flexVolume.driver: Required value",
                ],
            ),
            (
                json!({"hostPath": null, "local": {"path": "a/../b"}}),
                vec![
                    "spec.local.path: Invalid value: \"a/../b\": must not contain '..'",
                    "spec.nodeAffinity: Required value: Local volume requires node affinity",
                ],
            ),
            (
                json!({"hostPath": {"path": "/."}, "persistentVolumeReclaimPolicy": "Recycle", "volumeAttributesClassName": ""}),
                vec![
                    "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
                    "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
                    "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
                ],
            ),
            (
                json!({"hostPath": null, "csi": {"driver": "d", "controllerPublishSecretRef": {}}, "nodeAffinity": {}}),
                vec![
                    "spec.nodeAffinity.required: Required value: must specify required node constraints",
                    "spec.csi.volumeHandle: Required value",
                    "spec.csi.controllerPublishSecretRef.name: Required value",
                    "spec.csi.controllerPublishSecretRef.namespace: Required value",
                ],
            ),
        ] {
            assert_eq!(created("", "persistentvolumes", volume(patch.clone())), expected, "{patch}");
        }
    }

    #[test]
    fn sources_are_judged_as_those_of_pods() {
        for (patch, expected) in [
            (
                json!({"hostPath": null, "iscsi": {"targetPortal": "p".repeat(63), "iqn": "iqn.x", "lun": 256, "secretRef": {}, "initiatorName": "i"}}),
                vec![
                    &*format!(
                        "spec.iscsi.targetportal: Invalid value: \"{}\": Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.",
                        "p".repeat(63)
                    ),
                    "spec.iscsi.iqn: Invalid value: \"iqn.x\": must be valid format",
                    "spec.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                    "spec.iscsi.secretRef.name: Required value",
                    "spec.iscsi.initiatorname: Invalid value: \"i\": must be valid format",
                ],
            ),
            (
                json!({"hostPath": null, "fc": {"targetWWNs": ["a"]}}),
                vec!["spec.fc.lun: Required value: lun is required if targetWWNs is specified"],
            ),
            (
                json!({"hostPath": null, "quobyte": {"registry": "a", "volume": "v"}}),
                vec![
                    "spec.quobyte.registry: Invalid value: \"a\": must be a host:port pair or multiple pairs separated by commas",
                ],
            ),
            (
                json!({"hostPath": null, "flexVolume": {"driver": "d", "options": {"k8s.io/a": "b"}}}),
                vec![
                    "spec.flexVolume.options[k8s.io/a]: Invalid value: \"k8s.io/a\": kubernetes.io and k8s.io namespaces are reserved",
                ],
            ),
            (
                json!({"hostPath": null, "flocker": {}}),
                vec!["spec.flocker: Required value: one of datasetName and datasetUUID is required"],
            ),
            (
                json!({"hostPath": null, "storageos": {"volumeName": "A", "secretRef": {"name": "s"}}}),
                vec![
                    "spec.storageos.volumeName: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "spec.storageos.secretRef.namespace: Required value",
                ],
            ),
            (
                json!({"hostPath": null, "cinder": {"volumeID": "v", "secretRef": {}}}),
                vec![
                    "spec.cinder.secretRef.name: Required value",
                    "spec.cinder.secretRef.namespace: Required value",
                ],
            ),
            (
                json!({"hostPath": null, "azureDisk": {"diskName": "n", "diskURI": "u", "kind": "Managed"}}),
                vec![
                    "spec.azureDisk.diskURI: Unsupported value: \"u\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
                ],
            ),
            (
                json!({"hostPath": null, "azureFile": {"secretName": "s", "shareName": "s", "secretNamespace": ""}}),
                vec!["spec.azureFile.secretNamespace: Required value"],
            ),
            (
                json!({"hostPath": null, "glusterfs": {"endpoints": "e", "path": "p", "endpointsNamespace": ""}}),
                vec![
                    "spec.glusterfs.endpointsNamespace: Invalid value: \"\": if the endpointnamespace is set, it must be a valid namespace name",
                ],
            ),
        ] {
            assert_eq!(created("", "persistentvolumes", volume(patch.clone())), expected, "{patch}");
        }
    }

    #[test]
    fn changes() {
        let zone = |key: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": key, "operator": "In", "values": ["a"]}]}]}}})
        };
        let old = volume(zone("failure-domain.beta.kubernetes.io/zone"));
        let moved = json!({"spec": zone("topology.kubernetes.io/zone")});
        assert_eq!(updated("", "persistentvolumes", old.clone(), moved), [""; 0]);
        let master = volume(zone("node-role.kubernetes.io/master"));
        let renamed = json!({"spec": zone("node-role.kubernetes.io/control-plane")});
        assert_eq!(updated("", "persistentvolumes", master, renamed).len(), 1, "never a beta label");
        let other = updated("", "persistentvolumes", old.clone(), json!({"spec": zone("other")}));
        assert!(
            other[0].ends_with("field is immutable, except for updating from beta label to GA"),
            "{other:?}"
        );
        assert_eq!(
            updated(
                "",
                "persistentvolumes",
                old,
                json!({"spec": {"hostPath": {"path": "/b"}, "volumeMode": "Block"}})
            ),
            [
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation",
                "volumeMode: Invalid value: \"Block\": field is immutable",
            ]
        );
        let stored = merge(
            stored("", "persistentvolumes", volume(json!({}))),
            json!({"status": {"lastPhaseTransitionTime": "t"}}),
        );
        let (object, _) =
            patched("", "persistentvolumes", "status", &stored, json!({"status": {"phase": "Bound"}}));
        assert_eq!(object["status"]["lastPhaseTransitionTime"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn hints() {
        let old = volume(
            json!({"hostPath": null, "glusterfs": {"path": "p", "endpoints": "e"}, "persistentVolumeReclaimPolicy": "Recycle",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "beta.kubernetes.io/os"}]}]}}}),
        );
        assert_eq!(
            warned("", "persistentvolumes", old),
            [
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.glusterfs: deprecated in v1.25, non-functional in v1.26+",
            ]
        );
    }
}
