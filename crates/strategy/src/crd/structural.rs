//! Structural schemas: every field's type stands outside the logic, so that objects can be pruned,
//! defaulted and merged without solving anything.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::Faults;
use crate::json::{fields, items, set, text, truthy};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

pub fn validate(faults: &mut Faults, path: &Path, root: &Value) {
    let mut own = Faults::new();
    invariants(&mut own, path, root, Level::Root);
    completeness(&mut own, root, Some(root), path, path);
    own.sort();
    faults.extend(own);
}

fn invariants(faults: &mut Faults, path: &Path, schema: &Value, level: Level) {
    let (item, more) = (&schema["items"], &schema["additionalProperties"]);
    if text(&schema["type"]) == "array" && !set(item) {
        faults.push(Error::required(&path.child("items"), "must be specified"));
    }
    if item.is_object() {
        invariants(faults, &path.child("items"), item, Level::Item);
    }
    for (name, property) in fields(&schema["properties"]) {
        invariants(faults, &path.child("properties").key(name), property, Level::Field);
    }
    if more.is_object() {
        invariants(faults, &path.child("additionalProperties"), more, Level::Field);
    }
    extensions(faults, path, schema);
    let (skip_any, skip_first) = int_or_string(schema);
    logic(faults, path, schema, skip_any, skip_first);
    types(faults, path, schema, level);
    if level == Level::Root || truthy(&schema["x-kubernetes-embedded-resource"]) {
        metadata(faults, &path.child("properties"), &schema["properties"]);
    }
}

fn extensions(faults: &mut Faults, path: &Path, schema: &Value) {
    if !truthy(&schema["x-kubernetes-int-or-string"]) {
        return;
    }
    for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if truthy(&schema[key]) {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            faults.push(Error::invalid(&path.child(key), true, detail));
        }
    }
}

/// The one place where types may stand within logic, spelled in one of two ways.
fn int_or_string(schema: &Value) -> (bool, bool) {
    let pair = json!([{"type": "integer"}, {"type": "string"}]);
    if !truthy(&schema["x-kubernetes-int-or-string"]) {
        return (false, false);
    }
    let whole = schema["anyOf"] == pair;
    (whole, !whole && schema["allOf"][0]["anyOf"] == pair)
}

fn types(faults: &mut Faults, path: &Path, schema: &Value, level: Level) {
    let (kind, at) = (text(&schema["type"]), path.child("type"));
    let on = |key: &str| truthy(&schema[key]);
    let embedded = on("x-kubernetes-embedded-resource");
    let open = on("x-kubernetes-preserve-unknown-fields");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        faults.push(match kind {
            "" => Error::required(&at, detail),
            other => Error::invalid(&at, other, detail),
        });
    } else if kind.is_empty() && !on("x-kubernetes-int-or-string") && !open {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        faults.push(Error::required(&at, detail));
    }
    let more = set(&schema["additionalProperties"]);
    if embedded && more {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        faults.push(Error::forbidden(&path.child("additionalProperties"), detail));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        faults.push(Error::invalid(&at, kind, "must be object at the root"));
    }
    if level == Level::Root && more {
        faults.push(Error::forbidden(&path.child("additionalProperties"), "must not be used at the root"));
    }
    if embedded && !open && fields(&schema["properties"]).next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        faults.push(Error::required(&path.child("properties"), detail));
    }
}

/// What every object has anyway may only be narrowed by its name.
fn metadata(faults: &mut Faults, path: &Path, properties: &Value) {
    for key in ["kind", "apiVersion"] {
        let property = &properties[key];
        if set(property) && text(&property["type"]) != "string" {
            faults.push(Error::invalid(
                &path.key(key).child("type"),
                text(&property["type"]),
                "must be string",
            ));
        }
    }
    let metadata = &properties["metadata"];
    if !set(metadata) {
        return;
    }
    let at = path.key("metadata");
    if text(&metadata["type"]) != "object" {
        faults.push(Error::invalid(&at.child("type"), text(&metadata["type"]), "must be object"));
    }
    let narrowed = fields(&metadata["properties"]).any(|(key, _)| !["name", "generateName"].contains(&key))
        || fields(metadata).any(|(key, value)| {
            !["type", "properties", "description", "default"].contains(&key) && !crate::json::is_empty(value)
        });
    if narrowed {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        faults.push(Error::forbidden(&at, detail));
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not` judge values; they say nothing of structure.
fn logic(faults: &mut Faults, path: &Path, schema: &Value, skip_any: bool, skip_first: bool) {
    if !skip_any {
        for (i, part) in items(&schema["anyOf"]).iter().enumerate() {
            nested(faults, &path.child("anyOf").index(i), part, false);
        }
    }
    for (i, part) in items(&schema["allOf"]).iter().enumerate() {
        nested(faults, &path.child("allOf").index(i), part, skip_first && i == 0);
    }
    for (i, part) in items(&schema["oneOf"]).iter().enumerate() {
        nested(faults, &path.child("oneOf").index(i), part, false);
    }
    if schema["not"].is_object() {
        nested(faults, &path.child("not"), &schema["not"], false);
    }
}

/// What must not stand within logic, and how the refusal puts it.
const OUTSIDE_ONLY: [(&str, &str); 11] = [
    ("type", "must be empty to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
];

fn nested(faults: &mut Faults, path: &Path, part: &Value, skip_any: bool) {
    logic(faults, path, part, skip_any, false);
    if part["items"].is_object() {
        nested(faults, &path.child("items"), &part["items"], false);
    }
    for (name, property) in fields(&part["properties"]) {
        nested(faults, &path.child("properties").key(name), property, false);
    }
    if part["additionalProperties"].is_object() {
        nested(faults, &path.child("additionalProperties"), &part["additionalProperties"], false);
    }
    for (key, detail) in OUTSIDE_ONLY {
        let value = &part[key];
        if !crate::json::is_empty(value) || (key == "default" && set(value)) {
            faults.push(Error::forbidden(&path.child(key), detail));
        }
    }
    if set(&part["properties"]["metadata"]) {
        let at = path.child("properties").key("metadata");
        faults.push(Error::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// What logic speaks of must be there: `outer` is the same place outside, at `at`.
fn completeness(faults: &mut Faults, part: &Value, outer: Option<&Value>, at: &Path, said: &Path) {
    let lists = ["allOf", "anyOf", "oneOf"];
    if part["not"].is_object() {
        mentioned(faults, &part["not"], outer, at, &said.child("not"));
    }
    for list in lists {
        for (i, inner) in items(&part[list]).iter().enumerate() {
            mentioned(faults, inner, outer, at, &said.child(list).index(i));
        }
    }
}

fn mentioned(faults: &mut Faults, part: &Value, outer: Option<&Value>, at: &Path, said: &Path) {
    let Some(outer) = outer else {
        faults.push(Error::required(at, format!("because it is defined in {said}")));
        return;
    };
    completeness(faults, part, Some(outer), at, said);
    if part["items"].is_object() {
        let items = Some(&outer["items"]).filter(|items| items.is_object());
        mentioned(faults, &part["items"], items, &at.child("items"), &said.child("items"));
    }
    for (name, property) in fields(&part["properties"]) {
        let found = Some(&outer["properties"][name]).filter(|property| set(property));
        let (at, said) = (at.child("properties").key(name), said.child("properties").key(name));
        mentioned(faults, property, found, &at, &said);
    }
}
