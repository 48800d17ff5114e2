//! PATCH in its four forms. A patch is a change like any other; server-side apply also decides who
//! owns which field.

use amphipod_api::apply;
use amphipod_api::codec::{self, FieldValidation};
use amphipod_api::field::{Error as FieldError, Path};
use amphipod_api::object;
use amphipod_api::patch;
use amphipod_api::status::Status;
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::update::{self, Change};
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

const ACCEPTED: &[&str] =
    &[patch::JSON_PATCH, patch::MERGE_PATCH, patch::STRATEGIC_MERGE_PATCH, patch::APPLY_PATCH];

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
    let kind = kind_of(cx.content_type()).ok_or_else(|| Status::unsupported_media_type(ACCEPTED))?;
    let document = codec::parse_document(&body, kind == Kind::Apply)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    let outcome = if kind == Kind::Apply {
        let change = Applied::new(cx, &body, document)?;
        update::change(server, cx, &change).await?
    } else {
        check_force(cx)?;
        let change = Patched { cx, kind, document, validation: cx.field_validation()? };
        update::change(server, cx, &change).await?
    };
    update::respond(cx, &outcome)
}

fn check_force(cx: &Context) -> Result<(), Status> {
    if cx.query.contains("force") {
        let fault = FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        return Err(cx.invalid_options(&fault));
    }
    Ok(())
}

/// Applies a non-apply patch to any value, then fits the outcome to its type.
pub fn patched(
    cx: &Context,
    kind: Kind,
    document: &Value,
    old: &Value,
    expected: codec::Expected<'_>,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let mut new = match kind {
        Kind::Json => patch::apply_json_patch(old, document)?,
        Kind::Merge => patch::apply_merge_patch(old, document)?,
        _ => patch::apply_strategic_merge_patch(old, document, expected.schema)?,
    };
    for warning in codec::check_patched(&mut new, expected, validation)? {
        cx.warn(warning);
    }
    Ok(new)
}

struct Patched<'a> {
    cx: &'a Context,
    kind: Kind,
    document: Value,
    validation: FieldValidation,
}

impl Change for Patched<'_> {
    fn apply(&self, old: &Value) -> Result<Value, Status> {
        let cx = self.cx;
        let new = patched(cx, self.kind, &self.document, old, cx.expected(), self.validation)?;
        if object::name(&new) != cx.name() || object::namespace(&new) != object::namespace(old) {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                object::name(&new),
                cx.name()
            )));
        }
        Ok(new)
    }
}

/// One server-side apply.
struct Applied<'a> {
    cx: &'a Context,
    config: Value,
    manager: String,
    api_version: String,
    force: bool,
}

impl<'a> Applied<'a> {
    fn new(cx: &'a Context, body: &[u8], mut config: Value) -> Result<Self, Status> {
        let manager = cx.query.text("fieldManager").to_owned();
        if manager.is_empty() {
            let path = Path::new("fieldManager");
            return Err(cx.invalid_options(&FieldError::required(&path, "is required for apply patch")));
        }
        cx.field_manager()?;
        let expected = cx.expected();
        let (_, problems) = codec::parse_reporting(body, true, expected.schema)
            .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
        match cx.field_validation()? {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => problems.into_iter().for_each(|p| cx.warn(p)),
            FieldValidation::Strict if problems.is_empty() => {}
            FieldValidation::Strict => {
                return Err(Status::bad_request(format!("strict decoding error: {}", problems.join(", "))));
            }
        }
        complete(cx, &mut config)?;
        let api_version = cx.resource.api_version();
        Ok(Applied { cx, config, manager, api_version, force: cx.query.flag("force") })
    }

    fn merge(&self, live: Option<&Value>) -> Result<Value, Status> {
        let cx = self.cx;
        let writer = writer(cx, &self.manager, &self.api_version);
        let mut merged = apply::apply(live, &self.config, self.force, &writer)?;
        codec::check_patched(&mut merged, cx.expected(), FieldValidation::Ignore)?;
        Ok(merged)
    }
}

/// The applied document must name its type; name and namespace come from the URL.
fn complete(cx: &Context, config: &mut Value) -> Result<(), Status> {
    let (kind, version) = (object::kind(config).to_owned(), object::api_version(config).to_owned());
    if kind != cx.resource.kind || version != cx.resource.api_version() {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            cx.resource.api_version()
        )));
    }
    let name = object::name(config);
    if !name.is_empty() && name != cx.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            cx.name()
        )));
    }
    let namespace = object::namespace(config);
    if cx.resource.namespaced && !namespace.is_empty() && namespace != cx.namespace() {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
            cx.namespace()
        )));
    }
    let metadata = object::metadata_mut(config);
    metadata.insert("name".into(), cx.name().into());
    if cx.resource.namespaced {
        metadata.insert("namespace".into(), cx.namespace().into());
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
        Some(self.merge(None))
    }
    fn owns_fields(&self) -> bool {
        true
    }
}
