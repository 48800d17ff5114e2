//! Recording events: best effort, never in the way of the work they tell about. Repeats of one
//! event raise its count instead of making a new object; a talkative source is held back.

mod correlator;
mod queue;

use std::sync::Arc;

use amphipod_api::names::dns1123_subdomain;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{Client, Resource};
use queue::Queue;

#[derive(Clone)]
pub struct EventRecorder {
    queue: Arc<Queue>,
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
    /// Starts the tasks that write; they end when the last recorder is dropped and all is written.
    pub fn new(client: Client, component: &str, host: Option<&str>) -> Self {
        let source = EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
        EventRecorder { queue: Arc::new(Queue::start(client)), source: Arc::new(source) }
    }

    /// The same queue for what happens on another host.
    pub fn with_host(&self, host: &str) -> Self {
        let source = EventSource { host: Some(host.to_owned()), ..(*self.source).clone() };
        EventRecorder { queue: self.queue.clone(), source: Arc::new(source) }
    }
    /// A recorder of another component that shares the queue.
    pub fn as_component(&self, component: &str) -> Self {
        let source = EventSource { component: Some(component.to_owned()), host: self.source.host.clone() };
        EventRecorder { queue: self.queue.clone(), source: Arc::new(source) }
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
        event.metadata.name = Some(name_of(&event.involved_object, now));
        self.queue.put(event);
    }
}

/// An object's name may be too long for an event's, or have what that may not.
fn name_of(about: &ObjectReference, at: Timestamp) -> String {
    let of = |of: Option<&str>| format!("{}.{:x}", of.unwrap_or("event"), at.as_nanosecond());
    let name = of(about.name.as_deref());
    if dns1123_subdomain(&name).is_empty() { name } else { of(about.uid.as_deref()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_name_that_is_accepted() {
        let about = |name: &str| ObjectReference {
            name: Some(name.into()),
            uid: Some("11111111-2222-3333-4444-555555555555".into()),
            ..ObjectReference::default()
        };
        let at = Timestamp::from_nanosecond(0x1234).unwrap();
        assert_eq!(name_of(&about("p"), at), "p.1234");
        for name in ["system:node", &"p".repeat(253)] {
            assert_eq!(name_of(&about(name), at), "11111111-2222-3333-4444-555555555555.1234");
        }
        assert_eq!(name_of(&ObjectReference::default(), at), "event.1234");
    }
}
