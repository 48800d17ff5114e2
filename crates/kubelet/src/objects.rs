//! Config maps and secrets that pods refer to. A node may only see what it can name, so each object
//! in use is watched by itself, as long as a pod here refers to it; an immutable one only until it
//! has been seen.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use amphipod_client::{Api, Change, Client, Informer, Resource};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Error;
use crate::pod::{containers, spec};
use crate::spec::env::{self, Needs};

/// A watch that has not seen its object after this long is passed by with a plain read.
const SYNC_PATIENCE: Duration = Duration::from_secs(1);

type Key = (String, String);
type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// A kind that can promise not to change.
trait Source: Resource {
    fn is_immutable(&self) -> bool;
}
impl Source for ConfigMap {
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}
impl Source for Secret {
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

/// One watched object and the pods (by uid) that refer to it. The watch ends with the value.
struct Followed<T> {
    informer: Informer<T>,
    users: BTreeSet<String>,
    _watch: DropGuard,
}

struct Kind<T> {
    client: Client,
    followed: Mutex<HashMap<Key, Followed<T>>>,
    listener: Arc<OnceLock<Listener>>,
}

impl<T: Source> Kind<T> {
    fn new(client: &Client, listener: &Arc<OnceLock<Listener>>) -> Arc<Self> {
        Arc::new(Kind { client: client.clone(), followed: Mutex::default(), listener: listener.clone() })
    }

    /// Makes `names` all that the pod refers to.
    fn refer(self: &Arc<Self>, namespace: &str, uid: &str, names: &[String]) {
        let mut followed = self.followed.lock();
        followed.retain(|(at, name), entry| {
            if at == namespace && !names.contains(name) {
                entry.users.remove(uid);
            }
            !entry.users.is_empty()
        });
        for name in names {
            let key = (namespace.to_owned(), name.clone());
            let entry = followed.entry(key).or_insert_with_key(|key| self.follow(key));
            entry.users.insert(uid.to_owned());
        }
    }

    fn follow(self: &Arc<Self>, key: &Key) -> Followed<T> {
        let cancel = CancellationToken::new();
        let (kind, at, stop) = (Arc::downgrade(self), key.clone(), cancel.clone());
        let seen = move |change: &Change<T>| {
            if !matches!(change, Change::Deleted(_)) && change.object().is_immutable() {
                stop.cancel();
            }
            tell(&kind, &at);
        };
        let informer = Informer::of_one(self.client.clone(), &key.0, &key.1, cancel.clone(), seen);
        Followed { informer, users: BTreeSet::new(), _watch: cancel.drop_guard() }
    }

    /// From the watch where there is one; `None` if the object does not exist.
    async fn get(&self, namespace: &str, name: &str) -> Result<Option<Arc<T>>, Error> {
        let key = (namespace.to_owned(), name.to_owned());
        let informer = self.followed.lock().get(&key).map(|entry| entry.informer.clone());
        if let Some(informer) = informer
            && tokio::time::timeout(SYNC_PATIENCE, informer.synced()).await.is_ok()
        {
            return Ok(informer.get(&format!("{namespace}/{name}")));
        }
        Ok(Api::<T>::namespaced(self.client.clone(), namespace).get_opt(name).await?.map(Arc::new))
    }
}

fn tell<T>(kind: &Weak<Kind<T>>, key: &Key) {
    let Some(kind) = kind.upgrade() else { return };
    let Some(listener) = kind.listener.get() else { return };
    let users = kind.followed.lock().get(key).map(|entry| entry.users.clone());
    users.iter().flatten().for_each(|uid| listener(uid));
}

pub struct Objects {
    config_maps: Arc<Kind<ConfigMap>>,
    secrets: Arc<Kind<Secret>>,
    listener: Arc<OnceLock<Listener>>,
}

impl Objects {
    pub fn new(client: &Client) -> Self {
        let listener = Arc::default();
        Objects { config_maps: Kind::new(client, &listener), secrets: Kind::new(client, &listener), listener }
    }
    /// Who hears the uid of each pod whose sources change; the first call counts.
    pub fn on_change(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }
    /// Watches what the pod refers to, and no longer what only an older version of it did.
    pub fn follow(&self, pod: &Pod) {
        let Needs { config_maps, secrets } = references(pod);
        self.config_maps.refer(pod.namespace(), pod.uid(), &config_maps);
        self.secrets.refer(pod.namespace(), pod.uid(), &secrets);
    }
    /// The pod needs nothing any more.
    pub fn forget(&self, pod: &Pod) {
        self.config_maps.refer(pod.namespace(), pod.uid(), &[]);
        self.secrets.refer(pod.namespace(), pod.uid(), &[]);
    }
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, Error> {
        self.config_maps.get(namespace, name).await
    }
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, Error> {
        self.secrets.get(namespace, name).await
    }
}

/// What a pod's environment and volumes refer to.
fn references(pod: &Pod) -> Needs {
    let mut all = Needs::default();
    for container in containers(pod) {
        let needs = env::needs(&container.container);
        all.config_maps.extend(needs.config_maps);
        all.secrets.extend(needs.secrets);
    }
    for volume in spec(pod).volumes.iter().flatten() {
        all.config_maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        all.secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
        for part in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            all.config_maps.extend(part.config_map.as_ref().map(|source| source.name.clone()));
            all.secrets.extend(part.secret.as_ref().map(|source| source.name.clone()));
        }
    }
    for names in [&mut all.config_maps, &mut all.secrets] {
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::testing;

    #[test]
    fn everything_a_pod_refers_to() {
        let pod = testing::pod(json!({
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "from"}}]}],
            "containers": [{"name": "a", "env": [
                {"name": "K", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
            "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "late"}}]}],
            "volumes": [
                {"name": "v", "configMap": {"name": "from"}},
                {"name": "s", "secret": {"secretName": "files"}},
                {"name": "p", "projected": {"sources": [
                    {"configMap": {"name": "part"}}, {"secret": {"name": "hidden"}}]}}]}));
        let Needs { config_maps, secrets } = references(&pod);
        assert_eq!(config_maps, ["from", "part"]);
        assert_eq!(secrets, ["files", "hidden", "key", "late"]);
    }
}
