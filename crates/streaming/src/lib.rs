//! The server side of `exec`, `attach` and `port-forward`, over an upgraded HTTP/1.1 connection.
//!
//! Clients speak one of several protocols, old and new; what is behind them is the same few byte streams. So the
//! crate is three layers: [`upgrade`](self) settles the protocol, a transport (WebSocket channels, or SPDY/3.1 frames
//! plain or tunnelled) carries streams over the connection, and one multiplexer in between holds what is queued. What
//! runs at the other end of the streams is the caller's, behind [`ExecBackend`] and [`PortForwardBackend`].
//!
//! The answer is returned at once; the connection is then served by a task that ends with the work, or cancels the
//! work (drops its future) as soon as the client goes away.

mod connection;
mod exec;
mod mux;
mod port_forward;
pub mod spdy;
mod status;
mod upgrade;
mod websocket;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use exec::serve_exec;
pub use port_forward::serve_port_forward;

/// A readable end of a stream.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// A writable end of a stream.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;
/// A connection.
pub type BoxDuplex = Box<dyn Duplex>;

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The size of a client's terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// The client's ends of a command's streams; those it did not ask for are absent.
///
/// Standard input ends when the client ends it, and fails when the client is gone. Output is queued when written and
/// sent even if its end is dropped right after.
pub struct Streams {
    pub stdin: Option<BoxRead>,
    pub stdout: Option<BoxWrite>,
    pub stderr: Option<BoxWrite>,
    /// Closed when there will be no more sizes, which may be from the start.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// What a client asked for. With a terminal there is no standard error, whatever was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Runs, or attaches to, one command.
#[async_trait]
pub trait ExecBackend: Send + Sync + 'static {
    /// Serves the streams until the command ends: its exit code, or why it could not run, which the client sees after
    /// "Internal error occurred: ". Dropped in the middle if the client goes away.
    async fn run(&self, streams: Streams) -> Result<i32, String>;
}

/// Reaches the ports of one pod.
#[async_trait]
pub trait PortForwardBackend: Send + Sync + 'static {
    /// A new connection to the port.
    async fn connect(&self, port: u16) -> std::io::Result<BoxDuplex>;
}
