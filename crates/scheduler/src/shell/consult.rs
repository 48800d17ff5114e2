//! Extenders are asked between two looks at the snapshot: which nodes would do for a pod, and, once
//! they have answered, which of those it is to be. No lock is held meanwhile; but no other pod is
//! decided about, so what they were asked still holds as far as this scheduler is concerned.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use amphipod_client::{Api, CachedPod, Resource, Writable};
use http::Request;
use serde_json::Value;
use tracing::{debug, info};

use super::bind::NotBound;
use super::observe::Sources;
use super::{Decided, Refused, SCHEDULER_ERROR, Shell, State, Step};
use crate::class::importance;
use crate::decision::{Advice, Decision, Unschedulable};
use crate::extender::{Extender, wire};
use crate::pod::PodInfo;
use crate::preemption::{Preemption, Room};
use crate::snapshot::Snapshot;

/// A pod whose extenders are to be asked about these nodes.
pub(super) struct Question {
    pub pod: Arc<PodInfo>,
    pub object: Arc<CachedPod>,
    pub nodes: Vec<String>,
    /// How many events there had been.
    pub events: u64,
}

/// A pod for which room could be made on these nodes.
pub(super) struct RoomQuestion {
    pod: Arc<PodInfo>,
    object: Arc<CachedPod>,
    refused: Unschedulable,
    rooms: Vec<Room>,
    events: u64,
    missed: bool,
}

/// What an extender made of the rooms: it may name any pods of any node, as kube-scheduler lets it.
fn named(
    snapshot: &Snapshot,
    answer: BTreeMap<String, wire::Victims>,
    extender: &Extender,
) -> Result<Vec<Room>, String> {
    let mut rooms = Vec::new();
    for (node, told) in answer {
        let Some(slot) = snapshot.slot(&node) else {
            return Err(format!("nodeinfo not found for node name {node:?}"));
        };
        let there = &snapshot.node(slot).pods;
        let known = |uid: &String| {
            let found = there.iter().find(|pod| *pod.uid == **uid).cloned();
            found.ok_or_else(|| {
                format!(
                    "extender: {} claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on \
                     that node",
                    extender.url()
                )
            })
        };
        let mut victims: Vec<_> = told.uids.iter().map(known).collect::<Result<_, _>>()?;
        victims.sort_by_key(|pod| importance(pod));
        if !victims.is_empty() {
            rooms.push(Room { node, victims, violations: told.violations });
        } else if !extender.is_ignorable() {
            return Err(format!("expected at least one victim pod on node {node:?}"));
        }
    }
    Ok(rooms)
}

impl Shell {
    /// Asks, and decides with the answers. `None` if the pod no longer waits.
    pub(super) async fn consult(&self, question: Question, sources: &Sources) -> Option<Decided> {
        let advice = self.advice(&question, sources).await;
        let Question { pod, object, events, .. } = question;
        let mut state = self.state.lock();
        let attempt = state.queue.in_flight(&pod)?;
        match advice {
            Ok(advice) => {
                let missed = state.events != events;
                let State { core, snapshot, .. } = &mut *state;
                let decision = core.decide_advised(snapshot, &pod, rand::random(), Some(&advice));
                Some(self.decided(&mut state, pod, object, decision, missed))
            }
            Err(message) => {
                info!(pod = &*pod.key, message, "an extender failed");
                state.queue.failed(&pod.key, Instant::now());
                state.snapshot.denominate(&pod.key);
                Some(Decided::Step(Step::Refuse(Refused {
                    object,
                    attempt,
                    reason: SCHEDULER_ERROR,
                    message,
                    nominated: String::new(),
                    eviction: None,
                    deallocation: None,
                    preemption_tried: false,
                })))
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

    /// What a decision leads to: where the pod's extenders have a say about preemption, to them.
    pub(super) fn decided(
        &self,
        state: &mut State,
        pod: Arc<PodInfo>,
        object: Arc<CachedPod>,
        decision: Decision,
        missed: bool,
    ) -> Decided {
        match decision {
            Decision::Unschedulable(refused)
                if matches!(refused.preemption, Some(Preemption::Plan(_)))
                    && self.extenders.interested(&object).any(Extender::preempts) =>
            {
                let rooms = state.core.rooms(&mut state.snapshot, &pod);
                let events = state.events;
                Decided::MakeRoom(Box::new(RoomQuestion { pod, object, refused, rooms, events, missed }))
            }
            decision => Decided::Step(state.settle(pod, object, decision, missed)),
        }
    }

    /// Asks where room is to be made, and decides with the answers. `None` if the pod no longer waits.
    pub(super) async fn make_room(&self, question: RoomQuestion) -> Option<Step> {
        let RoomQuestion { pod, object, mut refused, rooms, events, missed } = question;
        let left = self.rooms_left(&object, rooms).await;
        let mut state = self.state.lock();
        state.queue.in_flight(&pod)?;
        let missed = missed || state.events != events;
        refused.revise(&mut state.snapshot, &pod, left);
        Some(state.settle(pod, object, Decision::Unschedulable(refused), missed))
    }

    async fn rooms_left(&self, object: &CachedPod, mut rooms: Vec<Room>) -> Result<Vec<Room>, String> {
        let pod = self.whole(object).await?;
        let interested = || self.extenders.interested(object).filter(|extender| extender.preempts());
        let mut whole = BTreeMap::new();
        for extender in interested() {
            let shown = rooms.iter().flat_map(|room| &room.victims).filter(|_| extender.needs_nodes());
            for victim in shown {
                if let Entry::Vacant(entry) = whole.entry(victim.uid.to_string()) {
                    entry.insert(self.whole_of(victim.namespace(), victim.name()).await?);
                }
            }
            let victims = |room: &Room| wire::Victims {
                uids: room.victims.iter().map(|pod| pod.uid.to_string()).collect(),
                violations: room.violations,
            };
            let nodes = rooms.iter().map(|room| (room.node.as_str(), victims(room))).collect();
            let answer = extender.preempt(&pod, &nodes, &whole).await;
            match answer.and_then(|told| named(&self.state.lock().snapshot, told, extender)) {
                Ok(left) => rooms = left,
                Err(error) if extender.is_ignorable() => {
                    info!(extender = extender.url(), error, "an extender that may fail was left out");
                }
                Err(error) => return Err(error),
            }
            if rooms.is_empty() {
                break;
            }
        }
        Ok(rooms)
    }

    /// The pod with all its fields, which the informers do not keep.
    async fn whole(&self, object: &CachedPod) -> Result<Value, String> {
        self.whole_of(object.namespace(), object.name()).await
    }
    async fn whole_of(&self, namespace: &str, name: &str) -> Result<Value, String> {
        let api = Api::<CachedPod>::namespaced(self.client.clone(), namespace);
        let request = Request::get(api.path(name, "")).header("accept", "application/json");
        let request = request.body(Vec::new()).map_err(|error| error.to_string())?;
        let bytes = self.answered(self.client.request(request)).await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    }

    /// Whether an extender has bound the pod; where none does it, the API server is asked to.
    pub(super) async fn bound_by_extender(&self, object: &CachedPod, node: &str) -> Result<bool, NotBound> {
        let (pod, namespace, uid) = (object.name(), object.namespace(), object.uid());
        for extender in self.extenders.interested(object).filter(|extender| extender.binds()) {
            match self.heard(extender.bind(&wire::Binding { pod, namespace, uid, node })).await {
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
