//! What is measured of flow control, in Kubernetes' names and labels. What a request counts in is
//! found once for each FlowSchema, when its first request comes.

mod meters;

pub use meters::{FlowMeters, Late};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Histograms, histograms};
use crate::flow_control::{Refusal, Standing};

/// Upper bounds in seconds of waits and executions, as upstream's.
const DURATIONS: [f64; 12] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
/// Of the length of a queue.
const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
/// Of seats a request is estimated at.
const SEATS: [f64; 4] = [1.0, 2.0, 4.0, 10.0];
/// Of watches a write concerns.
const WATCHES: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flow {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    #[prometheus(flatten)]
    flow: Flow,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waited {
    #[prometheus(flatten)]
    flow: Flow,
    execute: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Executed {
    #[prometheus(flatten)]
    flow: Flow,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Level {
    priority_level: String,
}

type LevelSeats = Family<Level, Gauge>;
type LevelFigures = Family<Level, Gauge<f64, std::sync::atomic::AtomicU64>>;

fn durations() -> Histogram {
    Histogram::new(DURATIONS)
}

#[derive(Clone, Debug)]
struct Flows {
    rejected: Family<Refused, Counter>,
    dispatched: Family<Flow, Counter>,
    waiting: Family<Flow, Gauge>,
    waiting_seats: Family<Flow, Gauge>,
    executing: Family<Flow, Gauge>,
    executing_seats: Family<Flow, Gauge>,
    waits: Histograms<Waited>,
    executions: Histograms<Executed>,
    lengths: Histograms<Flow>,
    seats: Histograms<Flow>,
    watches: Histograms<Flow>,
}

impl Flows {
    fn new(registry: &mut Registry) -> Self {
        let flows = Flows {
            rejected: Family::default(),
            dispatched: Family::default(),
            waiting: Family::default(),
            waiting_seats: Family::default(),
            executing: Family::default(),
            executing_seats: Family::default(),
            waits: histograms(durations),
            executions: histograms(durations),
            lengths: histograms(|| Histogram::new(LENGTHS)),
            seats: histograms(|| Histogram::new(SEATS)),
            watches: histograms(|| Histogram::new(WATCHES)),
        };
        flows.register(registry);
        flows
    }

    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("apiserver_flowcontrol");
        registry.register("rejected_requests", "Requests refused", self.rejected.clone());
        registry.register("dispatched_requests", "Requests let in", self.dispatched.clone());
        registry.register("current_inqueue_requests", "Requests in queues", self.waiting.clone());
        registry.register("current_inqueue_seats", "Seats they wait for", self.waiting_seats.clone());
        registry.register("current_executing_requests", "Requests being served", self.executing.clone());
        registry.register("current_executing_seats", "Seats they occupy", self.executing_seats.clone());
        registry.register("request_wait_duration_seconds", "Time in a queue", self.waits.clone());
        registry.register(
            "request_execution_seconds",
            "Time a seat was held; of watches until they had begun",
            self.executions.clone(),
        );
        registry.register(
            "request_queue_length_after_enqueue",
            "Length of its queue as each request found it, itself included",
            self.lengths.clone(),
        );
        registry.register("work_estimated_seats", "Seats requests were estimated at", self.seats.clone());
        registry.register("watch_count_samples", "Watches that writes concerned", self.watches.clone());
    }

    fn executed(&self, flow: &Flow, r#type: &'static str) -> Histogram {
        self.executions.get_or_create_owned(&Executed { flow: flow.clone(), r#type })
    }

    /// A schema's series go with it: their number stays that of the schemas there are.
    fn forget(&self, flow: &Flow) {
        self.dispatched.remove(flow);
        for gauges in [&self.waiting, &self.waiting_seats, &self.executing, &self.executing_seats] {
            gauges.remove(flow);
        }
        for histograms in [&self.lengths, &self.seats, &self.watches] {
            histograms.remove(flow);
        }
        for execute in ["true", "false"] {
            self.waits.remove(&Waited { flow: flow.clone(), execute });
        }
        for r#type in ["regular", "watch"] {
            self.executions.remove(&Executed { flow: flow.clone(), r#type });
        }
        for refusal in Refusal::ALL {
            self.rejected.remove(&Refused { flow: flow.clone(), reason: refusal.reason() });
        }
    }
}

#[derive(Debug)]
struct Levels {
    nominal: LevelSeats,
    lower: LevelSeats,
    upper: LevelSeats,
    current: LevelSeats,
    high_watermark: LevelFigures,
    average: LevelFigures,
    deviation: LevelFigures,
    smoothed: LevelFigures,
    target: LevelFigures,
    meter: LevelFigures,
    fair_fraction: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl Levels {
    fn new(registry: &mut Registry) -> Self {
        let levels = Levels {
            nominal: Family::default(),
            lower: Family::default(),
            upper: Family::default(),
            current: Family::default(),
            high_watermark: Family::default(),
            average: Family::default(),
            deviation: Family::default(),
            smoothed: Family::default(),
            target: Family::default(),
            meter: Family::default(),
            fair_fraction: Gauge::default(),
        };
        levels.register(registry);
        levels
    }

    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("apiserver_flowcontrol");
        for (name, help, family) in [
            ("nominal_limit_seats", "Seats by shares alone", &self.nominal),
            ("lower_limit_seats", "Seats it never lends", &self.lower),
            ("upper_limit_seats", "Seats with all it may borrow", &self.upper),
            ("current_limit_seats", "Seats it has now", &self.current),
        ] {
            registry.register(name, help, family.clone());
        }
        for (name, help, family) in [
            ("demand_seats_high_watermark", "Most seats wanted in the last period", &self.high_watermark),
            ("demand_seats_average", "Seats wanted in the last period, by time", &self.average),
            ("demand_seats_stdev", "Standard deviation of that", &self.deviation),
            ("demand_seats_smoothed", "Seats expected to be wanted", &self.smoothed),
            ("target_seats", "Seats it would be given if there were enough", &self.target),
            ("current_r", "Seat-seconds each active queue was given so far", &self.meter),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "seat_fair_frac",
            "Part of their targets that all levels could be given",
            self.fair_fraction.clone(),
        );
    }

    fn forget(&self, level: &Level) {
        for family in [&self.nominal, &self.lower, &self.upper, &self.current] {
            family.remove(level);
        }
        let demand = [&self.high_watermark, &self.average, &self.deviation, &self.smoothed];
        for family in demand.into_iter().chain([&self.target, &self.meter]) {
            family.remove(level);
        }
    }

    fn show(&self, standing: &Standing) {
        let level = Level { priority_level: standing.name.clone() };
        let seats = |family: &LevelSeats, seats: u32| {
            family.get_or_create(&level).set(i64::from(seats));
        };
        seats(&self.nominal, standing.entitlement.nominal);
        seats(&self.lower, standing.entitlement.lower);
        seats(&self.upper, standing.entitlement.upper);
        seats(&self.current, standing.current);
        let figure = |family: &LevelFigures, value: f64| {
            family.get_or_create(&level).set(value);
        };
        let observed = standing.expected.observed;
        figure(&self.high_watermark, observed.high_watermark);
        figure(&self.average, observed.average);
        figure(&self.deviation, observed.deviation);
        figure(&self.smoothed, standing.expected.smoothed);
        figure(&self.target, standing.target);
        figure(&self.meter, standing.seat_seconds);
    }
}

/// All series of flow control.
#[derive(Debug)]
pub struct FlowControlFamilies {
    flows: Flows,
    levels: Levels,
}

impl FlowControlFamilies {
    pub fn new(registry: &mut Registry) -> Self {
        FlowControlFamilies { flows: Flows::new(registry), levels: Levels::new(registry) }
    }

    /// What the requests of a schema are counted in.
    pub fn meters(&self, level: &str, schema: &str) -> FlowMeters {
        let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
        FlowMeters::new(self.flows.clone(), Flow { priority_level, flow_schema })
    }

    pub fn show_level(&self, standing: &Standing) {
        self.levels.show(standing);
    }

    pub fn show_fair_fraction(&self, fraction: f64) {
        self.levels.fair_fraction.set(fraction);
    }

    pub fn forget_level(&self, level: &str) {
        self.levels.forget(&Level { priority_level: level.to_owned() });
    }
}
