//! Keeps flow control to its objects: follows FlowSchemas and PriorityLevelConfigurations through the
//! watch cache, writes what is to be said of them, and has seats lent anew every ten seconds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::status::Status;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;

use super::config::{Verdict, digest};
use crate::bootstrap::{self, Loopback};
use crate::cache::{Collection, Interest, Watcher};
use crate::context::time_text;
use crate::server::ApiServer;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const FIELD_MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Seats are lent anew this often, as upstream.
const ADJUSTMENT_PERIOD: Duration = Duration::from_secs(10);
/// One schema's status is written at most so often in so long. Servers that see different levels would
/// contradict each other for ever.
const MAX_WRITES: usize = 6;
const WRITES_PERIOD: Duration = Duration::from_secs(60);
/// Statuses are written so many at once: enough not to wait for each write's way to the disk, few beside the
/// seats that clients write with.
const CONCURRENT_WRITES: usize = 16;
/// What was put off is looked at again after so many seconds, at random so that servers do not meet.
const PUT_OFF_SECONDS: std::ops::Range<u64> = 30..75;
/// After a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// When each schema was written to lately, oldest first.
#[derive(Debug, Default)]
struct Writes(HashMap<String, VecDeque<Instant>>);

impl Writes {
    /// Divides what is to be said by whether it may be written now; that is then taken for written.
    fn divide(&mut self, verdicts: Vec<Verdict>, now: Instant) -> (Vec<Verdict>, Vec<Verdict>) {
        self.0.retain(|_, times| {
            while times.front().is_some_and(|then| now - *then >= WRITES_PERIOD) {
                times.pop_front();
            }
            !times.is_empty()
        });
        verdicts.into_iter().partition(|verdict| {
            let times = self.0.entry(verdict.schema.clone()).or_default();
            let is_allowed = times.len() < MAX_WRITES;
            if is_allowed {
                times.push_back(now);
            }
            is_allowed
        })
    }
}

#[derive(Debug, Default)]
pub struct Keeper {
    writes: Writes,
}

struct Objects {
    schemas: Arc<Collection>,
    levels: Arc<Collection>,
}

impl Objects {
    async fn of(server: &ApiServer) -> Result<Self, Status> {
        let catalog = server.catalog.load();
        let collection = async |plural| {
            let resource = catalog.stored(GROUP, plural).ok_or_else(Status::no_such_path)?;
            server.cache.collection(&resource).await
        };
        let schemas = collection("flowschemas").await?;
        Ok(Objects { schemas, levels: collection("prioritylevelconfigurations").await? })
    }

    fn watch(&self) -> [Watcher; 2] {
        [&self.schemas, &self.levels].map(|collection| collection.watch_now(Interest::All).2)
    }
}

fn values(collection: &Collection) -> Vec<Value> {
    let snapshot = collection.snapshot();
    // What is not readable is not in a snapshot, and text that is no JSON is not readable.
    snapshot.values().filter_map(|entry| serde_json::from_slice(&entry.text.contiguous()).ok()).collect()
}

/// Waits for any change, and takes along what else has changed.
async fn changed([schemas, levels]: &mut [Watcher; 2]) {
    // A watch that ended means that everything may have changed.
    tokio::select! {
        _ = schemas.next() => {}
        _ = levels.next() => {}
    }
    while schemas.try_next().is_some() || levels.try_next().is_some() {}
}

impl Keeper {
    /// Obeys the objects as they are now, and writes what is to be said of them. The answer is when to
    /// come again although nothing changes.
    pub async fn obey(&mut self, server: &ApiServer, api: &dyn Loopback) -> Result<Option<Duration>, Status> {
        let objects = Objects::of(server).await?;
        server.cache.settled().await?;
        let (levels, schemas) = (values(&objects.levels), values(&objects.schemas));
        let mut digest = digest(&levels, &schemas, &bootstrap::flow_control::mandatory());
        let verdicts = std::mem::take(&mut digest.verdicts);
        server.flow_control.obey(digest);
        let (due, put_off) = self.writes.divide(verdicts, Instant::now());
        let writes = stream::iter(due).map(|verdict| write(api, verdict)).buffer_unordered(CONCURRENT_WRITES);
        let are_written = writes.fold(true, async |all, is_written| all && is_written).await;
        if !are_written {
            return Ok(Some(RETRY_PAUSE));
        }
        let later = || Duration::from_secs(rand::rng().random_range(PUT_OFF_SECONDS));
        Ok((!put_off.is_empty()).then(later))
    }

    /// Until the server ends.
    pub async fn keep(mut self, server: Arc<ApiServer>, api: &dyn Loopback) {
        // Both kinds are built in: their collections were read when the server began.
        let Ok(objects) = Objects::of(&server).await else { return };
        loop {
            let mut watches = objects.watch();
            let again = self.obey(&server, api).await.unwrap_or_else(|status| {
                warn!(%status, "flow control could not be brought up to its objects");
                Some(RETRY_PAUSE)
            });
            let again = async {
                match again {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = server.shutdown.cancelled() => return,
                () = changed(&mut watches) => {}
                () = again => {}
            }
        }
    }
}

/// Applies one condition and leaves others alone. False: it is to be tried again.
async fn write(api: &dyn Loopback, verdict: Verdict) -> bool {
    let path = format!(
        "/apis/{GROUP}/v1/flowschemas/{}/status?fieldManager={FIELD_MANAGER}&force=true",
        verdict.schema
    );
    let condition = json!({
        "type": "Dangling", "status": verdict.status, "reason": verdict.reason, "message": verdict.message,
        "lastTransitionTime": time_text(Timestamp::now()),
    });
    let object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": verdict.schema},
        "status": {"conditions": [condition]},
    });
    match api.call("PATCH", &path, Some(&object)).await {
        // One that is gone needs none.
        (200 | 404, _) => true,
        (code, body) => {
            let answer = String::from_utf8_lossy(&body);
            warn!(schema = verdict.schema, code, %answer, "the status of a FlowSchema could not be written");
            false
        }
    }
}

/// Until the server ends.
pub async fn adjust_periodically(server: Arc<ApiServer>) {
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(ADJUSTMENT_PERIOD) => server.flow_control.adjust(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_not_written_for_ever() {
        let mut writes = Writes::default();
        let start = Instant::now();
        let verdict = |schema: &str| Verdict {
            schema: schema.to_owned(),
            status: "True",
            reason: "NotFound",
            message: String::new(),
        };
        let mut allowed = |schemas: &[&str], second| {
            let verdicts = schemas.iter().copied().map(verdict).collect();
            let (due, put_off) = writes.divide(verdicts, start + Duration::from_secs(second));
            assert_eq!(due.len() + put_off.len(), schemas.len());
            due.into_iter().map(|verdict| verdict.schema).collect::<Vec<_>>().concat()
        };
        let by_second = (0..8).map(|second| allowed(&["a"], second)).collect::<Vec<_>>();
        assert_eq!(by_second.concat(), "a".repeat(MAX_WRITES));
        assert_eq!(allowed(&["a", "b"], 8), "b");
        assert_eq!(allowed(&["a"], 59), "");
        assert_eq!(allowed(&["a"], 60), "a", "the first is a minute ago");
        assert_eq!(allowed(&["a"], 60), "");
        assert_eq!(allowed(&["b"], 200), "b");
        assert_eq!(writes.0.len(), 1, "what was long ago is forgotten");
    }
}
