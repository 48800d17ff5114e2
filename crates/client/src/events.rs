//! Recording events: best effort, never in the way of the work they tell about. Repeats of one
//! event raise its count instead of making a new object; a talkative source is held back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use crate::{Api, Client, Patch, Resource};

/// Events waiting to be written; more are dropped (they are hints, not records).
const QUEUE: usize = 1000;
/// Distinct events remembered for counting, and how long.
const REMEMBERED: usize = 4096;
const REMEMBER: Duration = Duration::from_secs(600);
/// Per object and source: this many at once, then one each refill (client-go's spam filter).
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Event>,
    source: Arc<EventSource>,
}

/// The reference an event (or an owner lookup) makes to an object.
pub fn reference<K: Resource>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: object.metadata().name.clone(),
        namespace: object.metadata().namespace.clone(),
        uid: object.metadata().uid.clone(),
        resource_version: object.metadata().resource_version.clone(),
        field_path: None,
    }
}

impl EventRecorder {
    /// Starts the writer task; it ends when the last recorder is dropped.
    pub fn new(client: Client, component: &str, host: Option<&str>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, receiver));
        let source = EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
        EventRecorder { sender, source: Arc::new(source) }
    }

    /// The same writer for what happens on another host.
    pub fn with_host(&self, host: &str) -> Self {
        let source = EventSource { host: Some(host.to_owned()), ..(*self.source).clone() };
        EventRecorder { sender: self.sender.clone(), source: Arc::new(source) }
    }
    /// A recorder of another component that shares the writer.
    pub fn as_component(&self, component: &str) -> Self {
        let source = EventSource { component: Some(component.to_owned()), host: self.source.host.clone() };
        EventRecorder { sender: self.sender.clone(), source: Arc::new(source) }
    }

    pub fn normal<K: Resource>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(reference(object), "Normal", reason, message.into());
    }
    pub fn warning<K: Resource>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(reference(object), "Warning", reason, message.into());
    }
    /// `reference.field_path` may name a part, e.g. `spec.containers{web}`.
    pub fn record(&self, reference: ObjectReference, kind: &str, reason: &str, message: String) {
        let now = Timestamp::now();
        let mut event = Event {
            involved_object: reference,
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some((*self.source).clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        // Events about cluster-wide objects live in `default`.
        let namespace = event.involved_object.namespace.clone().filter(|n| !n.is_empty());
        event.metadata.namespace = Some(namespace.unwrap_or_else(|| "default".to_owned()));
        let name = event.involved_object.name.as_deref().unwrap_or("");
        event.metadata.name = Some(format!("{name}.{:x}", now.as_nanosecond()));
        if self.sender.try_send(event).is_err() {
            debug!(reason, "event dropped: the queue is full");
        }
    }
}

struct Known {
    name: String,
    count: i32,
    seen: Instant,
}

struct Budget {
    left: f64,
    at: Instant,
}

/// The pure part of correlation: is this event new, a repeat, or too much?
#[derive(Default)]
struct Correlator {
    known: HashMap<String, Known>,
    budgets: HashMap<String, Budget>,
}

enum Verdict {
    Create,
    Repeat { name: String, count: i32 },
    Drop,
}

impl Correlator {
    fn judge(&mut self, event: &Event, now: Instant) -> Verdict {
        if !self.spend(event, now) {
            return Verdict::Drop;
        }
        if self.known.len() >= REMEMBERED {
            self.known.retain(|_, known| now.duration_since(known.seen) < REMEMBER);
            if self.known.len() >= REMEMBERED {
                self.known.clear();
            }
        }
        let name = event.metadata.name.clone().unwrap_or_default();
        match self.known.get_mut(&identity(event)) {
            Some(known) if now.duration_since(known.seen) < REMEMBER => {
                known.count += 1;
                known.seen = now;
                Verdict::Repeat { name: known.name.clone(), count: known.count }
            }
            _ => {
                self.known.insert(identity(event), Known { name, count: 1, seen: now });
                Verdict::Create
            }
        }
    }
    fn spend(&mut self, event: &Event, now: Instant) -> bool {
        if self.budgets.len() >= REMEMBERED {
            self.budgets.clear();
        }
        let key = format!(
            "{:?}{:?}",
            event.source,
            event.involved_object.uid.as_ref().or(event.involved_object.name.as_ref())
        );
        let budget = self.budgets.entry(key).or_insert(Budget { left: BURST, at: now });
        let refilled = now.duration_since(budget.at).as_secs_f64() / REFILL_SECONDS;
        budget.left = (budget.left + refilled).min(BURST);
        budget.at = now;
        if budget.left < 1.0 {
            return false;
        }
        budget.left -= 1.0;
        true
    }
}

fn identity(event: &Event) -> String {
    format!(
        "{:?}|{:?}|{:?}|{:?}|{:?}|{:?}",
        event.source,
        event.involved_object.uid,
        event.involved_object.name,
        event.involved_object.field_path,
        event.reason,
        event.message
    )
}

async fn write(client: Client, mut receiver: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    while let Some(event) = receiver.recv().await {
        let api = Api::<Event>::namespaced(client.clone(), event.namespace());
        let outcome = match correlator.judge(&event, Instant::now()) {
            Verdict::Drop => continue,
            Verdict::Create => api.create(&event).await,
            Verdict::Repeat { name, count } => {
                let patch = serde_json::json!({"count": count, "lastTimestamp": event.last_timestamp});
                match api.patch(&name, &Patch::Strategic(patch)).await {
                    Err(error) if error.is_not_found() => api.create(&event).await,
                    other => other,
                }
            }
        };
        if let Err(error) = outcome {
            debug!(%error, "event not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str) -> Event {
        let mut event = Event { message: Some(message.into()), ..Event::default() };
        event.metadata.name = Some("e1".into());
        event
    }

    #[tokio::test]
    async fn repeats_are_counted_and_floods_held_back() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        assert!(matches!(correlator.judge(&event("a"), now), Verdict::Create));
        assert!(matches!(correlator.judge(&event("a"), now), Verdict::Repeat { count: 2, .. }));
        assert!(matches!(correlator.judge(&event("b"), now), Verdict::Create));
        for _ in 3..25 {
            correlator.judge(&event("c"), now);
        }
        assert!(matches!(correlator.judge(&event("d"), now), Verdict::Drop));
        let later = now + Duration::from_secs(301);
        assert!(matches!(correlator.judge(&event("d"), later), Verdict::Create));
    }
}
