//! Moving from client-side to server-side apply: kubectl does not conflict with what its own
//! annotation says it applied, and keeps that annotation true.

use serde_json::Value;

use super::conflicts::Conflicts;
use super::{Fields, Writer, check, typed};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The only manager this is done for; others opt out by their name.
const KUBECTL: &str = "kubectl";
/// All annotations of an object together may have this many bytes.
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// Drops conflicts over fields the live object still has as kubectl last applied them.
pub(super) fn allow(conflicts: &mut Conflicts, live: &Value, writer: &Writer<'_>) {
    if writer.manager != KUBECTL {
        return;
    }
    let Some(applied) = applied_by_client(live, writer) else { return };
    for (_, fields) in conflicts.iter_mut() {
        fields.subtract(&applied);
    }
    conflicts.retain(|(_, fields)| !fields.is_empty());
}

fn applied_by_client(live: &Value, writer: &Writer<'_>) -> Option<Fields> {
    let text = crate::object::annotations(live)?.get(ANNOTATION)?.as_str()?;
    let config: Value = serde_json::from_str(text).ok()?;
    if crate::object::api_version(&config) != writer.api_version {
        return None;
    }
    if !check::faults(&config, &writer.schema).is_empty() {
        return None;
    }
    let config = super::canonical(&config, writer).ok()?;
    let mut set = Fields::default();
    typed::field_set(&config, &writer.schema, &mut set);
    let different = typed::compare(&config, live, &writer.schema);
    set.subtract(&different.changed());
    set.subtract(&different.removed);
    Some(set)
}

/// Where the object carries the annotation, it becomes the configuration now applied.
pub(super) fn update(object: &mut Value, config: &Value, writer: &Writer<'_>) {
    let carries = |o: &Value| {
        let text = crate::object::annotations(o).and_then(|a| a.get(ANNOTATION)).and_then(Value::as_str);
        text.is_some_and(|t| !t.is_empty())
    };
    if writer.manager != KUBECTL || !carries(object) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    annotations.insert(ANNOTATION.to_owned(), format!("{config}\n").into());
    let bytes: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > MAX_ANNOTATION_BYTES {
        annotations.remove(ANNOTATION);
    }
}
