//! Usage of containers and sandboxes, as CRI reports it.

use std::collections::HashMap;

use amphipod_cri::v1::{
    ContainerAttributes, ContainerStats, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    LinuxPodSandboxStats, MemoryUsage, NamespaceMode, NetworkInterfaceUsage, NetworkUsage,
    PodSandboxAttributes, PodSandboxStats, ProcessUsage, SwapUsage, UInt64Value,
};
use parking_lot::Mutex;

use crate::{
    cgroup::{Cgroup, Usage},
    container::{record::Container, rootfs},
    sandbox::{
        namespaces::{self, NETWORK},
        record::Sandbox,
    },
    shim::now_nanos,
    state::Runtime,
};

/// Samples kept; older entries of containers long gone are dropped beyond this.
const MAX_SAMPLES: usize = 10_000;

/// Last seen CPU time per container or sandbox, to derive a rate.
#[derive(Debug, Default)]
pub struct CpuSamples(Mutex<HashMap<String, (i64, u64)>>);

impl CpuSamples {
    /// Core-nanoseconds per second since the last call for `id`.
    fn rate(&self, id: &str, now_nanos: i64, cpu_nanos: u64) -> Option<u64> {
        let mut samples = self.0.lock();
        if samples.len() > MAX_SAMPLES {
            samples.clear();
        }
        let (then, before) = samples.insert(id.to_string(), (now_nanos, cpu_nanos))?;
        let elapsed = u64::try_from(now_nanos - then).ok().filter(|elapsed| *elapsed > 0)?;
        let used = u128::from(cpu_nanos.saturating_sub(before)) * 1_000_000_000;
        u64::try_from(used / u128::from(elapsed)).ok()
    }
}

fn wrap(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(runtime: &Runtime, id: &str, now: i64, usage: &Usage) -> CpuUsage {
    CpuUsage {
        timestamp: now,
        usage_core_nano_seconds: wrap(usage.cpu_nanos),
        usage_nano_cores: runtime.samples.rate(id, now, usage.cpu_nanos).and_then(wrap),
        psi: None,
    }
}

fn memory(now: i64, usage: &Usage) -> MemoryUsage {
    let available = usage.memory_limit_bytes.map(|limit| limit.saturating_sub(usage.working_set_bytes));
    MemoryUsage {
        timestamp: now,
        working_set_bytes: wrap(usage.working_set_bytes),
        available_bytes: available.and_then(wrap),
        usage_bytes: wrap(usage.memory_bytes),
        rss_bytes: wrap(usage.rss_bytes),
        page_faults: wrap(usage.page_faults),
        major_page_faults: wrap(usage.major_page_faults),
        psi: None,
    }
}

impl Runtime {
    /// Usage of one container. Blocking.
    pub fn container_stats(&self, container: &Container) -> ContainerStats {
        let now = now_nanos();
        let usage = Cgroup::find(&container.record().cgroup_path).usage();
        let (bytes, inodes) = rootfs::disk_usage(&rootfs::upper(&container.directory));
        let layers = self.images.usage().1;
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id.clone(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            }),
            cpu: Some(cpu(self, &container.id, now, &usage)),
            memory: Some(memory(now, &usage)),
            writable_layer: Some(FilesystemUsage {
                timestamp: now,
                fs_id: Some(FilesystemIdentifier { mountpoint: layers.display().to_string() }),
                used_bytes: wrap(bytes),
                inodes_used: wrap(inodes),
            }),
            swap: Some(SwapUsage {
                timestamp: now,
                swap_available_bytes: None,
                swap_usage_bytes: wrap(usage.swap_bytes),
            }),
            io: None,
        }
    }

    /// Usage of one sandbox and its running containers. Blocking.
    pub fn sandbox_stats(&self, sandbox: &Sandbox) -> PodSandboxStats {
        let now = now_nanos();
        let usage = Cgroup::find(&sandbox.cgroup_parent()).usage();
        let running = self.containers_of(&sandbox.id);
        let running = running
            .iter()
            .filter(|container| container.cri_state() == amphipod_cri::v1::ContainerState::ContainerRunning);
        let containers = running.map(|container| self.container_stats(container)).collect();
        PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: Some(cpu(self, &sandbox.id, now, &usage)),
                memory: Some(memory(now, &usage)),
                network: network(sandbox, now),
                process: Some(ProcessUsage { timestamp: now, process_count: wrap(usage.processes) }),
                containers,
                io: None,
            }),
        }
    }
}

fn network(sandbox: &Sandbox, now: i64) -> Option<NetworkUsage> {
    if sandbox.network_mode() == NamespaceMode::Node || !sandbox.state().ready {
        return None;
    }
    let counters = namespaces::interface_counters(sandbox.namespaces.join(NETWORK)).ok()?;
    let mut interfaces: Vec<NetworkInterfaceUsage> = counters
        .into_iter()
        .map(|one| NetworkInterfaceUsage {
            name: one.name,
            rx_bytes: wrap(one.rx_bytes),
            rx_errors: wrap(one.rx_errors),
            tx_bytes: wrap(one.tx_bytes),
            tx_errors: wrap(one.tx_errors),
        })
        .collect();
    let default_interface = if interfaces.is_empty() { None } else { Some(interfaces.remove(0)) };
    Some(NetworkUsage { timestamp: now, default_interface, interfaces })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_two_samples() {
        let samples = CpuSamples::default();
        assert_eq!(samples.rate("a", 1_000_000_000, 5), None);
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_000_005), Some(500_000_000));
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_000_005), None);
    }
}
