//! How many pods came to which queue for which reason, under kube-scheduler's names for both.

use std::collections::BTreeMap;

pub const ADDED: &str = "UnschedulablePodAdd";
pub const ATTEMPT_FAILED: &str = "ScheduleAttemptFailure";
pub const BACK_OFF_OVER: &str = "BackoffComplete";
pub const TAKEN_EARLY: &str = "PopFromBackoffQ";
pub const TIMED_OUT: &str = "UnschedulableTimeout";
/// What was to help the pod failed, so that nothing will come of waiting for it.
pub const ACTIVATED: &str = "ForceActivate";

/// By queue and event. Both are of few: where pods wait, and the labels of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incoming(BTreeMap<(&'static str, &'static str), u64>);

impl Incoming {
    pub fn count(&mut self, queue: &'static str, event: &'static str) {
        *self.0.entry((queue, event)).or_insert(0) += 1;
    }
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.0.iter().map(|((queue, event), pods)| (*queue, *event, *pods))
    }
}
