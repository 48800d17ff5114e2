//! The same for objects whose name does not matter: they get one, and the version is the first served.

use amphipod_api::resource::builtin;
use serde_json::Value;

use super::Resource;

fn resource(group: &'static str, plural: &'static str) -> Resource {
    let found = builtin().iter().find(|row| row.group == group && row.plural == plural);
    let row = found.unwrap_or_else(|| panic!("{plural}.{group} is not served"));
    (group, &row.version, plural)
}

fn named(resource: Resource, mut object: Value) -> Value {
    let row = super::context(resource, "").resource;
    if object["metadata"]["name"].is_null() && object["metadata"]["generateName"].is_null() {
        object["metadata"]["name"] = "n".into();
    }
    if row.namespaced && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = "d".into();
    }
    object["kind"] = row.kind.clone().into();
    object
}

fn trial(group: &'static str, plural: &'static str, object: Value) -> (Value, Vec<String>) {
    let resource = resource(group, plural);
    super::created(resource, &named(resource, object))
}

/// RFC 7386.
pub fn merge(base: Value, patch: Value) -> Value {
    super::merged(&base, &patch)
}

/// The object as it would be stored.
pub fn stored(group: &'static str, plural: &'static str, object: Value) -> Value {
    trial(group, plural, object).0
}

/// The faults of a create.
pub fn created(group: &'static str, plural: &'static str, object: Value) -> Vec<String> {
    trial(group, plural, object).1
}

/// What an update of `old` by a merge patch through a subresource stores, and its faults.
pub fn patched(
    group: &'static str,
    plural: &'static str,
    subresource: &str,
    old: &Value,
    patch: Value,
) -> (Value, Vec<String>) {
    super::updated(resource(group, plural), subresource, old, &super::merged(old, &patch))
}

/// The faults of creating `object`, then of an update of it by a merge patch.
pub fn updated(group: &'static str, plural: &'static str, object: Value, patch: Value) -> Vec<String> {
    patched(group, plural, "", &stored(group, plural, object), patch).1
}

/// The warnings of a create.
pub fn warned(group: &'static str, plural: &'static str, object: Value) -> Vec<String> {
    let resource = resource(group, plural);
    super::warnings(resource, &named(resource, object))
}
