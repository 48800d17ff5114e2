//! Which pods this node runs: from the API, from the manifest folder, and those an earlier
//! kubelet left behind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Change, Informer, Resource};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::allocation::Ledger;
use crate::context::Context;
use crate::pod::state::RuntimeState;
use crate::pod::{is_mirror, is_static};
use crate::runtime::PodKey;
use crate::worker;
use crate::worker::inbox::Inbox;
use crate::worker::post::Target;

/// How often pods that nobody asked for are looked for.
const ORPHAN_CHECK: Duration = Duration::from_secs(120);

struct Entry {
    pod: Arc<Pod>,
    inbox: Arc<Inbox>,
}

/// The pods of this node and their workers.
pub struct Pods {
    context: Arc<Context>,
    ledger: Arc<Ledger>,
    entries: Mutex<HashMap<String, Entry>>,
    cancel: CancellationToken,
}

impl Pods {
    pub fn new(context: Arc<Context>, cancel: CancellationToken) -> Arc<Self> {
        let ledger = Arc::new(Ledger::new(context.clone()));
        Arc::new(Pods { context, ledger, entries: Mutex::default(), cancel })
    }

    /// Follows the API's pods of this node from now on.
    /// It must have its first list: what the pods in it hold is booked before anyone asks for room.
    pub fn follow(self: &Arc<Self>, informer: &Informer<Pod>) {
        self.ledger.take_up(&informer.list());
        let pods = self.clone();
        informer.on_change(move |change| match change {
            Change::Added(pod) => pods.set(pod.clone()),
            Change::Updated { old, new } => {
                // The same name may already belong to another pod.
                if old.uid() != new.uid() {
                    pods.remove(old);
                }
                pods.set(new.clone());
            }
            Change::Deleted(pod) => pods.remove(pod),
        });
        let entries = self.entries.lock();
        self.ledger.keep(|uid| entries.contains_key(uid));
    }

    /// Starts or updates a pod. Mirrors only tell where a static pod's status goes.
    pub fn set(self: &Arc<Self>, pod: Arc<Pod>) {
        if is_mirror(&pod) {
            return self.set_mirror(&pod);
        }
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(pod.uid()) {
            entry.pod = pod.clone();
            entry.inbox.update(pod);
            return;
        }
        let inbox = Arc::new(Inbox::new(pod.uid(), self.ledger.clone()));
        entries.insert(pod.uid().to_owned(), Entry { pod: pod.clone(), inbox: inbox.clone() });
        drop(entries);
        let (pods, uid) = (self.clone(), pod.uid().to_owned());
        tokio::spawn(async move {
            worker::run(pods.context.clone(), inbox.clone(), pod, pods.cancel.clone()).await;
            // A kubelet that stops leaves its pods running: nothing they hold becomes free.
            if pods.cancel.is_cancelled() {
                return;
            }
            inbox.release();
            pods.entries.lock().remove(&uid);
            pods.revive(&inbox);
        });
    }

    /// News that came in while a worker was ending must not be lost.
    fn revive(self: &Arc<Self>, inbox: &Inbox) {
        let news = inbox.take();
        if let Some(pod) = news.pod.filter(|p| !news.removed && !p.is_terminating()) {
            self.set(pod);
        }
    }

    pub fn remove(&self, pod: &Arc<Pod>) {
        if is_mirror(pod) {
            return;
        }
        if let Some(entry) = self.entries.lock().get(pod.uid()) {
            entry.inbox.remove(Some(pod.clone()));
        }
    }

    fn set_mirror(&self, mirror: &Pod) {
        let entries = self.entries.lock();
        let own = entries.values().find(|e| {
            is_static(&e.pod) && e.pod.name() == mirror.name() && e.pod.namespace() == mirror.namespace()
        });
        if let Some(entry) = own {
            entry.inbox.set_mirror(Target {
                namespace: mirror.namespace().to_owned(),
                name: mirror.name().to_owned(),
                uid: mirror.uid().to_owned(),
            });
        }
    }

    pub fn runtime_changed(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.inbox.runtime_changed();
        }
    }

    /// A config map or secret that a pod refers to is not what it was.
    pub fn sources_changed(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.inbox.sources_changed();
        }
    }

    /// Every pod here with its newest status, by namespace and name.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        let entries = self.entries.lock();
        let mut pods: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
        for entry in entries.values() {
            let status = entry.inbox.status().map(|s| (*s).clone()).or_else(|| entry.pod.status.clone());
            pods.insert(entry.pod.key(), Arc::new(Pod { status, ..(*entry.pod).clone() }));
        }
        pods.into_values().collect()
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let entries = self.entries.lock();
        let found = entries.values().find(|e| e.pod.namespace() == namespace && e.pod.name() == name);
        found.map(|e| e.pod.clone())
    }

    pub fn counts(&self) -> (usize, usize) {
        (self.entries.lock().len(), self.ledger.count())
    }

    /// Ends pods at the runtime that neither the API nor the folder knows; repeats now and then.
    /// `informer` must have its first list.
    pub async fn reap_orphans(self: Arc<Self>, informer: Informer<Pod>) {
        informer.synced().await;
        loop {
            match self.context.runtime.all_pods().await {
                Ok(all) => {
                    for key in all.into_keys().filter(|key| self.is_orphan(key)) {
                        self.adopt_orphan(&key).await;
                    }
                }
                Err(error) => debug!(%error, "the runtime could not be listed"),
            }
            self.remove_orphan_dirs();
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(ORPHAN_CHECK) => {}
            }
        }
    }

    fn is_orphan(&self, key: &PodKey) -> bool {
        !self.entries.lock().contains_key(&key.uid)
    }

    /// Hands a leftover to a worker of its own, already removed: it ends it and cleans up.
    async fn adopt_orphan(self: &Arc<Self>, key: &PodKey) {
        let Ok(state) = self.context.runtime.pod_state(&key.uid, &RuntimeState::default()).await else {
            return;
        };
        info!(pod = key.name, namespace = key.namespace, "ending a pod that is no longer wanted");
        let pod = Arc::new(remembered(key, &state));
        self.set(pod.clone());
        self.remove(&pod);
    }

    /// Folders of pods that are gone, left by a crash between steps.
    fn remove_orphan_dirs(&self) {
        let Ok(dirs) = std::fs::read_dir(self.context.config.root_dir.join("pods")) else { return };
        for dir in dirs.flatten() {
            let uid = dir.file_name().to_string_lossy().into_owned();
            if self.entries.lock().contains_key(&uid) {
                continue;
            }
            if let Err(error) = crate::volumes::tear_down(&dir.path()) {
                debug!(%error, uid, "an old pod folder could not be removed");
            }
            self.context.cgroups.remove(&uid);
        }
    }
}

/// As much of a pod as its containers tell.
fn remembered(key: &PodKey, state: &RuntimeState) -> Pod {
    let grace = state.containers.iter().find_map(|c| c.grace_period_seconds);
    let mut names: Vec<&str> = state.containers.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut pod = Pod::default();
    pod.metadata.name = Some(key.name.clone());
    pod.metadata.namespace = Some(key.namespace.clone());
    pod.metadata.uid = Some(key.uid.clone());
    pod.spec = Some(PodSpec {
        containers: names
            .iter()
            .map(|n| Container { name: (*n).to_owned(), ..Container::default() })
            .collect(),
        termination_grace_period_seconds: grace,
        ..PodSpec::default()
    });
    pod
}
