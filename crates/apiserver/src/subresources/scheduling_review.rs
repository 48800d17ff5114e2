//! PodSchedulingReview: where would a pod go, and why. Who may ask at all is said by RBAC like
//! everywhere; as the answer names nodes and pods of all namespaces, whoever asks must also be allowed
//! to list those. Deciding is the scheduler's business, behind a seam.

use std::sync::Arc;

use amphipod_api::codec;
use amphipod_api::object;
use amphipod_api::scheduling_review::{GROUP, KIND, Spec};
use amphipod_api::status::Status;
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::context::Context;
use crate::flow_control::seated;
use crate::http::path::{self, Query};
use crate::http::pipeline::authorize;
use crate::registry::create;
use crate::seams::Attributes;
use crate::server::ApiServer;

/// What a pod described without a name is called.
const NAME_PREFIX: &str = "pod-";

/// Answers the review: the same object with its status.
pub async fn answer(server: &ApiServer, cx: &Context, mut review: Value) -> Result<Value, Status> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let spec: Spec = serde_json::from_value(spec).map_err(|e| Status::bad_request(format!("spec: {e}")))?;
    let faults = spec.faults();
    if !faults.is_empty() {
        return Err(Status::invalid(GROUP, KIND, object::name(&review), &faults));
    }
    for resource in ["nodes", "pods"] {
        authorize(server, &asks(cx, "list", resource, "", "")).await?;
    }
    let pod = match spec.pod {
        Some(pod) => described(server, cx, pod).await?,
        None => existing(server, cx, &spec.pod_name).await?,
    };
    let explainer = server.scheduling_explainer()?;
    // It reads through the API.
    review["status"] = seated(explainer.explain(&pod, &spec.changes)).await?;
    Ok(review)
}

fn asks(cx: &Context, verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
    Attributes {
        user: cx.attributes.user.clone(),
        verb: verb.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        resource_request: true,
        ..Attributes::default()
    }
}

async fn existing(server: &ApiServer, cx: &Context, name: &str) -> Result<Bytes, Status> {
    let pod = server.lookup("", "pods", cx.namespace(), name).await?;
    let pod = pod.ok_or_else(|| Status::not_found("", "pods", name))?;
    Ok(Bytes::from(pod.to_string()))
}

/// A pod that does not exist is admitted, defaulted and validated as if whoever asks created it.
async fn described(server: &ApiServer, cx: &Context, mut pod: Value) -> Result<Bytes, Status> {
    let namespace = cx.namespace();
    authorize(server, &asks(cx, "create", "pods", namespace, "")).await?;
    if let Some(pod) = pod.as_object_mut() {
        pod.entry("apiVersion").or_insert("v1".into());
        pod.entry("kind").or_insert("Pod".into());
    }
    if object::name(&pod).is_empty() && object::generate_name(&pod).is_empty() {
        object::metadata_mut(&mut pod).insert("generateName".into(), NAME_PREFIX.into());
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let target = path::resolve(&Method::POST, &path, false).ok_or_else(Status::no_such_path)?;
    let resource = server.catalog.load().find("", "v1", "pods").ok_or_else(Status::no_such_path)?;
    let attributes = Attributes { user: cx.attributes.user.clone(), ..target.attributes(&path) };
    let query = Query::parse(Some("dryRun=All&fieldValidation=Strict"));
    let headers = cx.headers.clone();
    let creating = Context::new(Arc::new(attributes), resource, target, query, headers, cx.accepted, cx.now);
    let content = pod.to_string();
    let decoded =
        codec::decode(content.as_bytes(), codec::JSON, creating.expected(), creating.field_validation()?)?;
    Ok(create::insert_new(server, &creating, decoded.value).await?.text.to_bytes())
}
