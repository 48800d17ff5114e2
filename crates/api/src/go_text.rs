//! Values as Go's `%v` prints them: some of Kubernetes' refusals quote what they refuse this way.

use serde_json::Value;

/// `map[a:1 b:[x y]]`
pub(crate) fn plain(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(plain).collect())),
        Value::Object(map) => {
            format!("map[{}]", joined(map.iter().map(|(k, v)| format!("{k}:{}", plain(v))).collect()))
        }
        other => other.to_string(),
    }
}

/// What Go's decoder calls a value it cannot use.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nested_values() {
        let value = serde_json::json!({"b": ["x", 1, null], "a": {"c": true}});
        assert_eq!(super::plain(&value), "map[a:map[c:true] b:[x 1 <nil>]]");
    }
}
