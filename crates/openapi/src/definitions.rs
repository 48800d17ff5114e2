//! One definition per type: the generated schema with Kubernetes' extensions (group-version-kind,
//! list types, merge keys) added from the schema facts, in the dialect of OpenAPI v2 or v3.

use std::collections::BTreeMap;

use amphipod_api::resource::{Resource, builtin};
use amphipod_api::schema::{self, Field, ListKind, Message, Shape, Special, Strategy};
use serde_json::{Map, Value, json};

use crate::own;
use crate::roots::{ROOTS, generator, register_borrowed, register_meta};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> String {
        match self {
            Dialect::V2 => format!("#/definitions/{name}"),
            Dialect::V3 => format!("#/components/schemas/{name}"),
        }
    }
    /// A property of another type. OpenAPI v3 allows nothing beside a reference.
    pub fn refer(self, name: &str) -> Value {
        json!({"$ref": self.reference(name)})
    }
}

/// All definitions a group version needs, by name.
pub(crate) fn of_group_version(path: &str, dialect: Dialect) -> BTreeMap<String, Value> {
    let mut generator = generator();
    if let Some((_, register)) = ROOTS.iter().find(|(p, _)| *p == path) {
        register(&mut generator);
    }
    register_borrowed(path, &mut generator);
    register_meta(&mut generator);
    let generated = generator.take_definitions(false);
    let mut found: BTreeMap<String, Value> = generated
        .into_iter()
        .map(|(name, definition)| {
            let finished = finish(&name, definition, dialect);
            (name, finished)
        })
        .collect();
    for resource in builtin().iter().filter(|r| path_of(r) == path && r.has_verb("list")) {
        let Some(message) = message_of(resource) else { continue };
        let mut list = list_definition(message.name, &resource.kind, dialect == Dialect::V3);
        list["x-kubernetes-group-version-kind"] = json!([{"group": resource.group, "version": resource.version, "kind": format!("{}List", resource.kind)}]);
        found.insert(format!("{}List", message.name), list);
    }
    found.extend(own::definitions(path, dialect));
    found
}

fn list_text(kind: &str) -> String {
    format!("{kind}List is a list of {kind} objects.")
}

pub(crate) fn path_of(resource: &Resource) -> String {
    crate::group_version_path(&resource.group, &resource.version)
}

fn message_of(resource: &Resource) -> Option<&'static Message> {
    schema::kind(&resource.group, &resource.version, &resource.kind)
}

/// The name of a resource's definition.
pub(crate) fn name_of(resource: &Resource) -> Option<&'static str> {
    message_of(resource).map(|message| message.name).or_else(|| own::definition_name(resource))
}

/// The schema of a list of `item` (a definition's name).
pub fn list_definition(item: &str, kind: &str, v3: bool) -> Value {
    let dialect = if v3 { Dialect::V3 } else { Dialect::V2 };
    json!({
        "description": list_text(kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of the schema of this object."},
            "kind": {"type": "string", "description": "The kind of this object."},
            "metadata": dialect.refer("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
            "items": {"type": "array", "description": format!("The {kind} objects."), "items": dialect.refer(item)},
        },
    })
}

fn finish(name: &str, definition: Value, dialect: Dialect) -> Value {
    let message = schema::by_name(name);
    let mut definition = match message.map(|m| m.special) {
        Some(Special::IntOrString) => int_or_string(&definition, dialect, "integer"),
        Some(Special::Quantity) => int_or_string(&definition, dialect, "number"),
        _ => translate(definition, dialect),
    };
    let Some(message) = message else { return definition };
    not_required(&mut definition, "metadata");
    if let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) {
        for (field, property) in properties.iter_mut() {
            if let (Some(field), Some(property)) = (message.field(field), property.as_object_mut()) {
                extend(property, field);
            }
        }
    }
    if let Some(map) = definition.as_object_mut() {
        if message.atomic {
            map.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        let kinds = group_version_kinds(message);
        if !kinds.is_empty() {
            map.insert("x-kubernetes-group-version-kind".into(), Value::Array(kinds));
        }
    }
    definition
}

fn group_version_kinds(message: &Message) -> Vec<Value> {
    let one = |group: &str, version: &str| json!({"group": group, "version": version, "kind": message.kind});
    match (message.group, message.kind) {
        (_, "") => Vec::new(),
        ("meta.k8s.io", "Status") => vec![one("", "v1")],
        ("meta.k8s.io", kind) if kind.ends_with("Options") => {
            let groups = amphipod_api::resource::groups().iter();
            groups
                .flat_map(|g| g.versions.iter().map(move |v| (g.name, v.version)))
                .map(|(g, v)| one(g, v))
                .collect()
        }
        ("meta.k8s.io", _) => vec![one("", "v1")],
        (group, _) => vec![one(group, message.version)],
    }
}

fn description(definition: &Value) -> Value {
    definition.get("description").cloned().unwrap_or_else(|| "".into())
}

fn int_or_string(definition: &Value, dialect: Dialect, number: &str) -> Value {
    let description = description(definition);
    let choice = json!([{"type": "string"}, {"type": number}]);
    match (dialect, number) {
        (Dialect::V2, "integer") => {
            json!({"description": description, "type": "string", "format": "int-or-string"})
        }
        (Dialect::V2, _) => json!({"description": description, "type": "string"}),
        (Dialect::V3, "integer") => {
            json!({"description": description, "oneOf": choice, "format": "int-or-string"})
        }
        (Dialect::V3, _) => json!({"description": description, "oneOf": choice}),
    }
}

/// Rewrites references and drops what the dialect does not know.
fn translate(value: Value, dialect: Dialect) -> Value {
    match value {
        Value::Object(map) => translate_object(map, dialect),
        Value::Array(list) => Value::Array(list.into_iter().map(|v| translate(v, dialect)).collect()),
        other => other,
    }
}

fn translate_object(mut map: Map<String, Value>, dialect: Dialect) -> Value {
    let target = match map.get("$ref") {
        Some(Value::String(reference)) => reference.rsplit('/').next().map(str::to_owned),
        _ => None,
    };
    if let Some(name) = target {
        map.remove("$ref");
        if dialect == Dialect::V3 && !map.is_empty() {
            map.insert("allOf".into(), json!([dialect.refer(&name)]));
        } else {
            map.insert("$ref".into(), dialect.reference(&name).into());
        }
        return Value::Object(map);
    }
    if dialect == Dialect::V2 {
        map.remove("oneOf");
        map.remove("anyOf");
        map.remove("nullable");
    }
    let translated = map.into_iter().map(|(key, value)| match key.as_str() {
        "description" | "required" | "enum" | "default" => (key, value),
        "properties" => {
            let Value::Object(properties) = value else { return (key, value) };
            let properties = properties.into_iter().map(|(name, p)| (name, translate(p, dialect))).collect();
            (key, Value::Object(properties))
        }
        _ => (key, translate(value, dialect)),
    });
    Value::Object(translated.collect())
}

/// The typed structs always hold their metadata; on the wire an object may come without.
fn not_required(definition: &mut Value, field: &str) {
    let Some(definition) = definition.as_object_mut() else { return };
    if let Some(required) = definition.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name != field);
        if required.is_empty() {
            definition.remove("required");
        }
    }
}

/// List, map and patch semantics of a field.
fn extend(property: &mut Map<String, Value>, field: &Field) {
    if field.shape == Shape::List {
        let kind = match field.list_kind {
            ListKind::Map => "map",
            ListKind::Set => "set",
            ListKind::Atomic => "atomic",
        };
        property.insert("x-kubernetes-list-type".into(), kind.into());
        if !field.list_keys.is_empty() {
            property.insert("x-kubernetes-list-map-keys".into(), json!(field.list_keys));
        }
    } else if field.atomic {
        property.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let strategy = match field.strategy {
        Strategy::Unset => None,
        Strategy::Merge => Some("merge"),
        Strategy::Replace => Some("replace"),
        Strategy::RetainKeys => Some("retainKeys"),
        Strategy::MergeRetainKeys => Some("merge,retainKeys"),
    };
    if let Some(strategy) = strategy {
        property.insert("x-kubernetes-patch-strategy".into(), strategy.into());
    }
    if !field.merge_key.is_empty() {
        property.insert("x-kubernetes-patch-merge-key".into(), field.merge_key.into());
    }
    if let Ok(default) = serde_json::from_str::<Value>(field.default) {
        property.insert("default".into(), default);
    }
}
