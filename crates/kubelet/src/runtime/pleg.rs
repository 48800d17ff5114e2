//! Learning of changes at the runtime: its event stream where it has one, and a comparison of
//! listings now and then (often, where it has none).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{PodKey, Runtime};
use crate::spec::labels;

/// Listing with events at hand only catches what a broken stream missed.
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(60);
/// Without events listings are all there is: fast while things change, slower in quiet times.
const RELIST_BUSY: Duration = Duration::from_millis(200);
const RELIST_QUIET: Duration = Duration::from_secs(1);
const BUSY_FOR: Duration = Duration::from_secs(5);
/// Between attempts to get the stream back.
const STREAM_RETRY: Duration = Duration::from_secs(1);

/// When the last listing succeeded; the node is not healthy without.
#[derive(Default)]
pub struct Health {
    last: parking_lot::Mutex<Option<Instant>>,
    network: parking_lot::Mutex<Option<String>>,
}

impl Health {
    pub fn seen(&self) {
        *self.last.lock() = Some(Instant::now());
    }
    /// What the runtime's network lacks, as last heard; pods with addresses cannot start then.
    pub fn network_problem(&self) -> Option<String> {
        self.network.lock().clone()
    }
    pub fn set_network_problem(&self, problem: Option<String>) {
        *self.network.lock() = problem;
    }
    /// Time since the runtime was last known to answer.
    pub fn age(&self) -> Option<Duration> {
        self.last.lock().map(|at| at.elapsed())
    }
}

/// Calls `changed` with the uid of every pod whose containers did something.
pub async fn watch(
    runtime: Runtime,
    health: Arc<Health>,
    changed: impl Fn(&str) + Send + Sync + 'static,
    cancel: CancellationToken,
) {
    let work = run(runtime, health, changed);
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

async fn run(runtime: Runtime, health: Arc<Health>, changed: impl Fn(&str)) {
    let mut known = BTreeMap::new();
    loop {
        match runtime.events().await {
            Ok(stream) => {
                debug!("following the runtime's container events");
                relist(&runtime, &health, &mut known, &changed).await;
                follow(&runtime, &health, &mut known, &changed, stream).await;
                warn!("the runtime's event stream ended, connecting again");
                tokio::time::sleep(STREAM_RETRY).await;
            }
            Err(error) => {
                debug!(%error, "no container events, listing instead");
                poll(&runtime, &health, &mut known, &changed).await;
            }
        }
    }
}

async fn follow(
    runtime: &Runtime,
    health: &Health,
    known: &mut BTreeMap<PodKey, u64>,
    changed: &impl Fn(&str),
    mut stream: tonic::Streaming<amphipod_cri::v1::ContainerEventResponse>,
) {
    let mut relist_at = Instant::now() + RELIST_WITH_EVENTS;
    loop {
        match tokio::time::timeout_at(relist_at, stream.next()).await {
            Ok(Some(Ok(event))) => {
                health.seen();
                let by_sandbox = event.pod_sandbox_status.and_then(|s| s.metadata).map(|m| m.uid);
                let by_container =
                    || event.containers_statuses.iter().find_map(|c| c.labels.get(labels::POD_UID).cloned());
                if let Some(uid) = by_sandbox.filter(|uid| !uid.is_empty()).or_else(by_container) {
                    changed(&uid);
                }
            }
            Ok(Some(Err(_)) | None) => return,
            Err(_) => {
                relist(runtime, health, known, changed).await;
                relist_at = Instant::now() + RELIST_WITH_EVENTS;
            }
        }
    }
}

/// Lists for as long as it takes the quiet interval to try the stream again a few times.
async fn poll(
    runtime: &Runtime,
    health: &Health,
    known: &mut BTreeMap<PodKey, u64>,
    changed: &impl Fn(&str),
) {
    let mut busy_until = Instant::now() + BUSY_FOR;
    let retry_stream = Instant::now() + Duration::from_secs(300);
    while Instant::now() < retry_stream {
        if relist(runtime, health, known, changed).await {
            busy_until = Instant::now() + BUSY_FOR;
        }
        let pause = if Instant::now() < busy_until { RELIST_BUSY } else { RELIST_QUIET };
        tokio::time::sleep(pause).await;
    }
}

/// True if anything had changed.
async fn relist(
    runtime: &Runtime,
    health: &Health,
    known: &mut BTreeMap<PodKey, u64>,
    changed: &impl Fn(&str),
) -> bool {
    let now = match runtime.all_pods().await {
        Ok(now) => now,
        Err(error) => {
            debug!(%error, "the runtime could not be listed");
            return false;
        }
    };
    health.seen();
    let mut any = false;
    for key in now.keys().chain(known.keys()) {
        if now.get(key) != known.get(key) {
            changed(&key.uid);
            any = true;
        }
    }
    *known = now;
    any
}
