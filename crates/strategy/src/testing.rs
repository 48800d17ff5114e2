//! What tables of cases share: a case is a merge patch on a base object and the refusals it earns.

use serde_json::{Map, Value};

use crate::contract::{Context, Strategy};

mod bounded;
pub mod named;
mod zeros;

/// Group, version and plural.
pub type Resource = (&'static str, &'static str, &'static str);
pub type Case<'a> = (Value, &'a [&'a str]);

pub const PODS: Resource = ("", "v1", "pods");
const NOW: &str = "2026-01-01T00:00:00Z";

pub fn context<'a>((group, version, plural): Resource, subresource: &'a str) -> Context<'a> {
    let resource = amphipod_api::resource::find(group, version, plural).expect("a built-in resource");
    Context { resource, subresource, now: NOW }
}

pub fn strategy((group, _, plural): Resource) -> &'static dyn Strategy {
    crate::for_resource(group, plural)
}

/// JSON merge patch: null takes a field away.
pub fn merged(base: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut map = base.as_object().cloned().unwrap_or_else(Map::new);
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            let value = merged(map.get(key).unwrap_or(&Value::Null), change);
            map.insert(key.clone(), value);
        }
    }
    Value::Object(map)
}

/// The object as it would be stored, and why it would not be.
pub fn created(resource: Resource, object: &Value) -> (Value, Vec<String>) {
    let (strategy, context) = (strategy(resource), context(resource, ""));
    let mut object = object.clone();
    strategy.default(&mut object);
    strategy.prepare_create(&context, &mut object);
    strategy.default(&mut object);
    let faults = strategy.validate(&context, &object);
    (object, faults.iter().map(ToString::to_string).collect())
}

/// The stored form of a good object.
pub fn stored(resource: Resource, object: &Value) -> Value {
    let (object, faults) = created(resource, object);
    assert_eq!(faults, Vec::<String>::new(), "{object}");
    object
}

/// What becomes of a stored object through `subresource`, and why it would not.
pub fn updated(resource: Resource, subresource: &str, old: &Value, new: &Value) -> (Value, Vec<String>) {
    let (strategy, context) = (strategy(resource), context(resource, subresource));
    let mut new = new.clone();
    strategy.default(&mut new);
    strategy.prepare_update(&context, &mut new, old);
    strategy.default(&mut new);
    let faults = strategy.validate_update(&context, &new, old);
    (new, faults.iter().map(ToString::to_string).collect())
}

pub fn creates(resource: Resource, base: &Value, cases: &[Case]) {
    for (patch, expected) in cases {
        assert_eq!(created(resource, &merged(base, patch)).1, *expected, "{patch}");
    }
}

pub fn updates(resource: Resource, subresource: &str, old: &Value, cases: &[Case]) {
    for (patch, expected) in cases {
        assert_eq!(updated(resource, subresource, old, &merged(old, patch)).1, *expected, "{patch}");
    }
}

pub fn warnings(resource: Resource, object: &Value) -> Vec<String> {
    let (object, _) = created(resource, object);
    strategy(resource).warnings(&context(resource, ""), &object, None).into_iter().collect()
}
