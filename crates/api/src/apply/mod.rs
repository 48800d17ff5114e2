//! Field ownership: server-side apply and the bookkeeping of ordinary writes, with the semantics
//! of structured-merge-diff (KEP-555).

mod check;
mod conflicts;
mod fields;
mod last_applied;
mod managed;
mod typed;
mod versions;

use serde_json::{Map, Value};

pub use fields::Fields;
use managed::{Entry, Identity, Managers};
use versions::Changes;
pub use versions::{OneVersion, Versions};

use crate::object::{at, metadata_mut};
use crate::schema::Node;
use crate::status::Status;

/// Who writes, where and when.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// Of the request: `apps/v1`.
    pub api_version: &'a str,
    /// `""` or `status`, `scale`, ...
    pub subresource: &'a str,
    /// RFC 3339, seconds, UTC.
    pub now: &'a str,
    pub schema: Node<'a>,
    pub tracked: Tracked<'a>,
    /// The other versions managers may have written at.
    pub versions: &'a dyn Versions,
}

/// The part of an object this endpoint can write; the rest is reset, and nobody gains it here.
/// Paths are field names, `*` any element.
#[derive(Clone, Copy, Debug)]
pub enum Tracked<'a> {
    AllBut(&'a [&'a [&'a str]]),
    Only(&'a [&'a [&'a str]]),
}

impl Tracked<'_> {
    fn keep(&self, fields: &mut Fields) {
        match self {
            Tracked::AllBut(paths) => {
                let mut reset = Fields::default();
                for path in *paths {
                    let elements: Vec<String> = path.iter().map(|name| fields::field_element(name)).collect();
                    reset.insert(&elements);
                }
                fields.subtract_below(&reset);
            }
            Tracked::Only(paths) => *fields = fields.keep_below(paths),
        }
    }
}

impl Writer<'_> {
    fn identity(&self, applies: bool) -> Identity {
        Identity::new(self.manager, applies, self.api_version, self.subresource)
    }
}

/// Records an ordinary write (create, update, patch) in `new`'s managedFields. `live` is `None` at
/// creation.
pub fn update_managers(live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let mut managers = managed::live_or_new(live, new, writer.subresource);
    if live.is_some() && managers.is_empty() {
        // Not tracked so far; tracking begins with the first apply.
        managed::write(new, managers);
        return;
    }
    collapse(&mut managers, writer);
    let nothing = empty();
    record(live.unwrap_or(&nothing), new, &mut managers, writer.identity(false), writer);
    managed::bound(&mut managers);
    managed::write(new, managers);
}

/// Gives an identity what changed between two objects; others lose it.
fn record(before: &Value, after: &Value, managers: &mut Managers, identity: Identity, writer: &Writer<'_>) {
    let mut changes = Changes::new(before, after, writer);
    changes.take_from(managers, None);
    let gained = changes.into_here().into_changed();
    if !gained.is_empty() {
        let time = Some(writer.now.to_owned());
        match managers.get_mut(&identity) {
            Some(entry) => {
                entry.fields.union(&gained);
                entry.time = time;
            }
            None => {
                let api_version = writer.api_version.to_owned();
                managers.insert(identity, Entry { fields: gained, api_version, time });
            }
        }
    }
    managed::strip(managers);
}

/// A write that changed nothing but the time in managedFields is no write: the times stay.
pub fn keep_times(old: &Value, new: &mut Value) {
    const POINTER: &str = "/metadata/managedFields";
    if at(old, POINTER) == at(new, POINTER) || !managed::same_but_for_time(old, new) {
        return;
    }
    if same_but_for_managers(old, new)
        && let Some(fields) = at(old, POINTER)
    {
        metadata_mut(new).insert("managedFields".to_owned(), fields.clone());
    }
}

fn empty() -> Value {
    Value::Object(Map::new())
}

/// Sets written when a place was not atomic yet say it in today's terms.
fn collapse(managers: &mut Managers, writer: &Writer<'_>) {
    for entry in managers.values_mut().filter(|e| e.api_version == writer.api_version) {
        entry.fields.collapse_atomic(&writer.schema);
    }
}

/// Server-side apply: the object that results, with its managedFields. `live` is `None` where the
/// apply creates. Conflicts are a 409 that names every manager and field.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    force: bool,
    writer: &Writer<'_>,
) -> Result<Value, Status> {
    check_config(config, writer)?;
    let nothing = empty();
    let before = live.unwrap_or(&nothing);
    let mut managers = live.and_then(managed::read).unwrap_or_default();
    if live.is_some() && managers.is_empty() {
        let untracked = Identity::new("before-first-apply", false, writer.api_version, "");
        record(&nothing, before, &mut managers, untracked, writer);
    }
    collapse(&mut managers, writer);
    let config = canonical(config, writer)?;
    let identity = writer.identity(true);
    let mut set = Fields::default();
    typed::field_set(&config, &writer.schema, &mut set);
    writer.tracked.keep(&mut set);
    let last = managers.get(&identity).cloned();
    // Whoever applies all that it applied before gives nothing up.
    let surplus = last.as_ref().filter(|last| {
        !last.fields.is_empty() && (last.api_version != writer.api_version || !last.fields.is_within(&set))
    });
    let api_version = writer.api_version.to_owned();
    managers.insert(identity.clone(), Entry { fields: set, api_version, time: None });

    let mut merged = typed::merge(before, &config, &writer.schema);
    // Written anew at the end.
    if let Some(metadata) = merged.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let mut result = match surplus {
        Some(last) => versions::prune(merged, &managers, last, writer),
        None => merged,
    };
    let mut changes = Changes::new(before, &result, writer);
    let mut conflicts = conflicts::find(&managers, &mut changes, &identity);
    if !force && !conflicts.is_empty() {
        last_applied::allow(&mut conflicts, before, writer);
        if !conflicts.is_empty() {
            return Err(conflicts::status(&conflicts));
        }
    }
    changes.take_from(&mut managers, Some(&identity));
    if let Some(entry) = managers.get_mut(&identity) {
        let changed = live.is_none() || !same_but_for_managers(before, &result);
        entry.time = if changed { Some(writer.now.to_owned()) } else { last.and_then(|l| l.time) };
    }
    managed::strip(&mut managers);
    carry_identity(&mut result, live);
    last_applied::update(&mut result, &config, writer);
    managed::write(&mut result, managers);
    Ok(result)
}

/// A configuration may not rename what it applies to.
fn carry_identity(result: &mut Value, live: Option<&Value>) {
    let Some(live) = live else { return };
    for name in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
        if let Some(value) = live.pointer(&format!("/metadata/{name}")) {
            metadata_mut(result).insert(name.to_owned(), value.clone());
        }
    }
}

/// Whether two objects differ in nothing but their managedFields.
fn same_but_for_managers(left: &Value, right: &Value) -> bool {
    let (Some(l), Some(r)) = (left.as_object(), right.as_object()) else { return left == right };
    let parts = |map: &'_ Map<String, Value>| map.len() - usize::from(map.contains_key("managedFields"));
    let metadata = match (l.get("metadata"), r.get("metadata")) {
        (Some(Value::Object(l)), Some(Value::Object(r))) => {
            parts(l) == parts(r)
                && l.iter().all(|(key, value)| key == "managedFields" || r.get(key) == Some(value))
        }
        (l, r) => l == r,
    };
    metadata
        && l.len() == r.len()
        && l.iter().all(|(key, value)| key == "metadata" || r.get(key) == Some(value))
}

fn check_config(config: &Value, writer: &Writer<'_>) -> Result<(), Status> {
    let version = crate::object::api_version(config);
    if !version.is_empty() && version != writer.api_version {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            writer.api_version
        )));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|l| !l.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let faults = check::faults(config, &writer.schema);
    let text = match faults.as_slice() {
        [] => return Ok(()),
        [only] => only.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    Err(typed_failure(config, writer, &text))
}

/// Upstream answers these as a plain error: 500 without a reason.
fn typed_failure(config: &Value, writer: &Writer<'_>, why: &str) -> Status {
    let (group, version) = crate::schema::split_api_version(writer.api_version);
    let group_version = if group.is_empty() { format!("/{version}") } else { format!("{group}/{version}") };
    Status::failure(
        500,
        "",
        format!(
            "failed to create typed patch object ({}/{}; {group_version}, Kind={}): {why}",
            crate::object::namespace(config),
            crate::object::name(config),
            crate::object::kind(config)
        ),
    )
}

/// The configuration with quantities and times in the form the live object has them, so that equal
/// values compare equal.
fn canonical(config: &Value, writer: &Writer<'_>) -> Result<Value, Status> {
    let Node::Message(message) = writer.schema else { return Ok(config.clone()) };
    let mut copy = config.clone();
    crate::codec::conform(&mut copy, message).map_err(|e| typed_failure(config, writer, &e))?;
    Ok(copy)
}

#[cfg(test)]
mod tests;
