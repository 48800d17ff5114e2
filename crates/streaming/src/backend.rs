//! What this crate needs from whoever runs the processes.

use std::{future::Future, io, pin::Pin};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// Where bytes come from.
pub type ByteReader = Box<dyn AsyncRead + Send + Unpin>;
/// Where bytes go.
pub type ByteWriter = Box<dyn AsyncWrite + Send + Unpin>;
/// A boxed future of a backend.
pub type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A two-way connection to a port.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Size of a terminal in characters, in the words the wire uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// Which streams a session has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecOptions {
    pub stdin: bool,
    pub stdout: bool,
    /// Ignored with a terminal, which has one output.
    pub stderr: bool,
    pub tty: bool,
}

/// The streams of one session. Dropping a writer ends the stream.
pub struct ExecStreams {
    pub stdin: Option<ByteReader>,
    pub stdout: Option<ByteWriter>,
    pub stderr: Option<ByteWriter>,
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended with this status; attach sessions end with zero.
    Exited(i32),
    /// It could not be run, or contact was lost.
    Failed(String),
}

/// Runs one process, or attaches to one.
pub trait ExecBackend: Send + Sync + 'static {
    /// Works until the session is over. When the client goes away, `stdin` ends and writes fail.
    fn run(&self, streams: ExecStreams) -> BackendFuture<'_, Outcome>;
}

/// Connects to ports.
pub trait PortForwardBackend: Send + Sync + 'static {
    fn connect(&self, port: u16) -> BackendFuture<'_, io::Result<Box<dyn Connection>>>;
}
