//! What this crate needs from whoever runs the processes.

use std::io;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// Where bytes come from.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// Where bytes go.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;
/// A two-way connection to a port.
pub type BoxDuplex = Box<dyn Duplex>;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Size of a terminal in characters, in the words the wire uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// Which streams a session has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    /// Ignored with a terminal, which has one output.
    pub stderr: bool,
    pub tty: bool,
}

/// The streams of one session. Dropping a writer ends the stream.
pub struct Streams {
    pub stdin: Option<BoxRead>,
    pub stdout: Option<BoxWrite>,
    pub stderr: Option<BoxWrite>,
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// Runs one process, or attaches to one.
#[async_trait]
pub trait ExecBackend: Send + Sync + 'static {
    /// Works until the session is over: the exit code, or why there is none. Dropped when the client goes.
    async fn run(&self, streams: Streams) -> Result<i32, String>;
}

/// Connects to ports.
#[async_trait]
pub trait PortForwardBackend: Send + Sync + 'static {
    async fn connect(&self, port: u16) -> io::Result<BoxDuplex>;
}
