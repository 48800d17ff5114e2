//! Which plugins take part, with which weights and arguments: data, as a configuration file has it.
//! The default is kube-scheduler's. Names in it are symbols of one snapshot: whoever builds a snapshot
//! anew builds its profiles with it.

use std::cell::Cell;
use std::time::Duration;

use super::{Plugin, Point, Points, Score};
use crate::amounts::ResourceId;
use crate::config::DEFAULT_SCHEDULER;
use crate::labels::NodeTerm;
use crate::plugins::TABLE;
use crate::pod::SpreadConstraint;

#[derive(Clone, Debug)]
pub struct Profile {
    /// Pods that name it are decided with this profile.
    pub scheduler_name: String,
    /// In the order they are asked.
    pub enabled: Vec<Enabled>,
    pub arguments: Arguments,
}

#[derive(Clone, Debug)]
pub struct Enabled {
    pub plugin: &'static Plugin,
    /// Where it takes part, of the points it has.
    pub points: Points,
    pub weight: i64,
    evaluations: Evaluations,
}

/// The points at which is counted how often a plugin is asked.
const COUNTED: [Point; 3] = [Point::PreFilter, Point::Filter, Point::Score];

/// How often a plugin was asked at each of the counted points. Decisions are made one after the other,
/// so this takes no part in them but an addition.
#[derive(Clone, Debug, Default)]
struct Evaluations([Cell<u64>; COUNTED.len()]);

impl Enabled {
    pub fn new(plugin: &'static Plugin, points: Points, weight: i64) -> Self {
        Enabled { plugin, points, weight, evaluations: Evaluations::default() }
    }
    /// Takes over what another counted that has not been taken.
    pub fn inherit(&self, other: &Enabled) {
        for (count, more) in self.evaluations.0.iter().zip(&other.evaluations.0) {
            count.set(count.get() + more.take());
        }
    }
    /// The plugin is asked for a pod, or about a node, or about nodes that are alike.
    #[inline]
    pub fn count(&self, point: Point) {
        let counts = COUNTED.iter().zip(&self.evaluations.0).filter(|(counted, _)| **counted == point);
        counts.for_each(|(_, count)| count.set(count.get() + 1));
    }
    /// How often it was asked since this was last called, where it was.
    pub fn take_counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts =
            COUNTED.iter().zip(&self.evaluations.0).map(|(point, count)| (point.name(), count.take()));
        counts.filter(|(_, times)| *times > 0)
    }
}

impl Default for Profile {
    fn default() -> Self {
        let enabled = TABLE.iter();
        let enabled = enabled.map(|plugin| Enabled::new(plugin, plugin.points, plugin.weight));
        Profile {
            scheduler_name: DEFAULT_SCHEDULER.to_owned(),
            enabled: enabled.collect(),
            arguments: Arguments::default(),
        }
    }
}

impl Profile {
    pub fn at(&self, point: Point) -> impl Iterator<Item = &Enabled> {
        self.enabled.iter().filter(move |enabled| enabled.points.has(point))
    }
    pub fn is_enabled(&self, name: &str, point: Point) -> bool {
        self.at(point).any(|enabled| enabled.plugin.name == name)
    }
    pub fn scores(&self) -> impl Iterator<Item = (&Enabled, Score)> {
        self.at(Point::Score).map(|enabled| (enabled, enabled.plugin.score))
    }
}

#[derive(Clone, Debug, Default)]
pub struct Arguments {
    pub fit: FitStrategy,
    pub balanced: Weights,
    pub added_affinity: AddedAffinity,
    pub inter_pod_affinity: InterPodArgs,
    pub default_constraints: DefaultConstraints,
    pub volume_binding: VolumeBindingArgs,
}

/// `VolumeBindingArgs`
#[derive(Clone, Copy, Debug)]
pub struct VolumeBindingArgs {
    /// For how long a pod waits for its volumes to be bound or made.
    pub bind_timeout: Duration,
}

impl Default for VolumeBindingArgs {
    fn default() -> Self {
        VolumeBindingArgs { bind_timeout: Duration::from_secs(600) }
    }
}

/// `NodeResourcesFitArgs`
#[derive(Clone, Debug, Default)]
pub struct FitStrategy {
    /// Extended resources nobody checks.
    pub ignored_resources: Vec<String>,
    /// The same for all with one of these prefixes (before the slash).
    pub ignored_resource_groups: Vec<String>,
    pub scoring: ScoringStrategy,
    pub resources: Weights,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum ScoringStrategy {
    #[default]
    LeastAllocated,
    MostAllocated,
    RequestedToCapacityRatio(Vec<ShapePoint>),
}

/// Utilisation in per cent, rising from point to point, and the score there (0 to 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapePoint {
    pub utilization: i64,
    pub score: i64,
}

/// Of which resources scores speak, and how much each counts: CPU and memory alike, unless
/// configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights(pub Vec<(ResourceId, i64)>);

impl Default for Weights {
    fn default() -> Self {
        Weights(vec![(ResourceId::CPU, 1), (ResourceId::MEMORY, 1)])
    }
}

/// `NodeAffinityArgs`: what is demanded and preferred of nodes for every pod of the profile.
#[derive(Clone, Debug, Default)]
pub struct AddedAffinity {
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i64, NodeTerm)>,
}

/// `InterPodAffinityArgs`
#[derive(Clone, Copy, Debug)]
pub struct InterPodArgs {
    /// What the required affinity of a placed pod counts in scores.
    pub hard_weight: i64,
    /// A pod without preferences does not look at those of others.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodArgs {
    fn default() -> Self {
        InterPodArgs { hard_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

/// `PodTopologySpreadArgs`: constraints of pods that have none.
#[derive(Clone, Debug, Default)]
pub enum DefaultConstraints {
    /// Softly over nodes and zones.
    #[default]
    System,
    /// Their selectors are those of the pod's services and controller.
    List(Vec<SpreadConstraint>),
}
