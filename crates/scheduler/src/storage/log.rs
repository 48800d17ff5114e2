//! Which nodes a change of storage is about. That is often said by labels, and which nodes have them is
//! looked up only when a class of pods that follows storage is asked for next.

use std::collections::VecDeque;

use crate::labels::Selector;
use crate::node::Slot;
use crate::snapshot::Snapshot;
use crate::storage::{Reach, reaches};
use crate::symbols::Symbol;

/// Beyond so many changes, looking at all nodes again is no more work than following.
const MAX_KEPT: usize = 64;

#[derive(Clone, Debug)]
pub enum Affected {
    Slot(Slot),
    Node(Symbol),
    /// All that reach a volume.
    Reaching(Reach),
    /// All that share a driver's room.
    Selected(Selector),
    Everywhere,
}

#[derive(Debug, Default)]
pub struct StorageLog {
    entries: VecDeque<Affected>,
    /// The position of the first entry kept.
    start: u64,
}

impl StorageLog {
    pub(crate) fn record(&mut self, affected: Affected) {
        self.entries.push_back(affected);
        if self.entries.len() > MAX_KEPT {
            self.entries.pop_front();
            self.start += 1;
        }
    }
    /// One past the last entry.
    pub fn position(&self) -> u64 {
        self.start + self.entries.len() as u64
    }
    /// The slots changes since were about. `None` where that is not known, or they all were.
    pub fn since(&self, snapshot: &Snapshot, position: u64) -> Option<Vec<Slot>> {
        let skip = usize::try_from(position.checked_sub(self.start)?).ok()?;
        let symbols = &snapshot.catalogue.symbols;
        let mut slots = Vec::new();
        for affected in self.entries.iter().skip(skip) {
            let matching = |matches: &dyn Fn(&crate::node::Shape) -> bool| {
                snapshot.nodes().filter(|(_, _, shape)| matches(shape)).map(|(slot, _, _)| slot).collect()
            };
            let mut found: Vec<Slot> = match affected {
                Affected::Slot(slot) => vec![*slot],
                Affected::Node(name) => snapshot.slot_of(*name).into_iter().collect(),
                Affected::Reaching(None) | Affected::Everywhere => return None,
                Affected::Reaching(reach) => matching(&|shape| reaches(symbols, reach, &shape.labels)),
                Affected::Selected(selector) => matching(&|shape| selector.matches(symbols, &shape.labels)),
            };
            slots.append(&mut found);
        }
        Some(slots)
    }
}
