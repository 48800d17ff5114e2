//! Stored JSON text to protobuf in one pass, without a parsed value in between: a pod as a value is
//! ten times its text, and lists are made of thousands. The text is trusted to be what this server
//! wrote; the general encoder is for what clients send.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::wire::{self, put_bytes, put_double, put_number};
use super::{Error, encode};
use crate::schema::{Field, Message, Scalar, Shape, Special};

pub(super) fn message(json: &[u8], message: &'static Message) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(json.len() / 2);
    let mut reader = serde_json::Deserializer::from_slice(json);
    Fields { message, out: &mut out }.deserialize(&mut reader).map_err(|e| Error::Raw(e.to_string()))?;
    Ok(out)
}

/// The fields of an object, without tag and length of their own.
struct Fields<'o> {
    message: &'static Message,
    out: &'o mut Vec<u8>,
}

/// Embedded structs, outermost first, whose fields stand among the object's own.
type Embedded = [u32; 2];
const OWN: Embedded = [0, 0];

/// Finds where a JSON name belongs.
struct Name(&'static Message);

fn find(message: &'static Message, name: &str, depth: usize) -> Option<(Embedded, &'static Field)> {
    if let Some(field) = message.fields.iter().find(|field| field.name == name && !field.inline) {
        return Some((OWN, field));
    }
    if depth == OWN.len() {
        return None;
    }
    message.fields.iter().filter(|field| field.inline).find_map(|outer| {
        let (inner, field) = find(outer.message()?, name, depth + 1)?;
        Some(([outer.tag, inner[0]], field))
    })
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<(Embedded, &'static Field)>;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}
impl Visitor<'_> for Name {
    type Value = Option<(Embedded, &'static Field)>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(find(self.0, name, 0))
    }
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}
impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object of type {}", self.message.short_name())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut embedded: Vec<(Embedded, Vec<u8>)> = Vec::new();
        while let Some(found) = map.next_key_seed(Name(self.message))? {
            match found {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some((OWN, field)) => map.next_value_seed(InField { field, out: self.out })?,
                Some((place, field)) => {
                    let out = part(&mut embedded, place);
                    map.next_value_seed(InField { field, out })?;
                }
            }
        }
        for ([outer, inner], bytes) in std::mem::take(&mut embedded) {
            if inner == 0 {
                part(&mut embedded, [outer, 0]).extend(bytes);
            } else if !bytes.is_empty() {
                put_bytes(part(&mut embedded, [outer, 0]), inner, &bytes);
            }
        }
        for ([outer, _], bytes) in embedded.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            put_bytes(self.out, *outer, bytes);
        }
        Ok(())
    }
}

fn part(parts: &mut Vec<(Embedded, Vec<u8>)>, place: Embedded) -> &mut Vec<u8> {
    let index = parts.iter().position(|(at, _)| *at == place).unwrap_or_else(|| {
        parts.push((place, Vec::new()));
        parts.len() - 1
    });
    &mut parts[index].1
}

/// A field's whole value: one, a list or a map; null is absence.
struct InField<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for InField<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        match self.field.shape {
            Shape::Single => {
                let field = self.field;
                One { field, tag: field.tag, is_item: false, out: self.out }.deserialize(reader)
            }
            Shape::List | Shape::Map => reader.deserialize_any(self),
        }
    }
}
impl<'de> Visitor<'de> for InField<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list or map for {}", self.field.name)
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let InField { field, out } = self;
        while items.next_element_seed(One { field, tag: field.tag, is_item: true, out })?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<str>>()? {
            let start = wire::begin(self.out, self.field.tag);
            put_bytes(self.out, 1, key.as_bytes());
            map.next_value_seed(One { field: self.field, tag: 2, is_item: true, out: self.out })?;
            wire::finish(self.out, start);
        }
        Ok(())
    }
}

/// One value of a field, under a tag.
struct One<'o> {
    field: &'static Field,
    tag: u32,
    /// Of a list or a map, where null is a value too.
    is_item: bool,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        use serde::Deserialize;
        let Some(message) = self.field.message() else { return reader.deserialize_any(self) };
        match message.special {
            Special::Plain
            | Special::Time
            | Special::MicroTime
            | Special::Duration
            | Special::Quantity
            | Special::IntOrString => reader.deserialize_any(self),
            Special::RawExtension | Special::FieldsV1 | Special::Json => {
                let raw = <&RawValue>::deserialize(reader)?.get();
                if raw == "null" {
                    return self.visit_unit();
                }
                let start = wire::begin(self.out, self.tag);
                put_bytes(self.out, 1, raw.as_bytes());
                wire::finish(self.out, start);
                Ok(())
            }
            Special::Items | Special::SchemaOrArray | Special::SchemaOrBool | Special::SchemaOrStrings => {
                let value = Value::deserialize(reader)?;
                self.general(&value, message)
            }
        }
    }
}

impl One<'_> {
    /// By way of the general encoder, for shapes that are rare or small.
    fn general<E: serde::de::Error>(self, value: &Value, message: &'static Message) -> Result<(), E> {
        if value.is_null() {
            return self.visit_unit();
        }
        put_bytes(self.out, self.tag, &encode::message(value, message).map_err(E::custom)?);
        Ok(())
    }
    fn number<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        match (self.field.scalar, self.field.message()) {
            (Scalar::Int32 | Scalar::Int64, _) => put_number(self.out, self.tag, value),
            (Scalar::Double, _) => put_double(self.out, self.tag, value as f64),
            (_, Some(message)) => return self.general(&value.into(), message),
            _ => return Err(E::custom(format!("{}: a number is not expected", self.field.name))),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a value of {}", self.field.name)
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        if self.is_item {
            encode::zero(self.field, self.tag, self.out);
        }
        Ok(())
    }
    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        if self.field.scalar != Scalar::Bool {
            return Err(E::custom(format!("{}: a boolean is not expected", self.field.name)));
        }
        put_number(self.out, self.tag, i64::from(value));
        Ok(())
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.number(value)
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        let value = i64::try_from(value).map_err(|_| E::custom(format!("{}: too large", self.field.name)))?;
        self.number(value)
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        match self.field.message() {
            None if self.field.scalar == Scalar::Double => put_double(self.out, self.tag, value),
            Some(message) => return self.general(&value.into(), message),
            None => return Err(E::custom(format!("{}: expected a whole number", self.field.name))),
        }
        Ok(())
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match self.field.scalar {
            Scalar::Text => put_bytes(self.out, self.tag, text.as_bytes()),
            Scalar::Bytes => {
                let bytes = STANDARD.decode(text).map_err(E::custom)?;
                put_bytes(self.out, self.tag, &bytes);
            }
            _ => {
                let Some(message) = self.field.message() else {
                    return Err(E::custom(format!("{}: a string is not expected", self.field.name)));
                };
                return self.general(&text.into(), message);
            }
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Some(message) = self.field.message() else {
            return Err(A::Error::custom(format!("{}: an object is not expected", self.field.name)));
        };
        let start = wire::begin(self.out, self.tag);
        Fields { message, out: self.out }.visit_map(map)?;
        wire::finish(self.out, start);
        Ok(())
    }
}
