//! One step of a StatefulSet: which pod to make or delete next. In order, each waits for the one
//! before it to be ready; in parallel, all that can be done is done at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{CachedPod, Resource};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use super::pods::ordinal;
use crate::revisions::REVISION_LABEL;
use crate::{meta, pods};

pub struct View<'a> {
    pub pods: &'a [Arc<CachedPod>],
    /// Names of the revisions: the one pods come from, the one they go to.
    pub current: &'a str,
    pub update: &'a str,
}

/// A pod to make: its number, and whether of the update revision.
#[derive(Debug, PartialEq)]
pub struct Create {
    pub ordinal: i32,
    pub update: bool,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<Create>,
    pub delete: Vec<Arc<CachedPod>>,
    pub status: StatefulSetStatus,
    pub again: Option<Duration>,
}

struct Work<'a> {
    view: &'a View<'a>,
    now: Timestamp,
    in_order: bool,
    min_ready_seconds: i32,
    start: i32,
    partition: Option<i32>,
    rolling: bool,
    plan: Plan,
    /// Nothing more may be done in this step.
    halted: bool,
}

fn revision_of(pod: &CachedPod) -> &str {
    meta::label(&pod.metadata, REVISION_LABEL).unwrap_or("")
}

fn is_up(pod: &CachedPod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

fn is_healthy(pod: &CachedPod) -> bool {
    is_up(pod) && !pod.is_terminating()
}

pub fn reconcile(view: &View, set: &StatefulSet, now: Timestamp) -> Plan {
    let Some(spec) = &set.spec else { return Plan::default() };
    let strategy = spec.update_strategy.as_ref();
    let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    let mut work = Work {
        view,
        now,
        in_order: spec.pod_management_policy.as_deref() != Some("Parallel"),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        start,
        partition: strategy.and_then(|s| s.rolling_update.as_ref()).map(|r| r.partition.unwrap_or(0)),
        rolling: strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete"),
        plan: Plan::default(),
        halted: false,
    };
    let end = start.saturating_add(spec.replicas.unwrap_or(1));
    let mut wanted: BTreeMap<i32, Option<Arc<CachedPod>>> = (start..end).map(|n| (n, None)).collect();
    let mut condemned: BTreeMap<i32, Arc<CachedPod>> = BTreeMap::new();
    for pod in view.pods {
        match ordinal(set.name(), pod.name()) {
            Some(n) if wanted.contains_key(&n) => drop(wanted.insert(n, Some(pod.clone()))),
            Some(n) => drop(condemned.insert(n, pod.clone())),
            None => {}
        }
    }
    work.count(set);
    if !set.is_terminating() {
        work.fill(&wanted, set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0));
        let missing = wanted.values().any(Option::is_none);
        work.shrink(&condemned, &wanted, missing);
        work.update(&wanted);
    }
    work.conclude();
    work.plan
}

impl Work<'_> {
    fn count(&mut self, set: &StatefulSet) {
        let count = |holds: &dyn Fn(&CachedPod) -> bool| {
            i32::try_from(self.view.pods.iter().filter(|pod| holds(pod)).count()).unwrap_or(i32::MAX)
        };
        let before = set.status.clone().unwrap_or_default();
        let of = |revision: &str| count(&|pod| !pod.is_terminating() && revision_of(pod) == revision);
        self.plan.status = StatefulSetStatus {
            replicas: count(&|_| true),
            ready_replicas: Some(count(&is_up)),
            available_replicas: Some(count(&|pod| is_up(pod) && self.available(pod))),
            current_replicas: Some(of(self.view.current)),
            updated_replicas: Some(of(self.view.update)),
            current_revision: Some(self.view.current.to_owned()),
            update_revision: Some(self.view.update.to_owned()),
            observed_generation: set.metadata.generation,
            collision_count: before.collision_count,
            conditions: before.conditions,
        };
        let times = self.view.pods.iter().filter_map(|pod| pods::available_at(pod, self.min_ready_seconds));
        let next = times.filter(|at| *at > self.now).min();
        self.plan.again = next.map(|at| meta::until(at, self.now));
    }

    fn available(&self, pod: &CachedPod) -> bool {
        pods::is_available(pod, self.min_ready_seconds, self.now)
    }

    fn halt_if_in_order(&mut self) {
        self.halted |= self.in_order;
    }

    /// Whether a new pod of this number is of the update revision.
    fn takes_update(&self, number: i32, current_replicas: i32) -> bool {
        if !self.rolling || self.view.current == self.view.update {
            return true;
        }
        let below = self.partition.unwrap_or(current_replicas);
        number >= self.start.saturating_add(below)
    }

    fn fill(&mut self, wanted: &BTreeMap<i32, Option<Arc<CachedPod>>>, current_replicas: i32) {
        for (number, pod) in wanted {
            if self.halted {
                return;
            }
            match pod {
                None => {
                    let update = self.takes_update(*number, current_replicas);
                    self.plan.create.push(Create { ordinal: *number, update });
                    self.halt_if_in_order();
                }
                // A pod that ended is made anew, once it is gone.
                Some(pod) if pods::is_terminal(pod) => {
                    if !pod.is_terminating() {
                        self.plan.delete.push(pod.clone());
                    }
                    self.halt_if_in_order();
                }
                Some(pod) if !is_healthy(pod) || !self.available(pod) => self.halt_if_in_order(),
                Some(_) => {}
            }
        }
    }

    /// Pods beyond the size go, the highest number first.
    fn shrink(
        &mut self,
        condemned: &BTreeMap<i32, Arc<CachedPod>>,
        wanted: &BTreeMap<i32, Option<Arc<CachedPod>>>,
        missing: bool,
    ) {
        let pods = wanted.values().flatten().chain(condemned.values());
        let first_unhealthy =
            if missing { None } else { pods.into_iter().find(|pod| !is_healthy(pod)).map(|pod| pod.uid()) };
        for pod in condemned.values().rev() {
            if self.halted {
                return;
            }
            if pod.is_terminating() {
                self.halt_if_in_order();
                continue;
            }
            let unready = !is_up(pod) || !self.available(pod);
            if unready && self.in_order && first_unhealthy != Some(pod.uid()) {
                self.halted = true;
                return;
            }
            self.plan.delete.push(pod.clone());
            self.halt_if_in_order();
        }
    }

    /// Moves one pod to the update revision, from the highest number down to the partition.
    fn update(&mut self, wanted: &BTreeMap<i32, Option<Arc<CachedPod>>>) {
        if self.halted || !self.rolling {
            return;
        }
        let lowest = self.start.saturating_add(self.partition.unwrap_or(0));
        for (_, pod) in wanted.range(lowest..).rev() {
            let Some(pod) = pod else { return };
            if revision_of(pod) != self.view.update && !pod.is_terminating() {
                if !self.plan.delete.iter().any(|doomed| doomed.uid() == pod.uid()) {
                    self.plan.delete.push(pod.clone());
                    if let Some(current) = &mut self.plan.status.current_replicas {
                        *current = (*current - 1).max(0);
                    }
                }
                return;
            }
            if !is_healthy(pod) {
                return;
            }
        }
    }

    /// Once all pods are of the update revision it becomes the current one.
    fn conclude(&mut self) {
        let status = &mut self.plan.status;
        let all = Some(status.replicas);
        if self.rolling && status.updated_replicas == all && status.ready_replicas == all {
            status.current_replicas = status.updated_replicas;
            status.current_revision = status.update_revision.clone();
        }
        for count in [&mut status.ready_replicas, &mut status.current_replicas, &mut status.updated_replicas]
        {
            *count = count.filter(|n| *n != 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, set_ready};
    use serde_json::{Value, json};

    fn set(replicas: i32, extra: Value) -> StatefulSet {
        let mut spec = json!({"replicas": replicas, "selector": {}, "serviceName": "web", "template": {}});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        object(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": spec}))
    }

    /// `+` ready, `-` running but not ready, `x` failed, `t` terminating; the digit its number.
    fn pod(text: &str, revision: &str) -> Arc<CachedPod> {
        let (state, number) = text.split_at(1);
        let name = format!("web-{number}");
        let mut pod = crate::testing::pod("ns", &name, if state == "x" { "Failed" } else { "Running" });
        pod.metadata.labels = Some([(REVISION_LABEL.to_owned(), revision.to_owned())].into());
        set_ready(&mut pod, (state != "-").then(|| at(1)));
        if state == "t" {
            pod.metadata.deletion_timestamp = meta::time(at(2));
        }
        Arc::new(pod)
    }

    fn steps(set: &StatefulSet, old: &[&str], new: &[&str]) -> (Vec<(i32, bool)>, Vec<String>) {
        let pods: Vec<Arc<CachedPod>> =
            old.iter().map(|t| pod(t, "r1")).chain(new.iter().map(|t| pod(t, "r2"))).collect();
        let plan = reconcile(&View { pods: &pods, current: "r1", update: "r2" }, set, at(50));
        let created = plan.create.iter().map(|c| (c.ordinal, c.update)).collect();
        (created, plan.delete.iter().map(|p| p.name().to_owned()).collect())
    }

    #[test]
    fn in_order_one_at_a_time() {
        let s =
            set(3, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}));
        type Case<'a> = (&'a [&'a str], &'a [&'a str], Vec<(i32, bool)>, Vec<&'a str>);
        let cases: [Case; 9] = [
            (&[], &[], vec![(0, true)], vec![]),
            (&[], &["-0"], vec![], vec![]),
            (&[], &["+0"], vec![(1, true)], vec![]),
            (&[], &["+0", "x1"], vec![], vec!["web-1"]),
            // Scaling down from the highest, and only while all below are well.
            (&[], &["+0", "+1", "+2", "+3", "+4"], vec![], vec!["web-4"]),
            (&[], &["+0", "-1", "+2", "+3"], vec![], vec![]),
            (&[], &["+0", "+1", "+2", "t3"], vec![], vec![]),
            // Updating from the highest, waiting for each.
            (&["+0", "+1", "+2"], &[], vec![], vec!["web-2"]),
            (&["+0", "+1"], &["-2"], vec![], vec![]),
        ];
        for (old, new, created, deleted) in cases {
            let (c, d) = steps(&s, old, new);
            assert_eq!((c, d.iter().map(String::as_str).collect()), (created, deleted), "{old:?} {new:?}");
        }
    }

    #[test]
    fn in_parallel_all_at_once() {
        let s = set(3, json!({"podManagementPolicy": "Parallel"}));
        assert_eq!(steps(&s, &[], &["-1", "+5", "-4"]).0, [(0, true), (2, true)]);
        assert_eq!(steps(&s, &[], &["-1", "+5", "-4"]).1, ["web-5", "web-4"]);
    }

    #[test]
    fn a_pod_below_the_partition_returns_as_it_was() {
        let s =
            set(3, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
        assert_eq!(steps(&s, &["+1"], &["+2"]).0, [(0, false)]);
        assert_eq!(steps(&s, &["+0", "+1"], &[]).0, [(2, true)]);
        assert_eq!(steps(&s, &["+0", "+1"], &["+2"]), (vec![], vec![]));
    }
}
