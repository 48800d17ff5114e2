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
use serde_json::Value;

use super::scenarios::{BACKLOG, CHURN, Churn, Make, Scenario, high_priority, node_name, service, too_large};
use crate::Outcome;

/// As many places for churning nodes.
const CHURNING_NODES: usize = 100;
/// Decisions between two changes of mixed churn, and between two preemptors: scheduler_perf sends five
/// a second, and so fewer at the rates of the core.
const MIXED_EVERY: usize = 10;
const PREEMPTOR_EVERY: usize = 100;

pub struct Core {
    snapshot: Snapshot,
    scheduler: Scheduler,
    queue: Queue,
    nodes: usize,
    node: Make,
    churned: usize,
    /// Placed by churn, to be removed again.
    passing: VecDeque<String>,
    /// Placed as others' preemptors, less their victims.
    preempted: isize,
}

/// A pod as a watch shows it.
pub fn seen(make: Make, index: usize) -> Value {
    let mut pod = make(index);
    pod["metadata"]["namespace"] = "default".into();
    pod["metadata"]["uid"] = format!("00000000-0000-0000-0000-{index:012}").into();
    pod
}
fn cached(pod: &Value) -> CachedPod {
    CachedPod::decode(pod.to_string().as_bytes()).unwrap_or_default()
}

/// A pod as it is seen before and after it is placed.
pub struct Coming {
    waiting: CachedPod,
    placed: CachedPod,
}

impl Coming {
    fn new(make: Make, index: usize) -> Self {
        let mut pod = seen(make, index);
        let waiting = cached(&pod);
        pod["spec"]["nodeName"] = "".into();
        Coming { waiting, placed: cached(&pod) }
    }
}

impl Core {
    pub fn new(nodes: usize, node: Make) -> Self {
        let mut snapshot = Snapshot::default();
        for index in 0..nodes {
            set_node(&mut snapshot, &node(index));
        }
        let mut service = service();
        service["metadata"]["namespace"] = "default".into();
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
            preempted: 0,
        }
    }

    /// The pods that are there before, placed by the scheduler itself, and the backlog.
    pub fn fill(&mut self, scenario: &Scenario) {
        for index in 0..scenario.filled {
            let pod = cached(&seen(scenario.filling, scenario.pods + index));
            let info = Arc::new(self.snapshot.catalogue.pod(&pod));
            if let Decision::Node(slot) = self.scheduler.decide(&mut self.snapshot, &info, index as u64) {
                self.snapshot.place(&info, slot);
            }
        }
        let now = Instant::now();
        for index in 0..scenario.backlog {
            let pod = cached(&seen(too_large, BACKLOG + index));
            self.queue.add(Arc::new(self.snapshot.catalogue.pod(&pod)), now);
        }
    }

    pub fn prepare(&self, scenario: &Scenario) -> Vec<Coming> {
        (0..scenario.pods).map(|index| Coming::new(scenario.pod, index)).collect()
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
            match scenario.churn {
                Some(Churn::Mixed) if index % MIXED_EVERY == 0 => self.churn(scenario),
                Some(Churn::Preemptors) if index % PREEMPTOR_EVERY == 0 => self.preemptor(index)?,
                _ => {}
            }
            latencies.push(start.elapsed().as_secs_f64() * 1e6);
        }
        let expected = scenario.filled + latencies.len() + self.passing.len();
        let expected = expected.saturating_add_signed(self.preempted);
        if self.snapshot.pod_count() != expected {
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
                self.preempted -= 1;
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

    /// A pod comes that others must go for.
    fn preemptor(&mut self, index: usize) -> Outcome<()> {
        let mut coming = Coming::new(high_priority, CHURN + index);
        let now = Instant::now();
        self.queue.add(Arc::new(self.snapshot.catalogue.pod(&coming.waiting)), now);
        self.preempted += 1;
        while let Some(pod) = self.queue.pop(now) {
            self.decide(&pod, &mut coming.placed, now)?;
        }
        Ok(())
    }

    /// A node comes and another goes, and so does a pod.
    fn churn(&mut self, scenario: &Scenario) {
        let index = self.churned;
        self.churned += 1;
        set_node(&mut self.snapshot, &(self.node)(self.nodes + index % CHURNING_NODES));
        if index > 0 {
            let name = node_name(self.nodes + (index + CHURNING_NODES / 2) % CHURNING_NODES);
            let empty =
                self.snapshot.slot(&name).is_some_and(|slot| self.snapshot.node(slot).pods.is_empty());
            if empty {
                self.snapshot.remove_node(&name);
            }
        }
        let pod = cached(&seen(scenario.pod, CHURN + index));
        let info = Arc::new(self.snapshot.catalogue.pod(&pod));
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
