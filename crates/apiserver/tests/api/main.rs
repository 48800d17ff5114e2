//! The server in the process: each test has its own, over a store in memory, and speaks to it as
//! any client does.

mod adopted;
mod apply;
mod bootstrap;
mod crud;
mod flow_control;
mod hostile;
mod limits;
mod lists;
mod metrics;
mod negotiation;
mod node_restriction;
mod options;
mod patches;
mod proxy;
mod replicas;
mod restart;
mod scale;
mod services;
mod sharing;
mod signing;
mod streams;
mod subresources;
mod support;
mod tls;
mod tokens;
mod validation;
mod watches;
