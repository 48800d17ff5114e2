//! The node's status: conditions in upstream's words, capacity, addresses, images.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::machine::{Machine, texts};

/// Images told about, the largest first (upstream's default).
const MAX_IMAGES: usize = 50;
const MAX_NAMES_PER_IMAGE: usize = 5;

/// What was found out just now.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
    /// What keeps the node from being ready; empty when nothing does.
    pub not_ready: Vec<String>,
    pub images: Vec<ContainerImage>,
    pub addresses: Vec<(String, String)>,
    pub kubelet_port: Option<i32>,
    pub runtime_handlers: Vec<NodeRuntimeHandler>,
}

/// The status to write over `old`: what others put there (extended resources, conditions) stays.
pub fn node_status(old: &NodeStatus, machine: &Machine, observed: &Observed, now: Timestamp) -> NodeStatus {
    let mut status = old.clone();
    let own = texts(&machine.capacity);
    let foreign: BTreeMap<String, Text> = old
        .capacity
        .iter()
        .flatten()
        .filter(|(name, _)| !own.contains_key(*name) && !name.starts_with("hugepages-"))
        .map(|(name, amount)| (name.clone(), amount.clone()))
        .collect();
    let with_foreign = |mut map: BTreeMap<String, Text>| {
        map.extend(foreign.clone());
        Some(map)
    };
    status.capacity = with_foreign(own);
    status.allocatable = with_foreign(texts(&machine.allocatable));
    status.node_info = Some(machine.info.clone());
    status.conditions = Some(conditions(old.conditions.as_deref().unwrap_or_default(), observed, now));
    let address =
        |(kind, address): &(String, String)| NodeAddress { type_: kind.clone(), address: address.clone() };
    status.addresses = Some(observed.addresses.iter().map(address).collect());
    status.daemon_endpoints = observed
        .kubelet_port
        .map(|port| NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) });
    status.images = Some(observed.images.clone());
    status.runtime_handlers = Some(observed.runtime_handlers.clone()).filter(|h| !h.is_empty());
    status.features = Some(NodeFeatures { supplemental_groups_policy: Some(true) });
    status
}

fn conditions(old: &[NodeCondition], observed: &Observed, now: Timestamp) -> Vec<NodeCondition> {
    let pressure =
        |kind, present: bool, good: (&'static str, &'static str), bad: (&'static str, &'static str)| {
            let (reason, message) = if present { bad } else { good };
            (kind, present, reason, message.to_owned())
        };
    let ready = observed.not_ready.is_empty();
    let all = [
        pressure(
            "MemoryPressure",
            observed.memory_pressure,
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            observed.disk_pressure,
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ),
        pressure(
            "PIDPressure",
            observed.pid_pressure,
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ),
        if ready {
            ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned())
        } else {
            ("Ready", false, "KubeletNotReady", format!("[{}]", observed.not_ready.join(", ")))
        },
    ];
    let mut conditions: Vec<NodeCondition> =
        old.iter().filter(|c| !all.iter().any(|(kind, ..)| *kind == c.type_)).cloned().collect();
    for (kind, present, reason, message) in all {
        let status = if present { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == kind && c.status == status);
        let since = before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
        conditions.push(NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(if message.starts_with('[') && !message.contains(", ") {
                message.trim_matches(['[', ']']).to_owned()
            } else {
                message
            }),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(since),
        });
    }
    conditions
}

/// Images as the node tells them.
pub fn images(mut all: Vec<amphipod_cri::v1::Image>) -> Vec<ContainerImage> {
    all.sort_by_key(|i| std::cmp::Reverse(i.size));
    let told = all.into_iter().take(MAX_IMAGES).map(|image| {
        let names = image.repo_digests.into_iter().chain(image.repo_tags).take(MAX_NAMES_PER_IMAGE).collect();
        ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
    });
    told.collect()
}

/// Whether a write can be put off: nothing changed but the heartbeat times.
pub fn same_but_heartbeat(a: &NodeStatus, b: &NodeStatus) -> bool {
    let quiet = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    quiet(a) == quiet(b)
}

/// Labels a node registers with, besides those configured.
pub fn default_labels(name: &str) -> BTreeMap<String, String> {
    let arch = super::machine::architecture();
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// True when labels the kubelet keeps had to be put (back) on the node.
pub fn keep_labels(node: &mut Node, wanted: &BTreeMap<String, String>) -> bool {
    let labels = node.metadata.labels.get_or_insert_default();
    let mut changed = false;
    for (key, value) in wanted {
        changed |= labels.insert(key.clone(), value.clone()).as_ref() != Some(value);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::NodeSystemInfo;

    fn machine() -> Machine {
        let amount = |text: &str| amphipod_api::quantity::Quantity::parse(text).unwrap();
        let capacity = [("cpu".to_owned(), amount("2"))].into();
        let allocatable = [("cpu".to_owned(), amount("1"))].into();
        Machine { memory_bytes: 0, capacity, allocatable, info: NodeSystemInfo::default() }
    }

    #[test]
    fn foreign_resources_and_conditions_stay() {
        let custom = NodeCondition { type_: "Custom".into(), status: "True".into(), ..Default::default() };
        let capacity = [("example.com/gpu", "3"), ("cpu", "9")].map(|(k, v)| (k.to_owned(), Text(v.into())));
        let old = NodeStatus {
            capacity: Some(capacity.into()),
            conditions: Some(vec![custom]),
            ..NodeStatus::default()
        };
        let status = node_status(&old, &machine(), &Observed::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(status.allocatable.as_ref().unwrap()["example.com/gpu"].0, "3");
        assert_eq!(status.capacity.as_ref().unwrap()["cpu"].0, "2");
        let kinds: Vec<&str> = status.conditions.as_ref().unwrap().iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(kinds, ["Custom", "MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
        let later = Timestamp::from_second(100).unwrap();
        let again = node_status(&status, &machine(), &Observed::default(), later);
        assert!(same_but_heartbeat(&status, &again) && status != again);
        let bad = Observed { not_ready: vec!["container runtime is down".into()], ..Observed::default() };
        let bad = node_status(&again, &machine(), &bad, later);
        let ready = bad.conditions.unwrap().pop().unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.message.as_deref()),
            ("False", Some("container runtime is down"))
        );
        assert_eq!(ready.last_transition_time, Some(Time(later)));
    }
}
