//! Shared informers: each kind is listed once, watched once and decoded once per process, however
//! many components look at it. Handlers run in the watch task, in event order, and are expected to
//! do no more than put a key on a queue.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{Api, Client, Error, ListParams, Resource};

/// Objects per page of the first list.
pub(crate) const PAGE_SIZE: u32 = 500;
/// Watches are asked to end after this long, as client-go does (it draws 5 to 10 minutes).
pub(crate) const WATCH_TIMEOUT_SECONDS: u32 = 420;
/// One watch frame larger than this is refused: no object may be larger than a request body.
const MAX_FRAME_BYTES: usize = 16 << 20;
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(200);
pub(crate) const LAST_RETRY: Duration = Duration::from_secs(30);

/// What happened to an object, as handlers see it.
pub enum Change<T> {
    Added(Arc<T>),
    Updated { old: Arc<T>, new: Arc<T> },
    Deleted(Arc<T>),
}

impl<T> Change<T> {
    /// The newest state known.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Change::Added(new) | Change::Updated { new, .. } | Change::Deleted(new) => new,
        }
    }
}

type Call<T> = dyn Fn(&Change<T>) + Send + Sync;

/// A handler and the token of the run it belongs to; once that is cancelled it is called no more.
struct Handler<T> {
    run: CancellationToken,
    call: Box<Call<T>>,
}
type IndexFn<T> = fn(&T) -> Vec<String>;

/// Keys are shared between the cache and its indices.
type Objects<T> = BTreeMap<Arc<str>, Arc<T>>;

struct Index<T> {
    keys_of: IndexFn<T>,
    entries: HashMap<String, Objects<T>>,
}

struct Cache<T> {
    objects: Objects<T>,
    indices: HashMap<&'static str, Index<T>>,
}

struct Shared<T> {
    cache: RwLock<Cache<T>>,
    /// Also the lock that orders handler registration against event delivery.
    handlers: Mutex<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
}

/// A handle on one kind's cache; cheap to clone.
pub struct Informer<T> {
    shared: Arc<Shared<T>>,
    /// Handlers registered through this handle live as long as this.
    run: CancellationToken,
}

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Informer { shared: self.shared.clone(), run: self.run.clone() }
    }
}

impl<T: Resource> Informer<T> {
    fn new(run: CancellationToken) -> Self {
        let cache = Cache { objects: BTreeMap::new(), indices: HashMap::new() };
        Informer {
            run,
            shared: Arc::new(Shared {
                cache: RwLock::new(cache),
                handlers: Mutex::new(Vec::new()),
                synced: watch::channel(false).0,
            }),
        }
    }

    /// Follows one object outside the shared set until cancelled, for identities that may only see
    /// what they can name. Changes go to `handler` from the first list on.
    pub fn of_one(
        client: Client,
        namespace: &str,
        name: &str,
        cancel: CancellationToken,
        handler: impl Fn(&Change<T>) + Send + Sync + 'static,
    ) -> Self {
        let informer = Informer::new(cancel.clone());
        informer.on_change(handler);
        let field_selector = Some(format!("metadata.name={name}"));
        let params = ListParams { field_selector, ..ListParams::default() };
        let api = Api::<T>::namespaced(client, namespace);
        tokio::spawn(reflect(api, params, informer.clone(), cancel));
        informer
    }

    /// `key` is `namespace/name`, or `name` for cluster-wide kinds.
    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.shared.cache.read().objects.get(key).cloned()
    }
    /// Everything, in key order.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.shared.cache.read().objects.values().cloned().collect()
    }
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let from = format!("{namespace}/");
        let to = format!("{namespace}0"); // '0' follows '/'
        let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
        self.shared.cache.read().objects.range::<str, _>(range).map(|(_, o)| o.clone()).collect()
    }
    /// Keeps objects findable by the strings `keys_of` gives; naming an existing index is a no-op.
    pub fn add_index(&self, name: &'static str, keys_of: IndexFn<T>) {
        let mut cache = self.shared.cache.write();
        if cache.indices.contains_key(name) {
            return;
        }
        let mut index = Index { keys_of, entries: HashMap::new() };
        for (key, object) in &cache.objects {
            index.insert(key, object);
        }
        cache.indices.insert(name, index);
    }
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<T>> {
        let cache = self.shared.cache.read();
        let found = cache.indices.get(name).and_then(|index| index.entries.get(value));
        found.map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }
    /// Calls `handler` for every object known now (as Added) and then for every change, in order,
    /// until the run this handle was made for ends (see [`SharedInformers::for_run`]).
    pub fn on_change(&self, handler: impl Fn(&Change<T>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        if self.run.is_cancelled() {
            return;
        }
        for object in self.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Handler { run: self.run.clone(), call: Box::new(handler) });
    }
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
    /// Resolves once the first list is in the cache.
    pub async fn synced(&self) {
        let mut receiver = self.shared.synced.subscribe();
        // The sender lives in self, so waiting can only end with the condition.
        let _ = receiver.wait_for(|synced| *synced).await;
    }

    fn apply(&self, object: T) {
        let handlers = self.shared.handlers.lock();
        let change = self.shared.cache.write().insert(Arc::new(object));
        deliver(&handlers, &change);
    }
    fn remove(&self, key: &str, last: Option<T>) {
        let handlers = self.shared.handlers.lock();
        let Some(old) = self.shared.cache.write().remove(key) else { return };
        deliver(&handlers, &Change::Deleted(last.map_or(old, Arc::new)));
    }
    fn replace(&self, objects: Vec<T>) {
        let mut gone: BTreeSet<Arc<str>> = {
            let cache = self.shared.cache.read();
            cache.objects.keys().cloned().collect()
        };
        for object in objects {
            let key = object.key();
            gone.remove(key.as_str());
            let old = self.get(&key);
            // A list does not tell that the last object of the name went before this one came.
            if old.as_ref().is_some_and(|old| old.uid() != object.uid()) {
                self.remove(&key, None);
            }
            if old.is_none_or(|old| old.resource_version() != object.resource_version()) {
                self.apply(object);
            }
        }
        for key in gone {
            self.remove(&key, None);
        }
        self.shared.synced.send_replace(true);
    }
}

/// Field ownership is of no use to a component and is often half of an object. And what was decoded has
/// room to grow in its lists and strings; a clone has what it needs.
fn cut<T: Resource>(mut object: T) -> T {
    object.metadata_mut().managed_fields = None;
    object.clone()
}

fn deliver<T>(handlers: &[Handler<T>], change: &Change<T>) {
    for handler in handlers.iter().filter(|handler| !handler.run.is_cancelled()) {
        (handler.call)(change);
    }
}

impl<T> Index<T> {
    fn insert(&mut self, key: &Arc<str>, object: &Arc<T>) {
        for value in (self.keys_of)(object) {
            self.entries.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }
    fn remove(&mut self, key: &str, object: &Arc<T>) {
        for value in (self.keys_of)(object) {
            if let Some(objects) = self.entries.get_mut(&value) {
                objects.remove(key);
                if objects.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

impl<T: Resource> Cache<T> {
    fn insert(&mut self, object: Arc<T>) -> Change<T> {
        let key = object.key();
        let key = match self.objects.get_key_value(key.as_str()) {
            Some((known, _)) => known.clone(),
            None => key.into(),
        };
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indices.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        match old {
            Some(old) => Change::Updated { old, new: object },
            None => Change::Added(object),
        }
    }
    fn remove(&mut self, key: &str) -> Option<Arc<T>> {
        let old = self.objects.remove(key)?;
        for index in self.indices.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

/// An informer of whichever kind.
trait Followed: Any + Send + Sync {
    fn drop_ended_handlers(&self);
}

impl<T: Resource> Followed for Informer<T> {
    fn drop_ended_handlers(&self) {
        let mut handlers = self.shared.handlers.lock();
        let ended: Vec<_> = handlers.extract_if(.., |handler| handler.run.is_cancelled()).collect();
        // What they hold may be a whole component, whose end is no matter of this lock.
        drop(handlers);
        drop(ended);
    }
}

type Registry = Mutex<HashMap<(TypeId, String), Arc<dyn Followed>>>;

/// The process-wide set of informers. Asking twice for the same kind and selection gives the same
/// one; its watch starts with the first request and ends with the token.
#[derive(Clone)]
pub struct SharedInformers {
    client: Client,
    cancel: CancellationToken,
    /// What handlers registered through this handle live as long as.
    run: CancellationToken,
    registry: Arc<Registry>,
}

impl SharedInformers {
    pub fn new(client: Client, cancel: CancellationToken) -> Self {
        SharedInformers { client, run: cancel.clone(), cancel, registry: Arc::default() }
    }
    /// The same caches, for one run of a component: its handlers are dropped, with all they hold, when
    /// `run` is cancelled, so that leadership lost and won again leaves nothing behind.
    pub fn for_run(&self, run: &CancellationToken) -> Self {
        let (registry, ended) = (self.registry.clone(), run.clone());
        tokio::spawn(async move {
            ended.cancelled().await;
            let followed: Vec<_> = registry.lock().values().cloned().collect();
            followed.iter().for_each(|informer| informer.drop_ended_handlers());
        });
        SharedInformers { run: run.clone(), ..self.clone() }
    }
    /// All objects of a kind. What there are masses of is asked for as what caches hold of it
    /// ([`crate::CachedPod`]).
    pub fn get<T: Resource>(&self) -> Informer<T> {
        self.get_selected(ListParams::default())
    }
    /// Only objects that match; a selection has a cache of its own.
    pub fn get_selected<T: Resource>(&self, params: ListParams) -> Informer<T> {
        let key = (TypeId::of::<T>(), format!("{:?}/{:?}", params.label_selector, params.field_selector));
        let mut registry = self.registry.lock();
        let found = registry.get(&key).map(|followed| &**followed as &dyn Any);
        if let Some(found) = found.and_then(|any| any.downcast_ref::<Informer<T>>()) {
            return Informer { shared: found.shared.clone(), run: self.run.clone() };
        }
        let informer = Informer::<T>::new(self.run.clone());
        registry.insert(key, Arc::new(informer.clone()));
        let api = Api::<T>::all(self.client.clone());
        tokio::spawn(reflect(api, params, informer.clone(), self.cancel.clone()));
        informer
    }
}

/// Lists, watches, and lists again when told to, until cancelled.
async fn reflect<T: Resource>(
    api: Api<T>,
    params: ListParams,
    informer: Informer<T>,
    cancel: CancellationToken,
) {
    let mut retry = FIRST_RETRY;
    while !cancel.is_cancelled() {
        let round = list_and_watch(&api, &params, &informer, &mut retry);
        let outcome = tokio::select! {
            () = cancel.cancelled() => return,
            outcome = round => outcome,
        };
        if let Err(error) = outcome {
            let expired = error.is_expired();
            if expired {
                debug!(kind = T::KIND, "watch expired, listing again");
            } else {
                warn!(kind = T::KIND, %error, "list or watch failed, trying again");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(retry) => {}
            }
            retry = (retry * 2).min(LAST_RETRY);
        }
    }
}

async fn list_and_watch<T: Resource>(
    api: &Api<T>,
    params: &ListParams,
    informer: &Informer<T>,
    retry: &mut Duration,
) -> Result<(), Error> {
    let (mut version, objects) = list_all(api, params).await?;
    informer.replace(objects);
    *retry = FIRST_RETRY;
    loop {
        let mut lines = Frames {
            stream: api.watch_raw(params, &version, WATCH_TIMEOUT_SECONDS).await?,
            buffer: Vec::new(),
        };
        while let Some(line) = lines.next().await? {
            handle_event(&line, informer, &mut version)?;
        }
        // The server closed the watch; wait a little so that a server in trouble is not hammered.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Each page is cut down as it arrives: the whole list never stands in memory uncut.
async fn list_all<T: Resource>(api: &Api<T>, params: &ListParams) -> Result<(String, Vec<T>), Error> {
    let mut params = ListParams { limit: Some(PAGE_SIZE), ..params.clone() };
    let mut objects = Vec::new();
    loop {
        let (meta, page) = api.list(&params).await?;
        objects.extend(page.into_iter().map(cut));
        match meta.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok((meta.resource_version.unwrap_or_default(), objects)),
        }
    }
}

#[derive(serde::Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

fn handle_event<T: Resource>(line: &[u8], informer: &Informer<T>, version: &mut String) -> Result<(), Error> {
    let event: RawEvent =
        serde_json::from_slice(line).map_err(|source| Error::Decode { what: "watch event", source })?;
    let json = event.object.get().as_bytes();
    match event.kind {
        "ERROR" => {
            let status = serde_json::from_slice(json)
                .map_err(|source| Error::Decode { what: "watch error", source })?;
            return Err(Error::Api(Box::new(status)));
        }
        "BOOKMARK" => *version = metadata_version(json)?,
        kind => {
            let object = cut(T::decode(json)?);
            *version = object.resource_version().to_owned();
            if kind == "DELETED" {
                informer.remove(&object.key(), Some(object))
            } else {
                informer.apply(object)
            }
        }
    }
    Ok(())
}

fn metadata_version(json: &[u8]) -> Result<String, Error> {
    #[derive(serde::Deserialize)]
    struct Bookmark {
        metadata: ObjectMeta,
    }
    let bookmark: Bookmark =
        serde_json::from_slice(json).map_err(|source| Error::Decode { what: "watch bookmark", source })?;
    Ok(bookmark.metadata.resource_version.unwrap_or_default())
}

/// Splits a byte stream into lines.
pub(crate) struct Frames<S> {
    pub(crate) stream: S,
    pub(crate) buffer: Vec<u8>,
}

impl<S: futures::Stream<Item = Result<bytes::Bytes, Error>> + Unpin> Frames<S> {
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut searched = 0;
        loop {
            if let Some(offset) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(searched + offset + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched > MAX_FRAME_BYTES {
                return Err(Error::Transport(format!("a watch frame exceeds {MAX_FRAME_BYTES} bytes")));
            }
            match self.stream.next().await {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Error::Transport("the watch ended inside a frame".into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};

    const DEADLINE: Duration = Duration::from_secs(60);

    fn object(name: &str, version: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("ns".into());
        map.metadata.resource_version = Some(version.into());
        map
    }

    #[test]
    fn replace_reports_only_differences() {
        let informer = Informer::<ConfigMap>::new(CancellationToken::new());
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = log.clone();
        informer.on_change(move |change| {
            let verb = match change {
                Change::Added(_) => "+",
                Change::Updated { .. } => "~",
                Change::Deleted(_) => "-",
            };
            seen.lock().push(format!("{verb}{}", change.object().key()));
        });
        informer.replace(vec![object("a", "1"), object("b", "2"), object("c", "3")]);
        informer.replace(vec![object("a", "1"), object("b", "4")]);
        assert_eq!(*log.lock(), ["+ns/a", "+ns/b", "+ns/c", "~ns/b", "-ns/c"]);
        assert!(informer.has_synced());
        assert_eq!(informer.list_namespace("ns").len(), 2);
        assert_eq!(informer.list_namespace("n").len(), 0);
        informer.replace(vec![object("e", "5"), object("d", "5"), object("b", "4")]);
        log.lock().clear();
        informer.replace(vec![object("c", "6")]);
        assert_eq!(*log.lock(), ["+ns/c", "-ns/b", "-ns/d", "-ns/e"], "what is gone, in key order");
        log.lock().clear();
        let mut other = object("c", "7");
        other.metadata.uid = Some("another".into());
        informer.replace(vec![other]);
        assert_eq!(*log.lock(), ["-ns/c", "+ns/c"], "another object of the name");
    }

    #[tokio::test]
    async fn nothing_of_a_run_is_left_when_it_ended() {
        let away = tower::service_fn(|_| async { Err::<http::Response<Full<Bytes>>, _>("away") });
        let shared = SharedInformers::new(Client::local(away), CancellationToken::new());
        let stays = Arc::new(());
        let held = stays.clone();
        shared.get::<ConfigMap>().on_change(move |_| drop(held.clone()));
        for _ in 0..3 {
            let run = CancellationToken::new();
            let informers = shared.for_run(&run);
            let of_run = Arc::new(());
            // A kind that others follow too, and one of which nothing is heard.
            let held = of_run.clone();
            informers.get::<ConfigMap>().on_change(move |_| drop(held.clone()));
            let held = of_run.clone();
            informers.get::<Secret>().on_change(move |_| drop(held.clone()));
            shared.get::<ConfigMap>().apply(object("a", "1"));
            assert_eq!(Arc::strong_count(&of_run), 3);
            run.cancel();
            let let_go = async {
                while Arc::strong_count(&of_run) > 1 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(DEADLINE, let_go).await.expect("a handler is left");
            let held = of_run.clone();
            informers.get::<Secret>().on_change(move |_| drop(held.clone()));
            assert_eq!(Arc::strong_count(&of_run), 1, "none comes late");
        }
        assert_eq!(Arc::strong_count(&stays), 2, "others go on");
    }

    #[test]
    fn no_handler_is_called_after_its_run() {
        let run = CancellationToken::new();
        let informer = Informer::<ConfigMap>::new(run.clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let called = calls.clone();
        informer.on_change(move |_| {
            called.fetch_add(1, Ordering::SeqCst);
        });
        informer.apply(object("a", "1"));
        run.cancel();
        informer.apply(object("a", "2"));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn indices_follow_changes() {
        let informer = Informer::<ConfigMap>::new(CancellationToken::new());
        informer.apply(object("a", "1"));
        informer.add_index("version", |map| vec![map.resource_version().to_owned()]);
        assert_eq!(informer.by_index("version", "1").len(), 1);
        informer.apply(object("a", "2"));
        assert_eq!(informer.by_index("version", "1").len(), 0);
        assert_eq!(informer.by_index("version", "2").len(), 1);
        informer.remove("ns/a", None);
        assert_eq!(informer.by_index("version", "2").len(), 0);
    }

    #[test]
    fn an_error_event_ends_the_watch_as_expired() {
        let informer = Informer::<ConfigMap>::new(CancellationToken::new());
        let line = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}}"#;
        let error = handle_event(line, &informer, &mut String::new()).unwrap_err();
        assert!(error.is_expired());
    }
}
