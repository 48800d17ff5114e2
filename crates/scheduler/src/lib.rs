//! Which node a pod runs on. A decision is a pure function of a snapshot and a pod; the shell around
//! it keeps the snapshot current, holds the queue, and writes what was decided.

pub mod amounts;
pub mod class;
pub mod config;
pub mod decision;
pub mod devices;
pub mod explanation;
pub mod extender;
pub mod framework;
pub mod labels;
mod metrics;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod queue;
pub mod serving;
mod shell;
pub mod snapshot;
pub mod storage;
pub mod symbols;
pub mod why;

pub use config::Config;
pub use decision::{Decision, Scheduler};
pub use framework::Profile;
pub use metrics::Metrics;
pub use shell::run;
pub use snapshot::Snapshot;

/// How new an object is: of two the API shows of it, the later one has the larger number. What has none
/// is older than any.
fn version(object: &impl amphipod_client::Resource) -> u64 {
    object.resource_version().parse().unwrap_or(0)
}
