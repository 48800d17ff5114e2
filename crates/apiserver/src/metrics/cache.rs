//! The watch cache as dashboards see it; read when somebody asks, so that nothing is counted twice on
//! the way of a change.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::ResourceLabels;
use crate::cache::Standing;

/// Revisions are shown by their last 15 digits, which a floating-point number still holds.
const SHOWN_REVISIONS: u64 = 1_000_000_000_000_000;

#[derive(Default)]
pub struct CacheFamilies {
    received: Family<ResourceLabels, Counter>,
    dispatched: Family<ResourceLabels, Counter>,
    initializations: Family<ResourceLabels, Counter>,
    revision: Family<ResourceLabels, Gauge>,
    capacity: Family<ResourceLabels, Gauge>,
}

impl CacheFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        let families = CacheFamilies::default();
        registry.register(
            "apiserver_watch_cache_events_received",
            "Changes taken in by the watch cache",
            families.received.clone(),
        );
        registry.register(
            "apiserver_watch_cache_events_dispatched",
            "Changes handed to those who watch",
            families.dispatched.clone(),
        );
        registry.register(
            "apiserver_watch_cache_initializations",
            "How often the watch cache was filled from the store",
            families.initializations.clone(),
        );
        registry.register(
            "apiserver_watch_cache_resource_version",
            "The newest change in the watch cache, its last 15 digits",
            families.revision.clone(),
        );
        registry.register(
            "watch_cache_capacity",
            "Changes the watch cache holds at most",
            families.capacity.clone(),
        );
        families
    }

    pub fn show(&self, labels: &ResourceLabels, standing: &Standing) {
        // Every change that is taken in is handed on under the same lock.
        for counter in [&self.received, &self.dispatched] {
            let counter = counter.get_or_create(labels);
            counter.inc_by(standing.changes.saturating_sub(counter.get()));
        }
        let counter = self.initializations.get_or_create(labels);
        counter.inc_by(standing.loads.saturating_sub(counter.get()));
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.revision.get_or_create(labels).set(number(standing.newest % SHOWN_REVISIONS));
        self.capacity.get_or_create(labels).set(number(standing.capacity));
    }
}
