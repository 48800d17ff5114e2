//! A synchronous netlink socket and the attribute encoding, shared by links and addresses
//! (rtnetlink), rules (nftables) and connection tracking. Own code because the CNI plugin must be
//! done in milliseconds without an async runtime, and one encoder serves all three families.

pub mod conntrack;
pub mod route;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use crate::Error;

pub const REQUEST: u16 = 1;
pub const ACK: u16 = 4;
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER_BYTES: usize = 16;
/// The kernel sends dumps in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;
/// A kernel that does not answer for this long is broken; hanging forever would hide it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A sequence of netlink attributes.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn bytes(mut self, kind: u16, payload: &[u8]) -> Self {
        // Callers keep attributes under 64 KiB: names, keys, or element lists cut to size.
        let length = (4 + payload.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
    /// A string with its terminating zero.
    pub fn text(self, kind: u16, text: &str) -> Self {
        let mut payload = text.as_bytes().to_vec();
        payload.push(0);
        self.bytes(kind, &payload)
    }
    pub fn byte(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }
    pub fn native32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }
    pub fn big16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }
    pub fn big32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }
    pub fn big64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }
    pub fn nest(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
    /// A nested attribute that starts with a fixed structure.
    pub fn nest_after(self, kind: u16, fixed: &[u8], inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &[fixed, &inner.0].concat())
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn append(&mut self, more: Attributes) {
        self.0.extend_from_slice(&more.0);
    }
}

/// One message: header, the family's fixed structure, attributes.
pub fn message(kind: u16, flags: u16, fixed: &[u8], attributes: &Attributes) -> Vec<u8> {
    let length = HEADER_BYTES + fixed.len() + attributes.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend_from_slice(&(length as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]); // sequence and port, set when sent
    bytes.extend_from_slice(fixed);
    bytes.extend_from_slice(&attributes.0);
    bytes
}

fn set_sequence(message: &mut [u8], sequence: u32) {
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
}

fn native16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]))
}
pub fn native32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// Walks attributes; stops quietly at the first malformed one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(native16(bytes, 0));
        let payload = bytes.get(4..length)?;
        let kind = native16(bytes, 2) & TYPE_MASK;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, payload)| payload)
}

/// What the kernel sent back.
#[derive(Debug)]
enum Answer {
    Data(Vec<u8>),
    /// Zero is an acknowledgement.
    Code(i32),
    Done,
}

pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub fn route() -> Result<Self, Error> {
        Self::open(None)
    }
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, Error> {
        let kind = SocketType::RAW;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, protocol)
            .map_err(|e| Error::kernel("opening a netlink socket", e))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))
            .map_err(|e| Error::kernel("preparing a netlink socket", e))?;
        Ok(Socket { fd, sequence: 0 })
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), io::Error> {
        let sent = rustix::net::send(&self.fd, bytes, SendFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The answers in one datagram, with their sequence numbers.
    fn receive(&self, buffer: &mut [u8]) -> Result<Vec<(u32, Answer)>, io::Error> {
        // The kernel does not take a receive with a timeout up again after a signal, a profiler's for one.
        let (_, length) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()))?;
        let mut rest = &buffer[..length.min(buffer.len())];
        let mut answers = Vec::new();
        while rest.len() >= HEADER_BYTES {
            let length = native32(rest, 0) as usize;
            let Some(body) = rest.get(HEADER_BYTES..length) else { break };
            let answer = match native16(rest, 4) {
                MESSAGE_ERROR => Answer::Code(native32(body, 0) as i32),
                MESSAGE_DONE => Answer::Done,
                _ => Answer::Data(body.to_vec()),
            };
            answers.push((native32(rest, 8), answer));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answers)
    }

    /// Sends one message and waits for its acknowledgement.
    pub fn execute(&mut self, what: &str, message: Vec<u8>) -> Result<(), Error> {
        self.exchange(message, ACK).map(|_| ()).map_err(|source| Error::kernel(what, source))
    }
    /// Sends one message and gives the answer's body; `None` when the object is not there.
    pub fn get(&mut self, what: &str, message: Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        match self.exchange(message, ACK).map_err(|source| Error::kernel(what, source)) {
            Ok(mut bodies) => Ok(bodies.pop()),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }
    /// Every object of a table.
    pub fn dump(&mut self, what: &str, message: Vec<u8>) -> Result<Vec<Vec<u8>>, Error> {
        self.exchange(message, DUMP).map_err(|source| Error::kernel(what, source))
    }

    fn exchange(&mut self, mut message: Vec<u8>, flags: u16) -> Result<Vec<Vec<u8>>, io::Error> {
        let flags = (native16(&message, 6) | flags).to_ne_bytes();
        message[6..8].copy_from_slice(&flags);
        let sequence = self.next_sequence();
        set_sequence(&mut message, sequence);
        self.send(&message)?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut bodies = Vec::new();
        loop {
            for (seen, answer) in self.receive(&mut buffer)? {
                match answer {
                    _ if seen != sequence => {} // left over from a request that timed out
                    Answer::Data(body) => bodies.push(body),
                    Answer::Code(0) | Answer::Done => return Ok(bodies),
                    Answer::Code(code) => return Err(io::Error::from_raw_os_error(-code)),
                }
            }
        }
    }

    /// Sends messages as one datagram, so that the kernel takes them as one transaction. The last
    /// but one carries the acknowledgement flag (the last only ends the batch).
    pub fn transact(&mut self, what: &str, messages: Vec<Vec<u8>>) -> Result<(), Error> {
        self.transact_inner(messages).map_err(|source| Error::kernel(what, source))
    }

    fn transact_inner(&mut self, mut messages: Vec<Vec<u8>>) -> Result<(), io::Error> {
        let Some(acknowledged) = messages.len().checked_sub(2) else { return Ok(()) };
        let flags = (native16(&messages[acknowledged], 6) | ACK).to_ne_bytes();
        messages[acknowledged][6..8].copy_from_slice(&flags);
        let (mut first, mut last) = (None, 0);
        for (at, message) in messages.iter_mut().enumerate() {
            let sequence = self.next_sequence();
            set_sequence(message, sequence);
            first.get_or_insert(sequence);
            if at == acknowledged {
                last = sequence;
            }
        }
        let bytes = messages.concat();
        // Twice the size: the kernel accounts its own bookkeeping to the sender.
        sockopt::set_socket_send_buffer_size_force(&self.fd, (bytes.len() * 2).max(RECEIVE_BYTES))?;
        self.send(&bytes)?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut failure = None;
        loop {
            for (sequence, answer) in self.receive(&mut buffer)? {
                let Answer::Code(code) = answer else { continue };
                if code != 0 && failure.is_none() {
                    failure = Some(io::Error::from_raw_os_error(-code));
                }
                // An error on the opening message means that nothing else was looked at.
                if sequence == last || (Some(sequence) == first && code != 0) {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip_with_padding() {
        let inner = Attributes::new().text(1, "ab").big16(2, 80);
        let all = Attributes::new().byte(7, 9).nest(3, inner);
        let found: Vec<u16> = attributes(&all.0).map(|(kind, _)| kind).collect();
        assert_eq!(found, [7, 3]);
        let nested = attribute(&all.0, 3).unwrap();
        assert_eq!(attribute(nested, 1), Some(&b"ab\0"[..]));
        assert_eq!(attribute(nested, 2), Some(&[0, 80][..]));
        assert_eq!(attribute(nested, 4), None);
        assert_eq!(all.len() % 4, 0);
    }

    #[test]
    fn malformed_attributes_end_the_walk() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
    }
}
