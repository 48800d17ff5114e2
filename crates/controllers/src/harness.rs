//! What every controller's shell has in common: an identity, the shared caches, a queue with
//! workers that retry, and the wiring from a dependent's change to its owner's key. A new
//! controller is a module with a `run(Scope)` and one row in the table of `lib.rs`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Change, Client, EventRecorder, Informer, Resource, SharedInformers};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::selector::Labels;
use crate::{Config, Error, meta};

/// After this many failures in a row a key is reported, not only retried.
const FAILURES_WORTH_A_WARNING: u32 = 10;

/// What a controller gets to work with.
#[derive(Clone)]
pub struct Scope {
    /// The controller's name, which is also its identity's.
    pub name: &'static str,
    pub client: Client,
    pub informers: SharedInformers,
    pub config: Arc<Config>,
    pub cancel: CancellationToken,
}

impl Scope {
    /// A recorder under the component name users know from upstream's events.
    pub fn events(&self, component: &str) -> EventRecorder {
        EventRecorder::new(self.client.clone(), component, None)
    }

    /// Waits for a cache; false when cancelled meanwhile.
    pub async fn synced<T: Resource>(&self, informer: &Informer<T>) -> bool {
        tokio::select! {
            () = self.cancel.cancelled() => false,
            () = informer.synced() => true,
        }
    }

    /// Runs the workers until cancelled.
    pub async fn work<C: Controller>(&self, queue: WorkQueue, workers: usize, controller: Arc<C>) {
        if let Some(metrics) = self.client.metrics() {
            metrics.show(C::QUEUE, &queue);
        }
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..workers.max(1) {
            tasks.spawn(worker(self.name, queue.clone(), controller.clone()));
        }
        self.cancel.cancelled().await;
        queue.close();
        while tasks.join_next().await.is_some() {}
    }
}

/// One key's work.
pub trait Controller: Send + Sync + 'static {
    /// What upstream's series call its queue.
    const QUEUE: &'static str;
    /// Brings the world in line for one key; `Some(delay)` to be called again without a change.
    fn sync(&self, key: &str) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;
}

async fn worker<C: Controller>(name: &'static str, queue: WorkQueue, controller: Arc<C>) {
    while let Some(key) = queue.next().await {
        match controller.sync(&key).await {
            Ok(again) => {
                queue.forget(&key);
                if let Some(delay) = again {
                    queue.add_after(&key, delay);
                }
            }
            Err(error) => {
                if queue.failures(&key) == FAILURES_WORTH_A_WARNING && !error.is_race() {
                    warn!(controller = name, key, %error, "keeps failing");
                } else {
                    debug!(controller = name, key, %error, "will be tried again");
                }
                queue.add_rate_limited(&key);
            }
        }
        queue.done(&key);
    }
}

/// The wall clock, to the second as the API keeps it. Cores get it as a value.
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Every change of an object puts its key on the queue.
pub fn enqueue_all<T: Resource>(informer: &Informer<T>, queue: &WorkQueue) {
    let queue = queue.clone();
    informer.on_change(move |change| queue.add(&change.object().key()));
}

/// The index that finds dependents by their controller: its uid, or `orphan/<namespace>`.
pub const BY_CONTROLLER: &str = "controller";

pub fn index_by_controller<T: Resource>(informer: &Informer<T>) {
    informer.add_index(BY_CONTROLLER, |object| {
        vec![match meta::controller_of(object.metadata()) {
            Some(owner) => owner.uid.clone(),
            None => format!("orphan/{}", object.namespace()),
        }]
    });
}

/// Dependents of this owner, and those in its namespace that have none.
pub fn candidates<T: Resource>(informer: &Informer<T>, owner_uid: &str, namespace: &str) -> Vec<Arc<T>> {
    let mut found = informer.by_index(BY_CONTROLLER, owner_uid);
    found.extend(informer.by_index(BY_CONTROLLER, &format!("orphan/{namespace}")));
    found
}

/// The owner's key if this kind controls the object and the cache has that very owner (or none yet).
pub fn owner_key<O: Resource, T: Resource>(owners: &Informer<O>, object: &T) -> Option<String> {
    let reference = meta::controller_of(object.metadata())?;
    if reference.kind != O::KIND || meta::group_of(&reference.api_version) != O::GROUP {
        return None;
    }
    let key = format!("{}/{}", object.namespace(), reference.name);
    match owners.get(&key) {
        Some(owner) if owner.uid() != reference.uid => None,
        _ => Some(key),
    }
}

/// Puts owners on the queue when dependents change: the controller (old and new), or for an object
/// without one every owner whose selector takes it. `observe` sees each change with its owner's key
/// first, for expectations.
pub fn enqueue_owners<O: Resource, T: Resource>(
    dependents: &Informer<T>,
    owners: &Informer<O>,
    queue: &WorkQueue,
    takes: fn(&O, Labels<'_>) -> bool,
    observe: impl Fn(&Change<T>, &str) + Send + Sync + 'static,
) {
    let (owners, queue) = (owners.clone(), queue.clone());
    dependents.on_change(move |change| {
        let object = change.object();
        if let Change::Updated { old, new } = change {
            if old.resource_version() == new.resource_version() {
                return;
            }
            if let Some(key) = owner_key(&owners, old.as_ref()) {
                queue.add(&key);
            }
        }
        if let Some(key) = owner_key(&owners, object.as_ref()) {
            observe(change, &key);
            queue.add(&key);
        } else if meta::controller_of(object.metadata()).is_none() {
            for owner in owners.list_namespace(object.namespace()) {
                if takes(&owner, object.metadata().labels.as_ref()) {
                    queue.add(&owner.key());
                }
            }
        }
    });
}
