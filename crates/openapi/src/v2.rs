//! OpenAPI v2, one document for everything. It is written piece by piece: at no time does more
//! than one group version exist as parsed values.

use std::collections::{BTreeMap, BTreeSet};

use amphipod_api::resource::{builtin, groups};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::Info;
use crate::definitions::{Dialect, name_of, of_group_version, path_of};
use crate::gnostic;
use crate::paths::{Operation, Parameter, operations};
use crate::v3::{group_version_kind, tag};

const PRODUCES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// As JSON. `custom` adds definitions of custom resources.
pub fn v2(info: Info<'_>, custom: &Map<String, Value>) -> Bytes {
    let head = json!({"title": "Kubernetes", "version": info.server_version});
    let mut out = format!("{{\"swagger\":\"2.0\",\"info\":{head},\"paths\":{{").into_bytes();
    let mut first = true;
    each_path(|name, item| entry(&mut out, &mut first, name, item));
    out.extend(b"},\"definitions\":{");
    first = true;
    each_definition(custom, |name, definition| entry(&mut out, &mut first, name, definition));
    out.extend(b"}}");
    Bytes::from(out)
}

/// As gnostic's `openapi.v2.Document`, the form kubectl asks for.
pub fn v2_protobuf(info: Info<'_>, custom: &Map<String, Value>) -> Bytes {
    let mut document = gnostic::Document::new("Kubernetes", info.server_version);
    each_path(|name, item| document.path(name, item));
    each_definition(custom, |name, definition| document.definition(name, definition));
    Bytes::from(document.finish())
}

fn entry(out: &mut Vec<u8>, first: &mut bool, name: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    out.extend(format!("{}:{value}", Value::from(name)).into_bytes());
}

fn group_versions() -> impl Iterator<Item = String> {
    groups().iter().flat_map(|g| g.versions.iter().map(|v| crate::group_version_path(g.name, v.version)))
}

fn each_definition(custom: &Map<String, Value>, mut emit: impl FnMut(&str, &Value)) {
    let mut seen = BTreeSet::new();
    for path in group_versions() {
        for (name, definition) in of_group_version(&path, Dialect::V2) {
            if seen.insert(name.clone()) {
                emit(&name, &definition);
            }
        }
    }
    for (name, definition) in custom {
        emit(name, definition);
    }
}

fn each_path(mut emit: impl FnMut(&str, &Value)) {
    for group_version in group_versions() {
        let mut paths: BTreeMap<String, Value> = BTreeMap::new();
        for resource in builtin().iter().filter(|r| path_of(r) == group_version) {
            let Some(name) = name_of(resource) else { continue };
            for operation in operations(resource, name) {
                let item = paths.entry(operation.path.clone()).or_insert_with(|| path_item(&operation.path));
                item[operation.method] = write(&operation);
            }
        }
        for (path, item) in &paths {
            emit(path, item);
        }
    }
}

fn path_item(path: &str) -> Value {
    let parameters: Vec<Value> = ["namespace", "name"]
        .into_iter()
        .filter(|p| path.contains(&format!("{{{p}}}")))
        .map(|p| json!({"name": p, "in": "path", "required": true, "type": "string", "uniqueItems": true}))
        .collect();
    if parameters.is_empty() { json!({}) } else { json!({"parameters": parameters}) }
}

fn parameter((name, kind, description): &Parameter) -> Value {
    json!({"name": name, "in": "query", "description": description, "type": kind, "uniqueItems": true})
}

fn write(operation: &Operation) -> Value {
    let mut answer = json!({"description": "OK"});
    if let Some(definition) = &operation.answer {
        answer["schema"] = Dialect::V2.refer(definition);
    }
    let mut parameters: Vec<Value> = operation.query.iter().map(parameter).collect();
    if let Some(body) = &operation.body {
        let mut sent = json!({"name": "body", "in": "body", "schema": Dialect::V2.refer(body)});
        if operation.method != "delete" {
            sent["required"] = true.into();
        }
        parameters.insert(0, sent);
    }
    let consumes: &[&str] = match operation.method {
        "patch" => &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ],
        _ => &["*/*"],
    };
    json!({
        "tags": [tag(operation)],
        "description": operation.description,
        "operationId": operation.id,
        "schemes": ["https"],
        "consumes": consumes,
        "produces": PRODUCES,
        "parameters": parameters,
        "responses": {"200": answer, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": group_version_kind(operation),
    })
}
