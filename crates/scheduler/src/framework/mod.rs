//! The scheduling framework in kube-scheduler's terms. A plugin is a row of a table: its name, the
//! points where it takes part, its functions and its default weight. A profile says which rows are
//! enabled, with which weights and arguments.

mod event;
mod profile;
mod verdict;

pub use event::{Event, Hint, PluginSet, Question, StorageChange, UNSCHEDULABLE_POD, pod_update};
pub use profile::{
    AddedAffinity, Arguments, DefaultConstraints, Enabled, FitStrategy, InterPodArgs, Profile,
    ScoringStrategy, ShapePoint, VolumeBindingArgs, Weights,
};
pub use verdict::{Cause, Refusal, Shortage, Verdict};

use std::borrow::Cow;

use crate::class::{Features, Signature, Topology};
use crate::node::{Fill, NodeInfo, Shape};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

pub const MAX_SCORE: i64 = 100;

/// Where a plugin takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Point {
    PreEnqueue = 1,
    QueueSort = 1 << 1,
    PreFilter = 1 << 2,
    Filter = 1 << 3,
    PostFilter = 1 << 4,
    PreScore = 1 << 5,
    Score = 1 << 6,
    NormalizeScore = 1 << 7,
    Reserve = 1 << 8,
    Permit = 1 << 9,
    PreBind = 1 << 10,
    Bind = 1 << 11,
    PostBind = 1 << 12,
}

impl Point {
    /// As series name it.
    pub const fn name(self) -> &'static str {
        match self {
            Point::PreEnqueue => "PreEnqueue",
            Point::QueueSort => "QueueSort",
            Point::PreFilter => "PreFilter",
            Point::Filter => "Filter",
            Point::PostFilter => "PostFilter",
            Point::PreScore => "PreScore",
            Point::Score => "Score",
            Point::NormalizeScore => "NormalizeScore",
            Point::Reserve => "Reserve",
            Point::Permit => "Permit",
            Point::PreBind => "PreBind",
            Point::Bind => "Bind",
            Point::PostBind => "PostBind",
        }
    }
}

/// A set of points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Points(u16);

impl Points {
    pub const fn of(points: &[Point]) -> Self {
        let (mut set, mut index) = (0, 0);
        while index < points.len() {
            set |= points[index] as u16;
            index += 1;
        }
        Points(set)
    }
    pub const fn with(self, point: Point) -> Self {
        Points(self.0 | point as u16)
    }
    pub fn has(self, point: Point) -> bool {
        self.0 & point as u16 != 0
    }
}

/// What plugins see: the cluster, what is to be placed, and how they are configured.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub snapshot: &'a Snapshot,
    pub pod: &'a Signature,
    pub profile: &'a Profile,
    pub topology: &'a Topology,
}

/// A node with what fills it, which in a trial is not what fills it now.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    pub node: &'a NodeInfo,
    pub shape: &'a Shape,
    pub fill: &'a Fill,
}

/// Whether a node will do. Those that judge a node by itself are asked before those that judge its
/// place among others.
#[derive(Clone, Copy)]
pub enum Filter {
    None,
    Node(fn(&View, &Candidate) -> Verdict),
    /// By its features; with how many more (or fewer) pods each table of the topology is to count
    /// in the node's own domain.
    Place(fn(&View, &Features, &[i64]) -> Verdict),
}

/// How good a node is, from 0 to [`MAX_SCORE`].
#[derive(Clone, Copy)]
pub enum Score {
    None,
    /// By what fills it, whatever other nodes are like.
    Node(fn(&View, &Candidate) -> i64),
    /// In comparison: for each group of nodes that are alike.
    Groups(fn(&View, &[Choice]) -> Vec<i64>),
}

/// Feasible nodes with equal features.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    pub features: &'a Features,
    pub nodes: usize,
}

/// Whether a pod can go anywhere at all, before nodes are looked at; an error says why not.
pub type Before = fn(&Snapshot, &PodInfo) -> Result<(), Cow<'static, str>>;

pub struct Plugin {
    pub name: &'static str,
    pub points: Points,
    pub weight: i64,
    pub before: Option<Before>,
    pub filter: Filter,
    pub score: Score,
    /// Whether an event may help a pod the plugin refused nodes to; none for plugins that never do.
    pub hint: Option<Hint>,
    /// Whether more pods on nodes can help such a pod; most plugins need fewer.
    pub cares_for_placed_pods: bool,
}

impl Plugin {
    /// A row without functions, for those that take part elsewhere than in filters and scores.
    pub const fn row(name: &'static str, points: &[Point]) -> Self {
        Plugin {
            name,
            points: Points::of(points),
            weight: 0,
            before: None,
            filter: Filter::None,
            score: Score::None,
            hint: None,
            cares_for_placed_pods: false,
        }
    }
    pub const fn asks_before(mut self, before: Before) -> Self {
        self.before = Some(before);
        self
    }
    pub const fn filters(mut self, filter: Filter, hint: Hint) -> Self {
        self.filter = filter;
        self.hint = Some(hint);
        self
    }
    pub const fn cares_for_placed_pods(mut self) -> Self {
        self.cares_for_placed_pods = true;
        self
    }
    pub const fn scores(mut self, weight: i64, score: Score) -> Self {
        self.weight = weight;
        self.score = score;
        self
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
