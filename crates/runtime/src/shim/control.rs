//! Clients of a shim: what each asked for, what it still has to receive.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use super::{
    io::{Outgoing, READ_CHUNK_BYTES, ReadOutcome, read_some, set_nonblocking},
    protocol::{Frame, FrameKind, MAX_REQUEST_BYTES, Request, decode_frame, encode_frame},
};

/// Output waiting for one attached client beyond which the container's output is not read any further.
pub const MAX_CLIENT_BACKLOG_BYTES: usize = 1024 * 1024;

/// What a client's connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The request line has not arrived yet.
    Greeting,
    /// Waits for the exit record.
    Waiting,
    /// Streams.
    Attached { stdin: bool, stdout: bool, stderr: bool },
    /// Everything is said; closes once the rest is written.
    Leaving,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    pub mode: Mode,
    incoming: Vec<u8>,
    outgoing: Outgoing,
    pub gone: bool,
}

impl Client {
    pub fn new(stream: UnixStream) -> io::Result<Client> {
        set_nonblocking(&stream)?;
        Ok(Client {
            stream,
            mode: Mode::Greeting,
            incoming: Vec::new(),
            outgoing: Outgoing::default(),
            gone: false,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Too much is waiting: the container has to wait too.
    pub fn is_behind(&self) -> bool {
        self.outgoing.len() > MAX_CLIENT_BACKLOG_BYTES
    }

    /// Reads what has arrived; marks the client gone at the end.
    pub fn fill(&mut self) {
        let mut buffer = [0u8; READ_CHUNK_BYTES];
        match read_some(self.stream.as_fd(), &mut buffer) {
            ReadOutcome::Data(length) => self.incoming.extend_from_slice(&buffer[..length]),
            ReadOutcome::WouldBlock => {}
            ReadOutcome::Ended => self.gone = true,
        }
        if self.mode == Mode::Greeting && self.incoming.len() > MAX_REQUEST_BYTES {
            self.gone = true;
        }
    }

    /// The request line, once complete.
    pub fn take_request(&mut self) -> Option<Request> {
        let end = self.incoming.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.incoming.drain(..=end).collect();
        match serde_json::from_slice(&line) {
            Ok(request) => Some(request),
            Err(error) => {
                eprintln!("bad request: {error}");
                self.gone = true;
                None
            }
        }
    }

    /// The next complete frame of an attached client.
    pub fn take_frame(&mut self) -> Option<Frame> {
        match decode_frame(&mut self.incoming) {
            Ok(frame) => frame,
            Err(error) => {
                eprintln!("{error}");
                self.gone = true;
                None
            }
        }
    }

    /// Queues one JSON line.
    pub fn send_line<T: serde::Serialize>(&mut self, value: &T) {
        match serde_json::to_vec(value) {
            Ok(mut line) => {
                line.push(b'\n');
                self.outgoing.push(&line);
                self.flush();
            }
            Err(error) => eprintln!("cannot encode a reply: {error}"),
        }
    }

    /// Queues one frame.
    pub fn send_frame(&mut self, kind: FrameKind, payload: &[u8]) {
        let mut bytes = Vec::with_capacity(payload.len() + 8);
        encode_frame(kind, payload, &mut bytes);
        self.outgoing.push(&bytes);
        self.flush();
    }

    /// Writes what the connection takes now.
    pub fn flush(&mut self) {
        if self.outgoing.flush(self.stream.as_fd()).is_err() {
            self.outgoing.clear();
            self.gone = true;
        }
        if self.mode == Mode::Leaving && self.outgoing.is_empty() {
            self.gone = true;
        }
    }
}
