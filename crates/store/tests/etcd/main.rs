//! The etcd engine against real etcd servers on loopback.

#![allow(clippy::unwrap_used, reason = "test helpers outside of #[test] functions fail by panicking, too")]

mod access;
mod cluster;
mod contract;
mod failures;
mod tls;
