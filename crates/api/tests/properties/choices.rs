//! Choices from lists.

use crate::rng::Rng;

/// Some of the items, in their order.
pub fn some<T: Copy>(rng: &mut Rng, items: &[T]) -> Vec<T> {
    items.iter().copied().filter(|_| rng.one_in(2)).collect()
}

pub fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for at in (1..items.len()).rev() {
        items.swap(at, rng.below(at + 1));
    }
}
