//! `metadata.managedFields`: reading, writing, ordering and bounding its entries.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::fields::{Fields, field_element};

/// Who an entry belongs to. Ordered by operation first, as the entries are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub applies: bool,
    pub manager: String,
    /// Empty for appliers: they are the same manager at every version.
    pub api_version: String,
    pub subresource: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub fields: Fields,
    pub api_version: String,
    pub time: Option<String>,
}

pub(super) type Managers = BTreeMap<Identity, Entry>;

impl Identity {
    pub fn new(manager: &str, applies: bool, api_version: &str, subresource: &str) -> Self {
        Identity {
            applies,
            manager: manager.to_owned(),
            api_version: if applies { String::new() } else { api_version.to_owned() },
            subresource: subresource.to_owned(),
        }
    }

    /// As conflict messages name it.
    pub fn shown(&self) -> String {
        let mut text = crate::field::go_quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", crate::field::go_quote(&self.subresource)));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

fn list(object: &Value) -> Option<&Vec<Value>> {
    crate::object::at(object, "/metadata/managedFields").and_then(Value::as_array)
}

/// An empty list, or one empty entry, asks for everything to be forgotten.
fn asks_for_reset(object: &Value) -> bool {
    match list(object).map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(only)]) => only.is_empty(),
        _ => false,
    }
}

/// The entries of an object; `None` where they cannot be read.
pub(super) fn read(object: &Value) -> Option<Managers> {
    let mut managers = Managers::new();
    for entry in list(object).into_iter().flatten() {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let applies = match text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if text("fieldsType") != "FieldsV1" || text("apiVersion").is_empty() {
            return None;
        }
        let fields = match entry.get("fieldsV1") {
            Some(fields) => Fields::from_json(fields)?,
            None => Fields::default(),
        };
        let identity = Identity::new(text("manager"), applies, text("apiVersion"), text("subresource"));
        let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
        managers.insert(identity, Entry { fields, api_version: text("apiVersion").to_owned(), time });
    }
    Some(managers)
}

/// What an ordinary write starts from: entries the client sent count only if it sent usable ones
/// to the main resource; clients that know nothing of them must not delete them.
pub(super) fn live_or_new(live: Option<&Value>, new: &Value, subresource: &str) -> Managers {
    let of_live = || live.and_then(read).unwrap_or_default();
    if !subresource.is_empty() {
        return of_live();
    }
    if asks_for_reset(new) {
        return Managers::new();
    }
    match read(new) {
        Some(managers) if !managers.is_empty() => managers,
        _ => of_live(),
    }
}

/// Update entries kept apart; older ones are merged.
const MAX_UPDATE_ENTRIES: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Merges the oldest update entries of a version where there are too many.
pub(super) fn bound(managers: &mut Managers) {
    let mut updates: Vec<(Option<String>, Identity)> =
        managers.iter().filter(|(i, _)| !i.applies).map(|(i, e)| (e.time.clone(), i.clone())).collect();
    let mut surplus = updates.len().saturating_sub(MAX_UPDATE_ENTRIES);
    updates.sort();
    let mut first_of_version: BTreeMap<String, Identity> = BTreeMap::new();
    for (time, identity) in updates {
        if surplus == 0 {
            return;
        }
        let version = identity.api_version.clone();
        let Some(first) = first_of_version.get(&version) else {
            first_of_version.insert(version, identity);
            continue;
        };
        // A bucket is made of two entries at least; one alone stays itself.
        let bucket = Identity::new(ANCIENT, false, &version, "");
        if !managers.contains_key(&bucket)
            && let Some(entry) = managers.remove(first)
        {
            managers.insert(bucket.clone(), entry);
        }
        let Some(entry) = managers.remove(&identity) else { continue };
        if let Some(merged) = managers.get_mut(&bucket) {
            merged.fields.union(&entry.fields);
            merged.time = time;
        }
        surplus -= 1;
    }
}

/// Fields nobody owns: they identify the object or are the server's alone.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Removes unowned fields and empty entries.
pub(super) fn strip(managers: &mut Managers) {
    static STRIPPED: LazyLock<Fields> = LazyLock::new(|| {
        let mut unowned = Fields::default();
        for name in ["apiVersion", "kind", "metadata"] {
            unowned.insert(&[field_element(name)]);
        }
        for name in UNOWNED {
            unowned.insert(&[field_element("metadata"), field_element(name)]);
        }
        unowned
    });
    for entry in managers.values_mut() {
        entry.fields.subtract(&STRIPPED);
    }
    managers.retain(|_, entry| !entry.fields.is_empty());
}

/// Whether two lists say the same but for when.
pub(super) fn same_but_for_time(left: &Value, right: &Value) -> bool {
    let timeless = |object: &Value| -> Vec<Value> {
        let mut entries = list(object).cloned().unwrap_or_default();
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            entry.remove("time");
        }
        entries
    };
    timeless(left) == timeless(right)
}

/// Replaces the object's entries.
pub(super) fn write(object: &mut Value, managers: Managers) {
    let mut entries: Vec<(Identity, Entry)> = managers.into_iter().collect();
    entries.sort_by(|(a, x), (b, y)| {
        let left = (!a.applies, &x.time, &a.manager, &x.api_version, &a.subresource);
        left.cmp(&(!b.applies, &y.time, &b.manager, &y.api_version, &b.subresource))
    });
    let metadata = crate::object::metadata_mut(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let written = entries.into_iter().map(|(identity, entry)| encode(identity, entry)).collect();
    metadata.insert("managedFields".to_owned(), Value::Array(written));
}

fn encode(identity: Identity, entry: Entry) -> Value {
    let mut map = Map::new();
    map.insert("manager".into(), identity.manager.into());
    map.insert("operation".into(), if identity.applies { "Apply" } else { "Update" }.into());
    map.insert("apiVersion".into(), entry.api_version.into());
    if let Some(time) = entry.time {
        map.insert("time".into(), time.into());
    }
    map.insert("fieldsType".into(), "FieldsV1".into());
    map.insert("fieldsV1".into(), entry.fields.into_json());
    if !identity.subresource.is_empty() {
        map.insert("subresource".into(), identity.subresource.into());
    }
    Value::Object(map)
}
