//! One stored prefix in memory: an immutable snapshot that readers clone in O(1), a bounded window
//! of recent changes that watches resume from, and the registered watchers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use amphipod_store::{Error as StoreError, Event, Key, KeyValue, Revision};
use imbl::OrdMap;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::warn;

use super::entry::{Entry, trigger_value};
use super::extract::Wanted;
use super::foreign::{self, Kind};

/// Changes kept for watches to resume from and for lists at a recent revision. Upstream's cache
/// grows to 100,000; at this size 75 s of a thousand writes per second still mostly fit, and the
/// bytes are those of replaced objects only.
const WINDOW_CHANGES: usize = 16 * 1024;
/// Bytes of replaced objects the window may keep alive, whatever the count.
const WINDOW_BYTES: usize = 16 << 20;
/// Changes queued for a watcher. One that lags further is taken off the list and catches up from the
/// window; only where that is gone too must its client list again.
const WATCHER_BACKLOG: usize = 1024;

pub type Snapshot = OrdMap<Key, Arc<Entry>>;
/// Why each of these keys is not in a snapshot, although something is stored there.
pub type Unreadable = HashMap<Key, StoreError>;

/// The entries from `start` on whose keys begin with `scope`.
pub fn within<'a>(snapshot: &'a Snapshot, start: &str, scope: &str) -> impl Iterator<Item = &'a Arc<Entry>> {
    let (start, end) = (Key::from(start), Key::from(amphipod_store::prefix_end(scope)));
    snapshot.range(start..end).map(|(_, entry)| entry)
}

/// A put or delete of one key.
#[derive(Debug)]
pub struct Change {
    pub revision: Revision,
    pub key: Key,
    pub current: Option<Arc<Entry>>,
    pub previous: Option<Arc<Entry>>,
}

/// Watchers that ask for one value of one extracted field (a kubelet's `spec.nodeName`), or for
/// everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    All,
    Field { index: usize, value: String },
}

#[derive(Debug)]
pub struct Collection {
    /// `/registry/pods/`
    pub prefix: String,
    /// JSON pointers of the extracted fields.
    pub pointers: Vec<String>,
    /// The extracted field watchers are indexed by, if the kind comes in masses.
    pub trigger: Option<usize>,
    wanted: Wanted,
    /// What built-in objects are stored as.
    kind: Option<Kind>,
    state: Mutex<State>,
}

/// A watcher's number and its queue.
type Registered = (u64, mpsc::Sender<Arc<Change>>);

#[derive(Debug, Default)]
struct State {
    items: Snapshot,
    unreadable: Unreadable,
    window: VecDeque<Arc<Change>>,
    window_bytes: usize,
    /// Every change after this revision is in the window.
    window_start: Revision,
    last_change: Revision,
    /// The revision of the first read.
    loaded: Revision,
    /// Holds back events while the first read of the store is under way.
    pending: Option<Vec<Event>>,
    watchers: HashMap<Interest, Vec<Registered>>,
    watcher_count: usize,
    next_watcher: u64,
    /// Since the process began: how often the store was read from the start, changes, and those of them
    /// that somebody watched.
    loads: u64,
    changes: u64,
    dispatched: u64,
}

/// How far a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub objects: usize,
    pub watchers: usize,
    pub loads: u64,
    pub changes: u64,
    /// Those of them that were handed to somebody who watches.
    pub dispatched: u64,
    /// Revision of the newest change.
    pub newest: Revision,
    /// Changes it keeps for watches to resume from, at most.
    pub capacity: u64,
}

/// The asked-for revision is older than the window; `oldest` is the first that could be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    pub oldest: Revision,
}

/// A registered watcher; unregisters when dropped.
#[derive(Debug)]
pub struct Watcher {
    collection: Arc<Collection>,
    interest: Interest,
    id: u64,
    backlog: VecDeque<Arc<Change>>,
    receiver: mpsc::Receiver<Arc<Change>>,
    /// Revision of the newest change taken.
    taken: Revision,
}

impl Collection {
    pub fn new(prefix: String, pointers: Vec<String>, trigger: Option<&str>, kind: Option<Kind>) -> Self {
        let wanted = Wanted::new(&pointers);
        let trigger = trigger.and_then(|pointer| pointers.iter().position(|p| p == pointer));
        let state = State { pending: Some(Vec::new()), ..State::default() };
        Collection { prefix, pointers, trigger, wanted, kind, state: Mutex::new(state) }
    }

    /// One item of this collection.
    pub fn read(&self, item: &KeyValue) -> Result<Entry, StoreError> {
        Entry::new(&self.wanted, self.kind.as_ref(), item)
    }

    /// Items read from the store, as a snapshot of their own, and those that are not in it because they
    /// are damaged. But where some are encrypted, all of a kind may be, and nothing is better than a part.
    pub fn entries(&self, items: &[KeyValue]) -> Result<(Snapshot, Unreadable), StoreError> {
        items.iter().try_for_each(foreign::refuse_encrypted)?;
        let (mut read, mut unreadable) = (Snapshot::new(), Unreadable::new());
        for item in items {
            match self.read(item) {
                Ok(entry) => drop(read.insert(item.key.clone(), Arc::new(entry))),
                Err(error) => drop(unreadable.insert(item.key.clone(), not_served(error))),
            }
        }
        Ok((read, unreadable))
    }

    /// Takes over the first read of the store and whatever was held back meanwhile. Also used to
    /// start over when the store's history was lost; watchers are closed then. A read older than what
    /// is here changes nothing.
    pub fn load(&self, items: &[KeyValue], revision: Revision) -> Result<(), StoreError> {
        let (loaded, unreadable) = self.entries(items)?;
        let mut state = self.state.lock();
        if state.pending.is_none() && revision < state.loaded.max(state.last_change) {
            return Ok(());
        }
        state.last_change = loaded.values().map(|e| e.revision).max().unwrap_or(0);
        state.items = loaded;
        state.unreadable = unreadable;
        state.loaded = revision;
        state.loads += 1;
        state.forget_before(revision);
        for event in state.pending.take().unwrap_or_default() {
            if event.revision() > revision {
                self.apply_locked(&mut state, &event);
            }
        }
        Ok(())
    }

    /// Whether the first read is done.
    pub fn is_ready(&self) -> bool {
        self.state.lock().pending.is_none()
    }

    /// Takes over changes of one revision: readers see all of them or none.
    pub fn apply(&self, events: Vec<Event>) {
        let mut state = self.state.lock();
        if let Some(pending) = &mut state.pending {
            pending.extend(events);
            return;
        }
        for event in events {
            // The first read of the store may be ahead of the watch that follows it.
            if event.revision() > state.loaded {
                self.apply_locked(&mut state, &event);
            }
        }
    }

    fn apply_locked(&self, state: &mut State, event: &Event) {
        let (key, current) = match event {
            Event::Put(item) => match self.read(item) {
                Ok(entry) => (item.key.clone(), Some(Arc::new(entry))),
                Err(error) => return state.lose(item, error),
            },
            Event::Delete { key, .. } => (key.clone(), None),
        };
        state.unreadable.remove(&key);
        let previous = match &current {
            Some(entry) => state.items.insert(key.clone(), entry.clone()),
            None => state.items.remove(&key),
        };
        if current.is_none() && previous.is_none() {
            return;
        }
        let change = Arc::new(Change { revision: event.revision(), key, current, previous });
        state.last_change = change.revision;
        state.changes += 1;
        self.notify(state, &change);
        state.window_bytes += kept_bytes(&change);
        state.window.push_back(change);
        while state.window.len() > WINDOW_CHANGES || state.window_bytes > WINDOW_BYTES {
            let Some(oldest) = state.window.pop_front() else { break };
            state.window_bytes -= kept_bytes(&oldest);
            state.window_start = oldest.revision;
        }
    }

    /// A watcher whose queue is full is dropped; it learns so when it has read what it has.
    fn notify(&self, state: &mut State, change: &Arc<Change>) {
        if state.watcher_count == 0 {
            return;
        }
        let mut interests = vec![Interest::All];
        if let Some(index) = self.trigger {
            let values = [&change.previous, &change.current]
                .map(|e| e.as_ref().map(|e| trigger_value(e, index).to_owned()).unwrap_or_default());
            if values[0] != values[1] {
                interests.push(Interest::Field { index, value: values[0].clone() });
            }
            interests.push(Interest::Field { index, value: values[1].clone() });
        }
        let mut is_taken = false;
        for interest in interests {
            if let Some(list) = state.watchers.get_mut(&interest) {
                let before = list.len();
                list.retain(|(_, sender)| sender.try_send(change.clone()).is_ok());
                state.watcher_count -= before - list.len();
                is_taken |= !list.is_empty();
            }
        }
        state.dispatched += u64::from(is_taken);
    }

    pub fn snapshot(&self) -> Snapshot {
        self.state.lock().items.clone()
    }
    /// The snapshot and the revision of the newest change in it.
    pub fn snapshot_and_change(&self) -> (Snapshot, Revision) {
        let state = self.state.lock();
        (state.items.clone(), state.last_change)
    }
    /// Fails where something is stored that cannot be read: that is not nothing.
    pub fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, StoreError> {
        let state = self.state.lock();
        match state.unreadable.get(key) {
            Some(error) => Err(error.clone()),
            None => Ok(state.items.get(key).cloned()),
        }
    }
    pub fn len(&self) -> usize {
        self.state.lock().items.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn standing(&self) -> Standing {
        let state = self.state.lock();
        Standing {
            objects: state.items.len(),
            watchers: state.watcher_count,
            loads: state.loads,
            changes: state.changes,
            dispatched: state.dispatched,
            newest: state.last_change,
            capacity: WINDOW_CHANGES as u64,
        }
    }
    pub fn last_change(&self) -> Revision {
        self.state.lock().last_change
    }
    pub fn watcher_count(&self) -> usize {
        self.state.lock().watcher_count
    }

    /// The snapshot as it was at `revision`, made by undoing the window's newer changes.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, TooOld> {
        let (mut items, newer) = {
            let state = self.state.lock();
            if revision < state.window_start {
                return Err(TooOld { oldest: state.window_start });
            }
            let newer = newer_than(&state.window, revision);
            (state.items.clone(), newer)
        };
        for change in newer.iter().rev() {
            match &change.previous {
                Some(previous) => items.insert(change.key.clone(), previous.clone()),
                None => items.remove(&change.key),
            };
        }
        Ok(items)
    }

    /// Forgets changes up to `revision`: what the store has compacted must not be served either.
    pub fn compact(&self, revision: Revision) {
        let mut state = self.state.lock();
        while state.window.front().is_some_and(|c| c.revision <= revision) {
            if let Some(change) = state.window.pop_front() {
                state.window_bytes -= kept_bytes(&change);
            }
        }
        state.window_start = state.window_start.max(revision);
    }

    /// Starts with the changes after `revision`.
    pub fn watch_from(self: &Arc<Self>, revision: Revision, interest: Interest) -> Result<Watcher, TooOld> {
        let mut state = self.state.lock();
        if revision < state.window_start {
            return Err(TooOld { oldest: state.window_start });
        }
        let backlog = newer_than(&state.window, revision).into();
        Ok(self.register(&mut state, interest, backlog, revision))
    }

    /// Starts with the present state: the snapshot, the revision of the newest change in it, and
    /// the changes that follow it.
    pub fn watch_now(self: &Arc<Self>, interest: Interest) -> (Snapshot, Revision, Watcher) {
        let mut state = self.state.lock();
        let (items, revision) = (state.items.clone(), state.last_change);
        let watcher = self.register(&mut state, interest, VecDeque::new(), revision);
        (items, revision, watcher)
    }

    fn register(
        self: &Arc<Self>,
        state: &mut State,
        interest: Interest,
        backlog: VecDeque<Arc<Change>>,
        taken: Revision,
    ) -> Watcher {
        let (sender, receiver) = mpsc::channel(WATCHER_BACKLOG);
        let id = state.next_watcher;
        state.next_watcher += 1;
        state.watcher_count += 1;
        state.watchers.entry(interest.clone()).or_default().push((id, sender));
        Watcher { collection: self.clone(), interest, id, backlog, receiver, taken }
    }

    fn unregister(&self, interest: &Interest, id: u64) {
        let mut state = self.state.lock();
        let Some(list) = state.watchers.get_mut(interest) else { return };
        let before = list.len();
        list.retain(|(other, _)| *other != id);
        let removed = before - list.len();
        if list.is_empty() {
            state.watchers.remove(interest);
        }
        state.watcher_count -= removed;
    }
}

impl State {
    /// What a key holds now cannot be read. That is no deletion: whoever was told what it held before
    /// lists again.
    fn lose(&mut self, item: &KeyValue, error: StoreError) {
        self.unreadable.insert(item.key.clone(), not_served(error));
        if self.items.remove(&item.key).is_some() {
            self.last_change = item.mod_revision;
            self.forget_before(item.mod_revision);
        }
    }

    /// Nothing older than this revision is told any more, and nobody's watch goes on across it.
    fn forget_before(&mut self, revision: Revision) {
        self.window.clear();
        self.window_bytes = 0;
        self.window_start = revision;
        self.watchers.clear();
        self.watcher_count = 0;
    }
}

fn not_served(error: StoreError) -> StoreError {
    warn!(%error, "an object is not served");
    error
}

/// What successors have in common with what they replaced is theirs.
fn kept_bytes(change: &Change) -> usize {
    let successor = change.current.as_ref().map(|entry| &entry.text);
    change.previous.as_ref().map_or(0, |entry| entry.text.held_bytes(successor))
}

fn newer_than(window: &VecDeque<Arc<Change>>, revision: Revision) -> Vec<Arc<Change>> {
    let from = window.partition_point(|change| change.revision <= revision);
    window.range(from..).cloned().collect()
}

impl Watcher {
    /// The next change, in order; `None` when this watcher fell behind too far to catch up.
    pub async fn next(&mut self) -> Option<Arc<Change>> {
        loop {
            if let Some(change) = self.backlog.pop_front() {
                self.taken = change.revision;
                return Some(change);
            }
            if let Some(change) = self.receiver.recv().await {
                self.taken = change.revision;
                return Some(change);
            }
            self.catch_up()?;
        }
    }

    /// A change that is there already.
    pub fn try_next(&mut self) -> Option<Arc<Change>> {
        let change = self.backlog.pop_front().or_else(|| self.receiver.try_recv().ok())?;
        self.taken = change.revision;
        Some(change)
    }

    /// Nothing is waiting and nothing was missed.
    pub fn is_current(&self) -> bool {
        self.backlog.is_empty() && !self.receiver.is_closed() && self.receiver.is_empty()
    }

    /// Registers anew and takes what was missed from the window.
    fn catch_up(&mut self) -> Option<()> {
        let from = self.taken.saturating_sub(1);
        let mut resumed = self.collection.clone().watch_from(from, self.interest.clone()).ok()?;
        // A revision may hold several changes (an expired lease's): it is told again as a whole,
        // for how many of them were taken is not known.
        let again = resumed.backlog.iter().take_while(|c| c.revision == self.taken).count();
        if again == 1 {
            resumed.backlog.pop_front();
        }
        resumed.taken = self.taken;
        *self = resumed;
        Some(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.collection.unregister(&self.interest, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, value: String, revision: Revision) -> KeyValue {
        KeyValue {
            key: format!("/registry/x/{name}").into(),
            value: value.into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: None,
        }
    }

    fn put(name: &str, revision: Revision) -> Event {
        let value =
            format!("{{\"kind\":\"X\",\"metadata\":{{\"resourceVersion\":\"{revision}\",\"labels\":{{}}}}}}");
        Event::Put(item(name, value, revision))
    }

    fn collection() -> Arc<Collection> {
        let collection = Arc::new(Collection::new("/registry/x/".into(), Vec::new(), None, None));
        collection.apply(vec![put("held-back", 3)]);
        collection.load(&[], 2).expect("readable");
        collection
    }

    #[test]
    fn what_came_while_loading_is_there() {
        let collection = collection();
        assert_eq!((collection.len(), collection.last_change()), (1, 3));
    }

    #[test]
    fn a_read_that_was_overtaken_changes_nothing() {
        let collection = collection();
        collection.load(&[], 1).expect("readable");
        assert_eq!((collection.len(), collection.last_change()), (1, 3), "applied since");
        collection.load(&[], 9).expect("readable");
        collection.load(&[item("late", "{}".into(), 4)], 5).expect("readable");
        assert_eq!((collection.len(), collection.last_change()), (0, 0), "read since");
    }

    #[tokio::test]
    async fn what_becomes_unreadable_is_not_told_as_deleted() {
        let collection = collection();
        collection.apply(vec![put("a", 4)]);
        let (_, _, mut watcher) = collection.watch_now(Interest::All);
        let damaged = Event::Put(item("a", "{".into(), 5));
        collection.apply(vec![damaged]);
        assert!(watcher.next().await.is_none(), "the watch ends");
        assert_eq!(collection.watch_from(4, Interest::All).err(), Some(TooOld { oldest: 5 }));
        assert_eq!((collection.len(), collection.last_change()), (1, 5));
        let get = || collection.get("/registry/x/a").map(|entry| entry.map(|entry| entry.revision));
        assert!(matches!(get(), Err(StoreError::Unreadable { .. })));

        let mut watcher = collection.watch_from(5, Interest::All).expect("kept");
        collection.apply(vec![Event::Put(item("a", "[".into(), 6))]);
        collection.apply(vec![put("a", 7)]);
        let change = watcher.next().await.expect("the watch goes on: nothing was lost again");
        assert!(change.revision == 7 && change.previous.is_none());
        assert!(matches!(get(), Ok(Some(7))));
        collection.apply(vec![
            Event::Put(item("a", "{".into(), 8)),
            Event::Delete { key: "/registry/x/a".into(), revision: 9 },
        ]);
        assert!(matches!(get(), Ok(None)), "deleted is deleted");
    }

    #[test]
    fn changes_that_somebody_watches_are_counted_apart() {
        let collection = collection();
        collection.apply(vec![put("unseen", 4)]);
        let before = collection.standing();
        assert_eq!((before.changes, before.dispatched), (2, 0));
        let (_, _, watcher) = collection.watch_now(Interest::All);
        collection.apply(vec![put("seen", 5), put("seen-too", 5)]);
        drop(watcher);
        collection.apply(vec![put("unseen", 6)]);
        let after = collection.standing();
        assert_eq!((after.changes, after.dispatched), (5, 2));
    }

    #[tokio::test]
    async fn a_lagging_watcher_catches_up_and_misses_nothing() {
        let collection = collection();
        let (_, _, mut watcher) = collection.watch_now(Interest::All);
        let last = 10 + 3 * WATCHER_BACKLOG as Revision;
        for revision in 10..=last {
            collection.apply(vec![put(&format!("n{revision}"), revision)]);
        }
        for revision in 10..=last {
            assert_eq!(watcher.next().await.map(|c| c.revision), Some(revision));
        }
        collection.apply(vec![put("more", last + 1)]);
        assert_eq!(watcher.next().await.map(|c| c.revision), Some(last + 1));
    }

    #[tokio::test]
    async fn a_watcher_behind_the_window_ends() {
        let collection = collection();
        let (_, _, mut watcher) = collection.watch_now(Interest::All);
        let last = 10 + 2 * WINDOW_CHANGES as Revision;
        for revision in 10..=last {
            collection.apply(vec![put("same", revision)]);
        }
        let mut seen = 0;
        while watcher.next().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, WATCHER_BACKLOG);
        assert!(matches!(collection.watch_from(5, Interest::All), Err(TooOld { .. })));
    }

    #[test]
    fn the_past_is_undone_from_the_present() {
        let collection = collection();
        collection.apply(vec![put("a", 4)]);
        collection.apply(vec![put("a", 5)]);
        collection.apply(vec![Event::Delete { key: "/registry/x/a".into(), revision: 6 }]);
        let at =
            |revision| collection.snapshot_at(revision).map(|s| s.get("/registry/x/a").map(|e| e.revision));
        assert_eq!([at(3), at(4), at(5), at(6)], [Ok(None), Ok(Some(4)), Ok(Some(5)), Ok(None)]);
        assert_eq!(at(1), Err(TooOld { oldest: 2 }));
        collection.compact(5);
        assert!(at(4).is_err());
    }
}
