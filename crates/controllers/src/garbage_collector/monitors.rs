//! One metadata watch per served kind, feeding the graph; the set follows discovery, so that custom
//! resources take part as soon as they are served.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amphipod_client::dynamic::{self, ApiKind, Dynamic, Observed};
use amphipod_client::workqueue::WorkQueue;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::graph::{Graph, Todo, Uid};
use crate::harness::Scope;

/// How often discovery is asked when nothing hints at a change.
const RESYNC: Duration = Duration::from_secs(30);
/// Nothing is collected before the first lists are in, or this has passed.
const FIRST_SYNC: Duration = Duration::from_secs(30);

struct Monitor {
    index: u32,
    cancel: CancellationToken,
    synced: Arc<AtomicBool>,
}

/// Kinds by group and kind (for owner references) and by index (for nodes).
#[derive(Default)]
struct Kinds {
    monitors: HashMap<ApiKind, Monitor>,
    by_index: HashMap<u32, ApiKind>,
    next: u32,
    /// Also kinds that cannot be watched may own.
    by_name: HashMap<(String, String), ApiKind>,
}

#[derive(Clone)]
pub struct Monitors {
    scope: Scope,
    pub graph: Arc<Mutex<Graph>>,
    kinds: Arc<Mutex<Kinds>>,
    pub check: WorkQueue,
    pub orphan: WorkQueue,
    /// A kind may have come or gone.
    changed: Arc<Notify>,
    progress: Arc<Notify>,
}

impl Monitors {
    pub fn new(scope: Scope) -> Self {
        Monitors {
            scope,
            graph: Arc::default(),
            kinds: Arc::default(),
            check: WorkQueue::new(),
            orphan: WorkQueue::new(),
            changed: Arc::default(),
            progress: Arc::default(),
        }
    }

    pub fn kind_at(&self, index: u32) -> Option<ApiKind> {
        self.kinds.lock().by_index.get(&index).cloned()
    }
    /// The kinds whose objects are in the graph.
    pub fn followed(&self) -> Vec<(u32, ApiKind)> {
        self.kinds.lock().by_index.iter().map(|(index, kind)| (*index, kind.clone())).collect()
    }
    pub fn kind_of(&self, group: &str, kind: &str) -> Option<ApiKind> {
        self.kinds.lock().by_name.get(&(group.to_owned(), kind.to_owned())).cloned()
    }

    pub fn enqueue(&self, todo: Todo) {
        todo.check.into_iter().for_each(|uid: Uid| self.check.add(&uid.key()));
        todo.orphan.into_iter().for_each(|uid| self.orphan.add(&uid.key()));
    }

    /// Waits until every kind known at the start was listed; false when cancelled.
    pub async fn first_sync(&self) -> bool {
        let all = async {
            loop {
                let progress = self.progress.notified();
                let done = {
                    let kinds = self.kinds.lock();
                    let mut monitors = kinds.monitors.values();
                    !kinds.monitors.is_empty() && monitors.all(|m| m.synced.load(Ordering::Acquire))
                };
                if done {
                    return;
                }
                progress.await;
            }
        };
        tokio::select! {
            () = self.scope.cancel.cancelled() => false,
            _ = tokio::time::timeout(FIRST_SYNC, all) => true,
        }
    }

    /// Follows discovery until cancelled.
    pub async fn run(&self) {
        loop {
            let changed = self.changed.notified();
            match dynamic::discover(&self.scope.client).await {
                // Groups that did not answer keep the monitors they have.
                Ok(found) => self.follow(found),
                Err(error) => debug!(%error, "discovery failed"),
            }
            tokio::select! {
                () = self.scope.cancel.cancelled() => return,
                () = changed => {}
                () = tokio::time::sleep(RESYNC) => {}
            }
        }
    }

    fn follow(&self, found: dynamic::Discovery) {
        let mut kinds = self.kinds.lock();
        let failed = |kind: &ApiKind| {
            let name = format!("{}/{}", kind.group, kind.version);
            found.failed.iter().any(|(group_version, _)| *group_version == name)
        };
        kinds.by_name.retain(|_, kind| failed(kind));
        for kind in &found.kinds {
            kinds.by_name.insert((kind.group.clone(), kind.kind.clone()), kind.clone());
        }
        let gone: Vec<ApiKind> = kinds
            .monitors
            .keys()
            .filter(|kind| !found.kinds.contains(kind) && !failed(kind))
            .cloned()
            .collect();
        for kind in gone {
            if let Some(monitor) = kinds.monitors.remove(&kind) {
                monitor.cancel.cancel();
                kinds.by_index.remove(&monitor.index);
                self.graph.lock().forget_kind(monitor.index);
            }
        }
        for kind in found.kinds {
            if is_collectable(&kind) && !kinds.monitors.contains_key(&kind) {
                let index = kinds.next;
                kinds.next += 1;
                let monitor = self.start(&kind, index);
                kinds.by_index.insert(index, kind.clone());
                kinds.monitors.insert(kind, monitor);
            }
        }
        drop(kinds);
        self.progress.notify_one();
    }

    fn start(&self, kind: &ApiKind, index: u32) -> Monitor {
        let cancel = self.scope.cancel.child_token();
        let synced = Arc::new(AtomicBool::new(false));
        let (this, flag, token) = (self.clone(), synced.clone(), cancel.clone());
        let api = Dynamic::new(self.scope.client.clone(), kind, "");
        let brings_kinds = matches!(kind.plural.as_str(), "customresourcedefinitions" | "apiservices");
        tokio::spawn(async move {
            let stopped = token.clone();
            let observe = |observed| {
                if stopped.is_cancelled() {
                    return; // a late event must not bring back a kind already forgotten
                }
                if brings_kinds && !matches!(observed, Observed::Listing) {
                    this.changed.notify_one();
                }
                this.observe(index, observed, &flag);
            };
            api.reflect(&token, observe).await;
        });
        Monitor { index, cancel, synced }
    }

    fn observe(&self, kind: u32, observed: Observed, synced: &AtomicBool) {
        let todo = {
            let mut graph = self.graph.lock();
            match observed {
                Observed::Listing => {
                    graph.begin_list(kind);
                    Todo::default()
                }
                Observed::Listed => {
                    synced.store(true, Ordering::Release);
                    self.progress.notify_one();
                    graph.end_list(kind)
                }
                Observed::Put(metadata) => graph.put(kind, &metadata),
                Observed::Deleted(metadata) => graph.remove(Uid::new(&metadata.uid)),
            }
        };
        self.enqueue(todo);
    }
}

/// Events come in masses and own nothing.
fn is_collectable(kind: &ApiKind) -> bool {
    let is_event = kind.plural == "events" && (kind.group.is_empty() || kind.group == "events.k8s.io");
    !is_event && ["list", "watch", "delete"].iter().all(|verb| kind.has_verb(verb))
}
