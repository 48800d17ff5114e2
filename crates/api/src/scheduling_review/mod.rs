//! PodSchedulingReview: asking where a pod would go, and why. A kind of Amphipod's own, answered and
//! never stored, like the reviews of authorization; the types here are what goes over the wire.

mod spec;
mod status;

pub use spec::{AddedNodes, Changes, MAX_ADDED_NODES, Spec, Taint, TaintedNode};
pub use status::{
    Eviction, Group, Hope, NearMiss, Outcome, PluginScore, PluginVerdict, Queue, QueueState, Scored,
    Shortage, Status, Subject, Victim, Wait,
};

pub const GROUP: &str = "scheduling.amphipod.dev";
pub const VERSION: &str = "v1alpha1";
pub const KIND: &str = "PodSchedulingReview";
pub const PLURAL: &str = "podschedulingreviews";
