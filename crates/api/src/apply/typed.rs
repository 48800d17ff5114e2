//! Walks over a value with its schema: which fields it sets, how two values differ, how an applied
//! configuration merges into the live object, and what is left when fields are removed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::LazyLock;

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
pub(super) fn is_struct(node: &Node<'_>) -> bool {
    match node {
        Node::Message(_) => true,
        Node::Field(field) => field.shape == Shape::Single,
        Node::Structural(schema) => schema.get("properties").is_some(),
        _ => false,
    }
}

/// The path element of a list's item.
pub(super) fn item_element(
    item: &Value,
    index: usize,
    node: &Node<'_>,
    kind: ListKind,
    keys: &[String],
) -> String {
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

fn counted(elements: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for element in elements {
        *counts.entry(element.as_str()).or_insert(0) += 1;
    }
    counts
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
            let named = elements(list, node, kind, &keys);
            let counts = counted(&named);
            for (item, element) in list.iter().zip(&named) {
                let below = set.at_mut(element);
                // Items that cannot be told apart are owned together.
                if counts[element.as_str()] == 1 {
                    field_set(item, &node.item(), below);
                }
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
    /// Added or modified.
    pub fn changed(&self) -> Cow<'_, Fields> {
        if self.modified.is_blank() {
            return Cow::Borrowed(&self.added);
        }
        let mut changed = self.added.clone();
        changed.union(&self.modified);
        Cow::Owned(changed)
    }
    /// The same, where the rest is not needed any more.
    pub fn into_changed(self) -> Fields {
        let mut changed = self.added;
        if changed.is_blank() {
            return self.modified;
        }
        changed.union(&self.modified);
        changed
    }
    pub fn each(&mut self, change: impl Fn(&mut Fields)) {
        change(&mut self.added);
        change(&mut self.modified);
        change(&mut self.removed);
    }
    /// Takes over what was found below an element.
    fn attach(&mut self, element: impl Fn() -> String, below: Comparison) {
        let Comparison { added, modified, removed } = below;
        // Most places know one kind of change; the others leave no trace.
        for (ours, theirs) in
            [(&mut self.added, added), (&mut self.modified, modified), (&mut self.removed, removed)]
        {
            if !theirs.is_blank() {
                ours.attach(element(), theirs);
            }
        }
    }
    /// What differs between the items of one key; several that share it are one thing.
    fn items(&mut self, left: &[&Value], right: &[&Value], item: &Node<'_>) {
        match (left.len(), right.len()) {
            (0 | 1, 0 | 1) => {
                self.values(left.first().copied(), right.first().copied(), item, false);
            }
            (0 | 1, _) => {
                if let Some(one) = left.first() {
                    self.values(Some(one), None, item, false);
                }
                self.added.insert_here();
            }
            (_, 0 | 1) => {
                if let Some(one) = right.first() {
                    self.values(None, Some(one), item, false);
                }
                self.removed.insert_here();
            }
            _ if left != right => self.modified.insert_here(),
            _ => {}
        }
    }
    /// `held`: the original's types hold the struct here by value, so that it is always there.
    fn values(&mut self, left: Option<&Value>, right: Option<&Value>, node: &Node<'_>, held: bool) {
        if left == right {
            return;
        }
        match (contents(left, node), contents(right, node)) {
            (Contents::Map(l), Contents::Map(r)) => self.maps(Some(l), Some(r), node, held),
            (Contents::List(l), Contents::List(r)) => self.lists(l, r, node),
            (l, r) if l.is_container() || r.is_container() => {
                // A leaf became a container or the reverse: both sides are told.
                if matches!(l, Contents::Leaf) || matches!(r, Contents::Leaf) {
                    self.modified.insert_here();
                }
                self.one_sided(l, node, held, true);
                self.one_sided(r, node, held, false);
                self.presence(left, right, held);
            }
            _ if left.is_some() && right.is_some() => self.modified.insert_here(),
            _ => self.presence(left, right, held),
        }
    }

    fn presence(&mut self, left: Option<&Value>, right: Option<&Value>, held: bool) {
        let always_there = |value: &Value| held && value.is_object();
        match (left, right) {
            (None, Some(new)) if !always_there(new) => self.added.insert_here(),
            (Some(old), None) if !always_there(old) => self.removed.insert_here(),
            _ => {}
        }
    }

    fn one_sided(&mut self, contents: Contents<'_>, node: &Node<'_>, held: bool, left: bool) {
        match (contents, left) {
            (Contents::Nothing | Contents::Leaf, _) => {}
            (Contents::Map(map), true) => self.maps(Some(map), None, node, held),
            (Contents::Map(map), false) => self.maps(None, Some(map), node, held),
            (Contents::List(list), true) => self.lists(list, &[], node),
            (Contents::List(list), false) => self.lists(&[], list, node),
        }
    }

    fn maps(
        &mut self,
        left: Option<&Map<String, Value>>,
        right: Option<&Map<String, Value>>,
        node: &Node<'_>,
        held: bool,
    ) {
        let in_left = |key: &str| left.and_then(|l| l.get(key));
        let in_right = |key: &str| right.and_then(|r| r.get(key));
        let only_right = right.into_iter().flatten().map(|(k, _)| k).filter(|k| in_left(k).is_none());
        for key in left.into_iter().flatten().map(|(k, _)| k).chain(only_right) {
            let child = node.child(key).unwrap_or(Node::Deduced);
            let held = held && node.holds_by_value(key);
            let mut below = Comparison::default();
            below.values(in_left(key), in_right(key), &child, held);
            self.attach(|| field_element(key), below);
        }
    }

    fn lists(&mut self, left: &[Value], right: &[Value], node: &Node<'_>) {
        let NodeKind::List { kind, keys } = node.kind() else { return };
        let group = |list: &[Value]| -> BTreeMap<String, Vec<usize>> {
            let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (index, element) in elements(list, node, kind, &keys).into_iter().enumerate() {
                groups.entry(element).or_default().push(index);
            }
            groups
        };
        let (l, mut r) = (group(left), group(right));
        let item = node.item();
        for (element, at) in l {
            let others = r.remove(&element).unwrap_or_default();
            let mut below = Comparison::default();
            below.items(&pick(left, &at), &pick(right, &others), &item);
            self.attach(|| element.clone(), below);
        }
        for (element, at) in r {
            let mut below = Comparison::default();
            below.items(&[], &pick(right, &at), &item);
            self.attach(|| element.clone(), below);
        }
    }
}

/// What is new, changed and gone in `right`, both being whole objects. Nobody owns the list of
/// owners, so that it is left out.
pub(super) fn compare(left: &Value, right: &Value, node: &Node<'_>) -> Comparison {
    let mut found = Comparison::default();
    found.values(Some(left), Some(right), node, true);
    found.each(|fields| fields.subtract(&MANAGED_FIELDS));
    found
}

static MANAGED_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let mut fields = Fields::default();
    fields.insert(&[field_element("metadata"), field_element("managedFields")]);
    fields
});

fn pick<'a>(list: &'a [Value], at: &[usize]) -> Vec<&'a Value> {
    at.iter().map(|i| &list[*i]).collect()
}

/// What a value holds that has owners of its own.
enum Contents<'a> {
    /// Absent, null or an empty container.
    Nothing,
    Leaf,
    Map(&'a Map<String, Value>),
    List(&'a [Value]),
}

impl Contents<'_> {
    fn is_container(&self) -> bool {
        matches!(self, Contents::Map(_) | Contents::List(_))
    }
}

fn contents<'a>(value: Option<&'a Value>, node: &Node<'_>) -> Contents<'a> {
    let Some(value) = value else { return Contents::Nothing };
    match (form(node, value), value) {
        (_, Value::Null) => Contents::Nothing,
        (Form::Map, Value::Object(map)) if map.is_empty() => Contents::Nothing,
        (Form::List { .. }, Value::Array(list)) if list.is_empty() => Contents::Nothing,
        (Form::Map, Value::Object(map)) => Contents::Map(map),
        (Form::List { .. }, Value::Array(list)) => Contents::List(list),
        _ => Contents::Leaf,
    }
}

/// The live object with the configuration laid over it.
pub(super) fn merge(left: &Value, right: &Value, node: &Node<'_>) -> Value {
    match (contents(Some(left), node), right) {
        // Nothing laid over something granular leaves it as it is.
        (Contents::Map(_) | Contents::List(_), Value::Null) => left.clone(),
        (Contents::Map(l), Value::Object(r)) => {
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
        (Contents::List(l), Value::Array(r)) => Value::Array(merge_lists(l, r, node)),
        _ => right.clone(),
    }
}

/// Items of the configuration come in its order; items only the live list has keep their place
/// relative to the shared ones.
fn merge_lists(left: &[Value], right: &[Value], node: &Node<'_>) -> Vec<Value> {
    let NodeKind::List { kind, keys } = node.kind() else { return right.to_vec() };
    let (l, r) = (elements(left, node, kind, &keys), elements(right, node, kind, &keys));
    let item = node.item();
    let (in_left, in_right) = (places(&l), places(&r));
    let mut shared: VecDeque<&String> = r.iter().filter(|e| in_left.contains_key(e.as_str())).collect();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut at_left, mut at_right) = (0, 0);
    while at_left < l.len() || at_right < r.len() {
        let together = at_left < l.len() && l.get(at_left) == r.get(at_right);
        if let (false, Some(element)) = (together, l.get(at_left)) {
            if !in_right.contains_key(element.as_str()) {
                merged.push(left[at_left].clone());
                at_left += 1;
                continue;
            }
            if at_right < r.len() && shared.front().is_some_and(|next| *next != element) {
                // Shared, but its turn comes by the configuration's order.
                at_left += 1;
                continue;
            }
            at_left += usize::from(taken.contains(element.as_str()));
        }
        let Some(element) = r.get(at_right) else { continue };
        // Of several items with one key none is merged into.
        let old = in_left.get(element.as_str()).and_then(|at| *at);
        merged.push(
            old.map_or_else(|| right[at_right].clone(), |old| merge(&left[old], &right[at_right], &item)),
        );
        taken.insert(element);
        at_left += usize::from(together);
        if shared.front() == Some(&element) {
            shared.pop_front();
        }
        at_right += 1;
    }
    merged
}

/// Where each element stands; `None` where it does so more than once.
fn places(elements: &[String]) -> BTreeMap<&str, Option<usize>> {
    let mut places: BTreeMap<&str, Option<usize>> = BTreeMap::new();
    for (index, element) in elements.iter().enumerate() {
        places.entry(element).and_modify(|at| *at = None).or_insert(Some(index));
    }
    places
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
