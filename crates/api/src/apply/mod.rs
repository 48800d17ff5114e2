//! Field ownership: server-side apply and the bookkeeping of ordinary writes, with the semantics
//! of structured-merge-diff (KEP-555). Managers at other versions of a kind are compared as they
//! stand; fields that moved between versions are not traced.

mod fields;
mod managed;
mod typed;

use serde_json::{Map, Value};

pub use fields::Fields;
use managed::{Entry, Identity, Managers};

use crate::schema::Node;
use crate::status::{Cause, Details, Status};

/// Who writes, where and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// Of the request: `apps/v1`.
    pub api_version: &'a str,
    /// `""` or `status`, `scale`, ...
    pub subresource: &'a str,
    /// RFC 3339, seconds, UTC.
    pub now: &'a str,
    pub schema: Node<'a>,
    /// Paths this endpoint resets and nobody gains by writing here, e.g. `&[&["status"]]`.
    pub reset_fields: &'a [&'a [&'a str]],
}

impl Writer<'_> {
    fn ignored(&self) -> Fields {
        let mut ignored = Fields::default();
        for path in self.reset_fields {
            let elements: Vec<String> = path.iter().map(|name| fields::field_element(name)).collect();
            ignored.insert(&elements);
        }
        ignored
    }
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
        managed::write(new, &managers);
        return;
    }
    let empty = Value::Object(Map::new());
    let mut compared = typed::compare(live.unwrap_or(&empty), new, &writer.schema);
    let mut ignored = writer.ignored();
    ignored.insert(&[fields::field_element("metadata"), fields::field_element("managedFields")]);
    compared.exclude(&ignored);
    if !compared.is_same() {
        take_over(&mut managers, &compared, None);
        let gained = compared.changed();
        if !gained.is_empty() {
            let entry = managers.entry(writer.identity(false)).or_insert_with(|| Entry {
                fields: Fields::default(),
                api_version: writer.api_version.to_owned(),
                time: None,
            });
            entry.fields.union(&gained);
            entry.time = Some(writer.now.to_owned());
        }
    }
    finish(new, managers);
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
    let empty = Value::Object(Map::new());
    let before = without_managers(live.unwrap_or(&empty));
    let mut managers = live.and_then(managed::read).unwrap_or_default();
    if live.is_some() && managers.is_empty() {
        managers.insert(before_first_apply(writer), untracked(&before, writer));
    }
    let config = canonical(config, writer)?;
    let ignored = writer.ignored();
    let identity = writer.identity(true);
    let mut set = Fields::default();
    typed::field_set(&config, &writer.schema, &mut set);
    set.subtract_below(&ignored);
    let last = managers.get(&identity).cloned();
    let time = last.as_ref().and_then(|l| l.time.clone());
    managers
        .insert(identity.clone(), Entry { fields: set, api_version: writer.api_version.to_owned(), time });

    let merged = typed::merge(&before, &config, &writer.schema);
    let merged = match &last {
        Some(last) => prune(&merged, &managers, &last.fields, &writer.schema),
        None => merged,
    };
    let mut compared = typed::compare(&before, &merged, &writer.schema);
    compared.exclude(&ignored);
    let conflicts = conflicts(&managers, &compared, &identity, &before, writer);
    if !force && !conflicts.is_empty() {
        return Err(conflict_status(&conflicts));
    }
    take_over(&mut managers, &compared, Some(&identity));
    let mut result = merged;
    stamp(&mut managers, &identity, last.as_ref(), &compared, writer.now);
    carry_identity(&mut result, live);
    finish(&mut result, managers);
    Ok(result)
}

/// The applier's entry gets a new time only where this apply changed something.
fn stamp(
    managers: &mut Managers,
    identity: &Identity,
    last: Option<&Entry>,
    compared: &typed::Comparison,
    now: &str,
) {
    let Some(entry) = managers.get_mut(identity) else { return };
    let mut stripped = Managers::from([(identity.clone(), entry.clone())]);
    managed::strip(&mut stripped);
    let new_fields = stripped.get(identity).map(|e| &e.fields);
    let same_fields = last.map(|l| &l.fields) == new_fields;
    let same_version = last.is_some_and(|l| l.api_version == entry.api_version);
    if !(compared.is_same() && same_fields && same_version) || entry.time.is_none() {
        entry.time = Some(now.to_owned());
    }
}

/// Merging began from the live object without its managedFields; nothing else of it was lost, but
/// a configuration may not rename what it applies to.
fn carry_identity(result: &mut Value, live: Option<&Value>) {
    let Some(live) = live else { return };
    for name in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
        if let Some(value) = live.pointer(&format!("/metadata/{name}")) {
            crate::object::metadata_mut(result).insert(name.to_owned(), value.clone());
        }
    }
}

fn finish(object: &mut Value, mut managers: Managers) {
    managed::strip(&mut managers);
    managed::bound(&mut managers);
    managed::write(object, &managers);
}

fn without_managers(object: &Value) -> Value {
    let mut copy = object.clone();
    if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    copy
}

fn check_config(config: &Value, writer: &Writer<'_>) -> Result<(), Status> {
    if config.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(|l| !l.is_empty()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let version = crate::object::api_version(config);
    if !version.is_empty() && version != writer.api_version {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            writer.api_version
        )));
    }
    let faults = typed::faults(config, &writer.schema);
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

fn before_first_apply(writer: &Writer<'_>) -> Identity {
    Identity::new("before-first-apply", false, writer.api_version, "")
}

fn untracked(live: &Value, writer: &Writer<'_>) -> Entry {
    let all = typed::compare(&Value::Object(Map::new()), live, &writer.schema);
    Entry { fields: all.added, api_version: writer.api_version.to_owned(), time: Some(writer.now.to_owned()) }
}

/// Removes from every other manager what this write changed or removed.
fn take_over(managers: &mut Managers, compared: &typed::Comparison, writer: Option<&Identity>) {
    let changed = compared.changed();
    for (identity, entry) in managers.iter_mut() {
        if Some(identity) != writer {
            entry.fields.subtract(&changed);
            entry.fields.subtract(&compared.removed);
        }
    }
    managers.retain(|identity, entry| Some(identity) == writer || !entry.fields.is_empty());
}

/// Drops what the applier applied before, does not apply now, and nobody else owns.
fn prune(merged: &Value, managers: &Managers, last: &Fields, schema: &Node<'_>) -> Value {
    let empty = || Value::Object(Map::new());
    let set_of = |value: &Value| {
        let mut set = Fields::default();
        typed::field_set(value, schema, &mut set);
        set.with_named_fields()
    };
    let last = last.with_named_fields();
    let pruned = typed::remove_items(merged, &last, schema).unwrap_or_else(empty);
    let merged_set = set_of(merged);

    let mut kept = set_of(&pruned);
    for entry in managers.values() {
        kept.union(&entry.fields.with_named_fields());
    }
    let mut surplus = merged_set.clone();
    surplus.subtract(&kept);
    let pruned = typed::remove_items(merged, &surplus, schema).unwrap_or_else(empty);

    let mut dangling = merged_set;
    dangling.subtract(&set_of(&pruned));
    typed::remove_items(merged, &dangling.intersection(&last), schema).unwrap_or_else(empty)
}

type Conflicts = Vec<(Identity, Vec<Vec<String>>)>;

fn conflicts(
    managers: &Managers,
    compared: &typed::Comparison,
    applier: &Identity,
    live: &Value,
    writer: &Writer<'_>,
) -> Conflicts {
    let mut changed = compared.changed();
    if let Some(applied_by_client) = client_side_applied(live, writer) {
        changed.subtract(&applied_by_client);
    }
    let others = managers.iter().filter(|(identity, _)| *identity != applier);
    others
        .map(|(identity, entry)| (identity.clone(), entry.fields.intersection(&changed).paths()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect()
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Moving from client-side to server-side apply, kubectl does not conflict with itself: fields its
/// own annotation records are its to take.
fn client_side_applied(live: &Value, writer: &Writer<'_>) -> Option<Fields> {
    if writer.manager != "kubectl" {
        return None;
    }
    let text = crate::object::annotations(live)?.get(LAST_APPLIED)?.as_str()?;
    let config: Value = serde_json::from_str(text).ok()?;
    let mut set = Fields::default();
    typed::field_set(&config, &writer.schema, &mut set);
    Some(set)
}

fn conflict_status(conflicts: &Conflicts) -> Status {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let mut causes = Vec::with_capacity(count);
    let mut lines = Vec::new();
    for (identity, paths) in conflicts {
        lines.push(format!("conflicts with {}:", identity.shown()));
        for path in paths {
            let field = fields::path_text(path);
            lines.push(format!("- {field}"));
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {}", identity.shown()),
                field,
            });
        }
    }
    let message = match causes.as_slice() {
        [only] => format!("Apply failed with 1 conflict: {}: {}", only.message, only.field),
        _ => format!("Apply failed with {count} conflicts: {}", lines.join("\n")),
    };
    let mut status = Status::failure(409, "Conflict", message);
    status.details = Some(Details { causes, ..Details::default() });
    status
}

#[cfg(test)]
mod tests;
