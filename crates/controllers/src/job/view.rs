//! Reading a job: its settings, and which of its pods count as what.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};

use amphipod_client::{CachedPod, Resource};

use crate::{meta, pods};

pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// The condition that ended the job.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let status = job.status.as_ref()?;
    condition(status, "Complete").or_else(|| condition(status, "Failed"))
}

pub fn make_condition(kind: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: meta::time(now),
        last_transition_time: meta::time(now),
    }
}

/// The settings with their defaults.
pub struct Settings<'a> {
    pub spec: &'a JobSpec,
    pub parallelism: i32,
    pub completions: Option<i32>,
    pub backoff_limit: i32,
    pub indexed: bool,
    pub suspended: bool,
    /// A pod is replaced only once it has ended, not when it begins to terminate.
    pub replace_only_failed: bool,
}

impl<'a> Settings<'a> {
    pub fn of(spec: &'a JobSpec) -> Self {
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        Settings {
            spec,
            parallelism: spec.parallelism.unwrap_or(1),
            completions: spec.completions,
            backoff_limit: spec.backoff_limit.unwrap_or(6),
            indexed,
            suspended: spec.suspend == Some(true),
            replace_only_failed: spec.pod_replacement_policy.as_deref() == Some("Failed")
                || spec.pod_failure_policy.is_some(),
        }
    }
    pub fn has_failed(&self, pod: &CachedPod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => !self.replace_only_failed && pod.is_terminating(),
        }
    }
    /// The pod's index, if it is one the job (still) wants.
    pub fn index(&self, pod: &CachedPod) -> Option<i32> {
        let index = index_of(pod)?;
        (index < self.completions.unwrap_or(i32::MAX)).then_some(index)
    }
    /// Whether a pod's end can count: always, but for an index the job does not have.
    pub fn is_countable(&self, pod: &CachedPod) -> bool {
        !self.indexed || self.index(pod).is_some()
    }
}

pub fn index_of(pod: &CachedPod) -> Option<i32> {
    meta::annotation(&pod.metadata, INDEX)?.parse().ok().filter(|index| *index >= 0)
}

pub fn is_tracked(pod: &CachedPod) -> bool {
    meta::has_finalizer(&pod.metadata, FINALIZER)
}

/// Active pods to delete: those whose index is foreign or taken twice, and beyond these the least
/// useful ones until `at_least` are found.
pub fn removable(
    settings: &Settings,
    active: &[Arc<CachedPod>],
    at_least: usize,
    now: Timestamp,
) -> Vec<Arc<CachedPod>> {
    let ranked = pods::victims(active, active, active.len(), now);
    let mut remove = Vec::new();
    let mut keep = ranked.clone();
    if settings.indexed {
        let mut by_index: BTreeMap<i32, Arc<CachedPod>> = BTreeMap::new();
        for pod in ranked {
            match settings.index(&pod) {
                // The later in rank is the more useful: it stays.
                Some(index) => remove.extend(by_index.insert(index, pod)),
                None => remove.push(pod),
            }
        }
        keep = pods::victims(&by_index.into_values().collect::<Vec<_>>(), active, active.len(), now);
    }
    let more = at_least.saturating_sub(remove.len());
    remove.extend(keep.into_iter().take(more));
    remove
}
