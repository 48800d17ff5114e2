//! What pods hold of the node, and which of them wait for more. What was granted is written down
//! beside each pod's volumes before it is used, so that a restarted kubelet neither forgets a grant
//! nor takes a changed spec for one. (See docs/kubelet-state.md for the files.)

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use amphipod_client::{Resource, Writable};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus, ResourceRequirements};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::Config;
use crate::context::Context;
use crate::error::{Error, IoContext};
use crate::pod::admission::{self, NodeView};
use crate::pod::resize::{self, Refusal};
use crate::pod::spec;
use crate::pod::status::Verdict;

const ALLOCATED: &str = "allocated.json";
const ACTUATED: &str = "actuated.json";

/// A pod whose resize found no room.
struct Waiting {
    desired: Arc<Pod>,
    since: Timestamp,
    granted: Arc<Notify>,
}

/// By uid.
#[derive(Default)]
struct Books {
    /// Pods that were let in and hold resources, with the resources they hold.
    pods: HashMap<String, Arc<Pod>>,
    waiting: HashMap<String, Waiting>,
}

pub struct Ledger {
    context: Arc<Context>,
    books: Mutex<Books>,
}

impl Ledger {
    pub fn new(context: Arc<Context>) -> Self {
        Ledger { context, books: Mutex::default() }
    }

    pub fn count(&self) -> usize {
        self.books.lock().pods.len()
    }

    /// Books what pods already hold, before any of them (or a new one) asks for room.
    pub fn take_up(&self, pods: &[Arc<Pod>]) {
        let mut books = self.books.lock();
        for pod in pods.iter().filter(|pod| admission::holds_resources(pod)) {
            if let Some(held) = held(&self.context.config, pod) {
                books.pods.insert(pod.uid().to_owned(), Arc::new(held));
            }
        }
    }

    /// Drops what was booked for pods that are not there after all.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.books.lock().pods.retain(|uid, _| is_there(uid));
    }

    /// Takes the pod in, or says why not. One pod at a time: two must not take the same room.
    pub fn admit(&self, pod: &Arc<Pod>, runs_already: bool) -> Option<Verdict> {
        let mut books = self.books.lock();
        if admission::must_check(pod, runs_already) {
            let verdict = self.look(&books, pod.uid(), |node| admission::admit(pod, node));
            if verdict.is_some() {
                return verdict;
            }
        }
        if admission::holds_resources(pod) {
            // Held all the same: a kubelet that starts anew goes by the pod's status instead.
            if let Err(error) = write_down(&self.context.config, pod) {
                warn!(%error, pod = pod.name(), "what the pod holds was not written down");
            }
            books.pods.insert(pod.uid().to_owned(), pod.clone());
        }
        None
    }

    /// Grants the pod its desired resources, or says why not; then `granted` is told when there is
    /// room. Asked again, it answers anew.
    pub fn resize(&self, desired: &Arc<Pod>, granted: &Arc<Notify>) -> Result<(), Refusal> {
        let mut books = self.books.lock();
        let uid = desired.uid();
        let held = books.pods.get(uid).cloned();
        if held.as_ref().is_some_and(|held| resize::same_resources(desired, held)) {
            books.waiting.remove(uid);
            return Ok(());
        }
        let outcome = self
            .look(&books, uid, |node| resize::check(desired, node))
            .and_then(|()| self.grant(&mut books, desired).map_err(|e| Refusal::Deferred(e.to_string())));
        match &outcome {
            Ok(()) => self.serve_waiting(&mut books),
            Err(Refusal::Deferred(_)) => {
                let since = books.waiting.get(uid).map_or_else(Timestamp::now, |w| w.since);
                let waiting = Waiting { desired: desired.clone(), since, granted: granted.clone() };
                books.waiting.insert(uid.to_owned(), waiting);
            }
            Err(Refusal::Infeasible(_)) => {
                books.waiting.remove(uid);
            }
        }
        outcome
    }

    /// The pod no longer wants other resources than it holds.
    pub fn withdraw(&self, uid: &str) {
        self.books.lock().waiting.remove(uid);
    }

    /// The pod's resources are free again.
    pub fn release(&self, uid: &str) {
        let mut books = self.books.lock();
        books.waiting.remove(uid);
        if books.pods.remove(uid).is_some() {
            self.serve_waiting(&mut books);
        }
    }

    fn grant(&self, books: &mut MutexGuard<'_, Books>, desired: &Arc<Pod>) -> Result<(), Error> {
        write_down(&self.context.config, desired)?;
        books.waiting.remove(desired.uid());
        books.pods.insert(desired.uid().to_owned(), desired.clone());
        Ok(())
    }

    /// Room has appeared: those that wait are served in their turn.
    fn serve_waiting(&self, books: &mut MutexGuard<'_, Books>) {
        let mut queue: Vec<_> = books
            .waiting
            .iter()
            .filter_map(|(uid, w)| {
                let held = books.pods.get(uid)?;
                Some((resize::turn(&w.desired, held, w.since), w.desired.clone(), w.granted.clone()))
            })
            .collect();
        queue.sort_by_key(|(turn, ..)| *turn);
        for (_, desired, granted) in queue {
            if self.look(books, desired.uid(), |node| resize::check(&desired, node)).is_err() {
                continue;
            }
            match self.grant(books, &desired) {
                Ok(()) => granted.notify_one(),
                Err(error) => warn!(%error, pod = desired.name(), "a resize was not written down"),
            }
        }
    }

    /// Shows the node as a pod finds it: without what the pod itself holds.
    fn look<T>(&self, books: &Books, uid: &str, decide: impl FnOnce(&NodeView) -> T) -> T {
        let others: Vec<Arc<Pod>> = books.pods.values().filter(|p| p.uid() != uid).cloned().collect();
        let config = &self.context.config;
        let node = self.context.node.get(&config.node_name);
        let labels = admission::node_labels(node.as_deref(), &config.node_labels);
        decide(&NodeView {
            name: &config.node_name,
            allocatable: &self.context.machine.allocatable,
            labels: &labels,
            others: &others,
            allowed_unsafe_sysctls: &config.allowed_unsafe_sysctls,
        })
    }
}

/// `pod` with the resources an earlier kubelet granted it.
pub fn restored(config: &Config, pod: Arc<Pod>) -> Arc<Pod> {
    held(config, &pod).map_or(pod, Arc::new)
}

/// As it was written down, or else as the pod's status tells it.
fn held(config: &Config, pod: &Pod) -> Option<Pod> {
    match read(config, pod.uid(), ALLOCATED) {
        Some(held) => Some(resize::with_resources(pod, &held)),
        None => resize::as_told(pod),
    }
}

fn write_down(config: &Config, pod: &Pod) -> Result<(), Error> {
    let bare = |containers: &[k8s_openapi::api::core::v1::Container]| {
        let all = containers.iter().map(|c| k8s_openapi::api::core::v1::Container {
            name: c.name.clone(),
            resources: c.resources.clone(),
            ..Default::default()
        });
        all.collect::<Vec<_>>()
    };
    let mut record = Pod {
        spec: Some(PodSpec {
            init_containers: spec(pod).init_containers.as_deref().map(bare),
            containers: bare(&spec(pod).containers),
            ..PodSpec::default()
        }),
        ..Pod::default()
    };
    record.metadata.uid = pod.metadata.uid.clone();
    write(config, pod.uid(), ALLOCATED, &record)
}

/// What the runtime was last told of each container, by id.
pub type Actuated = HashMap<String, (String, ResourceRequirements)>;

pub fn write_actuated(config: &Config, uid: &str, actuated: &Actuated) -> Result<(), Error> {
    let statuses = actuated.iter().map(|(id, (name, resources))| ContainerStatus {
        name: name.clone(),
        container_id: Some(id.clone()),
        resources: Some(resources.clone()),
        ..ContainerStatus::default()
    });
    let mut record = Pod {
        status: Some(PodStatus { container_statuses: Some(statuses.collect()), ..PodStatus::default() }),
        ..Pod::default()
    };
    record.metadata.uid = Some(uid.to_owned());
    write(config, uid, ACTUATED, &record)
}

pub fn read_actuated(config: &Config, uid: &str) -> Actuated {
    let statuses = read(config, uid, ACTUATED).and_then(|pod| pod.status?.container_statuses);
    let known = statuses.into_iter().flatten();
    known.filter_map(|s| Some((s.container_id?, (s.name, s.resources.unwrap_or_default())))).collect()
}

fn path(config: &Config, uid: &str, file: &str) -> PathBuf {
    config.pod_dir(uid).join(file)
}

fn write(config: &Config, uid: &str, file: &str, record: &Pod) -> Result<(), Error> {
    let path = path(config, uid, file);
    let (dir, aside) = (config.pod_dir(uid), path.with_extension("new"));
    std::fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
    // The name must not lead to the new file before its content is there to stay.
    let written = std::fs::File::create(&aside).and_then(|mut file| {
        file.write_all(&record.encode())?;
        file.sync_all()
    });
    written.context(|| format!("write {}", aside.display()))?;
    std::fs::rename(&aside, &path).context(|| format!("rename to {}", path.display()))
}

fn read(config: &Config, uid: &str, file: &str) -> Option<Pod> {
    let path = path(config, uid, file);
    let text = std::fs::read(&path).ok()?;
    match Pod::decode(&text) {
        Ok(pod) if pod.uid() == uid => Some(pod),
        Ok(_) => None,
        Err(error) => {
            debug!(%error, path = %path.display(), "an unreadable record of a pod's resources");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::pod;
    use serde_json::json;

    #[test]
    fn what_is_held_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new("n", "127.0.0.1".parse().unwrap(), "");
        config.root_dir = dir.path().into();
        let with = |cpu: &str| {
            Arc::new(pod(json!({"containers": [
                {"name": "a", "image": "x", "resources": {"requests": {"cpu": cpu}}}]})))
        };
        assert_eq!(restored(&config, with("2")), with("2"), "nothing is known");
        write_down(&config, &with("1")).unwrap();
        assert_eq!(restored(&config, with("2")), with("1"));
        let resources = spec(&with("1")).containers[0].resources.clone().unwrap();
        let actuated = Actuated::from([("id".to_owned(), ("a".to_owned(), resources))]);
        write_actuated(&config, "u1", &actuated).unwrap();
        assert_eq!(read_actuated(&config, "u1"), actuated);
        assert!(read_actuated(&config, "u2").is_empty());

        // As the first release wrote it, and as a crash may leave it.
        let old = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"uid":"u1"},"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"3"}}}]}}"#;
        std::fs::write(path(&config, "u1", ALLOCATED), old).unwrap();
        assert_eq!(restored(&config, with("2")), with("3"));
        std::fs::write(path(&config, "u1", ALLOCATED), &old[..20]).unwrap();
        assert_eq!(restored(&config, with("2")), with("2"));
        // Then the status counts, where it tells anything.
        let told = |cpu: &str| {
            let mut pod = Pod::clone(&with(cpu));
            let status = json!({"containerStatuses": [{"name": "a", "image": "x", "imageID": "", "ready": true,
                "restartCount": 0, "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}}}]});
            pod.status = Some(serde_json::from_value(status).unwrap());
            Arc::new(pod)
        };
        assert_eq!(restored(&config, told("2")), told("1"));
    }
}
