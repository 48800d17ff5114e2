//! LIST as protobuf, streamed. Protobuf says lengths first, so each item's message is measured
//! before the first byte goes out; the cache mostly has them ready.

use std::sync::Arc;

use amphipod_api::protobuf::{ListFrame, Writer};
use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use bytes::Bytes;
use futures::StreamExt;

use super::list::Page;
use crate::body::{self, Body, BoxError};
use crate::cache::Entry;

const CHUNK_BYTES: usize = 64 << 10;
/// Messages made before the thread is given to others.
const MEASURED_AT_ONCE: usize = 256;

pub async fn content(resource: &Resource, writer: Writer, page: Page) -> Result<Body, Status> {
    let mut sizes = Vec::with_capacity(page.entries.len());
    for entries in page.entries.chunks(MEASURED_AT_ONCE) {
        for entry in entries {
            sizes.push(entry.message(writer).map_err(Status::internal)?.len());
        }
        tokio::task::yield_now().await;
    }
    let kind = format!("{}List", resource.kind);
    let frame = ListFrame::new(&resource.api_version(), &kind, &page.metadata(), sizes.into_iter())
        .map_err(Status::internal)?;
    let chunks = Chunks { writer, frame, entries: page.entries.into_iter(), begun: false, open: true };
    let stream =
        futures::stream::unfold(
            chunks,
            |mut chunks| async move { chunks.next().map(|chunk| (chunk, chunks)) },
        );
    Ok(body::stream(stream.boxed()))
}

/// What is still to be sent.
struct Chunks {
    writer: Writer,
    frame: ListFrame,
    entries: std::vec::IntoIter<Arc<Entry>>,
    begun: bool,
    open: bool,
}

impl Chunks {
    fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        if !self.open {
            return None;
        }
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        if !std::mem::replace(&mut self.begun, true) {
            out.extend(&self.frame.head);
        }
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.entries.next() else {
                out.extend(ListFrame::TAIL);
                self.open = false;
                break;
            };
            match entry.message(self.writer) {
                Ok(message) => {
                    self.frame.before_item(message.len(), &mut out);
                    message.chunks().for_each(|chunk| out.extend_from_slice(chunk));
                }
                Err(error) => {
                    self.open = false;
                    return Some(Err(error.into()));
                }
            }
        }
        Some(Ok(out.into()))
    }
}
