//! Bodies: one boxed type for both transports, bounded reading, compression of large answers.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use amphipod_api::status::Status;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Largest request body, as upstream: 3 MiB, twice etcd's limit of 1.5 MiB.
pub const MAX_BODY_BYTES: usize = 3 << 20;
/// Answers at least this long are compressed when the client takes gzip, as upstream.
pub const GZIP_THRESHOLD_BYTES: usize = 128 << 10;
/// Fast: the point is to spare the wire, not to squeeze.
const GZIP_LEVEL: u32 = 1;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn empty() -> Body {
    full(Bytes::new())
}

/// Any other body, its errors boxed.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

pub fn stream<S>(chunks: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    use futures::StreamExt;
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Reads a whole request body; longer than the bound is a 413.
pub async fn read(mut body: Body) -> Result<Bytes, Status> {
    let too_large = || Status::too_large(format!("Request entity too large: limit is {MAX_BODY_BYTES}"));
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    let mut first: Option<Bytes> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("error reading the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        match first.take() {
            None if whole.is_empty() => first = Some(data),
            None => whole.extend_from_slice(&data),
            Some(begin) => {
                whole.extend_from_slice(&begin);
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

/// The first bytes of a body, as far as they arrive.
pub async fn beginning(mut body: Body, bytes: usize) -> Bytes {
    let mut whole = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data[..data.len().min(bytes - whole.len())]);
        }
        if whole.len() >= bytes {
            break;
        }
    }
    whole.freeze()
}

/// Makes an answer whose chunks are of this moment independent of who takes it. One of a single chunk
/// is made whole; another is made ahead, a chunk at a time, by a task of its own that holds `held`
/// until the last chunk is taken and gives up at the deadline. Left to itself a body ends only where
/// it is asked for more, and an HTTP/2 peer with a window of nothing never lets it be asked.
pub async fn ahead<H>(mut content: Body, deadline: Instant, held: H) -> Body
where
    H: Send + 'static,
{
    if content.size_hint().exact().is_some() {
        return content;
    }
    let Some(first) = content.frame().await else { return empty() };
    let Some(second) = content.frame().await else {
        return match first.map(Frame::into_data) {
            Ok(Ok(data)) => full(data),
            Ok(Err(_)) => empty(),
            Err(error) => stream(futures::stream::once(futures::future::ready(Err(error)))),
        };
    };
    let (sender, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let _held = held;
        // Where nobody takes the answer any more there is nobody to tell either.
        let _ = tokio::time::timeout_at(deadline, pump(first, second, content, sender)).await;
    });
    StreamBody::new(Ahead { taken, complete: false }).boxed_unsync()
}

type Chunk = Result<Frame<Bytes>, BoxError>;

/// `None` after the last frame: a channel that closes without it is an answer given up.
async fn pump(
    first: Chunk,
    second: Chunk,
    mut rest: Body,
    sender: mpsc::Sender<Option<Chunk>>,
) -> Result<(), mpsc::error::SendError<Option<Chunk>>> {
    sender.send(Some(first)).await?;
    sender.send(Some(second)).await?;
    while let Some(frame) = rest.frame().await {
        sender.send(Some(frame)).await?;
    }
    sender.send(None).await
}

/// What a task makes ahead.
struct Ahead {
    taken: mpsc::Receiver<Option<Chunk>>,
    complete: bool,
}

impl Stream for Ahead {
    type Item = Chunk;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        if self.complete {
            return Poll::Ready(None);
        }
        let next = ready!(self.taken.poll_recv(cx));
        self.complete = !matches!(next, Some(Some(_)));
        Poll::Ready(match next {
            Some(chunk) => chunk,
            None => Some(Err("the answer was not taken within the time limit".into())),
        })
    }
}

/// Keeps something until a body is through or given up.
pub fn holding<H>(body: Body, held: H) -> Body
where
    H: Send + Unpin + 'static,
{
    Holding { body, _held: held }.boxed_unsync()
}

struct Holding<H> {
    body: Body,
    _held: H,
}

impl<H: Unpin> http_body::Body for Holding<H> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Calls `end` with the bytes that went out, when the body is through or given up.
pub fn finally<F>(body: Body, end: F) -> Body
where
    F: FnOnce(u64) + Send + Unpin + 'static,
{
    StreamBody::new(Finally { body, bytes: 0, end: Some(end) }).boxed_unsync()
}

struct Finally<F: FnOnce(u64)> {
    body: Body,
    bytes: u64,
    end: Option<F>,
}

impl<F: FnOnce(u64) + Unpin> Stream for Finally<F> {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        frame
    }
}

impl<F: FnOnce(u64)> Drop for Finally<F> {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(self.bytes);
        }
    }
}

/// Compresses chunk by chunk, so that streamed lists stay streamed.
pub fn gzip(body: Body) -> Body {
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL)));
    StreamBody::new(Gzip { body, encoder }).boxed_unsync()
}

struct Gzip {
    body: Body,
    /// `None` once the trailer is written.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Stream for Gzip {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.encoder.is_none() {
                return Poll::Ready(None);
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => Some(frame),
                Poll::Ready(None) => None,
            };
            let out = match frame {
                Some(frame) => {
                    let (Ok(data), Some(encoder)) = (frame.into_data(), self.encoder.as_mut()) else {
                        continue;
                    };
                    if let Err(error) = encoder.write_all(&data) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    std::mem::take(encoder.get_mut())
                }
                None => match self.encoder.take().map(GzEncoder::finish) {
                    Some(Ok(rest)) => rest,
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    None => return Poll::Ready(None),
                },
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    fn chunks(texts: &'static [&'static str]) -> Body {
        stream(futures::stream::iter(texts.iter().map(|text| Ok(Bytes::from_static(text.as_bytes())))))
    }

    #[tokio::test]
    async fn answers_nobody_asks_for_end_with_their_taker_or_at_the_deadline() {
        let held = Arc::new(());
        let long = ["a", "b", "c", "d"].as_slice();
        let late = Instant::now() + Duration::from_secs(3600);
        let content = ahead(chunks(long), late, held.clone()).await;
        assert_eq!(Arc::strong_count(&held), 2, "held while there is more to take");
        drop(content);
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
        let soon = Instant::now() + Duration::from_millis(5);
        let content = ahead(chunks(long), soon, held.clone()).await;
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
        content.collect().await.expect_err("a part is not the whole");
    }

    #[tokio::test]
    async fn answers_taken_in_time_are_whole() {
        let late = Instant::now() + Duration::from_secs(60);
        let held = Arc::new(());
        for (texts, length) in [(&[][..], Some(0)), (&["abc"], Some(3)), (&["a", "b", "c"], None)] {
            let content = ahead(chunks(texts), late, held.clone()).await;
            assert_eq!(content.size_hint().exact(), length, "one chunk is made whole");
            let whole = content.collect().await.expect("in time").to_bytes();
            assert_eq!(whole, texts.concat());
        }
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn ends_are_told() {
        let seen = Arc::new(AtomicU64::new(u64::MAX));
        let told = |body: Body| {
            let seen = seen.clone();
            finally(body, move |bytes| seen.store(bytes, Ordering::Release))
        };
        told(full("abc")).collect().await.expect("whole");
        assert_eq!(seen.load(Ordering::Acquire), 3);
        drop(told(full("abc")));
        assert_eq!(seen.load(Ordering::Acquire), 0);
    }
}
