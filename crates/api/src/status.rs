//! `metav1.Status`: the one error shape of the API. Constructors carry Kubernetes' codes, reasons
//! and wording; every layer that refuses something builds one of these.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    #[serde(default)]
    pub metadata: ListMeta,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

fn kind() -> String {
    "Status".into()
}
fn api_version() -> String {
    "v1".into()
}
fn is_zero(code: &u16) -> bool {
    *code == 0
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "continue")]
    pub continue_: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `pods` or `deployments.apps`: how refusals name a resource.
pub fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

impl Status {
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Status {
            kind: kind(),
            api_version: api_version(),
            metadata: ListMeta::default(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }
    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_with(Details::default);
        details.group = group.into();
        details.kind = kind.into();
        details.name = name.into();
        self
    }
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.details.get_or_insert_with(Details::default).causes.push(cause);
        self
    }
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        // Zero is no advice, but the answer still has details.
        self.details.get_or_insert_with(Details::default).retry_after_seconds =
            Some(seconds).filter(|s| *s > 0);
        self
    }

    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, plural), field::go_quote(name));
        Self::failure(404, "NotFound", message).about(group, plural, name)
    }
    /// The path leads nowhere: no such resource, group or version.
    pub fn no_such_path() -> Self {
        let mut status = Self::failure(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Details::default());
        status
    }
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, plural), field::go_quote(name));
        Self::failure(409, "AlreadyExists", message).about(group, plural, name)
    }
    /// The server drew names until it gave up (or was given one beside the prefix).
    pub fn generate_name_conflict(group: &str, plural: &str, name: &str) -> Self {
        let mut status = Self::already_exists(group, plural, name);
        status.message.push_str(", the server was not able to generate a unique name for the object");
        status.with_retry_after(1)
    }
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            qualified(group, plural),
            field::go_quote(name)
        );
        Self::failure(409, "Conflict", message).about(group, plural, name)
    }
    /// The usual lost race of optimistic locking.
    pub fn modified(group: &str, plural: &str, name: &str) -> Self {
        Self::conflict(
            group,
            plural,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = match (plural.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{} is forbidden: {why}", qualified(group, plural)),
            (false, false) => {
                format!("{} {} is forbidden: {why}", qualified(group, plural), field::go_quote(name))
            }
        };
        Self::failure(403, "Forbidden", message).about(group, plural, name)
    }
    /// 422 with all faults of the object in one answer. `kind` is the Kind, not the plural.
    pub fn invalid(group: &str, kind: &str, name: &str, faults: &[field::Error]) -> Self {
        let aggregate = match faults {
            [] => "[]".to_owned(),
            [one] => one.to_string(),
            many => {
                let mut known = HashSet::new();
                let texts = many.iter().map(ToString::to_string);
                let mut seen: Vec<String> = texts.filter(|text| known.insert(text.clone())).collect();
                if seen.len() == 1 { seen.remove(0) } else { format!("[{}]", seen.join(", ")) }
            }
        };
        let message = format!("{} {} is invalid: {aggregate}", qualified(group, kind), field::go_quote(name));
        let mut status = Self::failure(422, "Invalid", message).about(group, kind, name);
        for fault in faults {
            status = status.with_cause(Cause {
                reason: fault.kind.cause().into(),
                message: fault.body(),
                field: fault.field.clone(),
            });
        }
        status
    }
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::failure(401, "Unauthorized", message)
    }
    /// The path is served, but not with this method.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut status = Self::failure(405, "MethodNotAllowed", message);
        status.details = Some(Details::default());
        status
    }
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::failure(406, "NotAcceptable", message)
    }
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message).with_retry_after(retry_after_seconds)
    }
    pub fn internal(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_cause(Cause { message, ..Cause::default() })
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }
    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {}", message.into()))
            .with_retry_after(retry_after_seconds)
    }
    /// The answer to a delete that removed the object at once.
    pub fn success() -> Self {
        Status { status: "Success".into(), kind: kind(), api_version: api_version(), ..Status::default() }
    }
    pub fn has_reason(&self, reason: &str) -> bool {
        self.reason == reason
    }
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings and numbers always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
