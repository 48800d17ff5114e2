//! What `kubectl get` shows: the columns of each kind and the cells of an object, computed on the
//! server as `meta.k8s.io/v1 Table`.

mod cells;
mod cluster;
mod network;
mod nodes;
mod pods;
mod storage;
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
}

const fn kind(group: &'static str, plural: &'static str, columns: &'static [Column], row: RowFn) -> Kind {
    Kind { group, plural, columns, row }
}

const fn column(name: &'static str, type_: &'static str, description: &'static str) -> Column {
    Column { name, type_, format: "", description, priority: 0 }
}
const fn text(name: &'static str) -> Column {
    column(name, "string", "")
}
const fn integer(name: &'static str) -> Column {
    column(name, "integer", "")
}
const fn boolean(name: &'static str) -> Column {
    column(name, "boolean", "")
}
const fn wide(name: &'static str) -> Column {
    Column { priority: 1, ..column(name, "string", "") }
}
const NAME: Column =
    Column { format: "name", ..column("Name", "string", "The object's name, unique within its namespace.") };
const AGE: Column = column("Age", "string", "Time since the object was created.");
const CREATED_AT: Column = column("Created At", "date", "When the object was created.");

const DEFAULT: Kind = kind("", "", &[NAME, AGE], |o| vec![o.name(), o.age()]);

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

/// An object's cells, one for each column.
pub fn row(group: &str, plural: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    (find(group, plural).row)(&Object { value: object, now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_their_columns_even_for_empty_objects() {
        for kind in kinds().chain([&DEFAULT]) {
            for object in [json!({}), json!({"spec": {}, "status": {}, "metadata": {}})] {
                let cells = row(kind.group, kind.plural, &object, Timestamp::UNIX_EPOCH);
                assert_eq!(cells.len(), kind.columns.len(), "{}", kind.plural);
            }
            let served =
                crate::resource::builtin().iter().any(|r| r.plural == kind.plural && r.group == kind.group);
            assert!(served || kind.plural.is_empty(), "{}", kind.plural);
        }
    }
}
