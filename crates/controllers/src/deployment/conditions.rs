//! A deployment's status: the sums over its ReplicaSets, and what its conditions tell.

use amphipod_client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::scaling::Sizes;
use crate::meta;

pub const PROGRESSING: &str = "Progressing";
pub const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub fn get<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

pub fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
    status.conditions = status.conditions.take().filter(|c| !c.is_empty());
}

/// Sets a condition. One with the same status and reason stays as it was, message and all.
pub fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(current) = get(status, &new.type_) {
        if current.status == new.status && current.reason == new.reason {
            return;
        }
        if current.status == new.status {
            new.last_transition_time = current.last_transition_time.clone();
        }
    }
    remove(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

pub fn make(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: meta::time(now),
        last_transition_time: meta::time(now),
    }
}

/// Seconds a rollout may stand still; none means for ever.
pub fn deadline_seconds(deployment: &Deployment) -> Option<i32> {
    let seconds = deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds)?;
    (seconds != i32::MAX).then_some(seconds)
}

pub fn has_reason(condition: Option<&DeploymentCondition>, reason: &str) -> bool {
    condition.is_some_and(|c| c.reason.as_deref() == Some(reason))
}

/// Pausing stops the progress clock, resuming restarts it.
pub fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let paused = deployment.spec.as_ref().and_then(|s| s.paused) == Some(true);
    let current = get(status, PROGRESSING);
    if deadline_seconds(deployment).is_none() || has_reason(current, TIMED_OUT) {
        return;
    }
    match (paused, has_reason(current, PAUSED)) {
        (true, false) => {
            set(status, make(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".to_owned(), now));
        }
        (false, true) => {
            let message = "Deployment is resumed".to_owned();
            set(status, make(PROGRESSING, "Unknown", "DeploymentResumed", message, now));
        }
        _ => {}
    }
}

fn positive(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The sums. `status` brings the conditions and the collision count as they stand.
pub fn totals<'a>(
    deployment: &Deployment,
    status: &DeploymentStatus,
    all: impl Iterator<Item = &'a ReplicaSet>,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let (mut replicas, mut ready, mut available, mut terminating) = (0, 0, 0, Some(0));
    for rs in all {
        let Some(counts) = &rs.status else { continue };
        replicas += counts.replicas;
        ready += counts.ready_replicas.unwrap_or(0);
        available += counts.available_replicas.unwrap_or(0);
        terminating = terminating.zip(counts.terminating_replicas).map(|(a, b)| a + b);
    }
    let updated = new.and_then(|rs| rs.status.as_ref()).map_or(0, |s| s.replicas);
    let mut totals = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: positive(replicas),
        updated_replicas: positive(updated),
        ready_replicas: positive(ready),
        available_replicas: positive(available),
        unavailable_replicas: positive((replicas - available).max(0)),
        terminating_replicas: terminating,
        collision_count: status.collision_count,
        conditions: status.conditions.clone(),
    };
    let sizes = Sizes::of(deployment);
    let condition = if available >= sizes.replicas - sizes.max_unavailable {
        let message = "Deployment has minimum availability.";
        make("Available", "True", "MinimumReplicasAvailable", message.to_owned(), now)
    } else {
        let message = "Deployment does not have minimum availability.";
        make("Available", "False", "MinimumReplicasUnavailable", message.to_owned(), now)
    };
    set(&mut totals, condition);
    totals
}

pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Sizes::of(deployment).replicas;
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| count(s.replicas) - count(s.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

fn is_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(seconds), Some(current)) = (deadline_seconds(deployment), get(status, PROGRESSING)) else {
        return false;
    };
    match current.reason.as_deref() {
        Some(NEW_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            let from = current.last_update_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
            meta::plus_seconds(from, i64::from(seconds)) < now
        }
    }
}

/// The Progressing condition at the end of a rollout step.
pub fn judge_progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old_status: &DeploymentStatus,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    if deadline_seconds(deployment).is_none() {
        return remove(status, PROGRESSING);
    }
    let current = get(old_status, PROGRESSING).cloned();
    let settled = status.replicas == status.updated_replicas && has_reason(current.as_ref(), NEW_AVAILABLE);
    if settled {
        return;
    }
    let subject = match new {
        Some(rs) => format!("ReplicaSet \"{}\"", rs.name()),
        None => format!("Deployment \"{}\"", deployment.name()),
    };
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set(status, make(PROGRESSING, "True", NEW_AVAILABLE, message, now));
    } else if is_progressing(old_status, status) {
        let message = format!("{subject} is progressing.");
        let mut condition = make(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
        if let Some(current) = current.filter(|c| c.status == "True") {
            condition.last_transition_time = current.last_transition_time;
        }
        // Replaced even when alike: each step forward restarts the clock.
        remove(status, PROGRESSING);
        set(status, condition);
    } else if is_timed_out(deployment, status, now) {
        let message = format!("{subject} has timed out progressing.");
        set(status, make(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

/// The new ReplicaSet's failure to make pods, or else an old one's, shows on the deployment.
pub fn note_failures<'a>(
    status: &mut DeploymentStatus,
    new: Option<&'a ReplicaSet>,
    all: impl Iterator<Item = &'a ReplicaSet>,
    now: Timestamp,
) {
    let failure = |rs: &'a ReplicaSet| {
        let conditions = rs.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().find(|c| c.type_ == "ReplicaFailure")
    };
    match new.and_then(failure).or_else(|| all.filter_map(failure).next()) {
        Some(found) => {
            let mut condition = make(
                "ReplicaFailure",
                &found.status,
                found.reason.as_deref().unwrap_or(""),
                found.message.clone().unwrap_or_default(),
                now,
            );
            condition.last_transition_time = found.last_transition_time.clone();
            condition.last_update_time = found.last_transition_time.clone();
            set(status, condition);
        }
        None => remove(status, "ReplicaFailure"),
    }
}

/// When to look whether the deadline has passed.
pub fn next_check(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<std::time::Duration> {
    let seconds = deadline_seconds(deployment)?;
    let current = get(status, PROGRESSING)?;
    let settled = [TIMED_OUT, NEW_AVAILABLE, PAUSED].iter().any(|reason| has_reason(Some(current), reason));
    if settled || deployment.is_terminating() || is_complete(deployment, status) {
        return None;
    }
    let from = current.last_update_time.as_ref().map_or(now, |time| time.0);
    let due = meta::plus_seconds(from, i64::from(seconds) + 1);
    Some(meta::until(due, now).max(std::time::Duration::from_secs(1)))
}
