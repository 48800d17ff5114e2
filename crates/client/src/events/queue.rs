//! From recorders to the API server: events wait in lanes, each written by a task of its own. What is
//! told of one object stays in one lane and so in order; the lanes together bound the writes under way.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::correlator::{Correlator, Verdict, subject};
use crate::informer::{FIRST_RETRY, LAST_RETRY};
use crate::{Api, Client, Error, Patch, Resource};

/// What events that wait may take of memory; more are lost (they are hints, not records). It is room for
/// some 14,000, where client-go has room for 1,000: so many pods are bound in the seconds that a server
/// needs to write a burst down. Of what the largest control plane may take it is half a percent.
const WAITING_BYTES: usize = 16 << 20;
/// Writes under way at once: those that come together share one sync of the store. client-go's older
/// recorder waits for each, its newer one sets no bound.
pub const LANES: usize = 16;
/// How often one event is tried to be written while the server does not answer: client-go's number.
const ATTEMPTS: u32 = 12;
/// That events were lost is said at most once in this time.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// An event and the room it takes.
struct Waiting {
    event: Box<Event>,
    _room: OwnedSemaphorePermit,
}

pub struct Queue {
    lanes: Vec<UnboundedSender<Waiting>>,
    room: Arc<Semaphore>,
    lost: Arc<Lost>,
}

impl Queue {
    pub fn start(client: Client) -> Self {
        let lost = Arc::new(Lost::default());
        let (lanes, ends): (Vec<_>, Vec<_>) = (0..LANES).map(|_| unbounded_channel()).unzip();
        let writers = ends.into_iter().map(|lane| write(client.clone(), lane, lost.clone()));
        tokio::spawn(attend(writers.collect(), lost.clone()));
        Queue { lanes, room: Arc::new(Semaphore::new(WAITING_BYTES)), lost }
    }

    pub fn put(&self, event: Event) {
        let lane = &self.lanes[lane_of(&event)];
        let is_taken = self.room.clone().try_acquire_many_owned(bytes_of(&event)).is_ok_and(|room| {
            let waiting = Waiting { event: Box::new(event), _room: room };
            lane.send(waiting).is_ok()
        });
        if !is_taken {
            self.lost.count();
        }
    }
}

fn lane_of(event: &Event) -> usize {
    let mut hasher = DefaultHasher::new();
    subject(event).hash(&mut hasher);
    // The rest of a division by a small number is one.
    (hasher.finish() % LANES as u64) as usize
}

/// What an event takes of memory, but for its allocator's share.
fn bytes_of(event: &Event) -> u32 {
    let (metadata, about) = (&event.metadata, &event.involved_object);
    let names = [&metadata.name, &metadata.namespace, &about.name, &about.namespace, &about.uid];
    let kinds = [&about.api_version, &about.kind, &about.resource_version, &about.field_path, &event.type_];
    let source = event.source.iter().flat_map(|source| [&source.component, &source.host]);
    let told = [&event.reason, &event.message, &event.reporting_component, &event.reporting_instance];
    let texts = names.into_iter().chain(kinds).chain(source).chain(told);
    let bytes = size_of::<Event>() + texts.flatten().map(String::len).sum::<usize>();
    // Larger than any room there is.
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// How many events were lost since that was last said.
#[derive(Default)]
struct Lost {
    events: AtomicU64,
    news: Notify,
}

impl Lost {
    fn count(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.news.notify_one();
    }
    fn say(&self) {
        let events = self.events.swap(0, Ordering::Relaxed);
        if events > 0 {
            warn!(events, "events were lost: the API server does not keep up with them, or does not answer");
        }
    }
    async fn say_as_they_come(&self) {
        loop {
            self.news.notified().await;
            self.say();
            tokio::time::sleep(SAY_EVERY).await;
        }
    }
}

/// Ends with the writers.
async fn attend(mut writers: JoinSet<()>, lost: Arc<Lost>) {
    tokio::select! {
        () = async { while writers.join_next().await.is_some() {} } => {}
        () = lost.say_as_they_come() => {}
    }
    lost.say();
}

async fn write(client: Client, mut lane: UnboundedReceiver<Waiting>, lost: Arc<Lost>) {
    let mut correlator = Correlator::default();
    while let Some(mut waiting) = lane.recv().await {
        let event = &mut waiting.event;
        let verdict = correlator.judge(event, Instant::now());
        if verdict == Verdict::Drop {
            continue;
        }
        let api = Api::<Event>::namespaced(client.clone(), event.namespace());
        // On the heap while there is something to write: most lanes are idle most of the time.
        match Box::pin(persist(&api, event, &verdict)).await {
            Err(error) if error.is_passing() => lost.count(),
            Err(error) => debug!(%error, "event not written"),
            Ok(()) => {}
        }
    }
}

/// Holds its lane while the server does not answer.
async fn persist(api: &Api<Event>, event: &Event, verdict: &Verdict) -> Result<(), Error> {
    let mut retry = FIRST_RETRY;
    for _ in 1..ATTEMPTS {
        match send(api, event, verdict).await {
            Err(error) if error.is_passing() => tokio::time::sleep(retry).await,
            other => return other,
        }
        retry = (retry * 2).min(LAST_RETRY);
    }
    send(api, event, verdict).await
}

async fn send(api: &Api<Event>, event: &Event, verdict: &Verdict) -> Result<(), Error> {
    if *verdict == Verdict::Repeat {
        let patch =
            json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message});
        match api.send_patch(event.name(), "", &Patch::Strategic(patch)).await {
            Err(error) if error.is_not_found() => {}
            other => return other,
        }
    }
    api.send_new(event).await
}

#[cfg(test)]
mod tests;
