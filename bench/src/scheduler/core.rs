//! Snapshot, queue and decisions, driven as the scheduler's shell drives them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use amphipod_client::{CachedPod, Resource};
use amphipod_scheduler::decision::{Decision, Scheduler};
use amphipod_scheduler::framework::Event;
use amphipod_scheduler::pod::PodInfo;
use amphipod_scheduler::preemption::Preemption;
use amphipod_scheduler::queue::Queue;
use amphipod_scheduler::{Profile, Snapshot};
use k8s_openapi::api::core::v1::{Node, Service};
use serde_json::{Value, json};

use super::scenarios::{Scenario, too_large};
use crate::Outcome;

/// Numbers of pods of the backlog and of churn start here, beyond those of all scenarios.
const BACKLOG: usize = 1_000_000;
const CHURN: usize = 2_000_000;
/// As many places for churning nodes.
const CHURNING_NODES: usize = 100;

pub struct Core {
    snapshot: Snapshot,
    scheduler: Scheduler,
    queue: Queue,
    nodes: usize,
    node: fn(usize) -> Value,
    churned: usize,
    /// Placed by churn, to be removed again.
    passing: VecDeque<String>,
}

fn cached(pod: &Value) -> CachedPod {
    CachedPod::decode(pod.to_string().as_bytes()).unwrap_or_default()
}

/// A pod as it is seen before and after it is placed.
pub struct Coming {
    waiting: CachedPod,
    placed: CachedPod,
}

impl Core {
    pub fn new(nodes: usize, node: fn(usize) -> Value) -> Self {
        let mut snapshot = Snapshot::default();
        for index in 0..nodes {
            set_node(&mut snapshot, &node(index));
        }
        let service = json!({"metadata": {"name": "served", "namespace": "default"}, "spec": {"selector": {"app": "served"}}});
        if let Ok(service) = Service::decode(service.to_string().as_bytes()) {
            let Snapshot { catalogue, workloads, .. } = &mut snapshot;
            workloads.set_service(catalogue, &service);
        }
        let scheduler = Scheduler::new(vec![Profile::default()]);
        Core {
            snapshot,
            scheduler,
            queue: Queue::default(),
            nodes,
            node,
            churned: 0,
            passing: VecDeque::new(),
        }
    }

    /// The pods that are there before, placed by the scheduler itself, and the backlog.
    pub fn fill(&mut self, scenario: &Scenario) {
        for index in 0..scenario.filled {
            let pod = cached(&(scenario.filling)(scenario.pods + index));
            let info = Arc::new(self.snapshot.catalogue.pod(&pod));
            if let Decision::Node(slot) = self.scheduler.decide(&mut self.snapshot, &info, index as u64) {
                self.snapshot.place(&info, slot);
            }
        }
        let now = Instant::now();
        for index in 0..scenario.backlog {
            let pod = cached(&too_large(BACKLOG + index));
            self.queue.add(Arc::new(self.snapshot.catalogue.pod(&pod)), now);
        }
    }

    pub fn prepare(&self, scenario: &Scenario) -> Vec<Coming> {
        let coming = |index| {
            let mut pod = (scenario.pod)(index);
            let waiting = cached(&pod);
            pod["spec"]["nodeName"] = "".into();
            Coming { waiting, placed: cached(&pod) }
        };
        (0..scenario.pods).map(coming).collect()
    }

    /// Schedules all; how long each took, in microseconds, from being taken in to being seen placed.
    pub fn schedule(&mut self, scenario: &Scenario, pods: Vec<Coming>) -> Outcome<Vec<f64>> {
        let mut latencies = Vec::with_capacity(pods.len());
        for (index, mut coming) in pods.into_iter().enumerate() {
            let start = Instant::now();
            self.queue.add(Arc::new(self.snapshot.catalogue.pod(&coming.waiting)), start);
            while let Some(pod) = self.queue.pop(start) {
                self.decide(&pod, &mut coming.placed, start)?;
            }
            if scenario.churn_every > 0 && index % scenario.churn_every == 0 {
                self.churn(scenario);
            }
            latencies.push(start.elapsed().as_secs_f64() * 1e6);
        }
        let expected = scenario.filled + latencies.len() + self.passing.len();
        let evicted = if scenario.name == "preemption" { self.snapshot.pod_count() } else { expected };
        if self.snapshot.pod_count() != evicted {
            return Err(format!("{} pods placed of {expected}", self.snapshot.pod_count()).into());
        }
        Ok(latencies)
    }

    fn decide(&mut self, pod: &Arc<PodInfo>, placed: &mut CachedPod, now: Instant) -> Outcome<()> {
        let Core { snapshot, scheduler, queue, .. } = self;
        let mut decision = scheduler.decide(snapshot, pod, now.elapsed().as_nanos() as u64);
        if let Decision::Unschedulable(refused) = decision {
            let Some(Preemption::Plan(plan)) = &refused.preemption else {
                queue.refused(&pod.key, refused.plugins, now);
                return Ok(());
            };
            // The victims go at once, and the pod looks again.
            for victim in &plan.victims {
                snapshot.remove_pod(&victim.key);
                queue.happened(snapshot, scheduler.profiles(), Event::PodRemoved(victim), now);
            }
            decision = scheduler.decide(snapshot, pod, now.elapsed().as_nanos() as u64);
        }
        let Decision::Node(slot) = decision else { return Err("no room where room was made".into()) };
        let assumed = snapshot.place(pod, slot);
        queue.happened(snapshot, scheduler.profiles(), Event::PodPlaced(&assumed), now);
        queue.remove(&pod.key);
        if placed.name() == pod.name() {
            placed.node_name = Some(snapshot.name(slot).into());
            snapshot.set_pod(placed);
        }
        Ok(())
    }

    /// A node comes and another goes, and so does a pod.
    fn churn(&mut self, scenario: &Scenario) {
        let index = self.churned;
        self.churned += 1;
        set_node(&mut self.snapshot, &(self.node)(self.nodes + index % CHURNING_NODES));
        if index > 0 {
            let old = (self.nodes + (index + CHURNING_NODES / 2) % CHURNING_NODES).to_string();
            let name = format!("node-{old}");
            let empty =
                self.snapshot.slot(&name).is_some_and(|slot| self.snapshot.node(slot).pods.is_empty());
            if empty {
                self.snapshot.remove_node(&name);
            }
        }
        let pod = (scenario.pod)(CHURN + index);
        let info = Arc::new(self.snapshot.catalogue.pod(&cached(&pod)));
        if let Decision::Node(slot) = self.scheduler.decide(&mut self.snapshot, &info, index as u64) {
            self.snapshot.place(&info, slot);
            self.passing.push_back(info.key.to_string());
        }
        if self.passing.len() > CHURNING_NODES
            && let Some(key) = self.passing.pop_front()
        {
            self.snapshot.remove_pod(&key);
        }
    }
}

fn set_node(snapshot: &mut Snapshot, node: &Value) {
    if let Ok(node) = Node::decode(node.to_string().as_bytes()) {
        snapshot.set_node(&node);
    }
}
