//! The ends of a stream, as the work being done holds them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Mux;

/// The reading end of a stream.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(super) mux: Arc<Mux>,
    pub(super) id: u32,
}

impl AsyncRead for Incoming {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.mux.poll_read(self.id, cx, buffer)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.mux.drop_reader(self.id);
    }
}

/// The reading end of a stream which also keeps our direction open, unused, for as long as it is held: kubectl takes
/// the end of our direction of standard input to mean that nobody reads it any more, and stops sending.
#[derive(Debug)]
pub(crate) struct OpenIncoming {
    incoming: Incoming,
    _outgoing: Outgoing,
}

impl From<(Incoming, Outgoing)> for OpenIncoming {
    fn from((incoming, outgoing): (Incoming, Outgoing)) -> Self {
        Self { incoming, _outgoing: outgoing }
    }
}

impl AsyncRead for OpenIncoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.incoming).poll_read(cx, buffer)
    }
}

/// The writing end of a stream. Data counts as written once it is queued: it goes out even if this end is dropped.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(super) mux: Arc<Mux>,
    pub(super) id: u32,
}

impl Outgoing {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.mux.poll_write(self.id, cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.mux.end(self.id);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.mux.drop_writer(self.id);
    }
}
