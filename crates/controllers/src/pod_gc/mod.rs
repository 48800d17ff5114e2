//! Pods nobody looks after any more: finished ones beyond a number, those bound to nodes that are
//! gone, and those deleted before they were ever scheduled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Api, CachedPod, DeleteParams, Informer, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use tracing::debug;

use crate::harness::{Scope, now};
use crate::{Error, disruption, meta, pods};

const PERIOD: Duration = Duration::from_secs(20);
/// A node must be missing this long, in case it is only being made again.
const QUARANTINE_SECONDS: i64 = 40;

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Removed as they are.
    pub excess: Vec<String>,
    pub unscheduled: Vec<String>,
    /// Pods of missing nodes, once the API confirms that the node is gone.
    pub orphaned: Vec<String>,
}

pub struct View<'a> {
    pub pods: &'a [Arc<CachedPod>],
    pub nodes: &'a HashSet<String>,
    /// Missing nodes: since when.
    pub missing: &'a mut HashMap<String, Timestamp>,
    pub threshold: usize,
}

pub fn reconcile(view: View, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut finished: Vec<&Arc<CachedPod>> = view.pods.iter().filter(|pod| pods::is_terminal(pod)).collect();
    let excess = finished.len().saturating_sub(view.threshold);
    // Evicted pods tell nothing that their event did not; then the oldest.
    finished.sort_by_key(|pod| {
        let evicted = pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
        (!evicted, meta::created(&pod.metadata))
    });
    plan.excess = finished.into_iter().take(excess).map(|pod| pod.key()).collect();
    let mut absent = HashSet::new();
    for pod in view.pods {
        let node = pods::node_name(pod);
        if node.is_empty() {
            if pod.is_terminating() {
                plan.unscheduled.push(pod.key());
            }
        } else if !view.nodes.contains(node) {
            let since = *view.missing.entry(node.to_owned()).or_insert(now);
            if meta::plus_seconds(since, QUARANTINE_SECONDS) <= now {
                plan.orphaned.push(pod.key());
            }
            absent.insert(node.to_owned());
        }
    }
    view.missing.retain(|node, _| absent.contains(node));
    plan
}

pub async fn run(scope: Scope) {
    let pods = scope.informers.get::<CachedPod>();
    let nodes = scope.informers.get::<Node>();
    if !(scope.synced(&pods).await && scope.synced(&nodes).await) {
        return;
    }
    let mut missing = HashMap::new();
    loop {
        let known: HashSet<String> = nodes.list().iter().map(|node| node.name().to_owned()).collect();
        let all = pods.list();
        let threshold = scope.config.terminated_pod_threshold;
        let view = View { pods: &all, nodes: &known, missing: &mut missing, threshold };
        let plan = reconcile(view, now());
        if let Err(error) = carry_out(&scope, &pods, plan).await {
            debug!(%error, "pod garbage collection will be tried again");
        }
        tokio::select! {
            () = scope.cancel.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

async fn carry_out(scope: &Scope, pods: &Informer<CachedPod>, plan: Plan) -> Result<(), Error> {
    for key in &plan.excess {
        remove(scope, pods, key, "PodGC: pod terminated beyond the threshold", false).await?;
    }
    for key in &plan.unscheduled {
        remove(scope, pods, key, "PodGC: unscheduled pod is terminating", false).await?;
    }
    let mut gone = HashMap::new();
    for key in &plan.orphaned {
        let Some(pod) = pods.get(key) else { continue };
        let node = pods::node_name(&pod).to_owned();
        if !gone.contains_key(&node) {
            let found = Api::<Node>::all(scope.client.clone()).get_opt(&node).await?;
            gone.insert(node.clone(), found.is_none());
        }
        if gone.get(&node) == Some(&true) {
            remove(scope, pods, key, "PodGC: node no longer exists", true).await?;
        }
    }
    Ok(())
}

async fn remove(
    scope: &Scope,
    pods: &Informer<CachedPod>,
    key: &str,
    why: &str,
    disrupted: bool,
) -> Result<(), Error> {
    let Some(pod) = pods.get(key) else { return Ok(()) };
    if !pods::is_terminal(&pod) && disrupted {
        disruption::mark(&scope.client, &pod, "DeletionByPodGC", why, Some("Failed")).await?;
    }
    debug!(pod = key, why, "removing");
    let params = DeleteParams {
        uid: Some(pod.uid().to_owned()),
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    match Api::<CachedPod>::of(scope.client.clone(), pod.as_ref()).delete(pod.name(), &params).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    #[test]
    fn picks_what_nobody_looks_after() {
        let make = |name: &str, phase: &str, node: &str, created: i64| {
            let mut pod = pod("ns", name, phase);
            pod.node_name = (!node.is_empty()).then(|| node.into());
            pod.metadata.creation_timestamp = meta::time(at(created));
            pod
        };
        let mut leaving = make("leaving", "Pending", "", 5);
        leaving.metadata.deletion_timestamp = meta::time(at(6));
        let pods: Vec<Arc<CachedPod>> = [
            make("new", "Succeeded", "n", 9),
            make("old", "Failed", "n", 1),
            leaving,
            make("lost", "Running", "away", 2),
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        let nodes = HashSet::from(["n".to_owned()]);
        let mut missing = HashMap::new();
        let mut at_time = |second| {
            reconcile(View { pods: &pods, nodes: &nodes, missing: &mut missing, threshold: 1 }, at(second))
        };
        let first = at_time(100);
        assert_eq!(first.excess, ["ns/old"]);
        assert_eq!(first.unscheduled, ["ns/leaving"]);
        assert!(first.orphaned.is_empty());
        assert!(at_time(139).orphaned.is_empty());
        assert_eq!(at_time(140).orphaned, ["ns/lost"]);
    }
}
