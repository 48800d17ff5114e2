//! OpenAPI v3: an index, and one document for each group version.

use std::collections::BTreeMap;

use amphipod_api::resource::{Resource, builtin, groups};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::definitions::{Dialect, name_of, of_group_version, path_of};
use crate::paths::{Operation, Parameter, operations};
use crate::{Info, hash};

const ANSWER_TYPES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The index of `/openapi/v3`. `custom` adds documents of custom resources: path and hash.
pub fn v3_index(info: Info<'_>, custom: &[(String, String)]) -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, hash: &str| {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path.to_owned(), json!({"serverRelativeURL": url}));
    };
    for group in groups() {
        for version in group.versions {
            let path = crate::group_version_path(group.name, version.version);
            add(&path, &hash(info, &path));
        }
    }
    for (path, hash) in custom {
        add(path, hash);
    }
    json!({"paths": paths})
}

/// The document of a built-in group version (`api/v1`, `apis/apps/v1`), `None` for others.
pub fn v3(info: Info<'_>, path: &str) -> Option<Bytes> {
    let resources: Vec<(&Resource, &str)> = builtin()
        .iter()
        .filter(|r| path_of(r) == path)
        .filter_map(|r| name_of(r).map(|name| (r, name)))
        .collect();
    if resources.is_empty() {
        return None;
    }
    let schemas = of_group_version(path, Dialect::V3);
    Some(document(info, &resources, schemas.into_iter().collect()))
}

/// A document of custom resources: each with its definition's name, and the schemas those and their
/// lists (`<name>List`) refer to. Types of the meta group are added.
pub fn custom_v3(info: Info<'_>, resources: &[(&Resource, &str)], mut schemas: Map<String, Value>) -> Bytes {
    for (name, definition) in of_group_version("", Dialect::V3) {
        schemas.entry(name).or_insert(definition);
    }
    document(info, resources, schemas)
}

fn document(info: Info<'_>, resources: &[(&Resource, &str)], schemas: Map<String, Value>) -> Bytes {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (resource, definition) in resources {
        for operation in operations(resource, definition) {
            let path = paths.entry(operation.path.clone()).or_insert_with(|| path_item(&operation.path));
            path.insert(operation.method.to_owned(), write(&operation));
        }
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": info.server_version},
        "paths": paths,
        "components": {"schemas": schemas},
    });
    // A value of maps, lists and texts always serialises.
    Bytes::from(serde_json::to_vec(&document).unwrap_or_default())
}

fn path_item(path: &str) -> Map<String, Value> {
    let parameters: Vec<Value> = ["namespace", "name"]
        .into_iter()
        .filter(|p| path.contains(&format!("{{{p}}}")))
        .map(|p| json!({"name": p, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let mut item = Map::new();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), Value::Array(parameters));
    }
    item
}

fn parameter((name, kind, description): &Parameter) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
}

fn content(types: &[&str], definition: &str) -> Value {
    let schema = json!({"schema": Dialect::V3.refer(definition)});
    Value::Object(types.iter().map(|t| ((*t).to_owned(), schema.clone())).collect())
}

fn write(operation: &Operation) -> Value {
    let mut answer = json!({"description": "OK"});
    if let Some(definition) = &operation.answer {
        answer["content"] = content(ANSWER_TYPES, definition);
    }
    let mut value = json!({
        "tags": [tag(operation)],
        "description": operation.description,
        "operationId": operation.id,
        "parameters": operation.query.iter().map(parameter).collect::<Vec<_>>(),
        "responses": {"200": answer, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": group_version_kind(operation),
    });
    if let Some(body) = &operation.body {
        let types: &[&str] = if operation.method == "patch" { PATCH_TYPES } else { &["*/*"] };
        value["requestBody"] = json!({"content": content(types, body)});
        if operation.method != "delete" {
            value["requestBody"]["required"] = true.into();
        }
    }
    value
}

pub(crate) fn tag(operation: &Operation) -> String {
    let group = operation.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
    format!("{group}_{}", operation.version)
}

pub(crate) fn group_version_kind(operation: &Operation) -> Value {
    json!({"group": operation.group, "version": operation.version, "kind": operation.kind})
}
