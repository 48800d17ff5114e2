//! Reading and writing the parts every object has (type and metadata) on a parsed JSON value.

use serde_json::{Map, Value};

pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}
pub fn kind(object: &Value) -> &str {
    text(object, "/kind")
}
pub fn api_version(object: &Value) -> &str {
    text(object, "/apiVersion")
}
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}
pub fn generate_name(object: &Value) -> &str {
    text(object, "/metadata/generateName")
}
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}
pub fn resource_version(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    object.pointer("/metadata/deletionTimestamp").and_then(Value::as_str)
}
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.pointer("/metadata/labels").and_then(Value::as_object)
}
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object.pointer("/metadata/annotations").and_then(Value::as_object)
}
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.map(|l| l.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// The object's metadata, created when absent. A value that is no object becomes one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// The named child as a map, created when absent or of another type.
pub fn child_mut<'a>(parent: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    let Value::Object(map) = parent else { unreachable!("made an object above") };
    let child = map.entry(name.to_owned()).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    let Value::Object(child) = child else { unreachable!("made an object above") };
    child
}
