//! Reading and writing the parts every object has (type and metadata) on a parsed JSON value.

use serde_json::{Map, Value};

/// What stands at a JSON pointer. Names with `/` or `~` in them cannot be told: [`Value::pointer`] can,
/// for two texts that it makes of every name it passes.
pub fn at<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(object, |value, name| match value {
        Value::Object(map) => map.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    at(object, pointer).and_then(Value::as_str).unwrap_or("")
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
    at(object, "/metadata/deletionTimestamp").and_then(Value::as_str)
}
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    at(object, "/metadata/labels").and_then(Value::as_object)
}
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    at(object, "/metadata/annotations").and_then(Value::as_object)
}
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = at(object, "/metadata/finalizers").and_then(Value::as_array);
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_place_is_found_as_json_pointers_find_it() {
        let object = json!({"a": {"": 1, "b": [null, {"c": "x"}]}, "": {"": 2}, "0": 3});
        for pointer in
            ["", "/", "/a", "/a/", "/a/b/1/c", "/a/b/0", "/a/b/2", "/a/b/x", "/a/b/1/c/d", "//", "/0"]
        {
            assert_eq!(at(&object, pointer), object.pointer(pointer), "{pointer}");
        }
    }
}
