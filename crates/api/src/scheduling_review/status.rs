//! The answer. Amounts are Kubernetes quantities, exact; whoever shows them to a person rounds them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub outcome: Outcome,
    /// The answer in one sentence.
    pub summary: String,
    pub pod: Subject,
    /// What was assumed that is not so, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
    /// What has to happen before, or beside finding a node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Wait>,
    /// Where the pod is in the scheduler's queue; of pods that wait for this scheduler only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// What the scheduler would write into the event and the condition, where no node would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub nodes: usize,
    pub feasible_nodes: usize,
    /// Nodes of which all plugins say the same: those that would do first, then those that fail least.
    pub groups: Vec<Group>,
    /// Nodes in groups beyond the ones shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub nodes_not_shown: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest_miss: Option<NearMiss>,
    /// How the scheduler would make room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preemption: Option<Eviction>,
    /// The best nodes with their scores, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<Scored>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It has a node, and would be given the same or one as good.
    Placed,
    /// It has a node; by what is known now it would be given another, or none.
    PlacedOtherwise,
    /// A node would take it.
    Fits,
    /// A node would take it if the scheduler takes pods off it that matter less.
    FitsByPreemption,
    #[default]
    Unschedulable,
    /// Nobody looks for a node yet.
    Gated,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subject {
    pub namespace: String,
    pub name: String,
    pub scheduler_name: String,
    pub priority: i32,
    /// What the scheduler counts for it: containers, sidecars and overhead together.
    pub requests: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nominated_node_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wait {
    /// `SchedulingGate`, `NominatedNode`, `PersistentVolumeClaim`, `Scheduler` or `Retry`.
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub message: String,
}

/// What the queue says of a pod, at the moment of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Queue {
    pub state: QueueState,
    /// The same and what follows from it, in words.
    pub message: String,
    /// Of a ready pod: 1 for the one that is taken next. None for one that is too far behind to be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// When it is tried again if nothing happens before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Plugins that refused it nodes, and what each hopes for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused_by: Vec<Hope>,
    /// How often it was tried.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueState {
    /// The queue is not seen from where the answer is made.
    #[default]
    Unknown,
    /// The scheduler has not seen the pod yet.
    Unseen,
    Ready,
    BackOff,
    /// It was refused, and waits for something to happen.
    Parked,
    Gated,
    /// It is being decided about, or what was decided is being told.
    InProgress,
    /// It has a node, which is being written.
    Binding,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hope {
    pub plugin: String,
    /// What brings the pod back, in words.
    pub events: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Group {
    pub nodes: usize,
    /// Some of them.
    pub names: Vec<String>,
    pub fits: bool,
    /// What each plugin says that filters nodes, in the order they are asked.
    pub plugins: Vec<PluginVerdict>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginVerdict {
    pub name: String,
    pub passes: bool,
    /// In kube-scheduler's words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// What stands behind them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shortages: Vec<Shortage>,
}

/// Of one resource; over several nodes the range between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shortage {
    pub resource: String,
    pub requested: String,
    /// What is free where the least and where the most is.
    pub least_free: String,
    pub most_free: String,
    /// The most any of the nodes has in all.
    pub most_allocatable: String,
    /// What is missing where the least is missing.
    pub missing: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NearMiss {
    pub node_name: String,
    /// What would have to be otherwise, in one sentence.
    pub summary: String,
    pub plugins: Vec<PluginVerdict>,
    /// Which pods would have to leave the node, and whether the scheduler would make them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without: Option<Eviction>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Eviction {
    pub node_name: String,
    pub summary: String,
    /// The most important first.
    pub pods: Vec<Victim>,
    #[serde(skip_serializing_if = "is_zero")]
    pub pods_not_shown: usize,
    /// How many of them a disruption budget protects.
    #[serde(skip_serializing_if = "is_zero")]
    pub budget_violations: usize,
    /// Whether the pod matters more than all of them, so that the scheduler may take them off.
    pub by_preemption: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Victim {
    pub namespace: String,
    pub name: String,
    pub priority: i32,
    pub requests: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scored {
    /// Its place: 1 for the best, the same for equals.
    pub rank: usize,
    pub node_name: String,
    pub score: i64,
    /// The pod is there.
    pub current: bool,
    pub plugins: Vec<PluginScore>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginScore {
    pub name: String,
    /// 0 to 100.
    pub score: i64,
    /// What it counts for: the sum of these products is the node's score.
    pub weight: i64,
}
