//! What every part of the kubelet's shell needs at hand.

use std::sync::Arc;

use amphipod_client::events::reference;
use amphipod_client::{Client, EventRecorder, Informer, Resource};
use k8s_openapi::api::core::v1::{Node, Pod, Service};

use crate::Config;
use crate::cgroups::Cgroups;
use crate::node::machine::Machine;
use crate::objects::Objects;
use crate::pod::{ContainerSpec, is_host_network};
use crate::runtime::Runtime;
use crate::runtime::images::Images;
use crate::runtime::pleg::Health;
use crate::server::metrics::Metrics;
use crate::volumes::tokens::Tokens;

pub struct Context {
    pub config: Config,
    pub client: Client,
    pub recorder: EventRecorder,
    pub runtime: Runtime,
    pub runtime_health: Arc<Health>,
    pub images: Images,
    pub objects: Objects,
    pub tokens: Tokens,
    pub cgroups: Cgroups,
    pub services: Informer<Service>,
    pub node: Informer<Node>,
    pub machine: Machine,
    pub metrics: Metrics,
}

impl Context {
    pub fn event(&self, pod: &Pod, kind: &str, reason: &str, message: impl Into<String>) {
        self.recorder.record(reference(pod), kind, reason, message.into());
    }

    pub fn container_event(
        &self,
        pod: &Pod,
        container: &ContainerSpec,
        kind: &str,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut about = reference(pod);
        about.field_path = Some(container.field_path());
        self.recorder.record(about, kind, reason, message.into());
    }

    pub fn host_ips(&self) -> Vec<String> {
        vec![self.config.node_ip.to_string()]
    }

    /// Services whose variables a pod's containers get, and the API server's.
    pub fn services_for(&self, pod: &Pod) -> Vec<Arc<Service>> {
        let mut services = self.services.list_namespace(pod.namespace());
        if pod.namespace() != "default" {
            services.extend(self.services.get("default/kubernetes"));
        }
        services
    }

    /// Where a pod is reached from this node.
    pub fn pod_ip(&self, pod: &Pod, ips: &[String]) -> String {
        let own = self.host_ips();
        let ips = if is_host_network(pod) { &own } else { ips };
        ips.first().cloned().unwrap_or_default()
    }
}
