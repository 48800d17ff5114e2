//! Containers: what they are, how their OCI specification is made, and how they live.

pub mod exec_sync;
pub mod manager;
pub mod record;
pub mod rootfs;
pub mod seccomp_default;
pub mod spec;
pub mod user;
