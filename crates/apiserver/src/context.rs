//! What one request is about, resolved once and handed down.

use std::sync::Arc;

use amphipod_api::codec::{Expected, FieldValidation};
use amphipod_api::field;
use amphipod_api::resource::Resource;
use amphipod_api::schema::Node;
use amphipod_api::status::Status;
use amphipod_strategy::Strategy;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, USER_AGENT};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::flow_control::Seat;
use crate::http::negotiate::Accepted;
use crate::http::path::{Query, Target};
use crate::seams::Attributes;

/// Longest `fieldManager`, as upstream.
const MAX_FIELD_MANAGER: usize = 128;
/// Warnings one answer carries, and their total size, as upstream truncates them.
const MAX_WARNING_BYTES: usize = 4 << 10;

pub struct Context {
    pub attributes: Arc<Attributes>,
    pub resource: Arc<Resource>,
    pub target: Target,
    pub query: Query,
    pub headers: HeaderMap,
    pub accepted: Accepted,
    pub now: Timestamp,
    /// `now` as RFC 3339 with whole seconds.
    pub now_text: String,
    warnings: Mutex<Vec<String>>,
    /// What a watch has until it has begun.
    seat: Mutex<Option<Seat>>,
}

/// RFC 3339, UTC, whole seconds: `metav1.Time`.
pub fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Context {
    pub fn new(
        attributes: Arc<Attributes>,
        resource: Arc<Resource>,
        target: Target,
        query: Query,
        headers: HeaderMap,
        accepted: Accepted,
        now: Timestamp,
    ) -> Self {
        let now_text = time_text(now);
        let (warnings, seat) = (Mutex::default(), Mutex::default());
        Context { attributes, resource, target, query, headers, accepted, now, now_text, warnings, seat }
    }

    pub fn seated(self, seat: Option<Seat>) -> Self {
        Context { seat: Mutex::new(seat), ..self }
    }
    pub fn take_seat(&self) -> Option<Seat> {
        self.seat.lock().take()
    }

    pub fn namespace(&self) -> &str {
        if self.resource.namespaced { &self.attributes.namespace } else { "" }
    }
    pub fn name(&self) -> &str {
        &self.attributes.name
    }
    pub fn subresource(&self) -> &str {
        &self.attributes.subresource
    }
    pub fn strategy(&self) -> &'static dyn Strategy {
        amphipod_strategy::for_resource(&self.resource.group, &self.resource.plural)
    }
    pub fn strategy_context(&self) -> amphipod_strategy::Context<'_> {
        amphipod_strategy::Context {
            resource: &self.resource,
            subresource: self.subresource(),
            now: &self.now_text,
        }
    }
    /// What the body of a write is: the resource's own kind.
    pub fn expected(&self) -> Expected<'_> {
        Expected::builtin(&self.resource.group, &self.resource.version, &self.resource.kind)
    }
    pub fn schema(&self) -> Node<'static> {
        Node::of_kind(&self.resource.group, &self.resource.version, &self.resource.kind)
    }

    pub fn content_type(&self) -> &str {
        self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("")
    }
    /// Refuses what the options of a write may not be, all faults in one answer.
    pub fn check_write_options(&self) -> Result<(), Status> {
        let kind = match self.attributes.verb.as_str() {
            "create" => "CreateOptions",
            "patch" => "PatchOptions",
            _ => "UpdateOptions",
        };
        let mut faults = field_manager_faults(self.query.text("fieldManager"));
        faults.extend(self.dry_run_fault());
        faults.extend(self.parse_field_validation().err());
        self.refuse_options(kind, &faults)
    }
    fn parse_field_validation(&self) -> Result<FieldValidation, field::Error> {
        let text = self.query.text("fieldValidation");
        let path = field::Path::new("fieldValidation");
        FieldValidation::parse(text)
            .ok_or_else(|| field::Error::not_supported(&path, text, &["", "Ignore", "Strict", "Warn"]))
    }
    pub fn field_validation(&self) -> Result<FieldValidation, Status> {
        self.parse_field_validation().map_err(|fault| self.invalid_options(&fault))
    }
    fn dry_run_fault(&self) -> Option<field::Error> {
        let values: Vec<&str> = self.query.all("dryRun").filter(|t| !t.is_empty()).collect();
        dry_run_fault(&values)
    }
    /// `?dryRun=All`
    pub fn dry_run(&self) -> Result<bool, Status> {
        match self.dry_run_fault() {
            Some(fault) => Err(self.invalid_options(&fault)),
            None => Ok(self.query.all("dryRun").any(|text| text == "All")),
        }
    }
    /// Who owns what this request writes: the parameter, or the client's name from User-Agent.
    pub fn field_manager(&self) -> Result<String, Status> {
        let given = self.query.text("fieldManager");
        if let Some(fault) = field_manager_faults(given).first() {
            return Err(self.invalid_options(fault));
        }
        if !given.is_empty() {
            return Ok(given.to_owned());
        }
        let agent = self.headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let name = agent.split('/').next().unwrap_or("").chars().take(MAX_FIELD_MANAGER).collect::<String>();
        Ok(if name.is_empty() { "unknown".into() } else { name })
    }
    pub fn invalid_options(&self, fault: &field::Error) -> Status {
        let kind = match self.attributes.verb.as_str() {
            "create" => "CreateOptions",
            "patch" => "PatchOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            "list" | "watch" => "ListOptions",
            _ => "UpdateOptions",
        };
        Status::invalid("meta.k8s.io", kind, "", std::slice::from_ref(fault))
    }
    pub fn refuse_options(&self, kind: &str, faults: &[field::Error]) -> Result<(), Status> {
        if faults.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", kind, "", faults)) }
    }

    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        let size: usize = warnings.iter().map(String::len).sum();
        if !warnings.contains(&text) && size + text.len() <= MAX_WARNING_BYTES {
            warnings.push(text);
        }
    }
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock())
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(&self.resource.group, &self.resource.plural, self.name())
    }
}

fn field_manager_faults(name: &str) -> Vec<field::Error> {
    let path = field::Path::new("fieldManager");
    let mut faults = Vec::new();
    if name.len() > MAX_FIELD_MANAGER {
        faults.push(field::Error::too_long(&path, MAX_FIELD_MANAGER));
    }
    for (at, unprintable) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let code = u32::from(unprintable);
        let detail = format!("invalid character U+{code:04X} (at position {at})");
        faults.push(field::Error::invalid(&path, name, detail));
    }
    faults
}

/// The fault names the whole list, as Go shows one.
pub fn dry_run_fault(values: &[&str]) -> Option<field::Error> {
    if values.iter().all(|value| *value == "All") {
        return None;
    }
    let fault = field::Error::not_supported(&field::Path::new("dryRun"), serde_json::json!(values), &["All"]);
    Some(fault)
}
