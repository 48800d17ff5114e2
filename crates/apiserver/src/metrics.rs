//! What `/metrics` says about the server, in Kubernetes' names.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use amphipod_api::resource::Resource;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds in seconds, upstream's list thinned to what is read.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DurationLabels {
    verb: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResourceLabels {
    resource: String,
}

pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    inflight: Gauge,
    watches: Family<ResourceLabels, Gauge>,
    objects: Family<ResourceLabels, Gauge>,
    store_bytes: Gauge,
    current_inflight: Arc<AtomicI64>,
}

/// Counts a watch while it lives.
pub struct WatchGuard(Gauge);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What a finished request is counted under.
pub struct Finished<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub code: u16,
    pub took: Duration,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics {
            registry: Mutex::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram as fn() -> Histogram),
            inflight: Gauge::default(),
            watches: Family::default(),
            objects: Family::default(),
            store_bytes: Gauge::default(),
            current_inflight: Arc::default(),
        };
        registry.register("apiserver_request", "Requests answered", metrics.requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to answer a request, watches left out",
            metrics.durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being served",
            metrics.inflight.clone(),
        );
        registry.register("apiserver_registered_watchers", "Open watches", metrics.watches.clone());
        registry.register("apiserver_storage_objects", "Stored objects", metrics.objects.clone());
        registry.register(
            "apiserver_storage_size_bytes",
            "Size of the store on disk",
            metrics.store_bytes.clone(),
        );
        *metrics.registry.lock() = registry;
        metrics
    }

    pub fn watch_started(&self, resource: &Resource) -> WatchGuard {
        let gauge = self.watches.get_or_create(&ResourceLabels { resource: resource.qualified() }).clone();
        gauge.inc();
        WatchGuard(gauge)
    }

    pub fn finished(&self, request: &Finished<'_>) {
        let labels = RequestLabels {
            verb: request.verb.to_ascii_uppercase(),
            group: request.group.into(),
            version: request.version.into(),
            resource: request.resource.into(),
            subresource: request.subresource.into(),
            code: request.code,
        };
        self.requests.get_or_create(&labels).inc();
        if request.verb != "watch" {
            let labels = DurationLabels {
                verb: labels.verb,
                resource: amphipod_api::status::qualified(request.group, request.resource),
            };
            self.durations.get_or_create(&labels).observe(request.took.as_secs_f64());
        }
    }

    pub fn inflight(&self, by: i64) -> i64 {
        self.current_inflight.fetch_add(by, Ordering::AcqRel) + by
    }

    /// The text of `/metrics`; `collections` are (resource, objects, watchers).
    pub fn render(&self, collections: &[(String, usize, usize)], store_bytes: u64) -> String {
        for (resource, objects, _) in collections {
            let gauge = self.objects.get_or_create(&ResourceLabels { resource: resource.clone() });
            gauge.set(i64::try_from(*objects).unwrap_or(i64::MAX));
        }
        self.inflight.set(self.current_inflight.load(Ordering::Acquire));
        self.store_bytes.set(i64::try_from(store_bytes).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
