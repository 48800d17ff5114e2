//! What may change on a pod once it exists: next to nothing through the pod itself, and one thing
//! each through its subresources.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use super::scheduling;
use crate::check::{self, Faults};
use crate::json::{fields, int, items, put, same, set, text};

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
    let at = path.child("affinity").child("nodeAffinity");
    narrowed(faults, &at, &munged["affinity"]["nodeAffinity"], &affinity);
    if set(&munged["affinity"]) || set(&affinity) {
        crate::json::within(munged, "affinity", |own| put(own, "nodeAffinity", affinity));
    }
}

/// Terms that were there stay, each with what it demanded and perhaps more.
fn narrowed(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let (now, then) =
        (items(&new[REQUIRED]["nodeSelectorTerms"]), items(&old[REQUIRED]["nodeSelectorTerms"]));
    let at = path.child(REQUIRED).child("nodeSelectorTerms");
    if !then.is_empty() && now.len() != then.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        faults.push(Error::invalid(&at, now.to_vec(), detail));
        return;
    }
    for (i, (term, before)) in now.iter().zip(then).enumerate() {
        let lists = ["matchExpressions", "matchFields"];
        let empty = |term: &Value| lists.iter().all(|list| items(&term[*list]).is_empty());
        let grown = lists.iter().all(|list| {
            let (now, then) = (items(&term[*list]), items(&before[*list]));
            now.len() >= then.len() && now.iter().zip(then).all(|(n, t)| same(n, t))
        });
        if !grown || (empty(before) && !empty(term)) {
            let detail = "only additions are allowed (no mutations or deletions)";
            faults.push(Error::invalid(&at.index(i), term.clone(), detail));
        }
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
    let now: HashSet<_> = items(&spec["tolerations"]).iter().map(scheduling::toleration_kind).collect();
    if items(&old["tolerations"]).iter().any(|before| !now.contains(&scheduling::toleration_kind(before))) {
        let text = "existing toleration can not be modified except its tolerationSeconds";
        faults.push(Error::forbidden(path, text));
        return;
    }
    scheduling::tolerations(faults, path, &spec["tolerations"]);
}

fn only_removed_gates(faults: &mut Faults, path: &Path, spec: &Value, old: &Value) {
    let before: HashSet<&str> =
        items(&old["schedulingGates"]).iter().map(|gate| text(&gate["name"])).collect();
    for (i, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        if !before.contains(text(&gate["name"])) {
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

/// `found` is what the changed pod is guilty of in itself.
pub fn ephemeral_change(found: &mut Faults, new: &Value, old: &Value) {
    if super::annotations::is_mirror(old) {
        *found = Faults::from(check::forbidden_whole("static pods do not support ephemeral containers"));
        return;
    }
    let path = Path::new("spec").child("ephemeralContainers");
    let now = items(&new["spec"]["ephemeralContainers"]);
    for container in items(&old["spec"]["ephemeralContainers"]) {
        let name = text(&container["name"]);
        match now.iter().find(|n| n["name"] == container["name"]) {
            None => found.push(Error::forbidden(
                &path,
                format!("existing ephemeral containers \"{name}\" may not be removed\n"),
            )),
            Some(n) if !same(n, container) => {
                let mut shown = Vec::new();
                differences(&mut shown, "", n, container);
                let shown = shown.join("\n");
                let text = format!("existing ephemeral containers \"{name}\" may not be changed\n{shown}");
                found.push(Error::forbidden(&path, text));
            }
            Some(_) => {}
        }
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
