//! What client-go counts of its work queues and requests, under its names, labels and buckets. Whoever
//! counts adds to numbers of its own; they get their names when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::workqueue::{Standing, WorkQueue};

/// Upper bounds in seconds of requests.
const REQUESTS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// Upper bounds in seconds of what a key waits and is worked on.
pub(crate) const QUEUES: &[f64] = &[1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];
/// What requests are made with; a method that is not among them is not counted.
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
/// The codes of HTTP, and none: before them those that got no answer.
const FIRST_CODE: u16 = 100;
const CODES: usize = 501;
/// What a server is called that is reached by a call.
const HOST: &str = "in-process";

/// A histogram without a lock.
#[derive(Debug)]
pub(crate) struct Durations {
    bounds: &'static [f64],
    /// One for each bound, and one for what is longer.
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

impl Durations {
    pub fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Durations { bounds, buckets, sum_nanos: AtomicU64::new(0) }
    }

    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.buckets[self.bounds.partition_point(|bound| *bound < seconds)].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Requests of one method.
#[derive(Debug)]
pub(crate) struct Requests {
    codes: [AtomicU64; CODES],
    durations: Durations,
}

impl Requests {
    fn new() -> Self {
        Requests { codes: [const { AtomicU64::new(0) }; CODES], durations: Durations::new(REQUESTS) }
    }

    /// One was answered with this code, or not at all.
    pub fn ended(&self, code: Option<u16>, took: Duration) {
        let place = code.map_or(0, |code| usize::from(code.saturating_sub(FIRST_CODE)) + 1);
        if let Some(count) = self.codes.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.durations.observe(took);
    }

    /// Codes that were answered, and how often.
    fn answered(&self) -> impl Iterator<Item = (String, u64)> {
        let counts = self.codes.iter().map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().filter(|(_, count)| *count > 0).map(|(place, count)| match place {
            0 => ("<error>".to_owned(), count),
            _ => ((place - 1 + usize::from(FIRST_CODE)).to_string(), count),
        })
    }
}

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    /// The server of these clients.
    host: String,
    /// By name.
    queues: Mutex<BTreeMap<&'static str, WorkQueue>>,
    requests: [Requests; METHODS.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::of(HOST)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Of clients of this server, `host:port`.
    pub fn of(host: &str) -> Self {
        let requests = METHODS.map(|_| Requests::new());
        Metrics(Arc::new(Inner { host: host.to_owned(), queues: Mutex::default(), requests }))
    }
    /// Shows the queue under this name, in place of an earlier one that had it.
    pub fn show(&self, name: &'static str, queue: &WorkQueue) {
        self.0.queues.lock().insert(name, queue.clone());
    }

    pub(crate) fn requests(&self, method: &Method) -> Option<&Requests> {
        let place = METHODS.iter().position(|known| known == method)?;
        self.0.requests.get(place)
    }

    /// In the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let methods = || METHODS.iter().zip(&self.0.requests);
        let help = "Requests by what they were answered with";
        let mut counts =
            encoder.encode_descriptor("rest_client_requests", help, None, MetricType::Counter)?;
        for (method, requests) in methods() {
            for (code, count) in requests.answered() {
                let labels =
                    [("code", code.as_str()), ("method", method.as_str()), ("host", self.0.host.as_str())];
                counts.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let (name, help) = ("rest_client_request_duration_seconds", "Time until a request's answer began");
        let mut durations = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (method, requests) in methods().filter(|(_, requests)| requests.answered().next().is_some()) {
            let labels = [("verb", method.as_str()), ("host", self.0.host.as_str())];
            requests.durations.encode(durations.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// A number that each queue has.
type Number = fn(&Standing) -> f64;
const GAUGES: [(&str, &str, Number); 3] = [
    ("workqueue_depth", "Keys that wait", |standing| standing.depth as f64),
    ("workqueue_unfinished_work_seconds", "Time spent on keys that are worked on", |s| s.unfinished_seconds),
    (
        "workqueue_longest_running_processor_seconds",
        "Time spent on the one of them that was begun first",
        |s| s.longest_seconds,
    ),
];
type Count = fn(&Standing) -> u64;
const COUNTERS: [(&str, &str, Count); 2] = [
    ("workqueue_adds", "Keys that came to wait", |standing| standing.adds),
    ("workqueue_retries", "Keys that were to come to wait after a delay", |standing| standing.retries),
];
type Times = fn(&WorkQueue) -> &Durations;
const TIMES: [(&str, &str, Times); 2] = [
    ("workqueue_queue_duration_seconds", "Time a key waited", WorkQueue::waited),
    ("workqueue_work_duration_seconds", "Time a key was worked on", WorkQueue::worked),
];

fn encode_queues(
    queues: &BTreeMap<&'static str, WorkQueue>,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let standings: Vec<_> =
        queues.iter().map(|(name, queue)| ([("name", *name)], queue.standing())).collect();
    for (name, help, number) in GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, standing) in &standings {
            family.encode_family(labels)?.encode_gauge(&number(standing))?;
        }
    }
    for (name, help, count) in COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, standing) in &standings {
            family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&count(standing), None)?;
        }
    }
    for (name, help, times) in TIMES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (queue_name, queue) in queues {
            times(queue).encode(family.encode_family(&[("name", *queue_name)])?)?;
        }
    }
    Ok(())
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Queues are asked with the list let go of: they have locks of their own.
        let queues = self.0.queues.lock().clone();
        encode_queues(&queues, &mut encoder)?;
        self.encode_requests(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(text: &str, series: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series}\n{text}"))
    }

    #[tokio::test]
    async fn queues_are_counted() {
        let (metrics, queue) = (Metrics::default(), WorkQueue::new());
        metrics.show("q", &queue);
        for key in ["a", "a", "b"] {
            queue.add(key);
        }
        queue.add_after("c", Duration::from_secs(900));
        assert_eq!(queue.next().await.as_deref(), Some("a"));
        queue.done("a");
        assert_eq!(queue.next().await.as_deref(), Some("b"));
        // It waits again while it is worked on.
        queue.add("b");
        let of = |name: &str| sample(&metrics.render(), &format!("workqueue_{name}{{name=\"q\"}}"));
        for (name, value) in [
            ("depth", 1.0),
            ("adds_total", 3.0),
            ("retries_total", 1.0),
            ("queue_duration_seconds_count", 2.0),
            ("work_duration_seconds_count", 1.0),
        ] {
            assert!((of(name) - value).abs() < f64::EPSILON, "{name}");
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while of("unfinished_work_seconds") == 0.0 || of("longest_running_processor_seconds") == 0.0 {
            assert!(std::time::Instant::now() < deadline, "no time passes");
        }
        queue.done("b");
        assert!(of("unfinished_work_seconds") == 0.0 && of("longest_running_processor_seconds") == 0.0);
    }

    #[test]
    fn durations_are_a_histogram() {
        let (metrics, queue) = (Metrics::default(), WorkQueue::new());
        metrics.show("q", &queue);
        for milliseconds in [0, 1, 2, 2_000_000] {
            queue.waited().observe(Duration::from_millis(milliseconds));
        }
        let text = metrics.render();
        let bucket = |bound: &str| {
            sample(&text, &format!("workqueue_queue_duration_seconds_bucket{{le=\"{bound}\",name=\"q\"}}"))
        };
        let counts = ["0.0001", "0.001", "0.01", "1000.0", "+Inf"].map(bucket);
        assert_eq!(counts, [1.0, 2.0, 3.0, 3.0, 4.0]);
        let sum = sample(&text, "workqueue_queue_duration_seconds_sum{name=\"q\"}");
        assert!((sum - 2000.003).abs() < 1e-6, "{sum}");
    }
}
