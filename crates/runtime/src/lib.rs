//! The embedded container runtime: a CRI v1 server over a unix socket.
//!
//! It pulls and imports images, keeps their layers unpacked and content-addressed, sets up pod sandboxes
//! (namespaces, CNI network, files), and runs containers through self-executed shims that outlive it.
//! Everything it knows is on disk, so that a restarted process finds its sandboxes, containers and images
//! again. The binary must hand `runtime-*` subcommands to [`shim_main`] before it starts any thread.

mod cgroup;
mod config;
mod container;
mod error;
mod image;
pub mod images;
mod lifecycle;
mod mounts;
mod sandbox;
mod service;
mod shim;
mod state;
mod stats;

pub use config::{BuiltinFile, BuiltinImage, Config, FileContent};
pub use error::Error;
pub use lifecycle::{cleanup, serve};
pub use shim::shim_main;

/// Name under which the runtime introduces itself; container IDs in pod status carry it as their scheme.
pub const RUNTIME_NAME: &str = "amphipod";
