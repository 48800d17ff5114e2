//! The server side of exec, attach and port-forward: many byte streams over one upgraded connection.
//!
//! Clients speak SPDY/3.1 (kubectl before 1.31, external runtimes' tools) or WebSocket (kubectl since, kube-rs,
//! browsers), in several sub-protocol versions each. All end in the same place: an [`ExecBackend`] that
//! gets plain readers and writers, or a [`PortForwardBackend`] that connects to a port. Nothing here knows
//! what a container is.

mod backend;
mod channels;
mod exec;
mod negotiate;
mod portforward;
mod pump;
pub mod spdy;
mod status;
mod websocket;

pub use backend::{
    BoxDuplex, BoxRead, BoxWrite, Duplex, ExecBackend, PortForwardBackend, Streams, TerminalSize, Wanted,
};
pub use exec::serve_exec;
pub use portforward::serve_port_forward;

/// What goes wrong on a stream connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("SPDY: {0}")]
    Spdy(String),
    #[error("WebSocket: {0}")]
    WebSocket(String),
    #[error("timed out waiting for client to create streams")]
    StreamsMissing,
}
