//! What `kubectl get` shows: the columns of each kind and the cells of an object, computed on the
//! server as `meta.k8s.io/v1 Table`.

mod autoscalers;
mod cells;
mod cluster;
mod columns;
mod network;
mod nodes;
mod pods;
mod storage;
#[cfg(test)]
mod tests;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use cells::Object;

/// `metav1.TableColumnDefinition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub type_: &'static str,
    pub format: &'static str,
    pub description: &'static str,
    /// Above 0: shown by `-o wide` only.
    pub priority: i32,
}

impl Column {
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "type": self.type_, "format": self.format, "description": self.description,
            "priority": self.priority})
    }
}

type RowFn = fn(&Object<'_>) -> Vec<Value>;

struct Kind {
    group: &'static str,
    plural: &'static str,
    columns: &'static [Column],
    row: RowFn,
    /// What a table of these is sorted by; by name where it is `None`.
    rank: Option<fn(&Value) -> i64>,
}

const fn kind(group: &'static str, plural: &'static str, columns: &'static [Column], row: RowFn) -> Kind {
    Kind { group, plural, columns, row, rank: None }
}

const DEFAULT: Kind = kind("", "", columns::CUSTOM, |o| vec![o.name(), o.age()]);

fn kinds() -> impl Iterator<Item = &'static Kind> {
    [pods::KINDS, workloads::KINDS, network::KINDS, nodes::KINDS, storage::KINDS, cluster::KINDS]
        .into_iter()
        .flatten()
}

fn find(group: &str, plural: &str) -> &'static Kind {
    kinds().find(|k| k.plural == plural && k.group == group).unwrap_or(&DEFAULT)
}

/// The columns of a resource; name and age for kinds without columns of their own.
pub fn columns(group: &str, plural: &str) -> &'static [Column] {
    find(group, plural).columns
}

/// What a table of this resource's objects is sorted by, where that is not their names.
pub fn rank(group: &str, plural: &str) -> Option<fn(&Value) -> i64> {
    find(group, plural).rank
}

/// Marks of a whole row (`metav1.TableRowCondition`): pods that are over, which clients may hide.
pub fn row_conditions(group: &str, plural: &str, object: &Value) -> Vec<Value> {
    if (group, plural) != ("", "pods") {
        return Vec::new();
    }
    let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": phase, "message": message})]
}

/// An object's cells, one for each column.
pub fn row(group: &str, plural: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    (find(group, plural).row)(&Object { value: object, now })
}
