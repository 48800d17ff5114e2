//! Kubernetes' protobuf form, transcoded from and to JSON by the schema facts: one codec for all
//! kinds. Documents are wrapped in an envelope (`k8s\0` and a `runtime.Unknown`) that names their
//! type.

mod decode;
mod encode;
pub mod wire;

use serde_json::Value;

use crate::schema;

/// What every document begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Messages nest no deeper than documents may.
const MAX_DEPTH: usize = 120;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: illegal wireType {0}")]
    WireType(u64),
    #[error("proto: nesting is too deep")]
    Depth,
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
    #[error("object has no apiVersion or kind and cannot be written as protobuf")]
    Untyped,
    #[error("{path}: {why}")]
    Value { path: String, why: String },
    #[error("the enveloped document is unreadable: {0}")]
    Raw(String),
}

/// An enveloped document as JSON, with its apiVersion and kind.
pub fn decode(bytes: &[u8]) -> Result<Value, Error> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(Error::NoMagic)?;
    let unknown = decode::envelope(envelope)?;
    if unknown.content_type == "application/json" {
        return serde_json::from_slice(unknown.raw).map_err(|e| Error::Raw(e.to_string()));
    }
    let message = schema::of(&unknown.api_version, &unknown.kind).ok_or_else(|| Error::UnknownKind {
        api_version: unknown.api_version.clone(),
        kind: unknown.kind.clone(),
    })?;
    let mut value = decode::message(unknown.raw, message)?;
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".to_owned(), unknown.api_version.into());
        map.insert("kind".to_owned(), unknown.kind.into());
    }
    Ok(value)
}

/// Whether bytes are in this form rather than JSON.
pub fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// An object (or list) with apiVersion and kind in its envelope.
pub fn encode(value: &Value) -> Result<Vec<u8>, Error> {
    let (api_version, kind) = (crate::object::api_version(value), crate::object::kind(value));
    if kind.is_empty() {
        return Err(Error::Untyped);
    }
    let message = schema::of(api_version, kind)
        .ok_or_else(|| Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
    let raw = encode::message(value, message)?;
    Ok(encode::envelope(api_version, kind, &raw))
}

/// Whether objects of this kind have a protobuf form.
pub fn supports(api_version: &str, kind: &str) -> bool {
    schema::of(api_version, kind).is_some()
}

/// One frame of a watch: the length, then a `WatchEvent` whose object is enveloped.
pub fn encode_watch_event(event_type: &str, object: &Value) -> Result<Vec<u8>, Error> {
    let enveloped = encode(object)?;
    let mut raw_extension = Vec::with_capacity(enveloped.len() + 8);
    wire::put_bytes(&mut raw_extension, 1, &enveloped);
    let mut event = Vec::with_capacity(raw_extension.len() + 24);
    wire::put_bytes(&mut event, 1, event_type.as_bytes());
    wire::put_bytes(&mut event, 2, &raw_extension);
    // Frames are led by their length as four bytes, big end first.
    let length = u32::try_from(event.len()).map_err(|_| Error::Truncated)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.append(&mut event);
    Ok(frame)
}

#[cfg(test)]
mod tests;
