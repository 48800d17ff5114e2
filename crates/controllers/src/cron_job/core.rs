//! One sync of a CronJob: what to start, to stop, to clear away, and when to look again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::Resource;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::schedule::{self, Schedule};
use crate::{job, meta};

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed starts than this are worth a warning: the clock jumped, or the deadline is missing.
const MANY_MISSED: usize = 100;
/// A timer that fires a hair early must not find the time not yet come.
const SLACK: Duration = Duration::from_millis(100);

/// Type, reason and message.
pub type Told = (&'static str, &'static str, String);

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Option<Job>,
    /// For which time the job to create is.
    pub scheduled: Option<Timestamp>,
    pub delete: Vec<Arc<Job>>,
    pub status: CronJobStatus,
    pub events: Vec<Told>,
    pub again: Option<Duration>,
}

/// The latest time that has come and is not served, and how many were missed before it.
fn due(schedule: &Schedule, zone: &TimeZone, from: Timestamp, now: Timestamp) -> Option<(Timestamp, usize)> {
    let first = schedule.next(from, zone).filter(|first| *first <= now)?;
    let (mut latest, mut missed) = (first, 0);
    while let Some(next) = schedule.next(latest, zone).filter(|next| *next <= now) {
        missed += 1;
        latest = next;
        if missed > MANY_MISSED {
            return Some((latest_before(schedule, zone, latest, now), missed));
        }
    }
    Some((latest, missed))
}

/// The last time not after `now`, found from growing windows back rather than by walking years.
fn latest_before(schedule: &Schedule, zone: &TimeZone, known: Timestamp, now: Timestamp) -> Timestamp {
    let mut window = SignedDuration::from_mins(1);
    loop {
        let from = now.checked_sub(window).unwrap_or(known).max(known);
        if let Some(mut latest) = schedule.next(from, zone).filter(|at| *at <= now) {
            while let Some(next) = schedule.next(latest, zone).filter(|next| *next <= now) {
                latest = next;
            }
            return latest;
        }
        if from == known {
            return known;
        }
        window = window.saturating_mul(2);
    }
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        kind: Some("Job".to_owned()),
        api_version: Some("batch/v1".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

fn is_same(reference: &ObjectReference, job: &Job) -> bool {
    reference.uid.as_deref() == Some(job.uid())
}

/// What became of the jobs started before.
fn review(plan: &mut Plan, jobs: &[Arc<Job>]) {
    let status = &mut plan.status;
    let active = status.active.get_or_insert_default();
    for job in jobs {
        let listed = active.iter().any(|reference| is_same(reference, job));
        let finished = job::view::finished(job);
        if let Some(condition) = finished.filter(|_| listed) {
            active.retain(|reference| !is_same(reference, job));
            let message = format!("Saw completed job: {}, condition: {}", job.name(), condition.type_);
            plan.events.push(("Normal", "SawCompletedJob", message));
        }
        let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
        if finished.is_some_and(|c| c.type_ == "Complete") && completed > status.last_successful_time {
            status.last_successful_time = completed;
        }
        if finished.is_none() && !listed {
            let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
            plan.events.push(("Warning", "UnexpectedJob", message));
        }
    }
    let gone: Vec<ObjectReference> =
        active.iter().filter(|reference| !jobs.iter().any(|job| is_same(reference, job))).cloned().collect();
    for reference in gone {
        let message = format!("Active job went missing: {}", reference.name.clone().unwrap_or_default());
        plan.events.push(("Normal", "MissingJob", message));
        active.retain(|other| other.uid != reference.uid);
    }
}

/// Finished jobs beyond the history limits, oldest first.
fn clear_history(plan: &mut Plan, cron: &CronJob, jobs: &[Arc<Job>]) {
    let Some(spec) = &cron.spec else { return };
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (kind, limit) in limits {
        let ended = |job: &&Arc<Job>| job::view::finished(job).is_some_and(|c| c.type_ == kind);
        let mut found: Vec<Arc<Job>> = jobs.iter().filter(ended).cloned().collect();
        found.sort_by_key(|job| {
            (job.status.as_ref().and_then(|s| s.start_time.clone()), job.name().to_owned())
        });
        let excess = found.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        plan.delete.extend(found.into_iter().take(excess));
    }
}

pub fn reconcile(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    review(&mut plan, jobs);
    clear_history(&mut plan, cron, jobs);
    start_due(&mut plan, cron, jobs, now);
    plan.status.active = plan.status.active.take().filter(|active| !active.is_empty());
    plan
}

fn start_due(plan: &mut Plan, cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) {
    let Some(spec) = &cron.spec else { return };
    if cron.is_terminating() || spec.suspend == Some(true) {
        return;
    }
    let zone = match spec.time_zone.as_deref().map(TimeZone::get) {
        None => TimeZone::UTC,
        Some(Ok(zone)) => zone,
        Some(Err(why)) => {
            let name = spec.time_zone.as_deref().unwrap_or("");
            let message = format!("invalid timeZone: \"{name}\": {why}");
            return plan.events.push(("Warning", "UnknownTimeZone", message));
        }
    };
    let schedule = match schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            let message = format!("unparseable schedule: \"{}\" : {why}", spec.schedule);
            return plan.events.push(("Warning", "UnparseableSchedule", message));
        }
    };
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    let mut from = last.unwrap_or_else(|| meta::created(&cron.metadata));
    if let Some(seconds) = spec.starting_deadline_seconds {
        from = from.max(meta::plus_seconds(now, -seconds));
    }
    let next = schedule.next(now, &zone);
    plan.again = next.map(|next| meta::until(next, now) + SLACK);
    let Some((at, missed)) = due(&schedule, &zone, from, now) else { return };
    if missed > MANY_MISSED {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push(("Warning", "TooManyMissedTimes", message.to_owned()));
    }
    let name = job_name(cron, at);
    let running = plan.status.active.iter().flatten().any(|active| active.name.as_deref() == Some(&name));
    if running || last == Some(at) {
        return;
    }
    let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
    let active = plan.status.active.get_or_insert_default();
    if policy == "Forbid" && !active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        return plan.events.push(("Normal", "JobAlreadyActive", message.to_owned()));
    }
    if policy == "Replace" {
        let replaced = jobs.iter().filter(|job| active.iter().any(|reference| is_same(reference, job)));
        plan.delete.extend(replaced.cloned());
        active.clear();
    }
    plan.create = Some(build(cron, name, at, &zone));
    plan.scheduled = Some(at);
}

/// The time is in the name, so that one time makes one job whatever happens.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name(), at.as_second() / 60)
}

fn build(cron: &CronJob, name: String, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.as_ref().map(|s| s.job_template.clone()).unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    let mut annotations: BTreeMap<String, String> = from.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    let text = local.strip_suffix("+00:00").map_or(local.clone(), |utc| format!("{utc}Z"));
    annotations.insert(SCHEDULED_AT.to_owned(), text);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: from.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The status once the job is there.
pub fn started(mut status: CronJobStatus, job: &Job, at: Timestamp) -> CronJobStatus {
    status.active.get_or_insert_default().push(reference(job));
    status.last_schedule_time = meta::time(at);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::{Value, json};

    fn cron(extra: Value, status: Value) -> CronJob {
        let mut spec = json!({"schedule": "*/10 * * * *", "jobTemplate": {"spec": {"template": {}}}});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        object(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c",
            "creationTimestamp": "2026-01-01T00:05:00Z"}, "spec": spec, "status": status}))
    }

    fn job(name: &str, end: Option<&str>) -> Arc<Job> {
        let conditions = match end {
            Some(kind) => json!([{"type": kind, "status": "True"}]),
            None => json!([]),
        };
        Arc::new(object(json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"template": {}}, "status": {"conditions": conditions}})))
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().unwrap()
    }

    #[test]
    fn starts_the_latest_time_once() {
        let plan = reconcile(&cron(json!({}), Value::Null), &[], at("00:09:00"));
        assert!(plan.create.is_none());
        assert_eq!(plan.again.unwrap().as_secs(), 60);
        let plan = reconcile(&cron(json!({}), Value::Null), &[], at("00:31:00"));
        let job = plan.create.unwrap();
        assert_eq!(plan.scheduled, Some(at("00:30:00")));
        assert_eq!(job.name(), format!("c-{}", at("00:30:00").as_second() / 60));
        assert_eq!(job.metadata.annotations.as_ref().unwrap()[SCHEDULED_AT], "2026-01-01T00:30:00Z");
        let status = json!({"lastScheduleTime": "2026-01-01T00:30:00Z"});
        assert!(reconcile(&cron(json!({}), status), &[], at("00:31:00")).create.is_none());
        let late = cron(json!({"startingDeadlineSeconds": 30}), Value::Null);
        assert!(reconcile(&late, &[], at("00:31:00")).create.is_none());
        assert!(
            reconcile(&cron(json!({"suspend": true}), Value::Null), &[], at("00:31:00")).create.is_none()
        );
    }

    #[test]
    fn concurrency_policies() {
        let status = json!({"active": [{"name": "old", "uid": "old"}]});
        for (policy, creates, deletes) in [("Allow", true, 0), ("Forbid", false, 0), ("Replace", true, 1)] {
            let cron = cron(json!({"concurrencyPolicy": policy}), status.clone());
            let plan = reconcile(&cron, &[job("old", None)], at("00:31:00"));
            assert_eq!((plan.create.is_some(), plan.delete.len()), (creates, deletes), "{policy}");
        }
    }

    #[test]
    fn finished_jobs_leave_the_list_and_then_the_history() {
        let status = json!({"active": [{"name": "a", "uid": "a"}, {"name": "gone", "uid": "gone"}]});
        let cron = cron(json!({"suspend": true, "successfulJobsHistoryLimit": 1}), status);
        let jobs = [job("a", Some("Complete")), job("b", Some("Complete")), job("f", Some("Failed"))];
        let plan = reconcile(&cron, &jobs, at("00:31:00"));
        assert_eq!(plan.status.active, None);
        let reasons: Vec<_> = plan.events.iter().map(|(_, reason, _)| *reason).collect();
        assert_eq!(reasons, ["SawCompletedJob", "MissingJob"]);
        assert_eq!(plan.delete.iter().map(|j| j.name()).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_clock_that_jumped_costs_no_walk_through_years() {
        let mut cron = cron(json!({"schedule": "* * * * *"}), Value::Null);
        cron.metadata.creation_timestamp = meta::time("2016-01-01T00:00:00Z".parse().unwrap());
        let plan = reconcile(&cron, &[], at("00:31:30"));
        assert_eq!(plan.scheduled, Some(at("00:31:00")));
        assert_eq!(plan.events[0].1, "TooManyMissedTimes");
    }
}
