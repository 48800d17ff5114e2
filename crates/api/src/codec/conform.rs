//! Makes a value fit its type the way decoding into a Go struct does: undeclared fields go, nulls,
//! empty lists and maps and zeros that Go does not know from absent fields vanish, quantities and times take their canonical form, and a value of
//! the wrong type is an error in Go's words.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::times::{canonical_duration, canonical_micro_time, canonical_time};
use crate::field::go_quote;
use crate::go_text::json_type;
use crate::quantity;
use crate::schema::{Field, Message, Scalar, Shape, Special};

/// Values nest at most this deep; what was parsed never does deeper, what patches made may.
const MAX_DEPTH: usize = 120;

/// Fits `value` to `message`; returns the undeclared fields removed, as `unknown field "..."`.
pub fn conform(value: &mut Value, message: &'static Message) -> Result<Vec<String>, String> {
    let mut walk = Walk { names: Vec::new(), path: String::new(), unknown: Vec::new(), depth: 0 };
    walk.message(value, message, None)?;
    Ok(walk.unknown)
}

/// The struct and field a type error names.
#[derive(Clone, Copy)]
struct Place {
    owner: &'static Message,
    field: &'static Field,
}

struct Walk {
    /// Field names without indices, for type errors.
    names: Vec<String>,
    /// With indices, for unknown fields.
    path: String,
    unknown: Vec<String>,
    depth: usize,
}

impl Walk {
    fn mismatch(&self, value: &Value, go_type: &str, place: Option<Place>) -> String {
        let shown = match value {
            Value::Number(n) if go_type.starts_with("int") => format!("number {n}"),
            other => json_type(other).to_owned(),
        };
        match place {
            Some(place) => {
                let owner = place.owner.short_name();
                let path = self.names.join(".");
                format!(
                    "json: cannot unmarshal {shown} into Go struct field {owner}.{path} of type {go_type}"
                )
            }
            None => format!("json: cannot unmarshal {shown} into Go value of type {go_type}"),
        }
    }

    fn message(
        &mut self,
        value: &mut Value,
        message: &'static Message,
        place: Option<Place>,
    ) -> Result<(), String> {
        match message.special {
            Special::Plain => self.object(value, message, place),
            Special::RawExtension | Special::FieldsV1 | Special::Json => Ok(()),
            Special::Quantity => quantity(value)
                .map_err(|e| e.unwrap_or_else(|| self.mismatch(value, "resource.Quantity", place))),
            Special::IntOrString => self.int_or_string(value, place),
            Special::Time => self.time(value, place, canonical_time),
            Special::MicroTime => self.time(value, place, canonical_micro_time),
            Special::Duration => self.time(value, place, canonical_duration),
            Special::Items => self.strings(value, place),
            Special::SchemaOrArray => match value {
                Value::Array(items) => items.iter_mut().try_for_each(|i| self.schema_or(i, message, place)),
                _ => self.schema_or(value, message, place),
            },
            Special::SchemaOrBool | Special::SchemaOrStrings => match value {
                Value::Object(_) => self.schema_or(value, message, place),
                _ => Ok(()),
            },
        }
    }

    /// The schema inside one of the JSONSchemaPropsOr types is their first message field.
    fn schema_or(
        &mut self,
        value: &mut Value,
        message: &'static Message,
        place: Option<Place>,
    ) -> Result<(), String> {
        match message.fields.iter().find_map(Field::message) {
            Some(schema) => self.message(value, schema, place),
            None => Ok(()),
        }
    }

    fn object(
        &mut self,
        value: &mut Value,
        message: &'static Message,
        place: Option<Place>,
    ) -> Result<(), String> {
        if !value.is_object() {
            return Err(self.mismatch(value, &message.go_name(), place));
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        let Value::Object(map) = value else { return Ok(()) };
        let entries = std::mem::take(map);
        for (key, mut child) in entries {
            if child.is_null() {
                continue;
            }
            if message.is_root() && matches!(key.as_str(), "apiVersion" | "kind") {
                map.insert(key, child);
                continue;
            }
            let length = self.enter(&key);
            match message.field(&key) {
                None => self.unknown.push(format!("unknown field {}", go_quote(&self.path))),
                Some(field) => {
                    self.field(&mut child, Place { owner: message, field })?;
                    let unset = field.is_zero(&child) && !message.zero_matters(field);
                    let empty = child.as_array().is_some_and(Vec::is_empty)
                        || (field.shape == Shape::Map && child.as_object().is_some_and(Map::is_empty));
                    // An empty list of managed fields asks for them to be forgotten.
                    if !unset && (!empty || field.required || field.name == "managedFields") {
                        map.insert(key, child);
                    }
                }
            }
            self.leave(length);
        }
        self.depth -= 1;
        Ok(())
    }

    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        self.names.push(key.to_owned());
        length
    }

    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
        self.names.pop();
    }

    fn field(&mut self, value: &mut Value, place: Place) -> Result<(), String> {
        match place.field.shape {
            Shape::Single => self.single(value, place),
            Shape::List => {
                let Value::Array(items) = value else {
                    return Err(self.mismatch(value, &format!("[]{}", go_type(place.field)), Some(place)));
                };
                let length = self.path.len();
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{index}]"));
                    self.element(item, place)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
            Shape::Map => {
                let Value::Object(entries) = value else {
                    return Err(self.mismatch(
                        value,
                        &format!("map[string]{}", go_type(place.field)),
                        Some(place),
                    ));
                };
                for (key, item) in entries.iter_mut() {
                    let length = self.path.len();
                    self.path.push('.');
                    self.path.push_str(key);
                    self.element(item, place)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
        }
    }

    /// A list item or map value; null becomes the type's zero value.
    fn element(&mut self, value: &mut Value, place: Place) -> Result<(), String> {
        if value.is_null() {
            *value = zero(place.field);
        }
        if value.is_null() { Ok(()) } else { self.single(value, place) }
    }

    fn single(&mut self, value: &mut Value, place: Place) -> Result<(), String> {
        if let Some(message) = place.field.message() {
            return self.message(value, message, Some(place));
        }
        let fits = match place.field.scalar {
            Scalar::Bool => value.is_boolean(),
            Scalar::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            Scalar::Int64 => value.is_i64() || value.as_u64().is_some_and(|n| i64::try_from(n).is_ok()),
            Scalar::Double => value.is_number(),
            Scalar::Text => value.is_string(),
            Scalar::Bytes => return self.bytes(value, place),
            Scalar::Msg(_) => true,
        };
        if fits { Ok(()) } else { Err(self.mismatch(value, &go_type(place.field), Some(place))) }
    }

    fn bytes(&mut self, value: &mut Value, place: Place) -> Result<(), String> {
        let Value::String(text) = value else {
            return Err(self.mismatch(value, "[]uint8", Some(place)));
        };
        let plain: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        let bytes = STANDARD.decode(&plain).map_err(|e| {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _) => at,
                _ => plain.len(),
            };
            format!("illegal base64 data at input byte {at}")
        })?;
        *text = STANDARD.encode(bytes);
        Ok(())
    }

    fn int_or_string(&mut self, value: &Value, place: Option<Place>) -> Result<(), String> {
        match value {
            Value::String(_) => Ok(()),
            Value::Number(n) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
            other => Err(self.mismatch(other, "int32", place)),
        }
    }

    fn strings(&mut self, value: &mut Value, place: Option<Place>) -> Result<(), String> {
        match value {
            Value::Array(items) if items.iter().all(Value::is_string) => Ok(()),
            other => Err(self.mismatch(other, "[]string", place)),
        }
    }

    fn time(
        &mut self,
        value: &mut Value,
        place: Option<Place>,
        canonical: fn(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        let Value::String(text) = value else { return Err(self.mismatch(value, "string", place)) };
        *text = canonical(text)?;
        Ok(())
    }
}

/// `Err(None)` is a wrong JSON type.
fn quantity(value: &mut Value) -> Result<(), Option<String>> {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(None),
    };
    *value = Value::String(quantity::canonical(text.trim()).map_err(|e| Some(e.to_string()))?);
    Ok(())
}

fn go_type(field: &Field) -> String {
    match field.scalar {
        Scalar::Bool => "bool".to_owned(),
        Scalar::Int32 => "int32".to_owned(),
        Scalar::Int64 => "int64".to_owned(),
        Scalar::Double => "float64".to_owned(),
        Scalar::Text => "string".to_owned(),
        Scalar::Bytes => "[]uint8".to_owned(),
        Scalar::Msg(_) => field.message().map(Message::go_name).unwrap_or_default(),
    }
}

fn zero(field: &Field) -> Value {
    match (field.scalar, field.message()) {
        (Scalar::Bool, _) => Value::Bool(false),
        (Scalar::Int32 | Scalar::Int64 | Scalar::Double, _) => 0.into(),
        (Scalar::Text | Scalar::Bytes, _) => "".into(),
        (_, Some(message)) if message.special == Special::Plain => Value::Object(Map::new()),
        (_, Some(message)) if message.special == Special::Quantity => "0".into(),
        _ => Value::Null,
    }
}
