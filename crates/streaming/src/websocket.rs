//! WebSocket connections: channels of one byte stream each, and a plain byte stream through binary messages.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::connection;
use crate::mux::{Mux, Output};

/// The largest message accepted; clients in use send 32 KiB at a time.
const MAX_MESSAGE: usize = 4 << 20;
const BUFFER: usize = 32 << 10;
/// The largest message of a tunnelled byte stream.
const TUNNEL_PIECE: usize = 64 << 10;
/// The channel whose messages close the channel they name (v5).
const CLOSE_CHANNEL: u8 = 255;

/// How channel messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Codec {
    /// The channel number is a digit, and the rest base64, so that messages are text.
    pub(crate) base64: bool,
    /// The peer may close single channels.
    pub(crate) close_signal: bool,
}

impl Codec {
    fn encode(self, channel: u32, payload: &[u8]) -> Message {
        let channel = u8::try_from(channel).unwrap_or(u8::MAX);
        if self.base64 {
            let digit = char::from(b'0'.wrapping_add(channel));
            return Message::text(format!("{digit}{}", BASE64.encode(payload)));
        }
        let mut message = BytesMut::with_capacity(payload.len() + 1);
        message.put_u8(channel);
        message.put_slice(payload);
        Message::Binary(message.freeze())
    }

    /// Hands a message to its channel. Messages that name none, or are not base64, are dropped.
    fn deliver(self, mut message: Bytes, mux: &Mux) {
        let Ok(channel) = message.try_get_u8() else { return };
        if self.base64 {
            if let Ok(payload) = BASE64.decode(&message) {
                mux.receive(u32::from(channel.wrapping_sub(b'0')), payload.into());
            }
        } else if self.close_signal && channel == CLOSE_CHANNEL {
            message.iter().for_each(|&channel| mux.receive_end(u32::from(channel)));
        } else {
            mux.receive(u32::from(channel), message);
        }
    }
}

pub(crate) async fn accept<T>(io: T) -> WebSocketStream<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Serves channels: `work` opens those it wants on `mux`, and the connection ends with it.
pub(crate) async fn serve_channels<T>(io: T, codec: Codec, mux: Arc<Mux>, work: impl Future<Output = ()>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, stream) = accept(io).await.split();
    let writing = async {
        if let Err(error) = write_loop(sink, codec, &mux).await {
            tracing::debug!(%error, "writing to a WebSocket failed");
        }
    };
    connection::drive(mux.clone(), read_loop(stream, codec, &mux), writing, work).await;
}

async fn read_loop<T>(mut stream: SplitStream<WebSocketStream<T>>, codec: Codec, mux: &Mux)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        mux.room().await;
        match stream.next().await {
            Some(Ok(Message::Binary(message))) => codec.deliver(message, mux),
            Some(Ok(Message::Text(message))) => codec.deliver(message.into(), mux),
            // After a close message the next read flushes our reply and ends.
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "reading from a WebSocket failed");
                return;
            }
            None => return,
        }
    }
}

async fn write_loop<T>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    codec: Codec,
    mux: &Mux,
) -> Result<(), WsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let output = match mux.output().now_or_never() {
            Some(output) => output,
            None => {
                sink.flush().await?;
                mux.output().await
            }
        };
        match output {
            Output::Data { payload, fin: true, .. } if payload.is_empty() => {}
            Output::Data { stream, payload, .. } => sink.feed(codec.encode(stream, &payload)).await?,
            Output::Finished { .. } => return sink.send(goodbye()).await,
            Output::Notice(_) | Output::Credit { .. } => {}
        }
    }
}

/// A byte stream through the binary messages of a WebSocket.
pub(crate) struct Tunnel<T> {
    socket: WebSocketStream<T>,
    unread: Bytes,
    goodbye_said: bool,
}

impl<T> Tunnel<T> {
    pub(crate) fn new(socket: WebSocketStream<T>) -> Self {
        Self { socket, unread: Bytes::new(), goodbye_said: false }
    }
}

fn to_io(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        WsError::ConnectionClosed | WsError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::other(other),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => self.unread = message,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Ok(_)) => {}
                Some(Err(WsError::ConnectionClosed)) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
        let take = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(take));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(to_io)?;
        let piece = &data[..data.len().min(TUNNEL_PIECE)];
        let message = Message::Binary(Bytes::copy_from_slice(piece));
        Pin::new(&mut self.socket).start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.goodbye_said {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(to_io)?;
            Pin::new(&mut self.socket).start_send(goodbye()).map_err(to_io)?;
            self.goodbye_said = true;
        }
        Pin::new(&mut self.socket).poll_flush(cx).map_err(to_io)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn channel_messages_find_their_streams() {
        let cases = [
            (Codec { base64: false, close_signal: true }, &b"\0hi"[..]),
            (Codec { base64: true, close_signal: false }, &b"0aGk="[..]),
        ];
        for (codec, message) in cases {
            let mux = Mux::new(false);
            let (mut incoming, _outgoing) = mux.open(0).unwrap();
            for noise in [&b""[..], b"\x09lost", b"0%%%"] {
                codec.deliver(Bytes::from_static(noise), &mux);
            }
            codec.deliver(Bytes::from_static(message), &mux);
            codec.deliver(Bytes::from_static(b"\xff\0"), &mux);
            mux.receive_end(0);
            let mut got = String::new();
            incoming.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "hi");
            assert_eq!(codec.encode(0, b"hi").into_data(), message);
        }
    }
}
