//! One sync of a DaemonSet: a pod on each node that suits it, rolled node by node to a new template.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::intstr::IntOrString;
use amphipod_client::{CachedPod, Resource};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::util::intstr;

use super::placement::{add_tolerations, suits, target};
use crate::revisions::REVISION_LABEL;
use crate::{meta, pods};

/// Pods made or deleted in one sync.
const BURST: usize = 250;

pub struct View<'a> {
    pub nodes: &'a [Arc<Node>],
    pub pods: &'a [Arc<CachedPod>],
    /// The hash of the template that pods should be of.
    pub hash: &'a str,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// Names of nodes.
    pub create: Vec<String>,
    pub delete: Vec<Arc<CachedPod>>,
    /// Ended pods among those deleted, told as such.
    pub ended: Vec<Arc<CachedPod>>,
    pub status: DaemonSetStatus,
    pub again: Option<Duration>,
}

struct Work<'a> {
    view: &'a View<'a>,
    now: Timestamp,
    min_ready_seconds: i32,
    max_surge: i32,
    max_unavailable: i32,
    by_node: BTreeMap<&'a str, Vec<Arc<CachedPod>>>,
    /// Nodes that should have a pod.
    wanted: Vec<&'a str>,
    plan: Plan,
}

fn scaled(value: Option<&intstr::IntOrString>, total: i32, default: i32) -> i32 {
    let value = match value {
        None => return default,
        Some(intstr::IntOrString::Int(n)) => return *n,
        Some(intstr::IntOrString::String(text)) => IntOrString::Text(text.clone()),
    };
    i32::try_from(value.scaled(i64::from(total), true).unwrap_or(0)).unwrap_or(i32::MAX)
}

fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

pub fn reconcile(view: &View, set: &DaemonSet, now: Timestamp) -> Plan {
    let Some(spec) = &set.spec else { return Plan::default() };
    let mut pod_spec = spec.template.spec.clone().unwrap_or_default();
    add_tolerations(&mut pod_spec);
    let placed: Vec<(&str, bool, bool)> = view
        .nodes
        .iter()
        .map(|node| {
            let (run, stay) = suits(&pod_spec, node);
            (node.name(), run, stay)
        })
        .collect();
    let wanted: Vec<&str> = placed.iter().filter(|(_, run, _)| *run).map(|(node, ..)| *node).collect();
    let strategy = spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let total = count(wanted.len());
    let max_surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), total, 0);
    let max_unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), total, 1);
    let mut by_node: BTreeMap<&str, Vec<Arc<CachedPod>>> = BTreeMap::new();
    for pod in view.pods {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(pod.clone());
        }
    }
    let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
    let plan = Plan::default();
    let mut work = Work { view, now, min_ready_seconds, max_surge, max_unavailable, by_node, wanted, plan };
    if !set.is_terminating() {
        work.place(&placed);
        if strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
            work.roll();
        }
        work.plan.create.truncate(BURST);
        work.plan.delete.truncate(BURST);
    }
    work.status(set);
    work.plan
}

impl Work<'_> {
    fn pods_on(&self, node: &str) -> &[Arc<CachedPod>] {
        self.by_node.get(node).map(Vec::as_slice).unwrap_or_default()
    }
    fn is_new(&self, pod: &CachedPod) -> bool {
        meta::label(&pod.metadata, REVISION_LABEL) == Some(self.view.hash)
    }
    fn is_available(&self, pod: &CachedPod) -> bool {
        pods::is_available(pod, self.min_ready_seconds, self.now)
    }

    fn place(&mut self, placed: &[(&str, bool, bool)]) {
        for (node, run, stay) in placed {
            let here = self.pods_on(node).to_vec();
            if *run && here.is_empty() {
                self.plan.create.push((*node).to_owned());
            } else if *stay {
                self.tidy(&here);
            } else {
                self.plan.delete.extend(here.into_iter().filter(|pod| !pod.is_terminating()));
            }
        }
        // Pods of nodes that are gone are the pod garbage collector's.
    }

    /// Ended pods go (and are made anew when gone); of several, the oldest stays.
    fn tidy(&mut self, here: &[Arc<CachedPod>]) {
        let mut running = Vec::new();
        for pod in here.iter().filter(|pod| !pod.is_terminating()) {
            if pods::is_terminal(pod) {
                self.plan.ended.push(pod.clone());
                self.plan.delete.push(pod.clone());
            } else {
                running.push(pod.clone());
            }
        }
        if running.len() < 2 {
            return;
        }
        running.sort_by_key(|pod| (pods::node_name(pod).is_empty(), meta::created(&pod.metadata)));
        let surplus: Vec<_> = if self.max_surge == 0 {
            running.split_off(1)
        } else {
            // An old and a new pod may stand side by side; the old one goes when the new one is up.
            let (mut new, mut old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_new(pod));
            let replaced = new.first().is_some_and(|pod| self.is_available(pod));
            let mut surplus = new.split_off(new.len().min(1));
            surplus.extend(old.split_off(if replaced { 0 } else { old.len().min(1) }));
            surplus
        };
        self.plan.delete.extend(surplus);
    }

    fn roll(&mut self) {
        if self.max_surge > 0 {
            return self.roll_by_surge();
        }
        let mut unavailable = 0;
        let (mut free, mut costly) = (Vec::new(), Vec::new());
        for node in &self.wanted {
            let here: Vec<_> = self.pods_on(node).iter().filter(|pod| !pod.is_terminating()).collect();
            let new = here.iter().find(|pod| self.is_new(pod));
            match (new, here.first()) {
                (Some(new), _) if self.is_available(new) => {}
                (Some(_), _) | (None, None) => unavailable += 1,
                (None, Some(old)) if self.is_available(old) => costly.push((*old).clone()),
                // Already down: replacing it costs nothing more.
                (None, Some(old)) => {
                    unavailable += 1;
                    free.push((*old).clone());
                }
            }
        }
        let room = usize::try_from(self.max_unavailable - unavailable).unwrap_or(0);
        costly.truncate(room);
        self.delete_once(free.into_iter().chain(costly).collect());
    }

    /// Makes new pods beside the old, at most `max_surge` at a time.
    fn roll_by_surge(&mut self) {
        let mut surging = 0;
        let mut waiting = Vec::new();
        let mut replaced = Vec::new();
        for node in &self.wanted {
            let here: Vec<_> = self.pods_on(node).iter().filter(|pod| !pod.is_terminating()).collect();
            let new = here.iter().find(|pod| self.is_new(pod));
            let old = here.iter().find(|pod| !self.is_new(pod));
            match (new, old) {
                (Some(new), Some(old)) if self.is_available(new) => replaced.push((*old).clone()),
                (Some(_), Some(_)) => surging += 1,
                (None, Some(old)) if self.is_available(old) => waiting.push((*node).to_owned()),
                (None, Some(old)) => replaced.push((*old).clone()),
                _ => {}
            }
        }
        waiting.truncate(usize::try_from(self.max_surge - surging).unwrap_or(0));
        self.plan.create.extend(waiting);
        self.delete_once(replaced);
    }

    fn delete_once(&mut self, pods: Vec<Arc<CachedPod>>) {
        for pod in pods {
            if !self.plan.delete.iter().any(|doomed| doomed.uid() == pod.uid()) {
                self.plan.delete.push(pod);
            }
        }
    }

    fn status(&mut self, set: &DaemonSet) {
        let before = set.status.clone().unwrap_or_default();
        let (mut current, mut ready, mut available, mut updated) = (0, 0, 0, 0);
        for node in &self.wanted {
            let here = self.pods_on(node);
            current += count(usize::from(!here.is_empty()));
            let mut oldest: Vec<_> = here.iter().collect();
            oldest.sort_by_key(|pod| meta::created(&pod.metadata));
            ready += count(usize::from(oldest.iter().any(|pod| pods::is_ready(pod))));
            available += count(usize::from(oldest.iter().any(|pod| self.is_available(pod))));
            updated += count(usize::from(oldest.iter().any(|pod| self.is_new(pod))));
        }
        let wanted: HashSet<&str> = self.wanted.iter().copied().collect();
        let others = self.view.nodes.iter().map(|node| node.name()).filter(|node| !wanted.contains(node));
        let strangers: HashSet<&str> = others.collect();
        let misplaced = self.by_node.keys().filter(|node| strangers.contains(*node)).count();
        let desired = count(self.wanted.len());
        let positive = |n: i32| Some(n).filter(|n| *n != 0);
        self.plan.status = DaemonSetStatus {
            current_number_scheduled: current,
            desired_number_scheduled: desired,
            number_misscheduled: count(misplaced),
            number_ready: ready,
            number_available: positive(available),
            number_unavailable: positive(desired - available),
            updated_number_scheduled: positive(updated),
            observed_generation: set.metadata.generation,
            collision_count: before.collision_count,
            conditions: before.conditions,
        };
        let times = self.view.pods.iter().filter_map(|pod| pods::available_at(pod, self.min_ready_seconds));
        self.plan.again = times.filter(|at| *at > self.now).min().map(|at| meta::until(at, self.now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, set_ready};
    use serde_json::{Value, json};

    fn set(rolling: Value) -> DaemonSet {
        object(json!({"metadata": {"name": "d", "namespace": "ns", "uid": "d"}, "spec": {"selector": {},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": {"spec": {"containers": []}}}}))
    }

    fn pod(node: &str, hash: &str, ready: bool) -> Arc<CachedPod> {
        let mut pod = crate::testing::pod("ns", &format!("{node}-{hash}"), "Running");
        pod.node_name = Some(node.into());
        pod.metadata.labels = Some([(REVISION_LABEL.to_owned(), hash.to_owned())].into());
        set_ready(&mut pod, ready.then(|| at(1)));
        Arc::new(pod)
    }

    fn run(set: &DaemonSet, pods: &[Arc<CachedPod>]) -> (Vec<String>, Vec<String>, DaemonSetStatus) {
        let node = |name: &str, unfit: bool| -> Arc<Node> {
            let taints = if unfit { json!([{"key": "k", "effect": "NoExecute"}]) } else { json!([]) };
            Arc::new(object(json!({"metadata": {"name": name}, "spec": {"taints": taints}})))
        };
        let nodes = [node("a", false), node("b", false), node("c", false), node("z", true)];
        let plan = reconcile(&View { nodes: &nodes, pods, hash: "new" }, set, at(50));
        (plan.create, plan.delete.iter().map(|p| p.name().to_owned()).collect(), plan.status)
    }

    #[test]
    fn one_on_each_fitting_node() {
        let (create, delete, status) = run(&set(json!({})), &[pod("b", "new", true), pod("z", "new", true)]);
        assert_eq!((create, delete), (vec!["a".to_owned(), "c".to_owned()], vec!["z-new".to_owned()]));
        assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (3, 1));
        assert_eq!((status.number_misscheduled, status.number_unavailable), (1, Some(2)));
    }

    #[test]
    fn rolls_within_its_bounds() {
        let old = |node: &str| pod(node, "old", true);
        let cases = [
            // One may be missing: one goes.
            (json!({"maxUnavailable": 1}), vec![old("a"), old("b"), old("c")], vec![], vec!["a-old"]),
            // One is missing already.
            (json!({"maxUnavailable": 1}), vec![pod("a", "new", false), old("b"), old("c")], vec![], vec![]),
            // A broken old pod costs nothing.
            (
                json!({"maxUnavailable": 1}),
                vec![pod("a", "old", false), old("b"), old("c")],
                vec![],
                vec!["a-old"],
            ),
            (
                json!({"maxSurge": 1, "maxUnavailable": 0}),
                vec![old("a"), old("b"), old("c")],
                vec!["a"],
                vec![],
            ),
            (
                json!({"maxSurge": 1, "maxUnavailable": 0}),
                vec![old("a"), pod("a", "new", true), old("b"), old("c")],
                vec!["b"],
                vec!["a-old"],
            ),
        ];
        for (rolling, pods, created, deleted) in cases {
            let (create, delete, _) = run(&set(rolling.clone()), &pods);
            assert_eq!(
                (create, delete),
                (
                    created.into_iter().map(str::to_owned).collect(),
                    deleted.into_iter().map(str::to_owned).collect(),
                ),
                "{rolling}"
            );
        }
    }
}
