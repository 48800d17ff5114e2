//! PATCH in its four forms. A patch is a change like any other; server-side apply also decides who
//! owns which field.

use amphipod_api::apply;
use amphipod_api::codec::{self, FieldValidation};
use amphipod_api::field::{Error as FieldError, Path};
use amphipod_api::object;
use amphipod_api::patch;
use amphipod_api::schema::Node;
use amphipod_api::status::Status;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::create::check_namespace;
use super::update::{self, Change, check_name};
use super::writer;
use crate::body::Body;
use crate::context::Context;
use crate::server::ApiServer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

pub const ACCEPTED: &[&str] =
    &[patch::JSON_PATCH, patch::MERGE_PATCH, patch::STRATEGIC_MERGE_PATCH, patch::APPLY_PATCH];

/// Custom resources have no type that would say how lists merge.
const ACCEPTED_OF_CUSTOM: &[&str] = &[patch::JSON_PATCH, patch::MERGE_PATCH, patch::APPLY_PATCH];

fn accepted(cx: &Context) -> &'static [&'static str] {
    match cx.schema() {
        Node::Message(_) => ACCEPTED,
        _ => ACCEPTED_OF_CUSTOM,
    }
}

pub fn kind_of(content_type: &str) -> Option<Kind> {
    match content_type.split(';').next().unwrap_or("").trim() {
        patch::JSON_PATCH => Some(Kind::Json),
        patch::MERGE_PATCH => Some(Kind::Merge),
        patch::STRATEGIC_MERGE_PATCH => Some(Kind::Strategic),
        patch::APPLY_PATCH => Some(Kind::Apply),
        _ => None,
    }
}

impl Context {
    /// This request is a server-side apply.
    pub fn is_apply(&self) -> bool {
        self.attributes.verb == "patch" && kind_of(self.content_type()) == Some(Kind::Apply)
    }
}

pub async fn patch(server: &ApiServer, cx: &Context, body: Bytes) -> Result<Response<Body>, Status> {
    let refused = || Status::unsupported_media_type(accepted(cx));
    let kind = kind_of(cx.content_type()).ok_or_else(refused)?;
    if kind == Kind::Strategic && accepted(cx).len() < ACCEPTED.len() {
        return Err(refused());
    }
    let outcome = if kind == Kind::Apply {
        update::change(server, cx, &Applied::new(cx, &body, cx.expected())?).await?
    } else {
        check_force(cx)?;
        let change = Patched { cx, document: Document::read(cx, kind, &body)? };
        update::change(server, cx, &change).await?
    };
    update::respond(cx, &outcome)
}

pub fn check_force(cx: &Context) -> Result<(), Status> {
    if cx.query.contains("force") {
        let fault = FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        return Err(cx.invalid_options(&fault));
    }
    Ok(())
}

/// A patch other than apply, as it was sent.
pub struct Document {
    kind: Kind,
    content: Value,
    validation: FieldValidation,
    /// Duplicate and unknown fields of the patch itself.
    problems: Vec<String>,
}

impl Document {
    pub fn read(cx: &Context, kind: Kind, body: &[u8]) -> Result<Self, Status> {
        let validation = cx.field_validation()?;
        let (content, mut problems) =
            codec::parse_reporting(body, false, Node::Deduced).map_err(|e| match kind {
                Kind::Strategic => Status::bad_request(e),
                _ => Status::bad_request(format!("error decoding patch: {e}")),
            })?;
        if kind == Kind::Json {
            problems = problems.into_iter().map(|p| format!("json patch {p}")).collect();
            problems.extend(patch::json_patch_problems(&content));
        }
        Ok(Document { kind, content, validation, problems })
    }

    /// Applies the patch to any value, then fits the outcome to its type.
    pub fn apply(&self, cx: &Context, old: &Value, expected: codec::Expected<'_>) -> Result<Value, Status> {
        let mut new = match self.kind {
            Kind::Json => patch::apply_json_patch(old, &self.content, self.validation)?,
            Kind::Merge => patch::apply_merge_patch(old, &self.content, self.validation)?,
            _ => patch::apply_strategic_merge_patch(old, &self.content, expected.schema)?,
        };
        let refuse = |new: &Value, why: &str| match self.kind {
            Kind::Strategic => patch::invalid_outcome(&patch::strategic_text(&self.content), why),
            _ => patch::invalid_outcome(&new.to_string(), why),
        };
        if !new.is_object() || object::kind(&new) != object::kind(old) {
            return Err(refuse(&new, &format!("the outcome is no {}", object::kind(old))));
        }
        if object::api_version(&new) != object::api_version(old) {
            return Err(refuse(&new, &format!("the outcome is not of version {}", object::api_version(old))));
        }
        let unknown = codec::fit(&mut new, expected.schema).map_err(|why| refuse(&new, &why))?;
        let problems: Vec<&String> = self.problems.iter().chain(&unknown).collect();
        match self.validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => problems.into_iter().for_each(|p| cx.warn(p)),
            FieldValidation::Strict if problems.is_empty() => {}
            FieldValidation::Strict => {
                let all = problems.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(refuse(&new, &format!("strict decoding error: {all}")));
            }
        }
        Ok(new)
    }
}

struct Patched<'a> {
    cx: &'a Context,
    document: Document,
}

impl Change for Patched<'_> {
    fn apply(&self, old: &Value) -> Result<Value, Status> {
        let cx = self.cx;
        let mut new = self.document.apply(cx, old, cx.expected())?;
        check_place(cx, &mut new)?;
        Ok(new)
    }
}

/// A patch may not move the object; what it takes out of the name's place is not put back.
fn check_place(cx: &Context, new: &mut Value) -> Result<(), Status> {
    check_namespace(cx, new)?;
    check_name(cx, new)?;
    if cx.resource.namespaced {
        object::metadata_mut(new).insert("namespace".into(), cx.namespace().into());
    }
    Ok(())
}

/// One server-side apply.
pub struct Applied<'a> {
    cx: &'a Context,
    config: Value,
    manager: String,
    api_version: String,
    force: bool,
}

impl<'a> Applied<'a> {
    fn new(cx: &'a Context, body: &[u8], expected: codec::Expected<'_>) -> Result<Self, Status> {
        let mut config = configuration(cx, body, expected)?;
        complete(cx, &mut config)?;
        Self::of(cx, config)
    }

    /// Applies a configuration of the request's resource.
    pub fn of(cx: &'a Context, config: Value) -> Result<Self, Status> {
        let manager = cx.field_manager()?;
        let api_version = cx.resource.api_version();
        Ok(Applied { cx, config, manager, api_version, force: cx.query.flag("force") })
    }

    fn merge(&self, live: Option<&Value>) -> Result<Value, Status> {
        let cx = self.cx;
        let writer = writer(cx, &self.manager, &self.api_version);
        let mut merged = apply::apply(live, &self.config, self.force, &writer)?;
        codec::fit(&mut merged, cx.schema()).map_err(Status::internal)?;
        Ok(merged)
    }
}

/// Reads what is to be applied: YAML or JSON of the expected type.
pub fn configuration(cx: &Context, body: &[u8], expected: codec::Expected<'_>) -> Result<Value, Status> {
    if cx.query.text("fieldManager").is_empty() {
        let path = Path::new("fieldManager");
        return Err(cx.invalid_options(&FieldError::required(&path, "is required for apply patch")));
    }
    let (mut config, problems) = codec::parse_reporting(body, true, Node::Deduced)
        .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
    if config.is_null() {
        // As an empty map; it is of no version then.
        config = json!({});
    }
    if !config.is_object() {
        let why = "json: cannot unmarshal into Go value of type map[string]interface {}";
        return Err(Status::bad_request(format!("error decoding YAML: {why}")));
    }
    match cx.field_validation()? {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => problems.into_iter().for_each(|p| cx.warn(p)),
        FieldValidation::Strict if problems.is_empty() => {}
        FieldValidation::Strict => {
            return Err(Status::bad_request(format!("error strict decoding YAML: {}", problems.join(", "))));
        }
    }
    let (kind, version) = (object::kind(&config), object::api_version(&config));
    if version != expected.api_version() || kind != expected.kind {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            expected.api_version()
        )));
    }
    Ok(config)
}

/// The namespace comes from the URL; the name only where an object already bears it.
fn complete(cx: &Context, config: &mut Value) -> Result<(), Status> {
    check_namespace(cx, config)?;
    if !object::name(config).is_empty() {
        check_name(cx, config)?;
    }
    if cx.resource.namespaced {
        object::metadata_mut(config).insert("namespace".into(), cx.namespace().into());
    }
    Ok(())
}

impl Change for Applied<'_> {
    fn apply(&self, old: &Value) -> Result<Value, Status> {
        let given = object::resource_version(&self.config);
        if !given.is_empty() && given != object::resource_version(old) {
            let resource = &self.cx.resource;
            return Err(Status::modified(&resource.group, &resource.plural, self.cx.name()));
        }
        let mut merged = self.merge(Some(old))?;
        let uid = object::uid(&self.config);
        if !uid.is_empty() {
            // Compared with the stored one like any precondition.
            object::metadata_mut(&mut merged).insert("uid".into(), uid.into());
        }
        Ok(merged)
    }
    fn create(&self) -> Option<Result<Value, Status>> {
        if !self.cx.subresource().is_empty() {
            return None;
        }
        if !object::uid(&self.config).is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                object::uid(&self.config)
            );
            let resource = &self.cx.resource;
            return Some(Err(Status::conflict(&resource.group, &resource.plural, self.cx.name(), &why)));
        }
        Some(check_name(self.cx, &self.config).and_then(|()| self.merge(None)))
    }
    fn owns_fields(&self) -> bool {
        true
    }
}
