//! What is remembered of a container, in memory and on disk.

use std::path::PathBuf;

use amphipod_cri::v1::{
    Container as ContainerSummary, ContainerConfig, ContainerResources, ContainerState, ContainerStatus,
    ContainerUser, ImageSpec, LinuxContainerResources, LinuxContainerUser, Signal,
};
use parking_lot::Mutex;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::user::Identity;
use crate::{
    error::Error,
    shim::{
        protocol::{EXIT_FILE, ExitRecord},
        read_json, write_atomically, write_json,
    },
};

const CONFIG_FILE: &str = "config.pb";
const RECORD_FILE: &str = "state.json";
const RESOURCES_FILE: &str = "resources.pb";

/// The part that is fixed at creation, and how far the container has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub sandbox_id: String,
    pub image_id: String,
    pub image_ref: String,
    /// Name to show for the image.
    pub image_name: String,
    /// Its layers, so that removing the image leaves them in place.
    #[serde(default)]
    pub layers: Vec<String>,
    pub identity: Identity,
    pub log_path: String,
    pub cgroup_path: String,
    /// From the image, used when the pod names none.
    #[serde(default)]
    pub image_stop_signal: String,
    pub created_at_nanos: i64,
    #[serde(default)]
    pub started_at_nanos: i64,
    #[serde(default)]
    pub pid: i32,
    #[serde(default)]
    pub exit: Option<ExitRecord>,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

/// One container.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub directory: PathBuf,
    pub socket: PathBuf,
    pub config: ContainerConfig,
    record: Mutex<ContainerRecord>,
    resources: Mutex<LinuxContainerResources>,
    /// Turns true when the container has ended.
    pub ended: tokio::sync::watch::Sender<bool>,
    /// Starts, stops and removals of the same container wait for each other.
    pub gate: tokio::sync::Mutex<()>,
}

impl Container {
    pub fn new(
        id: String,
        directory: PathBuf,
        socket: PathBuf,
        config: ContainerConfig,
        record: ContainerRecord,
    ) -> Container {
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
        let ended = record.exit.is_some();
        Container {
            id,
            directory,
            socket,
            config,
            record: Mutex::new(record),
            resources: Mutex::new(resources),
            ended: tokio::sync::watch::Sender::new(ended),
            gate: tokio::sync::Mutex::default(),
        }
    }

    /// Reads a container back; an end that happened meanwhile is taken over.
    pub fn load(id: String, directory: PathBuf, socket: PathBuf) -> Result<Container, Error> {
        let config_path = directory.join(CONFIG_FILE);
        let bytes = std::fs::read(&config_path).map_err(Error::io("read", &config_path))?;
        let config = ContainerConfig::decode(bytes.as_slice())
            .map_err(|error| Error::Internal(format!("{}: {error}", config_path.display())))?;
        let record_path = directory.join(RECORD_FILE);
        let mut record: ContainerRecord = read_json(&record_path).map_err(Error::io("read", &record_path))?;
        if record.exit.is_none() {
            record.exit = read_json(&directory.join(EXIT_FILE)).ok();
        }
        let container = Container::new(id, directory, socket, config, record);
        if let Ok(bytes) = std::fs::read(container.directory.join(RESOURCES_FILE))
            && let Ok(resources) = LinuxContainerResources::decode(bytes.as_slice())
        {
            *container.resources.lock() = resources;
        }
        Ok(container)
    }

    /// Writes everything; the record last, so that its presence means a complete container.
    pub fn save(&self) -> Result<(), Error> {
        let path = self.directory.join(CONFIG_FILE);
        write_atomically(&path, &self.config.encode_to_vec()).map_err(Error::io("write", path))?;
        self.save_record()
    }

    fn save_record(&self) -> Result<(), Error> {
        let path = self.directory.join(RECORD_FILE);
        write_json(&path, &*self.record.lock()).map_err(Error::io("write", path))
    }

    pub fn record(&self) -> ContainerRecord {
        self.record.lock().clone()
    }

    /// Changes the record, in memory and on disk.
    pub fn update(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<(), Error> {
        change(&mut self.record.lock());
        self.save_record()
    }

    /// Records the end. The first report wins.
    pub fn finish(&self, exit: ExitRecord, reason: Option<(&str, String)>) {
        {
            let mut record = self.record.lock();
            if record.exit.is_some() {
                return;
            }
            if let Some((reason, message)) = reason {
                record.reason = reason.into();
                record.message = message;
            }
            record.exit = Some(exit);
        }
        if let Err(error) = self.save_record() {
            tracing::warn!(container = self.id, %error, "cannot record the end of a container");
        }
        self.ended.send_replace(true);
    }

    pub fn resources(&self) -> LinuxContainerResources {
        self.resources.lock().clone()
    }

    /// Takes over changed limits; zero fields of `change` leave the old value.
    pub fn change_resources(&self, change: &LinuxContainerResources) -> Result<(), Error> {
        let merged = merge_resources(&self.resources.lock(), change);
        let path = self.directory.join(RESOURCES_FILE);
        write_atomically(&path, &merged.encode_to_vec()).map_err(Error::io("write", path))?;
        *self.resources.lock() = merged;
        Ok(())
    }

    pub fn cri_state(&self) -> ContainerState {
        state_of(&self.record.lock())
    }

    fn image_spec(&self, record: &ContainerRecord) -> ImageSpec {
        let asked = self.config.image.clone().unwrap_or_default();
        ImageSpec { image: record.image_name.clone(), ..asked }
    }

    /// The entry of a list.
    pub fn summary(&self) -> ContainerSummary {
        let record = self.record();
        ContainerSummary {
            id: self.id.clone(),
            pod_sandbox_id: record.sandbox_id.clone(),
            metadata: self.config.metadata.clone(),
            image: Some(self.image_spec(&record)),
            image_ref: record.image_ref.clone(),
            state: state_of(&record).into(),
            created_at: record.created_at_nanos,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            image_id: record.image_id,
        }
    }

    /// Everything CRI wants to know.
    pub fn status(&self) -> ContainerStatus {
        let record = self.record();
        let state = state_of(&record);
        let (reason, message) = reason_of(&record);
        let user = LinuxContainerUser {
            uid: record.identity.uid.into(),
            gid: record.identity.gid.into(),
            supplemental_groups: record.identity.groups.iter().map(|group| i64::from(*group)).collect(),
        };
        ContainerStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: state.into(),
            created_at: record.created_at_nanos,
            started_at: record.started_at_nanos,
            finished_at: record.exit.as_ref().map(|exit| exit.finished_at_nanos).unwrap_or_default(),
            exit_code: record.exit.as_ref().map(|exit| exit.exit_code).unwrap_or_default(),
            image: Some(self.image_spec(&record)),
            image_ref: record.image_ref,
            reason,
            message,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            log_path: record.log_path,
            resources: Some(ContainerResources { linux: Some(self.resources()) }),
            image_id: record.image_id,
            user: Some(ContainerUser { linux: Some(user) }),
            stop_signal: self.stop_signal_enum(&record.image_stop_signal).into(),
        }
    }

    fn stop_signal_enum(&self, image_signal: &str) -> Signal {
        match self.config.stop_signal() {
            Signal::RuntimeDefault => {
                let name = image_signal.to_ascii_uppercase();
                let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
                let name = name.replace('+', "PLUS").replace('-', "MINUS");
                Signal::from_str_name(&name).unwrap_or(Signal::Sigterm)
            }
            signal => signal,
        }
    }

    /// Number of the signal that asks the container to end.
    pub fn stop_signal(&self) -> i32 {
        let image_signal = self.record.lock().image_stop_signal.clone();
        if let Ok(number) = image_signal.parse::<i32>()
            && self.config.stop_signal() == Signal::RuntimeDefault
            && number > 0
        {
            return number;
        }
        signal_number(self.stop_signal_enum(&image_signal))
    }
}

/// Signal numbers of this machine; CRI numbers its enumeration in its own way.
fn signal_number(signal: Signal) -> i32 {
    let name = signal.as_str_name();
    if let Some(offset) = name.strip_prefix("SIGRTMINPLUS").and_then(|text| text.parse::<i32>().ok()) {
        return libc::SIGRTMIN() + offset;
    }
    if let Some(offset) = name.strip_prefix("SIGRTMAXMINUS").and_then(|text| text.parse::<i32>().ok()) {
        return libc::SIGRTMAX() - offset;
    }
    let alias = match name {
        "SIGRTMIN" => return libc::SIGRTMIN(),
        "SIGRTMAX" => return libc::SIGRTMAX(),
        "SIGCLD" => "SIGCHLD",
        "SIGIOT" => "SIGABRT",
        "SIGPOLL" => "SIGIO",
        other => other,
    };
    alias.parse::<nix::sys::signal::Signal>().map_or(libc::SIGTERM, |signal| signal as i32)
}

fn state_of(record: &ContainerRecord) -> ContainerState {
    match (&record.exit, record.started_at_nanos) {
        (Some(_), _) => ContainerState::ContainerExited,
        (None, 0) => ContainerState::ContainerCreated,
        (None, _) => ContainerState::ContainerRunning,
    }
}

fn reason_of(record: &ContainerRecord) -> (String, String) {
    let Some(exit) = &record.exit else { return (String::new(), String::new()) };
    if !record.reason.is_empty() {
        return (record.reason.clone(), record.message.clone());
    }
    let reason = match exit {
        ExitRecord { oom_killed: true, .. } => "OOMKilled",
        ExitRecord { exit_code: 0, .. } => "Completed",
        _ => "Error",
    };
    (reason.into(), record.message.clone())
}

fn merge_resources(old: &LinuxContainerResources, new: &LinuxContainerResources) -> LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: &String, new: &String| if new.is_empty() { old.clone() } else { new.clone() };
    let mut unified = old.unified.clone();
    unified.extend(new.unified.clone());
    LinuxContainerResources {
        cpu_period: number(old.cpu_period, new.cpu_period),
        cpu_quota: number(old.cpu_quota, new.cpu_quota),
        cpu_shares: number(old.cpu_shares, new.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        oom_score_adj: number(old.oom_score_adj, new.oom_score_adj),
        cpuset_cpus: text(&old.cpuset_cpus, &new.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &new.cpuset_mems),
        hugepage_limits: match new.hugepage_limits.is_empty() {
            true => old.hugepage_limits.clone(),
            false => new.hugepage_limits.clone(),
        },
        unified,
        memory_swap_limit_in_bytes: number(old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_reasons() {
        let mut record = ContainerRecord::default();
        assert_eq!(state_of(&record), ContainerState::ContainerCreated);
        record.started_at_nanos = 1;
        assert_eq!(state_of(&record), ContainerState::ContainerRunning);
        for (exit_code, oom_killed, reason) in
            [(0, false, "Completed"), (3, false, "Error"), (137, true, "OOMKilled")]
        {
            record.exit = Some(ExitRecord { exit_code, oom_killed, finished_at_nanos: 2 });
            assert_eq!(state_of(&record), ContainerState::ContainerExited);
            assert_eq!(reason_of(&record).0, reason);
        }
    }

    #[test]
    fn stop_signals_from_pod_image_and_default() {
        let with = |signal: Signal, image: &str| {
            let config = ContainerConfig { stop_signal: signal.into(), ..Default::default() };
            let record = ContainerRecord { image_stop_signal: image.into(), ..Default::default() };
            Container::new("c".into(), "".into(), "".into(), config, record).stop_signal()
        };
        assert_eq!(with(Signal::RuntimeDefault, ""), libc::SIGTERM);
        assert_eq!(with(Signal::RuntimeDefault, "SIGQUIT"), libc::SIGQUIT);
        assert_eq!(with(Signal::RuntimeDefault, "3"), 3);
        assert_eq!(with(Signal::Sigusr1, "SIGQUIT"), libc::SIGUSR1);
        assert_eq!(with(Signal::RuntimeDefault, "SIGRTMIN+3"), libc::SIGRTMIN() + 3);
    }
}
