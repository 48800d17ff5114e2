//! The default engine: everything in memory, made durable by an append-only, checksummed log.
//!
//! ```text
//! callers --queue--> writer --append+sync--> log     state    what one revision holds (pure)
//!    ^                  |                            history  the recent past
//!    |               publish                         view     what readers and watchers see
//!    +-- range, watch --+                            log, snapshot, recovery: the disk
//! ```
//! The byte layout is in `docs/store-format.md`.

mod deadlines;
mod files;
mod frame;
mod history;
mod log;
mod record;
mod recovery;
mod snapshot;
mod state;
mod view;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

pub use self::files::{Faults, Step};
use self::history::History;
use self::state::State;
use self::view::View;
use self::writer::{Disk, Queued, Reply, Request, Writer};
use crate::contract::{Error, LeaseId, Range, RangeResult, Revision, Store, Txn, TxnResult, WatchStream};

/// Requests waiting for the writer; more wait for a place in the queue.
const QUEUE_REQUESTS: usize = 4096;
/// A segment must hold a header and some frames.
const MIN_SEGMENT_BYTES: u64 = 4096;

/// How the embedded engine uses disk and memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of one log file, allocated as a whole.
    pub segment_bytes: u64,
    /// A snapshot is taken when the log has grown by this much since the last one, and by no less than
    /// the size of everything stored.
    pub snapshot_log_bytes: u64,
    /// Events kept in memory for watches and reads in the past.
    pub history_events: usize,
    /// Bytes of memory for the same: replaced values without what their successors have in common with
    /// them, and what it takes to keep them findable.
    pub history_bytes: usize,
    /// Whether an acknowledged write survives a power loss. Without it only the end of the process is
    /// survived; for throw-away clusters and tests.
    pub fsync: bool,
    /// For tests of failing disks.
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            snapshot_log_bytes: 256 << 20,
            history_events: 200_000,
            history_bytes: 128 << 20,
            fsync: true,
            faults: Faults::default(),
        }
    }
}

/// Dropping it closes it; what was acknowledged is durable in any case.
#[derive(Debug)]
pub struct EmbeddedStore {
    view: Arc<View>,
    queue: mpsc::Sender<Queued>,
    places: Arc<Semaphore>,
    dir: Option<PathBuf>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, which is created if need be. Blocks while it reads everything stored.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        let options = Options { segment_bytes: options.segment_bytes.max(MIN_SEGMENT_BYTES), ..options };
        files::create_dir(dir)?;
        let lock = files::lock(dir)?;
        let recovered = recovery::recover(dir, &options)?;
        let disk = Disk {
            log: recovered.log,
            dir: dir.to_owned(),
            snapshot_log_bytes: options.snapshot_log_bytes,
            faults: options.faults,
            lock,
        };
        Self::start(recovered.state, recovered.history, Some(disk))
    }

    /// A store without a disk, for tests in one process: the same engine, minus the log.
    pub fn memory() -> Result<Self, Error> {
        let Options { history_events, history_bytes, .. } = Options::default();
        Self::start(State::default(), History::new(0, history_events, history_bytes), None)
    }

    fn start(state: State, history: History, disk: Option<Disk>) -> Result<Self, Error> {
        let view = Arc::new(View::new(state.map.clone(), state.revision, history));
        let dir = disk.as_ref().map(|disk| disk.dir.clone());
        let (queue, queued) = mpsc::channel();
        let writer = Writer::new(state, view.clone(), disk, Instant::now());
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queued))
            .map_err(|e| files::io_error("start a thread for", Path::new("the store"), e))?;
        let places = Arc::new(Semaphore::new(QUEUE_REQUESTS));
        Ok(EmbeddedStore { view, queue, places, dir, writer: Mutex::new(Some(thread)) })
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let permit = self.places.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let queued = Queued { request: request(reply), permit: Some(permit) };
        self.queue.send(queued).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // Fails when it was closed before.
        let _ = self.queue.send(Queued { request: Request::Close(None), permit: None });
        if let Some(thread) = self.writer.get_mut().take() {
            // A panic of the writer has been printed where it happened.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, range: Range) -> Result<RangeResult, Error> {
        self.view.range(&range)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, Error> {
        self.ask(|reply| Request::Txn(txn, reply)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error> {
        self.view.watch(prefix, after)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.ask(Request::Progress).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.ask(|reply| Request::Compact(revision, reply)).await
    }

    async fn lease_grant(&self, ttl_seconds: u64) -> Result<LeaseId, Error> {
        self.ask(|reply| Request::LeaseGrant(ttl_seconds, reply)).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.ask(|reply| Request::LeaseKeepAlive(lease, reply)).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.ask(|reply| Request::LeaseRevoke(lease, reply)).await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.view.revision()
    }

    async fn oldest_revision(&self) -> Result<Revision, Error> {
        self.view.revision().map(|_| self.view.oldest())
    }

    async fn size_bytes(&self) -> Result<u64, Error> {
        self.dir.as_deref().map_or(Ok(0), files::size_bytes)
    }

    async fn close(&self) -> Result<(), Error> {
        self.ask(|reply| Request::Close(Some(reply))).await
    }
}
