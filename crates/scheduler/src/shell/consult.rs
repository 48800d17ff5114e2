//! Extenders are asked between two looks at the snapshot: which nodes would do for a pod, and, once
//! they have answered, which of those it is to be. No lock is held meanwhile; but no other pod is
//! decided about, so what they were asked still holds as far as this scheduler is concerned.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use amphipod_client::{Api, CachedPod, Resource, Writable};
use http::Request;
use serde_json::Value;
use tracing::{debug, info};

use super::observe::Sources;
use super::{NotBound, Refused, SCHEDULER_ERROR, Shell, State, Step};
use crate::decision::Advice;
use crate::extender::{Extender, wire};
use crate::pod::PodInfo;

/// A pod whose extenders are to be asked about these nodes.
pub(super) struct Question {
    pub pod: Arc<PodInfo>,
    pub object: Arc<CachedPod>,
    pub nodes: Vec<String>,
    /// How far the snapshot's log was.
    pub position: u64,
}

impl Shell {
    /// Asks, and decides with the answers. `None` if the pod no longer waits.
    pub(super) async fn consult(&self, question: Question, sources: &Sources) -> Option<Step> {
        let advice = self.advice(&question, sources).await;
        let Question { pod, object, position, .. } = question;
        let mut state = self.state.lock();
        let attempt = state.queue.attempt(&pod.key)?;
        match advice {
            Ok(advice) => {
                let State { core, snapshot, .. } = &mut *state;
                let missed = snapshot.log().position() != position;
                let decision = core.decide_advised(snapshot, &pod, rand::random(), Some(&advice));
                Some(state.settle(pod, object, decision, missed))
            }
            Err(message) => {
                info!(pod = &*pod.key, message, "an extender failed");
                state.queue.failed(&pod.key, Instant::now());
                let nominated = state.nominated(&pod.key);
                Some(Step::Refuse(Refused {
                    object,
                    attempt,
                    reason: SCHEDULER_ERROR,
                    message,
                    nominated,
                    eviction: None,
                    preemption_tried: false,
                }))
            }
        }
    }

    async fn advice(&self, question: &Question, sources: &Sources) -> Result<Advice, String> {
        let object = &*question.object;
        let interested = || self.extenders.interested(object);
        let pod = self.whole(object).await?;
        let whole = interested().any(Extender::needs_nodes);
        let node = |name: &str| match sources.nodes.get(name) {
            Some(node) if whole => serde_json::from_slice(&node.encode()).unwrap_or_default(),
            _ => Value::Null,
        };
        let mut left: wire::Nodes = question.nodes.iter().map(|name| (name.as_str(), node(name))).collect();
        let mut refused = Vec::new();
        for extender in interested().filter(|extender| extender.filters()) {
            if left.is_empty() {
                break;
            }
            match extender.filter(&pod, &left).await {
                Ok(filtered) => {
                    left.retain(|name, _| filtered.nodes.iter().any(|node| node == name));
                    refused.extend(filtered.failed.into_values());
                }
                Err(error) if extender.is_ignorable() => {
                    info!(extender = extender.url(), error, "an extender that may fail was left out");
                }
                Err(error) => return Err(error),
            }
        }
        let mut nodes: HashMap<String, i64> = left.keys().map(|name| ((*name).to_owned(), 0)).collect();
        // Of a single node the score does not matter.
        for extender in interested().filter(|e| e.prioritizes() && left.len() > 1) {
            match extender.prioritize(&pod, &left).await {
                Ok(scores) => {
                    for (node, score) in scores {
                        nodes.entry(node).and_modify(|sum| *sum = sum.saturating_add(score));
                    }
                }
                Err(error) => debug!(extender = extender.url(), error, "no scores from an extender"),
            }
        }
        Ok(Advice { nodes, refused })
    }

    /// The pod with all its fields, which the informers do not keep.
    async fn whole(&self, object: &CachedPod) -> Result<Value, String> {
        let api = Api::<CachedPod>::namespaced(self.client.clone(), object.namespace());
        let request = Request::get(api.path(object.name(), "")).header("accept", "application/json");
        let request = request.body(Vec::new()).map_err(|error| error.to_string())?;
        let bytes = self.client.request(request).await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    }

    /// Whether an extender has bound the pod; where none does it, the API server is asked to.
    pub(super) async fn bound_by_extender(&self, object: &CachedPod, node: &str) -> Result<bool, NotBound> {
        let (pod, namespace, uid) = (object.name(), object.namespace(), object.uid());
        for extender in self.extenders.interested(object).filter(|extender| extender.binds()) {
            match extender.bind(&wire::Binding { pod, namespace, uid, node }).await {
                Ok(()) => return Ok(true),
                Err(error) if extender.is_ignorable() => {
                    info!(extender = extender.url(), error, "an extender that may fail did not bind");
                }
                Err(why) => return Err(NotBound { why, is_gone: false }),
            }
        }
        Ok(false)
    }
}
