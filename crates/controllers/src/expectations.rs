//! What a controller expects to see in its cache after its own writes. Until then it must not count
//! and create again: a stale count would make too many pods.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A lost watch event must not block an owner for ever.
const EXPIRE: Duration = Duration::from_secs(300);

struct Expected {
    creates: usize,
    deletes: HashSet<String>,
    since: Instant,
}

#[derive(Default)]
pub struct Expectations {
    by_key: Mutex<HashMap<String, Expected>>,
}

impl Expectations {
    pub fn satisfied(&self, key: &str) -> bool {
        self.by_key
            .lock()
            .get(key)
            .is_none_or(|e| (e.creates == 0 && e.deletes.is_empty()) || e.since.elapsed() > EXPIRE)
    }
    pub fn expect(&self, key: &str, creates: usize, uids: impl IntoIterator<Item = String>) {
        let expected = Expected { creates, deletes: uids.into_iter().collect(), since: Instant::now() };
        self.by_key.lock().insert(key.to_owned(), expected);
    }
    pub fn expect_creates(&self, key: &str, creates: usize) {
        self.expect(key, creates, []);
    }
    pub fn expect_deletes(&self, key: &str, uids: impl IntoIterator<Item = String>) {
        self.expect(key, 0, uids);
    }
    /// A create was seen, or will never be.
    pub fn created(&self, key: &str) {
        self.created_many(key, 1);
    }
    pub fn created_many(&self, key: &str, count: usize) {
        if let Some(expected) = self.by_key.lock().get_mut(key) {
            expected.creates = expected.creates.saturating_sub(count);
        }
    }
    pub fn deleted(&self, key: &str, uid: &str) {
        if let Some(expected) = self.by_key.lock().get_mut(key) {
            expected.deletes.remove(uid);
        }
    }
    pub fn forget(&self, key: &str) {
        self.by_key.lock().remove(key);
    }
    /// Notes what a change of a dependent tells about this owner's expectations.
    pub fn observe<T: amphipod_client::Resource>(&self, change: &amphipod_client::Change<T>, key: &str) {
        use amphipod_client::Change;
        match change {
            Change::Added(new) if new.is_terminating() => self.deleted(key, new.uid()),
            Change::Added(_) => self.created(key),
            Change::Updated { new, .. } if new.is_terminating() => self.deleted(key, new.uid()),
            Change::Updated { .. } => {}
            Change::Deleted(old) => self.deleted(key, old.uid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn satisfied_once_all_is_seen() {
        let e = Expectations::default();
        assert!(e.satisfied("k"));
        e.expect_creates("k", 2);
        e.created("k");
        assert!(!e.satisfied("k"));
        e.created("k");
        e.created("k");
        assert!(e.satisfied("k"));
        e.expect_deletes("k", ["a".to_owned(), "b".to_owned()]);
        e.deleted("k", "a");
        e.deleted("k", "a");
        assert!(!e.satisfied("k"));
        e.deleted("k", "b");
        assert!(e.satisfied("k"));
    }
}
