//! The kubelet's own figures, under upstream's names where upstream has them.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::pod::ProbeKind;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProbeLabels {
    probe_type: &'static str,
    result: &'static str,
}

pub struct Metrics {
    registry: Registry,
    probes: Family<ProbeLabels, Counter>,
    started: Counter,
    running_pods: Gauge,
    known_pods: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let probes = Family::<ProbeLabels, Counter>::default();
        let started = Counter::default();
        let running_pods = Gauge::default();
        let known_pods = Gauge::<f64, AtomicU64>::default();
        registry.register("prober_probe", "Probes by type and result", probes.clone());
        registry.register("kubelet_started_containers", "Containers started", started.clone());
        registry.register("kubelet_running_pods", "Pods that hold resources here", running_pods.clone());
        registry.register("kubelet_known_pods", "Pods with a worker", known_pods.clone());
        Metrics { registry, probes, started, running_pods, known_pods }
    }
}

impl Metrics {
    pub fn probe(&self, kind: ProbeKind, success: bool) {
        let result = if success { "successful" } else { "failed" };
        self.probes.get_or_create(&ProbeLabels { probe_type: kind.as_str(), result }).inc();
    }
    pub fn container_started(&self) {
        self.started.inc();
    }
    pub fn pods(&self, known: usize, running: usize) {
        self.known_pods.set(known as f64);
        self.running_pods.set(i64::try_from(running).unwrap_or(i64::MAX));
    }
    /// The text exposition.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
