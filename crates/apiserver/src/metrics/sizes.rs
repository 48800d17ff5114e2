//! A histogram for what comes by the thousand: whoever observes counts for itself, without a lock, and
//! adds that up from time to time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds in bytes of watch events, as upstream's.
const BOUNDS: [f64; 8] = [1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
/// One for each bound, and one for what is larger.
const BUCKETS: usize = BOUNDS.len() + 1;

/// What one observer has seen since it last added it up.
#[derive(Debug, Default)]
pub struct Tally {
    buckets: [u64; BUCKETS],
    count: u64,
    sum: u64,
}

impl Tally {
    pub fn observe(&mut self, bytes: usize) {
        self.buckets[BOUNDS.partition_point(|bound| *bound < bytes as f64)] += 1;
        self.count += 1;
        self.sum += bytes as u64;
    }
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// What all observers have seen.
#[derive(Clone, Debug, Default)]
pub struct Sizes(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Sizes {
    pub fn add(&self, seen: &Tally) {
        for (total, number) in self.0.buckets.iter().zip(seen.buckets).filter(|(_, number)| *number > 0) {
            total.fetch_add(number, Ordering::Relaxed);
        }
        self.0.sum.fetch_add(seen.sum, Ordering::Relaxed);
    }
}

impl EncodeMetric for Sizes {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let numbers = self.0.buckets.iter().map(|total| total.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(numbers).collect();
        let count = buckets.iter().map(|(_, number)| number).sum();
        let sum = self.0.sum.load(Ordering::Relaxed) as f64;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Sizes {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn it_says_what_a_histogram_says() {
        let (sizes, plain, mut seen) = (Sizes::default(), Histogram::new(BOUNDS), Tally::default());
        for bytes in [0, 100, 1024, 1025, 5000, 131_072, 131_073, 9_000_000] {
            seen.observe(bytes);
            plain.observe(bytes as f64);
        }
        assert_eq!(seen.count(), 8);
        sizes.add(&std::mem::take(&mut seen));
        sizes.add(&seen);
        let text = |register: &dyn Fn(&mut Registry)| {
            let mut registry = Registry::default();
            register(&mut registry);
            let mut text = String::new();
            encode(&mut text, &registry).expect("text");
            text
        };
        assert_eq!(
            text(&|registry| registry.register("a", "A", sizes.clone())),
            text(&|registry| registry.register("a", "A", plain.clone())),
        );
    }
}
