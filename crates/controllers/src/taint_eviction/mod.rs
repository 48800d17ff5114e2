//! Drives pods off nodes with NoExecute taints, at once or when their toleration runs out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, DeleteParams, EventRecorder, Informer, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use parking_lot::Mutex;

use crate::harness::{Controller, Scope, now};
use crate::node_lifecycle::BY_NODE;
use crate::{Error, disruption, meta, pods};

/// What the taints of its node mean for a pod.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Stay,
    /// Until then.
    StayUntil(Timestamp),
    Go,
}

pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or("");
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => key.is_empty() || key == taint.key,
        _ => {
            key == taint.key
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
    }
}

/// The shortest toleration counts, from when the pod was first seen under these taints.
pub fn judge(taints: &[&Taint], tolerations: &[Toleration], since: Timestamp, now: Timestamp) -> Verdict {
    if taints.is_empty() {
        return Verdict::Stay;
    }
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            return Verdict::Go;
        }
        for toleration in matching {
            if let Some(seconds) = toleration.toleration_seconds {
                shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)).max(0));
            }
        }
    }
    let Some(seconds) = shortest else { return Verdict::Stay };
    let until = meta::plus_seconds(since, seconds);
    if until <= now { Verdict::Go } else { Verdict::StayUntil(until) }
}

struct TaintEviction {
    scope: Scope,
    nodes: Informer<Node>,
    pods: Informer<CachedPod>,
    events: EventRecorder,
    /// Pods (by key) under taints they tolerate for a time: since when.
    waiting: Mutex<HashMap<String, (String, Timestamp)>>,
}

pub async fn run(scope: Scope) {
    let nodes = scope.informers.get::<Node>();
    let pods = scope.informers.get::<CachedPod>();
    pods.add_index(BY_NODE, |pod| vec![pods::node_name(pod).to_owned()]);
    if !(scope.synced(&nodes).await && scope.synced(&pods).await) {
        return;
    }
    let queue = WorkQueue::new();
    let (by_node, on_node) = (queue.clone(), pods.clone());
    nodes.on_change(move |change| {
        let unchanged = match change {
            Change::Updated { old, new } => no_execute(old) == no_execute(new),
            Change::Added(node) => no_execute(node).is_empty(),
            Change::Deleted(_) => true,
        };
        if !unchanged {
            let tainted = on_node.by_index(BY_NODE, change.object().name());
            tainted.iter().for_each(|pod| by_node.add(&pod.key()));
        }
    });
    let (by_pod, tainted) = (queue.clone(), nodes.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let node = tainted.get(pods::node_name(pod));
        if node.is_some_and(|node| !no_execute(&node).is_empty()) {
            by_pod.add(&pod.key());
        }
    });
    let events = scope.events("taint-eviction-controller");
    let controller = TaintEviction { scope: scope.clone(), nodes, pods, events, waiting: Mutex::default() };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

fn no_execute(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|t| t.effect == "NoExecute").collect()
}

impl Controller for TaintEviction {
    const QUEUE: &'static str = "noexec_taint_pod";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pod.is_terminating()) else {
            self.waiting.lock().remove(key);
            return Ok(None);
        };
        let Some(node) = self.nodes.get(pods::node_name(&pod)) else { return Ok(None) };
        let since = {
            let mut waiting = self.waiting.lock();
            let known = waiting.get(key).filter(|(uid, _)| uid == pod.uid()).map(|(_, since)| *since);
            let since = known.unwrap_or_else(now);
            waiting.insert(key.to_owned(), (pod.uid().to_owned(), since));
            since
        };
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        match judge(&no_execute(&node), tolerations, since, now()) {
            Verdict::Stay => {
                self.waiting.lock().remove(key);
                Ok(None)
            }
            Verdict::StayUntil(until) => Ok(Some(meta::until(until, now()))),
            Verdict::Go => {
                self.evict(&pod).await?;
                self.waiting.lock().remove(key);
                Ok(None)
            }
        }
    }
}

impl TaintEviction {
    async fn evict(&self, pod: &CachedPod) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {}", pod.key());
        self.events.normal(pod, "TaintManagerEviction", message);
        let why = "Taint manager: deleting due to NoExecute taint";
        disruption::mark(&self.scope.client, pod, "DeletionByTaintManager", why, None).await?;
        let params = DeleteParams { uid: Some(pod.uid().to_owned()), ..DeleteParams::default() };
        match Api::<CachedPod>::of(self.scope.client.clone(), pod).delete(pod.name(), &params).await {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn the_shortest_toleration_counts() {
        let taint = |key: &str| Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() };
        let toleration = |key: &str, seconds: Option<i64>| Toleration {
            key: (!key.is_empty()).then(|| key.to_owned()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        };
        let (a, b) = (taint("a"), taint("b"));
        let cases = [
            (vec![], vec![], Verdict::Stay),
            (vec![&a], vec![], Verdict::Go),
            (vec![&a], vec![toleration("a", None)], Verdict::Stay),
            (vec![&a, &b], vec![toleration("a", None)], Verdict::Go),
            (vec![&a], vec![toleration("a", Some(300))], Verdict::StayUntil(at(400))),
            (vec![&a, &b], vec![toleration("", Some(30)), toleration("a", Some(9))], Verdict::Go),
            (vec![&a], vec![toleration("a", Some(0))], Verdict::Go),
        ];
        for (taints, tolerations, expected) in cases {
            assert_eq!(judge(&taints, &tolerations, at(100), at(110)), expected, "{tolerations:?}");
        }
    }
}
