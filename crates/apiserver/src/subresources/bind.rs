//! `binding`: gives a pod its node, once.

use amphipod_api::field::{Error as FieldError, Path};
use amphipod_api::object::{self, child_mut, metadata_mut};
use amphipod_api::status::Status;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::Body;
use crate::context::Context;
use crate::registry::sketch::{Sketch, Wanted};
use crate::registry::{
    Lost, admit, existing, object_key, precondition_failed, put_sketch, validate_admission, view,
};
use crate::seams::Operation;
use crate::server::ApiServer;

/// What of a pod is looked at and changed: little of it, and pods are bound in masses.
const LOOKED_AT: Wanted<'_> = &[
    (
        "metadata",
        Some(&["name", "uid", "resourceVersion", "generation", "deletionTimestamp", "annotations", "labels"]),
    ),
    ("spec", Some(&["nodeName", "schedulingGates"])),
    ("status", None),
];
/// How often a binding is tried again after someone else wrote the pod.
const ATTEMPTS: usize = 10;

pub async fn bind(
    server: &ApiServer,
    cx: &Context,
    name: &str,
    binding: Value,
) -> Result<Response<Body>, Status> {
    if object::name(&binding) != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let dry_run = cx.dry_run()?;
    let binding = admit(server, cx, Operation::Create, binding, None, dry_run).await?;
    check_target(&binding)?;
    let binding = validate_admission(server, cx, Operation::Create, binding, None, dry_run).await?;
    if name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let pods = server.catalog.load().stored("", "pods").ok_or_else(Status::no_such_path)?;
    let key = object_key(&pods, cx.namespace(), name);
    let mut stored = existing(server, &pods, &key).await?;
    for _ in 0..ATTEMPTS {
        let current = stored.take().ok_or_else(|| Status::not_found("", "pods", name))?;
        let (pod, rest) = Sketch::new(&current.text.contiguous(), LOOKED_AT)?;
        let pod = bound(&key, pod, &binding, &cx.now_text)?;
        if dry_run {
            return success(cx);
        }
        match put_sketch(server, &pods, &key, (&pod, &rest), current.revision).await {
            Ok(_) => return success(cx),
            Err(Lost::Failed(status)) => return Err(*status),
            Err(Lost::Race(now)) => stored = now,
        }
    }
    Err(Status::modified("", "pods", name))
}

fn success(cx: &Context) -> Result<Response<Body>, Status> {
    let mut status = Status::success();
    status.code = 201;
    let value = serde_json::to_value(status).map_err(Status::internal)?;
    view::value_response(cx, StatusCode::CREATED, &value)
}

/// Upstream has no answer of its own for a bad target: its faults are an error of the server's.
fn check_target(binding: &Value) -> Result<(), Status> {
    let target = Path::new("target");
    let kind = object::text(binding, "/target/kind");
    let mut faults = Vec::new();
    if !matches!(kind, "" | "Node") {
        let fault = FieldError::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
        faults.push(fault.to_string());
    }
    if object::text(binding, "/target/name").is_empty() {
        faults.push(FieldError::required(&target.child("name"), "").to_string());
    }
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(Status::failure(500, "", one)),
        several => Err(Status::failure(500, "", format!("[{}]", several.join(", ")))),
    }
}

/// The pod on its node; refuses pods that have one, are going or are held back.
fn bound(key: &str, mut pod: Value, binding: &Value, now: &str) -> Result<Value, Status> {
    let name = object::name(&pod).to_owned();
    let conflict = |why: String| Err(Status::conflict("", "pods/binding", &name, &why));
    let same = [
        ("UID", object::uid(binding), object::uid(&pod)),
        ("ResourceVersion", object::resource_version(binding), object::resource_version(&pod)),
    ];
    for (what, given, stored) in same {
        if !given.is_empty() && given != stored {
            let why = precondition_failed(key, what, given, stored);
            return Err(Status::conflict("", "pods", &name, &why));
        }
    }
    if object::deletion_timestamp(&pod).is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = object::text(&pod, "/spec/nodeName");
    if !node.is_empty() {
        return conflict(format!(
            "pod {name} is already assigned to node {}",
            amphipod_api::field::go_quote(node)
        ));
    }
    if object::at(&pod, "/spec/schedulingGates").and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    for key in ["annotations", "labels"] {
        for (name, value) in binding["metadata"][key].as_object().into_iter().flatten() {
            let metadata = metadata_mut(&mut pod);
            let map = metadata.entry(key).or_insert_with(|| json!({}));
            map[name.as_str()] = value.clone();
        }
    }
    let node = binding["target"]["name"].clone();
    child_mut(&mut pod, "spec").insert("nodeName".into(), node);
    // What was held for the pod elsewhere is not needed any more.
    child_mut(&mut pod, "status").remove("nominatedNodeName");
    set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}), now);
    Ok(pod)
}

/// Sets a pod condition; its transition time moves with its status only.
pub fn set_condition(pod: &mut Value, mut condition: Value, now: &str) {
    let generation = object::at(pod, "/metadata/generation").cloned();
    let list = child_mut(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    condition["lastProbeTime"] = Value::Null;
    condition["lastTransitionTime"] = now.into();
    if let Some(generation) = generation {
        condition["observedGeneration"] = generation;
    }
    put_condition(list, condition);
}

/// Puts a condition in the place of the one of its type, whose transition time it keeps where the
/// status is the same.
pub fn put_condition(conditions: &mut Value, mut condition: Value) {
    let Value::Array(list) = conditions else { return };
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(before) => {
            if before["status"] == condition["status"] {
                condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
            }
            *before = condition;
        }
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "generation": 1}, "spec": {}, "status": {"nominatedNodeName": "m"}});
        let binding = json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"name": "n"}});
        let bound_pod = bound("k", pod.clone(), &binding, "2026-01-01T00:00:00Z").expect("bound");
        assert_eq!(bound_pod["spec"]["nodeName"], "n");
        assert_eq!(bound_pod["status"]["conditions"][0]["status"], "True");
        assert!(bound_pod["status"].get("nominatedNodeName").is_none());
        let again = bound("k", bound_pod, &binding, "2026-01-01T00:00:00Z").expect_err("refused");
        assert_eq!(
            (again.code, again.message.as_str()),
            (
                409,
                "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
            )
        );
        let mut other = binding;
        other["metadata"]["uid"] = "x".into();
        assert_eq!(bound("k", pod, &other, "").map_err(|s| s.code).err(), Some(409));
    }
}
