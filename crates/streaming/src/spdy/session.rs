//! One connection: a task reads frames and hands data to streams; writers share the other direction.

use std::{collections::HashMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

use super::{
    frame::{Frame, decode, encode},
    headers::{Decoder, Encoder, Headers},
};
use crate::{Error, backend::BoxWrite};

/// Frames waiting for the reader of one stream; when full, the whole connection waits, as SPDY without
/// flow control demands.
const STREAM_BACKLOG_FRAMES: usize = 32;
/// New streams waiting to be accepted.
const ACCEPT_BACKLOG: usize = 16;
/// Open streams one connection may have.
const MAX_STREAMS: usize = 1024;

/// The writing half of a connection.
pub struct StreamWriter {
    out: Mutex<Sender>,
}

struct Sender {
    io: BoxWrite,
    encoder: Encoder,
}

impl StreamWriter {
    async fn send(&self, frame: &Frame) -> Result<(), Error> {
        let mut sender = self.out.lock().await;
        sender.io.write_all(&encode(frame)).await?;
        sender.io.flush().await?;
        Ok(())
    }

    /// Sends data, or with `fin` the end of a stream.
    pub async fn data(&self, stream: u32, payload: Bytes, fin: bool) -> Result<(), Error> {
        self.send(&Frame::Data { stream, fin, payload }).await
    }

    async fn reply(&self, stream: u32) -> Result<(), Error> {
        let mut sender = self.out.lock().await;
        // Compressed under the same lock that orders the frames: blocks depend on their predecessors.
        let block = Bytes::from(sender.encoder.encode(&Headers::new())?);
        sender.io.write_all(&encode(&Frame::SynReply { stream, block })).await?;
        sender.io.flush().await?;
        Ok(())
    }

    /// Says goodbye and closes our direction.
    pub async fn finish(&self) -> Result<(), Error> {
        self.send(&Frame::GoAway { last_stream: 0 }).await?;
        Ok(self.out.lock().await.io.shutdown().await?)
    }
}

/// A stream the client opened.
pub struct SpdyStream {
    pub id: u32,
    pub headers: Headers,
    /// What the client sends; ends when it half-closes.
    pub incoming: mpsc::Receiver<Bytes>,
    pub writer: Arc<StreamWriter>,
}

/// A connection after the upgrade.
pub struct Session {
    accepted: mpsc::Receiver<SpdyStream>,
    pub writer: Arc<StreamWriter>,
    reader: JoinHandle<()>,
}

impl Session {
    /// Takes over both directions of a connection.
    pub fn start<R, W>(reader: R, writer: W) -> Result<Session, Error>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let writer = Arc::new(StreamWriter {
            out: Mutex::new(Sender { io: Box::new(writer), encoder: Encoder::new()? }),
        });
        let (accept, accepted) = mpsc::channel(ACCEPT_BACKLOG);
        let task = Receiver {
            io: reader,
            decoder: Decoder::new(),
            streams: HashMap::new(),
            accept,
            writer: Arc::clone(&writer),
        };
        let reader = tokio::spawn(async move {
            if let Err(error) = task.run().await {
                tracing::debug!(%error, "SPDY connection");
            }
        });
        Ok(Session { accepted, writer, reader })
    }

    /// The next stream, or `None` when the connection is over.
    pub async fn accept(&mut self) -> Option<SpdyStream> {
        self.accepted.recv().await
    }

    /// Waits until the client has closed the connection.
    pub async fn closed(&mut self) {
        drop((&mut self.reader).await);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Receiver<R> {
    io: R,
    decoder: Decoder,
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    accept: mpsc::Sender<SpdyStream>,
    writer: Arc<StreamWriter>,
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    async fn run(mut self) -> Result<(), Error> {
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        loop {
            while let Some(frame) = decode(&mut buffer)? {
                if matches!(frame, Frame::GoAway { .. }) {
                    return Ok(());
                }
                self.handle(frame).await?;
            }
            if self.io.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::SynStream { stream, fin, block } => self.open(stream, fin, &block).await,
            Frame::Data { stream, fin, payload } => {
                if !payload.is_empty()
                    && let Some(sender) = self.streams.get(&stream)
                {
                    // A stream nobody reads any more swallows its data.
                    drop(sender.send(payload).await);
                }
                if fin {
                    self.streams.remove(&stream);
                }
                Ok(())
            }
            Frame::Reset { stream } => {
                self.streams.remove(&stream);
                Ok(())
            }
            Frame::Ping { id } => self.writer.send(&Frame::Ping { id }).await,
            Frame::SynReply { block, .. } => self.decoder.decode(&block).map(|_| ()),
            Frame::GoAway { .. } | Frame::Other => Ok(()),
        }
    }

    async fn open(&mut self, id: u32, fin: bool, block: &[u8]) -> Result<(), Error> {
        let headers = self.decoder.decode(block)?;
        if self.streams.len() >= MAX_STREAMS {
            return self.writer.send(&Frame::Reset { stream: id }).await;
        }
        let (sender, incoming) = mpsc::channel(STREAM_BACKLOG_FRAMES);
        if !fin {
            self.streams.insert(id, sender);
        }
        self.writer.reply(id).await?;
        let stream = SpdyStream { id, headers, incoming, writer: Arc::clone(&self.writer) };
        // Nobody accepting any more means the session is over.
        self.accept.send(stream).await.map_err(|_| Error::Spdy("session closed".into()))
    }
}
