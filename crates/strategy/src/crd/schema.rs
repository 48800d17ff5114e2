//! Schemas keyword by keyword: what OpenAPI allows and Kubernetes does not, list and map types,
//! and the form of rules.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::{paths, structural};
use crate::check::{self, Faults};
use crate::json::{fields, items, set, text, truthy};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const METADATA: [&str; 3] = ["metadata", "kind", "apiVersion"];
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

pub fn validate(faults: &mut Faults, path: &Path, root: &Value) {
    structural::validate(faults, path, root);
    node(faults, path, root, &Place::default(), true);
}

#[derive(Clone, Default)]
struct Place {
    inside_metadata: bool,
    /// Why no default may stand here.
    no_defaults: Option<String>,
}

fn node(faults: &mut Faults, path: &Path, schema: &Value, place: &Place, root: bool) {
    keywords(faults, path, schema, place);
    if truthy(&schema["uniqueItems"]) {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        faults.push(Error::forbidden(&path.child("uniqueItems"), detail));
    }
    children(faults, path, schema, place, root);
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        faults.push(Error::invalid(&at, false, "must be true or undefined"));
    }
    map_type(faults, path, schema);
    list_type(faults, path, schema);
    for (i, rule) in items(&schema["x-kubernetes-validations"]).iter().enumerate() {
        self::rule(faults, &path.child("x-kubernetes-validations").index(i), rule, schema);
    }
}

fn keywords(faults: &mut Faults, path: &Path, schema: &Value, place: &Place) {
    let kind = text(&schema["type"]);
    if !kind.is_empty() && !TYPES.contains(&kind) {
        faults.push(Error::not_supported(&path.child("type"), kind, &TYPES));
    }
    if let Some(reason) = place.no_defaults.as_ref().filter(|_| set(&schema["default"])) {
        faults.push(Error::forbidden(&path.child("default"), format!("must not be set {reason}")));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let absent = crate::json::is_empty(&schema[key]) && key != "additionalItems" && key != "dependencies";
        if !absent && set(&schema[key]) {
            faults.push(Error::forbidden(&path.child(key), format!("{key} is not supported")));
        }
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        faults.push(Error::forbidden(&path.child("type"), detail));
    }
    if schema["items"].is_array() {
        faults.push(Error::forbidden(&path.child("items"), "items must be a schema object and not an array"));
    }
    if place.inside_metadata && truthy(&schema["x-kubernetes-embedded-resource"]) {
        let at = path.child("x-kubernetes-embedded-resource");
        faults.push(Error::forbidden(&at, "must not be used inside of resource meta"));
    }
}

fn children(faults: &mut Faults, path: &Path, schema: &Value, place: &Place, root: bool) {
    let more = &schema["additionalProperties"];
    if set(more) {
        if fields(&schema["properties"]).next().is_some() && *more != true {
            let detail = "additionalProperties and properties are mutual exclusive";
            faults.push(Error::forbidden(&path.child("additionalProperties"), detail));
        }
        let mut within = place.clone();
        if place.inside_metadata {
            within.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
        }
        node(faults, &path.child("additionalProperties"), more, &within, false);
    }
    for (name, property) in fields(&schema["properties"]) {
        let mut within = place.clone();
        let embedded = truthy(&schema["x-kubernetes-embedded-resource"]);
        if (root || embedded) && METADATA.contains(&name) {
            within.inside_metadata = true;
            if root {
                within.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        node(faults, &path.child("properties").key(name), property, &within, false);
    }
    if set(&schema["not"]) {
        node(faults, &path.child("not"), &schema["not"], place, false);
    }
    for list in ["allOf", "oneOf", "anyOf"] {
        for (i, part) in items(&schema[list]).iter().enumerate() {
            node(faults, &path.child(list).index(i), part, place, false);
        }
    }
    if schema["items"].is_object() {
        node(faults, &path.child("items"), &schema["items"], place, false);
    }
}

/// `type` must be `wanted` beside a Kubernetes extension.
fn demand_type(faults: &mut Faults, path: &Path, schema: &Value, wanted: &str, detail: &str) {
    match text(&schema["type"]) {
        kind if kind == wanted => {}
        "" => faults.push(Error::required(&path.child("type"), detail)),
        other => faults.push(Error::invalid(&path.child("type"), other, detail)),
    }
}

fn map_type(faults: &mut Faults, path: &Path, schema: &Value) {
    let kind = &schema["x-kubernetes-map-type"];
    if set(kind) {
        let detail = "must be object if x-kubernetes-map-type is specified";
        demand_type(faults, path, schema, "object", detail);
        crate::check::optional_one_of(
            faults,
            &path.child("x-kubernetes-map-type"),
            kind,
            &["atomic", "granular"],
        );
    }
}

fn list_type(faults: &mut Faults, path: &Path, schema: &Value) {
    let (kind, item) = (&schema["x-kubernetes-list-type"], &schema["items"]);
    let at = path.child("x-kubernetes-list-type");
    if set(kind) {
        let before = faults.len();
        demand_type(faults, path, schema, "array", "must be array if x-kubernetes-list-type is specified");
        if faults.len() == before && text(kind) == "set" {
            set_items(faults, &path.child("items"), item);
        }
        crate::check::optional_one_of(faults, &at, kind, &["atomic", "set", "map"]);
    }
    if !items(&schema["x-kubernetes-list-map-keys"]).is_empty() && text(kind) != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        faults.push(match set(kind) {
            false => Error::required(&at, detail),
            true => Error::invalid(&at, text(kind), detail),
        });
    }
    if text(kind) == "map" {
        map_items(faults, path, schema, item);
    }
    if ["map", "set"].contains(&text(kind)) && item.is_object() {
        keyed_items(faults, &path.child("items"), schema, item, text(kind));
    }
}

/// Members of a set are compared whole.
fn set_items(faults: &mut Faults, path: &Path, item: &Value) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list, map) = (&item["x-kubernetes-list-type"], &item["x-kubernetes-map-type"]);
    match text(&item["type"]) {
        "array" if set(list) && text(list) != "atomic" => {
            faults.push(Error::invalid(&path.child("x-kubernetes-list-type"), list.clone(), detail));
        }
        // Upstream shows the other type here.
        "object" if text(map) != "atomic" => {
            faults.push(Error::invalid(&path.child("x-kubernetes-map-type"), check::pointer(list), detail));
        }
        _ => {}
    }
}

fn map_items(faults: &mut Faults, path: &Path, schema: &Value, item: &Value) {
    let (keys, at) = (&schema["x-kubernetes-list-map-keys"], path.child("x-kubernetes-list-map-keys"));
    if items(keys).is_empty() {
        faults.push(Error::required(&at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let item_path = path.child("items");
    if !set(item) {
        faults.push(Error::required(&item_path, "must have a schema if x-kubernetes-list-type is map"));
        return;
    }
    if item.is_array() {
        let detail = "must only have a single schema if x-kubernetes-list-type is map";
        faults.push(Error::invalid(&item_path, item.clone(), detail));
        return;
    }
    if text(&item["type"]) != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        faults.push(Error::invalid(&item_path.child("type"), text(&item["type"]), detail));
        return;
    }
    let mut seen = HashSet::new();
    for key in items(keys) {
        // Most of them show all keys.
        if faults.is_full() {
            return;
        }
        let property = &item["properties"][text(key)];
        if !set(property) {
            faults.push(Error::invalid(&at, keys.clone(), "entries must all be names of item properties"));
        } else if ["array", "object"].contains(&text(&property["type"])) {
            let at = item_path.child("properties").key(text(key)).child("type");
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            faults.push(Error::invalid(&at, text(&item["type"]), detail));
        }
        if !seen.insert(key) {
            faults.push(Error::invalid(&at, keys.clone(), "must not contain duplicate entries"));
        }
    }
}

/// Members found by key or by themselves are never null.
fn keyed_items(faults: &mut Faults, path: &Path, schema: &Value, item: &Value, kind: &str) {
    if truthy(&item["nullable"]) {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        faults.push(Error::forbidden(&path.child("nullable"), detail));
    }
    if kind != "map" {
        return;
    }
    for key in items(&schema["x-kubernetes-list-map-keys"]) {
        let property = &item["properties"][text(key)];
        let at = path.child("properties").key(text(key));
        if !set(property) {
            continue;
        }
        if !items(&item["required"]).contains(key) && !set(&property["default"]) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            faults.push(Error::required(&at.child("default"), detail));
        }
        if truthy(&property["nullable"]) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            faults.push(Error::forbidden(&at.child("nullable"), detail));
        }
    }
}

fn rule(faults: &mut Faults, path: &Path, rule: &Value, schema: &Value) {
    let (expression, message) = (text(&rule["rule"]).trim(), text(&rule["message"]));
    let lines = |text: &str| text.contains(['\n', '\r']);
    let at = path.child("message");
    if expression.is_empty() {
        faults.push(Error::required(&path.child("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        faults.push(Error::invalid(&at, message, "must be non-empty if specified"));
    } else if lines(message.trim()) {
        faults.push(Error::invalid(&at, message, "must not contain line breaks"));
    } else if lines(expression) && message.trim().is_empty() {
        faults.push(Error::required(&at, "message must be specified if rule contains line breaks"));
    }
    let computed = text(&rule["messageExpression"]);
    if !computed.is_empty() && computed.trim().is_empty() {
        let detail = "messageExpression must be non-empty if specified";
        faults.push(Error::required(&path.child("messageExpression"), detail));
    }
    crate::check::optional_one_of(faults, &path.child("reason"), &rule["reason"], &REASONS);
    let (field, at) = (text(&rule["fieldPath"]), path.child("fieldPath"));
    if field.is_empty() {
        return;
    }
    if field.trim().is_empty() {
        faults.push(Error::invalid(&at, field, "must be non-empty if specified"));
    }
    if lines(field) {
        faults.push(Error::invalid(&at, field, "must not contain line breaks"));
    }
    if paths::resolve(field, schema).is_err() {
        faults.push(Error::invalid(&at, field, "must be a valid path"));
    }
}
