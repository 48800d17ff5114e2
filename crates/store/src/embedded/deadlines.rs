//! When leases end. Many thousands may be open (one per event, say), so the next to end is found
//! without looking at all of them. Time comes in as a value.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::contract::LeaseId;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_lease: HashMap<LeaseId, Instant>,
    by_time: BTreeSet<(Instant, LeaseId)>,
}

impl Deadlines {
    /// Sets or moves the end of a lease.
    pub fn set(&mut self, id: LeaseId, end: Instant) {
        self.remove(id);
        self.by_lease.insert(id, end);
        self.by_time.insert((end, id));
    }

    pub fn remove(&mut self, id: LeaseId) {
        if let Some(end) = self.by_lease.remove(&id) {
            self.by_time.remove(&(end, id));
        }
    }

    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(end, _)| *end)
    }

    /// At most `limit` leases that have ended by `now`, the earliest first.
    pub fn ended(&self, now: Instant, limit: usize) -> Vec<LeaseId> {
        self.by_time.iter().take_while(|(end, _)| *end <= now).take(limit).map(|(_, id)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_earliest_ends_first() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        for (id, seconds) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
            deadlines.set(id, at(seconds));
        }
        assert_eq!(deadlines.next(), Some(at(10)));
        assert_eq!(deadlines.ended(at(9), 9), []);
        assert_eq!(deadlines.ended(at(20), 9), [2, 4, 3]);
        assert_eq!(deadlines.ended(at(20), 2), [2, 4]);
        deadlines.set(2, at(40));
        deadlines.remove(4);
        assert_eq!(deadlines.ended(at(50), 9), [3, 1, 2]);
        for id in 1..5 {
            deadlines.remove(id);
        }
        assert_eq!(deadlines.next(), None);
    }
}
