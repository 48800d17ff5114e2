//! Nodes: a new one is tainted until it is ready, and a kubelet touches only what is its own.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use amphipod_api::node_labels::kubelet_may_set;
use amphipod_api::object;
use amphipod_api::status::Status;
use serde_json::{Map, Value, json};

use super::{audience, blank, creates, forbidden, items, read};
use crate::authz::node::node_of;
use crate::seams::{AdmissionRequest, Authorizer, Operation, Reader};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// TaintNodesByCondition
pub fn taint_new(request: &mut AdmissionRequest<'_>) {
    if !creates(request, "", "nodes") {
        return;
    }
    let spec = &request.object["spec"];
    let tainted = items(&spec["taints"]).iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule");
    if tainted {
        return;
    }
    let mut taints = items(&spec["taints"]).to_vec();
    taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    object::child_mut(&mut request.object, "spec").insert("taints".into(), taints.into());
}

/// NodeRestriction
pub async fn restrict(
    reader: &dyn Reader,
    authorizer: &dyn Authorizer,
    request: &AdmissionRequest<'_>,
) -> Result<(), Status> {
    let attributes = request.attributes;
    let Some(node) = node_of(&attributes.user) else { return Ok(()) };
    let place = (attributes.group.as_str(), attributes.resource.as_str(), attributes.subresource.as_str());
    match place {
        ("", "pods", "") => own_pod(reader, request, node).await,
        ("", "pods", "status" | "eviction") => status_or_eviction(reader, request, node).await,
        ("", "nodes", _) => own_node(request, node),
        ("", "serviceaccounts", "token") => own_token(reader, authorizer, request, node).await,
        ("coordination.k8s.io", "leases", "") => own_lease(request, node),
        ("storage.k8s.io", "csinodes", "") => {
            let same = named(request) == node;
            if same {
                Ok(())
            } else {
                Err(forbidden(request, "can only access CSINode with the same name as the requesting node"))
            }
        }
        _ => Ok(()),
    }
}

fn named<'a>(request: &'a AdmissionRequest<'_>) -> &'a str {
    let own = object::name(&request.object);
    if own.is_empty() { &request.attributes.name } else { own }
}

fn on_node(pod: &Value, node: &str) -> bool {
    object::text(pod, "/spec/nodeName") == node
}

async fn stored_pod<'a>(
    reader: &dyn Reader,
    request: &'a AdmissionRequest<'_>,
) -> Result<Option<Cow<'a, Value>>, Status> {
    if let Some(old) = request.old {
        return Ok(Some(Cow::Borrowed(old)));
    }
    let read = read(reader, "", "pods", &request.attributes.namespace, &request.attributes.name).await?;
    Ok(read.map(|pod| Cow::Owned(Arc::unwrap_or_clone(pod))))
}

async fn own_pod(reader: &dyn Reader, request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    let quoted = amphipod_api::field::go_quote(node);
    match request.operation {
        Operation::Create => {
            let pod = &request.object;
            if pod["metadata"]["annotations"].get(MIRROR_ANNOTATION).is_none() {
                return Err(forbidden(
                    request,
                    &format!(
                        "pod does not have {} annotation, node {quoted} can only create mirror pods",
                        amphipod_api::field::go_quote(MIRROR_ANNOTATION)
                    ),
                ));
            }
            if !on_node(pod, node) {
                return Err(forbidden(
                    request,
                    &format!("node {quoted} can only create pods with spec.nodeName set to itself"),
                ));
            }
            Ok(())
        }
        Operation::Delete => match stored_pod(reader, request).await? {
            Some(pod) if !on_node(&pod, node) => Err(forbidden(
                request,
                &format!("node {quoted} can only delete pods with spec.nodeName set to itself"),
            )),
            _ => Ok(()),
        },
        _ => Err(forbidden(
            request,
            &format!(
                "unexpected operation {:?}, node {quoted} can only create and delete mirror pods",
                request.operation.as_str()
            ),
        )),
    }
}

async fn status_or_eviction(
    reader: &dyn Reader,
    request: &AdmissionRequest<'_>,
    node: &str,
) -> Result<(), Status> {
    let quoted = amphipod_api::field::go_quote(node);
    let eviction = request.attributes.subresource == "eviction";
    match stored_pod(reader, request).await? {
        Some(pod) if !on_node(&pod, node) => {
            let what = if eviction { "evict pods" } else { "update pod status for pods" };
            Err(forbidden(
                request,
                &format!("node {quoted} can only {what} with spec.nodeName set to itself"),
            ))
        }
        Some(old) if !eviction && old["metadata"]["labels"] != request.object["metadata"]["labels"] => {
            Err(forbidden(request, &format!("node {quoted} cannot update labels through pod status")))
        }
        _ => Ok(()),
    }
}

fn own_node(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    let name = named(request);
    let (own, other) = (amphipod_api::field::go_quote(node), amphipod_api::field::go_quote(name));
    if name != node {
        return Err(forbidden(request, &format!("node {own} is not allowed to modify node {other}")));
    }
    let what = match request.operation {
        Operation::Create => "set the following labels",
        _ => "modify labels",
    };
    let keys = labels_of_others(request);
    if !keys.is_empty() {
        return Err(forbidden(request, &format!("is not allowed to {what}: {}", keys.join(", "))));
    }
    let update = request.operation == Operation::Update && request.attributes.subresource.is_empty();
    if let Some(old) = request.old.filter(|_| update) {
        if old["spec"]["taints"] != request.object["spec"]["taints"] {
            return Err(forbidden(request, &format!("node {own} is not allowed to modify taints")));
        }
        if old["metadata"]["ownerReferences"] != request.object["metadata"]["ownerReferences"] {
            return Err(forbidden(request, &format!("node {own} is not allowed to modify ownerReferences")));
        }
    }
    Ok(())
}

/// The labels that the request changes and a kubelet may not.
fn labels_of_others<'a>(request: &'a AdmissionRequest<'_>) -> Vec<&'a str> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Vec::new();
    }
    let (before, after) = (request.old.and_then(object::labels), object::labels(&request.object));
    let all: BTreeSet<&str> =
        before.into_iter().chain(after).flat_map(Map::keys).map(String::as_str).collect();
    let is_changed = |key: &&str| {
        let [old, new] = [before, after].map(|labels| labels.and_then(|labels| labels.get(*key)));
        old != new
    };
    all.into_iter().filter(is_changed).filter(|key| !kubelet_may_set(key)).collect()
}

async fn own_token(
    reader: &dyn Reader,
    authorizer: &dyn Authorizer,
    request: &AdmissionRequest<'_>,
    node: &str,
) -> Result<(), Status> {
    let reference = &request.object["spec"]["boundObjectRef"];
    if reference["kind"] != "Pod" || blank(&reference["name"]) {
        return Err(forbidden(request, "node requested token not bound to a pod"));
    }
    if blank(&reference["uid"]) {
        return Err(forbidden(request, "node requested token with a pod binding without a uid"));
    }
    let name = object::text(reference, "/name");
    let Some(pod) = read(reader, "", "pods", &request.attributes.namespace, name).await? else {
        return Err(Status::not_found("", "pods", name));
    };
    if reference["uid"] != pod["metadata"]["uid"] {
        return Err(forbidden(
            request,
            "the UID in the bound object reference does not match the UID in record",
        ));
    }
    if !on_node(&pod, node) {
        return Err(forbidden(request, "node requested token bound to a pod scheduled on a different node"));
    }
    match audience::refusal(reader, authorizer, request, &pod).await? {
        Some(why) => Err(forbidden(request, &why)),
        None => Ok(()),
    }
}

fn own_lease(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    if request.attributes.namespace != LEASE_NAMESPACE {
        let why = format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace");
        return Err(forbidden(request, &why));
    }
    if named(request) != node {
        return Err(forbidden(
            request,
            "can only access node lease with the same name as the requesting node",
        ));
    }
    Ok(())
}
