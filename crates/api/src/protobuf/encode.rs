//! JSON to protobuf. Only fields that are there are written; readers take the rest as zero.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::wire::{put_bytes, put_bytes_head, put_double, put_number};
use super::{Error, MAGIC, MAX_DEPTH};
use crate::codec::parse_go_duration;
use crate::schema::{Field, Message, Scalar, Shape, Special};

/// What follows the document in an envelope: no content encoding, no content type.
pub(super) const ENVELOPE_TAIL: &[u8] = b"\x1a\0\"\0";

/// An envelope up to where its document of that many bytes begins.
pub(super) fn envelope_head(api_version: &str, kind: &str, raw_bytes: usize) -> Vec<u8> {
    let mut type_meta = Vec::with_capacity(64);
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(type_meta.len() + 24);
    out.extend(MAGIC);
    put_bytes(&mut out, 1, &type_meta);
    put_bytes_head(&mut out, 2, raw_bytes);
    out
}

pub(super) fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(api_version, kind, raw.len());
    out.reserve_exact(raw.len() + ENVELOPE_TAIL.len());
    out.extend(raw);
    out.extend(ENVELOPE_TAIL);
    out
}

pub(super) fn message(value: &Value, message: &'static Message) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    Encoder { depth: 0 }.message(value, message, &mut out)?;
    Ok(out)
}

/// What null is among the items of a list or the values of a map: the zero value, as Go reads it.
pub(super) fn zero(field: &Field, tag: u32, out: &mut Vec<u8>) {
    match field.scalar {
        Scalar::Bool | Scalar::Int32 | Scalar::Int64 => put_number(out, tag, 0),
        Scalar::Double => put_double(out, tag, 0.0),
        Scalar::Text | Scalar::Bytes | Scalar::Msg(_) => put_bytes(out, tag, &[]),
    }
}

struct Encoder {
    depth: usize,
}

fn fault(name: &str, why: impl Into<String>) -> Error {
    Error::Value { path: name.to_owned(), why: why.into() }
}

impl Encoder {
    fn message(&mut self, value: &Value, message: &'static Message, out: &mut Vec<u8>) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::Depth);
        }
        match message.special {
            Special::Plain => self.fields(value, message, out)?,
            _ => self.special(value, message, out)?,
        }
        self.depth -= 1;
        Ok(())
    }

    fn fields(&mut self, value: &Value, message: &'static Message, out: &mut Vec<u8>) -> Result<(), Error> {
        for field in message.fields {
            if let (true, Some(embedded)) = (field.inline, field.message()) {
                let mut inner = Vec::new();
                self.message(value, embedded, &mut inner)?;
                if !inner.is_empty() {
                    put_bytes(out, field.tag, &inner);
                }
                continue;
            }
            match value.get(field.name) {
                None | Some(Value::Null) => {}
                Some(child) => self.field(child, field, out)?,
            }
        }
        Ok(())
    }

    fn field(&mut self, value: &Value, field: &'static Field, out: &mut Vec<u8>) -> Result<(), Error> {
        match field.shape {
            Shape::Single => self.single(value, field, field.tag, out),
            Shape::List => {
                let items = value.as_array().ok_or_else(|| fault(field.name, "expected a list"))?;
                items.iter().try_for_each(|item| self.item(item, field, field.tag, out))
            }
            Shape::Map => {
                let entries = value.as_object().ok_or_else(|| fault(field.name, "expected a map"))?;
                for (key, item) in entries {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    self.item(item, field, 2, &mut entry)?;
                    put_bytes(out, field.tag, &entry);
                }
                Ok(())
            }
        }
    }

    /// One of a list's items or a map's values.
    fn item(
        &mut self,
        value: &Value,
        field: &'static Field,
        tag: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if value.is_null() {
            zero(field, tag, out);
            return Ok(());
        }
        self.single(value, field, tag, out)
    }

    fn single(
        &mut self,
        value: &Value,
        field: &'static Field,
        tag: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let wrong = |expected: &str| fault(field.name, format!("expected {expected}"));
        match field.scalar {
            Scalar::Bool => {
                put_number(out, tag, i64::from(value.as_bool().ok_or_else(|| wrong("a boolean"))?))
            }
            Scalar::Int32 | Scalar::Int64 => {
                put_number(out, tag, value.as_i64().ok_or_else(|| wrong("a whole number"))?);
            }
            Scalar::Double => put_double(out, tag, value.as_f64().ok_or_else(|| wrong("a number"))?),
            Scalar::Text => put_bytes(out, tag, value.as_str().ok_or_else(|| wrong("a string"))?.as_bytes()),
            Scalar::Bytes => {
                let text = value.as_str().ok_or_else(|| wrong("base64"))?;
                put_bytes(out, tag, &STANDARD.decode(text).map_err(|_| wrong("base64"))?);
            }
            Scalar::Msg(_) => {
                let Some(message) = field.message() else { return Ok(()) };
                let mut inner = Vec::new();
                self.message(value, message, &mut inner)?;
                put_bytes(out, tag, &inner);
            }
        }
        Ok(())
    }

    fn special(&mut self, value: &Value, message: &'static Message, out: &mut Vec<u8>) -> Result<(), Error> {
        let wrong = |expected: &str| fault(message.short_name(), format!("expected {expected}"));
        let text = || value.as_str().ok_or_else(|| wrong("a string"));
        match message.special {
            Special::Time | Special::MicroTime => {
                let time: Timestamp = text()?.parse().map_err(|_| wrong("an RFC 3339 time"))?;
                put_number(out, 1, time.as_second());
                put_number(out, 2, i64::from(time.subsec_nanosecond()));
            }
            Special::Duration => {
                put_number(out, 1, parse_go_duration(text()?).ok_or_else(|| wrong("a duration"))?);
            }
            Special::Quantity => match value {
                Value::Number(n) => put_bytes(out, 1, n.to_string().as_bytes()),
                _ => put_bytes(out, 1, text()?.as_bytes()),
            },
            Special::IntOrString => match value {
                Value::Number(n) => {
                    put_number(out, 1, 0);
                    put_number(out, 2, n.as_i64().ok_or_else(|| wrong("a whole number"))?);
                }
                _ => {
                    put_number(out, 1, 1);
                    put_bytes(out, 3, text()?.as_bytes());
                }
            },
            Special::RawExtension | Special::FieldsV1 | Special::Json => {
                put_bytes(out, 1, value.to_string().as_bytes());
            }
            Special::Items => {
                let items = value.as_array().ok_or_else(|| wrong("a list"))?;
                for item in items {
                    put_bytes(out, 1, item.as_str().ok_or_else(|| wrong("a list of strings"))?.as_bytes());
                }
            }
            Special::SchemaOrArray | Special::SchemaOrBool | Special::SchemaOrStrings => {
                self.schema_or(value, message, out)?;
            }
            Special::Plain => {}
        }
        Ok(())
    }

    /// A schema, or a list of schemas or strings, or a boolean, each in its own field.
    fn schema_or(
        &mut self,
        value: &Value,
        message: &'static Message,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let wants = |field: &&'static Field| match value {
            Value::Bool(_) => field.scalar == Scalar::Bool,
            Value::Array(_) => field.shape == Shape::List,
            _ => field.shape == Shape::Single && field.message().is_some(),
        };
        if let Some(field) = message.fields.iter().find(wants) {
            self.field(value, field, out)?;
        }
        // `additionalProperties` with a schema allows what the schema allows.
        if message.special == Special::SchemaOrBool && value.is_object() {
            put_number(out, 1, 1);
        }
        Ok(())
    }
}
