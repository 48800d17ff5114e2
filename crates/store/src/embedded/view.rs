//! What readers see: the newest durable state, its history, and the watchers waiting for more.
//!
//! Watchers pull: each keeps a place in the shared history and is only woken when something for it
//! arrived. So a slow one costs no memory; it loses its place when the history's bounds pass it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::history::History;
use super::state::{Change, Commit, Map};
use crate::contract::{Error, Event, Range, RangeResult, Revision, WatchBatch, WatchStream};

/// Events after which a batch is closed at the end of the revision.
const BATCH_EVENTS: usize = 256;
/// Commits looked through under one read lock.
const SCAN_COMMITS: usize = 4096;

#[derive(Debug)]
pub(super) struct View {
    published: RwLock<Published>,
}

#[derive(Debug)]
struct Published {
    map: Map,
    revision: Revision,
    history: History,
    watchers: Watchers,
    closed: bool,
}

impl View {
    pub fn new(map: Map, revision: Revision, history: History) -> Self {
        let watchers = Watchers::default();
        View { published: RwLock::new(Published { map, revision, history, watchers, closed: false }) }
    }

    pub fn revision(&self) -> Result<Revision, Error> {
        let published = self.published.read();
        if published.closed { Err(Error::Closed) } else { Ok(published.revision) }
    }

    pub fn oldest(&self) -> Revision {
        self.published.read().history.oldest()
    }

    pub fn range(&self, range: &Range) -> Result<RangeResult, Error> {
        let (revision, map, past) = {
            let published = self.published.read();
            if published.closed {
                return Err(Error::Closed);
            }
            let newest = published.revision;
            match range.revision {
                Some(requested) if requested > newest => return Err(Error::Future { requested, newest }),
                Some(requested) if requested < published.history.oldest() => {
                    return Err(Error::Compacted { requested, oldest: published.history.oldest() });
                }
                Some(requested) if requested < newest => {
                    (newest, None, Some(published.history.past(requested, &published.map)))
                }
                _ => (newest, Some(published.map.clone()), None),
            }
        };
        let map = map.or_else(|| past.map(|past| past.map(&range.start, &range.end)));
        Ok(select(&map.unwrap_or_default(), range, revision))
    }

    /// Makes commits visible and wakes those who wait for them.
    pub fn publish(&self, map: &Map, commits: Vec<Arc<Commit>>, compact: Option<Revision>) {
        let mut published = self.published.write();
        published.map = map.clone();
        for commit in &commits {
            published.revision = commit.revision;
            for change in &commit.changes {
                published.watchers.announce(change, commit.revision);
            }
        }
        published.history.extend(commits, map);
        if let Some(revision) = compact {
            published.history.compact(revision);
        }
    }

    /// Lets every watcher report how far it is.
    pub fn wake_all(&self) {
        for slot in self.published.read().watchers.by_prefix.values().flatten() {
            slot.notify.notify_one();
        }
    }

    pub fn close(&self) {
        self.published.write().closed = true;
        self.wake_all();
    }

    pub fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<WatchStream, Error> {
        let slot = {
            let mut published = self.published.write();
            if published.closed {
                return Err(Error::Closed);
            }
            let oldest = published.history.oldest();
            if after < oldest {
                return Err(Error::Compacted { requested: after, oldest });
            }
            let pending = if after < published.revision { after + 1 } else { 0 };
            published.watchers.register(prefix, pending)
        };
        let watcher = Watcher { view: self.clone(), prefix: prefix.to_owned(), cursor: after, slot };
        let stream = futures::stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            let item = watcher.next().await;
            let watcher = item.is_ok().then_some(watcher);
            Some((item, watcher))
        });
        Ok(stream.boxed())
    }
}

fn select(map: &Map, range: &Range, revision: Revision) -> RangeResult {
    let mut result = RangeResult { revision, items: Vec::new(), more: 0 };
    if range.start >= range.end {
        return result;
    }
    let limit = if range.limit == 0 { usize::MAX } else { range.limit };
    let mut found = map.range::<_, str>((Included(range.start.as_str()), Excluded(range.end.as_str())));
    result.items.extend(found.by_ref().take(limit).map(|(_, item)| item.as_ref().clone()));
    result.more = found.count();
    result
}

/// Watchers by prefix. Keys are looked up by their own prefixes, so an event costs as many look-ups as
/// there are distinct prefix lengths, however many watchers there are.
#[derive(Debug, Default)]
struct Watchers {
    by_prefix: HashMap<String, Vec<Arc<Slot>>>,
    /// Length of prefix -> number of prefixes of that length.
    lengths: BTreeMap<usize, usize>,
}

#[derive(Debug)]
struct Slot {
    notify: Notify,
    /// The first revision that may hold an event for this watcher which it has not taken; 0 for none.
    /// Written under the view's lock: by the writer exclusively, by the watcher while reading.
    pending: AtomicU64,
}

impl Watchers {
    fn register(&mut self, prefix: &str, pending: Revision) -> Arc<Slot> {
        let slot = Arc::new(Slot { notify: Notify::new(), pending: AtomicU64::new(pending) });
        let slots = self.by_prefix.entry(prefix.to_owned()).or_default();
        if slots.is_empty() {
            *self.lengths.entry(prefix.len()).or_default() += 1;
        }
        slots.push(slot.clone());
        slot
    }

    fn unregister(&mut self, prefix: &str, slot: &Arc<Slot>) {
        let Some(slots) = self.by_prefix.get_mut(prefix) else { return };
        slots.retain(|other| !Arc::ptr_eq(other, slot));
        if !slots.is_empty() {
            return;
        }
        self.by_prefix.remove(prefix);
        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }

    fn announce(&self, change: &Change, revision: Revision) {
        let Some(key) = change.key() else { return };
        for prefix in self.lengths.keys().filter_map(|length| key.get(..*length)) {
            for slot in self.by_prefix.get(prefix).into_iter().flatten() {
                if slot.pending.load(Ordering::Relaxed) == 0 {
                    slot.pending.store(revision, Ordering::Relaxed);
                }
                slot.notify.notify_one();
            }
        }
    }
}

struct Watcher {
    view: Arc<View>,
    prefix: String,
    /// Everything up to here has been delivered.
    cursor: Revision,
    slot: Arc<Slot>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.view.published.write().watchers.unregister(&self.prefix, &self.slot);
    }
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchBatch, Error> {
        loop {
            if let Some(batch) = self.take()? {
                return Ok(batch);
            }
            self.slot.notify.notified().await;
        }
    }

    /// The next events or, without any, how far the store is; `None` when there is nothing new.
    fn take(&mut self) -> Result<Option<WatchBatch>, Error> {
        let view = self.view.clone();
        let published = view.published.read();
        if published.closed {
            return Err(Error::Closed);
        }
        if published.revision <= self.cursor {
            return Ok(None);
        }
        let pending = self.slot.pending.load(Ordering::Relaxed);
        if pending == 0 {
            self.cursor = published.revision;
            return Ok(Some(WatchBatch { events: Vec::new(), revision: self.cursor }));
        }
        let from = self.cursor.max(pending - 1);
        if from < published.history.oldest() {
            return Err(Error::SlowWatcher);
        }
        let mut events = Vec::new();
        self.cursor = from;
        for commit in published.history.since(from).take(SCAN_COMMITS) {
            self.collect(commit, &mut events);
            self.cursor = commit.revision;
            if events.len() >= BATCH_EVENTS {
                break;
            }
        }
        let rest = if self.cursor < published.revision { self.cursor + 1 } else { 0 };
        self.slot.pending.store(rest, Ordering::Relaxed);
        Ok(Some(WatchBatch { events, revision: self.cursor }))
    }

    fn collect(&self, commit: &Commit, events: &mut Vec<Event>) {
        for change in &commit.changes {
            match (&change.current, change.key()) {
                (_, Some(key)) if !key.starts_with(&self.prefix) => {}
                (Some(current), _) => events.push(Event::Put(current.as_ref().clone())),
                (None, Some(key)) => {
                    events.push(Event::Delete { key: key.clone(), revision: commit.revision });
                }
                (None, None) => {}
            }
        }
    }
}
