//! Reading watch streams line by line.

use amphipod_client::Client;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::Request;
use serde_json::Value;

use crate::Error;

type Chunks = Box<dyn Stream<Item = Result<Bytes, amphipod_client::Error>> + Send + Unpin>;

pub struct Lines {
    chunks: Chunks,
    buffer: Vec<u8>,
}

impl Lines {
    pub async fn open(client: &Client, path: &str, accept: &str) -> Result<Self, Error> {
        let request = Request::builder().uri(path).header("accept", accept).body(Vec::new())?;
        Ok(Lines { chunks: Box::new(client.stream(request).await?), buffer: Vec::new() })
    }
    /// The next event as (type, object); `None` when the server ends the watch.
    pub async fn next(&mut self) -> Result<Option<(String, Value)>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line)?;
                let kind = event["type"].as_str().unwrap_or("").to_owned();
                return Ok(Some((kind, event["object"].take())));
            }
            match self.chunks.next().await {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None => return Ok(None),
            }
        }
    }
}
