//! Kubernetes' WebSocket sub-protocols: the first byte of each message names a channel.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
/// v5: the payload names a channel the sender is done with.
const CLOSE: u8 = 255;

/// How channel and payload are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Binary messages, channel as a number.
    Binary,
    /// Text messages, channel as a digit, payload in base64.
    Base64,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Data { channel: u8, payload: Bytes },
    Close { channel: u8 },
    Ignored,
}

/// A message carrying `payload` on `channel`.
pub fn encode(encoding: Encoding, channel: u8, payload: &[u8]) -> Message {
    match encoding {
        Encoding::Binary => {
            let mut message = Vec::with_capacity(payload.len() + 1);
            message.push(channel);
            message.extend_from_slice(payload);
            Message::Binary(message.into())
        }
        Encoding::Base64 => {
            let text = format!("{}{}", char::from(b'0' + channel), STANDARD.encode(payload));
            Message::Text(text.into())
        }
    }
}

/// Reads a message. `closes` says whether the protocol has close signals.
pub fn decode(encoding: Encoding, closes: bool, message: &[u8]) -> Input {
    let Some((first, payload)) = message.split_first() else { return Input::Ignored };
    match encoding {
        Encoding::Binary if *first == CLOSE && closes => match payload {
            [channel] => Input::Close { channel: *channel },
            _ => Input::Ignored,
        },
        Encoding::Binary => Input::Data { channel: *first, payload: Bytes::copy_from_slice(payload) },
        Encoding::Base64 => match (first.checked_sub(b'0'), STANDARD.decode(payload)) {
            (Some(channel), Ok(payload)) => Input::Data { channel, payload: payload.into() },
            _ => Input::Ignored,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_in_both_encodings() {
        assert_eq!(encode(Encoding::Binary, STDOUT, b"hi").into_data(), Bytes::from_static(b"\x01hi"));
        assert_eq!(encode(Encoding::Base64, STDOUT, b"hi").into_data(), Bytes::from_static(b"1aGk="));
        let data =
            |channel, payload: &'static [u8]| Input::Data { channel, payload: Bytes::from_static(payload) };
        assert_eq!(decode(Encoding::Binary, false, b"\x00ls\n"), data(STDIN, b"ls\n"));
        assert_eq!(decode(Encoding::Base64, false, b"0bHMK"), data(STDIN, b"ls\n"));
        assert_eq!(decode(Encoding::Binary, true, &[255, 0]), Input::Close { channel: STDIN });
        assert_eq!(decode(Encoding::Binary, false, &[255, 0]), data(255, b"\x00"));
        assert_eq!(decode(Encoding::Base64, false, b"0?"), Input::Ignored);
        assert_eq!(decode(Encoding::Binary, true, b""), Input::Ignored);
    }
}
