//! The kinds that make pods.

use serde_json::Value;

use super::cells::{NONE, Object, UNSET, duration_between, str_of};
use super::{AGE, Column, Kind, NAME, boolean, integer, kind, text, wide};

const REPLICAS: &[Column] = &[
    NAME,
    integer("Desired"),
    integer("Current"),
    integer("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
const DEPLOYMENTS: &[Column] = &[
    NAME,
    text("Ready"),
    integer("Up-to-date"),
    integer("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
const STATEFUL_SETS: &[Column] = &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")];
const DAEMON_SETS: &[Column] = &[
    NAME,
    integer("Desired"),
    integer("Current"),
    integer("Ready"),
    integer("Up-to-date"),
    integer("Available"),
    text("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
const JOBS: &[Column] = &[
    NAME,
    text("Status"),
    text("Completions"),
    text("Duration"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
const CRON_JOBS: &[Column] = &[
    NAME,
    text("Schedule"),
    text("Timezone"),
    boolean("Suspend"),
    integer("Active"),
    text("Last Schedule"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
const REVISIONS: &[Column] = &[NAME, text("Controller"), text("Revision"), AGE];
const AUTOSCALERS: &[Column] =
    &[NAME, text("Reference"), text("Targets"), text("MinPods"), text("MaxPods"), integer("Replicas"), AGE];
const BUDGETS: &[Column] =
    &[NAME, text("Min Available"), text("Max Unavailable"), integer("Allowed Disruptions"), AGE];

pub(super) const KINDS: &[Kind] = &[
    kind("", "replicationcontrollers", REPLICAS, replication_controller),
    kind("apps", "replicasets", REPLICAS, replica_set),
    kind("apps", "deployments", DEPLOYMENTS, deployment),
    kind("apps", "statefulsets", STATEFUL_SETS, stateful_set),
    kind("apps", "daemonsets", DAEMON_SETS, daemon_set),
    kind("apps", "controllerrevisions", REVISIONS, controller_revision),
    kind("batch", "jobs", JOBS, job),
    kind("batch", "cronjobs", CRON_JOBS, cron_job),
    kind("autoscaling", "horizontalpodautoscalers", AUTOSCALERS, autoscaler),
    kind("policy", "poddisruptionbudgets", BUDGETS, disruption_budget),
];

const TEMPLATE: &str = "/spec/template/spec/containers";

fn replicas(object: &Object<'_>, selector: Value) -> Vec<Value> {
    let [names, images] = object.containers(TEMPLATE);
    vec![
        object.name(),
        object.number("/spec/replicas"),
        object.number("/status/replicas"),
        object.number("/status/readyReplicas"),
        object.age(),
        names,
        images,
        selector,
    ]
}

fn replication_controller(object: &Object<'_>) -> Vec<Value> {
    replicas(object, object.labels("/spec/selector"))
}

fn replica_set(object: &Object<'_>) -> Vec<Value> {
    replicas(object, object.selector("/spec/selector"))
}

fn ready_of_desired(object: &Object<'_>) -> Value {
    format!("{}/{}", object.integer("/status/readyReplicas"), object.integer("/spec/replicas")).into()
}

fn deployment(object: &Object<'_>) -> Vec<Value> {
    let [names, images] = object.containers(TEMPLATE);
    vec![
        object.name(),
        ready_of_desired(object),
        object.number("/status/updatedReplicas"),
        object.number("/status/availableReplicas"),
        object.age(),
        names,
        images,
        object.selector("/spec/selector"),
    ]
}

fn stateful_set(object: &Object<'_>) -> Vec<Value> {
    let [names, images] = object.containers(TEMPLATE);
    vec![object.name(), ready_of_desired(object), object.age(), names, images]
}

fn daemon_set(object: &Object<'_>) -> Vec<Value> {
    let [names, images] = object.containers(TEMPLATE);
    vec![
        object.name(),
        object.number("/status/desiredNumberScheduled"),
        object.number("/status/currentNumberScheduled"),
        object.number("/status/numberReady"),
        object.number("/status/updatedNumberScheduled"),
        object.number("/status/numberAvailable"),
        object.labels("/spec/template/spec/nodeSelector"),
        object.age(),
        names,
        images,
        object.selector("/spec/selector"),
    ]
}

fn controller_revision(object: &Object<'_>) -> Vec<Value> {
    let owners = object.list("/metadata/ownerReferences");
    let owner = owners.iter().find(|o| o.get("controller") == Some(&Value::Bool(true)));
    let controller = owner.map_or(NONE.to_owned(), |o| {
        let (group, _) = crate::schema::split_api_version(str_of(o, "apiVersion"));
        let kind = str_of(o, "kind").to_lowercase();
        format!("{}/{}", crate::status::qualified(group, &kind), str_of(o, "name"))
    });
    vec![object.name(), controller.into(), object.number("/revision"), object.age()]
}

fn job(object: &Object<'_>) -> Vec<Value> {
    let [names, images] = object.containers(TEMPLATE);
    vec![
        object.name(),
        job_status(object).into(),
        job_completions(object).into(),
        job_duration(object).into(),
        object.age(),
        names,
        images,
        object.selector("/spec/selector"),
    ]
}

fn job_status(object: &Object<'_>) -> &'static str {
    let by_condition = [
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    if object.has_condition("Complete") {
        "Complete"
    } else if object.has_condition("Failed") {
        "Failed"
    } else if object.deleted() {
        "Terminating"
    } else {
        by_condition.iter().find(|(c, _)| object.has_condition(c)).map_or("Running", |(_, shown)| shown)
    }
}

fn job_completions(object: &Object<'_>) -> String {
    let succeeded = object.integer("/status/succeeded");
    match object.at("/spec/completions").and_then(Value::as_i64) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None => match object.integer("/spec/parallelism") {
            parallelism if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        },
    }
}

fn job_duration(object: &Object<'_>) -> String {
    let start = object.text("/status/startTime");
    if start.is_empty() {
        return String::new();
    }
    let end = object.text("/status/completionTime").parse().unwrap_or(object.now);
    duration_between(start, end)
}

fn cron_job(object: &Object<'_>) -> Vec<Value> {
    let [names, images] = object.containers("/spec/jobTemplate/spec/template/spec/containers");
    let last = match object.text("/status/lastScheduleTime") {
        "" => NONE.into(),
        _ => object.since("/status/lastScheduleTime"),
    };
    vec![
        object.name(),
        object.cell("/spec/schedule"),
        object.text_or("/spec/timeZone", NONE),
        object.optional_flag("/spec/suspend"),
        object.length("/status/active").into(),
        last,
        object.age(),
        names,
        images,
        object.selector("/spec/jobTemplate/spec/selector"),
    ]
}

fn disruption_budget(object: &Object<'_>) -> Vec<Value> {
    vec![
        object.name(),
        object.int_or_text("/spec/minAvailable", "N/A"),
        object.int_or_text("/spec/maxUnavailable", "N/A"),
        object.number("/status/disruptionsAllowed"),
        object.age(),
    ]
}

fn autoscaler(object: &Object<'_>) -> Vec<Value> {
    let target = "/spec/scaleTargetRef";
    let reference =
        format!("{}/{}", object.text(&format!("{target}/kind")), object.text(&format!("{target}/name")));
    let targets = match object.at("/spec/targetCPUUtilizationPercentage") {
        Some(wanted) => {
            let current = object.at("/status/currentCPUUtilizationPercentage").and_then(Value::as_i64);
            format!(
                "cpu: {}/{wanted}%",
                current.map_or(super::cells::UNKNOWN.to_owned(), |c| format!("{c}%"))
            )
        }
        None => autoscaler_targets(object),
    };
    vec![
        object.name(),
        reference.into(),
        targets.into(),
        object.int_or_text("/spec/minReplicas", UNSET),
        object.number("/spec/maxReplicas"),
        object.number("/status/currentReplicas"),
        object.age(),
    ]
}

/// Metrics shown in one cell.
const METRICS_MAX: usize = 2;

fn autoscaler_targets(object: &Object<'_>) -> String {
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
    let (field, named) = match str_of(spec, "type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "External" => ("external", false),
        _ => return "<unknown type>".to_owned(),
    };
    let part = |value: Option<&Value>, side: &str, name: &str| -> Option<String> {
        let found = value?.get(field)?.get(side)?.get(name)?;
        Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
    };
    let pair = |name: &str, unit: &str, average: bool| -> Option<String> {
        let wanted = part(Some(spec), "target", name)?;
        let now = part(current, "current", name).map_or("<unknown>".to_owned(), |c| format!("{c}{unit}"));
        let suffix = if average { " (avg)" } else { "" };
        Some(format!("{now}/{wanted}{unit}{suffix}"))
    };
    let averaged = matches!(field, "object" | "external");
    let text = pair("averageUtilization", "%", false)
        .or_else(|| pair("averageValue", "", averaged))
        .or_else(|| pair("value", "", false))
        .unwrap_or_else(|| "<unknown>/<auto>".to_owned());
    let name = spec.get(field).map(|m| str_of(m, "name")).unwrap_or_default();
    if named && !name.is_empty() { format!("{name}: {text}") } else { text }
}
