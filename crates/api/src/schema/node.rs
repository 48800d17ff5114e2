//! One way to look at a schema, whatever it comes from: generated facts, a custom resource's
//! structural schema, or nothing but the value itself.

use serde_json::Value;

use super::facts::{Field, ListKind, Message, Scalar, Shape, Special, Strategy};
use super::overlay;

/// The schema at one place of an object.
#[derive(Clone, Copy, Debug)]
pub enum Node<'a> {
    Message(&'static Message),
    /// The value of a field, list or map included.
    Field(&'static Field),
    Scalar(Scalar),
    /// A structural schema (JSON) of a custom resource version.
    Structural(&'a Value),
    /// Nothing is known: maps are granular, lists atomic.
    Deduced,
}

/// How the value at a node is owned and merged.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    Scalar,
    /// A struct or map; atomic ones are owned as a whole.
    Map {
        atomic: bool,
    },
    List {
        kind: ListKind,
        keys: Vec<String>,
    },
    /// Look at the value.
    Deduced,
}

impl<'a> Node<'a> {
    /// The schema of a built-in kind, or a deduced one.
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Node<'static> {
        super::kind(group, version, kind).map_or(Node::Deduced, Node::Message)
    }

    pub fn kind(&self) -> NodeKind {
        match self {
            Node::Message(message) => message_kind(message, message.atomic),
            Node::Scalar(Scalar::Msg(_)) | Node::Deduced => NodeKind::Deduced,
            Node::Scalar(_) => NodeKind::Scalar,
            Node::Field(field) => field_kind(field),
            Node::Structural(schema) => structural_kind(schema),
        }
    }

    /// The schema of a named field or map value; `None` where no such field is declared.
    pub fn child(&self, name: &str) -> Option<Node<'a>> {
        match self {
            Node::Message(message) => message_child(message, name),
            Node::Field(field) if field.shape == Shape::Single => message_child(field.message()?, name),
            Node::Field(field) => Some(item_of(field)),
            Node::Scalar(_) => None,
            Node::Structural(schema) => structural_child(schema, name),
            Node::Deduced => Some(Node::Deduced),
        }
    }

    /// Whether the named struct is part of even the smallest object of this type.
    pub fn holds_by_value(&self, name: &str) -> bool {
        let message = match self {
            Node::Message(message) => Some(*message),
            Node::Field(field) if field.shape == Shape::Single => field.message(),
            _ => None,
        };
        message.is_some_and(|m| overlay::held_by_value(m.short_name(), m.is_root(), name))
    }

    /// The schema of a list's items.
    pub fn item(&self) -> Node<'a> {
        match self {
            Node::Field(field) => item_of(field),
            Node::Structural(schema) => schema.get("items").map_or(Node::Deduced, Node::Structural),
            _ => Node::Deduced,
        }
    }

    /// The default of a field that is a list key.
    pub fn key_default(&self, key: &str) -> Option<Value> {
        match self {
            Node::Message(message) => {
                let declared = message.field(key).map(|f| f.default).filter(|d| !d.is_empty());
                let text = declared.or_else(|| overlay::key_default(message.name, key))?;
                serde_json::from_str(text).ok()
            }
            Node::Structural(schema) => schema.pointer(&format!("/properties/{key}/default")).cloned(),
            _ => None,
        }
    }

    /// Merge key and strategy of a strategic merge patch.
    pub fn patch_facts(&self) -> (Strategy, &'static str) {
        match self {
            Node::Field(field) => (field.strategy, field.merge_key),
            _ => (Strategy::Unset, ""),
        }
    }

    /// Undeclared fields are kept below here.
    pub fn preserves_unknown(&self) -> bool {
        match self {
            Node::Structural(schema) => {
                schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
            }
            Node::Deduced => true,
            _ => false,
        }
    }
}

fn item_of(field: &'static Field) -> Node<'static> {
    field.message().map_or(Node::Scalar(field.scalar), Node::Message)
}

fn message_kind(message: &Message, atomic: bool) -> NodeKind {
    match message.special {
        Special::Plain => NodeKind::Map { atomic },
        Special::RawExtension | Special::FieldsV1 | Special::Json => NodeKind::Deduced,
        Special::Items => NodeKind::List { kind: ListKind::Atomic, keys: Vec::new() },
        _ => NodeKind::Scalar,
    }
}

fn field_kind(field: &'static Field) -> NodeKind {
    match (field.shape, field.message()) {
        (Shape::List, _) => {
            let keys = field.list_keys.iter().map(|k| (*k).to_owned()).collect();
            NodeKind::List { kind: field.list_kind, keys }
        }
        (Shape::Map, _) => NodeKind::Map { atomic: field.atomic },
        (Shape::Single, Some(message)) => message_kind(message, field.is_atomic()),
        (Shape::Single, None) => NodeKind::Scalar,
    }
}

fn message_child(message: &'static Message, name: &str) -> Option<Node<'static>> {
    if message.is_root() && matches!(name, "apiVersion" | "kind") {
        return Some(Node::Scalar(Scalar::Text));
    }
    match message.special {
        Special::Plain => message.field(name).map(Node::Field),
        _ => Some(Node::Deduced),
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

fn structural_kind(schema: &Value) -> NodeKind {
    let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    if flag(schema, "x-kubernetes-int-or-string") {
        return NodeKind::Scalar;
    }
    match text("type") {
        "object" => NodeKind::Map { atomic: text("x-kubernetes-map-type") == "atomic" },
        "array" => {
            let kind = match text("x-kubernetes-list-type") {
                "map" => ListKind::Map,
                "set" => ListKind::Set,
                _ => ListKind::Atomic,
            };
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            NodeKind::List { kind, keys }
        }
        "" => NodeKind::Deduced,
        _ => NodeKind::Scalar,
    }
}

fn structural_child<'a>(schema: &'a Value, name: &str) -> Option<Node<'a>> {
    if let Some(property) = schema.get("properties").and_then(|p| p.get(name)) {
        // Object metadata is declared as a bare object and yet has its fields.
        let bare = name == "metadata" && property.get("properties").is_none();
        return Some(if bare { Node::Message(super::object_meta()) } else { Node::Structural(property) });
    }
    if let Some(values @ Value::Object(_)) = schema.get("additionalProperties") {
        return Some(Node::Structural(values));
    }
    let open = flag(schema, "x-kubernetes-preserve-unknown-fields") || flag(schema, "additionalProperties");
    if open {
        return Some(Node::Deduced);
    }
    // The root's own fields are the same for every kind.
    let embedded = flag(schema, "x-kubernetes-embedded-resource") || schema.get("type").is_none();
    match name {
        "metadata" => Some(Node::Message(super::object_meta())),
        "apiVersion" | "kind" => Some(Node::Scalar(Scalar::Text)),
        _ if embedded => Some(Node::Deduced),
        _ => None,
    }
}
