//! Table tests over the pure core, on the cases upstream's tests are known to trip over.

use std::sync::Arc;

use amphipod_client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use serde_json::json;

use super::core::{View, is_same_set, reconcile};
use super::plan::Plan;
use super::replica_sets::{self, replicas};
use super::scaling::Sizes;
use crate::testing::{at, object};

const NOW: i64 = 10_000;

fn now() -> Timestamp {
    at(NOW)
}

fn deployment(replicas: i32, image: &str, rolling: &serde_json::Value) -> Deployment {
    object(json!({
        "metadata": {"name": "demo", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "demo"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": {
                "metadata": {"labels": {"app": "demo"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    }))
}

fn half() -> serde_json::Value {
    json!({"maxSurge": "25%", "maxUnavailable": "25%"})
}

/// The ReplicaSet the controller would make for this deployment, `size` replicas, `up` available.
fn set_of(deployment: &Deployment, created: i64, size: i32, up: i32) -> ReplicaSet {
    let hash = replica_sets::hash(&deployment.spec.as_ref().unwrap().template, None);
    let mut rs = replica_sets::build(deployment, &hash);
    let sizes = Sizes::of(deployment);
    replica_sets::annotate_sizes(&mut rs, sizes.replicas, sizes.ceiling());
    rs.metadata.uid = Some(format!("rs-{hash}"));
    rs.metadata.creation_timestamp = crate::meta::time(at(created));
    rs.metadata.generation = Some(1);
    rs.spec.as_mut().unwrap().replicas = Some(size);
    rs.status = Some(ReplicaSetStatus {
        replicas: size,
        ready_replicas: Some(up),
        available_replicas: Some(up),
        terminating_replicas: Some(0),
        observed_generation: Some(1),
        ..ReplicaSetStatus::default()
    });
    rs
}

fn view(sets: impl IntoIterator<Item = ReplicaSet>) -> View {
    View { replica_sets: sets.into_iter().map(Arc::new).collect(), ..View::default() }
}

fn sizes(plan: &Plan) -> Vec<i32> {
    plan.update.iter().map(replicas).collect()
}

fn reason(plan: &Plan) -> String {
    let status = plan.status.as_ref().unwrap().status.clone().unwrap();
    let conditions = status.conditions.unwrap_or_default();
    conditions.iter().find(|c| c.type_ == "Progressing").and_then(|c| c.reason.clone()).unwrap_or_default()
}

#[test]
fn a_new_deployment_gets_its_replica_set() {
    let d = deployment(5, "a:1", &half());
    let plan = reconcile(&View::default(), &d, now());
    let rs = plan.create.clone().unwrap();
    assert_eq!(replicas(&rs), 5);
    assert_eq!(rs.metadata.annotations.as_ref().unwrap()[replica_sets::REVISION], "1");
    assert_eq!(rs.metadata.annotations.as_ref().unwrap()[replica_sets::MAX_REPLICAS], "7");
    let hash = &rs.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(rs.name(), format!("demo-{hash}"));
    let text = format!("Scaled up replica set {} from 0 to 5", rs.name());
    assert_eq!(plan.events, [("ScalingReplicaSet", text)]);
    assert_eq!(reason(&plan), "NewReplicaSetCreated");
    assert!(is_same_set(&d, &rs));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let rolling = json!({"maxSurge": 3, "maxUnavailable": 2});
    let before = deployment(10, "old", &rolling);
    let old = set_of(&before, 1, 8, 8);
    let d = deployment(10, "new", &rolling);
    let new = set_of(&d, 2, 5, 0);
    let mut d = deployment(30, "new", &rolling);
    d.metadata.generation = Some(2);
    let plan = reconcile(&view([old, new]), &d, now());
    assert_eq!(sizes(&plan), [20, 13]);
    for rs in &plan.update {
        assert_eq!(rs.metadata.annotations.as_ref().unwrap()[replica_sets::MAX_REPLICAS], "33");
    }
}

#[test]
fn revisions_are_64_bit() {
    let mut old = set_of(&deployment(1, "old", &half()), 1, 1, 1);
    crate::meta::annotate(&mut old.metadata, replica_sets::REVISION, "3546343826724305832");
    let plan = reconcile(&view([old]), &deployment(1, "new", &half()), now());
    let annotations = plan.create.unwrap().metadata.annotations.unwrap();
    assert_eq!(annotations[replica_sets::REVISION], "3546343826724305833");
    let annotations = plan.status.unwrap().metadata.annotations.unwrap();
    assert_eq!(annotations[replica_sets::REVISION], "3546343826724305833");
}

#[test]
fn rolling_respects_surge_and_availability() {
    // (replicas, surge, unavailable, old (size, up), new (size, up)) -> sizes written
    type Case = (i32, i32, i32, (i32, i32), (i32, i32), Vec<i32>);
    let cases: [Case; 6] = [
        // Room for the surge: the new one grows first.
        (10, 2, 0, (10, 10), (0, 0), vec![2]),
        // No surge: the old one shrinks by what may be missing.
        (10, 0, 2, (10, 10), (0, 0), vec![8]),
        // Nothing may be missing and the new ones are not up yet: wait.
        (10, 2, 0, (10, 10), (2, 0), vec![]),
        (10, 2, 0, (10, 10), (2, 2), vec![8]),
        // Unhealthy old pods go first, whatever their number within bounds.
        (10, 2, 2, (10, 5), (2, 0), vec![8]),
        // The new one has all it wants and the old go.
        (10, 2, 2, (2, 2), (10, 10), vec![0]),
    ];
    for (count, surge, unavailable, old, new, expected) in cases {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let old_set = set_of(&deployment(count, "old", &rolling), 1, old.0, old.1);
        let d = deployment(count, "new", &rolling);
        let new_set = set_of(&d, 2, new.0, new.1);
        let plan = reconcile(&view([old_set.clone(), new_set.clone()]), &d, now());
        let resized: Vec<i32> = plan
            .update
            .iter()
            .filter(|rs| {
                let before = if rs.uid() == old_set.uid() { &old_set } else { &new_set };
                replicas(before) != replicas(rs)
            })
            .map(replicas)
            .collect();
        assert_eq!(resized, expected, "old {old:?} new {new:?}");
    }
}

#[test]
fn percentages_round_up_for_surge_and_down_for_unavailable() {
    let of = |replicas| Sizes::of(&deployment(replicas, "a", &half()));
    assert_eq!((of(5).max_surge, of(5).max_unavailable), (2, 1));
    assert_eq!((of(1).max_surge, of(1).max_unavailable), (1, 0));
    let zero = Sizes::of(&deployment(4, "a", &json!({"maxSurge": 0, "maxUnavailable": "10%"})));
    assert_eq!((zero.max_surge, zero.max_unavailable), (0, 1));
}

#[test]
fn history_beyond_the_limit_goes_once_empty() {
    let mut d = deployment(1, "new", &half());
    d.spec.as_mut().unwrap().revision_history_limit = Some(0);
    d.status = Some(serde_json_status(1));
    let empty = set_of(&deployment(1, "older", &half()), 1, 0, 0);
    let busy = set_of(&deployment(1, "old", &half()), 2, 0, 0);
    let mut busy = busy;
    busy.status.as_mut().unwrap().replicas = 1;
    let new = set_of(&d, 3, 1, 1);
    let plan = reconcile(&view([empty.clone(), busy, new]), &d, now());
    let deleted: Vec<&str> = plan.delete.iter().map(|rs| rs.name()).collect();
    assert_eq!(deleted, [empty.name()]);
}

fn serde_json_status(replicas: i32) -> k8s_openapi::api::apps::v1::DeploymentStatus {
    k8s_openapi::api::apps::v1::DeploymentStatus {
        replicas: Some(replicas),
        updated_replicas: Some(replicas),
        available_replicas: Some(replicas),
        ready_replicas: Some(replicas),
        observed_generation: Some(1),
        ..Default::default()
    }
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut d = deployment(3, "new", &half());
    let strategy = d.spec.as_mut().unwrap().strategy.as_mut().unwrap();
    strategy.type_ = Some("Recreate".into());
    strategy.rolling_update = None;
    let old = set_of(&deployment(3, "old", &half()), 1, 3, 3);
    let plan = reconcile(&view([old.clone()]), &d, now());
    assert!(plan.create.is_none());
    assert_eq!(sizes(&plan), [0]);

    let gone = set_of(&deployment(3, "old", &half()), 1, 0, 0);
    let mut waiting = view([gone.clone()]);
    waiting.pods_running.insert(gone.uid().to_owned(), true);
    assert!(reconcile(&waiting, &d, now()).create.is_none());
    waiting.pods_running.insert(gone.uid().to_owned(), false);
    assert_eq!(replicas(&reconcile(&waiting, &d, now()).create.unwrap()), 3);
}

#[test]
fn paused_deployments_only_scale() {
    let mut d = deployment(4, "new", &half());
    d.spec.as_mut().unwrap().paused = Some(true);
    let mut old = set_of(&deployment(4, "old", &half()), 1, 2, 2);
    replica_sets::annotate_sizes(&mut old, 2, 3);
    let plan = reconcile(&view([old]), &d, now());
    assert!(plan.create.is_none());
    assert_eq!(sizes(&plan), [4]);
    assert_eq!(reason(&plan), "DeploymentPaused");
}

#[test]
fn progress_is_judged_against_the_deadline() {
    let progressing = |reason: &str, at_second: i64| {
        json!([{"type": "Progressing", "status": "True", "reason": reason,
            "lastUpdateTime": at(at_second).to_string(), "lastTransitionTime": at(at_second).to_string()}])
    };
    // (condition before, seconds since, available) -> reason after
    let cases = [
        ("ReplicaSetUpdated", 10, 1, 1, "ReplicaSetUpdated"),
        ("ReplicaSetUpdated", 601, 1, 1, "ProgressDeadlineExceeded"),
        ("ReplicaSetUpdated", 601, 1, 2, "NewReplicaSetAvailable"),
        ("NewReplicaSetAvailable", 9000, 2, 1, "NewReplicaSetAvailable"),
    ];
    for (before, ago, was_up, up, expected) in cases {
        let mut d = deployment(2, "a", &half());
        let rs = set_of(&d, 1, 2, up);
        let mut status = serde_json_status(2);
        status.available_replicas = Some(was_up);
        status.ready_replicas = Some(was_up);
        let conditions = json!({"status": {"conditions": progressing(before, NOW - ago)}});
        status.conditions = object::<Deployment>(conditions).status.unwrap().conditions;
        d.status = Some(status);
        let plan = reconcile(&view([rs]), &d, now());
        assert_eq!(reason(&plan), expected, "{before} {ago}");
        assert_eq!(plan.again.is_some(), expected == "ReplicaSetUpdated", "{before} {ago}");
    }
}

#[test]
fn a_rollback_gives_the_old_set_a_new_revision() {
    let d = deployment(1, "one", &half());
    let mut first = set_of(&d, 1, 0, 0);
    crate::meta::annotate(&mut first.metadata, replica_sets::REVISION, "1");
    let mut second = set_of(&deployment(1, "two", &half()), 2, 1, 1);
    crate::meta::annotate(&mut second.metadata, replica_sets::REVISION, "2");
    let plan = reconcile(&view([first.clone(), second]), &d, now());
    assert!(plan.create.is_none());
    let back = plan.update.iter().find(|rs| rs.uid() == first.uid()).unwrap();
    let annotations = back.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[replica_sets::REVISION], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(replicas(back), 1);
}
