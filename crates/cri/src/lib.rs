//! CRI v1 over gRPC: the one contract the kubelet and a container runtime share.
//!
//! The messages, clients and servers in [`v1`] are generated from `proto/runtime.proto` (the Linux part of
//! kubernetes/cri-api `runtime/v1`); [`library`] is Amphipod's own addition for image archives, served on
//! the same socket. Both are checked in, so that building needs no protobuf compiler;
//! `cargo xtask cri` writes them anew. Calls left out of the trimmed contract answer `UNIMPLEMENTED`, as a
//! runtime without them would.

/// Generated `runtime.v1` messages with `runtime_service_client`, `image_service_client` and their servers.
#[path = "generated/runtime.v1.rs"]
#[allow(clippy::all, clippy::pedantic, clippy::too_many_lines)] // generated
pub mod v1;

/// Generated `amphipod.images.v1`: import of image archives.
#[path = "generated/amphipod.images.v1.rs"]
#[allow(clippy::all, clippy::pedantic, clippy::too_many_lines)] // generated
pub mod library;

mod connect;

pub use connect::{connect, connect_lazy};

/// Largest gRPC message either side accepts: ExecSync answers carry up to 16 MiB each of stdout and stderr.
pub const MAX_MESSAGE_BYTES: usize = 40 * 1024 * 1024;
