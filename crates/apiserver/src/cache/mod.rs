//! The watch cache: every read of the API is answered from here, never by reading the store twice.
//! One store watch feeds all collections, so one number ("applied") says how far they all are and
//! a consistent read is: ask the store for its revision, wait until that is applied.

mod collection;
mod entry;
mod extract;
mod foreign;
mod message;
#[cfg(test)]
pub mod testing;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use amphipod_store::{Error as StoreError, Event, Key, KeyValue, Range, Revision, Store, Text};
use futures::StreamExt;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use collection::{Change, Collection, Interest, Snapshot, Standing, TooOld, Watcher, within};
pub use entry::{Entry, Selector, Shown};
pub use extract::Wanted;
use foreign::Kind;

/// Everything Kubernetes stores lives below this.
pub const ROOT: &str = "/registry/";
/// How long a read waits for the cache to reach a revision, as upstream does.
const APPLY_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before the store's watch is opened again after it failed.
const REWATCH_PAUSE: Duration = Duration::from_millis(200);
/// The field kubelets and others select by, where watchers are many.
const POD_TRIGGER: (&str, &str) = ("pods", "/spec/nodeName");

pub struct Cache {
    store: Arc<dyn Store>,
    /// By the `<resource>` part of the key: one or two segments.
    collections: RwLock<HashMap<String, Arc<Collection>>>,
    applied: watch::Sender<Revision>,
    compacted: AtomicU64,
    /// Newest revision that this server wrote and acknowledged.
    acknowledged: AtomicU64,
    loading: tokio::sync::Mutex<()>,
}

impl Cache {
    /// Loads the given resources' collections and follows the store until `stop`.
    pub async fn start(
        store: Arc<dyn Store>,
        resources: &[Arc<Resource>],
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let revision = store.revision().await?;
        let oldest = store.oldest_revision().await?;
        let cache = Arc::new(Cache {
            store,
            collections: RwLock::default(),
            applied: watch::Sender::new(revision),
            compacted: AtomicU64::new(oldest),
            acknowledged: AtomicU64::new(0),
            loading: tokio::sync::Mutex::default(),
        });
        for (prefix, (pointers, kind)) in collections_of(resources) {
            cache.insert(&prefix, pointers, Some(kind));
        }
        let stream = cache.store.watch(ROOT, revision).await?;
        cache.load_all().await?;
        let follower = cache.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = follower.follow(stream) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(cache)
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn insert(&self, prefix: &str, pointers: Vec<String>, kind: Option<Kind>) -> Arc<Collection> {
        let trigger = (POD_TRIGGER.0 == prefix).then_some(POD_TRIGGER.1);
        let collection = Arc::new(Collection::new(format!("{ROOT}{prefix}/"), pointers, trigger, kind));
        self.collections.write().insert(prefix.to_owned(), collection.clone());
        collection
    }

    async fn load_all(&self) -> Result<(), StoreError> {
        let all: Vec<_> = self.collections.read().values().cloned().collect();
        for collection in all {
            self.load(&collection).await?;
        }
        Ok(())
    }

    async fn load(&self, collection: &Collection) -> Result<(), StoreError> {
        let read = self.store.range(Range::prefix(&collection.prefix)).await?;
        collection.load(&read.items, read.revision)
    }

    /// The collection of a resource; loads it when it is new (custom resources).
    pub async fn collection(&self, resource: &Resource) -> Result<Arc<Collection>, Status> {
        let Some(storage) = &resource.storage else {
            return Err(Status::internal("the resource has no storage"));
        };
        if let Some(ready) = self.find(&storage.prefix).filter(|c| c.is_ready()) {
            return Ok(ready);
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(ready) = self.find(&storage.prefix).filter(|c| c.is_ready()) {
            return Ok(ready);
        }
        let pointers = resource.selectable_fields.iter().map(|f| f.pointer.to_string()).collect();
        let collection = self.insert(&storage.prefix, pointers, None);
        let loading = Loading { cache: self, prefix: &storage.prefix, collection: &collection };
        self.load(loading.collection).await.map_err(storage_status)?;
        drop(loading);
        Ok(collection)
    }

    /// The collection of a resource, if it is there already.
    pub fn loaded(&self, resource: &Resource) -> Option<Arc<Collection>> {
        self.find(&resource.storage.as_ref()?.prefix).filter(|collection| collection.is_ready())
    }

    fn find(&self, prefix: &str) -> Option<Arc<Collection>> {
        self.collections.read().get(prefix).cloned()
    }

    /// Each collection's prefix, and how far it is.
    pub fn standings(&self) -> Vec<(String, Standing)> {
        let map = self.collections.read();
        map.iter().map(|(prefix, c)| (prefix.clone(), c.standing())).collect()
    }

    async fn follow(&self, mut stream: amphipod_store::WatchStream) {
        loop {
            while let Some(batch) = stream.next().await {
                match batch {
                    Ok(batch) => {
                        self.route(batch.events);
                        self.applied.send_replace(batch.revision);
                    }
                    Err(error) => {
                        debug!(%error, "the store's watch ended");
                        break;
                    }
                }
            }
            match self.rewatch().await {
                Some(next) => stream = next,
                None => return,
            }
        }
    }

    /// Opens the watch again where it ended; where that history is gone, starts all over.
    async fn rewatch(&self) -> Option<amphipod_store::WatchStream> {
        loop {
            tokio::time::sleep(REWATCH_PAUSE).await;
            let after = self.applied();
            match self.store.watch(ROOT, after).await {
                Ok(stream) => return Some(stream),
                Err(StoreError::Closed) => return None,
                Err(StoreError::Compacted { .. }) => {
                    if let Err(error) = self.start_over().await {
                        warn!(%error, "cannot read the store again");
                    }
                }
                Err(error) => warn!(%error, "cannot watch the store"),
            }
        }
    }

    async fn start_over(&self) -> Result<(), StoreError> {
        // A collection read meanwhile is either among those read again here, or read after that.
        let _one_at_a_time = self.loading.lock().await;
        let revision = self.store.revision().await?;
        self.load_all().await?;
        self.applied.send_replace(revision);
        Ok(())
    }

    /// Hands events to their collections; those of one revision together.
    fn route(&self, events: Vec<Event>) {
        let mut run: Option<(Arc<Collection>, Vec<Event>)> = None;
        for event in events {
            let Some(collection) = self.collection_of(event_key(&event)) else { continue };
            match &mut run {
                Some((same, run))
                    if Arc::ptr_eq(same, &collection)
                        && run.last().is_some_and(|last| last.revision() == event.revision()) =>
                {
                    run.push(event);
                }
                _ => {
                    if let Some((previous, run)) = run.replace((collection, vec![event])) {
                        previous.apply(run);
                    }
                }
            }
        }
        if let Some((last, run)) = run {
            last.apply(run);
        }
    }

    /// An item of any collection in the form that the cache would serve.
    pub fn readable(&self, item: KeyValue) -> Result<Text, Status> {
        match self.collection_of(&item.key) {
            Some(collection) => collection.read(&item).map(|entry| entry.text).map_err(storage_status),
            None => Ok(item.value),
        }
    }

    fn collection_of(&self, key: &str) -> Option<Arc<Collection>> {
        let rest = key.strip_prefix(ROOT)?;
        let mut cuts = rest.match_indices('/').map(|(at, _)| at);
        let (first, second) = (cuts.next(), cuts.next());
        let map = self.collections.read();
        let at = |cut: Option<usize>| cut.and_then(|cut| map.get(&rest[..cut]).cloned());
        at(second).or_else(|| at(first))
    }

    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Waits until every write acknowledged before this call can be read.
    pub async fn fresh(&self) -> Result<Revision, Status> {
        let newest = self.store.revision().await.map_err(storage_status)?;
        self.wait_for(newest).await?;
        Ok(newest)
    }

    /// Tells that this server acknowledges a write at this revision.
    pub fn note_written(&self, revision: Revision) {
        self.acknowledged.fetch_max(revision, Ordering::AcqRel);
    }

    /// Waits until every write acknowledged by this server can be read, without asking the store: what
    /// policy needs with each request, also while the store is away. Another server's writes come as
    /// soon as they are told.
    pub async fn settled(&self) -> Result<Revision, Status> {
        self.wait_for(self.acknowledged.load(Ordering::Acquire)).await?;
        Ok(self.applied())
    }

    /// Waits until the cache has reached this revision.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|now| *now >= revision);
        match tokio::time::timeout(APPLY_TIMEOUT, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(too_large(revision, self.applied())),
        }
    }

    /// The oldest revision lists may still be read at.
    pub fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let revision = match self.store.compact(revision).await {
            Ok(()) => revision,
            // Another server on the same store went further.
            Err(StoreError::Compacted { oldest, .. }) => oldest,
            Err(error) => return Err(error),
        };
        self.compacted.fetch_max(revision, Ordering::AcqRel);
        let all: Vec<_> = self.collections.read().values().cloned().collect();
        for collection in all {
            collection.compact(revision);
        }
        Ok(())
    }

    /// The collection as it was at exactly this revision; `None` where only the store still knows.
    pub async fn at(&self, collection: &Collection, revision: Revision) -> Result<Option<Snapshot>, Status> {
        if revision < self.compacted() {
            return Err(list_expired());
        }
        self.wait_for(revision).await?;
        Ok(collection.snapshot_at(revision).ok())
    }

    /// Up to `limit` (0: all) items of the range as they were at exactly this revision, from the store.
    pub async fn stored(
        &self,
        collection: &Collection,
        revision: Revision,
        range: Range,
    ) -> Result<Part, Status> {
        let read = self.store.range(Range { revision: Some(revision), ..range }).await;
        let read = read.map_err(|error| match error {
            StoreError::Compacted { .. } => list_expired(),
            other => storage_status(other),
        })?;
        let (entries, _) = collection.entries(&read.items).map_err(storage_status)?;
        let last = read.items.last().filter(|_| read.more > 0);
        Ok(Part { entries, more: read.more, next: last.map(|item| format!("{}\0", item.key)) })
    }
}

/// Entries that follow each other, of a state that was.
pub struct Part {
    pub entries: Snapshot,
    /// How many keys of the range come after them.
    pub more: usize,
    /// Where those begin.
    pub next: Option<String>,
}

/// A collection whose first read is under way. Where that fails or is given up the collection goes
/// out again: it would hold back changes for ever.
struct Loading<'a> {
    cache: &'a Cache,
    prefix: &'a str,
    collection: &'a Collection,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if !self.collection.is_ready() {
            self.cache.collections.write().remove(self.prefix);
        }
    }
}

fn event_key(event: &Event) -> &Key {
    match event {
        Event::Put(current) => &current.key,
        Event::Delete { key, .. } => key,
    }
}

/// Collections with the union of what their resources' field selectors need, and what they hold.
fn collections_of(resources: &[Arc<Resource>]) -> HashMap<String, (Vec<String>, Kind)> {
    let mut map: HashMap<String, (Vec<String>, Kind)> = HashMap::new();
    for resource in resources {
        let Some(storage) = &resource.storage else { continue };
        let (pointers, _) = map.entry(storage.prefix.to_string()).or_insert_with(|| {
            let (plural, api_version) = (resource.plural.to_string(), storage.api_version.to_string());
            (Vec::new(), Kind { plural, api_version })
        });
        for field in resource.selectable_fields.iter() {
            if !pointers.iter().any(|p| *p == field.pointer) {
                pointers.push(field.pointer.to_string());
            }
        }
    }
    map
}

fn too_large(requested: Revision, current: Revision) -> Status {
    let mut status =
        Status::timeout(format!("Too large resource version: {requested}, current: {current}"), 1);
    status = status.with_cause(amphipod_api::status::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    });
    status
}

pub fn expired(requested: Revision, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {requested} ({oldest})"))
}

/// A list at a revision whose history is gone.
fn list_expired() -> Status {
    Status::expired("The resourceVersion for the provided list is too old.")
}

/// How a failure of the store is told to clients. Clients repeat what comes with Retry-After, so only
/// what certainly was not done has it.
pub fn storage_status(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { requested, oldest } => expired(requested, oldest),
        StoreError::Future { requested, newest } => too_large(requested, newest),
        StoreError::NoSpace(_) => Status::failure(507, "InternalError", error.to_string()),
        StoreError::TooLarge(_) => Status::too_large(format!("Request entity too large: {error}")),
        StoreError::Unavailable(_) => {
            let text = format!("the server is currently unable to handle the request: {error}");
            Status::unavailable(text).with_retry_after(1)
        }
        StoreError::Unknown(_) => {
            let text = format!("Timeout: request did not complete within the allotted timeout: {error}");
            Status::failure(504, "Timeout", text)
        }
        StoreError::Closed => Status::unavailable("the server is shutting down"),
        other => Status::internal(other),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::testing::{ProbedStore, Reads, config_maps, put_map};
    use super::*;

    #[tokio::test]
    async fn a_collection_that_was_not_read_is_kept_by_nobody() {
        let store = Arc::new(ProbedStore::default());
        let cache = Cache::start(store.clone(), &[], CancellationToken::new()).await.expect("a cache");
        let maps = config_maps();
        *store.reads.lock() = Reads::Fail;
        assert_eq!(cache.collection(&maps).await.expect_err("not read").code, 503);
        assert_eq!(cache.standings(), []);
        *store.reads.lock() = Reads::Hang;
        assert!(cache.collection(&maps).now_or_never().is_none());
        assert_eq!(cache.standings(), [], "nobody waits for it any more");
        *store.reads.lock() = Reads::Work;
        let collection = cache.collection(&maps).await.expect("read");
        cache.wait_for(put_map(&*store, "a", "1").await).await.expect("told");
        assert_eq!(collection.len(), 1);
    }

    #[test]
    fn only_what_was_not_done_invites_to_try_again() {
        let status = |error| {
            let status = storage_status(error);
            let retry = status.details.as_ref().and_then(|details| details.retry_after_seconds);
            (status.code, status.reason.clone(), retry)
        };
        let why = || "why".to_owned();
        let unavailable = status(StoreError::Unavailable(why()));
        assert_eq!(unavailable, (503, "ServiceUnavailable".into(), Some(1)));
        assert_eq!(status(StoreError::Unknown(why())), (504, "Timeout".into(), None));
        assert_eq!(status(StoreError::TooLarge(why())), (413, "RequestEntityTooLarge".into(), None));
        assert_eq!(status(StoreError::NoSpace(why())), (507, "InternalError".into(), None));
    }
}
