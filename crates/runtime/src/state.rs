//! The runtime's memory: what exists, by ID, and who wants to hear of changes.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use amphipod_cri::v1::{ContainerEventResponse, ContainerEventType};
use parking_lot::RwLock;
use tokio::sync::broadcast;

use crate::{
    config::{Config, Paths},
    container::record::Container,
    error::Error,
    image::store::ImageStore,
    sandbox::{cni::Cni, record::Sandbox},
    shim::now_nanos,
    stats::CpuSamples,
};

/// Events a slow subscriber may be behind before it loses some.
const EVENT_BACKLOG: usize = 1024;
/// IDs are abbreviated by people, never to less than this.
const MIN_ID_PREFIX: usize = 6;

/// Shared by all calls.
#[derive(Debug)]
pub struct Runtime {
    pub config: Config,
    pub paths: Paths,
    /// What shims are started from.
    pub executable: PathBuf,
    pub images: Arc<ImageStore>,
    pub cni: Cni,
    pub samples: CpuSamples,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    events: broadcast::Sender<ContainerEventResponse>,
}

impl Runtime {
    pub fn new(config: Config, executable: PathBuf, images: Arc<ImageStore>) -> Runtime {
        let paths = Paths::new(&config);
        let cni = Cni { conf_dir: config.cni_conf_dir.clone(), bin_dir: config.cni_bin_dir.clone() };
        Runtime {
            config,
            paths,
            executable,
            images,
            cni,
            samples: CpuSamples::default(),
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
        }
    }

    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        find(&self.sandboxes.read(), id).ok_or_else(|| Error::NotFound { kind: "pod sandbox", id: id.into() })
    }

    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let mut all: Vec<_> = self.sandboxes.read().values().cloned().collect();
        all.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.state().created_at_nanos));
        all
    }

    pub fn insert_sandbox(&self, sandbox: Sandbox) -> Arc<Sandbox> {
        let sandbox = Arc::new(sandbox);
        self.sandboxes.write().insert(sandbox.id.clone(), Arc::clone(&sandbox));
        sandbox
    }

    pub fn forget_sandbox(&self, id: &str) {
        self.sandboxes.write().remove(id);
    }

    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        find(&self.containers.read(), id).ok_or_else(|| Error::NotFound { kind: "container", id: id.into() })
    }

    pub fn containers(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.containers.read().values().cloned().collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.record().created_at_nanos));
        all
    }

    pub fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let mut all = self.containers();
        all.retain(|container| container.record().sandbox_id == sandbox);
        all
    }

    pub fn insert_container(&self, container: Container) -> Arc<Container> {
        let container = Arc::new(container);
        self.containers.write().insert(container.id.clone(), Arc::clone(&container));
        container
    }

    pub fn forget_container(&self, id: &str) {
        self.containers.write().remove(id);
    }

    /// Layers that containers are mounted from.
    pub fn layers_in_use(&self) -> BTreeSet<String> {
        self.containers.read().values().flat_map(|container| container.record().layers).collect()
    }

    pub fn subscribe(&self) -> broadcast::Receiver<ContainerEventResponse> {
        self.events.subscribe()
    }

    /// Tells subscribers what happened to a container (or, with the sandbox's own ID, to the sandbox).
    pub fn announce(&self, kind: ContainerEventType, id: &str, sandbox: &str) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let event = ContainerEventResponse {
            container_id: id.to_string(),
            container_event_type: kind.into(),
            created_at: now_nanos(),
            pod_sandbox_status: self.sandbox(sandbox).ok().map(|sandbox| sandbox.status()),
            containers_statuses: self.containers_of(sandbox).iter().map(|one| one.status()).collect(),
        };
        // Nobody listening is not an error.
        drop(self.events.send(event));
    }
}

/// By full ID, or by a prefix that fits only one.
fn find<T>(all: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(exact) = all.get(id) {
        return Some(Arc::clone(exact));
    }
    if id.len() < MIN_ID_PREFIX {
        return None;
    }
    let mut matching = all.iter().filter(|(known, _)| known.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some((_, one)), None) => Some(Arc::clone(one)),
        _ => None,
    }
}

/// A new ID: 64 hexadecimal digits, as everyone expects.
pub fn new_id() -> String {
    crate::image::unpack::hex(&rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abbreviations_must_be_unique() {
        let all = HashMap::from([
            ("abcdef01".to_string(), Arc::new(1)),
            ("abcdef02".to_string(), Arc::new(2)),
            ("123456ff".to_string(), Arc::new(3)),
        ]);
        assert_eq!(find(&all, "abcdef01").as_deref(), Some(&1));
        assert_eq!(find(&all, "123456").as_deref(), Some(&3));
        assert_eq!(find(&all, "abcdef"), None);
        assert_eq!(find(&all, "1234"), None);
    }
}
