//! Walks over a value with its schema: which fields it sets, how two values differ, how an applied
//! configuration merges into the live object, and what is left when fields are removed.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields::{Fields, field_element};
use crate::schema::{ListKind, Node, NodeKind, Shape};

/// How a value is treated at a node: the schema's word, or deduced from the value.
enum Form {
    Leaf,
    Map,
    List { kind: ListKind, keys: Vec<String> },
}

fn form(node: &Node<'_>, value: &Value) -> Form {
    match (node.kind(), value) {
        (NodeKind::Scalar | NodeKind::Map { atomic: true }, _) => Form::Leaf,
        (NodeKind::List { kind: ListKind::Atomic, .. }, _) => Form::Leaf,
        (NodeKind::Map { .. } | NodeKind::Deduced, Value::Object(_)) => Form::Map,
        (NodeKind::List { kind, keys }, Value::Array(_)) => Form::List { kind, keys },
        _ => Form::Leaf,
    }
}

/// A struct's fields are declared; entries of maps and items of lists exist by being there.
fn is_struct(node: &Node<'_>) -> bool {
    match node {
        Node::Message(_) => true,
        Node::Field(field) => field.shape == Shape::Single,
        Node::Structural(schema) => schema.get("properties").is_some(),
        _ => false,
    }
}

/// The path element of a list's item.
fn item_element(item: &Value, index: usize, node: &Node<'_>, kind: ListKind, keys: &[String]) -> String {
    if kind == ListKind::Set {
        return format!("v:{item}");
    }
    let mut found = Map::new();
    for key in keys {
        match item.get(key).cloned().or_else(|| node.item().key_default(key)) {
            Some(value) => found.insert(key.clone(), value),
            None => continue,
        };
    }
    if found.is_empty() { format!("i:{index}") } else { format!("k:{}", Value::Object(found)) }
}

fn elements(list: &[Value], node: &Node<'_>, kind: ListKind, keys: &[String]) -> Vec<String> {
    list.iter().enumerate().map(|(i, item)| item_element(item, i, node, kind, keys)).collect()
}

/// Every field an applied configuration sets.
pub(super) fn field_set(value: &Value, node: &Node<'_>, set: &mut Fields) {
    match (form(node, value), value) {
        (Form::Map, Value::Object(map)) => {
            let declared = is_struct(node);
            for (key, child) in map {
                let below = set.at_mut(&field_element(key));
                field_set(child, &node.child(key).unwrap_or(Node::Deduced), below);
                let empty = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                if empty || !declared {
                    below.insert_here();
                }
            }
        }
        (Form::List { kind, keys }, Value::Array(list)) => {
            for (item, element) in list.iter().zip(elements(list, node, kind, &keys)) {
                let below = set.at_mut(&element);
                field_set(item, &node.item(), below);
                below.insert_here();
            }
        }
        _ => set.insert_here(),
    }
}

#[derive(Default, Debug)]
pub(super) struct Comparison {
    pub added: Fields,
    pub modified: Fields,
    pub removed: Fields,
}

impl Comparison {
    fn attach(&mut self, element: String, below: Comparison) {
        // Mostly one of the three has something.
        let Comparison { added, modified, removed } = below;
        if !removed.is_empty() {
            self.removed.attach(element.clone(), removed);
        }
        if !added.is_empty() {
            self.added.attach(element.clone(), added);
        }
        self.modified.attach(element, modified);
    }
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
    /// Added or modified.
    pub fn changed(&self) -> Fields {
        let mut changed = self.added.clone();
        changed.union(&self.modified);
        changed
    }
    pub fn exclude(&mut self, ignored: &Fields) {
        self.added.subtract_below(ignored);
        self.modified.subtract_below(ignored);
        self.removed.subtract_below(ignored);
    }
}

/// What is new, changed and gone in `right`, seen from the place both stand at.
pub(super) fn compare(left: &Value, right: &Value, node: &Node<'_>) -> Comparison {
    let mut found = Comparison::default();
    if left == right {
        return found;
    }
    match (form(node, left), left, form(node, right), right) {
        (Form::Map, Value::Object(l), Form::Map, Value::Object(r)) if !(l.is_empty() && r.is_empty()) => {
            for (key, value) in l {
                let child = node.child(key).unwrap_or(Node::Deduced);
                match r.get(key) {
                    Some(other) if other == value => {}
                    Some(other) => found.attach(field_element(key), compare(value, other, &child)),
                    None => found.removed.attach(field_element(key), only(value, &child, false)),
                }
            }
            for (key, value) in r.iter().filter(|(k, _)| !l.contains_key(*k)) {
                let child = node.child(key).unwrap_or(Node::Deduced);
                found.added.attach(field_element(key), only(value, &child, false));
            }
        }
        (Form::List { kind, keys }, Value::Array(l), Form::List { .. }, Value::Array(r)) => {
            compare_lists(l, r, node, kind, &keys, &mut found);
        }
        _ => found.modified.insert_here(),
    }
    found
}

fn compare_lists(
    left: &[Value],
    right: &[Value],
    node: &Node<'_>,
    kind: ListKind,
    keys: &[String],
    found: &mut Comparison,
) {
    let item = node.item();
    // Of items with the same key the first counts.
    let index = |list: &[Value]| -> BTreeMap<String, usize> {
        let all = elements(list, node, kind, keys).into_iter().enumerate().rev();
        all.map(|(i, element)| (element, i)).collect()
    };
    let mut r = index(right);
    for (element, at) in index(left) {
        match r.remove(&element) {
            Some(other) => found.attach(element, compare(&left[at], &right[other], &item)),
            None => found.removed.attach(element, only(&left[at], &item, true)),
        }
    }
    for (element, at) in r {
        found.added.attach(element, only(&right[at], &item, true));
    }
}

/// Every field of a value only one side has.
fn only(value: &Value, node: &Node<'_>, is_item: bool) -> Fields {
    let mut fields = Fields::default();
    let leaf = match (form(node, value), value) {
        (Form::Map, Value::Object(map)) => {
            for (key, child) in map {
                let below = only(child, &node.child(key).unwrap_or(Node::Deduced), false);
                fields.attach(field_element(key), below);
            }
            // A struct is there because its fields are; saying so for each would only add noise.
            map.is_empty() || !is_struct(node) || is_item
        }
        (Form::List { kind, keys }, Value::Array(list)) => {
            for (item, element) in list.iter().zip(elements(list, node, kind, &keys)) {
                fields.attach(element, only(item, &node.item(), true));
            }
            list.is_empty()
        }
        _ => true,
    };
    if leaf {
        fields.insert_here();
    }
    fields
}

/// The live object with the configuration laid over it.
pub(super) fn merge(left: &Value, right: &Value, node: &Node<'_>) -> Value {
    match (form(node, left), left, form(node, right), right) {
        (Form::Map, Value::Object(l), Form::Map, Value::Object(r)) => {
            let mut merged = l.clone();
            for (key, value) in r {
                let new = match l.get(key) {
                    Some(old) => merge(old, value, &node.child(key).unwrap_or(Node::Deduced)),
                    None => value.clone(),
                };
                merged.insert(key.clone(), new);
            }
            Value::Object(merged)
        }
        (Form::List { kind, keys }, Value::Array(l), Form::List { .. }, Value::Array(r)) => {
            Value::Array(merge_lists(l, r, node, kind, &keys))
        }
        _ => right.clone(),
    }
}

/// Items of the configuration come in its order; items only the live list has keep their place
/// relative to the shared ones.
fn merge_lists(
    left: &[Value],
    right: &[Value],
    node: &Node<'_>,
    kind: ListKind,
    keys: &[String],
) -> Vec<Value> {
    let (l, r) = (elements(left, node, kind, keys), elements(right, node, kind, keys));
    let item = node.item();
    let mut shared = r.iter().filter(|e| l.contains(e));
    let mut next_shared = shared.next();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut at_left, mut at_right) = (0, 0);
    while at_left < l.len() || at_right < r.len() {
        if let Some(element) = l.get(at_left) {
            if !r.contains(element) {
                merged.push(left[at_left].clone());
                at_left += 1;
                continue;
            }
            if at_right < r.len() && next_shared != Some(element) {
                // Shared, but its turn comes by the other list's order.
                at_left += 1;
                continue;
            }
        }
        let Some(element) = r.get(at_right) else {
            at_left += 1;
            continue;
        };
        let old = l.iter().position(|e| e == element);
        merged.push(match old {
            Some(old) => merge(&left[old], &right[at_right], &item),
            None => right[at_right].clone(),
        });
        if l.get(at_left) == Some(element) {
            at_left += 1;
        }
        if next_shared == Some(element) {
            next_shared = shared.next();
        }
        at_right += 1;
    }
    merged
}

/// The value without the members of `remove`; `None` where nothing is left of a map or list.
pub(super) fn remove_items(value: &Value, remove: &Fields, node: &Node<'_>) -> Option<Value> {
    if remove.is_empty() {
        return Some(value.clone());
    }
    match (form(node, value), value) {
        (Form::Map, Value::Object(map)) => {
            let mut kept = Map::new();
            for (key, child) in map {
                let below = remove.child(&field_element(key));
                if let Some(child) = keep(child, below, &node.child(key).unwrap_or(Node::Deduced)) {
                    kept.insert(key.clone(), child);
                }
            }
            (!kept.is_empty() || map.is_empty()).then_some(Value::Object(kept))
        }
        (Form::List { kind, keys }, Value::Array(list)) => {
            let named = list.iter().zip(elements(list, node, kind, &keys));
            let kept: Vec<Value> = named
                .filter_map(|(item, element)| keep(item, remove.child(&element), &node.item()))
                .collect();
            (!kept.is_empty() || list.is_empty()).then_some(Value::Array(kept))
        }
        _ => Some(value.clone()),
    }
}

fn keep(value: &Value, remove: Option<&Fields>, node: &Node<'_>) -> Option<Value> {
    match remove {
        None => Some(value.clone()),
        Some(fields) if fields.contains_here() => None,
        Some(fields) => remove_items(value, fields, node),
    }
}

/// What is wrong with a configuration, in structured-merge-diff's words.
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
            _ => {}
        }
    }

    fn list(&mut self, list: &[Value], node: &Node<'_>, kind: ListKind, keys: &[String]) {
        let item_node = node.item();
        let mut seen = Vec::new();
        for (index, item) in list.iter().enumerate() {
            let element = match kind {
                ListKind::Atomic => format!("i:{index}"),
                _ => item_element(item, index, node, kind, keys),
            };
            if kind == ListKind::Map
                && let Some(key) =
                    keys.iter().find(|k| item.get(*k).is_none() && item_node.key_default(k).is_none())
            {
                self.fault(&format!(
                    "element {index}: associative list with keys has an element that omits key field \"{key}\" (and \
                     doesn't have default value)"
                ));
                continue;
            }
            if kind != ListKind::Atomic && seen.contains(&element) {
                let text = super::fields::path_text(std::slice::from_ref(&element));
                self.fault(&format!("duplicate entries for key {text}"));
                continue;
            }
            self.path.push(element.clone());
            self.check(item, &item_node);
            self.path.pop();
            seen.push(element);
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(60).collect()
}
