//! Values of which many are equal, kept once.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Sizes at which the table is first searched for values that are gone.
const FIRST_SWEEP: usize = 1024;

/// Holds its values only as long as somebody else does.
pub(crate) struct Interner<T> {
    hasher: RandomState,
    table: Mutex<Table<T>>,
}

struct Table<T> {
    /// By the hash of their encodings; values whose hashes clash take each other's place.
    values: HashMap<u64, Weak<T>>,
    sweep_at: usize,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        let table = Table { values: HashMap::new(), sweep_at: FIRST_SWEEP };
        Interner { hasher: RandomState::new(), table: Mutex::new(table) }
    }
}

impl<T: Clone + PartialEq> Interner<T> {
    /// The shared value that equals this one. Equal values have equal encodings.
    pub fn share(&self, value: &T, encoding: &[u8]) -> Arc<T> {
        let hash = self.hasher.hash_one(encoding);
        let known = self.table.lock().values.get(&hash).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| **known == *value) {
            return known;
        }
        let shared = Arc::new(value.clone());
        let mut table = self.table.lock();
        table.values.insert(hash, Arc::downgrade(&shared));
        if table.values.len() >= table.sweep_at {
            table.values.retain(|_, value| value.strong_count() > 0);
            table.sweep_at = (table.values.len() * 2).max(FIRST_SWEEP);
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_as_long_as_somebody_holds_them() {
        let interner = Interner::default();
        let share = |value: usize| interner.share(&value, &value.to_le_bytes());
        let (one, again, other) = (share(1), share(1), share(2));
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        for value in 3..FIRST_SWEEP * 3 {
            share(value);
        }
        assert!(interner.table.lock().values.len() < FIRST_SWEEP);
        assert!(Arc::ptr_eq(&one, &share(1)));
    }

    #[test]
    fn values_whose_hashes_clash_stay_apart() {
        let interner = Interner::default();
        let (one, two) = (interner.share(&1, b"same"), interner.share(&2, b"same"));
        assert_eq!((*one, *two), (1, 2));
    }
}
