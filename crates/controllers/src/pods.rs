//! What controllers ask of a pod, and which pod is given up first.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use amphipod_client::{CachedPod, Condition, Resource};

use crate::meta;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub fn phase(pod: &CachedPod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}
pub fn is_terminal(pod: &CachedPod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}
/// Neither finished nor going away.
pub fn is_active(pod: &CachedPod) -> bool {
    !is_terminal(pod) && !pod.is_terminating()
}
pub fn is_ready(pod: &CachedPod) -> bool {
    pod.condition("Ready").is_some_and(|c| c.is_true())
}
/// Since when the pod has been ready.
pub fn ready_since(pod: &CachedPod) -> Option<Timestamp> {
    pod.condition("Ready").filter(Condition::is_true)?.since
}
/// When a ready pod counts (or began to count) as available.
pub fn available_at(pod: &CachedPod, min_ready_seconds: i32) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds == 0 {
        return Some(Timestamp::UNIX_EPOCH);
    }
    ready_since(pod).map(|since| meta::plus_seconds(since, i64::from(min_ready_seconds)))
}
pub fn is_available(pod: &CachedPod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now)
}
pub fn node_name(pod: &CachedPod) -> &str {
    pod.node_name.as_deref().unwrap_or("")
}
/// Restarts summed over containers (init containers too).
pub fn restarts(pod: &CachedPod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.map(|c| c.restart_count).fold(0, i32::saturating_add)
}
fn most_restarts(pod: &CachedPod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}

/// A pod as the template says, owned, its name to be made from `prefix`.
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    prefix: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `<name>-`, or the bare name where that would be no valid start of a pod's name.
pub fn name_prefix(owner: &str) -> String {
    let prefix = format!("{owner}-");
    let check = amphipod_api::names::dns1123_subdomain;
    if amphipod_api::names::as_prefix(check, &prefix).is_empty() { prefix } else { owner.to_owned() }
}

/// Powers of two of the age, so that pods of about the same age are told apart by chance, not age.
fn age_rank(since: Timestamp, now: Timestamp) -> i64 {
    let nanoseconds = now.duration_since(since).as_nanos();
    if nanoseconds <= 0 { -1 } else { i64::from(nanoseconds.ilog2()) }
}

/// Younger first; an unknown time is younger than any. Nearly equal ages are settled by uid.
fn by_age(at: fn(&CachedPod) -> Option<Timestamp>, a: &CachedPod, b: &CachedPod, now: Timestamp) -> Ordering {
    match (at(a), at(b)) {
        (Some(x), Some(y)) if x == y => Ordering::Equal,
        (Some(x), Some(y)) => age_rank(x, now).cmp(&age_rank(y, now)).then_with(|| a.uid().cmp(b.uid())),
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

fn deletion_cost(pod: &CachedPod) -> i32 {
    let cost = meta::annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse().ok());
    cost.unwrap_or(0)
}

fn phase_rank(pod: &CachedPod) -> u8 {
    match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// Orders pods so that those whose loss hurts least come first: unassigned, pending, not ready, low
/// deletion cost, many relatives on its node, ready for a short time, restarting often, young.
pub fn deletion_order(
    a: &CachedPod,
    b: &CachedPod,
    neighbours: &HashMap<&str, usize>,
    now: Timestamp,
) -> Ordering {
    let assigned = |pod: &CachedPod| !node_name(pod).is_empty();
    let relatives = |pod: &CachedPod| neighbours.get(node_name(pod)).copied().unwrap_or(0);
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| Reverse(relatives(a)).cmp(&Reverse(relatives(b))))
        .then_with(|| if is_ready(a) { by_age(ready_since, a, b, now) } else { Ordering::Equal })
        .then_with(|| Reverse(most_restarts(a)).cmp(&Reverse(most_restarts(b))))
        .then_with(|| by_age(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0), a, b, now))
        .then_with(|| a.uid().cmp(b.uid()))
}

/// The pods to delete first. `related` are all pods whose crowding on a node counts (a Deployment's
/// pods across its ReplicaSets).
pub fn victims(
    pods: &[Arc<CachedPod>],
    related: &[Arc<CachedPod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<CachedPod>> {
    let mut neighbours: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *neighbours.entry(node_name(pod)).or_default() += 1;
    }
    let mut ordered = pods.to_vec();
    ordered.sort_by(|a, b| deletion_order(a, b, &neighbours, now));
    ordered.truncate(count);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_least_useful_pod_goes_first() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let pod = |name: &str, node: &str, phase: &str, ready: Option<i64>| {
            let mut pod = testing::pod("ns", name, phase);
            pod.node_name = (!node.is_empty()).then(|| node.into());
            pod.metadata.creation_timestamp = meta::time(at(1000));
            testing::set_ready(&mut pod, ready.map(at));
            pod
        };
        let mut cheap = pod("cheap", "n", "Running", Some(2000));
        meta::annotate(&mut cheap.metadata, DELETION_COST, "-5");
        let mut young = pod("young", "m", "Running", Some(2000));
        young.metadata.creation_timestamp = meta::time(at(999_000));
        let expected = ["unassigned", "pending", "unready", "cheap", "fresh", "crowded", "young", "old"];
        let pods: Vec<Arc<CachedPod>> = vec![
            pod("old", "m", "Running", Some(2000)),
            young,
            pod("crowded", "k", "Running", Some(2000)),
            pod("fresh", "k", "Running", Some(999_990)),
            cheap,
            pod("unready", "n", "Running", None),
            pod("pending", "n", "Pending", None),
            pod("unassigned", "", "Running", Some(2000)),
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        let mut related = pods.clone();
        related.extend((0..3).map(|i| Arc::new(pod(&format!("r{i}"), "k", "Running", Some(2000)))));
        let order: Vec<String> =
            victims(&pods, &related, 99, now).iter().map(|p| p.name().to_owned()).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let mut pod = testing::pod("ns", "a", "Running");
        testing::set_ready(&mut pod, Some(Timestamp::from_second(100).unwrap()));
        for (min_ready, now, expected) in [(0, 100, true), (10, 109, false), (10, 110, true)] {
            assert_eq!(is_available(&pod, min_ready, Timestamp::from_second(now).unwrap()), expected);
        }
    }
}
