//! OpenAPI v2 in protobuf, after gnostic's `OpenAPIv2.proto`: a plain tree walk from the JSON
//! form. Tags are the proto file's.

use amphipod_api::codec::yaml;
use amphipod_api::protobuf::wire::{put_bytes, put_double, put_number};
use serde_json::Value;

pub(crate) struct Document {
    head: Vec<u8>,
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

impl Document {
    pub fn new(title: &str, version: &str) -> Self {
        let mut head = Vec::new();
        put_bytes(&mut head, 1, b"2.0");
        let mut info = Vec::new();
        put_bytes(&mut info, 1, title.as_bytes());
        put_bytes(&mut info, 2, version.as_bytes());
        put_bytes(&mut head, 2, &info);
        Document { head, paths: Vec::new(), definitions: Vec::new() }
    }
    pub fn path(&mut self, name: &str, item: &Value) {
        put_named(&mut self.paths, 2, name, &path_item(item));
    }
    pub fn definition(&mut self, name: &str, definition: &Value) {
        put_named(&mut self.definitions, 1, name, &schema(definition));
    }
    pub fn finish(self) -> Vec<u8> {
        let mut out = self.head;
        put_bytes(&mut out, 8, &self.paths);
        put_bytes(&mut out, 9, &self.definitions);
        out
    }
}

fn put_named(out: &mut Vec<u8>, tag: u32, name: &str, value: &[u8]) {
    let mut named = Vec::with_capacity(value.len() + name.len() + 12);
    put_bytes(&mut named, 1, name.as_bytes());
    put_bytes(&mut named, 2, value);
    put_bytes(out, tag, &named);
}

fn put_text(out: &mut Vec<u8>, tag: u32, value: &Value, name: &str) {
    if let Some(text) = value.get(name).and_then(Value::as_str) {
        put_bytes(out, tag, text.as_bytes());
    }
}

fn put_texts(out: &mut Vec<u8>, tag: u32, value: &Value, name: &str) {
    for text in value.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        put_bytes(out, tag, text.as_bytes());
    }
}

fn put_flag(out: &mut Vec<u8>, tag: u32, value: &Value, name: &str) {
    if value.get(name) == Some(&Value::Bool(true)) {
        put_number(out, tag, 1);
    }
}

/// `Any`: the value as YAML text.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 2, yaml::to_string(value).as_bytes());
    out
}

/// Every `x-` member.
fn put_extensions(out: &mut Vec<u8>, tag: u32, value: &Value) {
    for (name, extension) in value.as_object().into_iter().flatten().filter(|(n, _)| n.starts_with("x-")) {
        put_named(out, tag, name, &any(extension));
    }
}

fn path_item(item: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = item.get(method) {
            put_bytes(&mut out, tag, &operation(value));
        }
    }
    put_parameters(&mut out, 9, item);
    out
}

fn operation(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_texts(&mut out, 1, value, "tags");
    put_text(&mut out, 3, value, "description");
    put_text(&mut out, 5, value, "operationId");
    put_texts(&mut out, 6, value, "produces");
    put_texts(&mut out, 7, value, "consumes");
    put_parameters(&mut out, 8, value);
    if let Some(responses) = value.get("responses").and_then(Value::as_object) {
        let mut all = Vec::new();
        for (code, response) in responses {
            put_named(&mut all, 1, code, &response_value(response));
        }
        put_bytes(&mut out, 9, &all);
    }
    put_texts(&mut out, 10, value, "schemes");
    put_extensions(&mut out, 13, value);
    out
}

fn response_value(value: &Value) -> Vec<u8> {
    let mut response = Vec::new();
    put_text(&mut response, 1, value, "description");
    if let Some(answer) = value.get("schema") {
        let mut item = Vec::new();
        put_bytes(&mut item, 1, &schema(answer));
        put_bytes(&mut response, 2, &item);
    }
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &response);
    out
}

fn put_parameters(out: &mut Vec<u8>, tag: u32, value: &Value) {
    for parameter in value.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        let (choice, body) = match parameter.get("in").and_then(Value::as_str) {
            Some("body") => (1, body_parameter(parameter)),
            Some("path") => (2, wrapped(4, &path_parameter(parameter))),
            _ => (2, wrapped(3, &query_parameter(parameter))),
        };
        // ParametersItem { parameter: Parameter { body | non-body } }
        put_bytes(out, tag, &wrapped(1, &wrapped(choice, &body)));
    }
}

fn wrapped(tag: u32, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len() + 6);
    put_bytes(&mut out, tag, inner);
    out
}

fn body_parameter(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, 1, value, "description");
    put_text(&mut out, 2, value, "name");
    put_text(&mut out, 3, value, "in");
    put_flag(&mut out, 4, value, "required");
    if let Some(sent) = value.get("schema") {
        put_bytes(&mut out, 5, &schema(sent));
    }
    out
}

fn query_parameter(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_flag(&mut out, 1, value, "required");
    put_text(&mut out, 2, value, "in");
    put_text(&mut out, 3, value, "description");
    put_text(&mut out, 4, value, "name");
    put_text(&mut out, 6, value, "type");
    put_flag(&mut out, 20, value, "uniqueItems");
    out
}

fn path_parameter(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_flag(&mut out, 1, value, "required");
    put_text(&mut out, 2, value, "in");
    put_text(&mut out, 3, value, "description");
    put_text(&mut out, 4, value, "name");
    put_text(&mut out, 5, value, "type");
    put_flag(&mut out, 19, value, "uniqueItems");
    out
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, 1, value, "$ref");
    put_text(&mut out, 2, value, "format");
    put_text(&mut out, 3, value, "title");
    put_text(&mut out, 4, value, "description");
    if let Some(default) = value.get("default") {
        put_bytes(&mut out, 5, &any(default));
    }
    put_bounds(&mut out, value);
    put_texts(&mut out, 19, value, "required");
    for choice in value.get("enum").and_then(Value::as_array).into_iter().flatten() {
        put_bytes(&mut out, 20, &any(choice));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(open)) => put_bytes(&mut out, 21, &{
            let mut item = Vec::new();
            put_number(&mut item, 2, i64::from(*open));
            item
        }),
        Some(values) => put_bytes(&mut out, 21, &wrapped(1, &schema(values))),
        None => {}
    }
    if let Some(kind) = value.get("type").and_then(Value::as_str) {
        put_bytes(&mut out, 22, &wrapped(1, kind.as_bytes()));
    }
    if let Some(items) = value.get("items") {
        put_bytes(&mut out, 23, &wrapped(1, &schema(items)));
    }
    for part in value.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        put_bytes(&mut out, 24, &schema(part));
    }
    if let Some(properties) = value.get("properties").and_then(Value::as_object) {
        let mut all = Vec::new();
        for (name, property) in properties {
            put_named(&mut all, 1, name, &schema(property));
        }
        put_bytes(&mut out, 25, &all);
    }
    put_extensions(&mut out, 31, value);
    out
}

fn put_bounds(out: &mut Vec<u8>, value: &Value) {
    for (tag, name) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        if let Some(bound) = value.get(name).and_then(Value::as_f64) {
            put_double(out, tag, bound);
        }
    }
    put_flag(out, 8, value, "exclusiveMaximum");
    put_flag(out, 10, value, "exclusiveMinimum");
    let counts = [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ];
    for (tag, name) in counts {
        if let Some(bound) = value.get(name).and_then(Value::as_i64) {
            put_number(out, tag, bound);
        }
    }
    put_text(out, 13, value, "pattern");
    put_flag(out, 16, value, "uniqueItems");
}
