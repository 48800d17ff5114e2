//! Many requests of one kind, sent by many clients as fast as they are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Method;

use crate::Outcome;
use crate::wire::{Call, JSON, Wire};

pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// As many as the figures of the original were taken with.
const CLIENTS: usize = 64;

/// What the requests have in common.
pub struct Flood {
    pub method: Method,
    pub content_type: &'static str,
    pub clients: usize,
    pub count: usize,
}

impl Flood {
    pub fn posts(count: usize) -> Self {
        Flood { method: Method::POST, content_type: JSON, clients: CLIENTS, count }
    }
    pub fn patches(count: usize, clients: usize) -> Self {
        Flood { method: Method::PATCH, content_type: MERGE_PATCH, clients, count }
    }
    pub fn deletes(count: usize) -> Self {
        Flood { method: Method::DELETE, ..Flood::posts(count) }
    }

    /// Sends them all, each with the path and body of its number; the first refusal ends it.
    pub async fn send(
        self,
        wire: &Wire,
        each: impl Fn(usize) -> (String, Bytes) + Send + Sync + 'static,
    ) -> Outcome<()> {
        let (next, each, flood) = (Arc::new(AtomicUsize::new(0)), Arc::new(each), Arc::new(self));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..flood.clients {
            let (wire, next, each, flood) = (wire.clone(), next.clone(), each.clone(), flood.clone());
            clients.spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= flood.count {
                        return Outcome::Ok(());
                    }
                    let (path, body) = each(index);
                    let method = flood.method.clone();
                    let content_type = flood.content_type;
                    wire.drain(Call { method, content_type, body, ..Call::get(&path) }).await?;
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    }
}
