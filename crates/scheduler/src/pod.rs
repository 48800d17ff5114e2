//! What the scheduler needs of a pod, worked out once when the pod is seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodStatus};

use crate::resources::{CPU, MEMORY, Resources};

/// What a container without requests is taken to use, for scoring only (upstream's figures).
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub address: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// The wildcard address clashes with every address.
    pub fn clashes(&self, other: &HostPort) -> bool {
        let any = |address: &str| address == "0.0.0.0" || address == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || any(&self.address) || any(&other.address))
    }
}

#[derive(Clone, Debug)]
pub struct PodState {
    pub pod: Arc<CachedPod>,
    pub key: String,
    pub requests: Resources,
    /// `requests` with the defaults for scoring.
    pub scored: Resources,
    pub host_ports: Vec<HostPort>,
    /// The controlling owner's uid: pods of one owner are spread.
    pub owner: Option<String>,
}

impl PodState {
    pub fn new(pod: Arc<CachedPod>) -> Self {
        let (requests, scored) = amounts(&pod);
        let owners = pod.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone());
        PodState { key: pod.key(), requests, scored, host_ports: host_ports(&pod), owner, pod }
    }
    pub fn node_name(&self) -> Option<&str> {
        self.pod.node_name.as_deref().filter(|name| !name.is_empty())
    }
    pub fn namespace(&self) -> &str {
        self.pod.namespace()
    }
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.metadata.labels.as_ref()
    }
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }
    /// `preemptionPolicy: Never`: the pod waits its turn, whatever its priority.
    pub fn never_preempts(&self) -> bool {
        self.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never")
    }
    pub fn has_claims(&self) -> bool {
        self.pod.spec.as_ref().and_then(|s| s.resource_claims.as_ref()).is_some_and(|c| !c.is_empty())
    }
    pub fn is_finished(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
    pub fn is_gated(&self) -> bool {
        self.pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
    }
}

/// Sum of the containers and sidecars, or the largest moment while starting, plus overhead.
fn amounts(pod: &CachedPod) -> (Resources, Resources) {
    let Some(spec) = &pod.spec else { return Default::default() };
    let mut totals = [Resources::default(), Resources::default()];
    for (index, total) in totals.iter_mut().enumerate() {
        let of = |container: &Container| container_amounts(pod, container, index == 1);
        for container in &spec.containers {
            total.add(&of(container));
        }
        let mut sidecars = Resources::default();
        let mut starting = Resources::default();
        for container in spec.init_containers.iter().flatten() {
            let mut moment = sidecars.clone();
            moment.add(&of(container));
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&of(container));
            }
            starting.raise_to(&moment);
        }
        total.add(&sidecars);
        total.raise_to(&starting);
        if let Some(pod_level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
            for (name, amount) in Resources::from_wire(Some(pod_level)).iter() {
                total.set(name, amount);
            }
        }
        total.add(&Resources::from_wire(spec.overhead.as_ref()));
    }
    let [requests, scored] = totals;
    (requests, scored)
}

fn container_amounts(pod: &CachedPod, container: &Container, with_defaults: bool) -> Resources {
    let mut amounts = Resources::from_wire(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if let Some(status) = pod.status.as_ref().and_then(|s| container_status(s, &container.name)) {
        // While a resize is under way the larger of what is wanted and what is had counts. What the
        // node will never give does not.
        if is_infeasible(pod) {
            amounts = Resources::default();
        }
        let had = status.resources.as_ref().and_then(|r| r.requests.as_ref());
        amounts.raise_to(&Resources::from_wire(had));
        amounts.raise_to(&Resources::from_wire(status.allocated_resources.as_ref()));
    }
    if with_defaults {
        for (name, default) in [(CPU, DEFAULT_CPU_MILLI), (MEMORY, DEFAULT_MEMORY_BYTES)] {
            if amounts.get(name) == 0 {
                amounts.set(name, default);
            }
        }
    }
    amounts
}

/// Of a container that can be resized: an app or a sidecar. Others say nothing of it.
fn container_status<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|c| c.name == name)?;
    (found.resources.is_some() || found.allocated_resources.is_some()).then_some(found)
}

fn is_infeasible(pod: &CachedPod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"))
}

fn host_ports(pod: &CachedPod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|p| *p > 0)?;
            let address = port.host_ip.clone().filter(|ip| !ip.is_empty());
            Some(HostPort {
                address: address.unwrap_or_else(|| "0.0.0.0".to_owned()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    pub(crate) fn pod(name: &str, spec: serde_json::Value) -> PodState {
        let object =
            json!({"metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"}}, "spec": spec});
        PodState::new(Arc::new(serde_json::from_value::<Pod>(object).unwrap().into()))
    }

    #[test]
    fn init_containers_sidecars_and_overhead_count() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        let state = pod(
            "a",
            json!({
                "containers": [{"name": "a", "resources": cpu("200m")}, {"name": "b"}],
                "initContainers": [
                    {"name": "side", "restartPolicy": "Always", "resources": cpu("50m")},
                    {"name": "init", "resources": cpu("1")},
                ],
                "overhead": {"cpu": "10m"},
            }),
        );
        // While starting: sidecar 50 + init 1000; running: 200 + 50.
        assert_eq!(state.requests.get(CPU), 1060);
        assert_eq!(state.scored.get(CPU), 1060);
        assert_eq!(state.requests.get(MEMORY), 0);
    }

    #[test]
    fn a_pod_being_resized_counts_with_the_larger_amount() {
        let cases = [
            ("grows", "300m", "200m", json!([]), 300),
            ("shrinks", "100m", "200m", json!([]), 200),
            (
                "never fits",
                "300m",
                "200m",
                json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]),
                200,
            ),
        ];
        for (name, wanted, had, conditions, expected) in cases {
            let container = json!({"name": "a", "resources": {"requests": {"cpu": wanted}}});
            let status = json!({"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "resources": {"requests": {"cpu": had}}, "allocatedResources": {"cpu": had}});
            let object = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]},
                "status": {"containerStatuses": [status], "conditions": conditions}});
            let state = PodState::new(Arc::new(serde_json::from_value::<Pod>(object).unwrap().into()));
            assert_eq!(state.requests.get(CPU), expected, "{name}");
        }
    }

    #[test]
    fn the_wildcard_address_clashes_with_all() {
        let port = |address: &str, port| HostPort { address: address.into(), protocol: "TCP".into(), port };
        assert!(port("0.0.0.0", 80).clashes(&port("10.0.0.1", 80)));
        assert!(!port("10.0.0.2", 80).clashes(&port("10.0.0.1", 80)));
        assert!(!port("0.0.0.0", 80).clashes(&port("0.0.0.0", 81)));
    }
}
