//! Kubernetes' protobuf form, transcoded from and to JSON by the schema facts: one codec for all
//! kinds. Documents are wrapped in an envelope (`k8s\0` and a `runtime.Unknown`) that names their
//! type.

mod decode;
mod encode;
mod stream;
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
    decode_as(bytes, |_| None)
}

/// The same, where `read_as` may name another version whose objects have the same shape, for versions
/// without facts of their own. The apiVersion stays the document's.
pub fn decode_as<'a>(bytes: &[u8], read_as: impl Fn(&str) -> Option<&'a str>) -> Result<Value, Error> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(Error::NoMagic)?;
    let unknown = decode::envelope(envelope)?;
    if unknown.content_type == "application/json" {
        return serde_json::from_slice(unknown.raw).map_err(|e| Error::Raw(e.to_string()));
    }
    let message = schema::of(&unknown.api_version, &unknown.kind)
        .or_else(|| schema::of(read_as(&unknown.api_version)?, &unknown.kind));
    let message = message.ok_or_else(|| Error::UnknownKind {
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
    watch_frame(event_type, &encode(object)?)
}

fn watch_frame(event_type: &str, enveloped: &[u8]) -> Result<Vec<u8>, Error> {
    let extension = wire::field_len(1, enveloped.len());
    let length = wire::field_len(1, event_type.len()) + wire::field_len(2, extension);
    let mut frame = Vec::with_capacity(length + 4);
    // Frames are led by their length as four bytes, big end first.
    frame.extend(u32::try_from(length).map_err(|_| Error::Truncated)?.to_be_bytes());
    wire::put_bytes(&mut frame, 1, event_type.as_bytes());
    wire::put_bytes_head(&mut frame, 2, extension);
    wire::put_bytes(&mut frame, 1, enveloped);
    Ok(frame)
}

/// How the stored objects of one kind are written: their text goes to protobuf in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    message: &'static schema::Message,
}

impl Writer {
    /// `None` where the kind has no protobuf form of its own in that version.
    pub fn new(api_version: &str, kind: &str) -> Option<Self> {
        let message = schema::of(api_version, kind)?;
        (message.api_version() == api_version).then_some(Writer { message })
    }
    /// A stored object's message, without envelope: what lists hold and envelopes wrap.
    pub fn message(&self, json: &[u8]) -> Result<Vec<u8>, Error> {
        stream::message(json, self.message)
    }
    pub fn enveloped(&self, message: &[u8]) -> Vec<u8> {
        encode::envelope(&self.message.api_version(), self.message.kind, message)
    }
    pub fn watch_frame(&self, event_type: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
        watch_frame(event_type, &self.enveloped(message))
    }
}

/// What stands around the items of a streamed list. Protobuf says lengths first, so those of all
/// items must be known before the first is written.
#[derive(Debug)]
pub struct ListFrame {
    pub head: Vec<u8>,
    item_tag: u32,
}

impl ListFrame {
    pub const TAIL: &'static [u8] = encode::ENVELOPE_TAIL;

    /// `kind` is the list's; `sizes` those of its items' messages.
    pub fn new(
        api_version: &str,
        kind: &str,
        metadata: &Value,
        sizes: impl Iterator<Item = usize>,
    ) -> Result<Self, Error> {
        let unknown = || Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let message = schema::of(api_version, kind).ok_or_else(unknown)?;
        let tag_of = |name: &str| message.fields.iter().find(|f| f.name == name).map(|f| f.tag);
        let item_tag = tag_of("items").ok_or_else(unknown)?;
        let start = encode::message(&serde_json::json!({"metadata": metadata}), message)?;
        let items: usize = sizes.map(|size| wire::field_len(item_tag, size)).sum();
        let mut head = encode::envelope_head(api_version, kind, start.len() + items);
        head.extend(start);
        Ok(ListFrame { head, item_tag })
    }
    /// What stands before an item of that size.
    pub fn before_item(&self, size: usize, out: &mut Vec<u8>) {
        wire::put_bytes_head(out, self.item_tag, size);
    }
}

#[cfg(test)]
mod tests;
