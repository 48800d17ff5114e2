//! Peers that stop taking what they asked for. A connection on which nothing can be written for a
//! while is given up, so that unread answers do not pile up; connections that carry a log or a
//! terminal are left alone as long as they do, for people pause those.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Shared by a connection and its requests: how many of these may let the connection stand still.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<AtomicUsize>);

/// One such request, as long as its answer or its stream lasts.
#[derive(Debug)]
pub struct Granted(Patience);

impl Patience {
    pub fn grant(&self) -> Granted {
        self.0.fetch_add(1, Ordering::AcqRel);
        Granted(self.clone())
    }
    pub fn is_granted(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Clone for Granted {
    fn clone(&self) -> Self {
        self.0.grant()
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub struct Stalling<S> {
    stream: S,
    limit: Duration,
    patience: Patience,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    pub fn new(stream: S, limit: Duration, patience: Patience) -> Self {
        Stalling { stream, limit, patience, timer: None }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.timer = None;
            return outcome;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        self.timer = None;
        if self.patience.is_granted() {
            // Asked again when the peer reads, or by the next timer.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing any more")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, outcome)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.watched(cx, outcome)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watched(cx, outcome)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (_peer, ours) = tokio::io::duplex(8);
        let mut ours = Stalling::new(ours, Duration::from_millis(20), Patience::default());
        let error = ours.write_all(&[0; 64]).await.expect_err("given up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_patient_connection_is_waited_for() {
        let (mut peer, ours) = tokio::io::duplex(8);
        let patience = Patience::default();
        let granted = patience.grant();
        let mut ours = Stalling::new(ours, Duration::from_millis(1), patience);
        let reader = async {
            // Several limits pass before anything is read.
            tokio::time::timeout(Duration::from_millis(30), std::future::pending::<()>())
                .await
                .expect_err("time");
            let mut all = [0; 64];
            peer.read_exact(&mut all).await
        };
        let (written, read) = tokio::join!(ours.write_all(&[0; 64]), reader);
        assert!(written.is_ok() && read.is_ok());
        drop(granted.clone());
        assert!(ours.patience.is_granted(), "until all it was granted for is over");
        drop(granted);
        let error = ours.write_all(&[0; 64]).await.expect_err("given up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
