//! Autoscalers, whose TARGETS column sets what each metric is against what it should be.

use serde_json::Value;

use super::cells::{NONE, Object, UNKNOWN, UNSET, str_of};

/// Metrics shown in one cell.
const METRICS_MAX: usize = 2;

pub(super) fn autoscaler(object: &Object<'_>) -> Vec<Value> {
    let target = "/spec/scaleTargetRef";
    let reference =
        format!("{}/{}", object.text(&format!("{target}/kind")), object.text(&format!("{target}/name")));
    vec![
        object.name(),
        reference.into(),
        targets(object).into(),
        object.int_or_text("/spec/minReplicas", UNSET),
        object.number("/spec/maxReplicas"),
        object.number("/status/currentReplicas"),
        object.age(),
    ]
}

fn targets(object: &Object<'_>) -> String {
    // The first form knows the one metric only.
    if let Some(wanted) = object.at("/spec/targetCPUUtilizationPercentage") {
        let current = object.at("/status/currentCPUUtilizationPercentage").and_then(Value::as_i64);
        return format!("cpu: {}/{wanted}%", current.map_or(UNKNOWN.to_owned(), |c| format!("{c}%")));
    }
    let specs = object.list("/spec/metrics");
    if specs.is_empty() {
        return NONE.to_owned();
    }
    let current = object.list("/status/currentMetrics");
    let shown: Vec<String> = specs.iter().enumerate().map(|(i, spec)| metric(spec, current.get(i))).collect();
    if shown.len() > METRICS_MAX {
        return format!("{} + {} more...", shown[..METRICS_MAX].join(", "), shown.len() - METRICS_MAX);
    }
    shown.join(", ")
}

fn metric(spec: &Value, current: Option<&Value>) -> String {
    match str_of(spec, "type") {
        "Resource" => resource(Source::of(spec, current, "resource")),
        "ContainerResource" => resource(Source::of(spec, current, "containerResource")),
        "Pods" => Source::of(spec, current, "pods").pair("averageValue", ""),
        "Object" => described(Source::of(spec, current, "object")),
        "External" => described(Source::of(spec, current, "external")),
        _ => "<unknown type>".to_owned(),
    }
}

fn resource(source: Source<'_>) -> String {
    let name = source.spec.map(|s| str_of(s, "name")).unwrap_or_default();
    let pair = if source.wanted("averageValue").is_some() {
        source.pair("averageValue", "")
    } else {
        let wanted = source.wanted("averageUtilization").map_or("<auto>".to_owned(), |w| format!("{w}%"));
        format!("{}/{wanted}", source.now("averageUtilization", "%"))
    };
    format!("{name}: {pair}")
}

fn described(source: Source<'_>) -> String {
    match source.wanted("averageValue") {
        Some(_) => format!("{} (avg)", source.pair("averageValue", "")),
        None => source.pair("value", ""),
    }
}

/// One metric's specification beside what the controller last saw of it.
struct Source<'a> {
    spec: Option<&'a Value>,
    current: Option<&'a Value>,
}

impl<'a> Source<'a> {
    fn of(spec: &'a Value, current: Option<&'a Value>, field: &str) -> Self {
        let there = |value: &'a Value| value.get(field).filter(|v| !v.is_null());
        Source { spec: there(spec), current: current.and_then(there) }
    }
    fn wanted(&self, name: &str) -> Option<String> {
        plain(self.spec?.get("target")?.get(name)?)
    }
    fn now(&self, name: &str, unit: &str) -> String {
        let found = || plain(self.current?.get("current")?.get(name)?);
        found().map_or(UNKNOWN.to_owned(), |value| format!("{value}{unit}"))
    }
    fn pair(&self, name: &str, unit: &str) -> String {
        format!("{}/{}{unit}", self.now(name, unit), self.wanted(name).unwrap_or("0".to_owned()))
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
