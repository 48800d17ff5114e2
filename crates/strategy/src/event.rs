//! Events, stored in the core form and served in two.

use amphipod_api::field::{Error, Path};
use serde_json::{Map, Value};

use crate::check::{self, Faults, invalid_each};
use crate::json::{at, fields, is_empty, set, text};
use crate::kind::{Kind, PLAIN};

pub static EVENT: Kind = Kind { create_on_update: true, validate, ..PLAIN };

const NOTE_MAX: usize = 1024;
const REASON_MAX: usize = 128;

fn validate(object: &Value) -> Faults {
    if text(&object["apiVersion"]) != "events.k8s.io/v1" {
        return validate_core(object);
    }
    let mut core = object.clone();
    convert(&mut core, true);
    let mut faults = validate_core(&core);
    if !set(&core["eventTime"]) {
        faults.push(Error::required(&Path::new("eventTime"), ""));
    }
    faults
}

fn validate_core(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let involved = text(at(object, &["involvedObject", "namespace"]));
    let namespace = text(at(object, &["metadata", "namespace"]));
    let path = Path::new("involvedObject").child("namespace");
    // Events about objects without a namespace go to `default` (or, for nodes, wherever).
    let fits = if involved.is_empty() {
        namespace.is_empty() || namespace == "default" || namespace == "kube-system"
    } else {
        involved == namespace
    };
    if !fits {
        faults.push(Error::invalid(&path, involved, "does not match event.namespace"));
    }
    if !check::dns1123_subdomain(namespace).is_empty() {
        faults.push(Error::invalid(&Path::new("namespace"), namespace, "must be a valid namespace"));
    }
    // A set eventTime marks the newer form, which demands more.
    if set(&object["eventTime"]) {
        new_form(&mut faults, object);
    }
    faults
}

fn new_form(faults: &mut Faults, object: &Value) {
    let controller = text(&object["reportingComponent"]);
    let path = Path::new("reportingController");
    if controller.is_empty() {
        faults.push(Error::required(&path, ""));
    } else {
        invalid_each(faults, &path, controller, check::qualified_name(controller));
    }
    let instance = text(&object["reportingInstance"]);
    let path = Path::new("reportingInstance");
    if instance.is_empty() {
        faults.push(Error::required(&path, ""));
    } else if instance.len() > REASON_MAX {
        faults.push(Error::invalid(&path, "", format!("can have at most {REASON_MAX} characters")));
    }
    for (key, field) in [("action", "action"), ("reason", "reason")] {
        let value = text(&object[key]);
        if value.is_empty() {
            faults.push(Error::required(&Path::new(field), ""));
        } else if value.len() > REASON_MAX {
            let detail = format!("can have at most {REASON_MAX} characters");
            faults.push(Error::invalid(&Path::new(field), "", detail));
        }
    }
    if text(&object["message"]).len() > NOTE_MAX {
        let detail = format!("can have at most {NOTE_MAX} characters");
        faults.push(Error::invalid(&Path::new("message"), "", detail));
    }
    let kinds = ["Normal", "Warning"];
    if !kinds.contains(&text(&object["type"])) {
        faults.push(Error::not_supported(&Path::new("type"), text(&object["type"]), &kinds));
    }
}

/// Fields of `events.k8s.io/v1` and of core `v1` that are one thing under two names.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Between the core form (stored) and `events.k8s.io/v1`.
pub fn convert(value: &mut Value, to_storage: bool) {
    let Some(map) = value.as_object_mut() else { return };
    let mut moved = Map::new();
    for (new, core) in RENAMED {
        let (from, to) = if to_storage { (new, core) } else { (core, new) };
        if let Some(field) = map.remove(from) {
            moved.insert(to.to_owned(), field);
        }
    }
    map.extend(moved);
    let version = if to_storage { "v1" } else { "events.k8s.io/v1" };
    map.insert("apiVersion".to_owned(), version.into());
    map.insert("kind".to_owned(), "Event".into());
    if to_storage {
        for (key, empty) in
            [("involvedObject", Value::Object(Map::new())), ("source", Value::Object(Map::new()))]
        {
            map.entry(key).or_insert(empty);
        }
    } else if map
        .get("deprecatedSource")
        .is_some_and(|source| is_empty(source) || fields(source).next().is_none())
    {
        map.remove("deprecatedSource");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_are_one_event() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"kind": "Pod"},
            "reportingController": "c", "reason": "r"});
        let mut event = new.clone();
        convert(&mut event, true);
        assert_eq!(event["message"], "n");
        assert_eq!(event["involvedObject"]["kind"], "Pod");
        assert_eq!(event["reportingComponent"], "c");
        convert(&mut event, false);
        assert_eq!(event, new);
    }

    #[test]
    fn the_newer_form_is_judged_by_its_own_names() {
        let mut event = json!({"apiVersion": "events.k8s.io/v1", "metadata": {"namespace": "a"},
            "regarding": {"namespace": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Do", "reason": "R",
            "type": "Normal", "reportingController": "c", "reportingInstance": "i"});
        assert_eq!(validate(&event), []);
        event["eventTime"] = Value::Null;
        assert_eq!(validate(&event)[0].to_string(), "eventTime: Required value");
    }

    #[test]
    fn namespaces_must_agree() {
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}});
        assert_eq!(
            validate(&event)[0].to_string(),
            "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"
        );
    }
}
