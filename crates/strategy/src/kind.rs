//! A kind's strategy as one row of facts and functions; what a row leaves out is what a plain
//! object needs.

use amphipod_api::field::Faults;
use serde_json::{Map, Value};

use crate::contract::{Context, Graceful, Strategy, Warnings};
use crate::json::{copy, number, put, remove, same};
use crate::metadata::{self, NameRule};

pub struct Kind {
    pub name: NameRule,
    /// Takes finalizers without a domain, as everything upstream keeps outside its core packages.
    pub short_finalizers: bool,
    /// `metadata.generation` counts changes of everything but metadata and status.
    pub generation: bool,
    /// The generation counts changes of labels too.
    pub generation_of_labels: bool,
    /// Has a status, which only the status subresource writes.
    pub status: bool,
    /// The status subresource changes no labels, annotations, owners and finalizers either.
    pub status_keeps_metadata: bool,
    /// A node registers with its status; everything else starts without one.
    pub keep_status_at_create: bool,
    /// PUT on a missing object creates it.
    pub create_on_update: bool,
    /// PUT without resourceVersion overwrites.
    pub unconditional_update: bool,
    pub orphans: bool,
    /// The generation counts changes of the annotations as well.
    pub annotations_count: bool,
    pub default: fn(&mut Value),
    pub create: fn(&Context, &mut Value),
    /// After the generic carrying over.
    pub update: fn(&Context, &mut Value, &Value),
    pub validate: fn(&Value) -> Faults,
    /// What a new object must obey besides `validate`.
    pub validate_new: fn(&Context, &Value) -> Faults,
    /// What an update must obey besides `validate`.
    pub validate_change: fn(&Value, &Value) -> Faults,
    /// Where an update is judged otherwise than by `validate` and then `validate_change`.
    pub revalidate: Option<fn(&Value, &Value) -> Faults>,
    pub validate_status: fn(&Value, &Value) -> Faults,
    pub warn: fn(&Value, Option<&Value>) -> Warnings,
}

/// No status, no generation, nothing special.
pub const PLAIN: Kind = Kind {
    name: NameRule::Subdomain,
    short_finalizers: false,
    generation: false,
    generation_of_labels: false,
    status: false,
    status_keeps_metadata: false,
    keep_status_at_create: false,
    create_on_update: false,
    unconditional_update: true,
    orphans: false,
    annotations_count: false,
    default: |_| {},
    create: |_, _| {},
    update: |_, _, _| {},
    validate: |_| Faults::new(),
    validate_new: |_, _| Faults::new(),
    validate_change: |_, _| Faults::new(),
    revalidate: None,
    validate_status: |_, _| Faults::new(),
    warn: |_, _| Warnings::new(),
};

/// The usual spec and status with a generation.
pub const SPEC_AND_STATUS: Kind = Kind { generation: true, status: true, ..PLAIN };

/// True when anything but metadata and status differs: what raises the generation.
pub fn spec_changed(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let counts = |key: &str| !matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let differs = |a: &Map<String, Value>, b: &Map<String, Value>| {
        a.iter().any(|(key, value)| counts(key) && !same(value, b.get(key).unwrap_or(&Value::Null)))
    };
    differs(new, old) || differs(old, new)
}

impl Kind {
    fn carry_generation(&self, object: &mut Value, old: &Value, spec_write: bool) {
        let before = number(&old["metadata"]["generation"]);
        let differ = |key: &str| !same(&object["metadata"][key], &old["metadata"][key]);
        let changed = spec_changed(object, old)
            || (self.generation_of_labels && differ("labels"))
            || (self.annotations_count && differ("annotations"));
        let raise = self.generation && spec_write && changed;
        let generation = before + i64::from(raise);
        if generation > 0 {
            put(&mut object["metadata"], "generation", generation);
        } else {
            remove(&mut object["metadata"], "generation");
        }
    }
}

/// Keeps everything but metadata and status as it was.
pub fn keep_spec(object: &mut Value, old: &Value) {
    let Some(before) = old.as_object() else { return };
    if let Some(map) = object.as_object_mut() {
        map.retain(|key, _| matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"));
        for (key, value) in before {
            map.entry(key.clone()).or_insert_with(|| value.clone());
        }
        if !before.contains_key("status") && map.get("status").is_some_and(Value::is_null) {
            map.remove("status");
        }
    }
}

impl Strategy for Kind {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }
    fn prepare_create(&self, context: &Context, object: &mut Value) {
        if self.status && !self.keep_status_at_create {
            put(object, "status", Map::new());
        }
        if object["metadata"].is_object() {
            if self.generation {
                put(&mut object["metadata"], "generation", 1);
            } else {
                remove(&mut object["metadata"], "generation");
            }
        }
        (self.create)(context, object);
        (self.default)(object);
    }
    fn prepare_update(&self, context: &Context, object: &mut Value, old: &Value) {
        metadata::carry_over(object, old);
        match context.subresource {
            "status" => {
                if object["status"].is_null() {
                    put(object, "status", Map::new());
                }
                keep_spec(object, old);
                if self.status_keeps_metadata {
                    let kept = ["labels", "annotations", "ownerReferences", "finalizers"];
                    kept.iter().for_each(|key| copy(&mut object["metadata"], key, &old["metadata"]));
                }
            }
            // What the kind's own update takes from it.
            "approval" => {}
            _ if self.status => copy(object, "status", old),
            _ => {}
        }
        (self.update)(context, object, old);
        self.carry_generation(object, old, context.subresource != "status");
    }
    fn validate(&self, context: &Context, object: &Value) -> Faults {
        let mut faults = metadata::validate(object, context.resource.namespaced, self.name);
        if !self.short_finalizers {
            faults.extend(metadata::known_finalizers(object));
        }
        faults.extend((self.validate)(object));
        faults.extend((self.validate_new)(context, object));
        faults
    }
    fn validate_update(&self, context: &Context, object: &Value, old: &Value) -> Faults {
        let mut faults = metadata::validate_update(object, old);
        if !self.short_finalizers {
            faults.extend(metadata::known_finalizers(object));
        }
        match (context.subresource, self.revalidate) {
            ("status", _) => faults.extend((self.validate_status)(object, old)),
            (_, Some(revalidate)) => faults.extend(revalidate(object, old)),
            _ => {
                faults.extend((self.validate)(object));
                faults.extend((self.validate_change)(object, old));
            }
        }
        faults
    }
    fn warnings(&self, context: &Context, object: &Value, old: Option<&Value>) -> Warnings {
        if context.subresource.is_empty() { (self.warn)(object, old) } else { Warnings::new() }
    }
    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }
    fn allow_unconditional_update(&self) -> bool {
        self.unconditional_update
    }
    fn graceful(&self, _object: &Value, _requested: Option<i64>) -> Graceful {
        Graceful::No
    }
    fn default_propagation(&self) -> &'static str {
        if self.orphans { "Orphan" } else { "Background" }
    }
}
