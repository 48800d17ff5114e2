//! The sandbox a pod runs in, as the runtime is asked for it.

use std::path::Path;

use amphipod_client::Resource;
use amphipod_cri::v1::{
    DnsConfig, LinuxContainerResources, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata,
    PortMapping, Protocol,
};
use k8s_openapi::api::core::v1::Pod;

use super::{labels, security};
use crate::pod::resources::{PodCgroup, pod_cgroup};
use crate::pod::spec;

pub struct SandboxView<'a> {
    pub pod: &'a Pod,
    pub attempt: u32,
    pub hostname: String,
    pub dns: DnsConfig,
    pub log_directory: &'a Path,
    /// Empty: the runtime chooses.
    pub cgroup_parent: String,
}

pub fn sandbox_config(view: SandboxView) -> PodSandboxConfig {
    let pod = view.pod;
    let sysctls = spec(pod).security_context.as_ref().and_then(|c| c.sysctls.clone()).unwrap_or_default();
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt: view.attempt,
        }),
        hostname: view.hostname,
        log_directory: view.log_directory.display().to_string(),
        dns_config: Some(view.dns),
        port_mappings: port_mappings(pod),
        labels: labels::pod_labels(pod),
        annotations: labels::pod_annotations(pod),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: view.cgroup_parent,
            security_context: Some(security::sandbox_context(pod)),
            sysctls: sysctls.into_iter().map(|s| (s.name.replace('/', "."), s.value)).collect(),
            overhead: None,
            resources: Some(resources(&pod_cgroup(pod))),
        }),
    }
}

fn resources(cgroup: &PodCgroup) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_shares: cgroup.cpu_shares,
        cpu_quota: cgroup.cpu_quota.unwrap_or(0),
        cpu_period: if cgroup.cpu_quota.is_some() { cgroup.cpu_period } else { 0 },
        memory_limit_in_bytes: cgroup.memory_limit.unwrap_or(0),
        ..LinuxContainerResources::default()
    }
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let spec = spec(pod);
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let mapped = all.map(|port| PortMapping {
        protocol: match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        } as i32,
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    });
    mapped.collect()
}
