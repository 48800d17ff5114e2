//! CREATE: decode, admit, default, prepare, validate, own, write.

use amphipod_api::field::{Error as FieldError, Path};
use amphipod_api::object::{self, metadata_mut};
use amphipod_api::status::Status;
use amphipod_api::{apply, codec, names};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Existing, Lost, admit, object_key, put_with, refuse_faults, unwritten, validate_admission, view, writer,
};
use crate::body::Body;
use crate::context::Context;
use crate::seams::Operation;
use crate::server::ApiServer;
use crate::services;

/// How often a generated name is drawn again when it is taken, as upstream.
const NAME_ATTEMPTS: usize = 8;
/// How often what goes with a create (a service's address) is worked out again after another writer
/// took it. Choices are random, so that losing many times in a row means there is next to nothing left.
const BESIDE_ATTEMPTS: usize = 64;

pub async fn create(server: &ApiServer, cx: &Context, body: Bytes) -> Result<Response<Body>, Status> {
    let decoded = codec::decode(&body, cx.content_type(), cx.expected(), cx.field_validation()?)?;
    for warning in decoded.warnings {
        cx.warn(warning);
    }
    let stored = insert_new(server, cx, decoded.value).await?;
    view::stored_response(cx, StatusCode::CREATED, &stored.text)
}

/// Creates an object that came in a request; the generated name is drawn anew where it is taken.
pub async fn insert_new(server: &ApiServer, cx: &Context, object: Value) -> Result<Existing, Status> {
    let generated = object::name(&object).is_empty() && !object::generate_name(&object).is_empty();
    if !generated {
        return insert(server, cx, object).await;
    }
    let mut attempt = 1;
    loop {
        match insert(server, cx, object.clone()).await {
            Err(status) if status.has_reason("AlreadyExists") && attempt < NAME_ATTEMPTS => attempt += 1,
            other => return other,
        }
    }
}

/// Fills in what the server decides about a new object.
fn begin(cx: &Context, value: &mut Value) -> Result<(), Status> {
    check_place(cx, value)?;
    let (name, prefix) = (object::name(value).to_owned(), object::generate_name(value).to_owned());
    let metadata = metadata_mut(value);
    let given_version = metadata.remove("resourceVersion");
    if given_version.as_ref().and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
        return Err(Status::failure(500, "", "resourceVersion should not be set on objects to be created"));
    }
    for key in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(key);
    }
    if name.is_empty() && !prefix.is_empty() {
        metadata.insert("name".into(), names::generated_name(&prefix, rand::random()).into());
    }
    if cx.resource.namespaced {
        metadata.insert("namespace".into(), cx.namespace().into());
    } else {
        metadata.remove("namespace");
    }
    metadata.insert("uid".into(), Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), cx.now_text.as_str().into());
    Ok(())
}

/// The namespace of an object is its URL's.
pub fn check_namespace(cx: &Context, value: &Value) -> Result<(), Status> {
    let namespace = object::namespace(value);
    if cx.resource.namespaced && !namespace.is_empty() && namespace != cx.namespace() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn check_place(cx: &Context, value: &Value) -> Result<(), Status> {
    check_namespace(cx, value)?;
    let name = object::name(value);
    if !cx.name().is_empty() && !name.is_empty() && name != cx.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            cx.name()
        )));
    }
    if name.is_empty() && object::generate_name(value).is_empty() {
        let fault = FieldError::required(&Path::new("metadata.name"), "name or generateName is required");
        return Err(Status::invalid(&cx.resource.group, &cx.resource.kind, "", &[fault]));
    }
    Ok(())
}

/// Everything between decoding and answering.
pub async fn insert(server: &ApiServer, cx: &Context, mut value: Value) -> Result<Existing, Status> {
    let dry_run = cx.dry_run()?;
    begin(cx, &mut value)?;
    let (strategy, context) = (cx.strategy(), cx.strategy_context());
    strategy.default(&mut value);
    // What admission and strategies change after this has no owner.
    let applied = object::metadata_mut(&mut value).contains_key("managedFields");
    if !applied || !cx.is_apply() {
        let (manager, version) = (cx.field_manager()?, cx.resource.api_version());
        apply::update_managers(None, &mut value, &writer(cx, &manager, &version));
    }
    let mut value = admit(server, cx, Operation::Create, value, None, dry_run).await?;
    strategy.prepare_create(&context, &mut value);
    strategy.default(&mut value);
    let (name, prefixed) = (object::name(&value).to_owned(), !object::generate_name(&value).is_empty());
    for _ in 0..BESIDE_ATTEMPTS {
        let again = services::goes_with(cx).then(|| value.clone());
        match write_new(server, cx, value, dry_run).await {
            Ok(stored) => return Ok(stored),
            Err(Lost::Race(None)) => {}
            Err(Lost::Race(Some(_))) => return Err(already_exists(cx, &name, prefixed)),
            Err(Lost::Failed(status)) => return Err(*status),
        }
        let Some(again) = again else { break };
        value = again;
    }
    Err(Status::internal("what the object needs was taken by others again and again"))
}

/// Allocates, validates and writes.
async fn write_new(
    server: &ApiServer,
    cx: &Context,
    mut value: Value,
    dry_run: bool,
) -> Result<Existing, Lost> {
    let (strategy, context) = (cx.strategy(), cx.strategy_context());
    let beside = services::allocate(server, cx, &mut value, None).await?;
    refuse_faults(cx, &value, &strategy.validate(&context, &view::stored_form(&cx.resource, &value)))?;
    for text in strategy.warnings(&context, &value, None) {
        cx.warn(text);
    }
    let value = validate_admission(server, cx, Operation::Create, value, None, dry_run).await?;
    if dry_run {
        return Ok(dry(server, cx, value).await?);
    }
    let key = object_key(&cx.resource, cx.namespace(), object::name(&value));
    put_with(server, &cx.resource, &key, value, 0, beside).await
}

/// `prefixed`: the object has a `generateName`, whether or not its name was made from it.
fn already_exists(cx: &Context, name: &str, prefixed: bool) -> Status {
    let (group, plural) = (&cx.resource.group, &cx.resource.plural);
    if prefixed {
        Status::generate_name_conflict(group, plural, name)
    } else {
        Status::already_exists(group, plural, name)
    }
}

async fn dry(server: &ApiServer, cx: &Context, value: Value) -> Result<Existing, Status> {
    let name = object::name(&value).to_owned();
    let key = object_key(&cx.resource, cx.namespace(), &name);
    if super::existing(server, &cx.resource, &key).await?.is_some() {
        return Err(already_exists(cx, &name, !object::generate_name(&value).is_empty()));
    }
    Ok(Existing { text: unwritten(&cx.resource, value, 0)?, revision: 0 })
}
