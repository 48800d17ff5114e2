//! The SubjectAccessReview family: asking the authorizer without doing.

use std::collections::BTreeMap;

use amphipod_api::field::{self, Path};
use amphipod_api::object;
use amphipod_api::status::Status;
use serde_json::{Map, Value, json};

use super::rbac::Rbac;
use super::rules::Rule;
use crate::seams::{Attributes, Authorizer, Decision, UserInfo};

const GROUP: &str = "authorization.k8s.io";

/// SubjectAccessReview, LocalSubjectAccessReview and SelfSubjectAccessReview.
pub async fn access_review(
    authorizer: &dyn Authorizer,
    asker: &Attributes,
    kind: &str,
    mut review: Value,
) -> Result<Value, Status> {
    let spec = review.get("spec").cloned().unwrap_or(Value::Null);
    check(kind, asker, &spec)?;
    let user = if kind == "SelfSubjectAccessReview" { asker.user.clone() } else { subject(&spec) };
    let decision = authorizer.authorize(&attributes(user, &spec)).await;
    let mut status = Map::new();
    let (allowed, denied, reason) = match decision {
        Decision::Allow { reason } => (true, false, reason),
        Decision::NoOpinion { reason } => (false, false, reason),
        Decision::Deny { reason } => (false, true, reason),
    };
    status.insert("allowed".into(), allowed.into());
    if denied {
        status.insert("denied".into(), true.into());
    }
    if !reason.is_empty() {
        status.insert("reason".into(), reason.into());
    }
    review["status"] = Value::Object(status);
    Ok(review)
}

fn check(kind: &str, asker: &Attributes, spec: &Value) -> Result<(), Status> {
    let path = Path::new("spec");
    let mut faults = Vec::new();
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), other.is_object()) {
        (true, true) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            faults.push(field::Error::invalid(&path.child("nonResourceAttributes"), other.clone(), detail));
        }
        (false, false) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            faults.push(field::Error::invalid(&path.child("resourceAttributes"), Value::Null, detail));
        }
        _ => {}
    }
    if kind != "SelfSubjectAccessReview" {
        let groups = spec["groups"].as_array().is_some_and(|list| !list.is_empty());
        if object::text(spec, "/user").is_empty() && !groups {
            let detail = "at least one of user or group must be specified";
            faults.push(field::Error::invalid(&path.child("user"), "", detail));
        }
    }
    if kind == "LocalSubjectAccessReview" {
        let wanted = object::text(resource, "/namespace");
        if resource.is_object() && wanted != asker.namespace {
            return Err(Status::bad_request(format!(
                "spec.resourceAttributes.namespace must match namespace: {}",
                asker.namespace
            )));
        }
        if other.is_object() {
            let detail = "disallowed on this kind of request";
            faults.push(field::Error::invalid(&path.child("nonResourceAttributes"), other.clone(), detail));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Status::invalid(GROUP, kind, "", &faults)) }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn subject(spec: &Value) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_lowercase(), strings(values)))
        .collect();
    UserInfo {
        name: object::text(spec, "/user").to_owned(),
        uid: object::text(spec, "/uid").to_owned(),
        groups: strings(&spec["groups"]),
        extra,
    }
}

fn attributes(user: UserInfo, spec: &Value) -> Attributes {
    let resource = &spec["resourceAttributes"];
    let text = |key: &str| object::text(resource, &format!("/{key}")).to_owned();
    if !resource.is_object() {
        return Attributes {
            user,
            verb: object::text(spec, "/nonResourceAttributes/verb").to_owned(),
            path: object::text(spec, "/nonResourceAttributes/path").to_owned(),
            ..Attributes::default()
        };
    }
    Attributes {
        user,
        verb: text("verb"),
        group: text("group"),
        version: text("version"),
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        path: String::new(),
        resource_request: true,
    }
}

/// What the asker may do in a namespace, as lists of rules.
pub async fn rules_review(rbac: &Rbac, user: &UserInfo, mut review: Value) -> Result<Value, Status> {
    let namespace = object::text(&review, "/spec/namespace").to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = rbac.rules_for(user, &namespace).await?;
    let (paths, resources): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| !rule.urls.is_empty());
    let values = |list: &[&Rule]| list.iter().map(|rule| rule.to_value()).collect::<Vec<_>>();
    let kubelet = super::node::node_of(user).is_some();
    let mut status = json!({"incomplete": kubelet, "resourceRules": values(&resources), "nonResourceRules": values(&paths)});
    if kubelet {
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    review["status"] = status;
    Ok(review)
}
