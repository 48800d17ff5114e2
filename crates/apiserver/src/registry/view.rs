//! How a stored object looks to this request: in its version, and as itself, as a table row or as
//! metadata only.

use std::borrow::Cow;

use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use amphipod_api::{codec, field, object, protobuf, table};
use amphipod_store::Text;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::encode;
use crate::body::{self, Body};
use crate::context::Context;
use crate::http::negotiate::{Accepted, Encoding, Form};

/// Whether stored bytes are already what this resource serves.
pub fn is_stored_form(resource: &Resource) -> bool {
    resource.storage.as_ref().is_none_or(|s| s.api_version == resource.api_version())
}

/// How stored objects go out as protobuf without being parsed, where this request asks for that.
pub fn stored_writer(cx: &Context) -> Option<protobuf::Writer> {
    let plain = cx.accepted.encoding == Encoding::Protobuf && cx.accepted.form == Form::Object;
    if !plain || !is_stored_form(&cx.resource) {
        return None;
    }
    protobuf::Writer::new(&cx.resource.api_version(), &cx.resource.kind)
}

/// A stored object as a value of the request's version.
pub fn served(resource: &Resource, stored: &[u8]) -> Result<Value, Status> {
    let mut value = encode::decode(stored)?;
    to_served(resource, &mut value);
    Ok(value)
}

pub fn to_served(resource: &Resource, value: &mut Value) {
    if !is_stored_form(resource) {
        amphipod_strategy::convert(&resource.group, &resource.version, &resource.plural, value, false);
    }
}

pub fn to_stored(resource: &Resource, value: &mut Value) {
    if !is_stored_form(resource) {
        amphipod_strategy::convert(&resource.group, &resource.version, &resource.plural, value, true);
    }
}

/// What is validated: the rules of a kind speak of the form it is stored in, whichever of its
/// versions a request uses.
pub fn stored_form<'a>(resource: &Resource, value: &'a Value) -> Cow<'a, Value> {
    if is_stored_form(resource) {
        return Cow::Borrowed(value);
    }
    let mut converted = value.clone();
    to_stored(resource, &mut converted);
    Cow::Owned(converted)
}

/// Which part of the object a table row carries along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

/// Refuses what `includeObject` cannot be.
pub fn check_include(cx: &Context) -> Result<(), Status> {
    let text = cx.query.text("includeObject");
    if matches!(text, "" | "None" | "Metadata" | "Object") {
        return Ok(());
    }
    let path = field::Path::new("includeObject");
    let fault = field::Error::invalid(&path, text, "must be 'Metadata', 'Object', 'None', or empty");
    Err(Status::bad_request(format!("Unable to convert to Table as requested: {fault}")))
}

fn include(cx: &Context) -> Include {
    match cx.query.text("includeObject") {
        "None" => Include::None,
        "Object" => Include::Object,
        _ => Include::Metadata,
    }
}

pub fn columns(resource: &Resource) -> Value {
    table::columns(&resource.group, &resource.plural).iter().map(table::Column::to_json).collect()
}

/// `metav1.TableRow`
pub fn row(cx: &Context, value: Value) -> Value {
    let (group, plural) = (&cx.resource.group, &cx.resource.plural);
    let mut row = json!({"cells": table::row(group, plural, &value, cx.now)});
    let conditions = table::row_conditions(group, plural, &value);
    if !conditions.is_empty() {
        row["conditions"] = conditions.into();
    }
    match include(cx) {
        Include::None => {}
        Include::Metadata => row["object"] = partial(value, cx.accepted),
        Include::Object => row["object"] = value,
    }
    row
}

/// `metav1.PartialObjectMetadata`
pub fn partial(mut value: Value, accepted: Accepted) -> Value {
    let metadata = value.get_mut("metadata").map(Value::take).unwrap_or_default();
    json!({"kind": "PartialObjectMetadata", "apiVersion": accepted.meta_version(), "metadata": metadata})
}

/// The same, cut from the text of an object.
pub fn partial_text(stored: &[u8], accepted: Accepted, out: &mut BytesMut) {
    let version = accepted.meta_version();
    let head = format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{version}\",\"metadata\":");
    out.put_slice(head.as_bytes());
    out.put_slice(encode::metadata_slice(stored).unwrap_or(b"{}"));
    out.put_u8(b'}');
}

pub fn table(cx: &Context, metadata: Value, rows: Vec<Value>, with_columns: bool) -> Value {
    let columns = if with_columns { columns(&cx.resource) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": cx.accepted.meta_version(), "metadata": metadata,
        "columnDefinitions": columns, "rows": rows})
}

/// One object in the form asked for.
pub fn formed(cx: &Context, value: Value, with_columns: bool) -> Value {
    match cx.accepted.form {
        Form::Object => value,
        Form::PartialMetadata => partial(value, cx.accepted),
        Form::Table => {
            let metadata = json!({"resourceVersion": object::resource_version(&value)});
            let row = row(cx, value);
            table(cx, metadata, vec![row], with_columns)
        }
    }
}

/// Writes a value in the encoding asked for.
pub fn encoded(accepted: Accepted, value: &Value) -> Result<Bytes, Status> {
    Ok(match accepted.encoding {
        Encoding::Json if accepted.pretty => {
            serde_json::to_vec_pretty(value).map_err(Status::internal)?.into()
        }
        Encoding::Json => serde_json::to_vec(value).map_err(Status::internal)?.into(),
        Encoding::Yaml => codec::yaml::to_string(value).into(),
        Encoding::Protobuf => protobuf::encode(value).map_err(Status::internal)?.into(),
    })
}

pub fn response(code: StatusCode, content_type: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

/// Answers with any value (already in its final form).
pub fn value_response(cx: &Context, code: StatusCode, value: &Value) -> Result<Response<Body>, Status> {
    let bytes = encoded(cx.accepted, value)?;
    Ok(response(code, cx.accepted.encoding.media_type(), body::full(bytes)))
}

/// Answers with a stored object; plain JSON goes out as it is stored, protobuf without a value
/// in between.
pub fn stored_response(cx: &Context, code: StatusCode, stored: &Text) -> Result<Response<Body>, Status> {
    let accepted = cx.accepted;
    let as_is = accepted.encoding == Encoding::Json && accepted.form == Form::Object && !accepted.pretty;
    if as_is && is_stored_form(&cx.resource) {
        return Ok(response(code, Encoding::Json.media_type(), body::full(stored.to_bytes())));
    }
    if let Some(writer) = stored_writer(cx) {
        let message = writer.message(&stored.contiguous()).map_err(Status::internal)?;
        let bytes = writer.enveloped(&message);
        return Ok(response(code, accepted.encoding.media_type(), body::full(bytes)));
    }
    let value = served(&cx.resource, &stored.contiguous())?;
    object_response(cx, code, value)
}

/// Answers with an object of the resource's kind in the form asked for.
pub fn object_response(cx: &Context, code: StatusCode, value: Value) -> Result<Response<Body>, Status> {
    value_response(cx, code, &formed(cx, value, true))
}

/// A refusal (or the bare success of a delete) as the client can read it.
pub fn status_response(accepted: Accepted, status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::OK);
    let accepted = Accepted { form: Form::Object, ..accepted };
    let value = serde_json::to_value(status).unwrap_or_default();
    let (bytes, encoding) = match encoded(accepted, &value) {
        Ok(bytes) => (bytes, accepted.encoding),
        Err(_) => (Bytes::from(status.to_json()), Encoding::Json),
    };
    let mut answer = response(code, encoding.media_type(), body::full(bytes));
    let retry = status.details.as_ref().and_then(|d| d.retry_after_seconds);
    if let Some(seconds) = retry {
        answer.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    answer
}
