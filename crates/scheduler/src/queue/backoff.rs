//! How long a pod waits at least before it is tried again, and in which order pods may be tried that
//! have not waited so long, when there is nothing else to do (KEP-5142).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Order, Tries};

/// More doublings than this reach any last back-off.
const MAX_DOUBLINGS: u32 = 31;
/// Of pods whose back-off ends within the same span of time the more important one goes first.
const WINDOW: Duration = Duration::from_secs(1);

/// The first back-off, and the longest: it is twice as long each time.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_secs(1), last: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// When a pod's back-off is over. Errors are counted by themselves: they say nothing of how often
    /// the pod will be refused.
    pub(super) fn ends(self, tries: Tries) -> Instant {
        let count = if tries.errors > 0 { tries.errors } else { tries.refusals };
        let doublings = count.saturating_sub(1).min(MAX_DOUBLINGS);
        tries.ended + self.first.saturating_mul(1 << doublings).min(self.last)
    }
}

/// Pods in back-off that may be taken before it ends.
#[derive(Default)]
pub struct Early {
    /// What windows are counted from.
    start: Option<Instant>,
    pods: BTreeMap<(u64, Order), Arc<str>>,
}

impl Early {
    pub fn first(&self) -> Option<&Arc<str>> {
        self.pods.first_key_value().map(|(_, key)| key)
    }
    pub fn insert(&mut self, until: Instant, order: Order, key: Arc<str>) {
        self.start.get_or_insert(until);
        self.pods.insert((self.window(until), order), key);
    }
    pub fn remove(&mut self, until: Instant, order: Order) {
        self.pods.remove(&(self.window(until), order));
    }
    fn window(&self, until: Instant) -> u64 {
        let passed = self.start.map_or(Duration::ZERO, |start| until.saturating_duration_since(start));
        passed.as_secs() / WINDOW.as_secs()
    }
}
