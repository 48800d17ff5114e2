//! What the runtime shows of one pod, and what the probes say: the observed half of every decision.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::ProbeKind;

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: i64,
    pub ips: Vec<String>,
    pub host_network: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Run {
    #[default]
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    /// How many instances ran before this one.
    pub restart_count: u32,
    pub hash: u64,
    pub run: Run,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    pub log_path: String,
    /// uid, gid and supplementary groups of the first process, where the runtime tells.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// Seconds between TERM and KILL, written at creation: used when the pod's spec is gone.
    pub grace_period_seconds: Option<i64>,
    /// The kubelet itself ended (or ends) it to start it anew: no failure, whatever its exit code.
    pub replaced: bool,
}

impl ContainerRecord {
    pub fn is_running(&self) -> bool {
        self.run == Run::Running
    }
    pub fn is_over(&self) -> bool {
        self.run == Run::Exited
    }
}

/// One pod at the runtime; newest first in both lists.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RuntimeState {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<ContainerRecord>,
}

impl RuntimeState {
    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.restart_count, c.created_at)));
    }
    /// The newest instance of a container, in whatever sandbox.
    pub fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }
    /// The instance before the newest.
    pub fn previous(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }
    /// The newest instance inside one sandbox.
    pub fn latest_in(&self, sandbox: &str, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name && c.sandbox_id == sandbox)
    }
    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|c| c.is_running())
    }
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|s| s.ready)
    }
    pub fn ips(&self) -> &[String] {
        self.sandboxes.first().map_or(&[], |s| &s.ips)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
    Unknown,
}

/// The standing results of all probes, by container id.
#[derive(Clone, Debug, Default)]
pub struct ProbeResults {
    results: BTreeMap<(String, ProbeKind), Outcome>,
}

impl ProbeResults {
    pub fn set(&mut self, container_id: &str, kind: ProbeKind, outcome: Outcome) {
        self.results.insert((container_id.to_owned(), kind), outcome);
    }
    pub fn get(&self, container_id: &str, kind: ProbeKind) -> Option<Outcome> {
        self.results.get(&(container_id.to_owned(), kind)).copied()
    }
    pub fn retain_containers(&mut self, keep: impl Fn(&str) -> bool) {
        self.results.retain(|(id, _), _| keep(id));
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }
    pub fn sandbox(id: &str, attempt: u32, ready: bool) -> Sandbox {
        Sandbox { id: id.into(), attempt, ready, ips: vec!["10.244.0.7".into()], ..Sandbox::default() }
    }
    pub fn record(name: &str, attempt: u32, run: Run) -> ContainerRecord {
        ContainerRecord {
            id: format!("{name}-{attempt}"),
            sandbox_id: "s0".into(),
            name: name.into(),
            restart_count: attempt,
            run,
            created_at: Some(at(i64::from(attempt))),
            started_at: Some(at(i64::from(attempt))),
            finished_at: (run == Run::Exited).then(|| at(100)),
            ..ContainerRecord::default()
        }
    }
    pub fn exited(name: &str, attempt: u32, exit_code: i32) -> ContainerRecord {
        ContainerRecord { exit_code, ..record(name, attempt, Run::Exited) }
    }
    pub fn state(containers: Vec<ContainerRecord>) -> RuntimeState {
        let mut state = RuntimeState { sandboxes: vec![sandbox("s0", 0, true)], containers };
        state.sort();
        state
    }
}
