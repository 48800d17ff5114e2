//! The API server: HTTP, identity, authorization, admission, one generic registry over the watch
//! cache, discovery and the proxies to nodes.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod cache;
pub mod catalog;
pub mod config;
pub mod context;
mod cork;
pub mod discovery;
mod drain;
pub mod error;
pub mod flow_control;
pub mod health;
pub mod http;
pub mod kubelet_proxy;
pub mod metrics;
pub mod policy;
pub mod reader;
pub mod registry;
pub mod seams;
pub mod serve;
pub mod server;
pub mod services;
pub mod stall;
pub mod subresources;
#[cfg(test)]
pub mod testing;

pub use config::{Config, KeyPair};
pub use error::Error;
pub use seams::{Attributes, UserInfo};
pub use server::ApiServer;
