//! The protobuf form of cached objects, made when first asked for and kept: clients that speak
//! protobuf list and watch the same objects again and again. What all collections keep together is
//! bounded; beyond the bound a message is made anew each time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use amphipod_api::protobuf::{Error, Writer};
use amphipod_store::Text;
use bytes::Bytes;

/// 150,000 pods' worth at 1.6 KB each.
const MAX_KEPT_BYTES: usize = 256 << 20;

static KEPT_BYTES: AtomicUsize = AtomicUsize::new(0);

/// One object's message, if it is kept.
#[derive(Debug, Default)]
pub struct Message(OnceLock<Bytes>);

impl Message {
    pub fn get(&self, writer: Writer, json: &Text) -> Result<Bytes, Error> {
        if let Some(kept) = self.0.get() {
            return Ok(kept.clone());
        }
        let mut bytes = writer.message(&json.contiguous())?;
        bytes.shrink_to_fit();
        let made = Bytes::from(bytes);
        if KEPT_BYTES.fetch_add(made.len(), Ordering::Relaxed) + made.len() > MAX_KEPT_BYTES
            || self.0.set(made.clone()).is_err()
        {
            KEPT_BYTES.fetch_sub(made.len(), Ordering::Relaxed);
        }
        Ok(made)
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Some(kept) = self.0.get() {
            KEPT_BYTES.fetch_sub(kept.len(), Ordering::Relaxed);
        }
    }
}
