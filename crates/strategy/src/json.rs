//! Reading and filling parsed JSON the way Go reads a struct: an absent field is the zero value, so
//! a rule can be written without caring whether the client left a field out or wrote it empty.

use serde_json::{Map, Value};

/// The text of a string field; anything else reads as empty.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
pub fn int(value: &Value) -> Option<i64> {
    value.as_i64()
}
/// The number, zero when absent.
pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}
pub fn truthy(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}
/// Present and not null: what a Go pointer field calls "not nil".
pub fn set(value: &Value) -> bool {
    !value.is_null()
}
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
pub fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}
/// True for null, "", 0, false, [] and {}: what `omitempty` leaves out.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}
/// Equal when absent and empty are taken for the same, as Go does with lists, maps and structs. A
/// zero is a value: where Go does not know it from an absent field it is gone before any rule looks.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            left.iter().all(|(key, value)| same(value, right.get(key).unwrap_or(&Value::Null)))
                && right.iter().all(|(key, value)| left.contains_key(key) || is_empty_deep(value))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        _ => a == b || (is_empty_deep(a) && is_empty_deep(b)),
    }
}
fn is_empty_deep(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(is_empty_deep),
        Value::Array(items) => items.is_empty(),
        other => other.is_null(),
    }
}

/// Sets the field when it is absent or null.
pub fn default(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Value::Object(map) = object {
        match map.get_mut(key) {
            Some(slot) if !slot.is_null() => {}
            Some(slot) => *slot = value.into(),
            None => drop(map.insert(key.to_owned(), value.into())),
        }
    }
}
/// Sets a text field when it is absent, null or "".
pub fn default_text(object: &mut Value, key: &str, value: &str) {
    if text(&object[key]).is_empty() {
        put(object, key, value);
    }
}
/// Sets a number field when it is absent, null or zero.
pub fn default_number(object: &mut Value, key: &str, value: i64) {
    if number(&object[key]) == 0 {
        put(object, key, value);
    }
}
pub fn put(object: &mut Value, key: &str, value: impl Into<Value>) {
    if object.is_null() {
        *object = Value::Object(Map::new());
    }
    if let Value::Object(map) = object {
        map.insert(key.to_owned(), value.into());
    }
}
pub fn remove(object: &mut Value, key: &str) {
    if let Value::Object(map) = object {
        map.remove(key);
    }
}
/// Copies the field from `from`, removing it where `from` has none.
pub fn copy(object: &mut Value, key: &str, from: &Value) {
    match &from[key] {
        Value::Null => remove(object, key),
        value => put(object, key, value.clone()),
    }
}
/// Runs `f` on the child when it is an object.
pub fn with(object: &mut Value, key: &str, f: impl FnOnce(&mut Value)) {
    if let Some(child) = object.get_mut(key).filter(|child| child.is_object()) {
        f(child);
    }
}
/// Runs `f` on the child object, created when absent.
pub fn within(object: &mut Value, key: &str, f: impl FnOnce(&mut Value)) {
    default(object, key, Map::new());
    with(object, key, f);
}
/// Runs `f` on each item of the list.
pub fn each(object: &mut Value, key: &str, mut f: impl FnMut(&mut Value)) {
    if let Some(list) = object.get_mut(key).and_then(Value::as_array_mut) {
        list.iter_mut().for_each(&mut f);
    }
}
/// Follows a path of keys, null where it breaks off.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, key| &value[*key])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_and_empty_are_the_same() {
        assert!(same(&json!({"a": 1, "b": {}}), &json!({"a": 1, "c": []})));
        assert!(!same(&json!({"a": 1}), &json!({"a": 2})));
        assert!(!same(&json!({"a": [1]}), &json!({"a": []})));
        for zero in [json!(0), json!(false), json!("")] {
            assert!(!same(&json!({"a": zero}), &json!({})), "{zero}");
        }
    }

    #[test]
    fn defaults_do_not_overwrite() {
        let mut object = json!({"a": "x", "n": null});
        default(&mut object, "a", "y");
        default(&mut object, "n", 3);
        default_text(&mut object, "t", "z");
        assert_eq!(object, json!({"a": "x", "n": 3, "t": "z"}));
    }
}
