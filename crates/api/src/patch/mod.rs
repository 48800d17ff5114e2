//! The three patch formats, applied to JSON values: RFC 6902, RFC 7386 and Kubernetes' strategic
//! merge. What comes out still has to be checked against its type.

mod json;
mod order;
mod strategic;

use serde_json::{Map, Value};

use crate::codec::FieldValidation;
use crate::field::{Error as FieldError, Path};
use crate::schema::Node;
use crate::status::{Cause, Details, Status};

pub const JSON_PATCH: &str = "application/json-patch+json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// Operations one JSON patch may hold.
const MAX_OPERATIONS: usize = 10_000;

/// RFC 6902. All operations apply or none.
pub fn apply_json_patch(
    original: &Value,
    patch: &Value,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let operations = operations(patch, validation)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut patched = original.clone();
    json::apply(&mut patched, &operations).map_err(|why| unprocessable(&why))?;
    Ok(patched)
}

/// What is strange about a JSON patch that can be applied all the same.
pub fn json_patch_problems(patch: &Value) -> Vec<String> {
    let known = ["op", "path", "from", "value"];
    let operations = patch.as_array().into_iter().flatten().enumerate();
    let fields = operations.flat_map(|(i, o)| o.as_object().into_iter().flatten().map(move |(k, _)| (i, k)));
    let unknown = fields.filter(|(_, key)| !known.contains(&key.as_str()));
    unknown.map(|(i, key)| format!("json patch unknown field \"[{i}].{key}\"")).collect()
}

/// A document of another shape is no patch.
fn operations(patch: &Value, validation: FieldValidation) -> Result<Vec<Map<String, Value>>, Status> {
    let strict = validation != FieldValidation::Ignore;
    let refuse = |found: &Value, target: &str| {
        let prefix = if strict { "error decoding patch: " } else { "" };
        let found = crate::go_text::json_type(found);
        Status::bad_request(format!("{prefix}json: cannot unmarshal {found} into Go {target}"))
    };
    let (list, item) = match strict {
        true => ("value of type []handlers.jsonPatchOp", "value of type handlers.jsonPatchOp"),
        false => ("value of type jsonpatch.Patch", "value of type jsonpatch.Operation"),
    };
    let operations = match patch {
        Value::Array(operations) => operations.as_slice(),
        Value::Null => &[],
        _ => return Err(refuse(patch, list)),
    };
    let mut read = Vec::with_capacity(operations.len());
    for operation in operations {
        let Value::Object(fields) = operation else { return Err(refuse(operation, item)) };
        let wrong = |key: &&str| fields.get(*key).is_some_and(|v| !v.is_string() && !v.is_null());
        if let Some(key) = ["op", "path", "from"].iter().find(|k| strict && wrong(k)) {
            let target = format!("struct field jsonPatchOp.{key} of type string");
            return Err(refuse(&fields[*key], &target));
        }
        read.push(fields.clone());
    }
    Ok(read)
}

/// RFC 7386.
pub fn apply_merge_patch(
    original: &Value,
    patch: &Value,
    validation: FieldValidation,
) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(match validation {
            // To Go null is a map that is not there.
            _ if patch.is_null() => Status::bad_request("Invalid JSON Patch"),
            FieldValidation::Ignore => Status::bad_request("Invalid JSON Patch"),
            _ => Status::bad_request(format!("error decoding patch: {}", no_map(patch))),
        });
    }
    let mut patched = original.clone();
    merge(&mut patched, patch);
    Ok(patched)
}

fn no_map(patch: &Value) -> String {
    let found = crate::go_text::json_type(patch);
    format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}")
}

/// Nulls delete, maps merge, everything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Kubernetes' strategic merge; lists merge by the keys the schema declares.
pub fn apply_strategic_merge_patch(
    original: &Value,
    patch: &Value,
    schema: Node<'_>,
) -> Result<Value, Status> {
    let patch = match patch {
        Value::Object(patch) => patch.clone(),
        Value::Null => Map::new(),
        _ => return Err(Status::bad_request(no_map(patch))),
    };
    let Value::Object(original) = original else { return Err(Status::bad_request("invalid JSON document")) };
    let merged = strategic::merge(original.clone(), patch, schema);
    merged.map(Value::Object).map_err(|e| match e.code() {
        400 => Status::bad_request(e.to_string()),
        422 => unprocessable(&e.to_string()),
        code => Status::failure(code, "", e.to_string()),
    })
}

/// The refusal of an outcome that does not fit its type; `shown` is what the patch made.
pub fn invalid_outcome(shown: &str, why: &str) -> Status {
    let fault = FieldError::invalid(&Path::new("patch"), shown, why);
    Status::invalid("", "", "", &[fault])
}

/// A strategic patch as refusals of its outcome show it.
pub fn strategic_text(patch: &Value) -> String {
    crate::go_text::plain(patch)
}

/// 422 in the shape the server gives to patches that cannot be applied.
fn unprocessable(why: &str) -> Status {
    let text = "the server rejected our request due to an error in our request";
    let mut status = Status::failure(422, "Invalid", text);
    status.details = Some(Details {
        causes: vec![Cause {
            reason: "UnexpectedServerResponse".into(),
            message: why.to_owned(),
            field: String::new(),
        }],
        ..Details::default()
    });
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches() {
        let original = json!({"a": {"b": [1, 2]}});
        let patch = json!([{"op": "test", "path": "/a/b/0", "value": 1}, {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "replace", "path": "/a/b/0", "value": 9}]);
        assert_eq!(
            apply_json_patch(&original, &patch, FieldValidation::Warn).expect("applies"),
            json!({"a": {"b": [9, 2, 3]}})
        );
        let patch = json!([{"op": "remove", "path": "/a/c"}]);
        let status = apply_json_patch(&original, &patch, FieldValidation::Warn).expect_err("missing");
        assert_eq!(status.code, 422);
        let patch = json!([{"op": "test", "path": "/a/b/0", "value": 5}]);
        let status = apply_json_patch(&original, &patch, FieldValidation::Warn).expect_err("test");
        let cause = status.details.map(|d| d.causes[0].message.clone());
        assert_eq!(cause.as_deref(), Some("testing value /a/b/0 failed: test failed"));
        let status =
            apply_json_patch(&original, &json!({"op": 1}), FieldValidation::Ignore).expect_err("shape");
        let text = "json: cannot unmarshal object into Go value of type jsonpatch.Patch";
        assert_eq!((status.code, status.message.as_str()), (400, text));
        let status =
            apply_json_patch(&original, &json!([{"op": "bogus", "path": "/a"}]), FieldValidation::Warn)
                .expect_err("operation");
        assert_eq!(status.code, 422);
        let cause = status.details.map(|d| d.causes[0].message.clone());
        assert_eq!(cause.as_deref(), Some("Unexpected kind: bogus"));
    }

    #[test]
    fn merge_patches() {
        let original = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        let patched =
            apply_merge_patch(&original, &json!({"a": {"b": null}, "l": [2]}), FieldValidation::Warn)
                .expect("applies");
        assert_eq!(patched, json!({"a": {"c": 2}, "l": [2]}));
        assert_eq!(
            apply_merge_patch(&original, &json!([]), FieldValidation::Warn).expect_err("shape").code,
            400
        );
    }
}
