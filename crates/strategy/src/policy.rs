//! Limits and budgets: PriorityClass, LimitRange, ResourceQuota, PodDisruptionBudget, and the
//! autoscaler.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults};
use crate::json::{
    default, default_text, each, fields, items, number, put, remove, same, set, text, truthy, with, within,
};
use crate::kind::{Kind, PLAIN, SPEC_AND_STATUS};
use crate::pod::defaults::canonical_list;
use crate::pod::resources::{amount, quantity};

const SYSTEM_PRIORITY_MIN: i64 = 2_000_000_000;
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", SYSTEM_PRIORITY_MIN), ("system-node-critical", SYSTEM_PRIORITY_MIN + 1000)];
const QUOTA_SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub static PRIORITY_CLASS: Kind = Kind {
    generation: true,
    default: |object| {
        default(object, "value", 0);
        default_text(object, "preemptionPolicy", "PreemptLowerPriority");
        if object["globalDefault"] == false {
            remove(object, "globalDefault");
        }
    },
    validate: priority_class,
    validate_change: |new, old| {
        let mut faults = Faults::new();
        if number(&new["value"]) != number(&old["value"]) {
            faults.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let at = Path::new("preemptionPolicy");
        check::immutable(&mut faults, &at, &new["preemptionPolicy"], &old["preemptionPolicy"]);
        faults
    },
    ..PLAIN
};
pub static LIMIT_RANGE: Kind = Kind { default: limit_range_defaults, validate: limit_range, ..PLAIN };
pub static RESOURCE_QUOTA: Kind = Kind {
    status: true,
    default: |object| {
        within(object, "spec", |spec| with(spec, "hard", canonical_list));
        within(object, "status", |status| {
            with(status, "hard", canonical_list);
            with(status, "used", canonical_list);
        });
    },
    validate: resource_quota,
    validate_change: |new, old| {
        let mut faults = Faults::new();
        let at = Path::new("spec").child("scopes");
        check::immutable(&mut faults, &at, &new["spec"]["scopes"], &old["spec"]["scopes"]);
        faults
    },
    ..PLAIN
};
pub static POD_DISRUPTION_BUDGET: Kind = Kind {
    unconditional_update: false,
    default: |object| {
        within(object, "status", |status| {
            for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                default(status, key, 0);
            }
        });
    },
    validate: disruption_budget,
    ..SPEC_AND_STATUS
};
pub static AUTOSCALER: Kind = Kind {
    status: true,
    default: |object| {
        // Stored and served forms differ; each has its own defaults.
        let newer = text(&object["apiVersion"]) != "autoscaling/v1";
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
    validate: autoscaler,
    ..PLAIN
};

fn priority_class(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let name = text(&object["metadata"]["name"]);
    let value = number(&object["value"]);
    if name.starts_with("system-") {
        let known = SYSTEM_CLASSES.iter().find(|(class, _)| *class == name);
        if known.is_none_or(|(_, fixed)| *fixed != value) || truthy(&object["globalDefault"]) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: priority class is not a known system priority class";
            let detail = match known {
                None => detail.to_owned(),
                Some((_, fixed)) => format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: value of {name} PriorityClass must be {fixed}"
                ),
            };
            faults.push(Error::forbidden(&Path::new("metadata").child("name"), detail));
        }
    } else if value > USER_PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        faults.push(Error::forbidden(&Path::new("value"), detail));
    }
    let policies = ["Never", "PreemptLowerPriority"];
    check::optional_one_of(
        &mut faults,
        &Path::new("preemptionPolicy"),
        &object["preemptionPolicy"],
        &policies,
    );
    faults
}

fn limit_range_defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        each(spec, "limits", |limit| {
            for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                with(limit, key, canonical_list);
            }
            if limit["type"] != "Container" {
                return;
            }
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let source = limit[from].clone();
                for (name, value) in fields(&source) {
                    within(limit, to, |list| default(list, name, value.clone()));
                }
            }
        });
    });
}

fn limit_range(object: &Value) -> Faults {
    let mut faults = Faults::new();
    for (i, limit) in items(&object["spec"]["limits"]).iter().enumerate() {
        let at = Path::new("spec").child("limits").index(i);
        check::required(&mut faults, &at.child("type"), &limit["type"]);
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            for (name, value) in fields(&limit[key]) {
                amount(&mut faults, &at.child(key).key(name), name, value);
            }
        }
        if limit["type"] == "Pod" {
            for key in ["default", "defaultRequest"] {
                if set(&limit[key]) {
                    let detail = "may not be specified when `type` is 'Pod'";
                    faults.push(Error::forbidden(&at.child(key), detail));
                }
            }
        }
        bounds(&mut faults, &at, limit);
    }
    faults
}

fn bounds(faults: &mut Faults, path: &Path, limit: &Value) {
    const ORDERED: [(&str, &str, &str, &str, &str); 5] = [
        ("min", "max", "min", "min value", "max value"),
        ("defaultRequest", "max", "defaultRequest", "default request value", "max value"),
        ("defaultRequest", "default", "defaultRequest", "default request value", "default limit value"),
        ("min", "default", "default", "min value", "default value"),
        ("default", "max", "default", "default value", "max value"),
    ];
    for (low, high, place, low_noun, high_noun) in ORDERED {
        for (name, value) in fields(&limit[low]) {
            if let (Some(a), Some(b)) = (quantity(value), quantity(&limit[high][name]))
                && a > b
            {
                let detail = format!("{low_noun} {a} is greater than {high_noun} {b}");
                faults.push(Error::invalid(&path.child(place).key(name), a.to_string(), detail));
            }
        }
    }
}

fn resource_quota(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    for (name, value) in fields(&spec["hard"]) {
        let at = path.child("hard").key(name);
        let plain = name.trim_start_matches("requests.").trim_start_matches("limits.");
        check::invalid_each(&mut faults, &at, name, check::qualified_name(name));
        amount(&mut faults, &at, plain, value);
    }
    let at = path.child("scopes");
    let scopes: Vec<&str> = items(&spec["scopes"]).iter().map(text).collect();
    for scope in &scopes {
        if !QUOTA_SCOPES.contains(scope) {
            faults.push(Error::invalid(&at, spec["scopes"].clone(), "unsupported scope"));
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            faults.push(Error::invalid(&at, spec["scopes"].clone(), "conflicting scopes"));
        }
    }
    let at = path.child("scopeSelector").child("matchExpressions");
    for requirement in items(&spec["scopeSelector"]["matchExpressions"]) {
        let scope = text(&requirement["scopeName"]);
        if !QUOTA_SCOPES.contains(&scope) {
            faults.push(Error::invalid(&at.child("scopeName"), scope, "unsupported scope"));
        }
        let operator = text(&requirement["operator"]);
        if !["In", "NotIn", "Exists", "DoesNotExist"].contains(&operator) {
            faults.push(Error::invalid(&at.child("operator"), operator, "not a valid selector operator"));
        }
    }
    faults
}

fn disruption_budget(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let (least, most) = (&spec["minAvailable"], &spec["maxUnavailable"]);
    if set(least) && set(most) {
        faults.push(Error::invalid(
            &path,
            spec.clone(),
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for (key, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        if set(value) {
            check::count_or_percent(&mut faults, &path.child(key), value);
            if check::percent(value).is_some_and(|percent| percent > 100) {
                let detail = "must not be greater than 100%";
                faults.push(Error::invalid(&path.child(key), value.clone(), detail));
            }
        }
    }
    check::label_selector(&mut faults, &path.child("selector"), &spec["selector"]);
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    let at = path.child("unhealthyPodEvictionPolicy");
    check::optional_one_of(&mut faults, &at, &spec["unhealthyPodEvictionPolicy"], &policies);
    faults
}

fn autoscaler_defaults(spec: &mut Value, newer: bool) {
    default(spec, "minReplicas", 1);
    if newer {
        if items(&spec["metrics"]).is_empty() {
            let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
            put(spec, "metrics", cpu);
        }
        with(spec, "behavior", |behavior| {
            with(behavior, "scaleUp", |rules| scaling_rules(rules, true));
            with(behavior, "scaleDown", |rules| scaling_rules(rules, false));
        });
    } else {
        default(spec, "targetCPUUtilizationPercentage", 80);
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

fn autoscaler(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    if set(&spec["minReplicas"]) && number(&spec["minReplicas"]) < 1 {
        let value = number(&spec["minReplicas"]);
        faults.push(Error::invalid(&path.child("minReplicas"), value, "must be greater than or equal to 1"));
    }
    let max = number(&spec["maxReplicas"]);
    if max < 1 {
        faults.push(Error::invalid(&path.child("maxReplicas"), max, "must be greater than 0"));
    }
    if max < number(&spec["minReplicas"]) {
        let detail = "must be greater than or equal to `minReplicas`";
        faults.push(Error::invalid(&path.child("maxReplicas"), max, detail));
    }
    for key in ["kind", "name"] {
        let at = path.child("scaleTargetRef").child(key);
        check::required(&mut faults, &at, &spec["scaleTargetRef"][key]);
    }
    faults
}

/// Where v1 keeps what only v2 can say.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT_METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && set(&metric["resource"]["target"]["averageUtilization"])
}

/// `autoscaling/v2` is stored; v1 keeps its CPU target in a field and the rest in annotations.
pub fn convert_autoscaler(value: &mut Value, to_storage: bool) {
    put(value, "kind", "HorizontalPodAutoscaler");
    if to_storage { to_v2(value) } else { to_v1(value) }
}

fn take_annotation(value: &mut Value, key: &str) -> Option<Value> {
    let annotations = value.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
    let found = annotations.remove(key)?;
    let empty = annotations.is_empty();
    if empty {
        remove(&mut value["metadata"], "annotations");
    }
    serde_json::from_str(text(&found)).ok()
}

fn annotate(value: &mut Value, key: &str, content: &Value) {
    let content = content.to_string();
    within(value, "metadata", |metadata| {
        within(metadata, "annotations", |annotations| put(annotations, key, content));
    });
}

fn to_v2(value: &mut Value) {
    put(value, "apiVersion", "autoscaling/v2");
    let mut metrics: Vec<Value> = Vec::new();
    if let Some(Value::Array(more)) = take_annotation(value, METRICS_ANNOTATION) {
        metrics.extend(more);
    }
    let behavior = take_annotation(value, BEHAVIOR_ANNOTATION);
    let conditions = take_annotation(value, CONDITIONS_ANNOTATION);
    let current = take_annotation(value, CURRENT_METRICS_ANNOTATION);
    within(value, "spec", |spec| {
        if let Some(percent) = spec["targetCPUUtilizationPercentage"].as_i64() {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        remove(spec, "targetCPUUtilizationPercentage");
        if !metrics.is_empty() {
            put(spec, "metrics", metrics);
        }
        if let Some(behavior) = behavior {
            put(spec, "behavior", behavior);
        }
    });
    with(value, "status", |status| {
        let mut list = match current {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        if let Some(percent) = status["currentCPUUtilizationPercentage"].as_i64() {
            let now = json!({"averageUtilization": percent});
            list.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": now}}));
        }
        remove(status, "currentCPUUtilizationPercentage");
        if !list.is_empty() {
            put(status, "currentMetrics", list);
        }
        if let Some(conditions) = conditions {
            put(status, "conditions", conditions);
        }
    });
}

fn to_v1(value: &mut Value) {
    put(value, "apiVersion", "autoscaling/v1");
    let (mut others, mut cpu) = (Vec::new(), None);
    for metric in items(&value["spec"]["metrics"]) {
        if cpu.is_none() && is_cpu(metric) {
            cpu = Some(metric["resource"]["target"]["averageUtilization"].clone());
        } else {
            others.push(metric.clone());
        }
    }
    let behavior = value["spec"]["behavior"].clone();
    with(value, "spec", |spec| {
        remove(spec, "metrics");
        remove(spec, "behavior");
        if let Some(cpu) = cpu {
            put(spec, "targetCPUUtilizationPercentage", cpu);
        }
    });
    let conditions = value["status"]["conditions"].clone();
    let mut current = Vec::new();
    let mut now = None;
    for metric in items(&value["status"]["currentMetrics"]) {
        if now.is_none()
            && metric["resource"]["name"] == "cpu"
            && set(&metric["resource"]["current"]["averageUtilization"])
        {
            now = Some(metric["resource"]["current"]["averageUtilization"].clone());
        } else {
            current.push(metric.clone());
        }
    }
    with(value, "status", |status| {
        remove(status, "conditions");
        remove(status, "currentMetrics");
        default(status, "currentReplicas", 0);
        default(status, "desiredReplicas", 0);
        if let Some(now) = now {
            put(status, "currentCPUUtilizationPercentage", now);
        }
    });
    let kept = [
        (METRICS_ANNOTATION, Value::Array(others)),
        (BEHAVIOR_ANNOTATION, behavior),
        (CONDITIONS_ANNOTATION, conditions),
        (CURRENT_METRICS_ANNOTATION, Value::Array(current)),
    ];
    for (key, content) in kept {
        if !same(&content, &Value::Null) {
            annotate(value, key, &content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoscalers_survive_the_round_trip() {
        let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 70}}}]}});
        let mut value = stored.clone();
        convert_autoscaler(&mut value, false);
        assert_eq!(value["spec"]["targetCPUUtilizationPercentage"], 50);
        convert_autoscaler(&mut value, true);
        assert_eq!(value, stored);
    }

    #[test]
    fn limit_ranges_fill_downwards() {
        let mut object = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}});
        limit_range_defaults(&mut object);
        assert_eq!(object["spec"]["limits"][0]["defaultRequest"]["cpu"], "1");
    }

    #[test]
    fn user_priorities_are_bounded() {
        let class =
            |name: &str, value: i64| priority_class(&json!({"metadata": {"name": name}, "value": value}));
        assert!(class("mine", 1_000_000_000).is_empty());
        assert_eq!(class("mine", 1_000_000_001).len(), 1);
        assert!(class("system-node-critical", 2_000_001_000).is_empty());
        assert_eq!(class("system-other", 1).len(), 1);
    }
}
