//! Claims of volumes.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use super::{CLASS_ANNOTATION, VOLUME_MODES, access_modes, annotation_warning, class_name};
use crate::check::{self, Faults, invalid_each};
use crate::contract::{Context, Warnings};
use crate::json::{at, copy, default_text, items, put, remove, same, set, text, with, within};
use crate::kind::{Kind, PLAIN};
use crate::pod::defaults::claim_spec as claim_spec_defaults;
use crate::pod::resources::{amount, basic, is_native, quantity};

const NOT_POSITIVE: &str = "must be greater than zero";

pub static CLAIM: Kind = Kind {
    status: true,
    default: |object| {
        within(object, "spec", claim_spec_defaults);
        within(object, "status", |status| default_text(status, "phase", "Pending"));
    },
    create: |_, object| {
        put(object, "status", json!({"phase": "Pending"}));
        within(object, "spec", one_source);
    },
    update: |context: &Context, object, _| {
        if context.subresource.is_empty() {
            within(object, "spec", one_source);
        }
    },
    validate: |object| {
        let mut faults = Faults::new();
        claim_spec(&mut faults, &Path::new("spec"), &object["spec"]);
        faults
    },
    validate_change: change,
    validate_status: status,
    warn: |object, _| {
        let mut texts = Warnings::new();
        annotation_warning(&mut texts, object);
        for list in ["requests", "limits"] {
            let amount = quantity(&object["spec"]["resources"][list]["storage"]);
            if let Some(amount) = amount.filter(|q| q.nanos() % 1_000_000_000 != 0) {
                let at = Path::new("spec").child("resources").child(list).key("storage");
                texts
                    .push(format!("{at}: fractional byte value \"{amount}\" is invalid, must be an integer"));
            }
        }
        texts
    },
    ..PLAIN
};

/// The older and the newer name of where the content comes from say the same. The older takes only
/// claims and snapshots; other namespaces are not allowed yet.
fn one_source(spec: &mut Value) {
    with(spec, "dataSourceRef", |reference| remove(reference, "namespace"));
    let known = matches!(
        (text(&spec["dataSource"]["apiGroup"]), text(&spec["dataSource"]["kind"])),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !known {
        remove(spec, "dataSource");
    }
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    match (set(&source), set(&reference)) {
        (true, false) => put(spec, "dataSourceRef", source),
        (false, true) => put(spec, "dataSource", reference),
        _ => {}
    }
}

pub fn claim_spec(faults: &mut Faults, path: &Path, spec: &Value) {
    let modes = path.child("accessModes");
    if items(&spec["accessModes"]).is_empty() {
        faults.push(Error::required(&modes, "at least 1 access mode is required"));
    }
    check::label_selector(faults, &path.child("selector"), &spec["selector"]);
    access_modes(faults, &modes, &spec["accessModes"]);
    storage_request(faults, &path.child("resources").key("storage"), spec);
    if !text(&spec["storageClassName"]).is_empty() {
        class_name(faults, &path.child("storageClassName"), &spec["storageClassName"]);
    }
    check::optional_one_of(faults, &path.child("volumeMode"), &spec["volumeMode"], &VOLUME_MODES);
    for key in ["dataSource", "dataSourceRef"] {
        if set(&spec[key]) {
            source(faults, &path.child(key), &spec[key]);
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if set(source) && set(reference) && !same(source, reference) {
        let shown = path.child("dataSource").to_string();
        faults.push(Error::invalid(path, shown, "must match dataSourceRef"));
    }
    if !text(&spec["volumeAttributesClassName"]).is_empty() {
        class_name(faults, &path.child("volumeAttributesClassName"), &spec["volumeAttributesClassName"]);
    }
}

fn storage_request(faults: &mut Faults, path: &Path, spec: &Value) {
    let requested = &spec["resources"]["requests"]["storage"];
    match quantity(requested) {
        None if !set(requested) => faults.push(Error::required(path, "")),
        Some(q) if q.is_negative() || q.is_zero() => {
            faults.push(Error::invalid(path, q.to_string(), NOT_POSITIVE));
        }
        _ => amount(faults, path, "storage", requested),
    }
}

fn source(faults: &mut Faults, path: &Path, source: &Value) {
    for key in ["name", "kind"] {
        check::required(faults, &path.child(key), &source[key]);
    }
    let (group, kind) = (text(&source["apiGroup"]), text(&source["kind"]));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        faults.push(Error::invalid(path, kind, detail));
    }
    if !group.is_empty() {
        invalid_each(faults, &path.child("apiGroup"), group, check::dns1123_subdomain(group));
    }
}

fn change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let before = &old["spec"];
    let mut munged = new["spec"].clone();
    // The binder names the volume once.
    if text(&before["volumeName"]).is_empty() {
        copy(&mut munged, "volumeName", before);
    }
    class_change(&mut faults, &mut munged, new, old);
    if text(at(new, &["status", "phase"])) == "Bound" {
        let requested = before["resources"]["requests"]["storage"].clone();
        within(&mut munged, "resources", |r| within(r, "requests", |r| put(r, "storage", requested)));
        copy(&mut munged, "volumeAttributesClassName", before);
    }
    if !same(&munged, before) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        faults.push(Error::forbidden(&path, detail));
    }
    shrinking(&mut faults, &path.child("resources").child("requests").child("storage"), new, old);
    let mode = |object: &Value| object["spec"]["volumeMode"].clone();
    check::immutable(&mut faults, &Path::new("volumeMode"), &mode(new), &mode(old));
    let (now, then) = (&new["spec"]["volumeAttributesClassName"], &before["volumeAttributesClassName"]);
    let at = path.child("volumeAttributesClassName");
    if !same(then, now) && set(&old["status"]["currentVolumeAttributesClassName"]) && text(now).is_empty() {
        let what = if set(now) { "empty string" } else { "nil" };
        let detail =
            format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil");
        faults.push(Error::forbidden(&at, detail));
    }
    faults
}

/// The class may arrive late, as a default does, or move from the annotation to the field.
fn class_change(faults: &mut Faults, munged: &mut Value, new: &Value, old: &Value) {
    let annotation = |object: &Value| object["metadata"]["annotations"][CLASS_ANNOTATION].clone();
    let class = |object: &Value| object["spec"]["storageClassName"].clone();
    let (annotated, named) = (annotation(old), class(old));
    let moved = set(&annotated)
        && !set(&named)
        && class(new) == annotated
        && (!set(&annotation(new)) || annotation(new) == annotated);
    if moved {
        remove(munged, "storageClassName");
        return;
    }
    let wanted = annotation(new);
    if text(&wanted) != text(&annotated) {
        let at = Path::new("metadata").child("annotations").child(CLASS_ANNOTATION);
        faults.push(Error::invalid(&at, text(&wanted), check::IMMUTABLE));
    }
    let wanted = class(new);
    if !set(&named) && set(&wanted) && (!set(&annotated) || wanted == annotated) {
        remove(munged, "storageClassName");
    }
}

fn shrinking(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    let size = |object: &Value| quantity(&object["spec"]["resources"]["requests"]["storage"]);
    let capacity = quantity(&old["status"]["capacity"]["storage"]).unwrap_or_default();
    if let (Some(now), Some(then)) = (size(new), size(old))
        && now < then
        && now <= capacity
    {
        faults.push(Error::forbidden(path, "field can not be less than status.capacity"));
    }
}

const RESIZE_STATES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

fn status(new: &Value, _: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    let status = &new["status"];
    let capacity = path.child("capacity");
    for (name, value) in crate::json::fields(&status["capacity"]) {
        basic(&mut faults, &capacity.key(name), value);
    }
    let states = path.child("allocatedResourceStatuses");
    for (name, state) in crate::json::fields(&status["allocatedResourceStatuses"]) {
        storage_name(&mut faults, &states, name);
        if !RESIZE_STATES.contains(&text(state)) {
            faults.push(Error::not_supported(&states, name, &RESIZE_STATES));
        }
    }
    let allocated = path.child("allocatedResources");
    for (name, value) in crate::json::fields(&status["allocatedResources"]) {
        if storage_name(&mut faults, &allocated, name) {
            basic(&mut faults, &allocated.key(name), value);
        }
    }
    faults
}

/// Of the resources Kubernetes itself knows a claim has only storage.
fn storage_name(faults: &mut Faults, path: &Path, name: &str) -> bool {
    let before = faults.len();
    invalid_each(faults, path, name, check::qualified_name(name));
    if faults.len() == before && is_native(name) && name != "storage" {
        faults.push(Error::not_supported(path, name, &["storage"]));
    }
    faults.len() == before
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge, patched, stored, warned};
    use serde_json::{Value, json};

    use super::CLASS_ANNOTATION;

    fn claim(patch: Value) -> Value {
        let base = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        merge(base, json!({"spec": patch}))
    }

    #[test]
    fn faults() {
        for (patch, expected) in [
            (json!({}), vec![]),
            (
                json!({"accessModes": [], "resources": null}),
                vec![
                    "spec.accessModes: Required value: at least 1 access mode is required",
                    "spec.resources[storage]: Required value",
                ],
            ),
            (
                json!({"accessModes": ["ReadWriteOncePod", "ReadOnlyMany", "X"], "resources": {"requests": {"storage": "0"}}}),
                vec![
                    "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                    "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                    "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
                ],
            ),
            (
                json!({"volumeMode": "X", "dataSource": {"kind": "PersistentVolumeClaim"}, "dataSourceRef": {"kind": "B", "name": "b"}}),
                vec![
                    "spec.volumeMode: Unsupported value: \"X\": supported values: \"Block\", \"Filesystem\"",
                    "spec.dataSource.name: Required value",
                    "spec.dataSourceRef: Invalid value: \"B\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                    "spec: Invalid value: \"spec.dataSource\": must match dataSourceRef",
                ],
            ),
        ] {
            assert_eq!(created("", "persistentvolumeclaims", claim(patch.clone())), expected, "{patch}");
        }
        let copy = stored(
            "",
            "persistentvolumeclaims",
            claim(json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}})),
        );
        assert_eq!(copy["spec"]["dataSourceRef"], copy["spec"]["dataSource"]);
    }

    #[test]
    fn changes() {
        let fixed = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}, "spec": {"volumeName": "v"}});
        let pending = stored("", "persistentvolumeclaims", claim(json!({})));
        let bound = merge(pending.clone(), bound);
        let applied = json!({"spec": {"volumeAttributesClassName": "fast"}, "status": {"currentVolumeAttributesClassName": "fast"}});
        let applied = merge(bound.clone(), applied);
        let applied_once = |what: &str| {
            format!(
                "spec.volumeAttributesClassName: Forbidden: update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
            )
        };
        let annotated =
            merge(pending.clone(), json!({"metadata": {"annotations": {CLASS_ANNOTATION: "slow"}}}));
        let larger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let smaller = json!({"spec": {"resources": {"requests": {"storage": "1Mi"}}}});
        for (old, patch, expected) in [
            (&pending, json!({"spec": {"volumeName": "v", "storageClassName": "late"}}), vec![]),
            (&pending, larger.clone(), vec![fixed]),
            (&bound, larger, vec![]),
            (
                &bound,
                smaller,
                vec![
                    "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity",
                ],
            ),
            (&bound, json!({"spec": {"volumeName": "w"}}), vec![fixed]),
            (&bound, json!({"spec": {"volumeAttributesClassName": "fast"}}), vec![]),
            (
                &merge(bound.clone(), json!({"spec": {"volumeAttributesClassName": "fast"}})),
                json!({"spec": {"volumeAttributesClassName": null}}),
                vec![],
            ),
            (&applied, json!({"spec": {"volumeAttributesClassName": null}}), vec![&*applied_once("nil")]),
            (
                &applied,
                json!({"spec": {"volumeAttributesClassName": ""}}),
                vec![&*applied_once("empty string")],
            ),
            (&pending, json!({"spec": {"volumeAttributesClassName": "fast"}}), vec![fixed]),
            (
                &annotated,
                json!({"metadata": {"annotations": {CLASS_ANNOTATION: null}}}),
                vec![
                    "metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: \"\": field is immutable",
                ],
            ),
            (
                &bound,
                json!({"spec": {"volumeMode": "Block"}}),
                vec![fixed, "volumeMode: Invalid value: \"Block\": field is immutable"],
            ),
        ] {
            assert_eq!(patched("", "persistentvolumeclaims", "", old, patch.clone()).1, expected, "{patch}");
        }
    }

    #[test]
    fn hints() {
        let odd = merge(
            claim(json!({"resources": {"requests": {"storage": "100m"}}})),
            json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "a"}}}),
        );
        assert_eq!(
            warned("", "persistentvolumeclaims", odd),
            [
                "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead",
                "spec.resources.requests[storage]: fractional byte value \"100m\" is invalid, must be an integer",
            ]
        );
    }

    #[test]
    fn statuses() {
        let old = stored("", "persistentvolumeclaims", claim(json!({})));
        let status = json!({"status": {"capacity": {"storage": "-1"},
            "allocatedResourceStatuses": {"cpu": "NodeResizePending", "storage": "X"},
            "allocatedResources": {"memory": "1", "storage": "-1"}}});
        let states = "\"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"";
        assert_eq!(
            patched("", "persistentvolumeclaims", "status", &old, status).1,
            [
                "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                "status.allocatedResourceStatuses: Unsupported value: \"cpu\": supported values: \"storage\"",
                &format!(
                    "status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: {states}"
                ),
                "status.allocatedResources: Unsupported value: \"memory\": supported values: \"storage\"",
                "status.allocatedResources[storage]: Invalid value: -1: must be a valid resource quantity",
            ]
        );
    }
}
