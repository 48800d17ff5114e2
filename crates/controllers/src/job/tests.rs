//! Table tests over a job's plan and its books.

use std::collections::HashSet;
use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use serde_json::{Value, json};

use super::backoff::Backoff;
use super::core::{Plan, View, plan, settle};
use super::view::{FINALIZER, INDEX};
use crate::testing::{at, object, pod, set_ready};

const NOW: i64 = 5000;

fn job(spec: Value, status: Value) -> Job {
    let mut spec = spec;
    spec["template"] = json!({"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}});
    object(json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"}, "spec": spec, "status": status}))
}

fn tracked(name: &str, phase: &str, index: Option<i32>) -> Arc<CachedPod> {
    let mut pod = pod("ns", name, phase);
    pod.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    if let Some(index) = index {
        crate::meta::annotate(&mut pod.metadata, INDEX, &index.to_string());
    }
    if phase == "Running" {
        set_ready(&mut pod, Some(at(100)));
    }
    Arc::new(pod)
}

fn planned(job: &Job, pods: &[Arc<CachedPod>]) -> Plan {
    let released = HashSet::new();
    let view = View { pods, may_manage: true, released: &released, backoff: Backoff::default() };
    plan(&view, job, at(NOW))
}

fn types(status: &JobStatus) -> Vec<String> {
    status.conditions.iter().flatten().map(|c| c.type_.clone()).collect()
}

#[test]
fn starts_what_is_lacking() {
    // (spec, pods, creations)
    let run = |name: &str| tracked(name, "Running", None);
    let done = |name: &str| tracked(name, "Succeeded", None);
    let cases = [
        (json!({"parallelism": 2, "completions": 5}), vec![], 2),
        (json!({"parallelism": 2, "completions": 5}), vec![run("a")], 1),
        (json!({"parallelism": 3, "completions": 3}), vec![done("a"), done("b")], 1),
        (json!({"parallelism": 2}), vec![], 2),
        // Without completions one success ends the making of more.
        (json!({"parallelism": 2}), vec![done("a"), run("b")], 0),
        (json!({"parallelism": 2, "completions": 5, "suspend": true}), vec![], 0),
    ];
    for (spec, pods, expected) in cases {
        let plan = planned(&job(spec.clone(), Value::Null), &pods);
        assert_eq!(plan.create.len(), expected, "{spec}");
        assert_eq!(plan.status.start_time.is_none(), spec["suspend"] == true);
    }
}

#[test]
fn an_indexed_job_fills_the_gaps() {
    let spec = json!({"parallelism": 3, "completions": 5, "completionMode": "Indexed"});
    let mut first = tracked("a", "Succeeded", Some(0)).as_ref().clone();
    first.metadata.deletion_timestamp = crate::meta::time(at(NOW - 100));
    let pods = [Arc::new(first), tracked("b", "Running", Some(2)), tracked("c", "Failed", Some(1))];
    let released = HashSet::new();
    // The pause after the failure is over.
    let backoff = Backoff::default();
    let view = View { pods: &pods, may_manage: true, released: &released, backoff };
    let early = plan(&view, &job(spec.clone(), Value::Null), at(NOW));
    assert!(early.create.is_empty() && early.again.is_some());
    let mut failed = pods[2].as_ref().clone();
    failed.metadata.deletion_timestamp = crate::meta::time(at(NOW - 60));
    let pods = [pods[0].clone(), pods[1].clone(), Arc::new(failed)];
    let view = View { pods: &pods, may_manage: true, released: &released, backoff };
    let plan = plan(&view, &job(spec, Value::Null), at(NOW));
    assert_eq!(plan.create, [Some(1), Some(3)]);
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("0"));
    assert_eq!(plan.status.succeeded, Some(1));
    let pod = super::template::pod(&job(json!({}), Value::Null), Some(3));
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
    assert_eq!(pod.spec.unwrap().hostname.as_deref(), Some("j-3"));
}

#[test]
fn ends_are_counted_once_then_the_job_completes() {
    let j = job(json!({"parallelism": 1, "completions": 1}), Value::Null);
    let pods = [tracked("a", "Succeeded", None)];
    let plan = planned(&j, &pods);
    assert_eq!(types(&plan.status), ["SuccessCriteriaMet"]);
    let books = plan.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(books.succeeded, Some(vec!["a-uid".to_owned()]));
    assert_eq!(plan.status.succeeded, None);

    // The finalizer could not be removed: nothing is counted, nothing finishes.
    let still = HashSet::from(["a-uid".to_owned()]);
    let (status, told) = settle(&j, plan.status.clone(), plan.finish.as_ref(), &still, at(NOW));
    assert_eq!((status.succeeded, told), (None, None));

    let (status, told) = settle(&j, plan.status, plan.finish.as_ref(), &HashSet::new(), at(NOW));
    assert_eq!(status.succeeded, Some(1));
    assert_eq!(types(&status), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!((status.ready, status.terminating), (Some(0), Some(0)));
    assert!(status.completion_time.is_some());
    assert_eq!(told.unwrap().1, "Completed");
}

#[test]
fn a_failing_job_takes_its_pods_along_and_waits_for_them() {
    let failed: Vec<Arc<CachedPod>> = (0..2).map(|i| tracked(&format!("f{i}"), "Failed", None)).collect();
    let mut pods = failed;
    pods.push(tracked("r", "Running", None));
    let j = job(json!({"parallelism": 2, "completions": 5, "backoffLimit": 1}), Value::Null);
    let plan = planned(&j, &pods);
    assert_eq!(plan.delete.len(), 1);
    assert_eq!(types(&plan.status), ["FailureTarget"]);
    let books = plan.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(books.failed.unwrap().len(), 3);
    let (status, told) = settle(&j, plan.status, plan.finish.as_ref(), &HashSet::new(), at(NOW));
    // One pod still terminates.
    assert_eq!((status.failed, status.terminating, told), (Some(3), Some(1), None));

    let mut later = j.clone();
    later.status = Some(status);
    let plan = planned(&later, &[]);
    let (status, told) = settle(&later, plan.status, plan.finish.as_ref(), &HashSet::new(), at(NOW));
    assert_eq!(types(&status), ["FailureTarget", "Failed"]);
    assert_eq!(status.failed, Some(3));
    assert_eq!(told.unwrap().1, "BackoffLimitExceeded");
}

#[test]
fn deadline_and_suspension() {
    let status = json!({"startTime": at(NOW - 30).to_string()});
    let run = [tracked("a", "Running", None)];
    let plan = planned(&job(json!({"activeDeadlineSeconds": 40, "completions": 1}), status.clone()), &run);
    assert_eq!(plan.again.map(|d| d.as_secs()), Some(10));
    let plan = planned(&job(json!({"activeDeadlineSeconds": 30, "completions": 1}), status.clone()), &run);
    assert_eq!(plan.finish.unwrap().reason.as_deref(), Some("DeadlineExceeded"));

    let suspended = planned(&job(json!({"suspend": true, "completions": 1}), status), &run);
    assert_eq!(suspended.delete.len(), 1);
    assert_eq!(types(&suspended.status), ["Suspended"]);
    assert_eq!(suspended.events[0].1, "Suspended");
    let mut resumed = job(json!({"completions": 1}), Value::Null);
    resumed.status = Some(suspended.status);
    let plan = planned(&resumed, &[]);
    assert_eq!(plan.events[0].1, "Resumed");
    assert_eq!(plan.status.start_time.unwrap().0, at(NOW));
    assert_eq!(resumed.name(), "j");
}
