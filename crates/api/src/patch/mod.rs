//! The three patch formats, applied to JSON values: RFC 6902, RFC 7386 and Kubernetes' strategic
//! merge. What comes out still has to be checked against its type.

mod order;
mod strategic;

use serde_json::Value;

use crate::schema::Node;
use crate::status::{Cause, Details, Status};

pub const JSON_PATCH: &str = "application/json-patch+json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// Operations one JSON patch may hold.
const MAX_OPERATIONS: usize = 10_000;

/// RFC 6902. All operations apply or none.
pub fn apply_json_patch(original: &Value, patch: &Value) -> Result<Value, Status> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let parsed = parse_json_patch(patch)?;
    let mut patched = original.clone();
    for (operation, written) in parsed.0.iter().zip(patch.as_array().into_iter().flatten()) {
        if !tests_absence(operation, &patched) {
            json_patch::patch(&mut patched, std::slice::from_ref(operation))
                .map_err(|e| unprocessable(&json_patch_error(written, &e)))?;
        }
    }
    Ok(patched)
}

/// A member that is not there tests equal to null: clients add their finalizer that way.
fn tests_absence(operation: &json_patch::PatchOperation, document: &Value) -> bool {
    let json_patch::PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    let parent = path.rsplit_once('/').and_then(|(parent, _)| document.pointer(parent));
    test.value.is_null() && parent.is_some_and(Value::is_object) && document.pointer(path).is_none()
}

/// A document of another shape is no patch (400); one with an operation nobody knows cannot be
/// applied (422).
fn parse_json_patch(patch: &Value) -> Result<json_patch::Patch, Status> {
    let operations = patch.as_array().filter(|list| list.iter().all(Value::is_object));
    let Some(operations) = operations else {
        let found = match patch {
            Value::Object(_) => "object into Go value of type jsonpatch.Patch",
            Value::Array(_) => "value into Go value of type jsonpatch.Operation",
            Value::String(_) => "string into Go value of type jsonpatch.Patch",
            Value::Number(_) => "number into Go value of type jsonpatch.Patch",
            _ => "value into Go value of type jsonpatch.Patch",
        };
        return Err(Status::bad_request(format!("error decoding patch: json: cannot unmarshal {found}")));
    };
    let kind = |operation: &Value| operation["op"].as_str().unwrap_or("unknown").to_owned();
    let known = ["add", "remove", "replace", "move", "copy", "test"];
    if let Some(unknown) = operations.iter().map(kind).find(|op| !known.contains(&op.as_str())) {
        return Err(unprocessable(&format!("Unexpected kind: {unknown}")));
    }
    serde_json::from_value(patch.clone())
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
}

fn json_patch_error(operation: &Value, error: &json_patch::PatchError) -> String {
    let operation = operation["op"].as_str().unwrap_or_default();
    let path = error.path.as_str();
    match error.kind {
        json_patch::PatchErrorKind::TestFailed => format!("testing value {path} failed: test failed"),
        _ => format!("{operation} operation does not apply: doc is missing path: \"{path}\": missing value"),
    }
}

/// RFC 7386.
pub fn apply_merge_patch(original: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("error decoding patch: json: cannot unmarshal into an object"));
    }
    let mut patched = original.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}

/// Kubernetes' strategic merge; lists merge by the keys the schema declares.
pub fn apply_strategic_merge_patch(
    original: &Value,
    patch: &Value,
    schema: Node<'_>,
) -> Result<Value, Status> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    let merged = strategic::merge(original.clone(), patch.clone(), schema);
    merged.map(Value::Object).map_err(|e| Status::bad_request(e.to_string()))
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
        assert_eq!(apply_json_patch(&original, &patch).expect("applies"), json!({"a": {"b": [9, 2, 3]}}));
        let patch =
            json!([{"op": "test", "path": "/a/c", "value": null}, {"op": "add", "path": "/a/c", "value": 1}]);
        assert_eq!(
            apply_json_patch(&original, &patch).expect("applies"),
            json!({"a": {"b": [1, 2], "c": 1}})
        );
        let patch = json!([{"op": "test", "path": "/x/c", "value": null}]);
        assert_eq!(apply_json_patch(&original, &patch).expect_err("no parent").code, 422);
        let patch = json!([{"op": "remove", "path": "/a/c"}]);
        let status = apply_json_patch(&original, &patch).expect_err("missing");
        assert_eq!(status.code, 422);
        let patch = json!([{"op": "test", "path": "/a/b/0", "value": 5}]);
        let status = apply_json_patch(&original, &patch).expect_err("test");
        let cause = status.details.map(|d| d.causes[0].message.clone());
        assert_eq!(cause.as_deref(), Some("testing value /a/b/0 failed: test failed"));
        let status = apply_json_patch(&original, &json!({"op": 1})).expect_err("shape");
        let text =
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch";
        assert_eq!((status.code, status.message.as_str()), (400, text));
        let status =
            apply_json_patch(&original, &json!([{"op": "bogus", "path": "/a"}])).expect_err("operation");
        assert_eq!(status.code, 422);
        let cause = status.details.map(|d| d.causes[0].message.clone());
        assert_eq!(cause.as_deref(), Some("Unexpected kind: bogus"));
    }

    #[test]
    fn merge_patches() {
        let original = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        let patched = apply_merge_patch(&original, &json!({"a": {"b": null}, "l": [2]})).expect("applies");
        assert_eq!(patched, json!({"a": {"c": 2}, "l": [2]}));
        assert_eq!(apply_merge_patch(&original, &json!([])).expect_err("shape").code, 400);
    }
}
