//! How many seats a level could have used, over time, and what is expected of it: the figures by
//! which seats are lent.

use std::time::Duration;

/// Weight of the past when demand falls: of a peak half is forgotten in five minutes of periods of
/// ten seconds. Upstream's.
const SMOOTHING: f64 = 0.977;

/// Adds up a number that changes now and then, weighted by how long it lasts.
#[derive(Clone, Debug, Default)]
pub struct Integrator {
    seconds: f64,
    sum: f64,
    sum_of_squares: f64,
    most: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    pub average: f64,
    pub deviation: f64,
    pub high_watermark: f64,
}

impl Integrator {
    /// The number has been `value` for so long.
    pub fn add(&mut self, value: u32, lasted: Duration) {
        let (value, seconds) = (f64::from(value), lasted.as_secs_f64());
        self.seconds += seconds;
        self.sum += value * seconds;
        self.sum_of_squares += value * value * seconds;
        self.most = self.most.max(value);
    }

    /// What was seen since the last time, if any time has passed.
    pub fn take(&mut self) -> Option<Observed> {
        let seen = std::mem::take(self);
        if seen.seconds <= 0.0 {
            self.most = seen.most;
            return None;
        }
        let average = seen.sum / seen.seconds;
        let variance = seen.sum_of_squares / seen.seconds - average * average;
        Some(Observed { average, deviation: variance.max(0.0).sqrt(), high_watermark: seen.most })
    }
}

/// A level's demand as of the last period, and what is expected for the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expectation {
    pub observed: Observed,
    pub smoothed: f64,
}

impl Expectation {
    /// Follows a rise at once and a fall slowly.
    pub fn update(&mut self, observed: Observed) {
        let envelope = observed.average + observed.deviation;
        self.observed = observed;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_weighted_by_time() {
        let mut demand = Integrator::default();
        assert_eq!(demand.take(), None);
        demand.add(2, Duration::from_secs(3));
        demand.add(6, Duration::from_secs(1));
        let seen = demand.take().expect("seen");
        assert_eq!((seen.average, seen.high_watermark), (3.0, 6.0));
        assert!((seen.deviation - 3.0_f64.sqrt()).abs() < 1e-9, "{seen:?}");
        demand.add(1, Duration::from_secs(1));
        assert_eq!(demand.take(), Some(Observed { average: 1.0, deviation: 0.0, high_watermark: 1.0 }));
    }

    #[test]
    fn a_peak_of_no_length_is_not_lost() {
        let mut demand = Integrator::default();
        demand.add(9, Duration::ZERO);
        assert_eq!(demand.take(), None);
        demand.add(0, Duration::from_secs(1));
        assert_eq!(demand.take().map(|seen| seen.high_watermark), Some(9.0));
    }

    #[test]
    fn rises_are_followed_at_once_and_falls_slowly() {
        let mut expected = Expectation::default();
        expected.update(Observed { average: 90.0, deviation: 10.0, high_watermark: 120.0 });
        assert!((expected.smoothed - 100.0).abs() < 1e-9);
        for _ in 0..30 {
            expected.update(Observed::default());
        }
        assert!((45.0..55.0).contains(&expected.smoothed), "half after five minutes: {expected:?}");
    }
}
