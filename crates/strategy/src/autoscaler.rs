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
    create: |context, object| {
        if context.resource.version == "v1" {
            autoscaler_v1::start(object);
        }
    },
    update: |context, object, old| {
        if context.resource.version == "v1" {
            autoscaler_v1::carry_over(object, old, context.subresource);
        }
    },
    validate: |object| autoscaler(object, &Value::Null),
    revalidate: Some(autoscaler),
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

/// Which `apiVersion` a reference may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Versions {
    /// Any at all, for what was accepted once.
    Any,
    /// Any that can be read, the core group's too.
    Readable,
    /// One that names a group.
    OfGroup,
}

/// The only kind of the core group that can be scaled needs no group; what an update leaves alone
/// is not judged again.
fn target_versions(new: &Value, old: &Value) -> Versions {
    let (new, old) = (&new["spec"]["scaleTargetRef"], &old["spec"]["scaleTargetRef"]);
    if set(old) && ["apiVersion", "kind"].iter().all(|key| text(&new[*key]) == text(&old[*key])) {
        Versions::Any
    } else if text(&new["kind"]) == "ReplicationController" {
        Versions::Readable
    } else {
        Versions::OfGroup
    }
}

fn described_versions(old: &Value) -> Versions {
    let mut described =
        items(&old["spec"]["metrics"]).iter().map(|metric| &metric["object"]["describedObject"]);
    if described.any(|object| version_fault(text(&object["apiVersion"]), Versions::Readable).is_some()) {
        Versions::Any
    } else {
        Versions::Readable
    }
}

fn version_fault(version: &str, allowed: Versions) -> Option<String> {
    match version.matches('/').count() {
        _ if allowed == Versions::Any => None,
        0 if allowed == Versions::OfGroup => Some("apiVersion must specify API group".to_owned()),
        0 | 1 => None,
        _ => Some(format!("unexpected GroupVersion string: {version}")),
    }
}

/// `old` is null for a new one.
fn autoscaler(object: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    // What was scaled to nothing while that was allowed stays so.
    let least = if int(&old["spec"]["minReplicas"]) == Some(0) { 0 } else { 1 };
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
    let target = &spec["scaleTargetRef"];
    reference(&mut faults, &path.child("scaleTargetRef"), target, target_versions(object, old));
    let described = described_versions(old);
    let (metrics, metrics_path) = (items(&spec["metrics"]), path.child("metrics"));
    for (i, spec) in metrics.iter().enumerate() {
        metric(&mut faults, &metrics_path.index(i), spec, described);
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

fn reference(faults: &mut Faults, path: &Path, reference: &Value, allowed: Versions) {
    for key in ["kind", "name"] {
        let value = text(&reference[key]);
        if check::required(faults, &path.child(key), &reference[key]) {
            check::invalid_each(faults, &path.child(key), value, names::path_segment_name(value));
        }
    }
    let version = text(&reference["apiVersion"]);
    if let Some(detail) = version_fault(version, allowed) {
        faults.push(Error::invalid(&path.child("apiVersion"), version, detail));
    }
}

fn metric(faults: &mut Faults, path: &Path, metric: &Value, described: Versions) {
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
        if *first == "object" {
            let at = path.child("object").child("describedObject");
            reference(faults, &at, &metric["object"]["describedObject"], described);
        }
        source(faults, &path.child(first), first, &metric[*first]);
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, key)| *key);
    if expected.is_none() {
        // Once more.
        faults.push(Error::not_supported(&at, kind, &SOURCE_TYPES));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Resource, creates, merged, stored, updates};

    const AUTOSCALERS: Resource = ("autoscaling", "v2", "horizontalpodautoscalers");

    fn object() -> Value {
        json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "h", "namespace": "n"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    }

    #[test]
    fn rules_are_completed() {
        let object =
            merged(&object(), &json!({"spec": {"behavior": {"scaleDown": {"selectPolicy": "Min"}}}}));
        let spec = &stored(AUTOSCALERS, &object)["spec"];
        assert_eq!(spec["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"], 0);
        assert_eq!(
            spec["behavior"]["scaleDown"]["policies"],
            json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])
        );
        assert_eq!(spec["behavior"]["scaleDown"]["selectPolicy"], "Min");
    }

    #[test]
    fn faults() {
        creates(
            AUTOSCALERS,
            &object(),
            &[
                (
                    json!({"spec": {"minReplicas": 0, "maxReplicas": -1, "scaleTargetRef": {"kind": "", "name": "a/b", "apiVersion": "a/b/c"}}}),
                    &[
                        "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                        "spec.maxReplicas: Invalid value: -1: must be greater than 0",
                        "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
                        "spec.scaleTargetRef.kind: Required value",
                        "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
                        "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                        "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
                    ],
                ),
                (
                    json!({"spec": {"metrics": [{"type": "Odd"}, {"type": "Pods", "resource": {"target": {"type": "Value"}}},
                        {"type": "External", "external": {"metric": {"name": "a/b"}, "target": {"type": "", "value": "0", "averageValue": "1"}}},
                        {"type": "ContainerResource", "containerResource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0}}}]}}),
                    &[
                        "spec.metrics[0].type: Unsupported value: \"Odd\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                        "spec.metrics[0].type: Unsupported value: \"Odd\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                        "spec.metrics[1].resource.name: Required value: must specify a resource name",
                        "spec.metrics[1].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                        "spec.metrics[1].pods: Required value: must populate information for the given metric source",
                        "spec.metrics[2].external.metric.name: Invalid value: \"a/b\": may not contain '/'",
                        "spec.metrics[2].external.target.type: Required value: must specify a metric target type",
                        "spec.metrics[2].external.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue",
                        "spec.metrics[2].external.target.value: Invalid value: \"0\": must be positive",
                        "spec.metrics[2].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
                        "spec.metrics[3].containerResource.container: Required value: must specify a container",
                        "spec.metrics[3].containerResource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                    ],
                ),
                (
                    json!({"spec": {"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601, "selectPolicy": "x", "tolerance": "-1",
                        "policies": [{"type": "x", "value": 0, "periodSeconds": 1801}]}, "scaleDown": {"policies": []}}}}),
                    &[
                        "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                        "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"x\": supported values: \"Disabled\", \"Max\", \"Min\"",
                        "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"x\": supported values: \"Percent\", \"Pods\"",
                        "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                        "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                        "spec.behavior.scaleUp.tolerance: Invalid value: \"-1\": must be greater than or equal to 0",
                        "spec.behavior.scaleDown.policies: Required value: must specify at least one Policy",
                    ],
                ),
            ],
        );
        let old = stored(AUTOSCALERS, &object());
        updates(
            AUTOSCALERS,
            "status",
            &old,
            &[(
                json!({"status": {"currentReplicas": -1}}),
                &["status.currentReplicas: Invalid value: -1: must be greater than or equal to 0"],
            )],
        );
    }

    #[test]
    fn what_is_scaled_names_its_group() {
        creates(
            AUTOSCALERS,
            &object(),
            &[
                (
                    json!({"spec": {"scaleTargetRef": {"apiVersion": null}}}),
                    &[
                        "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
                    ],
                ),
                (
                    json!({"spec": {"scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController"}}}),
                    &[],
                ),
            ],
        );
        let mut once = stored(AUTOSCALERS, &object());
        once["spec"]["scaleTargetRef"]["apiVersion"] = "".into();
        updates(AUTOSCALERS, "", &once, &[(json!({"spec": {"maxReplicas": 9}}), &[])]);
    }
}
