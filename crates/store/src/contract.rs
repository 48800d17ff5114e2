//! The contract every engine keeps, and which the shared contract test-suite checks.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::text::Text;

/// A point in the store's history; 0 is "before everything", the first write makes 1.
pub type Revision = u64;
pub type LeaseId = i64;
pub type Key = Arc<str>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Key,
    /// The stored object. Where the put named a stamp position, the decimal `mod_revision` stands
    /// there already: reading never rewrites.
    pub value: Text,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// 1 at creation, one more with each put.
    pub version: u64,
    pub lease: Option<LeaseId>,
}

/// Half-open range of keys `[start, end)`.
#[derive(Clone, Debug)]
pub struct Range {
    pub start: String,
    pub end: String,
    /// Read as of this revision; `None` reads the newest.
    pub revision: Option<Revision>,
    /// 0 is no limit.
    pub limit: usize,
}

impl Range {
    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Range { start: prefix.to_owned(), end: prefix_end(prefix), revision: None, limit: 0 }
    }

    /// Only this key.
    pub fn key(key: &str) -> Self {
        Range { start: key.to_owned(), end: format!("{key}\0"), revision: None, limit: 1 }
    }
}

/// The smallest key greater than every key with this prefix.
pub fn prefix_end(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    while let Some(last) = bytes.pop() {
        if last < 0x7f {
            bytes.push(last + 1);
            // Keys are ASCII paths; adding one to an ASCII byte below 0x7f stays ASCII.
            return String::from_utf8(bytes).unwrap_or_default();
        }
    }
    "\u{10ffff}".to_owned()
}

#[derive(Clone, Debug)]
pub struct RangeResult {
    /// The store's revision when the range was read.
    pub revision: Revision,
    pub items: Vec<KeyValue>,
    /// Keys in the range beyond the limit.
    pub more: usize,
}

#[derive(Clone, Debug)]
pub enum Compare {
    /// The key's mod_revision equals this; 0 means the key does not exist.
    ModRevision { key: String, equals: Revision },
}

#[derive(Clone, Debug)]
pub enum Op {
    Put {
        key: String,
        value: Bytes,
        /// Byte offset in `value` at which the engine inserts the decimal revision of this write: the
        /// value is then a JSON object, and this is the place between the quotes of its empty
        /// `metadata.resourceVersion`. (An engine that learns the revision too late to write it finds
        /// the place again when it reads.)
        stamp: Option<usize>,
        lease: Option<LeaseId>,
    },
    Delete {
        key: String,
    },
}

/// All compares hold -> `then` is applied, atomically and at one revision; else nothing is written.
/// A key may be named by one operation only. Deleting a key that is not there changes nothing, and a
/// transaction that changes nothing makes no revision.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub then: Vec<Op>,
}

/// Longest key; Kubernetes' longest is under 700 bytes.
const MAX_KEY_BYTES: usize = 4096;
/// Largest sum of keys and values in one transaction. The API server refuses objects over 3 MiB.
const MAX_TXN_BYTES: usize = 16 << 20;
/// Most operations in one transaction.
const MAX_TXN_OPS: usize = 4096;

impl Op {
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }

    /// Bytes of key and value, or why no engine takes this.
    fn check(&self) -> Result<usize, Error> {
        let key = self.key();
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(Error::Invalid(format!("a key of {} bytes", key.len())));
        }
        let Op::Put { value, stamp, .. } = self else { return Ok(key.len()) };
        if stamp.is_some_and(|at| at > value.len()) {
            return Err(Error::Invalid(format!("the revision's place in {key} lies outside the value")));
        }
        Ok(key.len() + value.len())
    }
}

impl Txn {
    /// Refuses what no engine takes.
    pub fn check(&self) -> Result<(), Error> {
        if self.then.len() > MAX_TXN_OPS {
            return Err(Error::Invalid(format!("more than {MAX_TXN_OPS} operations in one transaction")));
        }
        let mut bytes = 0;
        for op in &self.then {
            bytes += op.check()?;
        }
        if bytes > MAX_TXN_BYTES {
            let why = format!("a transaction of {bytes} bytes, more than {MAX_TXN_BYTES}");
            return Err(Error::TooLarge(why));
        }
        let mut keys: Vec<&str> = self.then.iter().map(Op::key).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::Invalid(format!("the transaction names {} twice", pair[0]))),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct TxnResult {
    pub succeeded: bool,
    /// Of this write when it succeeded, else the store's newest.
    pub revision: Revision,
    /// Current values of the compared keys when a compare failed, in order of `compare`.
    pub current: Vec<Option<KeyValue>>,
    /// The key-values written, one per `Put`, in order, when it succeeded.
    pub written: Vec<KeyValue>,
}

#[derive(Clone, Debug)]
pub enum Event {
    Put(KeyValue),
    /// A deletion (by request or lease expiry) at `revision`.
    Delete {
        key: Key,
        revision: Revision,
    },
}

impl Event {
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put(current) => current.mod_revision,
            Event::Delete { revision, .. } => *revision,
        }
    }
}

/// What a watch yields: all events of one or more whole revisions in order, or a progress note.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    pub events: Vec<Event>,
    /// Everything up to and including this revision has been delivered to this watcher.
    pub revision: Revision,
}

pub type WatchStream = futures::stream::BoxStream<'static, Result<WatchBatch, Error>>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("revision {requested} has been compacted; the oldest kept is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {requested} lies in the future; the newest is {newest}")]
    Future { requested: Revision, newest: Revision },
    #[error("no lease {0}")]
    LeaseNotFound(LeaseId),
    /// What is full and how to make room; nothing was written.
    #[error("the store is full: {0}; nothing stored was harmed")]
    NoSpace(String),
    /// The engine takes no request of that size; nothing was written.
    #[error("the request is too large for the store: {0}")]
    TooLarge(String),
    /// Nothing was written, and nothing could be read.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// A write was sent, but whether it was done is not known: only reading can tell.
    #[error("whether the write was stored is not known: {0}")]
    Unknown(String),
    #[error("a watcher fell too far behind and was closed; list again and watch from there")]
    SlowWatcher,
    #[error("the store is closed")]
    Closed,
    #[error("{path} is in use by {holder}; stop it first, or choose another data directory")]
    Locked { path: String, holder: String },
    /// The caller asked for something no store can do; nothing was written.
    #[error("invalid request to the store: {0}")]
    Invalid(String),
    #[error("the data in {path} is damaged at byte {offset}: {why}. {cure}")]
    Damaged { path: String, offset: u64, why: String, cure: String },
    /// Somebody stored what the caller cannot make sense of.
    #[error("the value of {key} cannot be read: {why}")]
    Unreadable { key: String, why: String },
    #[error("{context}: {source}")]
    Io { context: String, source: Arc<std::io::Error> },
    #[error("the storage backend failed: {0}")]
    Backend(String),
}

/// An engine. A write is acknowledged (the future resolves) only once it is durable.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn range(&self, range: Range) -> Result<RangeResult, Error>;
    async fn txn(&self, txn: Txn) -> Result<TxnResult, Error>;
    /// Events with revision > `after` for keys that begin with `prefix`; the stream begins with
    /// history and goes on live. `Compacted` where that history is gone. An `after` in the future is
    /// allowed: events begin past it. Watchers without events get progress notes now and then.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error>;
    /// Asks that every open watch soon be told how far it has come (an event-less batch, unless events
    /// say it). Engines that cannot hurry keep to their own rhythm.
    async fn request_progress(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Forgets history before `revision` (values current at it stay).
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
    async fn lease_grant(&self, ttl_seconds: u64) -> Result<LeaseId, Error>;
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), Error>;
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error>;
    /// The newest durable revision.
    async fn revision(&self) -> Result<Revision, Error>;
    /// The oldest revision that can still be read or watched from.
    async fn oldest_revision(&self) -> Result<Revision, Error>;
    /// Bytes on disk, for metrics and `status`.
    async fn size_bytes(&self) -> Result<u64, Error>;
    /// Flushes and stops; later calls fail with `Closed`.
    async fn close(&self) -> Result<(), Error>;
}
