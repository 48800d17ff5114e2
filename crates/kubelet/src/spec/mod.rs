//! From a pod's spec to what the container runtime is asked for: environment, resolver, hosts
//! file, security, labels. Plain functions; everything from outside comes in as values.

pub mod container;
pub mod dns;
pub mod downward;
pub mod env;
pub mod expand;
pub mod hosts;
pub mod labels;
pub mod sandbox;
pub mod security;
