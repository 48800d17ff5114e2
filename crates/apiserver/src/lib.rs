//! The API server: HTTP, identity, authorization, admission, one generic registry over the watch
//! cache, discovery and the proxies to nodes.

pub mod admission;
pub mod allocator;
pub mod authn;
pub mod authz;
pub mod body;
pub mod config;
pub mod discovery;
pub mod kubelet_proxy;
pub mod policy;
pub mod seams;
pub mod serve;
#[cfg(test)]
pub mod testing;

pub use config::Config;
pub use seams::{Attributes, UserInfo};
