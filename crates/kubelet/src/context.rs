//! What every part of the kubelet's shell needs at hand.

use std::sync::Arc;

use amphipod_client::events::reference;
use amphipod_client::{Client, EventRecorder, Informer, Resource};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};

use crate::Config;
use crate::cgroups::Cgroups;
use crate::events::Notice;
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
    pub fn event(&self, pod: &Pod, notice: Notice) {
        self.record(reference(pod), notice);
    }

    pub fn container_event(&self, pod: &Pod, container: &ContainerSpec, notice: Notice) {
        let mut about = reference(pod);
        about.field_path = Some(container.field_path());
        self.record(about, notice);
    }

    /// About the node itself. It has no other uid than its name there: what a kubelet tells before
    /// it has seen its node object, and after, belongs together.
    pub fn node_event(&self, notice: Notice) {
        let name = &self.config.node_name;
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.clone()),
            uid: Some(name.clone()),
            ..ObjectReference::default()
        };
        self.record(about, notice);
    }

    fn record(&self, about: ObjectReference, notice: Notice) {
        self.recorder.record(about, notice.kind, &notice.reason, notice.message);
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
