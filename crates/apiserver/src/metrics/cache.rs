//! The watch cache as dashboards see it; read when somebody asks, so that nothing is counted twice on
//! the way of a change.

use std::sync::atomic::Ordering;

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
            "Changes handed to somebody who watches",
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
        for (counter, count) in [
            (&self.received, standing.changes),
            (&self.dispatched, standing.dispatched),
            (&self.initializations, standing.loads),
        ] {
            // Of two who ask at once neither counts what the other has, nor takes back what it has seen.
            counter.get_or_create(labels).inner().fetch_max(count, Ordering::Relaxed);
        }
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.revision.get_or_create(labels).set(number(standing.newest % SHOWN_REVISIONS));
        self.capacity.get_or_create(labels).set(number(standing.capacity));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn many_may_ask_at_once() {
        const ASKERS: usize = 4;
        const CHANGES: u64 = 2000;
        let families = CacheFamilies::default();
        let labels = ResourceLabels { group: String::new(), resource: "pods".into() };
        let at = |changes| Standing {
            objects: 1,
            watchers: 1,
            loads: 1,
            changes,
            dispatched: changes / 2,
            newest: 1,
            capacity: 1,
        };
        let barrier = Barrier::new(ASKERS);
        std::thread::scope(|scope| {
            for _ in 0..ASKERS {
                scope.spawn(|| {
                    for changes in 1..=CHANGES {
                        barrier.wait();
                        families.show(&labels, &at(changes));
                    }
                });
            }
        });
        families.show(&labels, &at(1));
        assert_eq!(families.received.get_or_create(&labels).get(), CHANGES);
        assert_eq!(families.dispatched.get_or_create(&labels).get(), CHANGES / 2);
    }
}
