//! Events, stored in the core form and served in two.

use amphipod_api::field::{Error, Path};
use serde_json::{Map, Value};

use crate::check::{self, Faults, invalid_each};
use crate::json::{at, fields, is_empty, number, same, set, text};
use crate::kind::{Kind, PLAIN};
use crate::metadata::NameRule;

/// Written through the core group: what old clients always could.
pub static CORE_EVENT: Kind = Kind {
    short_finalizers: true,
    name: NameRule::PathSegment,
    create_on_update: true,
    validate: |object| legacy(object, "reportingComponent"),
    ..PLAIN
};
/// Written through `events.k8s.io`: whole, and fixed but for its series. Its rules speak of the core
/// form too, which is the stored one.
pub static EVENT: Kind = Kind {
    create_on_update: true,
    validate: |object| legacy(object, "reportingController"),
    validate_new: |_, object| strict(object),
    validate_change: change,
    ..PLAIN
};

const NOTE_MAX: usize = 1024;
const REASON_MAX: usize = 128;
const SERIES_MIN: i64 = 2;
const TYPES: [&str; 2] = ["Normal", "Warning"];

fn legacy(object: &Value, controller_field: &str) -> Faults {
    let mut faults = Faults::new();
    let involved = text(at(object, &["involvedObject", "namespace"]));
    let namespace = text(at(object, &["metadata", "namespace"]));
    let path = Path::new("involvedObject").child("namespace");
    // A set eventTime marks the newer form, which demands more.
    let newer = set(&object["eventTime"]);
    // Events about objects without a namespace go to `default` (or, in the newer form, elsewhere).
    let fits = match involved {
        "" => ["", "default"].contains(&namespace) || (newer && namespace == "kube-system"),
        _ => newer || involved == namespace,
    };
    if !fits {
        faults.push(Error::invalid(&path, involved, "does not match event.namespace"));
    }
    if newer {
        new_form(&mut faults, object, controller_field);
    }
    invalid_each(&mut faults, &Path::new("namespace"), namespace, check::dns1123_subdomain(namespace));
    faults
}

fn new_form(faults: &mut Faults, object: &Value, controller_field: &str) {
    let controller = text(&object["reportingComponent"]);
    let path = Path::new(controller_field);
    if controller.is_empty() {
        faults.push(Error::required(&path, ""));
    }
    invalid_each(faults, &path, controller, check::qualified_name(controller));
    for key in ["reportingInstance", "action", "reason"] {
        let (path, value) = (Path::new(key), text(&object[key]));
        if value.is_empty() {
            faults.push(Error::required(&path, ""));
        } else {
            not_longer(faults, &path, value, REASON_MAX);
        }
    }
    not_longer(faults, &Path::new("message"), text(&object["message"]), NOTE_MAX);
}

fn not_longer(faults: &mut Faults, path: &Path, value: &str, max: usize) {
    if value.len() > max {
        faults.push(Error::invalid(path, "", format!("can have at most {max} characters")));
    }
}

fn series(faults: &mut Faults, object: &Value) {
    let series = &object["series"];
    if !set(series) {
        return;
    }
    if number(&series["count"]) < SERIES_MIN {
        faults.push(Error::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if !set(&series["lastObservedTime"]) {
        faults.push(Error::required(&Path::new("series.lastObservedTime"), ""));
    }
}

fn strict(object: &Value) -> Faults {
    let mut faults = Faults::new();
    series(&mut faults, object);
    if !set(&object["eventTime"]) {
        faults.push(Error::required(&Path::new("eventTime"), ""));
    }
    let kind = text(&object["type"]);
    if !TYPES.contains(&kind) {
        faults.push(Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let sourced = ["component", "host"].iter().any(|key| !text(&object["source"][*key]).is_empty());
    for (key, used) in [
        ("firstTimestamp", set(&object["firstTimestamp"])),
        ("lastTimestamp", set(&object["lastTimestamp"])),
        ("count", number(&object["count"]) != 0),
        ("source", sourced),
    ] {
        if used {
            faults.push(Error::invalid(&Path::new(key), "", "needs to be unset"));
        }
    }
    faults
}

fn change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    if !same(&new["series"], &old["series"]) {
        series(&mut faults, new);
    }
    for (key, shown) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let (at, now, before) = (Path::new(shown), &new[key], &old[key]);
        match key {
            "involvedObject" | "source" | "related" => check::immutable(&mut faults, &at, now, before),
            // Times that are not set are shown as such.
            "firstTimestamp" | "lastTimestamp" | "eventTime" if !same(now, before) => {
                faults.push(Error::invalid(&at, now.clone(), check::IMMUTABLE));
            }
            "count" if number(now) != number(before) => {
                faults.push(Error::invalid(&at, number(now), check::IMMUTABLE));
            }
            "firstTimestamp" | "lastTimestamp" | "eventTime" | "count" => {}
            _ => check::immutable_text(&mut faults, &at, now, before),
        }
    }
    faults
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
    use crate::testing::named::{created, merge, updated};
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
    fn the_newer_form_is_judged_as_it_is_stored() {
        let mut event = json!({"apiVersion": "events.k8s.io/v1", "metadata": {"namespace": "a"},
            "regarding": {"namespace": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Do", "reason": "R",
            "type": "Normal", "reportingController": "c", "reportingInstance": "i"});
        convert(&mut event, true);
        assert_eq!(created("events.k8s.io", "events", event.clone()), [""; 0]);
        event["eventTime"] = Value::Null;
        assert_eq!(created("events.k8s.io", "events", event), ["eventTime: Required value"]);
    }

    #[test]
    fn the_core_form_takes_what_it_always_took() {
        let event = |patch| merge(json!({"involvedObject": {"namespace": "d"}}), patch);
        for (patch, expected) in [
            (json!({"type": "Odd"}), vec![]),
            (json!({"metadata": {"name": "A_b"}}), vec![]),
            (
                json!({"involvedObject": {"namespace": "b"}}),
                vec!["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"],
            ),
            (
                json!({"eventTime": "2024-01-01T00:00:00.000000Z", "reportingComponent": "c", "action": "a".repeat(129)}),
                vec![
                    "reportingInstance: Required value",
                    "action: Invalid value: \"\": can have at most 128 characters",
                    "reason: Required value",
                ],
            ),
        ] {
            assert_eq!(created("", "events", event(patch)), expected);
        }
    }

    #[test]
    fn the_newer_form_is_whole_and_fixed() {
        let good = json!({"involvedObject": {"namespace": "d"}, "eventTime": "2024-01-01T00:00:00.000000Z", "type": "Normal",
            "reportingComponent": "a.b/c", "reportingInstance": "i", "action": "A", "reason": "R"});
        assert_eq!(created("events.k8s.io", "events", good.clone()), [""; 0]);
        let old = merge(
            good.clone(),
            json!({"eventTime": null, "type": "X", "count": 1, "source": {"host": "h"}, "series": {"count": 1}}),
        );
        assert_eq!(
            created("events.k8s.io", "events", old),
            [
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: X",
                "count: Invalid value: \"\": needs to be unset",
                "source: Invalid value: \"\": needs to be unset",
            ]
        );
        let again = json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:00:01.000000Z"}});
        assert_eq!(updated("events.k8s.io", "events", good.clone(), again), [""; 0]);
        assert_eq!(
            updated("events.k8s.io", "events", good.clone(), json!({"reportingInstance": "j"})),
            ["reportingInstance: Invalid value: \"j\": field is immutable"]
        );
        let related = merge(good, json!({"related": {"kind": "Pod"}, "message": "m"}));
        assert_eq!(
            updated("events.k8s.io", "events", related, json!({"related": null, "message": null})),
            [
                "message: Invalid value: \"\": field is immutable",
                "related: Invalid value: \"null\": field is immutable",
            ]
        );
    }
}
