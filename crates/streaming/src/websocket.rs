//! WebSocket connections: shared writing, and a tunnel that makes one look like a plain byte stream.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::Mutex,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{Error, pump::read_message};

type Socket = WebSocketStream<TokioIo<Upgraded>>;
/// Messages from the client.
pub type Incoming = SplitStream<Socket>;

/// Largest message a client may send.
const MAX_INCOMING_BYTES: usize = 4 * 1024 * 1024;
/// Bytes in flight each way through a tunnel.
const TUNNEL_BYTES: usize = 128 * 1024;
/// Time a client has to answer our goodbye.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// The writing half, shared by everything that has something to say.
#[derive(Clone)]
pub struct Outgoing(Arc<Mutex<SplitSink<Socket, Message>>>);

impl Outgoing {
    pub async fn send(&self, message: Message) -> Result<(), Error> {
        self.0.lock().await.send(message).await.map_err(|error| Error::WebSocket(error.to_string()))
    }

    /// Says goodbye; the client's goodbye still has to be read.
    pub async fn close(&self) {
        drop(self.send(Message::Close(None)).await);
    }
}

/// Takes over an upgraded connection.
pub async fn accept(upgraded: Upgraded) -> (Outgoing, Incoming) {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_INCOMING_BYTES));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (sink, stream) = socket.split();
    (Outgoing(Arc::new(Mutex::new(sink))), stream)
}

/// The next message with content; `None` when the client is gone or has said goodbye.
pub async fn next(incoming: &mut Incoming) -> Option<Bytes> {
    loop {
        match incoming.next().await? {
            Ok(message @ (Message::Binary(_) | Message::Text(_))) => return Some(message.into_data()),
            Ok(Message::Close(_)) | Err(_) => return None,
            // Pings are answered by the library.
            Ok(_) => {}
        }
    }
}

/// Reads until the client is gone, for a bounded time.
pub async fn drain(mut incoming: Incoming) {
    let rest = async { while next(&mut incoming).await.is_some() {} };
    drop(tokio::time::timeout(FAREWELL_TIMEOUT, rest).await);
}

/// The bytes inside the messages, as one stream each way.
pub fn tunnel(outgoing: Outgoing, mut incoming: Incoming) -> DuplexStream {
    let (near, far) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(bytes) = next(&mut incoming).await {
            if to_near.write_all(&bytes).await.is_err() {
                break;
            }
        }
        drop(to_near.shutdown().await);
        // Goodbyes are only answered while someone reads.
        drain(incoming).await;
    });
    tokio::spawn(async move {
        while let Ok(Some(bytes)) = read_message(&mut from_near).await {
            if outgoing.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
        outgoing.close().await;
    });
    near
}
