//! Which slots changed, in order. Whoever remembers something about nodes keeps the position up to
//! which it has looked, and later asks for the slots that changed since.

use std::collections::VecDeque;

use crate::node::Slot;

/// Beyond so many changes per node, looking at all nodes again is no more work than following.
const CHANGES_PER_NODE: usize = 2;
const LEAST_KEPT: usize = 1024;

#[derive(Debug, Default)]
pub struct ChangeLog {
    entries: VecDeque<Slot>,
    /// The position of the first entry kept.
    start: u64,
    /// The position of each slot's latest entry.
    latest: Vec<u64>,
}

impl ChangeLog {
    pub(super) fn record(&mut self, slot: Slot) {
        let position = self.position();
        if self.latest.len() <= slot as usize {
            self.latest.resize(slot as usize + 1, 0);
        }
        self.latest[slot as usize] = position;
        self.entries.push_back(slot);
        if self.entries.len() > (self.latest.len() * CHANGES_PER_NODE).max(LEAST_KEPT) {
            self.entries.pop_front();
            self.start += 1;
        }
    }
    /// One past the last entry.
    pub fn position(&self) -> u64 {
        self.start + self.entries.len() as u64
    }
    /// The slots that changed since, each once. `None` where the log no longer reaches back.
    pub fn since(&self, position: u64) -> Option<impl Iterator<Item = Slot> + '_> {
        let skip = usize::try_from(position.checked_sub(self.start)?).ok()?;
        let entries = self.entries.iter().enumerate().skip(skip);
        let last = move |(index, slot): (usize, &Slot)| {
            (self.latest[*slot as usize] == self.start + index as u64).then_some(*slot)
        };
        Some(entries.filter_map(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_told_once_and_the_log_ends_somewhere() {
        let mut log = ChangeLog::default();
        let since = |log: &ChangeLog, position| log.since(position).map(Iterator::collect::<Vec<Slot>>);
        for slot in [1, 2, 1] {
            log.record(slot);
        }
        assert_eq!(since(&log, 0), Some(vec![2, 1]));
        assert_eq!(since(&log, 2), Some(vec![1]));
        assert_eq!(since(&log, 3), Some(vec![]));
        for _ in 0..LEAST_KEPT {
            log.record(5);
        }
        assert_eq!(since(&log, 2), None);
        assert_eq!(since(&log, 3), Some(vec![5]));
    }
}
