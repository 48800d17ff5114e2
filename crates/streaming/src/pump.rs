//! Between a backend's plain readers and writers and the messages of a connection.

use std::{future::Future, io};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, DuplexStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::io::StreamReader;

use crate::{
    Error,
    backend::{BoxRead, BoxWrite, TerminalSize},
};

/// Bytes in flight per output stream.
const PIPE_BYTES: usize = 64 * 1024;
/// Largest message sent.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024;
/// Sizes waiting for the backend; only the last matters.
const RESIZE_BACKLOG: usize = 4;
/// Longest piece of an unfinished size object.
const MAX_SIZE_BYTES: usize = 4096;

/// A reader over received messages.
pub fn reader(incoming: mpsc::Receiver<Bytes>) -> BoxRead {
    let stream = futures::stream::unfold(incoming, |mut incoming| async move {
        incoming.recv().await.map(|bytes| (Ok::<_, io::Error>(bytes), incoming))
    });
    Box::new(StreamReader::new(Box::pin(stream)))
}

/// A writer whose bytes a task passes to `send` until it is dropped; the task then calls `send` with an
/// empty message. The task ends early, and further writes fail, when sending fails.
pub fn writer<F, S>(mut send: S) -> (BoxWrite, JoinHandle<()>)
where
    S: FnMut(Bytes) -> F + Send + 'static,
    F: Future<Output = Result<(), Error>> + Send,
{
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let task = tokio::spawn(async move {
        if let Err(error) = forward(far, &mut send).await {
            tracing::debug!(%error, "output stream");
        }
    });
    (Box::new(near), task)
}

async fn forward<F, S>(mut from: DuplexStream, send: &mut S) -> Result<(), Error>
where
    S: FnMut(Bytes) -> F,
    F: Future<Output = Result<(), Error>>,
{
    while let Some(bytes) = read_message(&mut from).await? {
        send(bytes).await?;
    }
    send(Bytes::new()).await
}

/// Reads one message; `None` at the end.
pub async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut buffer = BytesMut::with_capacity(MAX_MESSAGE_BYTES);
    let length = from.read_buf(&mut buffer).await?;
    Ok(if length == 0 { None } else { Some(buffer.freeze()) })
}

/// Turns a stream of JSON objects into terminal sizes. Without a stream there are none.
pub fn sizes(incoming: Option<mpsc::Receiver<Bytes>>) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(RESIZE_BACKLOG);
    let Some(mut incoming) = incoming else { return receiver };
    tokio::spawn(async move {
        let mut pending = Vec::new();
        while let Some(bytes) = incoming.recv().await {
            pending.extend_from_slice(&bytes);
            for size in take_sizes(&mut pending) {
                if sender.send(size).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// Takes complete objects off the front; nonsense is dropped.
fn take_sizes(pending: &mut Vec<u8>) -> Vec<TerminalSize> {
    let mut found = Vec::new();
    let mut stream = serde_json::Deserializer::from_slice(pending).into_iter::<TerminalSize>();
    let mut broken = false;
    loop {
        match stream.next() {
            Some(Ok(size)) => found.push(size),
            Some(Err(error)) => {
                broken = !error.is_eof();
                break;
            }
            None => break,
        }
    }
    let used = stream.byte_offset();
    pending.drain(..used);
    if broken || pending.len() > MAX_SIZE_BYTES {
        pending.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_arrive_in_pieces() {
        let size = |width, height| TerminalSize { width, height };
        let mut pending = br#"{"Width":80,"Height":24}{"Width":1"#.to_vec();
        assert_eq!(take_sizes(&mut pending), [size(80, 24)]);
        pending.extend_from_slice(br#"00,"Height":30}"#);
        pending.push(b'\n');
        assert_eq!(take_sizes(&mut pending), [size(100, 30)]);
        let mut nonsense = b"nonsense".to_vec();
        assert_eq!(take_sizes(&mut nonsense), []);
        assert!(nonsense.is_empty());
    }
}
