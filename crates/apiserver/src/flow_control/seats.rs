//! The currency of flow control. A request occupies seats while it is served, and some for a while
//! after; what it takes of the server is seats times duration.

use std::time::Duration;

/// Nanoseconds times seats. Signed and wide: a century of all seats fits, so that the meters never
/// have to be wound back.
pub type SeatTime = i128;

/// How long a request is taken to be served before it has been: what a queue is charged with when a
/// request of it begins, put right when it ends. Upstream's value; only its size beside real
/// durations matters, and those are of this order here too.
pub const ESTIMATED_DURATION: Duration = Duration::from_millis(3);

pub fn seat_time(seats: u32, duration: Duration) -> SeatTime {
    // A duration in nanoseconds has 94 bits, seats have 32: at the very ends of both it is cut off.
    let nanos = SeatTime::try_from(duration.as_nanos()).unwrap_or(SeatTime::MAX);
    nanos.saturating_mul(seats.into())
}

/// What a request is estimated to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Seats while the request is served.
    pub initial: u32,
    /// Seats once it is answered, while watchers are told of it.
    pub last: u32,
    /// How long that is.
    pub linger: Duration,
}

impl Width {
    pub const fn of(initial: u32) -> Self {
        Width { initial, last: 0, linger: Duration::ZERO }
    }

    /// Seats occupied from beginning to end: the more of both phases.
    pub fn seats(self) -> u32 {
        self.initial.max(self.last)
    }

    fn last_work(self) -> SeatTime {
        seat_time(self.last, self.linger)
    }

    /// All of it, as far as it can be known beforehand.
    pub fn work(self) -> SeatTime {
        seat_time(self.initial, ESTIMATED_DURATION) + self.last_work()
    }

    /// The same work with fewer seats at the end, for longer.
    pub fn narrowed(self, most: u32) -> Self {
        if self.last <= most || most == 0 {
            return self;
        }
        let nanos = u64::try_from(self.last_work() / SeatTime::from(most)).unwrap_or(u64::MAX);
        Width { last: most, linger: Duration::from_nanos(nanos), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_keeps_the_work() {
        let wide = Width { initial: 1, last: 100, linger: Duration::from_millis(5) };
        let narrow = wide.narrowed(10);
        assert_eq!((narrow.last, narrow.linger), (10, Duration::from_millis(50)));
        assert_eq!((narrow.work(), narrow.seats()), (wide.work(), 10));
        assert_eq!(narrow.narrowed(10), narrow);
        assert_eq!(seat_time(2, ESTIMATED_DURATION), 6_000_000);
    }
}
