//! The recent past, kept in memory: what watches replay and what reads at an older revision undo.
//!
//! A read at revision R takes the nearest kept map at or after R and puts back, key by key, what the
//! commits between the two replaced. Maps are kept every few thousand commits, so that is bounded
//! work, and a map that shares most of its nodes with the next one costs little.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::state::{Change, Commit, Map};
use crate::contract::{Key, KeyValue, Revision};

/// Revisions between two kept maps: the most commits a read in the past has to undo.
const CHECKPOINT_REVISIONS: u64 = 8192;
/// What a change takes of memory besides what it replaced: its commit, and the map's nodes that a kept map
/// has to itself because of it. Measured with small values in a store of 60,000 keys.
const CHANGE_BYTES: usize = 320;

#[derive(Debug)]
pub(super) struct History {
    /// The oldest revision that can be read; commits are kept from the one after it.
    oldest: Revision,
    /// Revisions `oldest + 1 ..= newest`, without gaps.
    commits: VecDeque<Arc<Commit>>,
    checkpoints: VecDeque<(Revision, Map)>,
    changes: usize,
    /// What only this history keeps alive, about.
    bytes: usize,
    max_changes: usize,
    max_bytes: usize,
}

impl History {
    pub fn new(oldest: Revision, max_changes: usize, max_bytes: usize) -> Self {
        History {
            oldest,
            commits: VecDeque::new(),
            checkpoints: VecDeque::new(),
            changes: 0,
            bytes: 0,
            max_changes,
            max_bytes,
        }
    }

    pub fn oldest(&self) -> Revision {
        self.oldest
    }

    pub fn newest(&self) -> Revision {
        self.oldest + self.commits.len() as u64
    }

    /// Takes in the commits that led to `map`, in order, and forgets what exceeds the bounds.
    pub fn extend(&mut self, commits: impl IntoIterator<Item = Arc<Commit>>, map: &Map) {
        for commit in commits {
            debug_assert_eq!(commit.revision, self.newest() + 1);
            self.changes += commit.changes.len();
            self.bytes += kept_bytes(&commit);
            self.commits.push_back(commit);
        }
        let newest = self.newest();
        let last = self.checkpoints.back().map_or(self.oldest, |(revision, _)| *revision);
        if newest >= last + CHECKPOINT_REVISIONS {
            self.checkpoints.push_back((newest, map.clone()));
        }
        while self.changes > self.max_changes || self.bytes > self.max_bytes {
            if !self.forget_one() {
                break;
            }
        }
        self.drop_checkpoints();
    }

    /// Forgets everything before `revision`.
    pub fn compact(&mut self, revision: Revision) {
        while self.oldest < revision && self.forget_one() {}
        self.drop_checkpoints();
    }

    fn forget_one(&mut self) -> bool {
        let Some(commit) = self.commits.pop_front() else { return false };
        self.oldest = commit.revision;
        self.changes -= commit.changes.len();
        self.bytes -= kept_bytes(&commit);
        true
    }

    fn drop_checkpoints(&mut self) {
        while self.checkpoints.front().is_some_and(|(revision, _)| *revision < self.oldest) {
            self.checkpoints.pop_front();
        }
    }

    /// Commits after `revision`, which must not lie before `oldest`.
    pub fn since(&self, revision: Revision) -> impl Iterator<Item = &Arc<Commit>> {
        let skip = revision.saturating_sub(self.oldest).min(self.commits.len() as u64);
        // At most commits.len(), which is a usize.
        self.commits.range(skip as usize..)
    }

    /// What is needed to see the store as it was at `revision`; cheap, so it may run under a lock.
    pub fn past(&self, revision: Revision, newest: &Map) -> Past {
        let checkpoint = self.checkpoints.iter().find(|(at, _)| *at >= revision);
        let (at, map) = checkpoint.map_or((self.newest(), newest.clone()), |(at, map)| (*at, map.clone()));
        let undo = self.since(revision).take_while(|commit| commit.revision <= at).cloned().collect();
        Past { map, undo }
    }
}

/// A map and the commits to take back from it.
pub(super) struct Past {
    map: Map,
    undo: Vec<Arc<Commit>>,
}

impl Past {
    /// The map as it was, right for keys in `[start, end)`.
    pub fn map(self, start: &str, end: &str) -> Map {
        let mut before: BTreeMap<&Key, Option<&Arc<KeyValue>>> = BTreeMap::new();
        for change in self.undo.iter().flat_map(|commit| &commit.changes) {
            if let Some(key) = change.key()
                && (start..end).contains(&key.as_ref())
            {
                // The first change after the revision tells what stood there before.
                before.entry(key).or_insert(change.previous.as_ref());
            }
        }
        let mut map = self.map;
        for (key, item) in before {
            match item {
                Some(item) => map.insert(key.clone(), item.clone()),
                None => map.remove(key),
            };
        }
        map
    }
}

/// A piece that several values share counts where a value with it was replaced by one without: of all
/// changes of a key that keep the piece alive that is the last. So nothing that only the past keeps goes
/// uncounted, and what versions of an object have in common is not counted for each of them.
fn kept_bytes(commit: &Commit) -> usize {
    let replaced = |change: &Change| {
        let successor = change.current.as_ref().map(|item| &item.value);
        change.previous.as_ref().map(|item| size_of::<KeyValue>() + item.value.held_bytes(successor))
    };
    commit.changes.len() * CHANGE_BYTES + commit.changes.iter().filter_map(replaced).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::super::state::State;
    use super::*;
    use crate::contract::Op;
    use crate::text::Text;
    use bytes::Bytes;

    fn write(state: &mut State, history: &mut History, op: Op) {
        let commit = state.apply(&[op]).unwrap();
        history.extend([Arc::new(commit)], &state.map);
    }

    fn op(step: u64) -> Op {
        let key = format!("/k/{:02}", step % 23);
        if step % 5 == 4 {
            Op::Delete { key }
        } else {
            Op::Put { key, value: Bytes::from(step.to_string()), stamp: None, lease: None }
        }
    }

    #[test]
    fn every_kept_revision_reads_as_it_was() {
        let (mut state, mut history) = (State::default(), History::new(0, usize::MAX, usize::MAX));
        let mut were = vec![state.map.clone()];
        for step in 0..3 * CHECKPOINT_REVISIONS {
            let op = op(step);
            if matches!(&op, Op::Delete { key } if !state.map.contains_key(key.as_str())) {
                continue;
            }
            write(&mut state, &mut history, op);
            were.push(state.map.clone());
        }
        assert!(history.checkpoints.len() >= 2);
        for revision in (0..=history.newest()).step_by(977) {
            let map = history.past(revision, &state.map).map("", "\u{10ffff}");
            // Revisions index `were`, whose length fits a usize.
            assert_eq!(map, were[revision as usize], "revision {revision}");
        }
    }

    fn put(state: &mut State, history: &mut History, key: String) {
        write(state, history, Op::Put { key, value: Bytes::from_static(b"x"), stamp: None, lease: None });
    }

    #[test]
    fn bounds_and_compaction_forget_the_oldest_first() {
        let (mut state, mut history) = (State::default(), History::new(0, 10, usize::MAX));
        for step in 0..30 {
            put(&mut state, &mut history, format!("/{step}"));
        }
        assert_eq!((history.oldest(), history.newest()), (20, 30));
        history.compact(28);
        assert_eq!((history.oldest(), history.newest()), (28, 30));
        assert_eq!(history.since(28).count(), 2);
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_with_all_it_takes() {
        let replacing = CHANGE_BYTES + size_of::<KeyValue>() + Text::from("x").held_bytes(None);
        let (mut state, mut history) = (State::default(), History::new(0, usize::MAX, 4 * replacing));
        for step in 0..30 {
            put(&mut state, &mut history, format!("/{step}"));
        }
        let new = 4 * replacing / CHANGE_BYTES;
        assert_eq!(history.since(history.oldest()).count(), new, "they replaced nothing");
        for _ in 0..9 {
            put(&mut state, &mut history, "/0".into());
        }
        assert_eq!((history.oldest(), history.newest()), (35, 39));
    }

    #[test]
    fn what_versions_share_counts_once_it_is_only_past() {
        let (mut state, mut history) = (State::default(), History::new(0, usize::MAX, usize::MAX));
        let value = |fields: &str| format!(r#"{{"fieldsV1":{{"f:{}":{{}}}}}}"#, fields.repeat(1000));
        let mut kept = |op: Op| {
            let before = history.bytes;
            write(&mut state, &mut history, op);
            history.bytes - before
        };
        let mut put = |fields: &str| {
            let value = Bytes::from(value(fields));
            kept(Op::Put { key: "/k".into(), value, stamp: None, lease: None })
        };
        assert_eq!(put("a"), CHANGE_BYTES);
        let same = put("a");
        assert!(same < CHANGE_BYTES + 300, "{same}: the next version keeps what they share");
        assert!((same + 1000..same + 1100).contains(&put("b")), "no later one has it");
        let deleted = kept(Op::Delete { key: "/k".into() });
        assert!((same + 1000..same + 1100).contains(&deleted), "{deleted}");
        history.compact(history.newest());
        assert_eq!(history.bytes, 0);
    }
}
