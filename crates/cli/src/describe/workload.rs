//! Deployments, replica sets and jobs.

use amphipod_api::object;
use serde_json::Value;

use super::pod;
use super::text::{self, Text, text as get};
use crate::discovery::Kind;

const REVISION: &str = "deployment.kubernetes.io/revision";

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// A LabelSelector as `a=b,c in (d)`.
fn selector(selector: &Value) -> String {
    match amphipod_api::selector::LabelSelector::from_object(selector) {
        Ok(parsed) => parsed.to_string(),
        Err(_) => "<invalid>".to_owned(),
    }
}

pub fn deployment(out: &mut Text, deployment: &Value, replica_sets: &[Value]) {
    text::name_and_namespace(out, deployment);
    out.field(0, "CreationTimestamp", &text::time(deployment["metadata"]["creationTimestamp"].as_str()));
    text::labels_and_annotations(out, deployment);
    out.field(0, "Selector", &selector(&deployment["spec"]["selector"]));
    let status = |name: &str| number(deployment, &format!("/status/{name}"));
    out.field(
        0,
        "Replicas",
        &format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            number(deployment, "/spec/replicas"),
            status("updatedReplicas"),
            status("replicas"),
            status("availableReplicas"),
            status("unavailableReplicas")
        ),
    );
    out.field(0, "StrategyType", get(deployment, "/spec/strategy/type"));
    out.field(0, "MinReadySeconds", &number(deployment, "/spec/minReadySeconds").to_string());
    if let Some(rolling) = deployment.pointer("/spec/strategy/rollingUpdate") {
        let amount =
            |name: &str| rolling[name].as_str().map_or_else(|| rolling[name].to_string(), str::to_owned);
        out.field(
            0,
            "RollingUpdateStrategy",
            &format!("{} max unavailable, {} max surge", amount("maxUnavailable"), amount("maxSurge")),
        );
    }
    pod::template(out, &deployment["spec"]["template"]);
    conditions(out, deployment);
    let revision = |object: &Value| {
        let text = object::annotations(object).and_then(|a| a.get(REVISION)).and_then(Value::as_str);
        text.unwrap_or("").to_owned()
    };
    let current = revision(deployment);
    let show = |set: &Value| {
        format!(
            "{} ({}/{} replicas created)",
            object::name(set),
            number(set, "/status/replicas"),
            number(set, "/spec/replicas")
        )
    };
    let (new, old): (Vec<&Value>, Vec<&Value>) =
        replica_sets.iter().partition(|set| revision(set) == current);
    let join = |sets: Vec<String>| if sets.is_empty() { "<none>".to_owned() } else { sets.join(", ") };
    out.field(0, "OldReplicaSets", &join(old.into_iter().map(show).collect()));
    out.field(0, "NewReplicaSet", &join(new.into_iter().map(show).collect()));
}

fn conditions(out: &mut Text, object: &Value) {
    let Some(conditions) = object.pointer("/status/conditions").and_then(Value::as_array) else { return };
    out.line(0, "Conditions:");
    out.cells(1, &["Type", "Status", "Reason"]);
    out.cells(1, &["----", "------", "------"]);
    for condition in conditions {
        out.cells(1, &[get(condition, "/type"), get(condition, "/status"), get(condition, "/reason")]);
    }
}

pub fn replica_set(out: &mut Text, kind: &Kind, set: &Value) {
    text::name_and_namespace(out, set);
    let shown = if kind.plural == "replicasets" {
        selector(&set["spec"]["selector"])
    } else {
        crate::table::labels(&set["spec"]["selector"])
    };
    out.field(0, "Selector", &shown);
    text::labels_and_annotations(out, set);
    if let Some(owner) = text::controlled_by(set) {
        out.field(0, "Controlled By", &owner);
    }
    let (current, desired) = (number(set, "/status/replicas"), number(set, "/spec/replicas"));
    out.field(0, "Replicas", &format!("{current} current / {desired} desired"));
    let ready = number(set, "/status/readyReplicas");
    out.field(
        0,
        "Pods Status",
        &format!("{ready} Running / {} Waiting / 0 Succeeded / 0 Failed", (current - ready).max(0)),
    );
    pod::template(out, &set["spec"]["template"]);
    conditions(out, set);
}

pub fn job(out: &mut Text, job: &Value) {
    text::name_and_namespace(out, job);
    out.field(0, "Selector", &selector(&job["spec"]["selector"]));
    text::labels_and_annotations(out, job);
    if let Some(owner) = text::controlled_by(job) {
        out.field(0, "Controlled By", &owner);
    }
    out.field(0, "Parallelism", &number(job, "/spec/parallelism").to_string());
    out.field(
        0,
        "Completions",
        &job["spec"]["completions"].as_i64().map_or("<unset>".to_owned(), |n| n.to_string()),
    );
    out.field(0, "Completion Mode", get(job, "/spec/completionMode"));
    out.field(0, "Suspend", if job["spec"]["suspend"] == true { "true" } else { "false" });
    out.field(0, "Backoff Limit", &number(job, "/spec/backoffLimit").to_string());
    for (title, pointer) in [("Start Time", "/status/startTime"), ("Completed At", "/status/completionTime")]
    {
        if let Some(at) = job.pointer(pointer).and_then(Value::as_str) {
            out.field(0, title, &text::time(Some(at)));
        }
    }
    out.field(
        0,
        "Pods Statuses",
        &format!(
            "{} Active ({} Ready) / {} Succeeded / {} Failed",
            number(job, "/status/active"),
            number(job, "/status/ready"),
            number(job, "/status/succeeded"),
            number(job, "/status/failed")
        ),
    );
    pod::template(out, &job["spec"]["template"]);
}
