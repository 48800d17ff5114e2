//! The API server: HTTP, identity, authorization, admission, one generic registry over the watch
//! cache, discovery and the proxies to nodes.

pub mod allocator;
pub mod body;
pub mod config;
pub mod discovery;
pub mod kubelet_proxy;
pub mod serve;
pub mod seams;

pub use config::Config;
pub use seams::{Attributes, UserInfo};
