//! The one thread that changes the store.
//!
//! It takes all requests that wait, applies them to a clone of the state, writes one frame, syncs once,
//! then publishes and answers. When the disk refuses, the clone is thrown away and everyone is told;
//! nothing that was stored is touched.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::deadlines::Deadlines;
use super::files::{DirLock, Faults};
use super::frame::{self, FRAME_HEADER_BYTES, Header};
use super::log::{AppendError, Log};
use super::record;
use super::snapshot::{self, Snapshot};
use super::state::{Commit, State};
use super::view::View;
use crate::contract::{Error, LeaseId, Revision, Txn, TxnResult};

/// Requests that share one sync at most.
const BATCH_REQUESTS: usize = 1024;
/// Body size from which a batch takes no more requests.
const BATCH_BYTES: usize = 4 << 20;
/// Keys of one lease that are deleted at one revision. A lease with more of them ends in several steps,
/// for a commit must fit one frame; each step is more than `BATCH_BYTES`, so a batch has one at most.
const LEASE_BYTES: usize = 8 << 20;
/// Capacity above which the frame buffer is given back after use.
const KEEP_BUFFER_BYTES: usize = 8 << 20;
/// How long watchers without events wait to hear how far the store has come.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Longest lease: deadlines stay far from the clock's end.
const MAX_TTL_SECONDS: u64 = 10 * 365 * 24 * 3600;

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

pub(super) enum Request {
    Txn(Txn, Reply<TxnResult>),
    Compact(Revision, Reply<()>),
    LeaseGrant(u64, Reply<LeaseId>),
    LeaseKeepAlive(LeaseId, Reply<()>),
    LeaseRevoke(LeaseId, Reply<()>),
    Progress(Reply<()>),
    Close(Option<Reply<()>>),
}

/// A request and its place in the bounded queue.
pub(super) struct Queued {
    pub request: Request,
    pub permit: Option<OwnedSemaphorePermit>,
}

/// The on-disk half of a store.
pub(super) struct Disk {
    pub log: Log,
    pub dir: PathBuf,
    pub snapshot_log_bytes: u64,
    pub faults: Faults,
    pub lock: DirLock,
}

pub(super) struct Writer {
    state: State,
    view: Arc<View>,
    disk: Option<Disk>,
    deadlines: Deadlines,
    /// Set when the disk failed in a way only a restart can judge: no write is taken any more.
    broken: Option<Error>,
    /// The last batch was refused: said in the log once, not once per batch.
    refusing: bool,
    /// The frame being gathered; kept for its memory.
    frame: Vec<u8>,
    progress: Progress,
    snapshot: Option<RunningSnapshot>,
    /// A revocation of which the last batch did a part; it goes on before anything else is taken.
    unfinished: Option<(LeaseId, Reply<()>)>,
}

/// When watchers were last woken to hear how far the store has come.
struct Progress {
    told: Revision,
    at: Instant,
    /// Somebody does not want to wait for the interval.
    asked: bool,
}

struct RunningSnapshot {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

/// An answer that waits for the batch to be durable.
enum Answer {
    Txn(Reply<TxnResult>, Result<TxnResult, Error>),
    Lease(Reply<LeaseId>, Result<LeaseId, Error>),
    Unit(Reply<()>, Result<(), Error>),
}

impl Answer {
    /// Whoever asked may have gone away; then the answer is nobody's.
    fn send(self, failure: Option<&Error>) {
        match self {
            Answer::Txn(reply, result) => drop(reply.send(failure.cloned().map_or(result, Err))),
            Answer::Lease(reply, result) => drop(reply.send(failure.cloned().map_or(result, Err))),
            Answer::Unit(reply, result) => drop(reply.send(failure.cloned().map_or(result, Err))),
        }
    }
}

/// Requests applied to a clone of the state, waiting to become durable together.
struct Batch {
    state: State,
    commits: Vec<Arc<Commit>>,
    answers: Vec<Answer>,
    permits: Vec<OwnedSemaphorePermit>,
    granted: Vec<LeaseId>,
    /// Gone with this batch, by request or because they expired.
    revoked: Vec<LeaseId>,
    /// Ended, or made smaller, because their time was over.
    expired: Vec<LeaseId>,
    /// A lease of which this batch deleted as many keys as one commit takes.
    unfinished: Option<(LeaseId, Reply<()>)>,
    compact: Option<Revision>,
    requests: usize,
    close: Option<Option<Reply<()>>>,
}

impl Writer {
    pub fn new(state: State, view: Arc<View>, disk: Option<Disk>, now: Instant) -> Self {
        let mut deadlines = Deadlines::default();
        for (id, lease) in &state.leases {
            // Nobody could keep leases alive while the store was down: each gets its whole time again.
            deadlines.set(*id, now + Duration::from_secs(lease.ttl_seconds));
        }
        let progress = Progress { told: state.revision, at: now, asked: false };
        let frame = Vec::new();
        Writer {
            state,
            view,
            disk,
            deadlines,
            broken: None,
            refusing: false,
            frame,
            progress,
            snapshot: None,
            unfinished: None,
        }
    }

    pub fn run(mut self, queue: &Receiver<Queued>) {
        loop {
            let first = self.next(queue);
            let mut batch = Batch::new(self.state.clone());
            frame::begin(&mut self.frame);
            self.gather(first, queue, &mut batch);
            self.expire_leases(Instant::now(), &mut batch);
            let close = self.commit(batch);
            if let Some(reply) = close {
                self.finish(reply);
                return;
            }
            self.tell_progress(Instant::now());
            self.snapshot_if_due();
        }
    }

    /// The request to begin the next batch with; `None` where something else is due.
    fn next(&mut self, queue: &Receiver<Queued>) -> Option<Queued> {
        let own = |request| Some(Queued { request, permit: None });
        if let Some((id, reply)) = self.unfinished.take() {
            return own(Request::LeaseRevoke(id, reply));
        }
        match queue.recv_timeout(self.patience(Instant::now())) {
            Ok(queued) => Some(queued),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => own(Request::Close(None)),
        }
    }

    /// How long to wait for a request before something is due anyway.
    fn patience(&self, now: Instant) -> Duration {
        /// With nothing due, any long time will do.
        const IDLE: Duration = Duration::from_secs(3600);
        let lease = if self.broken.is_none() { self.deadlines.next() } else { None };
        let progress =
            (self.state.revision > self.progress.told).then(|| self.progress.at + PROGRESS_INTERVAL);
        lease.into_iter().chain(progress).min().map_or(IDLE, |due| due.saturating_duration_since(now))
    }

    fn gather(&mut self, first: Option<Queued>, queue: &Receiver<Queued>, batch: &mut Batch) {
        let mut next = first;
        while let Some(Queued { request, permit }) = next {
            batch.permits.extend(permit);
            batch.requests += 1;
            self.take(request, batch);
            let full = batch.requests >= BATCH_REQUESTS || self.frame.len() >= BATCH_BYTES;
            next = if full || batch.close.is_some() { None } else { queue.try_recv().ok() };
        }
    }

    fn take(&mut self, request: Request, batch: &mut Batch) {
        match request {
            Request::Txn(txn, reply) => {
                let result = batch.txn(&txn, &mut self.frame);
                batch.answers.push(Answer::Txn(reply, result));
            }
            Request::Compact(revision, reply) => {
                let result = batch.compact(revision, self.view.oldest(), &mut self.frame);
                batch.answers.push(Answer::Unit(reply, result));
            }
            Request::LeaseGrant(ttl_seconds, reply) => {
                let result = batch.grant(ttl_seconds, &mut self.frame);
                batch.answers.push(Answer::Lease(reply, result));
            }
            Request::LeaseKeepAlive(id, reply) => {
                let result = match batch.state.leases.get(&id) {
                    Some(lease) => {
                        let end = Instant::now() + Duration::from_secs(lease.ttl_seconds);
                        self.deadlines.set(id, end);
                        Ok(())
                    }
                    None => Err(Error::LeaseNotFound(id)),
                };
                batch.answers.push(Answer::Unit(reply, result));
            }
            Request::LeaseRevoke(id, reply) if batch.shed(id, &mut self.frame) => {
                batch.unfinished = Some((id, reply));
            }
            Request::LeaseRevoke(id, reply) => {
                let result = batch.revoke(id, &mut self.frame);
                batch.answers.push(Answer::Unit(reply, result));
            }
            Request::Progress(reply) => {
                self.progress.asked = true;
                batch.answers.push(Answer::Unit(reply, Ok(())));
            }
            Request::Close(reply) => batch.close = Some(reply),
        }
    }

    fn expire_leases(&mut self, now: Instant, batch: &mut Batch) {
        if self.broken.is_some() {
            return;
        }
        for id in self.deadlines.ended(now, BATCH_REQUESTS) {
            // Many leases end together after a restart; the rest goes with the next batches.
            if self.frame.len() >= BATCH_BYTES {
                return;
            }
            // One that is shed stays overdue until all its keys are gone.
            if batch.shed(id, &mut self.frame) || batch.revoke(id, &mut self.frame).is_ok() {
                batch.expired.push(id);
            } else if !self.state.leases.contains_key(&id) {
                // Its grant was never stored. (A lease that a request of this batch revoked is stored.)
                self.deadlines.remove(id);
            }
        }
    }

    /// Makes the batch durable, publishes it and answers; or takes it back and tells everyone why.
    fn commit(&mut self, mut batch: Batch) -> Option<Option<Reply<()>>> {
        let wrote = self.frame.len() > FRAME_HEADER_BYTES;
        let failure = if wrote { self.append().err() } else { None };
        match &failure {
            None => {
                self.state = batch.state;
                self.unfinished = batch.unfinished.take();
                self.note_leases(&batch.granted, &batch.revoked);
                if !batch.commits.is_empty() || batch.compact.is_some() {
                    self.view.publish(&self.state.map, batch.commits, batch.compact);
                }
            }
            Some(error) => {
                if let Some((_, reply)) = batch.unfinished.take() {
                    batch.answers.push(Answer::Unit(reply, Ok(())));
                }
                if !self.refusing {
                    tracing::warn!(%error, "writes are refused");
                }
                self.postpone(&batch.expired);
            }
        }
        if wrote {
            if self.refusing && failure.is_none() {
                tracing::info!("writes are taken again");
            }
            self.refusing = failure.is_some();
        }
        for answer in batch.answers {
            answer.send(failure.as_ref());
        }
        if self.frame.capacity() > KEEP_BUFFER_BYTES {
            self.frame = Vec::new();
        }
        batch.close
    }

    fn append(&mut self) -> Result<(), Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let Some(disk) = &mut self.disk else { return Ok(()) };
        disk.log.append(&mut self.frame).map_err(|failure| match failure {
            AppendError::Refused(error) => error,
            AppendError::Broken(error) => {
                let why = format!("{error}; no write is taken until the process is started again");
                self.broken = Some(Error::Backend(why.clone()));
                // This very write may come back then.
                Error::Unknown(why)
            }
        })
    }

    fn note_leases(&mut self, granted: &[LeaseId], revoked: &[LeaseId]) {
        let now = Instant::now();
        for id in granted {
            if let Some(lease) = self.state.leases.get(id) {
                self.deadlines.set(*id, now + Duration::from_secs(lease.ttl_seconds));
            }
        }
        for id in revoked {
            self.deadlines.remove(*id);
        }
    }

    /// Leases whose end could not be written are tried again, but not in a busy loop.
    fn postpone(&mut self, expired: &[LeaseId]) {
        const RETRY: Duration = Duration::from_secs(1);
        let again = Instant::now() + RETRY;
        for id in expired {
            self.deadlines.set(*id, again);
        }
    }

    fn tell_progress(&mut self, now: Instant) {
        let due = self.state.revision > self.progress.told && now >= self.progress.at + PROGRESS_INTERVAL;
        if due || self.progress.asked {
            self.progress = Progress { told: self.state.revision, at: now, asked: false };
            self.view.wake_all();
        }
    }

    /// Starts a snapshot once the log has grown enough, and by no less than the state's own size:
    /// so a byte written costs at most about one more in snapshots.
    fn snapshot_if_due(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        if self.snapshot.as_ref().is_some_and(|running| running.thread.is_finished()) {
            self.snapshot = None;
        }
        let due = disk.log.since_snapshot_bytes >= disk.snapshot_log_bytes.max(self.state.live_bytes);
        if !due || self.snapshot.is_some() || self.broken.is_some() {
            return;
        }
        disk.log.since_snapshot_bytes = 0;
        let first_segment = match disk.log.rotate() {
            Ok(number) => number,
            // Tried again when the log has grown as much again.
            Err(error) => return tracing::warn!(%error, "no snapshot taken"),
        };
        let header = Header { store_id: disk.log.store_id, sequence: disk.log.next_sequence - 1 };
        let snapshot = Snapshot { state: self.state.clone(), header, first_segment };
        let (dir, faults) = (disk.dir.clone(), disk.faults.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("store-snapshot".into()).spawn(move || {
            if let Err(error) = snapshot::write(&dir, &snapshot, &stopped, &faults) {
                tracing::warn!(%error, "no snapshot taken; the log is kept");
            }
        });
        match thread {
            Ok(thread) => self.snapshot = Some(RunningSnapshot { thread, stop }),
            Err(error) => tracing::warn!(%error, "no snapshot taken"),
        }
    }

    fn finish(self, reply: Option<Reply<()>>) {
        self.view.close();
        if let Some(running) = self.snapshot {
            running.stop.store(true, Ordering::Relaxed);
            // A snapshot that panicked left only its temporary file.
            let _ = running.thread.join();
        }
        // Lets go of the lock before anyone hears that the store is closed.
        if let Some(Disk { log, lock, .. }) = self.disk {
            drop(log);
            drop(lock);
        }
        if let Some(reply) = reply {
            let _ = reply.send(Ok(()));
        }
    }
}

impl Batch {
    fn new(state: State) -> Self {
        Batch {
            state,
            commits: Vec::new(),
            answers: Vec::new(),
            permits: Vec::new(),
            granted: Vec::new(),
            revoked: Vec::new(),
            expired: Vec::new(),
            unfinished: None,
            compact: None,
            requests: 0,
            close: None,
        }
    }

    fn txn(&mut self, txn: &Txn, frame: &mut Vec<u8>) -> Result<TxnResult, Error> {
        if let Some(current) = self.state.compare(&txn.compare) {
            let revision = self.state.revision;
            return Ok(TxnResult { succeeded: false, revision, current, written: Vec::new() });
        }
        self.state.check(txn)?;
        let commit = self.state.apply(&txn.then);
        let written = commit.iter().flat_map(|commit| &commit.changes);
        let written = written.filter_map(|change| change.current.as_deref().cloned()).collect();
        self.add(commit, frame);
        Ok(TxnResult { succeeded: true, revision: self.state.revision, current: Vec::new(), written })
    }

    fn add(&mut self, commit: Option<Commit>, frame: &mut Vec<u8>) {
        if let Some(commit) = commit {
            record::encode_commit(&commit, frame);
            self.commits.push(Arc::new(commit));
        }
    }

    fn compact(&mut self, revision: Revision, oldest: Revision, frame: &mut Vec<u8>) -> Result<(), Error> {
        let oldest = self.compact.unwrap_or(0).max(oldest);
        if revision > self.state.revision {
            return Err(Error::Future { requested: revision, newest: self.state.revision });
        }
        if revision < oldest {
            return Err(Error::Compacted { requested: revision, oldest });
        }
        record::encode_compact(revision, frame);
        self.compact = Some(revision);
        Ok(())
    }

    fn grant(&mut self, ttl_seconds: u64, frame: &mut Vec<u8>) -> Result<LeaseId, Error> {
        if ttl_seconds == 0 || ttl_seconds > MAX_TTL_SECONDS {
            return Err(Error::Invalid(format!("a lease of {ttl_seconds} seconds")));
        }
        let id = self.state.last_lease + 1;
        self.state.grant(id, ttl_seconds);
        record::encode_lease_grant(id, ttl_seconds, frame);
        self.granted.push(id);
        Ok(id)
    }

    /// Whether the lease is too large to end at one revision; some of its keys are deleted then.
    fn shed(&mut self, id: LeaseId, frame: &mut Vec<u8>) -> bool {
        let huge = self.state.leases.get(&id).is_some_and(|lease| lease.key_bytes() > LEASE_BYTES);
        if huge {
            let commit = self.state.shed(id, LEASE_BYTES);
            self.add(commit, frame);
        }
        huge
    }

    fn revoke(&mut self, id: LeaseId, frame: &mut Vec<u8>) -> Result<(), Error> {
        let commit = self.state.revoke(id)?;
        self.add(commit, frame);
        record::encode_lease_revoke(id, frame);
        self.revoked.push(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Op;
    use crate::embedded::files::Step;
    use crate::embedded::{Options, files, recovery};

    /// A lease with more keys than end at one revision.
    fn huge_lease(ttl_seconds: u64) -> State {
        let mut state = State::default();
        state.grant(1, ttl_seconds);
        let name = "x".repeat(4000);
        for n in 0..LEASE_BYTES / name.len() + 1 {
            let key = format!("/{n:04}/{name}");
            state.apply(&[Op::Put { key, value: "v".into(), stamp: None, lease: Some(1) }]);
        }
        state
    }

    #[test]
    fn a_huge_lease_that_cannot_end_is_not_tried_in_a_busy_loop() {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::new(|step| match step {
            Step::Write => Err(std::io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        });
        let options = Options { fsync: false, faults: faults.clone(), ..Options::default() };
        let recovered = recovery::recover(dir.path(), &options).unwrap();
        let disk = Disk {
            log: recovered.log,
            dir: dir.path().to_owned(),
            snapshot_log_bytes: u64::MAX,
            faults,
            lock: files::lock(dir.path()).unwrap(),
        };
        let state = huge_lease(0);
        let view = Arc::new(View::new(state.map.clone(), state.revision, recovered.history));
        let now = Instant::now();
        let mut writer = Writer::new(state, view, Some(disk), now);
        assert_eq!(writer.patience(now), Duration::ZERO, "its time is over");
        let mut batch = Batch::new(writer.state.clone());
        frame::begin(&mut writer.frame);
        writer.expire_leases(now, &mut batch);
        assert!(batch.commits.len() == 1 && batch.state.leases.contains_key(&1), "a part of its keys");
        writer.commit(batch);
        assert!(writer.refusing && writer.patience(now) > Duration::ZERO);
    }
}
