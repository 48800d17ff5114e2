//! Tests' view of a strategy: what a create or an update of a manifest is answered with.

use amphipod_api::resource::{Resource, builtin};
use serde_json::Value;

use crate::{Context, for_resource};

fn resource(group: &str, plural: &str) -> &'static Resource {
    let found = builtin().iter().find(|row| row.group == group && row.plural == plural);
    found.unwrap_or_else(|| panic!("{plural}.{group} is not served"))
}

fn context<'a>(group: &str, plural: &str, subresource: &'a str) -> Context<'a> {
    Context { resource: resource(group, plural), subresource, now: "2026-01-01T00:00:00Z" }
}

/// RFC 7386.
pub fn merge(mut base: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    if !base.is_object() {
        base = Value::Object(serde_json::Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            base.as_object_mut().expect("an object").remove(&key);
        } else {
            let before = base[&key].take();
            base[&key] = merge(before, value);
        }
    }
    base
}

fn named(group: &str, plural: &str, object: &mut Value) {
    let row = resource(group, plural);
    if object["metadata"]["name"].is_null() && object["metadata"]["generateName"].is_null() {
        object["metadata"]["name"] = "n".into();
    }
    if row.namespaced && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = "d".into();
    }
    object["kind"] = row.kind.clone().into();
}

/// The object as it would be stored.
pub fn stored(group: &str, plural: &str, mut object: Value) -> Value {
    named(group, plural, &mut object);
    let strategy = for_resource(group, plural);
    strategy.default(&mut object);
    strategy.prepare_create(&context(group, plural, ""), &mut object);
    strategy.default(&mut object);
    object
}

/// The faults of a create.
pub fn created(group: &str, plural: &str, object: Value) -> Vec<String> {
    let object = stored(group, plural, object);
    let faults = for_resource(group, plural).validate(&context(group, plural, ""), &object);
    faults.iter().map(ToString::to_string).collect()
}

/// What an update of `old` by a merge patch through a subresource stores, and its faults.
pub fn patched(
    group: &str,
    plural: &str,
    subresource: &str,
    old: &Value,
    patch: Value,
) -> (Value, Vec<String>) {
    let (strategy, context) = (for_resource(group, plural), context(group, plural, subresource));
    let mut object = merge(old.clone(), patch);
    strategy.default(&mut object);
    strategy.prepare_update(&context, &mut object, old);
    strategy.default(&mut object);
    let faults = strategy.validate_update(&context, &object, old);
    (object, faults.iter().map(ToString::to_string).collect())
}

/// The faults of creating `object`, then of an update of it by a merge patch.
pub fn updated(group: &str, plural: &str, object: Value, patch: Value) -> Vec<String> {
    patched(group, plural, "", &stored(group, plural, object), patch).1
}

/// The warnings of a create.
pub fn warned(group: &str, plural: &str, object: Value) -> Vec<String> {
    let object = stored(group, plural, object);
    for_resource(group, plural).warnings(&context(group, plural, ""), &object, None)
}
