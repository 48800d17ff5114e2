//! Other amounts of CPU and memory for a pod that runs: whether the node has them, in what order
//! they are put in force, and what the pod's status says meanwhile. A pod has *desired* resources
//! (its spec), *allocated* ones (granted and held for it) and, per running container, *actuated*
//! ones (what the runtime was last told).

use std::cmp::Reverse;

use amphipod_api::quantity::Quantity;
use amphipod_cri::v1::LinuxContainerResources;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodCondition, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::admission::{self, NodeView};
use super::resources::{
    PodCgroup, amounts, container_resources, milli, pod_cgroup, pod_requests, qos_class, units,
};
use super::{Kind, containers, spec};

pub const PENDING: &str = "PodResizePending";
pub const IN_PROGRESS: &str = "PodResizeInProgress";
const DEFERRED: &str = "Deferred";
const INFEASIBLE: &str = "Infeasible";

/// Why a resize is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room now.
    Deferred(String),
    /// The node will never have the room.
    Infeasible(String),
}

impl Refusal {
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Deferred(_) => DEFERRED,
            Refusal::Infeasible(_) => INFEASIBLE,
        }
    }
    pub fn message(&self) -> &str {
        match self {
            Refusal::Deferred(message) | Refusal::Infeasible(message) => message,
        }
    }
}

fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = spec(pod);
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn resources_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ResourceRequirements> {
    all_containers(pod).find(|c| c.name == name)?.resources.as_ref()
}

/// `pod` with its containers' resources as `like` has them.
pub fn with_resources(pod: &Pod, like: &Pod) -> Pod {
    with(pod, |container| match all_containers(like).find(|c| c.name == container.name) {
        Some(other) => other.resources.clone(),
        None => container.resources.clone(),
    })
}

/// `pod` with the resources its status says it was granted; `None` where it says nothing.
pub fn as_told(pod: &Pod) -> Option<Pod> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let told: Vec<&ContainerStatus> =
        lists.into_iter().flatten().flatten().filter(|s| s.allocated_resources.is_some()).collect();
    if told.is_empty() {
        return None;
    }
    Some(with(pod, |container| {
        let Some(status) = told.iter().find(|s| s.name == container.name) else {
            return container.resources.clone();
        };
        let mut resources = container.resources.clone().unwrap_or_default();
        resources.requests = status.allocated_resources.clone();
        // A status tells granted requests only; the limits in force are the nearest to granted ones.
        if let Some(in_force) = &status.resources {
            resources.limits = in_force.limits.clone();
        }
        Some(resources)
    }))
}

fn with(pod: &Pod, resources: impl Fn(&Container) -> Option<ResourceRequirements>) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            container.resources = resources(container);
        }
    }
    pod
}

/// The same amounts, however they are written.
pub fn equal(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    let requests = |r: Option<&ResourceRequirements>| amounts(r.and_then(|r| r.requests.as_ref()));
    let limits = |r: Option<&ResourceRequirements>| amounts(r.and_then(|r| r.limits.as_ref()));
    requests(a) == requests(b) && limits(a) == limits(b)
}

pub fn same_resources(a: &Pod, b: &Pod) -> bool {
    all_containers(a).all(|c| equal(c.resources.as_ref(), resources_of(b, &c.name)))
}

/// Whether the node can give the pod what it asks for now.
pub fn check(desired: &Pod, node: &NodeView) -> Result<(), Refusal> {
    let requests = pod_requests(desired);
    for (name, value) in [("memory", units as fn(&super::resources::Amounts, &str) -> i64), ("cpu", milli)] {
        let (requested, capacity) = (value(&requests, name), value(node.allocatable, name));
        if requested > capacity {
            return Err(Refusal::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
            )));
        }
    }
    match admission::admit(desired, node) {
        Some(verdict) => Err(Refusal::Deferred(verdict.message)),
        None => Ok(()),
    }
}

/// Whether a pod asks for more than it holds.
pub fn grows(desired: &Pod, allocated: &Pod) -> bool {
    let (wanted, held) = (pod_requests(desired), pod_requests(allocated));
    units(&wanted, "memory") > units(&held, "memory") || milli(&wanted, "cpu") > milli(&held, "cpu")
}

/// Sorts pods whose resize waits: those that only shrink, then by priority, by quality of service,
/// by how long they wait.
pub fn turn(desired: &Pod, allocated: &Pod, since: Timestamp) -> (bool, Reverse<i32>, bool, Timestamp) {
    let priority = spec(desired).priority.unwrap_or(0);
    (grows(desired, allocated), Reverse(priority), qos_class(desired) != "Guaranteed", since)
}

/// One running container and what the runtime was last told of it.
pub struct Running<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub actuated: &'a ResourceRequirements,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The cgroup around the pod's containers.
    Pod(PodCgroup),
    Container {
        id: String,
        resources: LinuxContainerResources,
    },
}

/// The way from what is in force to what is allocated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Containers (by id) that must be started anew to take it up.
    pub restarts: Vec<String>,
    pub steps: Vec<Step>,
    /// Ids and names of the containers that have their resources after the steps.
    pub done: Vec<(String, String)>,
    /// Limits of memory that fall: containers' (by id and name), and the pod's.
    pub lowered: Vec<(String, String, i64)>,
    pub pod_lowered: Option<i64>,
}

struct Change<'a> {
    running: &'a Running<'a>,
    before: LinuxContainerResources,
    after: LinuxContainerResources,
}

const fn unlimited(value: i64) -> i64 {
    if value == 0 { i64::MAX } else { value }
}

impl Change<'_> {
    fn memory(&self) -> (i64, i64) {
        let limit = |r: &LinuxContainerResources| unlimited(r.memory_limit_in_bytes);
        (limit(&self.before), limit(&self.after))
    }
    fn cpu(&self) -> ((i64, i64), (i64, i64)) {
        let cpu = |r: &LinuxContainerResources| (unlimited(r.cpu_quota), r.cpu_shares);
        (cpu(&self.before), cpu(&self.after))
    }
    /// What is already so: the memory as it will be, the CPU as it was.
    fn halfway(&self) -> LinuxContainerResources {
        LinuxContainerResources {
            memory_limit_in_bytes: self.after.memory_limit_in_bytes,
            ..self.before.clone()
        }
    }
    fn step(&self, resources: LinuxContainerResources) -> Step {
        Step::Container { id: self.running.id.to_owned(), resources }
    }
}

/// `current`: what the pod's cgroup is set to. Memory goes before CPU; where the pod grows its own
/// cgroup goes first, where it shrinks last; of the containers those that give come before those
/// that take.
pub fn plan(current: PodCgroup, allocated: &Pod, running: &[Running], node_memory_bytes: i64) -> Plan {
    let mut plan = Plan::default();
    let mut changes = Vec::new();
    for one in running {
        let Some(container) = all_containers(allocated).find(|c| c.name == one.name) else { continue };
        if equal(Some(one.actuated), container.resources.as_ref()) {
            continue;
        }
        if needs_restart(container, one.actuated) {
            plan.restarts.push(one.id.to_owned());
            continue;
        }
        let old = Container { resources: Some(one.actuated.clone()), ..container.clone() };
        changes.push(Change {
            running: one,
            before: container_resources(allocated, &old, node_memory_bytes),
            after: container_resources(allocated, container, node_memory_bytes),
        });
        plan.done.push((one.id.to_owned(), one.name.to_owned()));
    }
    let mut now = current;
    plan.change_memory(&mut now, &pod_cgroup(allocated), &mut changes);
    plan.change_cpu(&mut now, &pod_cgroup(allocated), &mut changes);
    plan
}

/// Whether the way from `actuated` to what the container is to have is a restart.
pub fn needs_restart(container: &Container, actuated: &ResourceRequirements) -> bool {
    let differs = |name: &str| {
        let of = |r: Option<&ResourceRequirements>| -> [Option<Quantity>; 2] {
            let r = r.cloned().unwrap_or_default();
            [r.requests, r.limits].map(|map| amounts(map.as_ref()).get(name).copied())
        };
        of(Some(actuated)) != of(container.resources.as_ref())
    };
    let policies = container.resize_policy.iter().flatten();
    let mut restarting = policies.filter(|p| p.restart_policy == "RestartContainer");
    restarting.any(|p| differs(&p.resource_name))
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.restarts.is_empty() && self.steps.is_empty() && self.done.is_empty()
    }

    fn change_memory(&mut self, now: &mut PodCgroup, goal: &PodCgroup, changes: &mut [Change]) {
        let limit = |cgroup: &PodCgroup| cgroup.memory_limit.unwrap_or(i64::MAX);
        let (old, new) = (limit(now), limit(goal));
        if new > old {
            self.set_pod(now, PodCgroup { memory_limit: goal.memory_limit, ..*now });
        }
        changes.sort_by_key(|c| c.memory().1 > c.memory().0);
        for change in changes.iter().filter(|c| c.memory().0 != c.memory().1) {
            if change.memory().1 < change.memory().0 {
                let (id, name) = (change.running.id.to_owned(), change.running.name.to_owned());
                self.lowered.push((id, name, change.memory().1));
            }
            self.steps.push(change.step(change.halfway()));
        }
        // While a container must start anew it may still use what it had.
        if new < old && self.restarts.is_empty() {
            self.pod_lowered = Some(new);
            self.set_pod(now, PodCgroup { memory_limit: goal.memory_limit, ..*now });
        }
    }

    fn change_cpu(&mut self, now: &mut PodCgroup, goal: &PodCgroup, changes: &mut [Change]) {
        let quota = |cgroup: &PodCgroup| cgroup.cpu_quota.unwrap_or(i64::MAX);
        let most = PodCgroup {
            cpu_quota: if quota(goal) > quota(now) { goal.cpu_quota } else { now.cpu_quota },
            cpu_shares: goal.cpu_shares.max(now.cpu_shares),
            ..*now
        };
        self.set_pod(now, most);
        changes.sort_by_key(|c| c.cpu().1 > c.cpu().0);
        for change in changes.iter().filter(|c| c.cpu().0 != c.cpu().1) {
            self.steps.push(change.step(change.after.clone()));
        }
        if self.restarts.is_empty() {
            let least = PodCgroup { cpu_quota: goal.cpu_quota, cpu_shares: goal.cpu_shares, ..*now };
            self.set_pod(now, least);
        }
    }

    fn set_pod(&mut self, now: &mut PodCgroup, wanted: PodCgroup) {
        if *now != wanted {
            *now = wanted;
            self.steps.push(Step::Pod(wanted));
        }
    }
}

/// `pod` as far as it is in force: containers that run with what the runtime was told.
pub fn in_force(allocated: &Pod, running: &[Running]) -> Pod {
    with(allocated, |container| match running.iter().find(|r| r.name == container.name) {
        Some(one) => Some(one.actuated.clone()),
        None => container.resources.clone(),
    })
}

/// Why limits are not lowered: more is in use. `usage` tells the bytes by container id.
pub fn still_used(
    plan: &Plan,
    usage: impl Fn(&str) -> Option<i64>,
    pod_usage: Option<i64>,
) -> Option<String> {
    let mut found = Vec::new();
    if let (Some(limit), Some(used)) = (plan.pod_lowered, pod_usage)
        && limit <= used
    {
        found.push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"));
    }
    for (id, name, limit) in &plan.lowered {
        if let Some(used) = usage(id).filter(|used| limit <= used) {
            found.push(format!(
                "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
            ));
        }
    }
    let text = match found.as_slice() {
        [] => return None,
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Some(format!("cannot decrease memory limits: {text}"))
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    pub reason: String,
    pub message: String,
    pub generation: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub error: Option<String>,
    pub generation: Option<i64>,
}

/// Where a pod's resize stands, as its conditions tell it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    pub pending: Option<Pending>,
    pub progress: Option<Progress>,
}

impl Standing {
    /// As an earlier kubelet left it.
    pub fn restored(status: &PodStatus) -> Self {
        let find = |kind: &str| {
            let conditions = status.conditions.as_deref().unwrap_or_default();
            conditions.iter().find(|c| c.type_ == kind && c.status == "True")
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Standing {
            pending: find(PENDING).map(|c| Pending {
                reason: text(&c.reason),
                message: text(&c.message),
                generation: c.observed_generation,
            }),
            progress: find(IN_PROGRESS)
                .map(|c| Progress { error: c.message.clone(), generation: c.observed_generation }),
        }
    }

    /// Times of conditions that were there before are carried over.
    pub fn conditions(&self, before: &[PodCondition], now: Timestamp) -> Vec<PodCondition> {
        let condition = |kind: &str, reason: Option<String>, message: Option<String>, generation| {
            let old = before.iter().find(|c| c.type_ == kind && c.status == "True");
            let since = old.and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                reason,
                message,
                last_transition_time: Some(since.unwrap_or(Time(now))),
                observed_generation: generation,
                last_probe_time: None,
            }
        };
        let pending = self.pending.iter().map(|p| {
            let message = Some(p.message.clone()).filter(|m| !m.is_empty());
            condition(PENDING, Some(p.reason.clone()), message, p.generation)
        });
        let progress = self.progress.iter().map(|p| {
            let reason = p.error.as_ref().map(|_| "Error".to_owned());
            condition(IN_PROGRESS, reason, p.error.clone(), p.generation)
        });
        pending.chain(progress).collect()
    }
}

/// Containers whose resources can change while they run.
pub fn is_resizable(pod: &Pod, name: &str) -> bool {
    containers(pod).any(|c| c.name() == name && matches!(c.kind, Kind::App | Kind::Sidecar))
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
