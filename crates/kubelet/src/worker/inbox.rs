//! Where a pod's worker hears from the rest of the kubelet. It holds only the newest of each
//! thing, so it cannot grow.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::post::Target;
use crate::allocation::Ledger;
use crate::pod::resize::Refusal;
use crate::pod::status::Verdict;

#[derive(Default)]
pub struct News {
    pub pod: Option<Arc<Pod>>,
    pub removed: bool,
    pub mirror: Option<Target>,
    pub runtime_changed: bool,
    pub sources_changed: bool,
}

pub struct Inbox {
    uid: String,
    news: Mutex<News>,
    notify: Arc<Notify>,
    ledger: Arc<Ledger>,
    status: Mutex<Option<Arc<PodStatus>>>,
}

impl Inbox {
    pub fn new(uid: &str, ledger: Arc<Ledger>) -> Self {
        Inbox {
            uid: uid.to_owned(),
            news: Mutex::default(),
            notify: Arc::default(),
            ledger,
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

    /// Takes the pod in, or says why not.
    pub fn admit(&self, pod: &Arc<Pod>, runs_already: bool) -> Option<Verdict> {
        self.ledger.admit(pod, runs_already)
    }
    /// Grants the pod other resources, or says why not; once there is room, `changed` resolves.
    pub fn resize(&self, desired: &Arc<Pod>) -> Result<(), Refusal> {
        self.ledger.resize(desired, &self.notify)
    }
    pub fn withdraw(&self) {
        self.ledger.withdraw(&self.uid);
    }
    /// The pod's resources are free again.
    pub fn release(&self) {
        self.ledger.release(&self.uid);
    }
}
