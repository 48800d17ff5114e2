//! Many byte streams over one connection: the part WebSocket channels and SPDY streams share.
//!
//! A connection has one reading loop, one writing loop and any number of stream ends held by the work being done.
//! They meet here, in plain state behind a lock that is never held across a wait:
//!
//! - Each stream queues a bounded amount of output; the writing loop takes from the streams in turn, so one busy or
//!   window-starved stream never holds up another.
//! - Input is bounded for the connection as a whole ([`INPUT_BUDGET`]), not per stream: clients in use ignore flow
//!   control windows, and a bound per stream would let one unread stream stop the others that much sooner.
//! - Dropping a stream end is the same as finishing it, so work may be cancelled anywhere.

mod ends;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::ReadBuf;

pub(crate) use self::ends::{Incoming, OpenIncoming, Outgoing};
use self::stream::{Stream, wake};

/// Received bytes nobody has read yet, over all streams of a connection; at this much we stop reading.
const INPUT_BUDGET: usize = 4 << 20;
/// What holding one piece of input costs on top of its bytes, so that many tiny ones are bounded too.
const PIECE_COST: usize = 64;
/// Bytes one stream may have waiting to be sent.
const OUTPUT_LIMIT: usize = 128 << 10;
/// The largest piece sent at once, so that streams take fair turns.
const PIECE: usize = 32 << 10;
/// Answers (replies, resets, pongs) that may wait to be sent; at this many we stop reading.
const NOTICE_LIMIT: usize = 1024;
/// Streams a peer may have open at once on one connection.
pub(crate) const STREAM_LIMIT: usize = 2048;
/// The window of a SPDY/3 stream, and of a SPDY/3.1 connection, before anything is said about it.
const INITIAL_WINDOW: i64 = 64 << 10;
/// Consumed input is credited back to the peer in steps of this much, half a window.
const CREDIT_STEP: u32 = 32 << 10;

/// A short answer that goes out ahead of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    Reply { stream: u32 },
    Reset { stream: u32, status: u32 },
    Pong { id: u32 },
}

/// What the writing loop has to send next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Notice(Notice),
    /// Input the peer may send anew, on a stream or (0) on the whole connection.
    Credit {
        stream: u32,
        bytes: u32,
    },
    Data {
        stream: u32,
        payload: Bytes,
        fin: bool,
    },
    /// Everything is sent: say goodbye, naming the newest stream that was opened.
    Finished {
        last: u32,
    },
}

#[derive(Debug)]
struct State {
    streams: BTreeMap<u32, Stream>,
    notices: VecDeque<Notice>,
    unread: usize,
    session_credit: u32,
    session_window: i64,
    initial_window: i64,
    streams_counted: bool,
    session_counted: bool,
    /// The stream served last.
    cursor: u32,
    /// The newest stream opened.
    last: u32,
    finishing: bool,
    closed: bool,
    activity: u64,
    writer_waker: Option<Waker>,
    reader_waker: Option<Waker>,
    drain_waker: Option<Waker>,
}

/// The shared state of one connection.
#[derive(Debug)]
pub(crate) struct Mux {
    state: Mutex<State>,
    credits: bool,
}

impl State {
    fn consumed(&mut self, stream: u32, bytes: usize) {
        self.unread = self.unread.saturating_sub(bytes);
        wake(&mut self.reader_waker);
        self.discarded(stream, bytes);
    }

    /// Counts bytes done with towards the credit due.
    fn discarded(&mut self, stream: u32, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.session_credit = self.session_credit.saturating_add(bytes);
        let mut due = self.session_credit >= CREDIT_STEP;
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.credit = stream.credit.saturating_add(bytes);
            due |= stream.credit >= CREDIT_STEP;
        }
        if due {
            wake(&mut self.writer_waker);
        }
    }

    fn forget_if_over(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(Stream::is_over) {
            self.streams.remove(&id);
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push_back(notice);
        wake(&mut self.writer_waker);
    }

    fn take_credit(&mut self) -> Option<Output> {
        if self.session_credit >= CREDIT_STEP {
            return Some(Output::Credit { stream: 0, bytes: std::mem::take(&mut self.session_credit) });
        }
        let (&id, stream) = self
            .streams
            .iter_mut()
            .find(|(_, stream)| stream.credit >= CREDIT_STEP && !stream.incoming_end && !stream.reset)?;
        Some(Output::Credit { stream: id, bytes: std::mem::take(&mut stream.credit) })
    }

    fn take_data(&mut self) -> Option<Output> {
        let session_room = if self.session_counted { self.session_window } else { i64::MAX };
        let counted = self.streams_counted;
        let after = self.cursor.saturating_add(1);
        let ids: [_; 2] = [after..=u32::MAX, 0..=self.cursor];
        for range in ids {
            for (&id, stream) in self.streams.range_mut(range) {
                let room = if counted { stream.window } else { i64::MAX };
                if let Some((payload, fin)) = stream.take_output(room.min(session_room)) {
                    self.cursor = id;
                    self.session_window -= i64::try_from(payload.len()).unwrap_or(i64::MAX);
                    if stream.is_drained() {
                        wake(&mut self.drain_waker);
                    }
                    self.forget_if_over(id);
                    return Some(Output::Data { stream: id, payload, fin });
                }
            }
        }
        None
    }
}

impl Mux {
    /// `credits`: whether the protocol has windows, so that consumed input is credited back.
    pub(crate) fn new(credits: bool) -> Arc<Self> {
        let state = State {
            streams: BTreeMap::new(),
            notices: VecDeque::new(),
            unread: 0,
            session_credit: 0,
            session_window: INITIAL_WINDOW,
            initial_window: INITIAL_WINDOW,
            streams_counted: false,
            session_counted: false,
            cursor: 0,
            last: 0,
            finishing: false,
            closed: false,
            activity: 0,
            writer_waker: None,
            reader_waker: None,
            drain_waker: None,
        };
        Arc::new(Self { state: Mutex::new(state), credits })
    }

    /// Opens a stream; `None` when there are too many.
    pub(crate) fn open(self: &Arc<Self>, id: u32) -> Option<(Incoming, Outgoing)> {
        let mut state = self.state.lock();
        if state.streams.len() >= STREAM_LIMIT || state.streams.contains_key(&id) {
            return None;
        }
        state.last = state.last.max(id);
        let window = state.initial_window;
        state.streams.insert(id, Stream::new(window));
        Some((Incoming { mux: self.clone(), id }, Outgoing { mux: self.clone(), id }))
    }

    /// Input arrived on a stream. Input for streams we do not know, or that nobody reads, is thrown away.
    pub(crate) fn receive(&self, id: u32, payload: Bytes) {
        let mut state = self.state.lock();
        state.activity += 1;
        if payload.is_empty() {
            return;
        }
        let length = payload.len();
        let finishing = state.finishing;
        match state.streams.get_mut(&id) {
            Some(stream) if stream.has_reader && !stream.incoming_end && !stream.reset && !finishing => {
                stream.incoming.push_back(payload);
                wake(&mut stream.read_waker);
                state.unread += length + PIECE_COST;
            }
            _ => state.discarded(id, length),
        }
    }

    /// The peer will send no more on this stream.
    pub(crate) fn receive_end(&self, id: u32) {
        if let Some(stream) = self.state.lock().streams.get_mut(&id) {
            stream.incoming_end = true;
            wake(&mut stream.read_waker);
        }
    }

    /// The peer gave the stream up.
    pub(crate) fn receive_reset(&self, id: u32) {
        let mut state = self.state.lock();
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.reset = true;
            stream.forget_output();
            stream.wake_all();
            wake(&mut state.drain_waker);
        }
        state.forget_if_over(id);
    }

    /// The peer lets us send more on a stream, or (0) on the connection. From the first such word on we keep to its
    /// windows; the Go client never says it, and would wait for ever for the rest of its data if we did so before.
    pub(crate) fn receive_credit(&self, id: u32, bytes: u32) {
        let mut state = self.state.lock();
        if id == 0 {
            state.session_counted = true;
            state.session_window += i64::from(bytes);
        } else {
            state.streams_counted = true;
            if let Some(stream) = state.streams.get_mut(&id) {
                stream.window += i64::from(bytes);
            }
        }
        wake(&mut state.writer_waker);
    }

    /// The peer set the window streams begin with.
    pub(crate) fn receive_initial_window(&self, bytes: u32) {
        let mut state = self.state.lock();
        let change = i64::from(bytes) - state.initial_window;
        state.initial_window += change;
        state.streams_counted = true;
        for stream in state.streams.values_mut() {
            stream.window += change;
        }
        wake(&mut state.writer_waker);
    }

    pub(crate) fn notice(&self, notice: Notice) {
        self.state.lock().notice(notice);
    }

    /// Sends an empty piece on a stream.
    pub(crate) fn greet(&self, id: u32) {
        let mut state = self.state.lock();
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.outgoing.push_back(Bytes::new());
        }
        wake(&mut state.writer_waker);
    }

    /// Ends our direction of a stream whoever holds it; what is queued is still sent.
    pub(crate) fn end(&self, id: u32) {
        let mut state = self.state.lock();
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.outgoing_end = true;
            wake(&mut stream.write_waker);
        }
        wake(&mut state.writer_waker);
    }

    /// Gives a stream up: what is queued is forgotten and the peer told so.
    pub(crate) fn reset(&self, id: u32, status: u32) {
        let mut state = self.state.lock();
        let Some(stream) = state.streams.get_mut(&id) else { return };
        if !std::mem::replace(&mut stream.reset, true) {
            stream.forget_output();
            stream.wake_all();
            state.notice(Notice::Reset { stream: id, status });
        }
        state.forget_if_over(id);
    }

    /// No more work: every stream ends after what it has queued, input is thrown away from here on.
    pub(crate) fn finish(&self) {
        let mut state = self.state.lock();
        state.finishing = true;
        for stream in state.streams.values_mut() {
            stream.outgoing_end = true;
            stream.wake_all();
        }
        wake(&mut state.writer_waker);
        wake(&mut state.reader_waker);
    }

    /// The connection is gone: every stream end fails from here on.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for stream in state.streams.values_mut() {
            stream.wake_all();
        }
        for waker in [state.writer_waker.take(), state.reader_waker.take(), state.drain_waker.take()] {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// A number that moves whenever anything moves on the connection.
    pub(crate) fn activity(&self) -> u64 {
        self.state.lock().activity
    }

    /// Waits until more input can be held.
    pub(crate) async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            let has_room = state.unread < INPUT_BUDGET && state.notices.len() < NOTICE_LIMIT;
            if has_room || state.finishing || state.closed {
                return Poll::Ready(());
            }
            state.reader_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until all that is queued on these streams has been handed to the writing loop.
    pub(crate) async fn drained(&self, ids: &[u32]) {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            let drained = |id| state.streams.get(id).is_none_or(Stream::is_drained);
            if state.closed || ids.iter().all(drained) {
                return Poll::Ready(());
            }
            state.drain_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// What to send next.
    pub(crate) async fn output(&self) -> Output {
        poll_fn(|cx| self.poll_output(cx)).await
    }

    fn poll_output(&self, cx: &mut Context<'_>) -> Poll<Output> {
        let mut state = self.state.lock();
        if state.closed {
            return Poll::Ready(Output::Finished { last: state.last });
        }
        let mut next = state.notices.pop_front().map(Output::Notice);
        if next.is_some() {
            wake(&mut state.reader_waker);
        }
        if next.is_none() && self.credits && !state.finishing {
            next = state.take_credit();
        }
        if let Some(output) = next.or_else(|| state.take_data()) {
            state.activity += 1;
            return Poll::Ready(output);
        }
        if state.finishing && state.streams.values().all(Stream::is_drained) {
            return Poll::Ready(Output::Finished { last: state.last });
        }
        state.writer_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_read(&self, id: u32, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        let closed = state.closed;
        let Some(stream) = state.streams.get_mut(&id) else { return Poll::Ready(Ok(())) };
        if let Some(front) = stream.incoming.front_mut() {
            let take = front.len().min(buffer.remaining());
            buffer.put_slice(&front[..take]);
            front.advance(take);
            if front.is_empty() {
                stream.incoming.pop_front();
                state.unread = state.unread.saturating_sub(PIECE_COST);
            }
            state.consumed(id, take);
            return Poll::Ready(Ok(()));
        }
        if stream.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if stream.incoming_end {
            return Poll::Ready(Ok(()));
        }
        if closed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        stream.read_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_write(&self, id: u32, cx: &Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock();
        let closed = state.closed;
        let broken = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        let Some(stream) = state.streams.get_mut(&id) else { return broken() };
        if closed || stream.reset || stream.outgoing_end {
            return broken();
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let take = data.len().min(OUTPUT_LIMIT - stream.queued).min(PIECE);
        if take == 0 {
            stream.write_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        stream.outgoing.push_back(Bytes::copy_from_slice(&data[..take]));
        stream.queued += take;
        wake(&mut state.writer_waker);
        Poll::Ready(Ok(take))
    }

    fn drop_reader(&self, id: u32) {
        let mut state = self.state.lock();
        let Some(stream) = state.streams.get_mut(&id) else { return };
        stream.has_reader = false;
        let pieces = stream.incoming.len();
        let unread: usize = stream.incoming.drain(..).map(|piece| piece.len()).sum();
        state.unread = state.unread.saturating_sub(pieces * PIECE_COST);
        state.consumed(id, unread);
        state.forget_if_over(id);
    }

    fn drop_writer(&self, id: u32) {
        let mut state = self.state.lock();
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.has_writer = false;
            stream.outgoing_end = true;
        }
        state.forget_if_over(id);
        wake(&mut state.writer_waker);
    }
}
