//! Volumes, claims and classes.

use serde_json::Value;

use super::cells::{NONE, Object, UNSET, str_of};
use super::{Kind, columns, kind};

pub(super) const KINDS: &[Kind] = &[
    kind("", "persistentvolumes", columns::VOLUMES, volume),
    kind("", "persistentvolumeclaims", columns::CLAIMS, claim),
    kind("storage.k8s.io", "storageclasses", columns::STORAGE_CLASSES, class),
    kind("storage.k8s.io", "volumeattachments", columns::ATTACHMENTS, attachment),
    kind("storage.k8s.io", "csidrivers", columns::CSI_DRIVERS, driver),
    kind("storage.k8s.io", "csinodes", columns::CSI_NODES, |o| {
        vec![o.name(), o.length("/spec/drivers").into(), o.age()]
    }),
    kind("storage.k8s.io", "csistoragecapacities", columns::CAPACITIES, |o| {
        vec![o.name(), o.cell("/storageClassName"), o.int_or_text("/capacity", UNSET)]
    }),
    kind("storage.k8s.io", "volumeattributesclasses", columns::ATTRIBUTES_CLASSES, |o| {
        let marks = ["volumeattributesclass.alpha.kubernetes.io~1is-default-class"];
        vec![name_with_default(o, &marks), o.cell("/driverName"), o.age()]
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
    match object.at("/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        None => object.cell("/spec/storageClassName"),
        Some(annotated) => annotated.clone(),
    }
}

fn name_with_default(object: &Object<'_>, annotations: &[&str]) -> Value {
    let marked = |name: &&str| object.text(&format!("/metadata/annotations/{name}")) == "true";
    let name = object.text("/metadata/name");
    if annotations.iter().any(marked) { format!("{name} (default)").into() } else { name.into() }
}

fn volume(object: &Object<'_>) -> Vec<Value> {
    let claim = match object.map("/spec/claimRef") {
        None => String::new(),
        Some(_) => {
            format!("{}/{}", object.text("/spec/claimRef/namespace"), object.text("/spec/claimRef/name"))
        }
    };
    vec![
        object.name(),
        object.int_or_text("/spec/capacity/storage", "0"),
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
        true => {
            (object.int_or_text("/status/capacity/storage", "0"), access_modes(object, "/status/accessModes"))
        }
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
    let marks =
        ["storageclass.kubernetes.io~1is-default-class", "storageclass.beta.kubernetes.io~1is-default-class"];
    vec![
        name_with_default(object, &marks),
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
    let modes = modes.collect::<Vec<_>>().join(",");
    let modes = if modes.is_empty() { NONE } else { &modes };
    let attach = object.at("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true);
    vec![
        object.name(),
        attach.into(),
        object.flag("/spec/podInfoOnMount").into(),
        object.flag("/spec/storageCapacity").into(),
        tokens.into(),
        object.flag("/spec/requiresRepublish").into(),
        modes.into(),
        object.age(),
    ]
}
