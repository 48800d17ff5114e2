//! What is wrong with an applied configuration, in structured-merge-diff's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fields::field_element;
use super::typed::item_element;
use crate::schema::{ListKind, Node, NodeKind, Scalar};

pub(super) fn faults(value: &Value, node: &Node<'_>) -> Vec<String> {
    let mut walk = Check { path: Vec::new(), faults: Vec::new() };
    walk.check(value, node);
    walk.faults
}

struct Check {
    path: Vec<String>,
    faults: Vec<String>,
}

/// Faults listed of one configuration.
const MAX_FAULTS: usize = 100;

impl Check {
    fn fault(&mut self, text: &str) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(format!("{}: {text}", super::fields::path_text(&self.path)));
        }
    }

    fn check(&mut self, value: &Value, node: &Node<'_>) {
        match (node.kind(), value) {
            (_, Value::Null) => {}
            (NodeKind::Map { .. } | NodeKind::Deduced, Value::Object(map)) => {
                for (key, child) in map {
                    self.path.push(field_element(key));
                    match node.child(key) {
                        Some(schema) => self.check(child, &schema),
                        None if node.preserves_unknown() => {}
                        None => self.fault("field not declared in schema"),
                    }
                    self.path.pop();
                }
            }
            (NodeKind::Map { .. }, other) => self.fault(&format!("expected map, got {}", shown(other))),
            (NodeKind::List { kind, keys }, Value::Array(list)) => self.list(list, node, kind, &keys),
            (NodeKind::List { .. }, other) => self.fault(&format!("expected list, got {}", shown(other))),
            (NodeKind::Scalar, value) => self.scalar(value, node),
            _ => {}
        }
    }

    fn scalar(&mut self, value: &Value, node: &Node<'_>) {
        let scalar = match node {
            Node::Field(field) => field.scalar,
            Node::Scalar(scalar) => *scalar,
            _ => return,
        };
        match (scalar, value) {
            (Scalar::Int32 | Scalar::Int64 | Scalar::Double, Value::Number(_))
            | (Scalar::Text | Scalar::Bytes, Value::String(_))
            | (Scalar::Bool, Value::Bool(_)) => {}
            (Scalar::Int32 | Scalar::Int64 | Scalar::Double, other) => {
                self.fault(&format!("expected numeric (int or float), got {}", go_type(other)));
            }
            (Scalar::Text | Scalar::Bytes, other) => {
                let value = shown(other);
                let value = value.trim_start_matches("&{").trim_end_matches('}');
                self.fault(&format!("expected string, got &value.valueUnstructured{{Value:{value}}}"));
            }
            (Scalar::Bool, other) => self.fault(&format!("expected boolean, got {}", shown(other))),
            (Scalar::Msg(_), Value::Object(_) | Value::Array(_)) => {
                self.fault(&format!("expected any scalar, got {}", shown(value)));
            }
            (Scalar::Msg(_), _) => {}
        }
    }

    fn list(&mut self, list: &[Value], node: &Node<'_>, kind: ListKind, keys: &[String]) {
        let item_node = node.item();
        let mut seen = BTreeSet::new();
        for (index, item) in list.iter().enumerate() {
            if let Some(why) = unnameable(item, &item_node, kind, keys) {
                // What cannot be named cannot be looked into, nor what comes after it.
                return self.fault(&format!("element {index}: {why}"));
            }
            let element = match kind {
                ListKind::Atomic => format!("i:{index}"),
                _ => item_element(item, index, node, kind, keys),
            };
            if kind != ListKind::Atomic && !seen.insert(element.clone()) {
                let text = super::fields::path_text(std::slice::from_ref(&element));
                self.fault(&format!("duplicate entries for key {text}"));
            }
            self.path.push(element);
            self.check(item, &item_node);
            self.path.pop();
        }
    }
}

/// Why an item has no path element.
fn unnameable(item: &Value, node: &Node<'_>, kind: ListKind, keys: &[String]) -> Option<String> {
    let why = match (kind, item) {
        (ListKind::Map, Value::Null) => "associative list with keys may not have a null element",
        (ListKind::Map, Value::Object(map)) => {
            let missing = |k: &&String| !map.contains_key(*k) && node.key_default(k).is_none();
            let key = keys.iter().find(missing)?;
            return Some(format!(
                "associative list with keys has an element that omits key field {} (and doesn't have default value)",
                crate::field::go_quote(key)
            ));
        }
        (ListKind::Map, _) => "associative list with keys may not have non-map elements",
        (ListKind::Set, Value::Object(_)) => "associative list without keys has an element that's a map type",
        (ListKind::Set, Value::Array(_)) => "not supported: associative list with lists as elements",
        (ListKind::Set, Value::Null) => {
            "associative list without keys has an element that's an explicit null"
        }
        _ => return None,
    };
    Some(why.to_owned())
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        Value::Null => "<nil>",
    }
}

/// How much of a wrong value a fault quotes.
const SHOWN_CHARACTERS: usize = 200;

fn shown(value: &Value) -> String {
    let text: String = crate::go_text::plain(value).chars().take(SHOWN_CHARACTERS).collect();
    format!("&{{{text}}}")
}
