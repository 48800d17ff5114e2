//! One copy of each piece that texts share, for as long as a text has it.
//!
//! The table knows pieces without keeping them: a piece goes with its last text, and what is left of it,
//! a few words, when the table is swept. Whoever makes texts asks it (the store's writer, or what reads
//! from disk or from etcd), so it is hardly ever asked twice at once.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Parts of the table, so that a sweep, for which the writer waits, goes over a part of it.
const SHARDS: usize = 16;
/// Pieces in a part of the table before it is swept for the first time.
const FIRST_SWEEP: usize = 64;

/// Bytes that are in several texts.
pub(super) struct Piece(Box<[u8]>);

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Default)]
pub(super) struct Interner {
    /// Seeded, so that nobody can write what meets in one place.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// By hash.
    known: HashMap<u64, Weak<Piece>, RandomState>,
    /// Swept when there are so many, which bounds the dead by the living.
    sweep_at: usize,
}

impl Interner {
    /// The piece of these bytes that everybody has.
    pub fn piece(&self, bytes: &[u8]) -> Arc<Piece> {
        let hash = self.hasher.hash_one(bytes);
        let mut shard = self.shards[hash as usize % SHARDS].lock();
        let known = shard.known.get(&hash).and_then(Weak::upgrade);
        match &known {
            Some(piece) if piece.bytes() == bytes => piece.clone(),
            // Of two that have one hash only the first is shared, as long as it lives.
            Some(_) => Arc::new(Piece(bytes.into())),
            None => {
                let piece = Arc::new(Piece(bytes.into()));
                shard.add(hash, &piece);
                piece
            }
        }
    }

    #[cfg(test)]
    pub fn known(&self) -> usize {
        let living = |shard: &Mutex<Shard>| {
            shard.lock().known.values().filter(|piece| piece.strong_count() > 0).count()
        };
        self.shards.iter().map(living).sum()
    }
}

impl Shard {
    fn add(&mut self, hash: u64, piece: &Arc<Piece>) {
        if self.known.len() >= self.sweep_at.max(FIRST_SWEEP) {
            self.known.retain(|_, piece| piece.strong_count() > 0);
            self.known.shrink_to(2 * self.known.len());
            self.sweep_at = 2 * self.known.len();
        }
        self.known.insert(hash, Arc::downgrade(piece));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_are_one_piece() {
        let interner = Interner::default();
        let (a, again) = (interner.piece(b"a"), interner.piece(b"a"));
        assert!(Arc::ptr_eq(&a, &again) && a.bytes() == b"a");
        assert_eq!(Arc::strong_count(&a), 2, "the table keeps none");
        assert!(!Arc::ptr_eq(&a, &interner.piece(b"b")));
        drop((a, again));
        assert_eq!(interner.known(), 0);
        assert_eq!(interner.piece(b"a").bytes(), b"a");
    }

    #[test]
    fn what_nobody_has_leaves_the_table() {
        let interner = Interner::default();
        let piece = |n: usize| interner.piece(n.to_string().as_bytes());
        let kept: Vec<_> = (0..100).map(piece).collect();
        for n in 100..100_000 {
            piece(n);
        }
        let slots: usize = interner.shards.iter().map(|shard| shard.lock().known.len()).sum();
        let most: usize = SHARDS * FIRST_SWEEP + 2 * kept.len();
        assert!(slots <= most, "{slots}");
        assert_eq!(interner.known(), kept.len());
        assert!(kept.iter().enumerate().all(|(n, kept)| Arc::ptr_eq(kept, &piece(n))));
    }

    #[test]
    fn a_hash_is_not_trusted() {
        let interner = Interner::default();
        let a = interner.piece(b"a");
        let hash = interner.hasher.hash_one(&b"b"[..]);
        interner.shards[hash as usize % SHARDS].lock().add(hash, &a);
        let (b, apart) = (interner.piece(b"b"), interner.piece(b"b"));
        assert_eq!((b.bytes(), apart.bytes()), (&b"b"[..], &b"b"[..]));
        assert!(!Arc::ptr_eq(&b, &apart), "not shared, but right");
        drop(a);
        let (b, again) = (interner.piece(b"b"), interner.piece(b"b"));
        assert!(Arc::ptr_eq(&b, &again), "the first that lives is shared");
    }
}
