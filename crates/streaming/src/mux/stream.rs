//! What is known of one stream: what came in and is not read, what is to go out, and who still holds an end.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use super::PIECE;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) incoming: VecDeque<Bytes>,
    pub(super) incoming_end: bool,
    pub(super) has_reader: bool,
    pub(super) read_waker: Option<Waker>,
    pub(super) outgoing: VecDeque<Bytes>,
    pub(super) queued: usize,
    pub(super) outgoing_end: bool,
    pub(super) end_sent: bool,
    pub(super) has_writer: bool,
    pub(super) write_waker: Option<Waker>,
    pub(super) reset: bool,
    /// Bytes the peer lets us send; only kept to once the peer has shown that it counts.
    pub(super) window: i64,
    /// Bytes consumed and not credited yet.
    pub(super) credit: u32,
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Stream {
    pub(super) fn new(window: i64) -> Self {
        Self {
            incoming: VecDeque::new(),
            incoming_end: false,
            has_reader: true,
            read_waker: None,
            outgoing: VecDeque::new(),
            queued: 0,
            outgoing_end: false,
            end_sent: false,
            has_writer: true,
            write_waker: None,
            reset: false,
            window,
            credit: 0,
        }
    }

    pub(super) fn wake_all(&mut self) {
        wake(&mut self.read_waker);
        wake(&mut self.write_waker);
    }

    pub(super) fn is_over(&self) -> bool {
        !self.has_reader && !self.has_writer && (self.end_sent || self.reset)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.outgoing.is_empty() || self.reset
    }

    /// Drops queued output, for a stream whose peer no longer wants it.
    pub(super) fn forget_output(&mut self) {
        self.outgoing.clear();
        self.queued = 0;
        self.outgoing_end = true;
    }

    /// The next piece to send within `room` bytes; `None` if there is nothing or no room.
    pub(super) fn take_output(&mut self, room: i64) -> Option<(Bytes, bool)> {
        if self.reset || self.end_sent {
            return None;
        }
        let Some(front) = self.outgoing.front_mut() else {
            return self.outgoing_end.then(|| {
                self.end_sent = true;
                (Bytes::new(), true)
            });
        };
        let room = usize::try_from(room).unwrap_or(0);
        if room == 0 && !front.is_empty() {
            return None;
        }
        let payload = front.split_to(front.len().min(room).min(PIECE));
        if front.is_empty() {
            self.outgoing.pop_front();
        }
        self.queued -= payload.len();
        self.window -= i64::try_from(payload.len()).unwrap_or(i64::MAX);
        wake(&mut self.write_waker);
        let fin = self.outgoing_end && self.outgoing.is_empty();
        self.end_sent = fin;
        Some((payload, fin))
    }
}
