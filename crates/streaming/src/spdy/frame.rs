//! Frames on the wire (SPDY/3 draft, 2.2).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::Error;

pub const VERSION: u16 = 3;
pub const FLAG_FIN: u8 = 1;
const CONTROL_BIT: u16 = 0x8000;
const HEADER_BYTES: usize = 8;
/// Largest frame accepted; clients write at most 64 KiB at a time.
const MAX_FRAME_BYTES: usize = 1024 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// A frame as read or to be written; header blocks are still compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Data {
        stream: u32,
        fin: bool,
        payload: Bytes,
    },
    SynStream {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        stream: u32,
        block: Bytes,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last_stream: u32,
    },
    /// Settings, window updates and others that need no reaction.
    Other,
}

/// Takes a complete frame off `buffer`, or `None` when more bytes are needed.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
    if buffer.len() < HEADER_BYTES {
        return Ok(None);
    }
    let length = u32::from_be_bytes([0, buffer[5], buffer[6], buffer[7]]) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(Error::Spdy(format!("a frame of {length} bytes")));
    }
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    let head = buffer.split_to(HEADER_BYTES);
    let mut payload = buffer.split_to(length).freeze();
    let first = u16::from_be_bytes([head[0], head[1]]);
    let flags = head[4];
    let fin = flags & FLAG_FIN != 0;
    if first & CONTROL_BIT == 0 {
        let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        return Ok(Some(Frame::Data { stream, fin, payload }));
    }
    if first & !CONTROL_BIT != VERSION {
        return Err(Error::Spdy(format!("version {}", first & !CONTROL_BIT)));
    }
    let kind = u16::from_be_bytes([head[2], head[3]]);
    let fixed = match kind {
        SYN_STREAM => 10,
        SYN_REPLY | PING => 4,
        RST_STREAM | GOAWAY => 8,
        _ => 0,
    };
    if payload.len() < fixed {
        return Err(Error::Spdy(format!("a control frame of type {kind} is too short")));
    }
    Ok(Some(match kind {
        SYN_STREAM => {
            let stream = payload.get_u32() & 0x7fff_ffff;
            payload.advance(6);
            Frame::SynStream { stream, fin, block: payload }
        }
        SYN_REPLY => Frame::SynReply { stream: payload.get_u32() & 0x7fff_ffff, block: payload },
        RST_STREAM => Frame::Reset { stream: payload.get_u32() & 0x7fff_ffff },
        PING => Frame::Ping { id: payload.get_u32() },
        GOAWAY => Frame::GoAway { last_stream: payload.get_u32() & 0x7fff_ffff },
        _ => Frame::Other,
    }))
}

/// Bytes of a frame.
pub fn encode(frame: &Frame) -> Bytes {
    let mut out = BytesMut::new();
    match frame {
        Frame::Data { stream, fin, payload } => {
            out.put_u32(*stream);
            put_flags_and_length(&mut out, *fin, payload.len());
            out.put_slice(payload);
        }
        Frame::SynStream { stream, fin, block } => {
            control(&mut out, SYN_STREAM, *fin, 10 + block.len());
            out.put_u32(*stream);
            out.put_u32(0);
            out.put_u16(0);
            out.put_slice(block);
        }
        Frame::SynReply { stream, block } => {
            control(&mut out, SYN_REPLY, false, 4 + block.len());
            out.put_u32(*stream);
            out.put_slice(block);
        }
        Frame::Reset { stream } => {
            const CANCEL: u32 = 5;
            control(&mut out, RST_STREAM, false, 8);
            out.put_u32(*stream);
            out.put_u32(CANCEL);
        }
        Frame::Ping { id } => {
            control(&mut out, PING, false, 4);
            out.put_u32(*id);
        }
        Frame::GoAway { last_stream } => {
            control(&mut out, GOAWAY, false, 8);
            out.put_u32(*last_stream);
            out.put_u32(0);
        }
        Frame::Other => {}
    }
    out.freeze()
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(CONTROL_BIT | VERSION);
    out.put_u16(kind);
    put_flags_and_length(out, fin, length);
}

fn put_flags_and_length(out: &mut BytesMut, fin: bool, length: usize) {
    out.put_u8(if fin { FLAG_FIN } else { 0 });
    out.put_uint(length as u64, 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_in_pieces() {
        let frames = [
            Frame::SynStream { stream: 1, fin: false, block: Bytes::from_static(b"block") },
            Frame::SynReply { stream: 1, block: Bytes::from_static(b"reply") },
            Frame::Data { stream: 1, fin: true, payload: Bytes::from_static(b"data") },
            Frame::Reset { stream: 3 },
            Frame::Ping { id: 7 },
            Frame::GoAway { last_stream: 3 },
        ];
        let wire: Vec<u8> = frames.iter().flat_map(|frame| encode(frame).to_vec()).collect();
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            found.extend(decode(&mut buffer).unwrap());
        }
        assert_eq!(found, frames);
    }

    #[test]
    fn bytes_of_known_frames() {
        assert_eq!(&encode(&Frame::Ping { id: 1 })[..], [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        let data = Frame::Data { stream: 5, fin: true, payload: Bytes::from_static(b"x") };
        assert_eq!(&encode(&data)[..], [0, 0, 0, 5, 1, 0, 0, 1, b'x']);
    }

    #[test]
    fn broken_frames_are_refused() {
        for bytes in
            [&[0x80u8, 2, 0, 1, 0, 0, 0, 0][..], &[0x80, 3, 0, 1, 0, 0, 0, 1, 0], &[0, 0, 0, 1, 0, 255, 0, 0]]
        {
            assert!(decode(&mut BytesMut::from(bytes)).is_err());
        }
    }
}
