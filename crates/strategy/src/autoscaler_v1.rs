//! HorizontalPodAutoscaler in `autoscaling/v1`, which knows one metric: what else the stored form
//! says is carried in annotations, in the words of the API that wrote them first.

use amphipod_api::codec::conform;
use amphipod_api::schema;
use serde_json::{Map, Value, json};

use crate::json::{default, fields, int, is_empty, items, put, remove, set, text, with, within};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const SPEC_PARTS: [&str; 2] = [METRICS, BEHAVIOR];
const STATUS_PARTS: [&str; 2] = [CONDITIONS, CURRENT_METRICS];
/// The types of what the annotations hold; the behavior is written in the names of the newer API.
const METRIC: &str = "io.k8s.api.autoscaling.v1.MetricSpec";
const BEHAVIOR_TYPE: &str = "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerBehavior";
const CONDITION: &str = "io.k8s.api.autoscaling.v1.HorizontalPodAutoscalerCondition";
const CURRENT_METRIC: &str = "io.k8s.api.autoscaling.v1.MetricStatus";
const CPU_PERCENT: &str = "targetCPUUtilizationPercentage";
const CURRENT_CPU_PERCENT: &str = "currentCPUUtilizationPercentage";
const CPU_PERCENT_DEFAULT: i64 = 80;

/// Without any metric at all it is the CPU that counts.
pub fn defaults(object: &mut Value) {
    if !set(&object["metadata"]["annotations"][METRICS]) {
        within(object, "spec", |spec| default(spec, CPU_PERCENT, CPU_PERCENT_DEFAULT));
    }
}

/// What is said of the status in annotations is no more a client's to say than the status itself.
pub fn start(object: &mut Value) {
    each_kept(object, &STATUS_PARTS, &Value::Null);
}

/// Each endpoint writes its own part of what the annotations carry.
pub fn carry_over(object: &mut Value, old: &Value, subresource: &str) {
    let others = if subresource == "status" { &SPEC_PARTS } else { &STATUS_PARTS };
    each_kept(object, others, old);
}

fn each_kept(object: &mut Value, keys: &[&str], old: &Value) {
    for key in keys {
        match &old["metadata"]["annotations"][*key] {
            Value::String(kept) => annotate(object, key, kept.clone()),
            _ => drop(taken(object, key)),
        }
    }
}

/// `autoscaling/v2` is stored.
pub fn convert(value: &mut Value, to_storage: bool) {
    put(value, "kind", "HorizontalPodAutoscaler");
    if to_storage { to_v2(value) } else { to_v1(value) }
}

fn taken(value: &mut Value, key: &str) -> Option<Value> {
    let annotations = value.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
    let found = annotations.remove(key)?;
    if annotations.is_empty() {
        remove(&mut value["metadata"], "annotations");
    }
    Some(found)
}

/// What the annotation says, where that is JSON.
fn take_annotation(value: &mut Value, key: &str) -> Option<Value> {
    serde_json::from_str(text(&taken(value, key)?)).ok()
}

/// A list in an annotation, where each of its items is of the type.
fn take_list(value: &mut Value, key: &str, item_type: &str) -> Option<Vec<Value>> {
    let Value::Array(list) = take_annotation(value, key)? else { return None };
    list.into_iter().map(|item| fitted(item, item_type)).collect()
}

/// The value with nothing in it that the type does not have; none if it is of another type.
fn fitted(mut value: Value, name: &str) -> Option<Value> {
    conform(&mut value, schema::by_name(name)?).ok()?;
    Some(value)
}

fn annotate(value: &mut Value, key: &str, content: String) {
    within(value, "metadata", |metadata| {
        within(metadata, "annotations", |annotations| put(annotations, key, content));
    });
}

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && set(&metric["resource"]["target"]["averageUtilization"])
}

fn to_v2(value: &mut Value) {
    put(value, "apiVersion", "autoscaling/v2");
    let metrics = take_list(value, METRICS, METRIC).map(|list| list.iter().map(spec_to_v2).collect());
    let behavior = take_annotation(value, BEHAVIOR)
        .and_then(|behavior| fitted(with_case(&behavior, char::to_lowercase), BEHAVIOR_TYPE));
    let conditions = take_list(value, CONDITIONS, CONDITION);
    let current = take_list(value, CURRENT_METRICS, CURRENT_METRIC)
        .map(|list| list.iter().map(status_to_v2).collect::<Vec<_>>());
    within(value, "spec", |spec| {
        let mut all: Vec<Value> = metrics.unwrap_or_default();
        if let Some(percent) = int(&spec[CPU_PERCENT]) {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            all.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        remove(spec, CPU_PERCENT);
        if !all.is_empty() {
            put(spec, "metrics", all);
        }
        if let Some(behavior) = behavior {
            put(spec, "behavior", behavior);
        }
    });
    with(value, "status", |status| {
        let percent = int(&status[CURRENT_CPU_PERCENT]);
        remove(status, CURRENT_CPU_PERCENT);
        let all = current.unwrap_or_else(|| {
            let cpu = |percent| {
                let now = json!({"averageUtilization": percent});
                json!({"type": "Resource", "resource": {"name": "cpu", "current": now}})
            };
            percent.map(cpu).into_iter().collect()
        });
        if !all.is_empty() {
            put(status, "currentMetrics", all);
        }
        if let Some(conditions) = conditions {
            put(status, "conditions", conditions);
        }
    });
}

fn to_v1(value: &mut Value) {
    put(value, "apiVersion", "autoscaling/v1");
    let metrics = items(&value["spec"]["metrics"]);
    let cpu = metrics.iter().find(|metric| is_cpu(metric));
    let cpu = cpu.map(|metric| metric["resource"]["target"]["averageUtilization"].clone());
    let others: Vec<Value> = metrics.iter().filter(|m| !is_cpu(m)).map(spec_to_v1).collect();
    let behavior = with_case(&value["spec"]["behavior"], char::to_uppercase);
    let conditions = value["status"]["conditions"].clone();
    let statuses = items(&value["status"]["currentMetrics"]);
    let now = statuses
        .iter()
        .find(|m| m["resource"]["name"] == "cpu" && set(&m["resource"]["current"]["averageUtilization"]))
        .map(|metric| metric["resource"]["current"]["averageUtilization"].clone());
    // The CPU stands here as well: its raw value has no other place.
    let current: Vec<Value> = statuses.iter().map(status_to_v1).collect();
    with(value, "spec", |spec| {
        remove(spec, "metrics");
        remove(spec, "behavior");
        if let Some(cpu) = cpu {
            put(spec, CPU_PERCENT, cpu);
        }
    });
    with(value, "status", |status| {
        remove(status, "conditions");
        remove(status, "currentMetrics");
        default(status, "currentReplicas", 0);
        default(status, "desiredReplicas", 0);
        if let Some(now) = now {
            put(status, CURRENT_CPU_PERCENT, now);
        }
    });
    let kept = [
        (METRICS, Value::Array(others)),
        (BEHAVIOR, behavior),
        (CONDITIONS, conditions),
        (CURRENT_METRICS, Value::Array(current)),
    ];
    for (key, content) in kept.iter().filter(|(_, content)| !is_empty(content)) {
        annotate(value, key, content.to_string());
    }
}

/// The behavior's annotation has its fields' names as the server's own code spells them.
fn with_case<C: Iterator<Item = char>>(value: &Value, case: fn(char) -> C) -> Value {
    match value {
        Value::Object(map) => {
            let renamed = map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| {
                let mut rest = key.chars();
                let first: String = rest.next().map(case).into_iter().flatten().collect();
                (format!("{first}{}", rest.as_str()), with_case(value, case))
            });
            Value::Object(renamed.collect())
        }
        Value::Array(list) => list.iter().map(|item| with_case(item, case)).collect(),
        other => other.clone(),
    }
}

fn put_some(object: &mut Value, key: &str, value: &Value) {
    if set(value) {
        put(object, key, value.clone());
    }
}

/// The one field of a metric that says where it comes from.
fn source_of(metric: &Value) -> (&str, &Value) {
    fields(metric).find(|(key, value)| *key != "type" && set(value)).unwrap_or(("", &Value::Null))
}

fn metric_with(metric: &Value, key: &str, source: Value) -> Value {
    let mut whole = Map::new();
    whole.insert("type".into(), metric["type"].clone());
    whole.insert(key.to_owned(), source);
    Value::Object(whole)
}

/// `prefix` is `target` for a wish and `current` for a measurement.
fn to_flat(metric: &Value, prefix: &str) -> Value {
    let (key, source) = source_of(metric);
    let amounts = &source[prefix];
    let named = |suffix: &str| format!("{prefix}{suffix}");
    let mut flat = json!({});
    put_some(&mut flat, "container", &source["container"]);
    put_some(&mut flat, "name", &source["name"]);
    put_some(&mut flat, "target", &source["describedObject"]);
    put_some(&mut flat, "metricName", &source["metric"]["name"]);
    let selector = if key == "external" { "metricSelector" } else { "selector" };
    put_some(&mut flat, selector, &source["metric"]["selector"]);
    put_some(&mut flat, &named("AverageUtilization"), &amounts["averageUtilization"]);
    if key == "object" {
        put_some(&mut flat, "averageValue", &amounts["averageValue"]);
        // This one is not optional there.
        let value = if set(&amounts["value"]) { amounts["value"].clone() } else { "0".into() };
        put(&mut flat, &named("Value"), value);
    } else {
        put_some(&mut flat, &named("AverageValue"), &amounts["averageValue"]);
        put_some(&mut flat, &named("Value"), &amounts["value"]);
    }
    metric_with(metric, key, flat)
}

fn from_flat(metric: &Value, prefix: &str) -> Value {
    let (key, flat) = source_of(metric);
    let named = |suffix: &str| &flat[format!("{prefix}{suffix}")];
    let mut amounts = json!({});
    put_some(&mut amounts, "averageUtilization", named("AverageUtilization"));
    put_some(&mut amounts, "averageValue", named("AverageValue"));
    put_some(&mut amounts, "averageValue", &flat["averageValue"]);
    let unset_object_value = key == "object" && set(&flat["averageValue"]) && *named("Value") == "0";
    if !unset_object_value {
        put_some(&mut amounts, "value", named("Value"));
    }
    if prefix == "target" {
        let kind = if set(&amounts["averageUtilization"]) {
            "Utilization"
        } else if set(&amounts["averageValue"]) {
            "AverageValue"
        } else {
            "Value"
        };
        put(&mut amounts, "type", kind);
    }
    let mut source = json!({});
    put_some(&mut source, "container", &flat["container"]);
    put_some(&mut source, "name", &flat["name"]);
    put_some(&mut source, "describedObject", &flat["target"]);
    if set(&flat["metricName"]) {
        let mut identifier = json!({"name": flat["metricName"]});
        let selector = if key == "external" { "metricSelector" } else { "selector" };
        put_some(&mut identifier, "selector", &flat[selector]);
        put(&mut source, "metric", identifier);
    }
    put(&mut source, prefix, amounts);
    metric_with(metric, key, source)
}

fn spec_to_v1(metric: &Value) -> Value {
    to_flat(metric, "target")
}
fn status_to_v1(metric: &Value) -> Value {
    to_flat(metric, "current")
}
fn spec_to_v2(metric: &Value) -> Value {
    from_flat(metric, "target")
}
fn status_to_v2(metric: &Value) -> Value {
    from_flat(metric, "current")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_annotations_say_is_of_its_type_or_nothing() {
        let of = |key: &str, content: &str| {
            let mut value = json!({"metadata": {"annotations": {key: content}}, "spec": {}, "status": {}});
            convert(&mut value, true);
            assert!(value["metadata"].get("annotations").is_none(), "{value}");
            value
        };
        for bad in [
            "",
            "{}",
            "[5]",
            r#"[{"type": 5}]"#,
            r#"[{"type": "Resource", "resource": {"targetAverageValue": "x"}}]"#,
        ] {
            assert_eq!(of(METRICS, bad)["spec"].get("metrics"), None, "{bad}");
        }
        let metric =
            r#"[{"type": "Resource", "resource": {"name": "a", "targetAverageValue": "1000m", "odd": 1}}]"#;
        assert_eq!(
            of(METRICS, metric)["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "a", "target": {"type": "AverageValue", "averageValue": "1"}}}])
        );
        assert_eq!(of(BEHAVIOR, r#"{"ScaleUp": {"SelectPolicy": 1}}"#)["spec"].get("behavior"), None);
        assert_eq!(of(CONDITIONS, r#"[{"type": "a", "status": 1}]"#)["status"].get("conditions"), None);
        assert_eq!(of(CURRENT_METRICS, r#"["a"]"#)["status"].get("currentMetrics"), None);
    }

    #[test]
    fn autoscalers_survive_the_round_trip() {
        let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3,
                "behavior": {"scaleDown": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 30}]}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "70Mi"}}},
                    {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                        "target": {"type": "Utilization", "averageUtilization": 7}}},
                    {"type": "Pods", "pods": {"metric": {"name": "p", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "1k"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "i"}, "metric": {"name": "o"},
                        "target": {"type": "Value", "value": "2k"}}},
                    {"type": "External", "external": {"metric": {"name": "e", "selector": {"matchLabels": {"q": "w"}}},
                        "target": {"type": "AverageValue", "averageValue": "30"}}}]},
            "status": {"desiredReplicas": 1, "currentReplicas": 1, "conditions": [{"type": "ScalingActive", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 3, "averageValue": "3m"}}}]}});
        let mut value = stored.clone();
        convert(&mut value, false);
        assert_eq!(value["spec"][CPU_PERCENT], 50);
        assert_eq!(value["status"][CURRENT_CPU_PERCENT], 3);
        let annotation = |key: &str| text(&value["metadata"]["annotations"][key]).to_owned();
        assert!(annotation(METRICS).contains("\"targetAverageValue\":\"70Mi\""), "{}", annotation(METRICS));
        assert!(annotation(BEHAVIOR).contains("\"PeriodSeconds\":30"), "{}", annotation(BEHAVIOR));
        convert(&mut value, true);
        assert_eq!(value, stored);
    }
}
