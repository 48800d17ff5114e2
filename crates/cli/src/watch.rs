//! Reading watch streams line by line.

use amphipod_api::object;
use amphipod_client::{Client, Query};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::Request;
use serde_json::Value;

use crate::Error;
use crate::context::Session;
use crate::discovery::Kind;

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
    /// What becomes of one object since it was read, its deletion too.
    pub async fn following(
        session: &Session,
        kind: &Kind,
        namespace: &str,
        read: &Value,
    ) -> Result<Self, Error> {
        let mut query = Query::default();
        query.add("watch", "true");
        query.add("fieldSelector", &format!("metadata.name={}", object::name(read)));
        query.add("resourceVersion", object::resource_version(read));
        let path = format!("{}{}", kind.path(Some(namespace), ""), query.as_str());
        Lines::open(&session.client, &path, "application/json").await
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
