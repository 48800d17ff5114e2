//! What the scheduler counts, under kube-scheduler's names, labels and buckets. Durations of single
//! plugins and of extension points are told where the shell runs them. Before a decision there are none:
//! a class of pods is decided about by what is remembered of it, no plugin runs at a point of its own, and
//! the core that asks them has no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::decision::Evaluated;
use crate::framework::Point;
use crate::queue::{Attempt, Counts, Incoming};

/// From this many attempts on they are counted as one kind.
const MANY_ATTEMPTS: u32 = 15;

/// How an attempt to schedule a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Scheduled,
    Unschedulable,
    Error,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Scheduled => "scheduled",
            Outcome::Unschedulable => "unschedulable",
            Outcome::Error => "error",
        }
    }
}

/// How things stand at the moment somebody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub queue: Counts,
    pub nodes: usize,
    pub pods: usize,
    pub assumed_pods: usize,
    /// Plugins, profiles, and how many parked pods the plugin refused nodes to.
    pub unschedulable: Vec<(&'static str, String, usize)>,
    /// Which pods have come where since somebody last asked.
    pub incoming: Incoming,
    /// Likewise how often plugins were asked.
    pub evaluated: Vec<Evaluated>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
    profile: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempts {
    attempts: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueName {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Coming {
    queue: &'static str,
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evaluation {
    plugin: &'static str,
    extension_point: &'static str,
    profile: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PointRun {
    extension_point: &'static str,
    status: &'static str,
    profile: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginRun {
    plugin: &'static str,
    extension_point: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusing {
    plugin: &'static str,
    profile: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Look = Box<dyn Fn() -> Standing + Send + Sync>;

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    attempts: Family<Result, Counter>,
    attempt_durations: Histograms<Result>,
    algorithm_durations: Histogram,
    point_durations: Histograms<PointRun>,
    plugin_durations: Histograms<PluginRun>,
    sli_durations: Histograms<Attempts>,
    attempts_needed: Histogram,
    preemption_attempts: Counter,
    preemption_victims: Histogram,
    pending: Family<QueueName, Gauge>,
    incoming: Family<Coming, Counter>,
    evaluations: Family<Evaluation, Counter>,
    cache: Family<Kind, Gauge>,
    unschedulable: Family<Refusing, Gauge>,
    look: Mutex<Option<Look>>,
    /// It decides, or is about to.
    works: AtomicBool,
}

fn attempt_durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}
fn point_durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 12))
}
fn plugin_durations() -> Histogram {
    Histogram::new(exponential_buckets(0.00001, 1.5, 20))
}
fn sli_durations() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut inner = Inner {
            registry: Registry::default(),
            attempts: Family::default(),
            attempt_durations: Family::new_with_constructor(attempt_durations),
            algorithm_durations: attempt_durations(),
            point_durations: Family::new_with_constructor(point_durations),
            plugin_durations: Family::new_with_constructor(plugin_durations),
            sli_durations: Family::new_with_constructor(sli_durations),
            attempts_needed: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            preemption_attempts: Counter::default(),
            preemption_victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            pending: Family::default(),
            incoming: Family::default(),
            evaluations: Family::default(),
            cache: Family::default(),
            unschedulable: Family::default(),
            look: Mutex::new(None),
            works: AtomicBool::new(false),
        };
        inner.register_durations();
        inner.register();
        Metrics(Arc::new(inner))
    }
}

impl Inner {
    fn register_durations(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Time an attempt took, from taking the pod from the queue to its end",
            self.attempt_durations.clone(),
        );
        registry.register(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Time until a node was found",
            self.algorithm_durations.clone(),
        );
        registry.register(
            "scheduler_framework_extension_point_duration_seconds",
            "Time all plugins of a point took for a pod, where they run by themselves",
            self.point_durations.clone(),
        );
        registry.register(
            "scheduler_plugin_execution_duration_seconds",
            "Time a plugin took for a pod at such a point",
            self.plugin_durations.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "Time from a pod's first attempt until it was bound",
            self.sli_durations.clone(),
        );
    }
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "scheduler_schedule_attempts",
            "Attempts to schedule pods, by how they ended",
            self.attempts.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_attempts",
            "Attempts it took to bind a pod",
            self.attempts_needed.clone(),
        );
        registry.register(
            "scheduler_preemption_attempts",
            "Attempts to make room for a pod",
            self.preemption_attempts.clone(),
        );
        registry.register(
            "scheduler_preemption_victims",
            "Pods chosen to leave for another",
            self.preemption_victims.clone(),
        );
        registry.register(
            "scheduler_pending_pods",
            "Pods without a node, by where they wait",
            self.pending.clone(),
        );
        registry.register(
            "scheduler_queue_incoming_pods",
            "Pods that came to a queue, by the event that brought them there",
            self.incoming.clone(),
        );
        registry.register(
            "scheduler_plugin_evaluation",
            "How often a plugin was asked, for a pod, about a node or about nodes that are alike",
            self.evaluations.clone(),
        );
        registry.register(
            "scheduler_cache_size",
            "Nodes, pods and pods about to be bound that decisions look at",
            self.cache.clone(),
        );
        registry.register(
            "scheduler_unschedulable_pods",
            "Parked pods by the plugins that refused them nodes; a pod counts once for each",
            self.unschedulable.clone(),
        );
    }
}

impl Metrics {
    /// A node was found.
    pub(crate) fn decided(&self, attempt: &Attempt) {
        self.0.algorithm_durations.observe(seconds(attempt.started));
    }
    /// All plugins of a point ran.
    pub(crate) fn point_ran(&self, point: Point, is_ok: bool, profile: &str, since: Instant) {
        let (extension_point, profile) = (point.name(), profile.to_owned());
        let run = PointRun { extension_point, status: status(is_ok), profile };
        self.0.point_durations.get_or_create(&run).observe(seconds(since));
    }
    pub(crate) fn plugin_ran(&self, plugin: &'static str, point: Point, is_ok: bool, since: Instant) {
        let run = PluginRun { plugin, extension_point: point.name(), status: status(is_ok) };
        self.0.plugin_durations.get_or_create(&run).observe(seconds(since));
    }
    pub(crate) fn ended(&self, outcome: Outcome, profile: &str, attempt: &Attempt) {
        let labels = Result { result: outcome.name(), profile: profile.to_owned() };
        self.0.attempts.get_or_create(&labels).inc();
        self.0.attempt_durations.get_or_create(&labels).observe(seconds(attempt.started));
        if outcome == Outcome::Scheduled {
            self.0.attempts_needed.observe(f64::from(attempt.number));
            let attempts = match attempt.number {
                number if number < MANY_ATTEMPTS => number.to_string(),
                _ => format!("{MANY_ATTEMPTS}+"),
            };
            self.0.sli_durations.get_or_create(&Attempts { attempts }).observe(seconds(attempt.first));
        }
    }
    pub(crate) fn preemption_tried(&self) {
        self.0.preemption_attempts.inc();
    }
    pub(crate) fn preempted(&self, victims: usize) {
        self.0.preemption_victims.observe(victims as f64);
    }
    /// From now on it is not ready until somebody can say how things stand.
    pub(crate) fn starts(&self) {
        self.0.works.store(true, Ordering::Release);
    }
    /// One that stands by is.
    pub fn is_ready(&self) -> bool {
        !self.0.works.load(Ordering::Acquire) || self.0.look.lock().is_some()
    }
    /// Whom to ask how things stand.
    pub(crate) fn look_at(&self, look: impl Fn() -> Standing + Send + Sync + 'static) {
        *self.0.look.lock() = Some(Box::new(look));
    }

    /// In the OpenMetrics text format.
    pub fn render(&self) -> String {
        let standing = self.0.look.lock().as_ref().map(|look| look());
        self.show(&standing.unwrap_or_default());
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    fn show(&self, standing: &Standing) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let Counts { active, backoff, unschedulable, gated } = standing.queue;
        let queues =
            [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)];
        for (queue, count) in queues {
            self.0.pending.get_or_create(&QueueName { queue }).set(number(count));
        }
        for (queue, event, pods) in standing.incoming.iter() {
            self.0.incoming.get_or_create(&Coming { queue, event }).inc_by(pods);
        }
        for Evaluated { plugin, point: extension_point, profile, times } in &standing.evaluated {
            let labels = Evaluation { plugin, extension_point, profile: profile.clone() };
            self.0.evaluations.get_or_create(&labels).inc_by(*times);
        }
        let sizes =
            [("nodes", standing.nodes), ("pods", standing.pods), ("assumed_pods", standing.assumed_pods)];
        for (r#type, count) in sizes {
            self.0.cache.get_or_create(&Kind { r#type }).set(number(count));
        }
        // A plugin that refuses nobody any more is not to keep its last number.
        self.0.unschedulable.clear();
        for (plugin, profile, count) in &standing.unschedulable {
            let labels = Refusing { plugin, profile: profile.clone() };
            self.0.unschedulable.get_or_create(&labels).set(number(*count));
        }
    }
}

fn status(is_ok: bool) -> &'static str {
    if is_ok { "Success" } else { "Error" }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_upstreams_names_and_labels() {
        let (metrics, now) = (Metrics::default(), Instant::now());
        assert!(metrics.is_ready(), "it stands by");
        metrics.starts();
        assert!(!metrics.is_ready());
        let attempt = |number| Attempt { number, first: now, started: now };
        metrics.decided(&attempt(1));
        metrics.ended(Outcome::Scheduled, "default-scheduler", &attempt(2));
        metrics.ended(Outcome::Scheduled, "default-scheduler", &attempt(20));
        metrics.ended(Outcome::Unschedulable, "packing", &attempt(1));
        metrics.preemption_tried();
        metrics.preempted(3);
        metrics.point_ran(Point::Bind, true, "packing", now);
        metrics.plugin_ran("VolumeBinding", Point::PreBind, false, now);
        let mut coming = Incoming::default();
        coming.count("backoff", "NodeAdd");
        metrics.look_at(move || Standing {
            queue: Counts { active: 1, backoff: 2, unschedulable: 3, gated: 4 },
            nodes: 5,
            pods: 6,
            assumed_pods: 7,
            unschedulable: vec![("NodeResourcesFit", "packing".to_owned(), 3)],
            incoming: coming.clone(),
            evaluated: vec![Evaluated {
                plugin: "NodeAffinity",
                point: "Filter",
                profile: "packing".to_owned(),
                times: 4,
            }],
        });
        metrics.render();
        assert!(metrics.is_ready());
        let text = metrics.render();
        for line in [
            "scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"default-scheduler\"} 2",
            "scheduler_schedule_attempts_total{result=\"unschedulable\",profile=\"packing\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_count{result=\"unschedulable\",profile=\"packing\"} 1",
            "scheduler_scheduling_algorithm_duration_seconds_count 1",
            "scheduler_scheduling_algorithm_duration_seconds_bucket{le=\"16.384\"} 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Bind\",status=\"Success\",profile=\"packing\"} 1",
            "scheduler_plugin_execution_duration_seconds_count{plugin=\"VolumeBinding\",extension_point=\"PreBind\",status=\"Error\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"2\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"15+\"} 1",
            "scheduler_pod_scheduling_attempts_bucket{le=\"2.0\"} 1",
            "scheduler_pod_scheduling_attempts_sum 22.0",
            "scheduler_preemption_attempts_total 1",
            "scheduler_preemption_victims_sum 3.0",
            "scheduler_pending_pods{queue=\"gated\"} 4",
            "scheduler_queue_incoming_pods_total{queue=\"backoff\",event=\"NodeAdd\"} 2",
            "scheduler_plugin_evaluation_total{plugin=\"NodeAffinity\",extension_point=\"Filter\",profile=\"packing\"} 8",
            "scheduler_cache_size{type=\"assumed_pods\"} 7",
            "scheduler_unschedulable_pods{plugin=\"NodeResourcesFit\",profile=\"packing\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        metrics.look_at(Standing::default);
        assert!(!metrics.render().contains("scheduler_unschedulable_pods{"), "what is over is not told");
    }
}
