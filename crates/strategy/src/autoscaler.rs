//! HorizontalPodAutoscaler, as stored: `autoscaling/v2`.

use amphipod_api::field::{Error, Path};
use amphipod_api::names;
use serde_json::{Value, json};

use crate::autoscaler_v1;
use crate::check::{self, Faults};
use crate::json::{default, int, is_empty, items, number, put, set, text, with, within};
use crate::kind::{Kind, PLAIN};
use crate::pod::resources::{container_resource_name, quantity};

const STABILIZATION_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;
const SELECT_POLICIES: [&str; 3] = ["Disabled", "Max", "Min"];
const POLICY_TYPES: [&str; 2] = ["Percent", "Pods"];
const TARGET_TYPES: [&str; 3] = ["Utilization", "Value", "AverageValue"];
const SOURCE_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
/// Type and field of each source of a metric, in the order in which the first one given counts.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

pub static AUTOSCALER: Kind = Kind {
    status: true,
    default: |object| {
        // Stored and served forms differ; each has its own defaults.
        let newer = text(&object["apiVersion"]) != "autoscaling/v1";
        if !newer {
            autoscaler_v1::defaults(object);
        }
        within(object, "spec", |spec| autoscaler_defaults(spec, newer));
        within(object, "status", |status| {
            default(status, "desiredReplicas", 0);
            if newer {
                default(status, "currentMetrics", Value::Null);
            } else {
                default(status, "currentReplicas", 0);
            }
        });
    },
    validate: |object| autoscaler(object, 1),
    revalidate: Some(|new, old| {
        // What was scaled to nothing while that was allowed stays so.
        let least = if int(&old["spec"]["minReplicas"]) == Some(0) { 0 } else { 1 };
        autoscaler(new, least)
    }),
    validate_status: |new, _| {
        let mut faults = Faults::new();
        for key in ["currentReplicas", "desiredReplicas"] {
            check::not_negative(&mut faults, &Path::new("status").child(key), &new["status"][key]);
        }
        faults
    },
    ..PLAIN
};

fn autoscaler_defaults(spec: &mut Value, newer: bool) {
    default(spec, "minReplicas", 1);
    if newer {
        if items(&spec["metrics"]).is_empty() {
            let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
            put(spec, "metrics", cpu);
        }
        with(spec, "behavior", |behavior| {
            within(behavior, "scaleUp", |rules| scaling_rules(rules, true));
            within(behavior, "scaleDown", |rules| scaling_rules(rules, false));
        });
    }
}

fn scaling_rules(rules: &mut Value, up: bool) {
    default(rules, "selectPolicy", "Max");
    if up {
        default(rules, "stabilizationWindowSeconds", 0);
    }
    let policies = if up {
        json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}])
    } else {
        json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])
    };
    default(rules, "policies", policies);
}

fn autoscaler(object: &Value, least: i64) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let (min, max) = (int(&spec["minReplicas"]), number(&spec["maxReplicas"]));
    if let Some(min) = min.filter(|min| *min < least) {
        let detail = format!("must be greater than or equal to {least}");
        faults.push(Error::invalid(&path.child("minReplicas"), min, detail));
    }
    if max < 1 {
        faults.push(Error::invalid(&path.child("maxReplicas"), max, "must be greater than 0"));
    }
    if min.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        faults.push(Error::invalid(&path.child("maxReplicas"), max, detail));
    }
    reference(&mut faults, &path.child("scaleTargetRef"), &spec["scaleTargetRef"]);
    let (metrics, metrics_path) = (items(&spec["metrics"]), path.child("metrics"));
    for (i, spec) in metrics.iter().enumerate() {
        metric(&mut faults, &metrics_path.index(i), spec);
    }
    let outside = metrics.iter().any(|m| ["External", "Object"].contains(&text(&m["type"])));
    if min == Some(0) && !outside {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        faults.push(Error::forbidden(&metrics_path, detail));
    }
    for key in ["scaleUp", "scaleDown"] {
        if set(&spec["behavior"][key]) {
            rules(&mut faults, &path.child("behavior").child(key), &spec["behavior"][key]);
        }
    }
    faults
}

fn reference(faults: &mut Faults, path: &Path, reference: &Value) {
    for key in ["kind", "name"] {
        let value = text(&reference[key]);
        if check::required(faults, &path.child(key), &reference[key]) {
            check::invalid_each(faults, &path.child(key), value, names::path_segment_name(value));
        }
    }
    let version = text(&reference["apiVersion"]);
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        faults.push(Error::invalid(&path.child("apiVersion"), version, detail));
    }
}

fn metric(faults: &mut Faults, path: &Path, metric: &Value) {
    let kind = text(&metric["type"]);
    let at = path.child("type");
    if kind.is_empty() {
        faults.push(Error::required(&at, "must specify a metric source type"));
    }
    if !SOURCE_TYPES.contains(&kind) {
        faults.push(Error::not_supported(&at, kind, &SOURCE_TYPES));
    }
    let mut present: Vec<&str> =
        SOURCES.iter().map(|(_, key)| *key).filter(|key| set(&metric[*key])).collect();
    if let Some(first) = present.first() {
        source(faults, &path.child(first), first, &metric[*first]);
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, key)| *key);
    if let Some(key) = expected.filter(|key| !set(&metric[*key])) {
        let detail = "must populate information for the given metric source";
        faults.push(Error::required(&path.child(key), detail));
    }
    if present.len() != 1 {
        present.retain(|key| Some(*key) != expected);
        for key in present {
            faults.push(Error::forbidden(&path.child(key), "must populate the given metric source only"));
        }
    }
}

fn source(faults: &mut Faults, path: &Path, kind: &str, source: &Value) {
    let resource = ["resource", "containerResource"].contains(&kind);
    if kind == "object" {
        reference(faults, &path.child("describedObject"), &source["describedObject"]);
    }
    if resource {
        let (name, at) = (text(&source["name"]), path.child("name"));
        if name.is_empty() {
            faults.push(Error::required(&at, "must specify a resource name"));
        } else if kind == "containerResource" {
            container_resource_name(faults, &at, name);
        }
    } else {
        let (name, at) = (text(&source["metric"]["name"]), path.child("metric").child("name"));
        if name.is_empty() {
            faults.push(Error::required(&at, "must specify a metric name"));
        } else {
            check::invalid_each(faults, &at, name, names::path_segment_name(name));
        }
    }
    if kind == "containerResource" {
        let (name, at) = (text(&source["container"]), path.child("container"));
        if name.is_empty() {
            faults.push(Error::required(&at, "must specify a container"));
        } else {
            check::invalid_each(faults, &at, name, check::dns1123_label(name));
        }
    }
    let at = path.child("target");
    target(faults, &at, &source["target"]);
    target_of_kind(faults, &at, kind, &source["target"]);
}

fn target(faults: &mut Faults, path: &Path, target: &Value) {
    let kind = text(&target["type"]);
    if kind.is_empty() {
        faults.push(Error::required(&path.child("type"), "must specify a metric target type"));
    }
    if !TARGET_TYPES.contains(&kind) {
        let detail = "must be either Utilization, Value, or AverageValue";
        faults.push(Error::invalid(&path.child("type"), kind, detail));
    }
    for key in ["value", "averageValue"] {
        if let Some(value) = quantity(&target[key]).filter(|q| q.is_zero() || q.is_negative()) {
            faults.push(Error::invalid(&path.child(key), value.to_string(), "must be positive"));
        }
    }
    if let Some(percent) = int(&target["averageUtilization"]).filter(|percent| *percent < 1) {
        faults.push(Error::invalid(&path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}

/// Which of the targets a kind of source can use.
fn target_of_kind(faults: &mut Faults, path: &Path, kind: &str, target: &Value) {
    let value = set(&target["value"]);
    let average = set(&target["averageValue"]);
    let utilization = set(&target["averageUtilization"]);
    match kind {
        "object" if !value && !average => {
            let detail = "must set either a target value or averageValue";
            faults.push(Error::required(&path.child("averageValue"), detail));
        }
        "external" if !value && !average => {
            let detail = "must set either a target value for metric or a per-pod target";
            faults.push(Error::required(&path.child("averageValue"), detail));
        }
        "external" if value && average => {
            let detail = "may not set both a target value for metric and a per-pod target";
            faults.push(Error::forbidden(&path.child("value"), detail));
        }
        "pods" if !average => {
            let detail = "must specify a positive target averageValue";
            faults.push(Error::required(&path.child("averageValue"), detail));
        }
        "resource" | "containerResource" if !utilization && !average => {
            let detail = "must set either a target raw value or a target utilization";
            faults.push(Error::required(&path.child("averageUtilization"), detail));
        }
        "resource" | "containerResource" if utilization && average => {
            let detail = "may not set both a target raw value and a target utilization";
            faults.push(Error::forbidden(&path.child("averageValue"), detail));
        }
        _ => {}
    }
}

fn rules(faults: &mut Faults, path: &Path, rules: &Value) {
    let at = path.child("stabilizationWindowSeconds");
    match int(&rules["stabilizationWindowSeconds"]) {
        Some(seconds) if seconds < 0 => {
            faults.push(Error::invalid(&at, seconds, "must be greater than or equal to zero"));
        }
        Some(seconds) if seconds > STABILIZATION_SECONDS_MAX => {
            let detail = format!("must be less than or equal to {STABILIZATION_SECONDS_MAX}");
            faults.push(Error::invalid(&at, seconds, detail));
        }
        _ => {}
    }
    check::optional_one_of(faults, &path.child("selectPolicy"), &rules["selectPolicy"], &SELECT_POLICIES);
    let at = path.child("policies");
    if is_empty(&rules["policies"]) {
        faults.push(Error::required(&at, "must specify at least one Policy"));
    }
    for (i, policy) in items(&rules["policies"]).iter().enumerate() {
        scaling_policy(faults, &at.index(i), policy);
    }
    if let Some(tolerance) = quantity(&rules["tolerance"]).filter(|tolerance| tolerance.is_negative()) {
        faults.push(Error::invalid(&path.child("tolerance"), tolerance.to_string(), check::NEGATIVE));
    }
}

fn scaling_policy(faults: &mut Faults, path: &Path, policy: &Value) {
    let kind = text(&policy["type"]);
    if !POLICY_TYPES.contains(&kind) {
        faults.push(Error::not_supported(&path.child("type"), kind, &POLICY_TYPES));
    }
    for key in ["value", "periodSeconds"] {
        let value = number(&policy[key]);
        if value <= 0 {
            faults.push(Error::invalid(&path.child(key), value, "must be greater than zero"));
        }
    }
    let period = number(&policy["periodSeconds"]);
    if period > PERIOD_SECONDS_MAX {
        let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
        faults.push(Error::invalid(&path.child("periodSeconds"), period, detail));
    }
}
