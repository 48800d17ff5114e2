//! One served SPDY connection over any byte stream: the loops between frames and the multiplexer.

use std::future::Future;
use std::sync::Arc;

use bytes::BytesMut;
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::frame::{
    Decoder, Encoder, Frame, FrameError, Headers, RESET_PROTOCOL_ERROR, RESET_REFUSED, SETTING_INITIAL_WINDOW,
};
use super::headers;
use crate::connection;
use crate::mux::{Incoming, Mux, Notice, Outgoing, Output};

/// New streams waiting for the work to look at them.
const NEW_STREAMS: usize = 32;
/// Bytes read from the connection at a time.
const READ_STEP: usize = 32 << 10;
/// Encoded output gathered before it is written.
const WRITE_BATCH: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A stream the peer wants to open: to be accepted or refused.
#[derive(Debug)]
pub(crate) struct NewStream {
    id: u32,
    headers: Headers,
    mux: Arc<Mux>,
    ends: (Incoming, Outgoing),
}

impl NewStream {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        headers::find(&self.headers, name).filter(|value| !value.is_empty())
    }

    pub(crate) fn accept(self) -> (Incoming, Outgoing) {
        self.mux.notice(Notice::Reply { stream: self.id });
        self.ends
    }

    pub(crate) fn refuse(self) {
        self.mux.reset(self.id, RESET_REFUSED);
    }
}

/// Serves SPDY on `io`: `work` gets the streams the peer opens, and the connection ends with it.
pub(crate) async fn serve<T, F, W>(io: T, work: F)
where
    T: AsyncRead + AsyncWrite + Send,
    F: FnOnce(Arc<Mux>, mpsc::Receiver<NewStream>) -> W,
    W: Future<Output = ()>,
{
    let mux = Mux::new(true);
    let (sender, receiver) = mpsc::channel(NEW_STREAMS);
    let (read_half, write_half) = tokio::io::split(io);
    let reader = Reader { mux: mux.clone(), sender, last: 0 };
    let reading = async {
        if let Err(error) = reader.run(read_half).await {
            tracing::debug!(%error, "reading SPDY failed");
        }
    };
    let writing = async {
        if let Err(error) = write_loop(write_half, &mux).await {
            tracing::debug!(%error, "writing SPDY failed");
        }
    };
    let work = work(mux.clone(), receiver);
    connection::drive(mux.clone(), reading, writing, work).await;
}

struct Reader {
    mux: Arc<Mux>,
    sender: mpsc::Sender<NewStream>,
    /// The last stream the peer opened; ids must go up.
    last: u32,
}

impl Reader {
    async fn run(mut self, mut io: impl AsyncRead + Unpin) -> Result<(), SessionError> {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        loop {
            while let Some(frame) = decoder.decode(&mut input)? {
                if matches!(frame, Frame::GoAway { .. }) {
                    return Ok(());
                }
                self.take(frame).await;
            }
            self.mux.room().await;
            input.reserve(READ_STEP);
            if io.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { stream, headers, fin, .. } => self.open(stream, headers, fin).await,
            Frame::Data { stream, payload, fin } => {
                self.mux.receive(stream, payload);
                self.end_if(fin, stream);
            }
            Frame::Headers { stream, fin, .. } | Frame::SynReply { stream, fin, .. } => {
                self.end_if(fin, stream)
            }
            Frame::Reset { stream, .. } => self.mux.receive_reset(stream),
            Frame::WindowUpdate { stream, delta } => self.mux.receive_credit(stream, delta),
            // The peer's pings are odd; an even one would answer a ping of ours, and we send none.
            Frame::Ping { id } if !id.is_multiple_of(2) => self.mux.notice(Notice::Pong { id }),
            Frame::Settings { entries } => {
                for (_, window) in entries.iter().filter(|(id, _)| *id == SETTING_INITIAL_WINDOW) {
                    self.mux.receive_initial_window(*window);
                }
            }
            Frame::Ping { .. } | Frame::GoAway { .. } | Frame::Unknown { .. } => {}
        }
    }

    fn end_if(&self, fin: bool, stream: u32) {
        if fin {
            self.mux.receive_end(stream);
        }
    }

    async fn open(&mut self, id: u32, headers: Headers, fin: bool) {
        if id.is_multiple_of(2) || id <= self.last {
            self.mux.notice(Notice::Reset { stream: id, status: RESET_PROTOCOL_ERROR });
            return;
        }
        self.last = id;
        let Some(ends) = self.mux.open(id) else {
            self.mux.notice(Notice::Reset { stream: id, status: RESET_REFUSED });
            return;
        };
        self.end_if(fin, id);
        let stream = NewStream { id, headers, mux: self.mux.clone(), ends };
        if let Err(unwanted) = self.sender.send(stream).await {
            unwanted.0.refuse();
        }
    }
}

async fn write_loop(mut io: impl AsyncWrite + Unpin, mux: &Mux) -> Result<(), SessionError> {
    let (mut encoder, mut batch) = (Encoder::new()?, BytesMut::new());
    loop {
        let output = match mux.output().now_or_never() {
            Some(output) => output,
            None => {
                write_batch(&mut io, &mut batch).await?;
                mux.output().await
            }
        };
        let finished = matches!(output, Output::Finished { .. });
        encode(&mut encoder, output, &mut batch)?;
        if finished || batch.len() >= WRITE_BATCH {
            write_batch(&mut io, &mut batch).await?;
        }
        if finished {
            return Ok(io.shutdown().await?);
        }
    }
}

async fn write_batch(io: &mut (impl AsyncWrite + Unpin), batch: &mut BytesMut) -> std::io::Result<()> {
    io.write_all(batch).await?;
    batch.clear();
    io.flush().await
}

fn encode(encoder: &mut Encoder, output: Output, batch: &mut BytesMut) -> Result<(), FrameError> {
    let frame = match output {
        Output::Notice(Notice::Reply { stream }) => {
            Frame::SynReply { stream, headers: Headers::new(), fin: false }
        }
        Output::Notice(Notice::Reset { stream, status }) => Frame::Reset { stream, status },
        Output::Notice(Notice::Pong { id }) => Frame::Ping { id },
        Output::Credit { stream, bytes } => Frame::WindowUpdate { stream, delta: bytes },
        Output::Data { stream, payload, fin } => Frame::Data { stream, payload, fin },
        Output::Finished { last } => Frame::GoAway { last },
    };
    encoder.encode(&frame, batch)
}
