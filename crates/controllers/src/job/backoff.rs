//! The growing pause between a failure and the next pod of a job.

use amphipod_client::CachedPod;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::meta;

const FIRST_SECONDS: i64 = 10;
const LAST_SECONDS: i64 = 600;

/// Failures since the last success, and when the latest was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backoff {
    pub failures: u32,
    pub last: Option<Timestamp>,
}

/// When the pod's last container ended, as far as told.
pub fn finished_at(pod: &CachedPod, now: Timestamp) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let ends = statuses.into_iter().flatten().filter_map(|container| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    });
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    ends.max().or(deleted).unwrap_or(now).min(now)
}

impl Backoff {
    pub fn after(self, succeeded: &[Arc<CachedPod>], failed: &[Arc<CachedPod>], now: Timestamp) -> Self {
        let success = succeeded.iter().map(|pod| finished_at(pod, now)).max();
        let mut record = if success.is_some() { Backoff::default() } else { self };
        for pod in failed {
            let at = finished_at(pod, now);
            if success.is_none_or(|success| at > success) {
                record.failures = record.failures.saturating_add(1);
                record.last = record.last.max(Some(at));
            }
        }
        record
    }
    pub fn remaining(&self, now: Timestamp) -> Duration {
        let (Some(last), true) = (self.last, self.failures > 0) else { return Duration::ZERO };
        let doublings = (self.failures - 1).min(16);
        let seconds = (FIRST_SECONDS << doublings).min(LAST_SECONDS);
        meta::until(meta::plus_seconds(last, seconds), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    #[test]
    fn doubles_and_a_success_resets() {
        let failed = |name: &str| Arc::new(pod("ns", name, "Failed"));
        let mut backoff = Backoff::default();
        for (expected, failures) in [(10, 1), (20, 2), (40, 3)] {
            backoff = backoff.after(&[], &[failed("f")], at(1000));
            assert_eq!(backoff.failures, failures);
            assert_eq!(backoff.remaining(at(1000)).as_secs(), expected);
        }
        assert_eq!(backoff.remaining(at(1030)).as_secs(), 10);
        let backoff = backoff.after(&[Arc::new(pod("ns", "s", "Succeeded"))], &[], at(1001));
        assert_eq!(backoff.remaining(at(1001)), Duration::ZERO);
        let long = Backoff { failures: 60, last: Some(at(0)) };
        assert_eq!(long.remaining(at(0)).as_secs(), 600);
    }
}
