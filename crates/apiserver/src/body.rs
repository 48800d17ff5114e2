//! Bodies: one boxed type for both transports, bounded reading, compression of large answers.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use amphipod_api::status::Status;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};

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

/// Ends a body with an error when it is not through by then.
pub fn until(body: Body, deadline: tokio::time::Instant) -> Body {
    let timer = Box::pin(tokio::time::sleep_until(deadline));
    StreamBody::new(Until { body, timer }).boxed_unsync()
}

struct Until {
    body: Body,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl Stream for Until {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("the answer was not taken within the time limit".into())));
        }
        Pin::new(&mut self.body).poll_frame(cx)
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

    #[tokio::test]
    async fn answers_nobody_takes_in_time_end() {
        let never = || stream(futures::stream::pending());
        let soon = tokio::time::Instant::now() + Duration::from_millis(5);
        until(never(), soon).collect().await.expect_err("too late");
        let late = tokio::time::Instant::now() + Duration::from_secs(60);
        let whole = until(full("abc"), late).collect().await.expect("in time");
        assert_eq!(whole.to_bytes(), "abc");
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
