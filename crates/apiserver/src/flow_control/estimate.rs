//! How wide a request is thought to be before it is served: what a list may read, whom a write will
//! be told to. Pure; where no other reason is given the figures are upstream's.

use std::time::Duration;

use super::seats::Width;

/// Of what a list reads so much is worth a seat.
const BYTES_PER_SEAT: u64 = 100_000;
/// What a list out of memory holds at once, however long it is: it is written as it is taken.
const LIST_BYTES: u64 = 1_000_000;
/// Seats a list may have, and a write may.
const WIDEST_LIST: u32 = 100;
const WIDEST_WRITE: u32 = 10;
/// Telling so many watchers is worth a seat for so long; fewer are not counted. Upstream reckons with ten
/// times as long, and delivers a tenth as many events (`docs/performance.md`).
const WATCHERS_PER_SEAT: u32 = 10;
const TELLING: Duration = Duration::from_micros(500);

/// What there is of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub objects: u64,
    pub average_bytes: u64,
}

/// A list, or a watch that begins with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// `None`: a resource of which nothing is known here; another server has it.
    pub stored: Option<Stored>,
    /// Objects asked for; zero is all.
    pub limit: u64,
    /// One object, by its name.
    pub is_single: bool,
}

fn bounded(seats: u64, widest: u32) -> u32 {
    u32::try_from(seats).unwrap_or(u32::MAX).clamp(1, widest.max(1))
}

/// `widest` is the level's own bound.
pub fn list(list: List, widest: Option<u32>) -> Width {
    let Some(stored) = list.stored else { return Width::of(1) };
    let objects = match list.limit {
        _ if list.is_single => 1,
        0 => stored.objects,
        limit => limit.min(stored.objects),
    };
    let bytes = objects.saturating_mul(stored.average_bytes).min(LIST_BYTES);
    let widest = widest.map_or(WIDEST_LIST, |widest| widest.min(WIDEST_LIST));
    Width::of(bounded(bytes.div_ceil(BYTES_PER_SEAT), widest))
}

pub fn write(watchers: u32, widest: Option<u32>) -> Width {
    if watchers < WATCHERS_PER_SEAT {
        return Width::of(1);
    }
    let last = watchers.div_ceil(WATCHERS_PER_SEAT);
    let widest = widest.map_or(WIDEST_WRITE, |widest| widest.min(WIDEST_WRITE));
    Width { initial: 1, last, linger: TELLING }.narrowed(widest.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_wide_as_what_they_read() {
        let known = |objects, average_bytes| Some(Stored { objects, average_bytes });
        for (stored, limit, is_single, widest, seats) in [
            (None, 0, false, None, 1),
            (known(0, 0), 0, false, None, 1),
            (known(100, 1000), 0, false, None, 1),
            (known(101, 1000), 0, false, None, 2),
            (known(500, 1000), 0, false, None, 5),
            (known(500, 1000), 150, false, None, 2),
            (known(500, 1000), 900, false, None, 5),
            (known(500, 1000), 0, true, None, 1),
            (known(1_000_000, 3400), 0, false, None, 10),
            (known(1_000_000, 3400), 0, false, Some(8), 8),
            (known(u64::MAX, u64::MAX), 0, false, Some(0), 1),
        ] {
            let width = list(List { stored, limit, is_single }, widest);
            assert_eq!(width, Width::of(seats), "{stored:?} {limit} {is_single} {widest:?}");
        }
    }

    #[test]
    fn writes_are_as_wide_as_their_audience() {
        assert_eq!(write(9, None), Width::of(1));
        let told = |last, micros| Width { initial: 1, last, linger: Duration::from_micros(micros) };
        assert_eq!(write(10, None), told(1, 500));
        assert_eq!(write(11, None), told(2, 500));
        assert_eq!(write(100, None), told(10, 500));
        assert_eq!(write(1000, None), told(10, 5000), "narrower for longer");
        assert_eq!(write(100, Some(2)), told(2, 2500));
    }
}
