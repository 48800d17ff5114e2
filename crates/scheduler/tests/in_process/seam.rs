//! The seam between a decision and its binding, held open: bindings wait there until they are let through.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amphipod_apiserver::ApiServer;
use amphipod_apiserver::seams::UserInfo;
use amphipod_client::Client;
use tokio::sync::watch;
use tower::ServiceExt;

use super::DEADLINE;

pub fn is_binding<B>(request: &http::Request<B>) -> bool {
    request.uri().path().ends_with("/binding")
}

pub fn scheduler_user() -> UserInfo {
    UserInfo::new("system:kube-scheduler", &["system:authenticated"])
}

/// One that was neither answered nor given up.
struct Waiting(watch::Sender<usize>);

impl Waiting {
    fn new(number: &watch::Sender<usize>) -> Self {
        number.send_modify(|number| *number += 1);
        Waiting(number.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|number| *number -= 1);
    }
}

pub struct Seam {
    /// Its bindings wait.
    pub client: Client,
    waiting: watch::Receiver<usize>,
    open: watch::Sender<bool>,
}

impl Seam {
    pub fn new(server: &Arc<ApiServer>) -> Self {
        Seam::holding(server, |_| true)
    }
    /// Only those wait whose number (from one) the filter says so of.
    pub fn holding(
        server: &Arc<ApiServer>,
        waits: impl Fn(usize) -> bool + Clone + Send + Sync + 'static,
    ) -> Self {
        let service = server.local_service(scheduler_user());
        let (asked, waiting) = watch::channel(0_usize);
        let (open, opened) = watch::channel(false);
        let bindings = Arc::new(AtomicUsize::new(0));
        let held = tower::service_fn(move |request: http::Request<_>| {
            let is_held = is_binding(&request) && waits(bindings.fetch_add(1, Ordering::Relaxed) + 1);
            let waiting = is_held.then(|| Waiting::new(&asked));
            let (mut opened, service) = (opened.clone(), service.clone());
            async move {
                if waiting.is_some() && opened.wait_for(|open| *open).await.is_err() {
                    std::future::pending::<()>().await; // nobody will ever open it
                }
                service.oneshot(request).await
            }
        });
        Seam { client: Client::local(held), waiting, open }
    }
    /// Once so many are on their way.
    pub async fn reached(&mut self, number: usize) {
        let all = self.waiting.wait_for(|waiting| *waiting == number);
        tokio::time::timeout(DEADLINE, all).await.unwrap().unwrap();
    }
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}
