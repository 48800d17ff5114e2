//! Pods as they come, but for what caches leave out: that is skipped where it stands. Building it would
//! cost as much as all that is kept, and every pod comes several times.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, Pod, PodOS,
    PodReadinessGate, PodResourceClaim, PodSchedulingGate, PodSpec, PodStatus, ResourceRequirements,
    Toleration, TopologySpreadConstraint, Volume, WorkloadReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, OwnerReference, Time};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

#[derive(Deserialize)]
pub(super) struct IncomingPods<'a> {
    #[serde(default)]
    pub metadata: ListMeta,
    #[serde(borrow)]
    pub items: Vec<IncomingPod<'a>>,
}

#[derive(Deserialize)]
pub(super) struct IncomingPod<'a> {
    #[serde(default)]
    metadata: Metadata,
    #[serde(borrow)]
    spec: Option<Spec<'a>>,
    status: Option<PodStatus>,
}

impl IncomingPod<'_> {
    /// The pod, with nothing where something was skipped.
    pub fn read(self) -> serde_json::Result<Pod> {
        let spec = self.spec.map(Spec::read).transpose()?;
        Ok(Pod { metadata: self.metadata.known(), spec, status: self.status })
    }
}

/// Some fields of a type, and some that are read otherwise.
macro_rules! part {
    ($part:ident $(<$text:lifetime>)? of $whole:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)+ }
     $(and { $($(#[$other_attribute:meta])* $other:ident: $other_type:ty,)+ })?) => {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct $part $(<$text>)? {
            $($(#[$attribute])* $field: $type,)+
            $($($(#[$other_attribute])* $other: $other_type,)+)?
        }

        impl $(<$text>)? $part $(<$text>)? {
            fn known(self) -> $whole {
                $whole { $($field: self.$field,)+ ..$whole::default() }
            }
        }
    };
}

part!(Metadata of ObjectMeta {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    self_link: Option<String>,
    uid: Option<String>,
});

part!(PlainContainer of Container {
    image: Option<String>,
    image_pull_policy: Option<String>,
    name: String,
    ports: Option<Vec<ContainerPort>>,
    resize_policy: Option<Vec<ContainerResizePolicy>>,
    resources: Option<ResourceRequirements>,
    restart_policy: Option<String>,
    restart_policy_rules: Option<Vec<ContainerRestartRule>>,
    stdin: Option<bool>,
    stdin_once: Option<bool>,
    termination_message_path: Option<String>,
    termination_message_policy: Option<String>,
    tty: Option<bool>,
    working_dir: Option<String>,
});

part!(Spec<'a> of PodSpec {
    active_deadline_seconds: Option<i64>,
    affinity: Option<Affinity>,
    automount_service_account_token: Option<bool>,
    dns_policy: Option<String>,
    enable_service_links: Option<bool>,
    #[serde(rename = "hostIPC")]
    host_ipc: Option<bool>,
    host_network: Option<bool>,
    #[serde(rename = "hostPID")]
    host_pid: Option<bool>,
    host_users: Option<bool>,
    hostname: Option<String>,
    hostname_override: Option<String>,
    node_name: Option<String>,
    node_selector: Option<BTreeMap<String, String>>,
    os: Option<PodOS>,
    overhead: Option<BTreeMap<String, Quantity>>,
    preemption_policy: Option<String>,
    priority: Option<i32>,
    priority_class_name: Option<String>,
    readiness_gates: Option<Vec<PodReadinessGate>>,
    resource_claims: Option<Vec<PodResourceClaim>>,
    resources: Option<ResourceRequirements>,
    restart_policy: Option<String>,
    runtime_class_name: Option<String>,
    scheduler_name: Option<String>,
    scheduling_gates: Option<Vec<PodSchedulingGate>>,
    service_account: Option<String>,
    service_account_name: Option<String>,
    #[serde(rename = "setHostnameAsFQDN")]
    set_hostname_as_fqdn: Option<bool>,
    share_process_namespace: Option<bool>,
    subdomain: Option<String>,
    termination_grace_period_seconds: Option<i64>,
    tolerations: Option<Vec<Toleration>>,
    topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    workload_ref: Option<WorkloadReference>,
} and {
    containers: Vec<PlainContainer>,
    init_containers: Option<Vec<PlainContainer>>,
    #[serde(borrow)]
    volumes: Option<Vec<&'a RawValue>>,
});

impl Spec<'_> {
    fn read(mut self) -> serde_json::Result<PodSpec> {
        let containers = std::mem::take(&mut self.containers);
        let (init_containers, volumes) = (self.init_containers.take(), self.volumes.take());
        let plain = |containers: Vec<_>| containers.into_iter().map(PlainContainer::known).collect();
        let volumes = volumes.map(|volumes| volumes.into_iter().filter_map(storage).collect());
        Ok(PodSpec {
            containers: plain(containers),
            init_containers: init_containers.map(plain),
            volumes: volumes.transpose()?,
            ..self.known()
        })
    }
}

/// A volume that binds the pod to storage, and so to nodes; the others are made where the pod runs.
fn storage(text: &RawValue) -> Option<serde_json::Result<Volume>> {
    let is_made_there = serde_json::from_str::<Source>(text.get()).is_ok_and(|source| source.is_made_there());
    (!is_made_there).then(|| serde_json::from_str(text.get()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    config_map: Option<IgnoredAny>,
    #[serde(rename = "downwardAPI")]
    downward_api: Option<IgnoredAny>,
    empty_dir: Option<IgnoredAny>,
    host_path: Option<IgnoredAny>,
    image: Option<IgnoredAny>,
    projected: Option<IgnoredAny>,
    secret: Option<IgnoredAny>,
}

impl Source {
    fn is_made_there(&self) -> bool {
        let Source { config_map, downward_api, empty_dir, host_path, image, projected, secret } = self;
        let made_there = [config_map, downward_api, empty_dir, host_path, image, projected, secret];
        made_there.into_iter().any(Option::is_some)
    }
}
