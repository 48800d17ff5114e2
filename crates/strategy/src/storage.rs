//! Volumes beyond the pod: claims, volumes, classes, drivers.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults, invalid_each};
use crate::json::{
    at, copy, default, default_text, fields, is_empty, items, put, same, set, text, with, within,
};
use crate::kind::{Kind, PLAIN};
use crate::pod::defaults::{canonical_list, claim_spec as claim_spec_defaults};
use crate::pod::resources::quantity;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
/// Everything of a volume's spec that is not its source.
const VOLUME_COMMON: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

pub static CLAIM: Kind = Kind {
    status: true,
    default: |object| {
        within(object, "spec", claim_spec_defaults);
        within(object, "status", |status| default_text(status, "phase", "Pending"));
    },
    create: |_, object| put(object, "status", json!({"phase": "Pending"})),
    validate: |object| {
        let mut faults = Faults::new();
        claim_spec(&mut faults, &Path::new("spec"), &object["spec"]);
        faults
    },
    validate_change: claim_change,
    ..PLAIN
};
pub static VOLUME: Kind = Kind {
    status: true,
    default: |object| {
        within(object, "spec", |spec| {
            default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
            default(spec, "volumeMode", "Filesystem");
            with(spec, "capacity", canonical_list);
            with(spec, "hostPath", |source| default(source, "type", ""));
        });
        within(object, "status", |status| default_text(status, "phase", "Pending"));
    },
    create: |context, object| {
        put(object, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": context.now}));
    },
    validate: volume,
    validate_change: |new, old| {
        let mut faults = Faults::new();
        let source = |object: &Value| {
            let mut spec = object["spec"].clone();
            if let Some(map) = spec.as_object_mut() {
                map.retain(|key, _| !VOLUME_COMMON.contains(&key.as_str()));
            }
            spec
        };
        if !same(&source(new), &source(old)) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            faults.push(Error::forbidden(&Path::new("spec").child("persistentvolumesource"), detail));
        }
        let at = Path::new("spec").child("volumeMode");
        check::immutable(&mut faults, &at, &new["spec"]["volumeMode"], &old["spec"]["volumeMode"]);
        faults
    },
    ..PLAIN
};
pub static CLASS: Kind = Kind {
    default: |object| {
        default_text(object, "reclaimPolicy", "Delete");
        default_text(object, "volumeBindingMode", "Immediate");
    },
    validate: |object| {
        let mut faults = Faults::new();
        check::required(&mut faults, &Path::new("provisioner"), &object["provisioner"]);
        let (reclaim, binding) = (Path::new("reclaimPolicy"), Path::new("volumeBindingMode"));
        check::one_of(&mut faults, &reclaim, &object["reclaimPolicy"], &["Delete", "Retain"]);
        let modes = ["Immediate", "WaitForFirstConsumer"];
        check::one_of(&mut faults, &binding, &object["volumeBindingMode"], &modes);
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        if !same(&new["parameters"], &old["parameters"]) {
            faults.push(Error::forbidden(&Path::new("parameters"), "updates to parameters are forbidden."));
        }
        if new["provisioner"] != old["provisioner"] {
            faults.push(Error::forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden."));
        }
        if new["reclaimPolicy"] != old["reclaimPolicy"] {
            faults.push(Error::forbidden(
                &Path::new("reclaimPolicy"),
                "updates to reclaimPolicy are forbidden.",
            ));
        }
        let at = Path::new("volumeBindingMode");
        check::immutable(&mut faults, &at, &new["volumeBindingMode"], &old["volumeBindingMode"]);
        faults
    },
    ..PLAIN
};
pub static CSI_DRIVER: Kind = Kind {
    generation: true,
    default: |object| {
        within(object, "spec", |spec| {
            for (key, value) in [
                ("attachRequired", true),
                ("podInfoOnMount", false),
                ("storageCapacity", false),
                ("requiresRepublish", false),
                ("seLinuxMount", false),
            ] {
                default(spec, key, value);
            }
            default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            default(spec, "volumeLifecycleModes", json!(["Persistent"]));
        });
    },
    ..PLAIN
};
pub static VOLUME_ATTACHMENT: Kind = Kind {
    status: true,
    default: |object| within(object, "status", |status| default(status, "attached", false)),
    validate_change: |new, old| {
        let mut faults = Faults::new();
        if !same(&new["spec"], &old["spec"]) {
            faults.push(Error::invalid(&Path::new("spec"), new["spec"].clone(), check::IMMUTABLE));
        }
        faults
    },
    ..PLAIN
};

pub fn claim_spec(faults: &mut Faults, path: &Path, spec: &Value) {
    let modes = items(&spec["accessModes"]);
    let at = path.child("accessModes");
    if modes.is_empty() {
        faults.push(Error::required(&at, "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&text(mode))) {
        faults.push(Error::not_supported(&at, text(mode), &ACCESS_MODES));
    }
    let exclusive = modes.iter().any(|mode| text(mode) == "ReadWriteOncePod");
    if exclusive && modes.len() > 1 {
        let detail = "may not use ReadWriteOncePod with other access modes";
        faults.push(Error::forbidden(&at, detail));
    }
    check::label_selector(faults, &path.child("selector"), &spec["selector"]);
    let storage = path.child("resources").key("storage");
    let requested = &spec["resources"]["requests"]["storage"];
    match quantity(requested) {
        None if !set(requested) => faults.push(Error::required(&storage, "")),
        None => faults.push(Error::invalid(&storage, requested.clone(), "must be a valid resource quantity")),
        Some(q) if q.is_negative() || q.is_zero() => {
            let at = path.child("resources").child("requests").key("storage");
            faults.push(Error::invalid(&at, q.to_string(), "must be greater than zero"));
        }
        Some(_) => {}
    }
    let class = text(&spec["storageClassName"]);
    if !class.is_empty() {
        invalid_each(faults, &path.child("storageClassName"), class, check::dns1123_subdomain(class));
    }
    check::optional_one_of(faults, &path.child("volumeMode"), &spec["volumeMode"], &VOLUME_MODES);
}

fn claim_change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let before = &old["spec"];
    let mut munged = new["spec"].clone();
    // The binder writes the volume's name once; the default class may arrive late.
    for key in ["volumeName", "storageClassName"] {
        if is_empty(&before[key]) && !set(&before[key]) {
            copy(&mut munged, key, before);
        }
    }
    let bound = text(at(new, &["status", "phase"])) == "Bound";
    if bound {
        copy(&mut munged, "volumeAttributesClassName", before);
        let requested = before["resources"]["requests"]["storage"].clone();
        within(&mut munged, "resources", |r| within(r, "requests", |r| put(r, "storage", requested)));
    }
    if !same(&munged, before) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        faults.push(Error::forbidden(&path, detail));
    }
    let size = |object: &Value| quantity(&object["spec"]["resources"]["requests"]["storage"]);
    let capacity = quantity(&old["status"]["capacity"]["storage"]);
    if let (Some(now), Some(then)) = (size(new), size(old))
        && now < then
        && capacity.is_some_and(|capacity| now <= capacity)
    {
        let at = path.child("resources").child("requests").child("storage");
        faults.push(Error::forbidden(&at, "field can not be less than status.capacity"));
    }
    faults
}

fn volume(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let modes = items(&spec["accessModes"]);
    if modes.is_empty() {
        faults.push(Error::required(&path.child("accessModes"), ""));
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&text(mode))) {
        faults.push(Error::not_supported(&path.child("accessModes"), text(mode), &ACCESS_MODES));
    }
    if is_empty(&spec["capacity"]) {
        faults.push(Error::required(&path.child("capacity"), ""));
    } else if !set(&spec["capacity"]["storage"]) || fields(&spec["capacity"]).count() > 1 {
        let detail = "supported values: \"storage\"";
        let mut fault = Error::not_supported(&path.child("capacity"), spec["capacity"].clone(), &["storage"]);
        fault.detail = detail.to_owned();
        faults.push(fault);
    }
    let sources = fields(spec).filter(|(key, v)| !VOLUME_COMMON.contains(key) && set(v)).count();
    match sources {
        0 => faults.push(Error::required(&path, "must specify a volume type")),
        1 => {}
        _ => faults.push(Error::forbidden(&path, "may not specify more than 1 volume type")),
    }
    let policies = ["Delete", "Recycle", "Retain"];
    let at = path.child("persistentVolumeReclaimPolicy");
    check::optional_one_of(&mut faults, &at, &spec["persistentVolumeReclaimPolicy"], &policies);
    check::optional_one_of(&mut faults, &path.child("volumeMode"), &spec["volumeMode"], &VOLUME_MODES);
    let affinity = &spec["nodeAffinity"]["required"];
    if set(affinity) {
        let at = path.child("nodeAffinity").child("required");
        crate::pod::scheduling::node_selector(&mut faults, &at, affinity);
    } else if set(&spec["local"]) {
        faults.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
    }
    faults
}
