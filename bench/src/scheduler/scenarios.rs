//! What is in the cluster, and what comes: after scheduler_perf's configurations.

use serde_json::{Value, json};

/// The JSON of a node or pod, by its number.
type Make = fn(usize) -> Value;

pub struct Scenario {
    pub name: &'static str,
    pub nodes: usize,
    pub node: Make,
    /// Pods that are there before.
    pub filled: usize,
    pub filling: Make,
    /// Pods that find no node and wait.
    pub backlog: usize,
    pub pods: usize,
    pub pod: Make,
    /// A node and a pod come and go after so many decisions; never, if 0.
    pub churn_every: usize,
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
    churn_every: 0,
};

pub static SCENARIOS: [Scenario; 15] = [
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
    Scenario { name: "mixed churn", churn_every: 10, ..PLAIN },
    Scenario { name: "unschedulable backlog", backlog: 10_000, ..PLAIN },
    Scenario { name: "daemon set", nodes: 15_000, filled: 0, pod: of_daemon, pods: 30_000, ..PLAIN },
    Scenario { name: "stateful set", pod: with_own_labels, ..PLAIN },
];

pub fn node(index: usize) -> Value {
    json!({
        "metadata": {"name": format!("node-{index}"), "labels": {
            "kubernetes.io/hostname": format!("node-{index}"), "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": format!("zone-{}", index % 3)}},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
    })
}

fn with(index: usize, labels: Value, extra: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": format!("pod-{index}"), "namespace": "default", "uid": format!("00000000-0000-0000-0000-{index:012}"), "labels": labels},
        "spec": {"containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]},
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
/// Of the service every core has.
fn served(index: usize) -> Value {
    with(index, json!({"app": "served"}), json!({}))
}
fn low_priority(index: usize) -> Value {
    with(index, json!({}), json!({"containers": asking("900m"), "priority": 0}))
}
fn high_priority(index: usize) -> Value {
    with(index, json!({}), json!({"containers": asking("3"), "priority": 100}))
}
/// Two on each node.
fn of_daemon(index: usize) -> Value {
    let field =
        json!({"key": "metadata.name", "operator": "In", "values": [format!("node-{}", index % 15_000)]});
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
