//! Helpers every kind's cells are made with.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::duration::{age, human_duration};
use crate::selector::LabelSelector;

/// The object a row is made of, and the time ages count to.
pub(super) struct Object<'a> {
    pub value: &'a Value,
    pub now: Timestamp,
}

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";
/// Lists in one cell name this many items and count the rest.
pub(super) const LIST_MAX: usize = 3;

impl<'a> Object<'a> {
    pub fn at(&self, pointer: &str) -> Option<&'a Value> {
        self.value.pointer(pointer)
    }
    pub fn text(&self, pointer: &str) -> &'a str {
        self.at(pointer).and_then(Value::as_str).unwrap_or_default()
    }
    pub fn cell(&self, pointer: &str) -> Value {
        self.text(pointer).into()
    }
    pub fn text_or(&self, pointer: &str, absent: &str) -> Value {
        let text = self.text(pointer);
        if text.is_empty() { absent.into() } else { text.into() }
    }
    pub fn integer(&self, pointer: &str) -> i64 {
        self.at(pointer).and_then(Value::as_i64).unwrap_or_default()
    }
    pub fn number(&self, pointer: &str) -> Value {
        self.integer(pointer).into()
    }
    pub fn flag(&self, pointer: &str) -> bool {
        self.at(pointer) == Some(&Value::Bool(true))
    }
    pub fn list(&self, pointer: &str) -> &'a [Value] {
        self.at(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }
    pub fn map(&self, pointer: &str) -> Option<&'a Map<String, Value>> {
        self.at(pointer).and_then(Value::as_object)
    }
    pub fn length(&self, pointer: &str) -> usize {
        self.at(pointer).map_or(0, |v| v.as_object().map_or(v.as_array().map_or(0, Vec::len), Map::len))
    }
    pub fn name(&self) -> Value {
        self.cell("/metadata/name")
    }
    pub fn age(&self) -> Value {
        self.since("/metadata/creationTimestamp")
    }
    pub fn created_at(&self) -> Value {
        self.cell("/metadata/creationTimestamp")
    }
    pub fn since(&self, pointer: &str) -> Value {
        age(self.at(pointer).and_then(Value::as_str), self.now).into()
    }
    pub fn deleted(&self) -> bool {
        self.at("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null())
    }
    /// `k=v,...` of a map of labels.
    pub fn labels(&self, pointer: &str) -> Value {
        match self.map(pointer) {
            Some(labels) if !labels.is_empty() => LabelSelector::from_map(labels).to_string().into(),
            _ => NONE.into(),
        }
    }
    /// A LabelSelector object as text.
    pub fn selector(&self, pointer: &str) -> Value {
        match LabelSelector::from_object(self.at(pointer).unwrap_or(&Value::Null)) {
            Err(_) => "<error>".into(),
            Ok(selector) if selector.requirements().is_empty() => NONE.into(),
            Ok(selector) => selector.to_string().into(),
        }
    }
    /// Names and images of the containers of a pod spec.
    pub fn containers(&self, pointer: &str) -> [Value; 2] {
        let list = self.list(pointer);
        ["name", "image"].map(|field| strings(list, field).join(",").into())
    }
    /// The status of a condition, if it is there.
    pub fn condition(&self, kind: &str) -> Option<&'a str> {
        let found = self.list("/status/conditions").iter().find(|c| str_of(c, "type") == kind);
        found.map(|c| str_of(c, "status"))
    }
    pub fn has_condition(&self, kind: &str) -> bool {
        self.condition(kind) == Some("True")
    }
    /// A percentage or number as text.
    pub fn int_or_text(&self, pointer: &str, absent: &str) -> Value {
        match self.at(pointer) {
            Some(Value::String(s)) => s.clone().into(),
            Some(Value::Number(n)) => n.to_string().into(),
            _ => absent.into(),
        }
    }
    /// `True`, `False` or `<unset>`.
    pub fn optional_flag(&self, pointer: &str) -> Value {
        match self.at(pointer).and_then(Value::as_bool) {
            Some(true) => "True".into(),
            Some(false) => "False".into(),
            None => UNSET.into(),
        }
    }
}

pub(super) fn str_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn int_of(value: &Value, field: &str) -> i64 {
    value.get(field).and_then(Value::as_i64).unwrap_or_default()
}

pub(super) fn strings<'a>(list: &'a [Value], field: &str) -> Vec<&'a str> {
    list.iter().map(|item| str_of(item, field)).collect()
}

/// The first few items and how many more there are.
pub(super) fn shortened(items: &[String], separator: &str) -> String {
    if items.len() <= LIST_MAX {
        return items.join(separator);
    }
    format!("{} + {} more...", items[..LIST_MAX].join(separator), items.len() - LIST_MAX)
}

pub(super) fn seconds_between(from: &str, to: Timestamp) -> Option<i64> {
    from.parse::<Timestamp>().ok().map(|from| to.as_second() - from.as_second())
}

pub(super) fn duration_between(from: &str, to: Timestamp) -> String {
    seconds_between(from, to).map_or(UNKNOWN.to_owned(), human_duration)
}
