//! The store's content at one revision, and what each request does to it: pure, no disk, no clock.
//!
//! Everything here is a persistent structure, so cloning is cheap: the writer works on a clone and
//! throws it away when the disk refuses, and readers and snapshots keep clones of their own.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::contract::{Compare, Error, Key, KeyValue, LeaseId, Op, Revision, Txn};
use crate::text::Text;

pub(super) type Map = OrdMap<Key, Arc<KeyValue>>;

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub map: Map,
    pub revision: Revision,
    pub leases: OrdMap<LeaseId, Lease>,
    /// The highest lease id ever granted.
    pub last_lease: LeaseId,
    /// Sum of key and value lengths, as on disk: what values share in memory counts for each.
    pub live_bytes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub ttl_seconds: u64,
    pub keys: OrdSet<Key>,
}

impl Lease {
    /// What deleting its keys takes in the log, about.
    pub fn key_bytes(&self) -> usize {
        self.keys.iter().map(|key| key.len() + OP_OVERHEAD_BYTES).sum()
    }
}

/// Bytes of a delete in the log besides its key.
const OP_OVERHEAD_BYTES: usize = 5;

/// What happened to one key: at least one side is there.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub current: Option<Arc<KeyValue>>,
    pub previous: Option<Arc<KeyValue>>,
}

impl Change {
    pub fn key(&self) -> Option<&Key> {
        self.current.as_ref().or(self.previous.as_ref()).map(|item| &item.key)
    }
}

/// Everything that happened at one revision.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub revision: Revision,
    pub changes: Vec<Change>,
}

impl State {
    /// `Ok(None)` when every compare holds, else the current values of the compared keys.
    pub fn compare(&self, compares: &[Compare]) -> Option<Vec<Option<KeyValue>>> {
        let holds = compares.iter().all(|Compare::ModRevision { key, equals }| {
            self.map.get(key.as_str()).map_or(0, |item| item.mod_revision) == *equals
        });
        if holds {
            return None;
        }
        let current = |Compare::ModRevision { key, .. }: &Compare| {
            self.map.get(key.as_str()).map(|item| item.as_ref().clone())
        };
        Some(compares.iter().map(current).collect())
    }

    /// Refuses what could not be applied whole, so that `apply` cannot fail half-way.
    pub fn check(&self, txn: &Txn) -> Result<(), Error> {
        txn.check()?;
        let lease = |op: &Op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete { .. } => None,
        };
        match txn.then.iter().filter_map(lease).find(|lease| !self.leases.contains_key(lease)) {
            Some(lease) => Err(Error::LeaseNotFound(lease)),
            None => Ok(()),
        }
    }

    /// Applies checked operations at the next revision; `None` when nothing changes.
    pub fn apply(&mut self, ops: &[Op]) -> Option<Commit> {
        let revision = self.revision + 1;
        let mut changes = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Put { key, value, stamp, lease } => {
                    let value = stamped(value, *stamp, revision);
                    changes.push(self.put(key, value, *lease, revision));
                }
                Op::Delete { key } => changes.extend(self.delete(key)),
            }
        }
        if changes.is_empty() {
            return None;
        }
        self.revision = revision;
        Some(Commit { revision, changes })
    }

    pub fn put(&mut self, key: &str, value: Text, lease: Option<LeaseId>, revision: Revision) -> Change {
        let previous = self.map.get(key).cloned();
        let (key, create_revision, version) = match &previous {
            Some(item) => (item.key.clone(), item.create_revision, item.version + 1),
            None => (Key::from(key), revision, 1),
        };
        self.insert(KeyValue { key, value, create_revision, mod_revision: revision, version, lease })
    }

    /// Puts an item as it stands, taking care of leases and sums.
    pub fn insert(&mut self, item: KeyValue) -> Change {
        let item = Arc::new(item);
        self.live_bytes += weight(&item);
        let previous = self.map.insert(item.key.clone(), item.clone());
        if let Some(old) = &previous {
            self.live_bytes -= weight(old);
            if old.lease != item.lease {
                self.detach(old);
            }
        }
        if let Some(lease) = item.lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(item.key.clone());
        }
        Change { current: Some(item), previous }
    }

    pub fn delete(&mut self, key: &str) -> Option<Change> {
        let previous = self.map.remove(key)?;
        self.live_bytes -= weight(&previous);
        self.detach(&previous);
        Some(Change { current: None, previous: Some(previous) })
    }

    fn detach(&mut self, item: &KeyValue) {
        if let Some(lease) = item.lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(&item.key);
        }
    }

    pub fn grant(&mut self, id: LeaseId, ttl_seconds: u64) {
        self.leases.insert(id, Lease { ttl_seconds, keys: OrdSet::new() });
        self.last_lease = self.last_lease.max(id);
    }

    /// Deletes the first keys of a lease, up to so many bytes of them.
    pub fn shed(&mut self, id: LeaseId, bytes: usize) -> Option<Commit> {
        let mut left = bytes;
        let keys = self.leases.get(&id)?.keys.iter().take_while(|key| {
            let fits = left >= key.len() + OP_OVERHEAD_BYTES;
            left = left.saturating_sub(key.len() + OP_OVERHEAD_BYTES);
            fits
        });
        let ops: Vec<Op> = keys.map(|key| Op::Delete { key: key.to_string() }).collect();
        self.apply(&ops)
    }

    /// Deletes the lease and, at one revision, every key attached to it.
    pub fn revoke(&mut self, id: LeaseId) -> Result<Option<Commit>, Error> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound(id))?;
        let ops: Vec<Op> = lease.keys.iter().map(|key| Op::Delete { key: key.to_string() }).collect();
        Ok(self.apply(&ops))
    }
}

fn weight(item: &KeyValue) -> u64 {
    (item.key.len() + item.value.len()) as u64
}

/// A copy of its own: the caller's bytes may be a slice of something large.
fn stamped(value: &[u8], stamp: Option<usize>, revision: Revision) -> Text {
    let Some(at) = stamp else { return Text::new(&[value]) };
    let (before, after) = value.split_at(at);
    Text::new(&[before, revision.to_string().as_bytes(), after])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(key: &str, value: &'static str, stamp: Option<usize>, lease: Option<LeaseId>) -> Op {
        Op::Put { key: key.into(), value: Bytes::from_static(value.as_bytes()), stamp, lease }
    }

    #[test]
    fn stamps_the_revision_where_asked() {
        for (value, stamp, want) in
            [("ab", None, "ab"), ("ab", Some(0), "7ab"), ("ab", Some(1), "a7b"), ("ab", Some(2), "ab7")]
        {
            assert_eq!(stamped(value.as_bytes(), stamp, 7), *want);
        }
    }

    #[test]
    fn refuses_what_cannot_be_applied_whole() {
        let state = State::default();
        let cases = [
            (vec![put("", "x", None, None)], "0 bytes"),
            (vec![put("/a", "x", Some(2), None)], "outside the value"),
            (vec![put("/a", "x", None, Some(9))], "no lease 9"),
            (vec![put("/a", "x", None, None), Op::Delete { key: "/a".into() }], "twice"),
        ];
        for (then, want) in cases {
            let error = state.check(&Txn { compare: vec![], then }).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn leases_follow_their_keys() {
        let mut state = State::default();
        state.grant(1, 5);
        state.grant(2, 5);
        state.apply(&[put("/a", "x", None, Some(1)), put("/b", "x", None, Some(1))]);
        state.apply(&[put("/a", "x", None, Some(2))]);
        let gone = state.revoke(1).unwrap().unwrap();
        assert_eq!(gone.revision, 3);
        let keys: Vec<_> = gone.changes.iter().filter_map(Change::key).map(|key| key.to_string()).collect();
        assert_eq!(keys, ["/b"]);
        state.apply(&[put("/a", "x", None, None)]);
        assert!(state.revoke(2).unwrap().is_none(), "the key let go of the lease");
        assert_eq!(state.live_bytes, 3);
        assert!(state.revoke(2).is_err());
    }

    #[test]
    fn a_huge_lease_ends_in_steps() {
        let mut state = State::default();
        state.grant(1, 5);
        for n in 0..10 {
            state.apply(&[put(&format!("/{n}"), "x", None, Some(1))]);
        }
        // Three keys of two bytes each, and what a delete takes besides.
        let step = 3 * (2 + OP_OVERHEAD_BYTES);
        let gone = state.shed(1, step).unwrap();
        assert_eq!((gone.revision, gone.changes.len()), (11, 3));
        assert_eq!(state.leases[&1].key_bytes(), 7 * (2 + OP_OVERHEAD_BYTES));
        state.shed(1, step).unwrap();
        assert_eq!(state.revoke(1).unwrap().unwrap().changes.len(), 4);
        assert!(state.map.is_empty());
    }
}
