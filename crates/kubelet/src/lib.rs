//! The node agent: turns the pods assigned to a node into running containers and tells the API
//! what became of them. The decisions are plain functions in [`pod`] and [`spec`]; the rest asks
//! the container runtime, mounts, probes and writes.

pub mod config;
pub mod error;
pub mod pod;
pub mod spec;

pub use config::{CgroupConfig, Config};
pub use error::Error;
