//! Writes gathered until a connection has said all it has to say for now. HTTP/2 flushes after every
//! frame, and each flush would be a TLS record and a system call of its own, most of them for a few
//! hundred bytes. While the connection's future runs, flushes are put off; what it wrote goes out
//! when it returns. Anyone else who holds the stream (after an upgrade) flushes for real.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much as rustls takes at once: four full records.
const LIMIT_BYTES: usize = 64 << 10;
/// What a connection with nothing to say keeps for the next answer.
const KEPT_BYTES: usize = 4 << 10;

thread_local! {
    /// The stream whose connection is running on this thread.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

pub struct Corked<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    stream: S,
    waiting: Vec<u8>,
    sent: usize,
    /// Something was written since the stream was last flushed.
    unflushed: bool,
}

/// Lets a connection run with flushes put off.
pub struct Cork<S>(Arc<Mutex<State<S>>>);

/// The stream for a connection, and what the connection is to be run with.
pub fn cork<S>(stream: S) -> (Corked<S>, Cork<S>) {
    let state = State { stream, waiting: Vec::new(), sent: 0, unflushed: false };
    let shared = Arc::new(Mutex::new(state));
    (Corked(shared.clone()), Cork(shared))
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Runs a connection to its end. A stream that fails ends it.
    pub async fn run<T, E: From<io::Error>>(
        self,
        connection: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut connection = std::pin::pin!(connection);
        std::future::poll_fn(move |cx| {
            let outcome = {
                let _held = Held::new(address(&self.0));
                connection.as_mut().poll(cx)
            };
            let drained = self.0.lock().drain(cx);
            match (outcome, drained) {
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error.into())),
                (outcome, _) => outcome,
            }
        })
        .await
    }
}

fn address<S>(shared: &Arc<Mutex<State<S>>>) -> usize {
    Arc::as_ptr(shared).addr()
}

/// Marks a stream as one whose connection runs on this thread.
struct Held {
    before: usize,
}

impl Held {
    fn new(address: usize) -> Self {
        Held { before: RUNNING.replace(address) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        RUNNING.set(self.before);
    }
}

impl<S> Corked<S> {
    fn is_held(&self) -> bool {
        RUNNING.get() == address(&self.0)
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Gives the stream what waits, and flushes it.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.pass(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn pass(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.sent..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += taken;
            self.unflushed = true;
        }
        self.sent = 0;
        self.waiting.clear();
        self.waiting.shrink_to(KEPT_BYTES);
        Poll::Ready(Ok(()))
    }

    /// Keeps as much of these bytes as there is room for.
    fn keep(&mut self, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= LIMIT_BYTES {
            ready!(self.pass(cx))?;
        }
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        let room = wanted.min(LIMIT_BYTES - self.waiting.len());
        if room > KEPT_BYTES && self.waiting.capacity() < LIMIT_BYTES {
            self.waiting.reserve_exact(LIMIT_BYTES - self.waiting.len());
        }
        let mut left = room;
        for part in parts {
            let taken = part.len().min(left);
            self.waiting.extend_from_slice(&part[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(room))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let held = self.is_held();
        let mut state = self.0.lock();
        if held {
            return state.keep(cx, parts);
        }
        ready!(state.pass(cx))?;
        let taken = ready!(Pin::new(&mut state.stream).poll_write_vectored(cx, parts))?;
        state.unflushed = true;
        Poll::Ready(Ok(taken))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_held() {
            return Poll::Ready(Ok(()));
        }
        self.0.lock().drain(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        ready!(state.drain(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let held = self.is_held();
        let mut state = self.0.lock();
        // What a connection that ended in an upgrade left behind: nobody else may come to write.
        if !held && let Poll::Ready(Err(error)) = state.drain(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut state.stream).poll_read(cx, out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Counts what reaches the stream.
    struct Counted(DuplexStream, Arc<AtomicUsize>);

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, out)
        }
    }

    fn corked(room: usize) -> (DuplexStream, Corked<Counted>, Cork<Counted>, Arc<AtomicUsize>) {
        let (peer, ours) = duplex(room);
        let writes = Arc::new(AtomicUsize::new(0));
        let (stream, cork) = cork(Counted(ours, writes.clone()));
        (peer, stream, cork, writes)
    }

    #[tokio::test]
    async fn frames_of_one_run_go_out_together() {
        let (mut peer, mut stream, cork, writes) = corked(1 << 20);
        let frames = async {
            for _ in 0..100 {
                stream.write_all(b"frame").await?;
                stream.flush().await?;
            }
            Ok::<_, io::Error>(())
        };
        cork.run(frames).await.expect("written");
        assert_eq!(writes.load(Ordering::Relaxed), 1);
        let mut all = [0; 500];
        peer.read_exact(&mut all).await.expect("all of it");
        assert_eq!(all.as_slice(), b"frame".repeat(100));
    }

    #[tokio::test]
    async fn a_slow_peer_gets_every_byte_in_order() {
        let (mut peer, mut stream, cork, _) = corked(1000);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let content = sent.clone();
        let frames = async move {
            for chunk in content.chunks(777) {
                stream.write_all(chunk).await?;
                stream.flush().await?;
            }
            stream.shutdown().await
        };
        let mut received = Vec::new();
        let (written, read) = tokio::join!(cork.run(frames), peer.read_to_end(&mut received));
        assert!(written.is_ok() && read.is_ok());
        assert_eq!(received, sent);
    }

    #[tokio::test]
    async fn once_the_connection_is_over_flushes_are_real() {
        let (mut peer, mut stream, cork, _) = corked(8);
        let head = async {
            stream.write_all(b"a head longer than the peer's room").await?;
            stream.flush().await?;
            Ok::<_, io::Error>(stream)
        };
        let mut stream = cork.run(head).await.expect("ended");
        let talk = async {
            // The next one to hold the stream only listens: the head must go out all the same.
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).await?;
            stream.write_all(b"!").await?;
            stream.flush().await
        };
        let listen = async {
            let mut head = [0; 34];
            peer.read_exact(&mut head).await?;
            peer.write_all(b"go").await?;
            let mut end = [0; 1];
            peer.read_exact(&mut end).await?;
            Ok::<_, io::Error>((head, end))
        };
        let (talked, heard) = tokio::join!(talk, listen);
        talked.expect("talked");
        let (head, end) = heard.expect("heard");
        assert_eq!((head.as_slice(), end), (b"a head longer than the peer's room".as_slice(), *b"!"));
    }

    #[tokio::test]
    async fn a_broken_stream_ends_the_connection() {
        let (peer, mut stream, cork, _) = corked(8);
        drop(peer);
        let waits = async {
            stream.write_all(b"nobody reads this").await?;
            std::future::pending::<Result<(), io::Error>>().await
        };
        cork.run(waits).await.expect_err("broken");
    }
}
