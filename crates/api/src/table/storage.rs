//! Volumes, claims and classes.

use serde_json::Value;

use super::cells::{Object, UNSET, str_of};
use super::{AGE, Column, Kind, NAME, boolean, integer, kind, text, wide};

const VOLUMES: &[Column] = &[
    NAME,
    text("Capacity"),
    text("Access Modes"),
    text("Reclaim Policy"),
    text("Status"),
    text("Claim"),
    text("StorageClass"),
    text("VolumeAttributesClass"),
    text("Reason"),
    AGE,
    wide("VolumeMode"),
];
const CLAIMS: &[Column] = &[
    NAME,
    text("Status"),
    text("Volume"),
    text("Capacity"),
    text("Access Modes"),
    text("StorageClass"),
    text("VolumeAttributesClass"),
    AGE,
    wide("VolumeMode"),
];
const CLASSES: &[Column] = &[
    NAME,
    text("Provisioner"),
    text("ReclaimPolicy"),
    text("VolumeBindingMode"),
    boolean("AllowVolumeExpansion"),
    AGE,
];
const ATTACHMENTS: &[Column] = &[NAME, text("Attacher"), text("PV"), text("Node"), boolean("Attached"), AGE];
const DRIVERS: &[Column] = &[
    NAME,
    boolean("AttachRequired"),
    boolean("PodInfoOnMount"),
    boolean("StorageCapacity"),
    text("TokenRequests"),
    boolean("RequiresRepublish"),
    text("Modes"),
    AGE,
];
const CSI_NODES: &[Column] = &[NAME, integer("Drivers"), AGE];
const CAPACITIES: &[Column] = &[NAME, text("StorageClassName"), text("Capacity")];
const ATTRIBUTES: &[Column] = &[NAME, text("DriverName"), AGE];

pub(super) const KINDS: &[Kind] = &[
    kind("", "persistentvolumes", VOLUMES, volume),
    kind("", "persistentvolumeclaims", CLAIMS, claim),
    kind("storage.k8s.io", "storageclasses", CLASSES, class),
    kind("storage.k8s.io", "volumeattachments", ATTACHMENTS, attachment),
    kind("storage.k8s.io", "csidrivers", DRIVERS, driver),
    kind("storage.k8s.io", "csinodes", CSI_NODES, |o| {
        vec![o.name(), o.length("/spec/drivers").into(), o.age()]
    }),
    kind("storage.k8s.io", "csistoragecapacities", CAPACITIES, |o| {
        vec![o.name(), o.cell("/storageClassName"), o.cell("/capacity")]
    }),
    kind("storage.k8s.io", "volumeattributesclasses", ATTRIBUTES, |o| {
        vec![o.name(), o.cell("/driverName"), o.age()]
    }),
];

fn access_modes(object: &Object<'_>, pointer: &str) -> String {
    let given: Vec<&str> = object.list(pointer).iter().filter_map(Value::as_str).collect();
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    short.iter().filter(|(mode, _)| given.contains(mode)).map(|(_, s)| *s).collect::<Vec<_>>().join(",")
}

fn phase(object: &Object<'_>) -> Value {
    if object.deleted() { "Terminating".into() } else { object.cell("/status/phase") }
}

fn class_name(object: &Object<'_>) -> Value {
    match object.text("/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        "" => object.cell("/spec/storageClassName"),
        annotated => annotated.into(),
    }
}

fn volume(object: &Object<'_>) -> Vec<Value> {
    let claim = match object.text("/spec/claimRef/name") {
        "" => String::new(),
        name => format!("{}/{name}", object.text("/spec/claimRef/namespace")),
    };
    vec![
        object.name(),
        object.cell("/spec/capacity/storage"),
        access_modes(object, "/spec/accessModes").into(),
        object.cell("/spec/persistentVolumeReclaimPolicy"),
        phase(object),
        claim.into(),
        class_name(object),
        object.text_or("/spec/volumeAttributesClassName", UNSET),
        object.cell("/status/reason"),
        object.age(),
        object.text_or("/spec/volumeMode", UNSET),
    ]
}

fn claim(object: &Object<'_>) -> Vec<Value> {
    let bound = !object.text("/spec/volumeName").is_empty();
    let (capacity, modes) = match bound {
        true => (object.cell("/status/capacity/storage"), access_modes(object, "/status/accessModes")),
        false => ("".into(), String::new()),
    };
    vec![
        object.name(),
        phase(object),
        object.cell("/spec/volumeName"),
        capacity,
        modes.into(),
        class_name(object),
        object.text_or("/spec/volumeAttributesClassName", UNSET),
        object.age(),
        object.text_or("/spec/volumeMode", UNSET),
    ]
}

fn class(object: &Object<'_>) -> Vec<Value> {
    let annotated = |name: &str| object.text(&format!("/metadata/annotations/{name}")) == "true";
    let default = annotated("storageclass.kubernetes.io~1is-default-class")
        || annotated("storageclass.beta.kubernetes.io~1is-default-class");
    let name = object.text("/metadata/name");
    let shown = if default { format!("{name} (default)") } else { name.to_owned() };
    vec![
        shown.into(),
        object.cell("/provisioner"),
        object.text_or("/reclaimPolicy", "Delete"),
        object.text_or("/volumeBindingMode", "Immediate"),
        object.flag("/allowVolumeExpansion").into(),
        object.age(),
    ]
}

fn attachment(object: &Object<'_>) -> Vec<Value> {
    vec![
        object.name(),
        object.cell("/spec/attacher"),
        object.cell("/spec/source/persistentVolumeName"),
        object.cell("/spec/nodeName"),
        object.flag("/status/attached").into(),
        object.age(),
    ]
}

fn driver(object: &Object<'_>) -> Vec<Value> {
    let tokens = object.list("/spec/tokenRequests");
    let audiences: Vec<&str> = tokens.iter().map(|t| str_of(t, "audience")).collect();
    let tokens = if tokens.is_empty() { UNSET.to_owned() } else { audiences.join(",") };
    let modes = object.list("/spec/volumeLifecycleModes").iter().filter_map(Value::as_str);
    let modes: Vec<&str> = modes.collect();
    let attach = object.at("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true);
    vec![
        object.name(),
        attach.into(),
        object.flag("/spec/podInfoOnMount").into(),
        object.flag("/spec/storageCapacity").into(),
        tokens.into(),
        object.flag("/spec/requiresRepublish").into(),
        modes.join(",").into(),
        object.age(),
    ]
}
