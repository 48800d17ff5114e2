//! Last checks on the node itself: what was scheduled here may not fit (any more).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use super::resources::{Amounts, pod_requests};
use super::status::Verdict;
use super::{app_containers, init_containers, is_host_network, spec};
use amphipod_api::selector::{Operator, Requirement};

/// Sysctls that are namespaced and harmless: allowed without configuration.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

pub struct NodeView<'a> {
    pub name: &'a str,
    pub allocatable: &'a Amounts,
    pub labels: &'a BTreeMap<String, String>,
    /// Pods that hold resources here, without the one in question.
    pub others: &'a [std::sync::Arc<Pod>],
    pub allowed_unsafe_sysctls: &'a [String],
}

/// `None`: the pod may run.
pub fn admit(pod: &Pod, node: &NodeView) -> Option<Verdict> {
    sysctls(pod, node).or_else(|| predicates(pod, node)).or_else(|| fits(pod, node))
}

fn predicates(pod: &Pod, node: &NodeView) -> Option<Verdict> {
    let failed = |name: &str, why: &str| {
        Some(Verdict { reason: name.to_owned(), message: format!("Predicate {name} failed: {why}") })
    };
    if spec(pod).node_name.as_deref().is_some_and(|n| !n.is_empty() && n != node.name) {
        return failed("NodeName", "node(s) didn't match the requested node name");
    }
    if !matches_node(pod, node) {
        return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    let wanted = host_ports(pod);
    if !wanted.is_empty() && node.others.iter().any(|other| conflict(&wanted, &host_ports(other))) {
        return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    None
}

fn fits(pod: &Pod, node: &NodeView) -> Option<Verdict> {
    let used: Vec<Amounts> = node.others.iter().map(|p| pod_requests(p)).collect();
    let pods = node.allocatable.get("pods").map_or(i64::MAX, |q| q.units());
    let count = i64::try_from(node.others.len()).unwrap_or(i64::MAX);
    if count >= pods {
        return Some(out_of("pods", 1, count, pods));
    }
    for (name, request) in pod_requests(pod) {
        if request.is_zero() {
            continue;
        }
        // CPU is told in thousandths, as upstream does; everything else in whole units.
        let value = |q: amphipod_api::quantity::Quantity| if name == "cpu" { q.milli() } else { q.units() };
        let capacity = node.allocatable.get(&name).map_or(0, |q| value(*q));
        let taken: i64 = used.iter().filter_map(|u| u.get(&name)).map(|q| value(*q)).sum();
        if taken.saturating_add(value(request)) > capacity {
            return Some(out_of(&name, value(request), taken, capacity));
        }
    }
    None
}

fn out_of(resource: &str, requested: i64, used: i64, capacity: i64) -> Verdict {
    Verdict {
        reason: format!("OutOf{resource}"),
        message: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

type HostPort<'a> = (&'a str, &'a str, i32);

fn host_ports(pod: &Pod) -> Vec<HostPort<'_>> {
    let host_network = is_host_network(pod);
    let spec = spec(pod);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = all.flat_map(|c| c.ports.iter().flatten()).filter_map(move |port| {
        let number = port.host_port.filter(|p| *p > 0).or(host_network.then_some(port.container_port))?;
        let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        Some((ip, port.protocol.as_deref().unwrap_or("TCP"), number))
    });
    ports.collect()
}

fn conflict(wanted: &[HostPort], taken: &[HostPort]) -> bool {
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    wanted.iter().any(|(ip, protocol, port)| {
        taken.iter().any(|(i, p, n)| p == protocol && n == port && (i == ip || any(i) || any(ip)))
    })
}

fn matches_node(pod: &Pod, node: &NodeView) -> bool {
    let selector = spec(pod).node_selector.iter().flatten();
    if !selector.clone().all(|(key, value)| node.labels.get(key) == Some(value)) {
        return false;
    }
    let required = spec(pod)
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let (labels, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let (labels, fields) = (labels.unwrap_or_default(), fields.unwrap_or_default());
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let by_label = |r: &NodeSelectorRequirement| holds(r, node.labels.get(&r.key).map(String::as_str));
    let by_field = |r: &NodeSelectorRequirement| r.key == "metadata.name" && holds(r, Some(node.name));
    labels.iter().all(by_label) && fields.iter().all(by_field)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    Requirement::new(&requirement.key, operator, requirement.values.clone().unwrap_or_default())
        .is_ok_and(|r| r.matches(value))
}

fn sysctls(pod: &Pod, node: &NodeView) -> Option<Verdict> {
    let asked = spec(pod).security_context.as_ref().and_then(|c| c.sysctls.as_ref());
    for sysctl in asked.into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let allowed = SAFE_SYSCTLS.contains(&name.as_str())
            || node.allowed_unsafe_sysctls.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => *pattern == name,
            });
        if !allowed {
            let message = format!("forbidden sysctl: {:?} not allowlisted", sysctl.name);
            return Some(Verdict { reason: "SysctlForbidden".to_owned(), message });
        }
    }
    None
}

/// A pod that no longer holds resources.
pub fn holds_resources(pod: &Pod) -> bool {
    !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Labels of the node object, or those it will register with.
pub fn node_labels(node: Option<&Node>, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = own.clone();
    labels.extend(node.and_then(|n| n.metadata.labels.clone()).unwrap_or_default());
    labels
}

/// Static and mirror pods, and pods that already ran here, are not asked again.
pub fn must_check(pod: &Pod, runs_already: bool) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    let any = app_containers(pod).next().is_some() || init_containers(pod).next().is_some();
    any && !runs_already && phase == "Pending" && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod};
    use super::*;
    use amphipod_api::quantity::Quantity;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn refusals() {
        let allocatable: Amounts = [("cpu", "1"), ("memory", "1Gi"), ("pods", "3")]
            .map(|(k, v)| (k.to_owned(), Quantity::parse(v).unwrap()))
            .into();
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let other = Arc::new(pod(
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}],
            "resources": {"requests": {"cpu": "600m"}}}]}),
        ));
        let others = [other];
        let node = node(&allocatable, &labels, &others);
        let container = json!([{"name": "a"}]);
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}]}}});
        let cases = [
            (json!({"containers": container}), None),
            (
                json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}}]}),
                Some("OutOfcpu"),
            ),
            (
                json!({"containers": [{"name": "a", "resources": {"requests": {"x.y/z": "1"}}}]}),
                Some("OutOfx.y/z"),
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 8080, "hostIP": "127.0.0.1"}]}]}),
                Some("NodePorts"),
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 8080, "protocol": "UDP"}]}]}),
                None,
            ),
            (json!({"containers": container, "nodeSelector": {"disk": "hdd"}}), Some("NodeAffinity")),
            (json!({"containers": container, "affinity": affinity}), Some("NodeAffinity")),
            (json!({"containers": container, "nodeName": "m"}), Some("NodeName")),
            (
                json!({"containers": container, "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
                Some("SysctlForbidden"),
            ),
            (
                json!({"containers": container, "securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}}),
                None,
            ),
        ];
        for (spec, expected) in cases {
            let verdict = admit(&pod(spec.clone()), &node);
            assert_eq!(verdict.map(|v| v.reason).as_deref(), expected, "{spec}");
        }
    }
}
