//! SPDY/3 frames to bytes and back. Pure: no sockets, so tests and clients can use it as it is.
//!
//! Data frames are handed on in whatever pieces they arrive in, so a peer's huge frame never has to be held
//! whole; control frames are held, and bounded.

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub use super::headers::Headers;
use super::headers::{HeaderReader, HeaderWriter};

/// The status of a stream reset because the peer broke the rules.
pub const RESET_PROTOCOL_ERROR: u32 = 1;
/// The status of a stream that was not wanted.
pub const RESET_REFUSED: u32 = 3;
/// The status of a stream given up.
pub const RESET_CANCEL: u32 = 5;
/// The id of the setting holding the initial window of every stream.
pub const SETTING_INITIAL_WINDOW: u32 = 7;

const VERSION: u16 = 3;
const CONTROL_BIT: u32 = 1 << 31;
const LENGTH_MASK: u32 = 0x00ff_ffff;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;
const HEADER_BYTES: usize = 8;
/// The largest control frame accepted.
const MAX_CONTROL: usize = 64 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why bytes are not SPDY/3, or cannot be made to be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("SPDY version {0} is not spoken here")]
    Version(u16),
    #[error("malformed {0}")]
    Malformed(&'static str),
    #[error("frame or header block too large")]
    TooLarge,
    #[error("header compression failed")]
    Compression,
}

/// One frame. `fin` closes the sender's direction of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        headers: Headers,
        fin: bool,
        unidirectional: bool,
    },
    SynReply {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Settings {
        entries: Vec<(u32, u32)>,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    Headers {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    Data {
        stream: u32,
        payload: Bytes,
        fin: bool,
    },
    /// A control frame of a type we do not know, skipped as the protocol asks.
    Unknown {
        kind: u16,
    },
}

/// Turns frames into bytes; keeps the header compression of the sending direction.
#[derive(Debug)]
pub struct Encoder(HeaderWriter);

impl Encoder {
    /// # Errors
    /// When the header compressor cannot be set up.
    pub fn new() -> Result<Self, FrameError> {
        HeaderWriter::new().map(Self)
    }

    /// Appends one frame to `out`.
    ///
    /// # Errors
    /// When the frame cannot be expressed: its payload is too large or the compressor fails.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        let mut body = BytesMut::new();
        let (kind, flags) = match frame {
            Frame::Data { stream, payload, fin } => return encode_data(*stream, payload, *fin, out),
            Frame::SynStream { stream, headers, fin, unidirectional } => {
                body.put_u32(*stream);
                body.put_u32(0);
                body.put_u16(0);
                self.0.write(headers, &mut body)?;
                (SYN_STREAM, fin_flag(*fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 })
            }
            Frame::SynReply { stream, headers, fin } => {
                body.put_u32(*stream);
                self.0.write(headers, &mut body)?;
                (SYN_REPLY, fin_flag(*fin))
            }
            Frame::Headers { stream, headers, fin } => {
                body.put_u32(*stream);
                self.0.write(headers, &mut body)?;
                (HEADERS, fin_flag(*fin))
            }
            plain => (encode_plain(plain, &mut body)?, 0),
        };
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        out.put_u32(u32::from(flags) << 24 | frame_length(body.len())?);
        out.extend_from_slice(&body);
        Ok(())
    }
}

/// The body of a frame without headers or flags; answers its type.
fn encode_plain(frame: &Frame, body: &mut BytesMut) -> Result<u16, FrameError> {
    let mut pair = |first: u32, second: u32| {
        body.put_u32(first);
        body.put_u32(second);
    };
    Ok(match frame {
        Frame::Reset { stream, status } => {
            pair(*stream, *status);
            RST_STREAM
        }
        Frame::GoAway { last } => {
            pair(*last, 0);
            GOAWAY
        }
        Frame::WindowUpdate { stream, delta } => {
            pair(*stream, *delta);
            WINDOW_UPDATE
        }
        Frame::Ping { id } => {
            body.put_u32(*id);
            PING
        }
        Frame::Settings { entries } => {
            body.put_u32(u32::try_from(entries.len()).map_err(|_| FrameError::TooLarge)?);
            for (id, value) in entries {
                body.put_u32(id & LENGTH_MASK);
                body.put_u32(*value);
            }
            SETTINGS
        }
        _ => return Err(FrameError::Malformed("frame to send")),
    })
}

fn fin_flag(fin: bool) -> u8 {
    if fin { FLAG_FIN } else { 0 }
}

fn frame_length(length: usize) -> Result<u32, FrameError> {
    u32::try_from(length).ok().filter(|&length| length <= LENGTH_MASK).ok_or(FrameError::TooLarge)
}

fn encode_data(stream: u32, payload: &[u8], fin: bool, out: &mut BytesMut) -> Result<(), FrameError> {
    out.put_u32(stream & !CONTROL_BIT);
    out.put_u32(u32::from(fin_flag(fin)) << 24 | frame_length(payload.len())?);
    out.extend_from_slice(payload);
    Ok(())
}

/// Turns bytes into frames; keeps the header compression of the receiving direction.
#[derive(Debug, Default)]
pub struct Decoder {
    headers: HeaderReader,
    /// The data frame in progress: its stream, whether it ends the stream, and the bytes still to come.
    data: Option<(u32, bool, usize)>,
}

impl Decoder {
    /// Takes the next frame, or the next piece of a data frame, off the front of `input`; `None` asks for more.
    ///
    /// # Errors
    /// When the bytes are not SPDY/3; the connection cannot go on then.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some((stream, fin, left)) = self.data.take() {
            return Ok(self.data_piece(stream, fin, left, input));
        }
        if input.len() < HEADER_BYTES {
            return Ok(None);
        }
        let (first, second) = ((&input[..4]).get_u32(), (&input[4..8]).get_u32());
        let length = (second & LENGTH_MASK) as usize;
        let flags = second.to_be_bytes()[0];
        if first & CONTROL_BIT == 0 {
            input.advance(HEADER_BYTES);
            return Ok(self.data_piece(first, flags & FLAG_FIN != 0, length, input));
        }
        if length > MAX_CONTROL {
            return Err(FrameError::TooLarge);
        }
        if input.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        input.advance(HEADER_BYTES);
        let body = input.split_to(length);
        let [_, _, high, low] = first.to_be_bytes();
        let version = (first >> 16 & 0x7fff) as u16;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        self.control(u16::from_be_bytes([high, low]), flags, body.freeze()).map(Some)
    }

    fn data_piece(&mut self, stream: u32, fin: bool, left: usize, input: &mut BytesMut) -> Option<Frame> {
        let take = left.min(input.len());
        if take == left {
            return Some(Frame::Data { stream, payload: input.split_to(take).freeze(), fin });
        }
        self.data = Some((stream, fin, left - take));
        (take > 0).then(|| Frame::Data { stream, payload: input.split_to(take).freeze(), fin: false })
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
        let fin = flags & FLAG_FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut body)? & !CONTROL_BIT;
                number(&mut body)?; // the associated stream, which nobody uses
                body.try_get_u16().map_err(|_| FrameError::Malformed("SYN_STREAM"))?; // priority and slot
                let headers = self.headers.read(&body)?;
                Frame::SynStream { stream, headers, fin, unidirectional: flags & FLAG_UNIDIRECTIONAL != 0 }
            }
            SYN_REPLY => {
                let stream = number(&mut body)? & !CONTROL_BIT;
                Frame::SynReply { stream, headers: self.headers.read(&body)?, fin }
            }
            HEADERS => {
                let stream = number(&mut body)? & !CONTROL_BIT;
                Frame::Headers { stream, headers: self.headers.read(&body)?, fin }
            }
            RST_STREAM => {
                Frame::Reset { stream: number(&mut body)? & !CONTROL_BIT, status: number(&mut body)? }
            }
            SETTINGS => settings(&mut body)?,
            PING => Frame::Ping { id: number(&mut body)? },
            GOAWAY => Frame::GoAway { last: number(&mut body)? & !CONTROL_BIT },
            WINDOW_UPDATE => Frame::WindowUpdate {
                stream: number(&mut body)? & !CONTROL_BIT,
                delta: number(&mut body)? & !CONTROL_BIT,
            },
            kind => Frame::Unknown { kind },
        })
    }
}

fn number(body: &mut Bytes) -> Result<u32, FrameError> {
    body.try_get_u32().map_err(|_| FrameError::Malformed("control frame"))
}

fn settings(body: &mut Bytes) -> Result<Frame, FrameError> {
    let count = number(body)? as usize;
    if count > body.len() / 8 {
        return Err(FrameError::Malformed("SETTINGS"));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push((number(body)? & LENGTH_MASK, number(body)?));
    }
    Ok(Frame::Settings { entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Frame> {
        let headers: Headers = vec![("streamtype".into(), "stdin".into()), ("port".into(), "8080".into())];
        vec![
            Frame::SynStream { stream: 1, headers: headers.clone(), fin: true, unidirectional: false },
            Frame::SynStream { stream: 3, headers: vec![], fin: false, unidirectional: true },
            Frame::SynReply { stream: 1, headers: vec![], fin: false },
            Frame::Headers { stream: 1, headers, fin: true },
            Frame::Reset { stream: 5, status: RESET_CANCEL },
            Frame::Settings { entries: vec![(SETTING_INITIAL_WINDOW, 1 << 20), (4, 100)] },
            Frame::Ping { id: 2 },
            Frame::WindowUpdate { stream: 0, delta: 4096 },
            Frame::GoAway { last: 9 },
        ]
    }

    #[test]
    fn control_frames_survive_the_round_trip_byte_by_byte() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::default());
        let (mut bytes, mut input, mut got) = (BytesMut::new(), BytesMut::new(), Vec::new());
        for frame in samples() {
            encoder.encode(&frame, &mut bytes).unwrap();
        }
        for byte in bytes {
            input.put_u8(byte);
            got.extend(decoder.decode(&mut input).unwrap());
        }
        assert_eq!(got, samples());
    }

    #[test]
    fn data_arrives_in_pieces_and_only_the_last_one_ends_the_stream() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::default());
        let mut bytes = BytesMut::new();
        let whole = Frame::Data { stream: 7, payload: Bytes::from_static(b"hello"), fin: true };
        encoder.encode(&whole, &mut bytes).unwrap();
        let mut late = bytes.split_off(10);
        let piece = |text: &'static [u8], fin| Frame::Data { stream: 7, payload: text.into(), fin };
        assert_eq!(decoder.decode(&mut bytes).unwrap(), Some(piece(b"he", false)));
        assert_eq!(decoder.decode(&mut bytes).unwrap(), None);
        assert_eq!(decoder.decode(&mut late).unwrap(), Some(piece(b"llo", true)));
        assert_eq!(decoder.decode(&mut late).unwrap(), None);
        let mut empty = BytesMut::new();
        encoder.encode(&Frame::Data { stream: 7, payload: Bytes::new(), fin: true }, &mut empty).unwrap();
        assert_eq!(decoder.decode(&mut empty).unwrap(), Some(piece(b"", true)));
    }

    #[test]
    fn nonsense_is_refused_and_unknown_types_are_skipped() {
        let decode = |bytes: &[u8]| Decoder::default().decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x80, 2, 0, 6, 0, 0, 0, 0]), Err(FrameError::Version(2)));
        assert_eq!(decode(&[0x80, 3, 0, 6, 0, 0xff, 0, 0]), Err(FrameError::TooLarge));
        assert!(decode(&[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0, 0, 0]).is_err());
        assert!(decode(&[0x80, 3, 0, 6, 0, 0, 0, 1, 7]).is_err());
        assert_eq!(decode(&[0x80, 3, 0, 10, 0, 0, 0, 0]), Ok(Some(Frame::Unknown { kind: 10 })));
    }
}
