//! Chance that repeats: every draw is a function of the seed, whom it concerns and what is drawn, so
//! that the same pod (by namespace and name) meets the same fate in every run, in whatever order
//! things happen, and a failure found by chance can be had again.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use crate::pod::Fnv;

/// A duration, or the bounds it is drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub min: Duration,
    pub max: Duration,
}

impl Span {
    pub const fn fixed(duration: Duration) -> Self {
        Span { min: duration, max: duration }
    }
    pub fn is_zero(self) -> bool {
        self.max.is_zero()
    }
}

/// What is drawn; each has draws of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Draw {
    Start,
    Init,
    Stop,
    Completion,
    ImagePull,
    Crash,
    CrashAfter,
    Ready,
    NeverReady,
    OutageAfter,
    OutageDuration,
}

/// The draws that concern one pod, container or node.
#[derive(Clone, Copy, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64, who: &str) -> Self {
        Chance(hashed((seed, who)))
    }
    /// The draws of a part: a container of a pod.
    pub fn part(self, name: &str) -> Self {
        Chance(hashed((self.0, name)))
    }

    /// In [0, 1); `turn` tells repeated draws apart.
    fn unit(self, what: Draw, turn: u32) -> f64 {
        // The 53 bits a float holds exactly.
        (hashed((self.0, what, turn)) >> 11) as f64 / (1_u64 << 53) as f64
    }
    pub fn happens(self, rate: f64, what: Draw, turn: u32) -> bool {
        self.unit(what, turn) < rate
    }
    pub fn within(self, span: Span, what: Draw, turn: u32) -> Duration {
        let width = span.max.saturating_sub(span.min);
        if width.is_zero() { span.min } else { span.min + width.mul_f64(self.unit(what, turn)) }
    }
}

/// Spread over all bits by the finish of splitmix64: FNV's high bits hardly depend on the last bytes.
pub fn hashed(what: impl Hash) -> u64 {
    let mut hasher = Fnv::default();
    what.hash(&mut hasher);
    let hash = hasher.finish();
    let z = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_repeat_and_are_spread() {
        let span = Span { min: Duration::from_secs(1), max: Duration::from_secs(3) };
        let mut happened = 0;
        let mut total = Duration::ZERO;
        for index in 0..10_000 {
            let chance = Chance::new(7, &format!("ns/web-{index}")).part("a");
            happened += u32::from(chance.happens(0.25, Draw::Crash, 0));
            let drawn = chance.within(span, Draw::Start, 0);
            assert!(span.min <= drawn && drawn < span.max, "{drawn:?}");
            assert_eq!(
                drawn,
                Chance::new(7, &format!("ns/web-{index}")).part("a").within(span, Draw::Start, 0)
            );
            total += drawn;
        }
        assert!((2_300..2_700).contains(&happened), "{happened}");
        assert!((19_500..20_500).contains(&total.as_secs()), "{total:?}");
    }

    #[test]
    fn draws_differ_by_all_that_names_them() {
        let unit =
            |seed, who: &str, part: &str, what, turn| Chance::new(seed, who).part(part).unit(what, turn);
        let one = unit(1, "ns/a", "c", Draw::Crash, 0);
        for other in [
            unit(2, "ns/a", "c", Draw::Crash, 0),
            unit(1, "ns/b", "c", Draw::Crash, 0),
            unit(1, "ns/a", "d", Draw::Crash, 0),
            unit(1, "ns/a", "c", Draw::Start, 0),
            unit(1, "ns/a", "c", Draw::Crash, 1),
        ] {
            assert_ne!(one, other);
        }
        assert!(!Chance::new(1, "a").happens(0.0, Draw::Crash, 0));
        assert!(Chance::new(1, "a").happens(1.0, Draw::Crash, 0));
    }
}
