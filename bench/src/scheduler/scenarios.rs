//! What is in the cluster, and what comes: after scheduler_perf's configurations. The core alone and
//! a whole cluster are given the same.

use serde_json::{Value, json};

/// The JSON of a node or pod, by its number; as a client would send it, a pod without a namespace.
pub type Make = fn(usize) -> Value;

/// Numbers of the pods of the backlog and of churn start here, beyond those of all scenarios.
pub const BACKLOG: usize = 1_000_000;
pub const CHURN: usize = 2_000_000;
/// Of pods that drive others off.
pub const HIGH_PRIORITY: i32 = 100;
pub const HIGH_PRIORITY_CLASS: &str = "amphipod-bench-high";
/// Of all nodes: no real one is called so.
pub const NODE_PREFIX: &str = "amphipod-bench-";

#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub nodes: usize,
    pub node: Make,
    /// Pods that are there before; their numbers follow those of the pods that are measured.
    pub filled: usize,
    pub filling: Make,
    /// Pods that find no node and wait.
    pub backlog: usize,
    pub pods: usize,
    pub pod: Make,
    pub churn: Option<Churn>,
}

/// What else happens while pods are scheduled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Churn {
    /// Objects that have nothing to do with the pods come and go.
    Mixed,
    /// Pods come that others must go for.
    Preemptors,
}

impl Scenario {
    /// The same with another number of nodes, and pods in proportion.
    pub fn at(&self, nodes: usize) -> Scenario {
        let share = |count: usize| (count * nodes).div_ceil(self.nodes);
        let (filled, backlog, pods) = (share(self.filled), share(self.backlog), share(self.pods));
        Scenario { nodes, filled, backlog, pods, ..*self }
    }
}

const PLAIN: Scenario = Scenario {
    name: "basic",
    nodes: 5_000,
    node,
    filled: 5_000,
    filling: pod,
    backlog: 0,
    pods: 10_000,
    pod,
    churn: None,
};

pub static SCENARIOS: [Scenario; 16] = [
    PLAIN,
    Scenario { name: "basic, 50,000 pods", pods: 50_000, ..PLAIN },
    Scenario { name: "node affinity", pod: with_node_affinity, ..PLAIN },
    Scenario { name: "pod affinity", filling: near, pod: near, pods: 5_000, ..PLAIN },
    Scenario { name: "pod anti-affinity", filled: 1_000, filling: apart, pod: apart, pods: 2_000, ..PLAIN },
    Scenario { name: "preferred pod affinity", filling: rather_near, pod: rather_near, pods: 5_000, ..PLAIN },
    Scenario {
        name: "preferred pod anti-affinity",
        filling: rather_apart,
        pod: rather_apart,
        pods: 5_000,
        ..PLAIN
    },
    Scenario {
        name: "topology spreading, required",
        filling: spread_hard,
        pod: spread_hard,
        pods: 5_000,
        ..PLAIN
    },
    Scenario {
        name: "topology spreading, preferred",
        filling: spread_soft,
        pod: spread_soft,
        pods: 5_000,
        ..PLAIN
    },
    Scenario {
        name: "topology spreading, system default",
        filling: served,
        pod: served,
        pods: 5_000,
        ..PLAIN
    },
    Scenario {
        name: "preemption",
        filled: 20_000,
        filling: low_priority,
        pod: high_priority,
        pods: 5_000,
        ..PLAIN
    },
    Scenario {
        name: "preemption, async",
        filled: 20_000,
        filling: low_priority,
        pods: 5_000,
        churn: Some(Churn::Preemptors),
        ..PLAIN
    },
    Scenario { name: "mixed churn", churn: Some(Churn::Mixed), ..PLAIN },
    Scenario { name: "unschedulable backlog", backlog: 10_000, ..PLAIN },
    Scenario { name: "daemon set", nodes: 15_000, filled: 0, pod: of_daemon, pods: 30_000, ..PLAIN },
    Scenario { name: "stateful set", pod: with_own_labels, ..PLAIN },
];

/// All whose name contains this; one, if it is the name of one.
pub fn called(name: &str) -> Vec<&'static Scenario> {
    match SCENARIOS.iter().find(|scenario| scenario.name == name) {
        Some(scenario) => vec![scenario],
        None => SCENARIOS.iter().filter(|scenario| scenario.name.contains(name)).collect(),
    }
}

pub fn node_name(index: usize) -> String {
    format!("{NODE_PREFIX}{index}")
}
pub fn pod_name(index: usize) -> String {
    format!("pod-{index}")
}

pub fn node(index: usize) -> Value {
    let (name, room) = (node_name(index), json!({"cpu": "4", "memory": "32Gi", "pods": "110"}));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": format!("zone-{}", index % 3)}},
        "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// What pods that are `served` belong to; it is there in all scenarios.
pub fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "served"},
        "spec": {"selector": {"app": "served"}, "ports": [{"port": 80}]}})
}

fn with(index: usize, labels: Value, extra: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod_name(index), "labels": labels},
        // Nobody is there to end them gracefully.
        "spec": {"terminationGracePeriodSeconds": 0, "containers": asking("100m")},
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}
fn asking(cpu: &str) -> Value {
    json!([{"name": "pause", "image": "registry.k8s.io/pause:3.10", "resources": {"requests": {"cpu": cpu, "memory": "500Mi"}}}])
}

fn pod(index: usize) -> Value {
    with(index, json!({"app": "plain"}), json!({}))
}
pub fn too_large(index: usize) -> Value {
    with(index, json!({}), json!({"containers": asking("9")}))
}
fn with_node_affinity(index: usize) -> Value {
    let term = json!({"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-0", "zone-1"]}]});
    let required = json!({"nodeSelectorTerms": [term]});
    with(
        index,
        json!({}),
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}),
    )
}
fn rule(index: usize, color: &str, kind: &str, key: &str, required: bool) -> Value {
    let term = json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key});
    let rule = if required {
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]})
    } else {
        json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]})
    };
    with(index, json!({"color": color}), json!({"affinity": {kind: rule}}))
}
fn near(index: usize) -> Value {
    rule(index, "blue", "podAffinity", "topology.kubernetes.io/zone", true)
}
fn apart(index: usize) -> Value {
    rule(index, "green", "podAntiAffinity", "kubernetes.io/hostname", true)
}
fn rather_near(index: usize) -> Value {
    rule(index, "red", "podAffinity", "kubernetes.io/hostname", false)
}
fn rather_apart(index: usize) -> Value {
    rule(index, "yellow", "podAntiAffinity", "kubernetes.io/hostname", false)
}
fn spread(index: usize, unsatisfiable: &str) -> Value {
    let constraint = json!({"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": unsatisfiable, "labelSelector": {"matchLabels": {"color": "blue"}}});
    with(index, json!({"color": "blue"}), json!({"topologySpreadConstraints": [constraint]}))
}
fn spread_hard(index: usize) -> Value {
    spread(index, "DoNotSchedule")
}
fn spread_soft(index: usize) -> Value {
    spread(index, "ScheduleAnyway")
}
fn served(index: usize) -> Value {
    with(index, json!({"app": "served"}), json!({}))
}
fn low_priority(index: usize) -> Value {
    with(index, json!({}), json!({"containers": asking("900m"), "priority": 0}))
}
pub fn high_priority(index: usize) -> Value {
    // The API derives the priority from the class, the core reads it.
    let (class, priority) = (HIGH_PRIORITY_CLASS, HIGH_PRIORITY);
    with(
        index,
        json!({}),
        json!({"containers": asking("3"), "priorityClassName": class, "priority": priority}),
    )
}
/// Two on each node.
fn of_daemon(index: usize) -> Value {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node_name(index / 2)]});
    let required = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
    with(
        index,
        json!({}),
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}),
    )
}
fn with_own_labels(index: usize) -> Value {
    with(index, json!({"app": "set", "apps.kubernetes.io/pod-index": index.to_string()}), json!({}))
}
