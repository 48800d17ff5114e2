//! From request bytes to a checked JSON value: JSON, YAML and protobuf; duplicate and unknown
//! fields reported as `fieldValidation` asks; wrong types refused in the words clients know.

mod conform;
mod go_yaml;
mod parse;
mod times;
pub mod yaml;

use serde_json::Value;

pub use conform::conform;
pub use times::{canonical_micro_time, canonical_time, go_duration, parse_go_duration};

use crate::field::go_quote;
use crate::protobuf;
use crate::schema::{self, Message, Node};
use crate::status::Status;

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What the report of a YAML document's duplicate begins with; a warning goes without.
const YAML_PREFIX: &str = "yaml: unmarshal errors:\n  ";

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// The query parameter's value; empty is the server's default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

/// The kind a request expects in its body.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    /// What is known about the body. A structural schema reports unknown fields but leaves pruning
    /// to its owner.
    pub schema: Node<'a>,
}

impl<'a> Expected<'a> {
    pub fn builtin(group: &'a str, version: &'a str, kind: &'a str) -> Self {
        Expected { group, version, kind, schema: Node::of_kind(group, version, kind) }
    }
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Carries apiVersion and kind, with unknown fields and nulls removed.
    pub value: Value,
    /// For `Warning: 299` headers.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    Protobuf,
}

/// The form a Content-Type names; parameters are ignored, an absent one is JSON.
pub fn media(content_type: &str) -> Option<Media> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | JSON => Some(Media::Json),
        YAML | "application/apply-patch+yaml" => Some(Media::Yaml),
        PROTOBUF => Some(Media::Protobuf),
        other if other.starts_with("application/") && other.ends_with("+json") => Some(Media::Json),
        _ => None,
    }
}

/// Patches are sent in forms of their own, which no object is.
fn is_patch(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().contains('+')
}

/// Decodes a request body of the expected kind.
pub fn decode(
    body: &[u8],
    content_type: &str,
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let media = media(content_type).filter(|_| !is_patch(content_type));
    let media = media.ok_or_else(|| Status::unsupported_media_type(&[JSON, YAML, PROTOBUF]))?;
    let (mut value, problems) = match media {
        Media::Protobuf => {
            let value = protobuf::decode(body).map_err(|e| unrecognized(expected, body, &e.to_string()))?;
            (value, Vec::new())
        }
        text => parse::parse(body, text == Media::Yaml, expected.schema).map_err(|e| {
            let e = if text == Media::Json {
                format!("couldn't get version/kind; json parse error: {e}")
            } else {
                e
            };
            unrecognized(expected, body, &e)
        })?,
    };
    if value.is_null() {
        // Go decodes null into an empty object, and no YAML at all is null.
        value = Value::Object(serde_json::Map::new());
    }
    check_kind(&mut value, expected)?;
    if validation == FieldValidation::Strict && !problems.is_empty() {
        let faults = format!("strict decoding error: {}", problems.join(", "));
        return Err(not_handled(&value, expected, &faults));
    }
    settle(&mut value, expected.schema).map_err(|e| not_handled(&value, expected, &e))?;
    let warnings = if validation == FieldValidation::Warn { problems } else { Vec::new() };
    let warnings = warnings.into_iter().map(|text| text.trim_start_matches(YAML_PREFIX).to_owned()).collect();
    Ok(Decoded { value, warnings })
}

/// Parses a document without knowing its kind (patches, files): duplicates keep the last value.
pub fn parse_document(body: &[u8], is_yaml: bool) -> Result<Value, String> {
    parse::parse(body, is_yaml, Node::Deduced).map(|(value, _)| value)
}

/// Parses and reports duplicate and unknown fields without changing anything.
pub fn parse_reporting(body: &[u8], is_yaml: bool, schema: Node<'_>) -> Result<(Value, Vec<String>), String> {
    parse::parse(body, is_yaml, schema)
}

fn settle(value: &mut Value, schema: Node<'_>) -> Result<(), String> {
    match schema {
        Node::Message(message) => conform(value, message).map(drop),
        _ => match value.get_mut("metadata") {
            Some(metadata) => conform(metadata, schema::object_meta()).map(drop),
            None => Ok(()),
        },
    }
}

/// Fills an absent apiVersion and kind in, refuses others than expected.
fn check_kind(value: &mut Value, expected: Expected<'_>) -> Result<(), Status> {
    let Value::Object(map) = value else {
        let what = format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ \
             APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
             \"json:\\\"kind,omitempty\\\"\" }}",
            crate::go_text::json_type(value)
        );
        let text = value.to_string();
        return Err(unrecognized(expected, text.as_bytes(), &what));
    };
    let api_version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if api_version.is_empty() {
        map.insert("apiVersion".into(), expected.api_version().into());
    }
    if kind.is_empty() {
        map.insert("kind".into(), expected.kind.into());
    }
    let same_kind = kind.is_empty() || kind == expected.kind;
    let same_version = api_version.is_empty() || api_version == expected.api_version();
    if same_kind && (same_version || is_generic(expected.kind)) {
        return Ok(());
    }
    if same_kind || schema::of(&api_version, &kind).is_none() && !same_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version()
        )));
    }
    let (_, version) = schema::split_api_version(&api_version);
    let why = if schema::of(&api_version, &kind).is_some() {
        let go = |v: &str, k: &str| format!("({v}.{k})");
        let into = if expected.group.is_empty() { "core" } else { expected.group };
        format!("converting {} to {}: unknown conversion", go(version, &kind), go(into, expected.kind))
    } else {
        let shown = if api_version.is_empty() { expected.api_version() } else { api_version.clone() };
        format!(
            "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            go_quote(&kind),
            go_quote(&shown)
        )
    };
    Err(not_handled(value, expected, &why))
}

/// Options are accepted under any group and version.
fn is_generic(kind: &str) -> bool {
    kind.ends_with("Options")
}

/// 400 for a body whose kind is known.
pub fn not_handled(value: &Value, expected: Expected<'_>, why: &str) -> Status {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or(expected.kind);
    let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let (_, version) = schema::split_api_version(api_version);
    let version = if version.is_empty() { expected.version } else { version };
    Status::bad_request(format!(
        "{kind} in version {} cannot be handled as a {}: {why}",
        go_quote(version),
        expected.kind
    ))
}

fn unrecognized(expected: Expected<'_>, body: &[u8], why: &str) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({})",
        expected.kind,
        summary(body)
    ))
}

/// How much of an unreadable body a refusal quotes.
const SUMMARY_BYTES: usize = 30;

fn summary(body: &[u8]) -> String {
    let short = &body[..body.len().min(SUMMARY_BYTES)];
    let more = if body.len() > SUMMARY_BYTES { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(short)),
        Some(_) => {
            let hex: String = short.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// Fits a value that did not come from bytes (the outcome of a patch) to its type: prunes what the
/// type does not declare and returns those fields as problems.
pub fn fit(value: &mut Value, schema: Node<'_>) -> Result<Vec<String>, String> {
    match schema {
        Node::Message(message) => conform(value, message),
        _ => settle(value, schema).map(|()| Vec::new()),
    }
}

/// The type behind a stored object, if it is a built-in one.
pub fn type_of(value: &Value) -> Option<&'static Message> {
    schema::of(crate::object::api_version(value), crate::object::kind(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Expected<'static> {
        Expected::builtin("apps", "v1", "Deployment")
    }

    fn refused(body: &str, content_type: &str, validation: FieldValidation) -> String {
        let status = decode(body.as_bytes(), content_type, deployment(), validation).expect_err(body);
        assert_eq!(status.code, 400);
        status.message
    }

    const UNKNOWN: &str = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","labels":{"x":"1","x":"2"}},
        "spec":{"foo":1,"paused":false,"paused":true,"replicas":2,"template":{"spec":{"containers":[
        {"name":"c","resources":{"limits":{"cpu":"0.5","memory":"1024Mi"}},"bar":{"a":1,"a":2}}]}}},"status":null}"#;

    #[test]
    fn zeros_stay_where_go_knows_them_from_absent_fields() {
        let pod = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","labels":{"x":""}},"spec":{"replicas":0,
            "paused":false,"minReadySeconds":0,"template":{"spec":{"hostNetwork":false,"nodeSelector":{"a":""},"enableServiceLinks":false,
            "nodeName":"","containers":[{"name":"","image":"","securityContext":{"runAsUser":0,"privileged":false},"env":[{"name":"E","value":""}]}]}}}}"#;
        let decoded =
            decode(pod.as_bytes(), "application/json", deployment(), FieldValidation::Strict).expect("ok");
        assert_eq!(
            decoded.value,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"x": ""}},
                "spec": {"replicas": 0, "template": {"spec": {"nodeSelector": {"a": ""}, "enableServiceLinks": false, "containers": [
                    {"name": "", "securityContext": {"runAsUser": 0, "privileged": false}, "env": [{"name": "E"}]}]}}}})
        );
    }

    #[test]
    fn unknown_and_duplicate_fields() {
        let decoded =
            decode(UNKNOWN.as_bytes(), "application/json", deployment(), FieldValidation::Warn).expect("ok");
        let expected = [
            "duplicate field \"metadata.labels.x\"",
            "unknown field \"spec.foo\"",
            "duplicate field \"spec.paused\"",
            "unknown field \"spec.template.spec.containers[0].bar\"",
        ];
        assert_eq!(decoded.warnings, expected);
        assert_eq!(
            decoded.value,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"x": "2"}},
                "spec": {"paused": true, "replicas": 2, "template": {"spec": {"containers": [
                    {"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}]}}}})
        );
        let message = refused(UNKNOWN, "application/json", FieldValidation::Strict);
        assert_eq!(
            message,
            format!(
                "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: {}",
                expected.join(", ")
            )
        );
        let quiet = decode(UNKNOWN.as_bytes(), "", deployment(), FieldValidation::Ignore).expect("ok");
        assert!(quiet.warnings.is_empty());
    }

    #[test]
    fn yaml() {
        let text = "kind: Deployment\nmetadata:\n  name: a\n  labels: {on: \"yes\"}\nspec:\n  replicas: 2\n  \
                    paused: true\n  minReadySeconds: 5.0\n";
        let decoded =
            decode(text.as_bytes(), "application/yaml", deployment(), FieldValidation::Strict).expect("ok");
        assert_eq!(decoded.value["spec"], json!({"replicas": 2, "paused": true, "minReadySeconds": 5}));
        let message = refused("spec:\n  replicas: 1\n  replicas: 2\n", YAML, FieldValidation::Strict);
        assert!(
            message.contains("strict decoding error: yaml: unmarshal errors:\n  line 3: key \"replicas\" already set in map"),
            "{message}"
        );
    }

    #[test]
    fn wrong_types() {
        let strict = FieldValidation::Strict;
        let cases = [
            (
                r#"{"spec":{"replicas":"x"}}"#,
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type \
                 []v1.Container",
            ),
            (
                r#"{"metadata":{"labels":{"a":1}}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                r#"{"spec":{"replicas":1.5}}"#,
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                r#"{"metadata":{"creationTimestamp":"x"}}"#,
                "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
            ),
        ];
        for (body, text) in cases {
            let expected = format!("Deployment in version \"v1\" cannot be handled as a Deployment: {text}");
            assert_eq!(refused(body, JSON, strict), expected);
        }
    }

    #[test]
    fn kinds_and_garbage() {
        let strict = FieldValidation::Strict;
        assert_eq!(
            refused(r#"{"kind":"Deployment","apiVersion":"v1"}"#, JSON, strict),
            "the API version in the data (v1) does not match the expected API version (apps/v1)"
        );
        assert_eq!(
            refused("{", JSON, strict),
            "the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json \
             parse error: unexpected end of JSON input ({)"
        );
        assert!(refused("", JSON, strict).ends_with("unexpected end of JSON input (<empty>)"));
        assert!(refused("[]", JSON, strict).contains("cannot unmarshal array into Go value"));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
        assert!(refused(&deep, JSON, strict).contains("exceeded max depth"));
        // A test's thread has the stack of a server's worker.
        for deep in [format!("a: {}", "{a: ".repeat(20_000)), "[".repeat(100_000), "- ".repeat(20_000)] {
            decode(deep.as_bytes(), "application/yaml", deployment(), strict).expect_err("depth");
            parse_document(deep.as_bytes(), true).expect_err("depth");
            parse_document(deep.as_bytes(), false).expect_err("depth");
        }
        let none = decode(b"x", "text/plain", deployment(), strict).expect_err("media type");
        assert_eq!(none.code, 415);
        let service = Expected::builtin("", "v1", "Service");
        let message =
            decode(br#"{"kind":"Pod","apiVersion":"v1"}"#, JSON, service, strict).expect_err("kind").message;
        assert_eq!(
            message,
            "Pod in version \"v1\" cannot be handled as a Service: converting (v1.Pod) to (core.Service): unknown \
             conversion"
        );
        let options = Expected::builtin("", "v1", "DeleteOptions");
        assert!(decode(br#"{"kind":"DeleteOptions","apiVersion":"apps/v1"}"#, JSON, options, strict).is_ok());
    }
}
