//! What is remembered of a sandbox, in memory and on disk.

use std::path::{Path, PathBuf};

use amphipod_cri::v1::{
    LinuxPodSandboxStatus, Namespace, NamespaceMode, NamespaceOption, PodIp, PodSandbox, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};
use parking_lot::Mutex;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::namespaces::{IPC, NETWORK, PID, UTS, is_pinned};
use crate::{
    error::Error,
    shim::{read_json, write_atomically, write_json},
};

const CONFIG_FILE: &str = "config.pb";
const STATE_FILE: &str = "state.json";

/// The changing part.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SandboxState {
    pub created_at_nanos: i64,
    pub ready: bool,
    /// First the one Kubernetes shows.
    #[serde(default)]
    pub ips: Vec<String>,
    /// The CNI chain's result; present while the sandbox is on the network.
    #[serde(default)]
    pub cni_result: Option<serde_json::Value>,
    /// The process that holds the shared PID namespace.
    #[serde(default)]
    pub pause_pid: Option<i32>,
    #[serde(default)]
    pub runtime_handler: String,
}

/// One sandbox.
#[derive(Debug)]
pub struct Sandbox {
    pub id: String,
    pub directory: PathBuf,
    pub namespaces: PathBuf,
    pub config: PodSandboxConfig,
    state: Mutex<SandboxState>,
    /// Stops and removals of the same sandbox wait for each other.
    pub gate: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub fn new(
        id: String,
        directory: PathBuf,
        namespaces: PathBuf,
        config: PodSandboxConfig,
        state: SandboxState,
    ) -> Sandbox {
        let state = Mutex::new(state);
        Sandbox { id, directory, namespaces, config, state, gate: tokio::sync::Mutex::default() }
    }

    /// Reads a sandbox back. One whose namespaces did not survive (a reboot) is not ready any more.
    pub fn load(id: String, directory: PathBuf, namespaces: PathBuf) -> Result<Sandbox, Error> {
        let config_path = directory.join(CONFIG_FILE);
        let bytes = std::fs::read(&config_path).map_err(Error::io("read", &config_path))?;
        let config = PodSandboxConfig::decode(bytes.as_slice())
            .map_err(|error| Error::Internal(format!("{}: {error}", config_path.display())))?;
        let state_path = directory.join(STATE_FILE);
        let mut state: SandboxState = read_json(&state_path).map_err(Error::io("read", &state_path))?;
        let sandbox = Sandbox::new(id, directory, namespaces, config, SandboxState::default());
        state.ready &= sandbox.pins_are_there();
        *sandbox.state.lock() = state;
        Ok(sandbox)
    }

    fn pins_are_there(&self) -> bool {
        let own = |mode: NamespaceMode| mode != NamespaceMode::Node;
        let network = self.network_mode();
        (!own(network) || is_pinned(&self.namespaces.join(NETWORK)))
            && (!own(self.ipc_mode()) || is_pinned(&self.namespaces.join(IPC)))
    }

    /// Writes everything; the configuration first, so that a state file means a complete sandbox.
    pub fn save(&self) -> Result<(), Error> {
        let path = self.directory.join(CONFIG_FILE);
        write_atomically(&path, &self.config.encode_to_vec()).map_err(Error::io("write", path))?;
        self.save_state()
    }

    fn save_state(&self) -> Result<(), Error> {
        let path = self.directory.join(STATE_FILE);
        write_json(&path, &*self.state.lock()).map_err(Error::io("write", path))
    }

    pub fn state(&self) -> SandboxState {
        self.state.lock().clone()
    }

    /// Changes the state, in memory and on disk.
    pub fn update(&self, change: impl FnOnce(&mut SandboxState)) -> Result<(), Error> {
        change(&mut self.state.lock());
        self.save_state()
    }

    fn options(&self) -> NamespaceOption {
        let security = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
    }

    pub fn network_mode(&self) -> NamespaceMode {
        self.options().network()
    }

    pub fn ipc_mode(&self) -> NamespaceMode {
        self.options().ipc()
    }

    pub fn pid_mode(&self) -> NamespaceMode {
        self.options().pid()
    }

    pub fn metadata(&self) -> PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    /// Parent of its containers' cgroups.
    pub fn cgroup_parent(&self) -> String {
        let parent = self.config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
        if parent.is_empty() { format!("/amphipod/{}", self.id) } else { parent.to_string() }
    }

    /// Path of a pinned namespace, if the sandbox has its own.
    pub fn namespace(&self, name: &str) -> Option<PathBuf> {
        let mode = match name {
            NETWORK | UTS => self.network_mode(),
            IPC => self.ipc_mode(),
            PID => self.pid_mode(),
            _ => NamespaceMode::Node,
        };
        let wanted = if name == PID { mode == NamespaceMode::Pod } else { mode != NamespaceMode::Node };
        wanted.then(|| self.namespaces.join(name))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn cri_state(&self) -> PodSandboxState {
        if self.state.lock().ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
    }

    /// The entry of a list.
    pub fn summary(&self) -> PodSandbox {
        let state = self.state();
        PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.cri_state().into(),
            created_at: state.created_at_nanos,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: state.runtime_handler,
        }
    }

    /// Everything CRI wants to know.
    pub fn status(&self) -> PodSandboxStatus {
        let state = self.state();
        let mut ips = state.ips.iter().map(|ip| PodIp { ip: ip.clone() });
        let ip = ips.next().map(|first| first.ip).unwrap_or_default();
        let network = PodSandboxNetworkStatus { ip, additional_ips: ips.collect() };
        let namespaces = Namespace { options: Some(self.options()) };
        PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.cri_state().into(),
            created_at: state.created_at_nanos,
            network: Some(network),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: state.runtime_handler,
        }
    }
}

/// Directory entries below `directory` that hold records.
pub fn ids(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
