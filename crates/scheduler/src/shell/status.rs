//! What a pod without a node is told: an event, its condition, and where room is being made for it; and
//! what whoever asks is told of where it waits.

use std::sync::Arc;

use amphipod_client::{Api, CachedPod, Patch, Resource};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::warn;

use super::{Shell, State};
use crate::why::Seen;

/// The longest an event's message may be; conditions hold it whole.
const MAX_EVENT_BYTES: usize = 1024;

impl State {
    /// Where a pod is that waits for a node.
    pub(super) fn seen(&self, key: &str, uid: &str) -> Seen {
        let assumed = self.assumed.get(key).filter(|pod| &*pod.uid == uid);
        if let Some(node) = assumed.and_then(|pod| pod.node) {
            let node = self.snapshot.catalogue.symbols.text(node).to_owned();
            return Seen::Binding { node, prepares: self.preparations.contains_key(key) };
        }
        self.queue.whereabouts(key, uid).map_or(Seen::Nowhere, Seen::Queued)
    }
}

impl Shell {
    /// `why`: the reason of its condition, and in words.
    pub(super) async fn tell(&self, pod: &CachedPod, why: (&str, &str), nominated: &str) {
        self.recorder(pod).warning(pod, "FailedScheduling", shortened(why.1));
        let Some(status) = news(pod, why, nominated, Timestamp::now()) else { return };
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        let api = Api::<CachedPod>::namespaced(self.client.clone(), pod.namespace());
        match self.answered(api.patch_status(pod.name(), &patch)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                warn!(pod = pod.key(), %error, "the PodScheduled condition was not written");
            }
            _ => {}
        }
    }
}

impl Shell {
    /// Says where a pod is about to go while its claims are seen to: whoever takes nodes away leaves that
    /// one alone, and a scheduler that comes after this one tries it first (KEP-5278). What the pod is
    /// with that said; the pod goes there all the same if it could not be said.
    pub(super) async fn announce(&self, pod: Arc<CachedPod>, node: &str) -> Arc<CachedPod> {
        if nominated_node(&pod) == node {
            return pod;
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": node}});
        let api = Api::<CachedPod>::namespaced(self.client.clone(), pod.namespace());
        match self.written(api.patch_status(pod.name(), &Patch::Merge(patch))).await {
            Ok(told) => Arc::new(told),
            Err(error) => {
                warn!(pod = pod.key(), node, %error, "where the pod is to go was not written");
                pod
            }
        }
    }
}

/// Where room is held for a pod, by the API's word; empty for nowhere.
pub(super) fn nominated_node(pod: &CachedPod) -> &str {
    pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default()
}

/// What of the pod's status is to change, if anything.
fn news(pod: &CachedPod, why: (&str, &str), nominated: &str, now: Timestamp) -> Option<Value> {
    let mut status = Map::new();
    if let Some(condition) = unschedulable(pod, why, now) {
        status.insert("conditions".to_owned(), json!([condition]));
    }
    if nominated_node(pod) != nominated {
        let nominated = if nominated.is_empty() { Value::Null } else { nominated.into() };
        status.insert("nominatedNodeName".to_owned(), nominated);
    }
    (!status.is_empty()).then_some(Value::Object(status))
}

/// The `PodScheduled` condition that says so (for a reason, in words), unless the pod has it already.
fn unschedulable(pod: &CachedPod, (reason, message): (&str, &str), now: Timestamp) -> Option<Value> {
    let old = pod.condition("PodScheduled").filter(|c| c.status == "False");
    if old.is_some_and(|c| c.reason == Some(reason) && c.message == Some(message)) {
        return None;
    }
    // Another reason for the same status is no transition.
    let since = old.and_then(|c| c.since).unwrap_or(now).round(jiff::Unit::Second).unwrap_or_default();
    Some(json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastTransitionTime": since.to_string(), "observedGeneration": pod.metadata.generation,
    }))
}

fn shortened(message: &str) -> String {
    if message.len() <= MAX_EVENT_BYTES {
        return message.to_owned();
    }
    const SUFFIX: &str = " ...";
    let mut end = MAX_EVENT_BYTES - SUFFIX.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SUFFIX}", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_of_a_pod_without_a_node() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let with = |conditions: Value| -> CachedPod {
            let meta = json!({"name": "p", "generation": 4});
            let pod = json!({"metadata": meta, "status": {"conditions": conditions}});
            CachedPod::decode(pod.to_string().as_bytes()).unwrap()
        };
        let scheduled = |status: &str, reason: &str, message: &str| {
            json!([{"type": "PodScheduled", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "1970-01-01T00:00:01Z"}])
        };
        let first = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full",
            "lastTransitionTime": "1970-01-01T00:01:40Z", "observedGeneration": 4});
        let mut later = first.clone();
        later["lastTransitionTime"] = "1970-01-01T00:00:01Z".into();
        let cases = [
            (json!([]), Some(&first)),
            (scheduled("True", "", ""), Some(&first)),
            (scheduled("False", "SchedulingGated", "full"), Some(&later)),
            (scheduled("False", "Unschedulable", "other"), Some(&later)),
            (scheduled("False", "Unschedulable", "full"), None),
        ];
        for (conditions, expected) in cases {
            let condition = unschedulable(&with(conditions.clone()), ("Unschedulable", "full"), at(100));
            assert_eq!(condition.as_ref(), expected, "{conditions}");
        }
    }

    #[test]
    fn a_nomination_is_told_when_it_changes() {
        let pod = |nominated: &str| {
            let condition = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full"}]);
            let status = json!({"conditions": condition, "nominatedNodeName": nominated});
            CachedPod::decode(json!({"metadata": {"name": "p"}, "status": status}).to_string().as_bytes())
                .unwrap()
        };
        let told =
            |old: &str, new: &str| news(&pod(old), ("Unschedulable", "full"), new, Timestamp::UNIX_EPOCH);
        assert_eq!(told("", ""), None);
        assert_eq!(told("a", "a"), None);
        assert_eq!(told("", "a"), Some(json!({"nominatedNodeName": "a"})));
        assert_eq!(told("a", ""), Some(json!({"nominatedNodeName": null})));
    }

    #[test]
    fn events_are_cut_to_what_the_api_takes() {
        assert_eq!(shortened("short"), "short");
        let long = shortened(&"ä".repeat(2000));
        assert!(long.len() <= MAX_EVENT_BYTES && long.ends_with("ä ..."));
    }
}
