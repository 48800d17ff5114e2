//! The decisions: how many pods to make or delete, and what the status says.

use std::sync::Arc;
use std::time::Duration;

use amphipod_api::selector::LabelSelector;
use amphipod_client::{CachedPod, Writable};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetCondition as Condition;
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::selector::Labels;
use crate::{meta, pods};

/// Pods made or deleted in one go for one owner.
pub const BURST: usize = 500;

/// A kind that keeps a number of equal pods.
pub trait ReplicaOwner: Writable {
    /// What upstream's series call the queue of its controller.
    const QUEUE: &'static str;
    fn selector(&self) -> Option<LabelSelector>;
    /// Whether the selector takes a pod with these labels.
    fn takes(&self, labels: Labels<'_>) -> bool;
    fn view(&self) -> Set<'_>;
    fn with_status(&self, status: Status) -> Self;
}

/// What a ReplicaSet and a ReplicationController have in common.
pub struct Set<'a> {
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub generation: i64,
    /// Whether the kind's status has a count of terminating pods.
    pub tracks_terminating: bool,
    pub template: Option<&'a PodTemplateSpec>,
    pub status: Status,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub observed_generation: i64,
    pub conditions: Vec<Condition>,
}

pub struct Failure {
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, PartialEq)]
pub enum Manage {
    Nothing,
    Create(usize),
    Delete(usize),
}

pub fn manage(set: &Set, active: usize) -> Manage {
    let wanted = usize::try_from(set.replicas).unwrap_or(0);
    match wanted.cmp(&active) {
        std::cmp::Ordering::Equal => Manage::Nothing,
        std::cmp::Ordering::Greater => Manage::Create((wanted - active).min(BURST)),
        std::cmp::Ordering::Less => Manage::Delete((active - wanted).min(BURST)),
    }
}

/// Counts are 32-bit on the wire; a cluster holds fewer pods.
fn count(pods: &[Arc<CachedPod>], holds: impl Fn(&CachedPod) -> bool) -> i32 {
    i32::try_from(pods.iter().filter(|pod| holds(pod)).count()).unwrap_or(i32::MAX)
}

fn is_fully_labeled(set: &Set, pod: &CachedPod) -> bool {
    let labels = set.template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    labels.into_iter().flatten().all(|(key, value)| meta::label(&pod.metadata, key) == Some(value))
}

/// The status after a sync. The failure condition changes only when pods were managed in it.
pub fn status(
    set: &Set,
    owned: &[Arc<CachedPod>],
    terminating: usize,
    failure: Option<Failure>,
    managed: bool,
    now: Timestamp,
) -> Status {
    let mut conditions = set.status.conditions.clone();
    let failing = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        Some(failure) if !failing => conditions.push(Condition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message),
            last_transition_time: meta::time(now),
        }),
        None if failing && managed => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        _ => {}
    }
    Status {
        replicas: count(owned, |_| true),
        fully_labeled: count(owned, |pod| is_fully_labeled(set, pod)),
        ready: count(owned, pods::is_ready),
        available: count(owned, |pod| pods::is_available(pod, set.min_ready_seconds, now)),
        terminating: set.tracks_terminating.then(|| i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.generation,
        conditions,
    }
}

/// When the next ready pod becomes available by the mere passing of time.
pub fn next_check(set: &Set, owned: &[Arc<CachedPod>], now: Timestamp) -> Option<Duration> {
    let times = owned.iter().filter_map(|pod| pods::available_at(pod, set.min_ready_seconds));
    times.filter(|at| *at > now).min().map(|at| meta::until(at, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod, set_ready};

    fn set(replicas: i32) -> Set<'static> {
        Set {
            replicas,
            min_ready_seconds: 10,
            generation: 3,
            tracks_terminating: true,
            template: None,
            status: Status::default(),
        }
    }

    #[test]
    fn difference_is_bounded() {
        let cases = [
            (3, 3, Manage::Nothing),
            (3, 1, Manage::Create(2)),
            (1, 3, Manage::Delete(2)),
            (2000, 0, Manage::Create(BURST)),
            (-1, 1, Manage::Delete(1)),
        ];
        for (replicas, active, expected) in cases {
            assert_eq!(manage(&set(replicas), active), expected);
        }
    }

    #[test]
    fn status_counts_and_failure_comes_and_goes() {
        let mut ready = pod("ns", "a", "Running");
        set_ready(&mut ready, Some(at(100)));
        let owned = [Arc::new(ready), Arc::new(pod("ns", "b", "Pending"))];
        let failure = Failure { reason: "FailedCreate", message: "quota".into() };
        let mut set = set(3);
        let first = status(&set, &owned, 1, Some(failure), true, at(105));
        assert_eq!((first.replicas, first.ready, first.available, first.terminating), (2, 1, 0, Some(1)));
        assert_eq!(first.conditions[0].reason.as_deref(), Some("FailedCreate"));
        assert_eq!(next_check(&set, &owned, at(105)), Some(Duration::from_secs(5)));
        set.status = first;
        assert_eq!(status(&set, &owned, 0, None, false, at(110)).conditions.len(), 1);
        let last = status(&set, &owned, 0, None, true, at(110));
        assert_eq!((last.available, last.conditions.len(), last.observed_generation), (1, 0, 3));
        assert_eq!(next_check(&set, &owned, at(110)), None);
    }
}
