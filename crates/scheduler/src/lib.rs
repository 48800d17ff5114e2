//! Which node a pod runs on. A decision is a pure function of a snapshot and a pod; the shell
//! around it keeps the snapshot current, holds the queue, and writes what was decided.

pub mod cache;
pub mod decision;
pub mod plugins;
pub mod pod;
mod preemption;
pub mod queue;
mod resources;
mod run;
pub mod selectors;

pub use cache::{NodeState, Snapshot};
pub use decision::{Decision, schedule};
pub use pod::PodState;
pub use resources::Resources;
pub use run::{Config, run};
