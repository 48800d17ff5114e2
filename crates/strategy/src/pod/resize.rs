//! `resize`: other amounts of cpu and memory for a pod that is there already.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::annotations::is_mirror;
use super::resources::{is_sidecar, qos_class};
use crate::check::{Faults, forbidden_whole};
use crate::json::{copy, fields, is_empty, items, put, remove, same, set, text, within};

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Only resources and resize policies of the containers are taken from the request. Where it has
/// other containers than the pod, they stay as sent, for the check to tell of; false where that is all
/// there is to tell.
pub fn prepare(object: &mut Value, old: &Value) -> bool {
    let counts = |list: &str| items(&object["spec"][list]).len() == items(&old["spec"][list]).len();
    if !LISTS.into_iter().all(counts) {
        return false;
    }
    let mut spec = old["spec"].clone();
    for list in LISTS {
        let sent = items(&object["spec"][list]);
        if !same_names(sent, items(&old["spec"][list])) {
            put(&mut spec, list, sent.to_vec());
            continue;
        }
        let kept = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, wanted) in kept.zip(sent) {
            copy(container, "resources", wanted);
            copy(container, "resizePolicy", wanted);
        }
    }
    put(object, "spec", spec);
    true
}

fn same_names(new: &[Value], old: &[Value]) -> bool {
    new.iter().zip(old).all(|(now, then)| now["name"] == then["name"])
}

/// Containers are told apart by their places: these must be the same before anything else is judged.
fn misplaced(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    for list in LISTS {
        let path = Path::new("spec").child(list);
        let (now, then) = (items(&new["spec"][list]), items(&old["spec"][list]));
        if now.len() != then.len() {
            faults.push(Error::forbidden(&path, format!("{list} may not be added or removed on resize")));
            continue;
        }
        for (i, _) in now.iter().zip(then).enumerate().filter(|(_, (now, then))| now["name"] != then["name"])
        {
            let detail = format!("{list} may not be renamed or reordered on resize");
            faults.push(Error::forbidden(&path.index(i).child("name"), detail));
        }
    }
    faults
}

/// `found` is what the resized pod is guilty of in itself; some pods cannot be resized at all.
pub fn check(found: &mut Faults, new: &Value, old: &Value) {
    if let Some(refusal) = refusal(old) {
        *found = Faults::from(forbidden_whole(refusal));
        return;
    }
    let path = Path::new("spec");
    let class = match text(&old["status"]["qosClass"]) {
        "" => qos_class(&old["spec"]),
        class => class,
    };
    if class != qos_class(&new["spec"]) {
        let shown = text(&new["status"]["qosClass"]);
        found.push(Error::invalid(&path, shown, "Pod QOS Class may not change as a result of resizing"));
    }
    let running =
        items(&old["status"]["containerStatuses"]).iter().find(|status| set(&status["state"]["running"]));
    if running.is_some_and(|status| !set(&status["resources"])) {
        found.push(Error::forbidden(&path, "Pod running on node without support for resize"));
    }
    let whole =
        |pod: &Value| ["requests", "limits"].iter().any(|kind| !is_empty(&pod["spec"]["resources"][*kind]));
    if whole(old) || whole(new) {
        let detail = "resize of pods with pod-level resources is forbidden when InPlacePodLevelResourcesVerticalScalingEnabled feature gate is disabled";
        found.push(forbidden_whole(detail));
        return;
    }
    let misplaced = misplaced(new, old);
    if !misplaced.is_empty() {
        found.extend(misplaced);
        return;
    }
    for list in ["initContainers", "containers"] {
        for (i, (now, then)) in pairs(new, old, list).enumerate() {
            if list == "containers" || is_sidecar(then) {
                nothing_removed(found, &path.child(list).index(i).child("resources"), now, then);
            }
        }
    }
    for (now, then) in pairs(new, old, "containers") {
        if !same(&without_change(now, then), then) {
            found.push(Error::forbidden(&path, "only cpu and memory resources are mutable"));
        }
    }
    for (now, then) in pairs(new, old, "initContainers") {
        let detail = if !is_sidecar(now) {
            "resources for non-sidecar init containers are immutable"
        } else {
            "only cpu and memory resources for sidecar containers are mutable"
        };
        let kept = if is_sidecar(now) { without_change(now, then) } else { now.clone() };
        if !same(&kept, then) {
            found.push(Error::forbidden(&path, detail));
        }
    }
}

fn refusal(old: &Value) -> Option<&'static str> {
    if is_mirror(old) {
        Some("static pods cannot be resized")
    } else if text(&old["spec"]["os"]["name"]) == "windows" {
        Some("windows pods cannot be resized")
    } else {
        None
    }
}

fn pairs<'a>(new: &'a Value, old: &'a Value, list: &str) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    items(&new["spec"][list]).iter().zip(items(&old["spec"][list]))
}

fn nothing_removed(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    for (kind, noun) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let now = &new["resources"][kind];
        if fields(&old["resources"][kind]).any(|(name, _)| !set(&now[name])) {
            faults.push(Error::forbidden(&path.child(kind), format!("{noun} cannot be removed")));
        }
    }
}

/// The container with the old amounts of what may change. A container with devices has nothing that
/// may: Kubernetes compares it without its claims.
fn without_change(new: &Value, old: &Value) -> Value {
    let mut container = new.clone();
    within(&mut container, "resources", |resources| {
        if !is_empty(&old["resources"]["claims"]) {
            remove(resources, "claims");
        }
        for kind in ["limits", "requests"] {
            within(resources, kind, |amounts| {
                for name in ["cpu", "memory"] {
                    copy(amounts, name, &old["resources"][kind]);
                }
            });
            if is_empty(&resources[kind]) {
                remove(resources, kind);
            }
        }
    });
    container
}
