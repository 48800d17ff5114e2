//! `scale`: the replica count of any workload as one kind.

use amphipod_api::codec::Expected;
use amphipod_api::duration::age;
use amphipod_api::field::{Error as FieldError, Path};
use amphipod_api::object::{self, metadata_mut};
use amphipod_api::selector::LabelSelector;
use amphipod_api::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::Body;
use crate::context::Context;
use crate::http::negotiate::Form;
use crate::registry::patch::{self, Applied, Document, Kind};
use crate::registry::update::{self, Change};
use crate::registry::{existing, key, view};
use crate::server::ApiServer;
use crate::subresources::{decode, table};

fn expected() -> Expected<'static> {
    Expected::builtin("autoscaling", "v1", "Scale")
}

pub async fn handle(server: &ApiServer, cx: &Context, content: Bytes) -> Result<Response<Body>, Status> {
    match cx.attributes.verb.as_str() {
        "get" => {
            let found = existing(server, &cx.resource, &key(cx)).await?.ok_or_else(|| cx.not_found())?;
            answer(cx, scale_of(&found.value(&cx.resource)?)?)
        }
        "update" => {
            let mut scale = decode(cx, content, expected())?;
            update::check_identity(cx, &mut scale)?;
            run(server, cx, &Rescale { cx, how: How::Whole(scale) }).await
        }
        _ => {
            let kind = patch::kind_of(cx.content_type());
            let kind = kind.ok_or_else(|| Status::unsupported_media_type(patch::ACCEPTED))?;
            if kind == Kind::Apply {
                return applied(server, cx, &content).await;
            }
            patch::check_force(cx)?;
            run(server, cx, &Rescale { cx, how: How::Patch(Document::read(cx, kind, &content)?) }).await
        }
    }
}

/// Applying a scale is applying its one field to the workload, where its owner is recorded.
async fn applied(server: &ApiServer, cx: &Context, content: &[u8]) -> Result<Response<Body>, Status> {
    let scale = patch::configuration(cx, content, expected())?;
    if scale.pointer("/metadata/managedFields").is_some_and(|l| !l.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let mut config = json!({"apiVersion": cx.resource.api_version(), "kind": cx.resource.kind,
        "metadata": {"name": cx.name(), "namespace": cx.namespace()}});
    for key in ["uid", "resourceVersion"] {
        if let Some(value) = scale.pointer(&format!("/metadata/{key}")) {
            config["metadata"][key] = value.clone();
        }
    }
    if let Some(replicas) = scale.pointer("/spec/replicas") {
        config["spec"] = json!({"replicas": replicas});
    }
    run(server, cx, &Applied::of(cx, config)?).await
}

async fn run(server: &ApiServer, cx: &Context, change: &dyn Change) -> Result<Response<Body>, Status> {
    let outcome = update::change(server, cx, change).await?;
    let stored = outcome.stored.value(&cx.resource)?;
    answer(cx, scale_of(&stored)?)
}

fn answer(cx: &Context, scale: Value) -> Result<Response<Body>, Status> {
    let shown = match cx.accepted.form {
        Form::Object => scale,
        Form::PartialMetadata => partial(&scale),
        Form::Table => table_of(cx, &scale),
    };
    view::value_response(cx, StatusCode::OK, &shown)
}

fn partial(scale: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": scale["metadata"]})
}

/// What `kubectl get --subresource=scale` shows: a Scale's own columns, not the workload's.
fn table_of(cx: &Context, scale: &Value) -> Value {
    let column = |name: &str, kind: &str, format: &str, description: &str| json!({"name": name, "type": kind, "format": format, "description": description, "priority": 0});
    let columns = json!([
        column("Name", "string", "name", "Name of the scaled object."),
        column("Desired", "integer", "", "Replicas wanted."),
        column("Available", "integer", "", "Replicas observed."),
        column("Age", "string", "", "Time since the scaled object was made."),
    ]);
    let age = age(scale["metadata"]["creationTimestamp"].as_str(), cx.now);
    let count = |part: &str| scale[part]["replicas"].as_i64().unwrap_or(0);
    let cells = json!([scale["metadata"]["name"], count("spec"), count("status"), age]);
    let metadata = json!({"resourceVersion": object::resource_version(scale)});
    table(&metadata, columns, vec![json!({"cells": cells, "object": partial(scale)})])
}

/// The `autoscaling/v1 Scale` of a workload.
pub fn scale_of(object: &Value) -> Result<Value, Status> {
    let selector = match object.pointer("/spec/selector") {
        Some(Value::Object(map)) if object::kind(object) == "ReplicationController" => {
            LabelSelector::from_map(map)
        }
        Some(selector) => {
            LabelSelector::from_object(selector).map_err(|why| Status::bad_request(why.to_string()))?
        }
        None => LabelSelector::nothing(),
    };
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{key}")) {
            metadata[key] = value.clone();
        }
    }
    let mut spec = json!({});
    if number("/spec/replicas") != 0 {
        spec["replicas"] = number("/spec/replicas").into();
    }
    let mut status = json!({"replicas": number("/status/replicas")});
    let text = selector.to_string();
    if !text.is_empty() {
        status["selector"] = text.into();
    }
    Ok(
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}),
    )
}

enum How {
    Whole(Value),
    Patch(Document),
}

struct Rescale<'a> {
    cx: &'a Context,
    how: How,
}

impl Rescale<'_> {
    /// A patch is refused for its uid by the scale, a whole one by what stores the workload.
    fn another(&self, uid: &str, stored: &str) -> Status {
        let resource = &self.cx.resource;
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}");
        Status::conflict(&resource.group, &format!("{}/scale", resource.plural), self.cx.name(), &why)
    }
}

impl Change for Rescale<'_> {
    fn apply(&self, old: &Value) -> Result<Value, Status> {
        let before = scale_of(old)?;
        let scale = match &self.how {
            How::Whole(scale) => scale.clone(),
            How::Patch(document) => document.apply(self.cx, &before, expected())?,
        };
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            let path = Path::new("spec").child("replicas");
            let fault = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", self.cx.name(), &[fault]));
        }
        let uid = object::uid(&scale);
        if matches!(self.how, How::Patch(_)) && !uid.is_empty() && uid != object::uid(old) {
            return Err(self.another(uid, object::uid(old)));
        }
        let mut new = old.clone();
        object::child_mut(&mut new, "spec").insert("replicas".into(), replicas.into());
        // The scale's own preconditions are the workload's.
        metadata_mut(&mut new).insert("resourceVersion".into(), object::resource_version(&scale).into());
        if !uid.is_empty() {
            metadata_mut(&mut new).insert("uid".into(), uid.into());
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_name_their_selector() {
        let object = json!({"kind": "Deployment", "metadata": {"name": "d", "resourceVersion": "4", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}}, "status": {"replicas": 2}});
        let scale = scale_of(&object).expect("scale");
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=d"}));
        assert_eq!(scale["metadata"], json!({"name": "d", "resourceVersion": "4"}));
    }
}
