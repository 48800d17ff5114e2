//! Counterparts of the published conformance tests that need no running container: each carries
//! the name of the one it answers, takes its steps against a server in this process, and asserts
//! what it asserts. `docs/conformance.md` lists which are here and which are not, and why.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod api_machinery;
mod apps;
mod auth;
mod client;
mod coverage;
mod flow_control;
mod instrumentation;
mod network;
mod node;
mod operations;
mod scheduling;
mod storage;
