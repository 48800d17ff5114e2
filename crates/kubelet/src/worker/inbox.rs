//! Where a pod's worker hears from the rest of the kubelet. It holds only the newest of each
//! thing, so it cannot grow.

use std::collections::HashMap;
use std::sync::Arc;

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::post::Target;
use crate::context::Context;
use crate::pod::admission::{self, NodeView};
use crate::pod::status::Verdict;

#[derive(Default)]
pub struct News {
    pub pod: Option<Arc<Pod>>,
    pub removed: bool,
    pub mirror: Option<Target>,
    pub runtime_changed: bool,
    pub sources_changed: bool,
}

/// Pods that were let in and hold resources, by uid.
#[derive(Default)]
pub struct Admitted {
    pods: Mutex<HashMap<String, Arc<Pod>>>,
}

impl Admitted {
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().values().cloned().collect()
    }
}

pub struct Inbox {
    uid: String,
    news: Mutex<News>,
    notify: Notify,
    context: Arc<Context>,
    admitted: Arc<Admitted>,
    status: Mutex<Option<Arc<PodStatus>>>,
}

impl Inbox {
    pub fn new(uid: &str, context: Arc<Context>, admitted: Arc<Admitted>) -> Self {
        Inbox {
            uid: uid.to_owned(),
            news: Mutex::default(),
            notify: Notify::new(),
            context,
            admitted,
            status: Mutex::default(),
        }
    }

    pub fn update(&self, pod: Arc<Pod>) {
        self.news.lock().pod = Some(pod);
        self.notify.notify_one();
    }
    pub fn remove(&self, last: Option<Arc<Pod>>) {
        let mut news = self.news.lock();
        news.removed = true;
        if last.is_some() {
            news.pod = last;
        }
        drop(news);
        self.notify.notify_one();
    }
    pub fn set_mirror(&self, mirror: Target) {
        self.news.lock().mirror = Some(mirror);
        self.notify.notify_one();
    }
    pub fn runtime_changed(&self) {
        self.news.lock().runtime_changed = true;
        self.notify.notify_one();
    }
    pub fn sources_changed(&self) {
        self.news.lock().sources_changed = true;
        self.notify.notify_one();
    }
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
    pub fn take(&self) -> News {
        std::mem::take(&mut self.news.lock())
    }

    /// The status last computed, for the node's own API.
    pub fn publish(&self, status: &PodStatus) {
        *self.status.lock() = Some(Arc::new(status.clone()));
    }
    pub fn status(&self) -> Option<Arc<PodStatus>> {
        self.status.lock().clone()
    }

    /// Takes the pod in, or says why not. One pod at a time: two must not take the same room.
    pub fn admit(&self, pod: &Arc<Pod>, runs_already: bool) -> Option<Verdict> {
        let mut pods = self.admitted.pods.lock();
        if admission::must_check(pod, runs_already) {
            let others: Vec<Arc<Pod>> = pods.values().filter(|p| p.uid() != pod.uid()).cloned().collect();
            let node = self.context.node.get(&self.context.config.node_name);
            let labels = admission::node_labels(node.as_deref(), &self.context.config.node_labels);
            let view = NodeView {
                name: &self.context.config.node_name,
                allocatable: &self.context.machine.allocatable,
                labels: &labels,
                others: &others,
                allowed_unsafe_sysctls: &self.context.config.allowed_unsafe_sysctls,
            };
            let verdict = admission::admit(pod, &view);
            if verdict.is_some() {
                return verdict;
            }
        }
        if admission::holds_resources(pod) {
            pods.insert(self.uid.clone(), pod.clone());
        }
        None
    }

    /// The pod's resources are free again.
    pub fn release(&self) {
        self.admitted.pods.lock().remove(&self.uid);
    }
}
