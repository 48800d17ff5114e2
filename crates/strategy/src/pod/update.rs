//! What may change on a pod once it exists: next to nothing through the pod itself, and one thing
//! each through its subresources.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use super::resources::{qos_class, quantity};
use super::scheduling;
use crate::check::{self, Faults};
use crate::json::{fields, int, items, put, remove, same, set, text};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// Differences shown in one refusal; more would hide the first.
const MAX_SHOWN_DIFFERENCES: usize = 20;

pub fn spec_change(faults: &mut Faults, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        let (now, then) = (items(&spec[list]), items(&before[list]));
        if now.len() != then.len() {
            faults.push(Error::forbidden(&path.child(list), "pod updates may not add or remove containers"));
            return;
        }
    }
    if !deadline(faults, &path.child("activeDeadlineSeconds"), spec, before) {
        return;
    }
    only_added_tolerations(faults, &path.child("tolerations"), spec, before);
    only_removed_gates(faults, &path.child("schedulingGates"), spec, before);
    if same(spec, before) {
        return;
    }
    let mut munged = spec.clone();
    for list in ["containers", "initContainers"] {
        take_field(&mut munged, before, list, "image");
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        crate::json::copy(&mut munged, key, before);
    }
    let grace = "terminationGracePeriodSeconds";
    if int(&before[grace]).is_some_and(|s| s < 0) && int(&spec[grace]) == Some(1) {
        crate::json::copy(&mut munged, grace, before);
    }
    if !items(&before["schedulingGates"]).is_empty() {
        gated(faults, &path, &mut munged, before);
    }
    if !same(&munged, before) {
        let mut shown = Vec::new();
        differences(&mut shown, "", &munged, before);
        let text = format!("pod updates may not change fields other than {UPDATABLE}\n{}", shown.join("\n"));
        faults.push(Error::forbidden(&path, text));
    }
}

/// Sets the field of each list item to what the old item with the same place had.
fn take_field(spec: &mut Value, old: &Value, list: &str, key: &str) {
    for (i, item) in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        crate::json::copy(item, key, &old[list][i]);
    }
}

/// A gated pod may still narrow the nodes it can go to.
fn gated(faults: &mut Faults, path: &Path, munged: &mut Value, old: &Value) {
    let kept = fields(&old["nodeSelector"]).all(|(key, value)| munged["nodeSelector"][key] == *value);
    if !kept {
        let text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        let value = munged["nodeSelector"].clone();
        faults.push(Error::invalid(&path.child("nodeSelector"), value, text));
    }
    crate::json::copy(munged, "nodeSelector", old);
    let affinity = old["affinity"]["nodeAffinity"].clone();
    if set(&munged["affinity"]) || set(&affinity) {
        crate::json::within(munged, "affinity", |own| put(own, "nodeAffinity", affinity));
    }
}

fn deadline(faults: &mut Faults, path: &Path, spec: &Value, old: &Value) -> bool {
    let (now, then) = (int(&spec["activeDeadlineSeconds"]), int(&old["activeDeadlineSeconds"]));
    match (now, then) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            faults.push(Error::invalid(path, now, inclusive_range_text(0, i64::from(i32::MAX))));
            false
        }
        (Some(now), Some(then)) if then < now => {
            faults.push(Error::invalid(path, now, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let text = "must not update from a positive integer to nil value";
            faults.push(Error::invalid(path, Value::Null, text));
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(faults: &mut Faults, path: &Path, spec: &Value, old: &Value) {
    let without_seconds = |toleration: &Value| {
        let mut plain = toleration.clone();
        remove(&mut plain, "tolerationSeconds");
        plain
    };
    let now: Vec<Value> = items(&spec["tolerations"]).iter().map(without_seconds).collect();
    if items(&old["tolerations"]).iter().map(without_seconds).any(|t| !now.iter().any(|n| same(n, &t))) {
        let text = "existing toleration can not be modified except its tolerationSeconds";
        faults.push(Error::forbidden(path, text));
        return;
    }
    scheduling::tolerations(faults, path, &spec["tolerations"]);
}

fn only_removed_gates(faults: &mut Faults, path: &Path, spec: &Value, old: &Value) {
    for (i, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        if !items(&old["schedulingGates"]).iter().any(|o| o["name"] == gate["name"]) {
            let text =
                format!("only deletion is allowed, but found new scheduling gate '{}'", text(&gate["name"]));
            faults.push(Error::forbidden(&path.index(i).child("name"), text));
        }
    }
}

/// One line per differing leaf, so that the user sees what was refused.
fn differences(shown: &mut Vec<String>, path: &str, new: &Value, old: &Value) {
    if shown.len() >= MAX_SHOWN_DIFFERENCES || same(new, old) {
        return;
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let extra = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(extra) {
                differences(shown, &format!("{path}.{key}"), &new[key], &old[key]);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for i in 0..a.len() {
                differences(shown, &format!("{path}[{i}]"), &a[i], &b[i]);
            }
        }
        _ => shown.push(format!("  {path}: -{old} +{new}")),
    }
}

pub fn status_change(faults: &mut Faults, new: &Value, old: &Value) {
    let path = Path::new("status");
    let (status, before) = (&new["status"], &old["status"]);
    for (i, condition) in items(&status["conditions"]).iter().enumerate() {
        let kind = text(&condition["type"]);
        let at = Path::new("metadata").child("conditions").index(i).child("Type");
        check::invalid_each(faults, &at, kind, check::qualified_name(kind));
    }
    let nominated = text(&status["nominatedNodeName"]);
    if !nominated.is_empty() && nominated != text(&before["nominatedNodeName"]) {
        let at = path.child("nominatedNodeName");
        check::invalid_each(faults, &at, nominated, check::dns1123_subdomain(nominated));
    }
    if text(&status["qosClass"]) != text(&before["qosClass"]) {
        let value = text(&status["qosClass"]);
        faults.push(Error::invalid(&path.child("qosClass"), value, check::IMMUTABLE));
    }
    let restart = text(&old["spec"]["restartPolicy"]);
    for (list, policy) in [
        ("containerStatuses", restart),
        ("initContainerStatuses", restart),
        ("ephemeralContainerStatuses", "Never"),
    ] {
        transitions(faults, &path.child(list), &status[list], &before[list], policy, &old["spec"]);
    }
    for list in ["podIPs", "hostIPs"] {
        for (i, ip) in items(&status[list]).iter().enumerate() {
            check::ip(faults, &path.child(list).index(i), text(&ip["ip"]));
        }
    }
}

/// A container that ended for good cannot run again.
fn transitions(faults: &mut Faults, path: &Path, new: &Value, old: &Value, restart: &str, spec: &Value) {
    if restart == "Always" {
        return;
    }
    for (i, status) in items(old).iter().enumerate() {
        let ended = &status["state"]["terminated"];
        let failed = int(&ended["exitCode"]).unwrap_or(0) != 0;
        if !set(ended) || (failed && restart == "OnFailure") || restarts_itself(spec, text(&status["name"])) {
            continue;
        }
        let revived =
            items(new).iter().any(|n| n["name"] == status["name"] && !set(&n["state"]["terminated"]));
        if revived {
            let text = "may not be transitioned to non-terminated state";
            faults.push(Error::forbidden(&path.index(i).child("state"), text));
        }
    }
}

/// A container with its own restart policy or rules is not bound by the pod's.
fn restarts_itself(spec: &Value, name: &str) -> bool {
    ["initContainers", "containers"].iter().flat_map(|list| items(&spec[*list])).any(|container| {
        text(&container["name"]) == name
            && (["Always", "OnFailure"].contains(&text(&container["restartPolicy"]))
                || !items(&container["restartPolicyRules"]).is_empty())
    })
}

pub fn ephemeral_change(faults: &mut Faults, new: &Value, old: &Value) {
    let path = Path::new("spec").child("ephemeralContainers");
    if crate::json::fields(&old["metadata"]["annotations"]).any(|(key, _)| key == super::MIRROR_ANNOTATION) {
        faults.push(Error::forbidden(&Path::default(), "static pods do not support ephemeral containers"));
        return;
    }
    let now = items(&new["spec"]["ephemeralContainers"]);
    for container in items(&old["spec"]["ephemeralContainers"]) {
        let name = text(&container["name"]);
        match now.iter().find(|n| n["name"] == container["name"]) {
            None => faults.push(Error::forbidden(
                &path,
                format!("existing ephemeral containers \"{name}\" may not be removed\n"),
            )),
            Some(n) if !same(n, container) => {
                let mut shown = Vec::new();
                differences(&mut shown, "", n, container);
                let shown = shown.join("\n");
                let text = format!("existing ephemeral containers \"{name}\" may not be changed\n{shown}");
                faults.push(Error::forbidden(&path, text));
            }
            Some(_) => {}
        }
    }
}

pub fn resize(faults: &mut Faults, new: &Value, old: &Value) {
    let path = Path::new("spec");
    if crate::json::fields(&old["metadata"]["annotations"]).any(|(key, _)| key == super::MIRROR_ANNOTATION) {
        faults.push(Error::forbidden(&Path::default(), "static pods cannot be resized"));
        return;
    }
    if text(&old["status"]["qosClass"]) != qos_class(&new["spec"]) {
        let class = text(&old["status"]["qosClass"]);
        faults.push(Error::invalid(&path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    for (i, (now, then)) in
        items(&new["spec"]["containers"]).iter().zip(items(&old["spec"]["containers"])).enumerate()
    {
        let at = path.child("containers").index(i).child("resources");
        container_resize(faults, &at, now, then);
    }
    let mut munged = new["spec"].clone();
    let lists = ["containers", "initContainers"];
    lists.iter().for_each(|list| {
        let olds = &old["spec"][*list];
        for (i, item) in munged.get_mut(*list).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
        {
            if *list == "containers" || text(&item["restartPolicy"]) == "Always" {
                for kind in ["limits", "requests"] {
                    let before = olds[i]["resources"][kind].clone();
                    crate::json::within(item, "resources", |r| {
                        crate::json::within(r, kind, |amounts| {
                            ["cpu", "memory"]
                                .iter()
                                .for_each(|name| crate::json::copy(amounts, name, &before));
                        });
                    });
                }
            }
        }
    });
    if !same(&munged, &old["spec"]) {
        faults.push(Error::forbidden(&path, "only cpu and memory resources are mutable"));
    }
}

fn container_resize(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    for (kind, noun) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let now = &new["resources"][kind];
        if fields(&old["resources"][kind]).any(|(name, _)| !set(&now[name])) {
            faults.push(Error::forbidden(&path.child(kind), format!("{noun} cannot be removed")));
        }
    }
    let policy = items(&new["resizePolicy"]).iter().find(|p| text(&p["resourceName"]) == "memory");
    let restarts = policy.is_some_and(|p| text(&p["restartPolicy"]) == "RestartContainer");
    let limit = |c: &Value| quantity(&c["resources"]["limits"]["memory"]);
    if !restarts && limit(old).is_none() && limit(new).is_some() {
        let text = "memory limits cannot be added unless resizePolicy is RestartContainer";
        faults.push(Error::forbidden(&path.child("limits").key("memory"), text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "c", "image": "a"}], "nodeName": "n"}})
    }

    #[test]
    fn only_images_change() {
        let mut faults = Faults::new();
        let mut new = pod();
        new["spec"]["containers"][0]["image"] = "b".into();
        spec_change(&mut faults, &new, &pod());
        assert!(faults.is_empty());
        new["spec"]["containers"][0]["command"] = json!(["x"]);
        spec_change(&mut faults, &new, &pod());
        let text = faults[0].to_string();
        assert!(text.starts_with(
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
        ));
        assert!(text.contains(".containers[0].command"));
    }

    #[test]
    fn tolerations_only_grow() {
        let mut old = pod();
        old["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists", "effect": "NoExecute"}]);
        let mut new = old.clone();
        new["spec"]["tolerations"][0]["tolerationSeconds"] = 5.into();
        let mut faults = Faults::new();
        spec_change(&mut faults, &new, &old);
        assert!(faults.is_empty());
        spec_change(&mut faults, &pod(), &old);
        assert_eq!(
            faults[0].to_string(),
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
        );
    }
}
