//! The kinds that make pods.

use serde_json::Value;

use super::autoscalers::autoscaler;
use super::cells::{NONE, Object, duration_between, str_of};
use super::{Kind, columns, kind};
use crate::selector::LabelSelector;

pub(super) const KINDS: &[Kind] = &[
    kind("", "replicationcontrollers", columns::CONTROLLERS, replication_controller),
    kind("apps", "replicasets", columns::REPLICA_SETS, replica_set),
    kind("apps", "deployments", columns::DEPLOYMENTS, deployment),
    kind("apps", "statefulsets", columns::STATEFUL_SETS, stateful_set),
    kind("apps", "daemonsets", columns::DAEMON_SETS, daemon_set),
    kind("apps", "controllerrevisions", columns::REVISIONS, controller_revision),
    kind("batch", "jobs", columns::JOBS, job),
    kind("batch", "cronjobs", columns::CRON_JOBS, cron_job),
    kind("autoscaling", "horizontalpodautoscalers", columns::AUTOSCALERS, autoscaler),
    kind("policy", "poddisruptionbudgets", columns::BUDGETS, disruption_budget),
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
        deployment_selector(object),
    ]
}

/// Written out without the stand-ins other kinds have for nothing and for what cannot be read.
fn deployment_selector(object: &Object<'_>) -> Value {
    match LabelSelector::from_object(object.at("/spec/selector").unwrap_or(&Value::Null)) {
        Ok(selector) => selector.to_string().into(),
        Err(_) => "<invalid>".into(),
    }
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
