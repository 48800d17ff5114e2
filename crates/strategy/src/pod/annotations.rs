//! Annotations that say something about a pod: some are older names of fields and must agree with
//! them, some may not change.

use amphipod_api::field::{Error, Path, go_quote};
use serde_json::{Value, json};

use super::{MIRROR_ANNOTATION, security};
use crate::check::{self, Faults};
use crate::json::{fields, items, set, text, within};

const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
pub const COST_TEXT: &str = "must be a 32bit integer";
const LOCALHOST: &str = "localhost/";

/// The annotations of a pod or template at `path`.
pub fn check(faults: &mut Faults, path: &Path, metadata: &Value, spec: &Value) {
    let annotations = &metadata["annotations"];
    if set(&annotations[MIRROR_ANNOTATION]) && text(&spec["nodeName"]).is_empty() {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        faults.push(Error::invalid(
            &path.key(MIRROR_ANNOTATION),
            annotations[MIRROR_ANNOTATION].clone(),
            detail,
        ));
    }
    let tolerations = text(&annotations[TOLERATIONS]);
    if !tolerations.is_empty() {
        match serde_json::from_str(tolerations) {
            Ok(list) => super::scheduling::tolerations(faults, &path.child(TOLERATIONS), &list),
            Err(error) => faults.push(Error::invalid(path, TOLERATIONS, error.to_string())),
        }
    }
    let cost = &annotations[DELETION_COST];
    if set(cost) && !is_plain_int32(text(cost)) {
        faults.push(Error::invalid(&path.key(DELETION_COST), text(cost), COST_TEXT));
    }
    seccomp(faults, path, annotations);
    apparmor(faults, path, annotations, spec);
}

/// No plus sign, no leading zeros.
fn is_plain_int32(value: &str) -> bool {
    let shaped = value == "0" || value.starts_with('-') || value.starts_with(|c| ('1'..='9').contains(&c));
    shaped && value.parse::<i32>().is_ok()
}

fn seccomp(faults: &mut Faults, path: &Path, annotations: &Value) {
    for (key, value) in fields(annotations) {
        if key != SECCOMP_POD && !key.starts_with(SECCOMP_CONTAINER) {
            continue;
        }
        let (at, profile) = (path.child(key), text(value));
        match profile.strip_prefix(LOCALHOST) {
            Some(file) => check::local_descending_path(faults, &at, file),
            None if ["runtime/default", "docker/default", "unconfined"].contains(&profile) => {}
            None => faults.push(Error::invalid(&at, profile, "must be a valid seccomp profile")),
        }
    }
}

fn apparmor(faults: &mut Faults, path: &Path, annotations: &Value, spec: &Value) {
    for (key, value) in fields(annotations) {
        let Some(container) = key.strip_prefix(APPARMOR) else { continue };
        let (at, profile) = (path.key(key), text(value));
        if !container_names(spec).contains(&container) {
            faults.push(Error::invalid(&at, container, "container not found"));
        }
        let known = ["", "runtime/default", "unconfined"].contains(&profile);
        if !known && !profile.starts_with(LOCALHOST) {
            let detail = format!("invalid AppArmor profile name: {}", go_quote(profile));
            faults.push(Error::invalid(&at, profile, detail));
        }
    }
}

/// What an update may not do to the annotations of a pod, and the check of what it leaves.
pub fn check_update(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    let (now, then) = (&new["metadata"]["annotations"], &old["metadata"]["annotations"]);
    for (key, _) in fields(then).filter(|(key, value)| now.get(*key) != Some(*value)) {
        if key.starts_with(APPARMOR) {
            faults.push(Error::forbidden(&path.key(key), "may not remove or update AppArmor annotations"));
        }
        if key == MIRROR_ANNOTATION {
            faults.push(Error::forbidden(&path.key(key), "may not remove or update mirror pod annotation"));
        }
    }
    for (key, _) in fields(now).filter(|(key, _)| then.get(*key).is_none()) {
        if key.starts_with(APPARMOR) {
            faults.push(Error::forbidden(&path.key(key), "may not add AppArmor annotations"));
        }
        if key == MIRROR_ANNOTATION {
            faults.push(Error::forbidden(&path.key(key), "may not add mirror pod annotation"));
        }
    }
    check(faults, path, &new["metadata"], &new["spec"]);
}

/// Profiles that are given both as annotation and as field must be the same ones.
pub fn agree_with_fields(faults: &mut Faults, path: &Path, metadata: &Value, spec: &Value) {
    let annotations = &metadata["annotations"];
    let of_pod = &spec["securityContext"];
    let seccomp_path = path.child("securityContext").child("seccompProfile");
    same_seccomp(faults, &seccomp_path, &annotations[SECCOMP_POD], &of_pod["seccompProfile"]);
    super::visit(spec, path, |container, at| {
        let annotation = &annotations[format!("{SECCOMP_CONTAINER}{}", text(&container["name"]))];
        let at = at.child("securityContext").child("seccompProfile");
        same_seccomp(faults, &at, annotation, &container["securityContext"]["seccompProfile"]);
    });
    if text(&spec["os"]["name"]) == "windows" {
        return;
    }
    super::visit(spec, path, |container, at| {
        let own = &container["securityContext"]["appArmorProfile"];
        let profile = if set(own) { own } else { &of_pod["appArmorProfile"] };
        let annotation = &annotations[format!("{APPARMOR}{}", text(&container["name"]))];
        let at = at.child("securityContext").child("appArmorProfile");
        same_profile(faults, &at, annotation, profile, ("apparmor", &["runtime/default"]));
    });
}

fn same_seccomp(faults: &mut Faults, path: &Path, annotation: &Value, profile: &Value) {
    same_profile(faults, path, annotation, profile, ("seccomp", &["runtime/default", "docker/default"]));
}

fn same_profile(
    faults: &mut Faults,
    path: &Path,
    annotation: &Value,
    profile: &Value,
    (noun, defaults): (&str, &[&str]),
) {
    if !set(annotation) || !set(profile) {
        return;
    }
    let annotation = text(annotation);
    let agrees = match text(&profile["type"]) {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => defaults.contains(&annotation),
        "Localhost" => annotation.starts_with(LOCALHOST),
        _ => true,
    };
    if !agrees {
        let detail = format!("{noun} type in annotation and field must match");
        faults.push(Error::forbidden(&path.child("type"), detail));
    } else if text(&profile["type"]) == "Localhost"
        && annotation.strip_prefix(LOCALHOST) != profile["localhostProfile"].as_str()
    {
        let detail = format!("{noun} profile in annotation and field must match");
        faults.push(Error::forbidden(&path.child("localhostProfile"), detail));
    }
}

/// Writes AppArmor annotations into the fields of containers that have none.
pub fn fill_apparmor(pod: &mut Value) {
    let annotations = pod["metadata"]["annotations"].clone();
    if text(&pod["spec"]["os"]["name"]) == "windows"
        || !fields(&annotations).any(|(k, _)| k.starts_with(APPARMOR))
    {
        return;
    }
    let of_pod = pod["spec"]["securityContext"]["appArmorProfile"].clone();
    for list in super::CONTAINER_LISTS {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let annotation = &annotations[format!("{APPARMOR}{}", text(&container["name"]))];
            if set(&container["securityContext"]["appArmorProfile"]) || !set(annotation) {
                continue;
            }
            let profile = match text(annotation) {
                "unconfined" => json!({"type": "Unconfined"}),
                "runtime/default" => json!({"type": "RuntimeDefault"}),
                other => match other.strip_prefix(LOCALHOST) {
                    Some(name) if !name.is_empty() => {
                        json!({"type": "Localhost", "localhostProfile": name})
                    }
                    _ => continue,
                },
            };
            if security::apparmor_fits(&profile) && profile != of_pod {
                within(container, "securityContext", |context| {
                    crate::json::put(context, "appArmorProfile", profile);
                });
            }
        }
    }
}

/// Whether the pod only mirrors what a kubelet runs from a file.
pub fn is_mirror(pod: &Value) -> bool {
    set(&pod["metadata"]["annotations"][MIRROR_ANNOTATION])
}

fn container_names(spec: &Value) -> Vec<&str> {
    super::CONTAINER_LISTS.iter().flat_map(|list| items(&spec[*list])).map(|c| text(&c["name"])).collect()
}
