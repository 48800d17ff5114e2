//! Nodes and events.

use serde_json::Value;

use super::cells::{NONE, Object, UNKNOWN, int_of, str_of};
use super::{Kind, columns, kind};
use crate::duration::age;

pub(super) const KINDS: &[Kind] = &[
    kind("", "nodes", columns::NODES, node),
    kind("", "events", columns::EVENTS, event),
    kind("events.k8s.io", "events", columns::EVENTS, event),
];

fn node(object: &Object<'_>) -> Vec<Value> {
    let address = |kind: &str| -> Value {
        let found = object.list("/status/addresses").iter().find(|a| str_of(a, "type") == kind);
        found.map_or(NONE, |a| str_of(a, "address")).into()
    };
    vec![
        object.name(),
        node_status(object).into(),
        roles(object).into(),
        object.age(),
        object.cell("/status/nodeInfo/kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        object.text_or("/status/nodeInfo/osImage", UNKNOWN),
        object.text_or("/status/nodeInfo/kernelVersion", UNKNOWN),
        object.text_or("/status/nodeInfo/containerRuntimeVersion", UNKNOWN),
    ]
}

fn node_status(object: &Object<'_>) -> String {
    let ready = match object.condition("Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if object.flag("/spec/unschedulable") { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

fn roles(object: &Object<'_>) -> String {
    let labels = object.map("/metadata/labels").into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => (key == "kubernetes.io/role").then(|| value.as_str()).flatten(),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }
}

/// Core events and the newer form, whose fields are named otherwise.
fn event(object: &Object<'_>) -> Vec<Value> {
    let either = |one: &str, other: &str| object.at(one).or_else(|| object.at(other));
    let first =
        time(either("/firstTimestamp", "/deprecatedFirstTimestamp")).or(time(object.at("/eventTime")));
    let series = object.at("/series").filter(|s| !s.is_null());
    let last = match series {
        Some(series) => time(series.get("lastObservedTime")),
        None => time(either("/lastTimestamp", "/deprecatedLastTimestamp")).or(first),
    };
    let count = match series {
        Some(series) => int_of(series, "count"),
        None => either("/count", "/deprecatedCount").and_then(Value::as_i64).filter(|c| *c != 0).unwrap_or(1),
    };
    let subject = either("/involvedObject", "/regarding").unwrap_or(&Value::Null);
    let message = either("/message", "/note").and_then(Value::as_str).unwrap_or_default();
    vec![
        age(last, object.now).into(),
        object.cell("/type"),
        object.cell("/reason"),
        subject_text(subject).into(),
        str_of(subject, "fieldPath").into(),
        source_text(object, either("/source", "/deprecatedSource")).into(),
        message.trim().into(),
        age(first, object.now).into(),
        count.into(),
        object.name(),
    ]
}

fn time(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|t| !t.is_empty())
}

fn subject_text(subject: &Value) -> String {
    let kind = str_of(subject, "kind").to_lowercase();
    match str_of(subject, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source_text(object: &Object<'_>, source: Option<&Value>) -> String {
    let reporter = match object.text("/reportingComponent") {
        "" => object.text("/reportingController"),
        component => component,
    };
    let of_source = |field: &str| source.map(|s| str_of(s, field)).unwrap_or_default();
    let or = |first: &'static str, other| match of_source(first) {
        "" => other,
        own => own,
    };
    let (component, host) = (or("component", reporter), or("host", object.text("/reportingInstance")));
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}
