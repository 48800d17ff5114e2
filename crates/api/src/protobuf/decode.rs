//! Protobuf to JSON. Go writes every plain field, set or not, so zeros say nothing unless the
//! field can be absent in Go.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::strtime;
use serde_json::{Map, Number, Value};

use super::wire::{Item, Reader};
use super::{Error, MAX_DEPTH};
use crate::codec::go_duration;
use crate::quantity::Quantity;
use crate::schema::{Field, Message, Scalar, Shape, Special};

pub(super) struct Unknown<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
    pub content_type: String,
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn envelope(bytes: &[u8]) -> Result<Unknown<'_>, Error> {
    let mut found =
        Unknown { api_version: String::new(), kind: String::new(), raw: &[], content_type: String::new() };
    let mut reader = Reader::new(bytes);
    while let Some((tag, item)) = reader.next()? {
        let Item::Bytes(content) = item else { continue };
        match tag {
            1 => {
                let mut inner = Reader::new(content);
                while let Some((tag, item)) = inner.next()? {
                    match (tag, item) {
                        (1, Item::Bytes(text)) => found.api_version = utf8(text),
                        (2, Item::Bytes(text)) => found.kind = utf8(text),
                        _ => {}
                    }
                }
            }
            2 => found.raw = content,
            4 => found.content_type = utf8(content),
            _ => {}
        }
    }
    Ok(found)
}

pub(super) fn message(bytes: &[u8], message: &'static Message) -> Result<Value, Error> {
    Ok(typed(bytes, message, 0)?.unwrap_or_else(|| Value::Object(Map::new())))
}

/// `None` where the bytes stand for an absent value (a zero time).
fn typed(bytes: &[u8], message: &'static Message, depth: usize) -> Result<Option<Value>, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    if message.special != Special::Plain {
        return special(bytes, message, depth);
    }
    let mut map = Map::new();
    fields(bytes, message, depth, &mut map)?;
    Ok(Some(Value::Object(map)))
}

fn fields(
    bytes: &[u8],
    message: &'static Message,
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), Error> {
    let mut reader = Reader::new(bytes);
    while let Some((tag, item)) = reader.next()? {
        let Some(field) = message.fields.iter().find(|f| f.tag == tag) else { continue };
        if let (true, Some(embedded), Item::Bytes(inner)) = (field.inline, field.message(), item) {
            fields(inner, embedded, depth + 1, map)?;
            continue;
        }
        put(message, field, item, depth, map)?;
    }
    Ok(())
}

fn put(
    message: &'static Message,
    field: &'static Field,
    item: Item<'_>,
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), Error> {
    match field.shape {
        Shape::Single => {
            if let Some(value) = single(field, item, depth)?
                && (!is_zero(&value, field) || message.zero_matters(field))
            {
                map.insert(field.name.to_owned(), value);
            }
        }
        Shape::List => {
            let list = map.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match (field.scalar, item) {
                (Scalar::Int32 | Scalar::Int64, Item::Bytes(packed)) => {
                    let mut reader = Reader::new(packed);
                    while !reader.is_empty() {
                        list.push((reader.varint()? as i64).into());
                    }
                }
                // An item that says nothing (no JSON, a zero time) still holds its place.
                _ => list.push(single(field, item, depth)?.unwrap_or(Value::Null)),
            }
        }
        Shape::Map => {
            let Item::Bytes(entry) = item else { return Ok(()) };
            let (key, value) = map_entry(field, entry, depth)?;
            let entries = map.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = entries {
                entries.insert(key, value);
            }
        }
    }
    Ok(())
}

fn map_entry(field: &'static Field, bytes: &[u8], depth: usize) -> Result<(String, Value), Error> {
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((tag, item)) = reader.next()? {
        match (tag, item) {
            (1, Item::Bytes(text)) => key = utf8(text),
            (2, item) => value = single(field, item, depth)?,
            _ => {}
        }
    }
    let absent = match (field.scalar, field.message()) {
        (Scalar::Msg(_), Some(message)) => typed(&[], message, depth + 1)?.unwrap_or(Value::Null),
        _ => Value::String(String::new()),
    };
    Ok((key, value.unwrap_or(absent)))
}

/// A target port of zero means the port itself.
fn is_zero(value: &Value, field: &Field) -> bool {
    field.is_zero(value) || (field.name == "targetPort" && value.as_i64() == Some(0))
}

fn single(field: &'static Field, item: Item<'_>, depth: usize) -> Result<Option<Value>, Error> {
    Ok(match (field.scalar, item) {
        (Scalar::Bool, Item::Varint(n)) => Some(Value::Bool(n != 0)),
        (Scalar::Int32, Item::Varint(n)) => Some((n as i32).into()),
        (Scalar::Int64, Item::Varint(n)) => Some((n as i64).into()),
        (Scalar::Double, Item::Fixed64(bits)) => Number::from_f64(f64::from_bits(bits)).map(Value::Number),
        (Scalar::Double, Item::Fixed32(bits)) => {
            Number::from_f64(f64::from(f32::from_bits(bits))).map(Value::Number)
        }
        (Scalar::Text, Item::Bytes(text)) => Some(utf8(text).into()),
        (Scalar::Bytes, Item::Bytes(bytes)) => Some(STANDARD.encode(bytes).into()),
        (Scalar::Msg(_), Item::Bytes(bytes)) => match field.message() {
            Some(message) => typed(bytes, message, depth + 1)?,
            None => None,
        },
        (_, Item::Varint(_)) => return Err(Error::WireType(super::wire::VARINT)),
        (_, Item::Bytes(_)) => return Err(Error::WireType(super::wire::BYTES)),
        (_, Item::Fixed64(_)) => return Err(Error::WireType(super::wire::FIXED64)),
        (_, Item::Fixed32(_)) => return Err(Error::WireType(super::wire::FIXED32)),
    })
}

/// The numbers and byte strings of a small message by tag.
#[derive(Default)]
struct Parts<'a> {
    numbers: [i64; 4],
    bytes: [Option<&'a [u8]>; 4],
    list: Vec<&'a [u8]>,
}

fn parts(bytes: &[u8]) -> Result<Parts<'_>, Error> {
    let mut found = Parts::default();
    let mut reader = Reader::new(bytes);
    while let Some((tag, item)) = reader.next()? {
        let tag = tag as usize;
        match item {
            Item::Varint(n) if tag < 4 => found.numbers[tag] = n as i64,
            Item::Bytes(content) if tag < 4 => {
                found.bytes[tag] = Some(content);
                found.list.push(content);
            }
            _ => {}
        }
    }
    Ok(found)
}

fn special(bytes: &[u8], message: &'static Message, depth: usize) -> Result<Option<Value>, Error> {
    let found = parts(bytes)?;
    Ok(match message.special {
        Special::Time | Special::MicroTime => {
            if bytes.is_empty() {
                return Ok(None);
            }
            time(&found, message.special)
        }
        Special::Duration => Some(go_duration(found.numbers[1]).into()),
        Special::Quantity => {
            let text = found.bytes[1].map(utf8).unwrap_or_default();
            let canonical = Quantity::parse(&text).map(|q| q.to_string());
            Some(canonical.unwrap_or_else(|_| "0".to_owned()).into())
        }
        Special::IntOrString => match found.numbers[1] {
            1 => Some(found.bytes[3].map(utf8).unwrap_or_default().into()),
            _ => Some(found.numbers[2].into()),
        },
        Special::RawExtension | Special::FieldsV1 | Special::Json => match found.bytes[1] {
            Some(raw) if !raw.is_empty() => raw_json(raw)?,
            _ => None,
        },
        Special::Items => Some(Value::Array(found.list.iter().map(|b| utf8(b).into()).collect())),
        Special::SchemaOrArray | Special::SchemaOrBool | Special::SchemaOrStrings => {
            let mut map = Map::new();
            fields(bytes, message, depth + 1, &mut map)?;
            let schema = message.fields.iter().find(|f| f.shape == Shape::Single && f.message().is_some());
            let schema = schema.and_then(|f| map.remove(f.name));
            let rest = map.into_iter().next().map(|(_, value)| value);
            let closed = (message.special == Special::SchemaOrBool).then_some(Value::Bool(false));
            schema.or(rest).or(closed)
        }
        Special::Plain => None,
    })
}

/// Raw extensions hold JSON, or an enveloped object of their own.
fn raw_json(raw: &[u8]) -> Result<Option<Value>, Error> {
    if super::is_enveloped(raw) {
        return super::decode(raw).map(Some);
    }
    serde_json::from_slice(raw).map(Some).map_err(|e| Error::Raw(e.to_string()))
}

fn time(found: &Parts<'_>, special: Special) -> Option<Value> {
    let nanoseconds = i32::try_from(found.numbers[2]).ok()?;
    let time = Timestamp::new(found.numbers[1], nanoseconds).ok()?;
    let format = match special {
        Special::MicroTime => "%Y-%m-%dT%H:%M:%S%.6fZ",
        _ => "%Y-%m-%dT%H:%M:%SZ",
    };
    strtime::format(format, time).ok().map(Value::String)
}
