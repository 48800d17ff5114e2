//! Crash back-off: 10 s, doubling to 5 min, forgotten after 10 min of peace; one entry per key.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::display;
use super::status::Waiting;

pub const CRASH_LOOP: &str = "CrashLoopBackOff";

/// Why a container that failed too recently does not run.
pub fn crash_loop(container: &str, pod: &Pod, delay: SignedDuration) -> Waiting {
    let shown = if delay.as_secs() < 60 {
        format!("{}s", delay.as_secs())
    } else {
        format!("{}m{}s", delay.as_secs() / 60, delay.as_secs() % 60)
    };
    let message = format!("back-off {shown} restarting failed container={container} pod={}", display(pod));
    Waiting { reason: CRASH_LOOP.to_owned(), message }
}

pub const FIRST: SignedDuration = SignedDuration::from_secs(10);
pub const LAST: SignedDuration = SignedDuration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub struct BackOffs {
    entries: HashMap<String, Entry>,
}

impl BackOffs {
    /// The delay in force and when it ends, if `now` still lies within it, counted from `since`
    /// (when the container last finished).
    pub fn waiting(
        &self,
        key: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(SignedDuration, Timestamp)> {
        let entry = self.entries.get(key)?;
        if Self::expired(entry, now) {
            return None;
        }
        let until = since + entry.delay;
        (now < until).then_some((entry.delay, until))
    }

    /// A further start is made now: the next failure waits twice as long.
    pub fn next(&mut self, key: &str, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !Self::expired(entry, now) => (entry.delay * 2).min(LAST),
            _ => FIRST,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// The delay in force counted from its last change, as image pulls do.
    pub fn waiting_since_update(&self, key: &str, now: Timestamp) -> Option<(SignedDuration, Timestamp)> {
        let updated = self.entries.get(key)?.updated;
        self.waiting(key, updated, now)
    }

    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }

    pub fn collect(&mut self, now: Timestamp) {
        self.entries.retain(|_, entry| !Self::expired(entry, now));
    }

    fn expired(entry: &Entry, now: Timestamp) -> bool {
        now.duration_since(entry.updated) > LAST * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_ceiling_and_are_forgotten() {
        let mut backoffs = BackOffs::default();
        let start = Timestamp::UNIX_EPOCH;
        assert_eq!(backoffs.waiting("a", start, start), None);
        let expected = [10, 20, 40, 80, 160, 300, 300];
        let mut now = start;
        for seconds in expected {
            backoffs.next("a", now);
            let (delay, until) = backoffs.waiting("a", now, now).unwrap();
            assert_eq!(delay.as_secs(), seconds);
            assert_eq!(backoffs.waiting("a", now, until), None);
            now = until;
        }
        let later = now + SignedDuration::from_secs(601);
        assert_eq!(backoffs.waiting("a", later, later), None);
        backoffs.next("a", later);
        assert_eq!(backoffs.waiting("a", later, later).unwrap().0, FIRST);
        backoffs.collect(later + SignedDuration::from_secs(601));
        assert!(backoffs.entries.is_empty());
    }
}
