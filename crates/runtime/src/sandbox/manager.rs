//! Running, stopping and removing pod sandboxes.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use amphipod_cri::v1::{
    ContainerEventType, NamespaceMode, PodSandboxConfig, PortMapping, Protocol, RunPodSandboxRequest,
};
use serde_json::{Value, json};

use super::{
    cni::Attachment,
    files::{self, SHM},
    namespaces::{self, NETWORK, PID, Wanted},
    record::{Sandbox, SandboxState},
};
use crate::{
    cgroup::Cgroup,
    error::Error,
    mounts,
    shim::{now_nanos, pause},
    state::{Runtime, new_id},
};

/// Shared memory of a pod; what other runtimes give.
const SHM_BYTES: u64 = 64 << 20;
/// Time the processes of a dying sandbox get to leave their cgroup.
const CGROUP_TIMEOUT: Duration = Duration::from_secs(2);
const CGROUP_RETRY: Duration = Duration::from_millis(20);

impl Runtime {
    /// Creates a sandbox and brings it to ready. What was made is unmade on failure.
    pub async fn run_sandbox(self: &Arc<Self>, request: RunPodSandboxRequest) -> Result<String, Error> {
        let config =
            request.config.ok_or_else(|| Error::InvalidArgument("sandbox config is missing".into()))?;
        if config.metadata.is_none() {
            return Err(Error::InvalidArgument("sandbox config must include metadata".into()));
        }
        if !request.runtime_handler.is_empty() {
            return Err(Error::InvalidArgument(format!(
                "no runtime for {:?} is configured",
                request.runtime_handler
            )));
        }
        let id = new_id();
        let state = SandboxState { created_at_nanos: now_nanos(), ..SandboxState::default() };
        let sandbox =
            Sandbox::new(id.clone(), self.paths.sandbox(&id), self.paths.namespaces(&id), config, state);
        refuse_user_namespaces(&sandbox.config)?;
        let sandbox = Arc::new(sandbox);
        if let Err(error) = self.set_up(&sandbox).await {
            self.tear_down(&sandbox).await;
            drop(std::fs::remove_dir_all(&sandbox.directory));
            return Err(error);
        }
        let sandbox = Arc::into_inner(sandbox)
            .ok_or_else(|| Error::Internal("a new sandbox is shared already".into()))?;
        sandbox.update(|state| state.ready = true)?;
        self.insert_sandbox(sandbox);
        self.announce(ContainerEventType::ContainerCreatedEvent, &id, &id);
        self.announce(ContainerEventType::ContainerStartedEvent, &id, &id);
        Ok(id)
    }

    async fn set_up(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        std::fs::create_dir_all(&sandbox.directory).map_err(Error::io("create", &sandbox.directory))?;
        sandbox.save()?;
        let worker = Arc::clone(sandbox);
        let executable = self.executable.clone();
        tokio::task::spawn_blocking(move || set_up_node(&worker, &executable))
            .await
            .map_err(|error| Error::Internal(error.to_string()))??;
        if sandbox.network_mode() != NamespaceMode::Node {
            let (result, addresses) = self.cni.add(&attachment(sandbox)).await?;
            sandbox.update(|state| {
                state.ips = addresses.ips;
                state.cni_result = Some(result);
            })?;
        }
        Ok(())
    }

    /// Stops everything in the sandbox and takes it off the network. Idempotent.
    pub async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let sandbox = match self.sandbox(id) {
            Ok(sandbox) => sandbox,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let _one_at_a_time = sandbox.gate.lock().await;
        for container in self.containers_of(&sandbox.id) {
            self.stop_container(&container.id, Duration::ZERO).await?;
        }
        let was_ready = sandbox.state().ready;
        if let Some(error) = self.tear_down(&sandbox).await {
            return Err(error);
        }
        sandbox.update(|state| state.ready = false)?;
        if was_ready {
            self.announce(ContainerEventType::ContainerStoppedEvent, &sandbox.id, &sandbox.id);
        }
        Ok(())
    }

    /// Takes the sandbox apart as far as possible; returns what would leak an address if ignored.
    async fn tear_down(&self, sandbox: &Sandbox) -> Option<Error> {
        let mut failure = None;
        if sandbox.network_mode() != NamespaceMode::Node {
            let previous = sandbox.state().cni_result;
            let pinned = namespaces::is_pinned(&sandbox.namespaces.join(NETWORK));
            if previous.is_some() || pinned {
                let mut attachment = attachment(sandbox);
                if !pinned {
                    attachment.namespace.clear();
                }
                match self.cni.delete(&attachment, previous.as_ref()).await {
                    Ok(()) => drop(sandbox.update(|state| state.cni_result = None)),
                    Err(error) => failure = Some(error),
                }
            }
        }
        if let Some(pid) = sandbox.state().pause_pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            drop(sandbox.update(|state| state.pause_pid = None));
        }
        if failure.is_none() {
            namespaces::release(&sandbox.namespaces);
            mounts::detach(&sandbox.file(SHM));
        }
        failure
    }

    /// Removes the sandbox and its containers. Idempotent.
    pub async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let sandbox = match self.sandbox(id) {
            Ok(sandbox) => sandbox,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.stop_sandbox(&sandbox.id).await?;
        let _one_at_a_time = sandbox.gate.lock().await;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        remove_cgroup(&sandbox.cgroup_parent()).await;
        std::fs::remove_dir_all(&sandbox.directory)
            .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .map_err(Error::io("remove", &sandbox.directory))?;
        self.announce(ContainerEventType::ContainerDeletedEvent, &sandbox.id, &sandbox.id);
        self.forget_sandbox(&sandbox.id);
        Ok(())
    }
}

/// Removes an empty cgroup; a parent that still has pods in it stays.
async fn remove_cgroup(path: &str) {
    let cgroup = Cgroup::find(path);
    let deadline = tokio::time::Instant::now() + CGROUP_TIMEOUT;
    while let Err(error) = cgroup.remove() {
        if tokio::time::Instant::now() >= deadline {
            tracing::debug!(path, %error, "the pod's cgroup stays");
            return;
        }
        tokio::time::sleep(CGROUP_RETRY).await;
    }
}

fn refuse_user_namespaces(config: &PodSandboxConfig) -> Result<(), Error> {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.as_ref());
    match options.and_then(|options| options.userns_options.as_ref()) {
        Some(user) if user.mode() == NamespaceMode::Pod => {
            Err(Error::InvalidArgument("user namespaces are not supported".into()))
        }
        _ => Ok(()),
    }
}

/// The part that needs system calls: namespaces, pause process, files, shared memory. Blocking.
fn set_up_node(sandbox: &Sandbox, executable: &Path) -> Result<(), Error> {
    let wanted = Wanted {
        network: sandbox.network_mode() != NamespaceMode::Node,
        ipc: sandbox.ipc_mode() != NamespaceMode::Node,
        uts: sandbox.network_mode() != NamespaceMode::Node,
    };
    let hostname = hostname(sandbox);
    let sysctls = sandbox.config.linux.as_ref().map(|linux| linux.sysctls.clone()).unwrap_or_default();
    let sysctls: BTreeMap<String, String> = sysctls.into_iter().collect();
    namespaces::create(&sandbox.namespaces, wanted, &hostname, &sysctls)
        .map_err(Error::io("create namespaces in", &sandbox.namespaces))?;
    if sandbox.pid_mode() == NamespaceMode::Pod {
        start_pause(sandbox, executable)?;
    }
    files::write(&sandbox.directory, &hostname, sandbox.config.dns_config.as_ref())?;
    if wanted.ipc {
        let shm = sandbox.file(SHM);
        std::fs::create_dir_all(&shm).map_err(Error::io("create", &shm))?;
        mounts::mount_tmpfs(&shm, SHM_BYTES)?;
    }
    Ok(())
}

fn start_pause(sandbox: &Sandbox, executable: &Path) -> Result<(), Error> {
    let root = sandbox.file("pause");
    std::fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
    let pid = pause::spawn(executable, &root).map_err(Error::io("start pause process in", &root))?;
    sandbox.update(|state| state.pause_pid = Some(pid))?;
    let pin = sandbox.namespaces.join(PID);
    namespaces::pin(Path::new(&format!("/proc/{pid}/ns/pid")), &pin).map_err(Error::io("pin", pin))
}

/// The pod's host name; the node's for pods on the node's network.
pub fn hostname(sandbox: &Sandbox) -> String {
    if sandbox.network_mode() == NamespaceMode::Node || sandbox.config.hostname.is_empty() {
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if sandbox.config.hostname.is_empty() { node } else { sandbox.config.hostname.clone() }
    } else {
        sandbox.config.hostname.clone()
    }
}

fn attachment(sandbox: &Sandbox) -> Attachment {
    let metadata = sandbox.metadata();
    let mut capabilities = BTreeMap::new();
    let mappings = port_mappings(&sandbox.config.port_mappings);
    if !mappings.is_empty() {
        capabilities.insert("portMappings".to_string(), Value::Array(mappings));
    }
    Attachment {
        sandbox_id: sandbox.id.clone(),
        namespace: sandbox.namespaces.join(NETWORK).display().to_string(),
        pod_namespace: metadata.namespace,
        pod_name: metadata.name,
        pod_uid: metadata.uid,
        capabilities,
    }
}

fn port_mappings(mappings: &[PortMapping]) -> Vec<Value> {
    let published = mappings.iter().filter(|mapping| mapping.host_port > 0);
    let protocol = |mapping: &PortMapping| match mapping.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    published
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port, "containerPort": mapping.container_port,
                "protocol": protocol(mapping), "hostIP": mapping.host_ip,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_on_the_host_are_published() {
        let mapping = |host_port: i32, protocol: Protocol| PortMapping {
            protocol: protocol.into(),
            container_port: 8080,
            host_port,
            host_ip: String::new(),
        };
        let found = port_mappings(&[mapping(0, Protocol::Tcp), mapping(80, Protocol::Udp)]);
        assert_eq!(found, [json!({"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": ""})]);
    }
}
