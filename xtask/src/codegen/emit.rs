//! Writes the facts as one static table, one line per field, formatted so that rustfmt has nothing
//! to add and the compiler has nothing to evaluate but struct literals.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::proto::{Field, Message, Scalar, Shape};

const HEADER: &str = "\
//! Schema facts of the built-in kinds. Made by `cargo xtask codegen`; do not edit.

use super::facts::{ListKind::*, Scalar::*, Special::*, Strategy::*};
use super::facts::{Message, field};

";

pub fn emit(messages: &[Message], index: &BTreeMap<String, usize>) -> String {
    let mut out = HEADER.to_owned();
    out.push_str("#[rustfmt::skip]\npub(super) static MESSAGES: &[Message] = &[\n");
    for message in messages {
        let kind = if message.root { message.name.as_str() } else { "" };
        let group = if message.group == "-" { "" } else { message.group.as_str() };
        let atomic = message.markers.iter().any(|(n, v)| n == "structType" && v == "atomic");
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "    Message {{ name: {:?}, group: {group:?}, version: {:?}, kind: {kind:?}, atomic: {atomic}, \
             special: {}, fields: &[",
            message.definition,
            message.version,
            special(message)
        );
        for field in &message.fields {
            let _ = writeln!(out, "        {},", line(field, index));
        }
        out.push_str("    ] },\n");
    }
    out.push_str("];\n");
    out
}

fn special(message: &Message) -> &'static str {
    match message.definition.rsplit('.').next().unwrap_or_default() {
        "Time" => "Time",
        "MicroTime" => "MicroTime",
        "Timestamp" => "Time",
        "Duration" => "Duration",
        "IntOrString" => "IntOrString",
        "Quantity" => "Quantity",
        "RawExtension" => "RawExtension",
        "FieldsV1" => "FieldsV1",
        "JSON" => "Json",
        "JSONSchemaPropsOrArray" => "SchemaOrArray",
        "JSONSchemaPropsOrBool" => "SchemaOrBool",
        "JSONSchemaPropsOrStringArray" => "SchemaOrStrings",
        _ if is_list_wrapper(message) => "Items",
        _ => "Plain",
    }
}

/// A message that only wraps a list (`ExtraValue`, `Verbs`): the list itself in JSON.
fn is_list_wrapper(message: &Message) -> bool {
    matches!(message.fields.as_slice(), [only] if only.json == "items" && only.scalar == Scalar::Text)
}

fn line(field: &Field, index: &BTreeMap<String, usize>) -> String {
    let scalar = match &field.scalar {
        Scalar::Bool => "Bool".to_owned(),
        Scalar::Int32 => "Int32".to_owned(),
        Scalar::Int64 => "Int64".to_owned(),
        Scalar::Double => "Double".to_owned(),
        Scalar::Text => "Text".to_owned(),
        Scalar::Bytes => "Bytes".to_owned(),
        // Every reference was checked before.
        Scalar::Message(path) => format!("Msg({})", index.get(path).copied().unwrap_or_default()),
    };
    let mut out = format!("field({:?}, {}, {scalar})", field.json, field.tag);
    match field.shape {
        Shape::Single => {}
        Shape::List => out.push_str(".list()"),
        Shape::Map => out.push_str(".map()"),
    }
    list_facts(field, &mut out);
    patch_facts(field, &mut out);
    if field.required {
        out.push_str(".required()");
    }
    if field.inline {
        out.push_str(".inline()");
    }
    let default = field.marker("default").filter(|d| !d.starts_with("ref("));
    if let Some(default) = default {
        let _ = write!(out, ".default({default:?})");
    }
    out
}

fn list_facts(field: &Field, out: &mut String) {
    let keys: Vec<&str> = field.markers("listMapKey").collect();
    match field.marker("listType") {
        Some("map") => {
            let _ = write!(out, ".list_type(Map, &{keys:?})");
        }
        Some("set") => out.push_str(".list_type(Set, &[])"),
        _ => {}
    }
    let atomic = [field.marker("mapType"), field.marker("structType")].contains(&Some("atomic"));
    if atomic {
        out.push_str(".atomic()");
    }
    if field.marker("structType") == Some("granular") || field.marker("mapType") == Some("granular") {
        out.push_str(".granular()");
    }
}

fn patch_facts(field: &Field, out: &mut String) {
    let strategy = match field.marker("patchStrategy") {
        Some("merge") => "Merge",
        Some("replace") => "Replace",
        Some("retainKeys") => "RetainKeys",
        Some("merge,retainKeys") => "MergeRetainKeys",
        _ => return,
    };
    let _ = write!(out, ".patch({strategy}, {:?})", field.marker("patchMergeKey").unwrap_or_default());
}
