//! Managers write at different versions of a kind. What one of them owns is judged at its version:
//! objects are converted before they are compared, and back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::managed::{Entry, Identity, Managers};
use super::typed::{self, Comparison};
use super::{Fields, Writer};
use crate::schema::Node;

/// The versions an object is served at.
pub trait Versions: Sync {
    /// The object at another version, with that version's schema; `None` where there is no such
    /// version (any more).
    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<(Value, Node<'_>)>;
}

/// A kind served at the request's version alone.
pub struct OneVersion;

impl Versions for OneVersion {
    fn convert(&self, _object: &Value, _from: &str, _to: &str) -> Option<(Value, Node<'_>)> {
        None
    }
}

/// The difference between two objects, seen from any version.
pub(super) struct Changes<'a> {
    before: &'a Value,
    after: &'a Value,
    writer: &'a Writer<'a>,
    here: Comparison,
    elsewhere: BTreeMap<String, Option<Comparison>>,
}

impl<'a> Changes<'a> {
    pub fn new(before: &'a Value, after: &'a Value, writer: &'a Writer<'a>) -> Self {
        let mut here = typed::compare(before, after, &writer.schema);
        here.each(|fields| writer.tracked.keep(fields));
        Changes { before, after, writer, here, elsewhere: BTreeMap::new() }
    }

    /// At the writer's own version.
    pub fn into_here(self) -> Comparison {
        self.here
    }

    /// At a manager's version; `None` where that is gone.
    pub fn at(&mut self, version: &str) -> Option<&Comparison> {
        if version == self.writer.api_version {
            return Some(&self.here);
        }
        if !self.elsewhere.contains_key(version) {
            let compared = self.compare_at(version);
            self.elsewhere.insert(version.to_owned(), compared);
        }
        self.elsewhere.get(version)?.as_ref()
    }

    fn compare_at(&self, version: &str) -> Option<Comparison> {
        let Writer { versions, api_version, tracked, .. } = self.writer;
        let (before, schema) = versions.convert(self.before, api_version, version)?;
        let (after, _) = versions.convert(self.after, api_version, version)?;
        let mut compared = typed::compare(&before, &after, &schema);
        compared.each(|fields| tracked.keep(fields));
        Some(compared)
    }

    /// Removes from every manager but the writer what changed or is gone; managers of versions
    /// nobody serves any more go altogether.
    pub fn take_from(&mut self, managers: &mut Managers, writer: Option<&Identity>) {
        managers.retain(|identity, entry| {
            if Some(identity) == writer {
                return true;
            }
            let Some(compared) = self.at(&entry.api_version) else { return false };
            entry.fields.subtract(&compared.changed());
            entry.fields.subtract(&compared.removed);
            !entry.fields.is_empty()
        });
    }
}

fn at<'a>(
    value: &'a Value,
    from: &str,
    to: &str,
    writer: &'a Writer<'a>,
) -> Option<(Cow<'a, Value>, Node<'a>)> {
    if from != to {
        return writer.versions.convert(value, from, to).map(|(value, node)| (Cow::Owned(value), node));
    }
    let schema = if to == writer.api_version {
        writer.schema
    } else {
        writer.versions.convert(value, from, to).map(|(_, node)| node)?
    };
    Some((Cow::Borrowed(value), schema))
}

/// Drops what the applier applied before, does not apply now, and nobody else owns.
pub(super) fn prune(merged: Value, managers: &Managers, last: &Entry, writer: &Writer<'_>) -> Value {
    pruned(&merged, managers, last, writer).unwrap_or(merged)
}

/// `None` where the version of the last apply is gone: nothing is known to be surplus.
fn pruned(merged: &Value, managers: &Managers, last: &Entry, writer: &Writer<'_>) -> Option<Value> {
    let last_version = last.api_version.as_str();
    let (at_last, schema) = at(merged, writer.api_version, last_version, writer)?;
    let last_fields = last.fields.with_named_fields(&schema);
    let mut pruned = without(&at_last, &last_fields, &schema);

    let mut owned: BTreeMap<&str, Fields> = BTreeMap::new();
    for entry in managers.values() {
        owned.entry(&entry.api_version).or_default().union(&entry.fields);
    }
    // The version of the last apply comes first: later conversions may need what it adds back.
    let mut versions: Vec<&str> = owned.keys().copied().collect();
    versions.sort_by_key(|v| *v != last_version);
    for version in versions {
        let (Some((whole, schema)), Some((part, _))) =
            (at(merged, writer.api_version, version, writer), at(&pruned, last_version, version, writer))
        else {
            continue;
        };
        let mut kept = set_of(&part, &schema);
        kept.union(&owned[version].with_named_fields(&schema));
        let mut surplus = set_of(&whole, &schema);
        surplus.subtract(&kept);
        let part = without(&whole, &surplus, &schema);
        pruned = at(&part, version, last_version, writer)?.0.into_owned();
    }

    let mut dangling = set_of(&at_last, &schema);
    dangling.subtract(&set_of(&pruned, &schema));
    let result = without(&at_last, &dangling.intersection(&last_fields), &schema);
    Some(at(&result, last_version, writer.api_version, writer)?.0.into_owned())
}

fn set_of(value: &Value, schema: &Node<'_>) -> Fields {
    let mut set = Fields::default();
    typed::field_set(value, schema, &mut set);
    set.with_named_fields(schema)
}

fn without(value: &Value, fields: &Fields, schema: &Node<'_>) -> Value {
    typed::remove_items(value, fields, schema).unwrap_or_else(super::empty)
}
