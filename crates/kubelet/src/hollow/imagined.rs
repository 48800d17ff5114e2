//! What a hollow pod's runtime would show, if there were one: kept in as few bytes as tell it all,
//! because there may be hundreds of thousands, and spelt out for each decision.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use amphipod_client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus, Probe};

use crate::pod::backoff::BackOffs;
use crate::pod::state::{ContainerRecord, Run, RuntimeState, Sandbox};
use crate::pod::{
    ContainerSpec, app_containers, container_hash, find_container, init_containers, is_host_network,
};

const SANDBOX: &str = "hollow";
const IMAGE_ID: &str = "sha256:hollow";

/// What is imagined of one pod.
#[derive(Clone, Debug)]
pub struct Life {
    pub uid: String,
    pub ip: Option<Ipv4Addr>,
    /// When it was first seen.
    pub seen: Timestamp,
    pub has_sandbox: bool,
    pub instances: Vec<Instance>,
    pub backoffs: BackOffs,
    /// When its end began.
    pub ending: Option<Timestamp>,
    /// Its object was deleted for good; that this is so has yet to be heard.
    pub is_let_go: bool,
    /// Where readiness is imagined: containers with a probe, and how long after their start it begins.
    pub probes: Probes,
}

pub type Probes = BTreeMap<String, Duration>;

/// The readiness probes of a pod.
pub fn readiness_probes(pod: &Pod) -> Probes {
    let begins = |spec: ContainerSpec| {
        let probe = spec.container.readiness_probe.as_ref()?;
        let seconds = probe.initial_delay_seconds.unwrap_or(0).max(0);
        Some((spec.name().to_owned(), Duration::from_secs(seconds.unsigned_abs().into())))
    };
    init_containers(pod).chain(app_containers(pod)).filter_map(begins).collect()
}

/// Caches leave probes out: that there are some is said again.
pub fn with_probes(mut pod: Pod, probes: &Probes) -> Pod {
    let Some(spec) = pod.spec.as_mut().filter(|_| !probes.is_empty()) else { return pod };
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in containers.filter(|container| probes.contains_key(&container.name)) {
        container.readiness_probe = Some(Probe::default());
    }
    pod
}

/// The newest instance of a container, and the end of the one before.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: String,
    hash: u64,
    pub restarts: u32,
    pub run: Run,
    pub started: Timestamp,
    finished: Timestamp,
    exit_code: i32,
    pub replaced: bool,
    last: Option<(Timestamp, Timestamp, i32)>,
    pub failed_pulls: u32,
    pub pull_failed: Timestamp,
}

impl Life {
    /// Begins where the pod's status ends.
    pub fn of(pod: &Pod, ip: Option<Ipv4Addr>, now: Timestamp) -> Self {
        let status = pod.status.as_ref();
        let instances: Vec<Instance> = init_containers(pod)
            .chain(app_containers(pod))
            .map(|spec| Instance::of(&spec, status.and_then(|s| told(s, spec.name())), now))
            .collect();
        Life {
            uid: pod.uid().to_owned(),
            ip,
            seen: now,
            has_sandbox: instances.iter().any(|i| i.run != Run::Created),
            instances,
            backoffs: BackOffs::default(),
            ending: None,
            is_let_go: false,
            probes: Probes::new(),
        }
    }

    pub fn is_ended(&self) -> bool {
        self.instances.iter().all(|i| i.run != Run::Running)
    }
    pub fn end_all(&mut self, exit_code: i32, now: Timestamp) {
        for instance in self.instances.iter_mut().filter(|i| i.run == Run::Running) {
            instance.end(exit_code, now);
        }
    }

    /// As the runtime would show it. Times are whole seconds, as in the API.
    pub fn state(&self, pod: &Pod, ready: bool) -> RuntimeState {
        let host_network = is_host_network(pod);
        let sandbox = Sandbox {
            id: SANDBOX.to_owned(),
            ready,
            ips: self.ip.filter(|_| !host_network).iter().map(Ipv4Addr::to_string).collect(),
            host_network,
            ..Sandbox::default()
        };
        let containers = self.instances.iter().flat_map(|i| i.records(pod));
        RuntimeState {
            containers: containers.collect(),
            sandboxes: if self.has_sandbox { vec![sandbox] } else { Vec::new() },
        }
    }
}

impl Instance {
    fn of(spec: &ContainerSpec, told: Option<&ContainerStatus>, now: Timestamp) -> Self {
        let mut instance = Instance {
            name: spec.name().to_owned(),
            hash: container_hash(&spec.container),
            restarts: told.map_or(0, |t| t.restart_count.unsigned_abs()),
            run: Run::Created,
            started: now,
            finished: now,
            exit_code: 0,
            replaced: false,
            last: None,
            failed_pulls: 0,
            pull_failed: now,
        };
        let Some(told) = told else { return instance };
        let state = told.state.as_ref();
        // Of one that waits to be started again the last state tells the end.
        let ended = state.and_then(|s| s.terminated.as_ref());
        let ended = ended.or(told.last_state.as_ref().and_then(|s| s.terminated.as_ref()));
        if let Some(running) = state.and_then(|s| s.running.as_ref()) {
            instance.run = Run::Running;
            instance.started = running.started_at.as_ref().map_or(now, |t| t.0);
        } else if let Some(ended) = ended {
            instance.run = Run::Exited;
            instance.started = ended.started_at.as_ref().map_or(now, |t| t.0);
            instance.finished = ended.finished_at.as_ref().map_or(now, |t| t.0);
            instance.exit_code = ended.exit_code;
        }
        if instance.run == Run::Running && spec.container.image.as_deref() != Some(told.image.as_str()) {
            instance.hash = !instance.hash; // it runs what the spec no longer says
        }
        instance
    }

    pub fn end(&mut self, exit_code: i32, at: Timestamp) {
        self.run = Run::Exited;
        self.finished = at;
        self.exit_code = exit_code;
    }
    pub fn begin(&mut self, spec: &ContainerSpec, restarts: u32, now: Timestamp) {
        self.last = (self.run == Run::Exited).then_some((self.started, self.finished, self.exit_code));
        self.run = Run::Running;
        self.restarts = restarts;
        self.hash = container_hash(&spec.container);
        self.started = now;
        self.replaced = false;
    }

    /// Of the instance that was started after so many others.
    pub fn id(&self, pod: &Pod, restarts: u32) -> String {
        match restarts {
            0 => format!("{}-{}", pod.uid(), self.name),
            n => format!("{}-{}-{n}", pod.uid(), self.name),
        }
    }
    fn records(&self, pod: &Pod) -> impl Iterator<Item = ContainerRecord> + use<> {
        let image = find_container(pod, &self.name).and_then(|s| s.container.image.clone());
        let newest = ContainerRecord {
            id: self.id(pod, self.restarts),
            sandbox_id: SANDBOX.to_owned(),
            name: self.name.clone(),
            restart_count: self.restarts,
            hash: self.hash,
            run: self.run,
            created_at: Some(whole(self.started)),
            started_at: Some(whole(self.started)),
            finished_at: (self.run == Run::Exited).then(|| whole(self.finished)),
            exit_code: self.exit_code,
            image: image.unwrap_or_default(),
            image_id: IMAGE_ID.to_owned(),
            replaced: self.replaced,
            ..ContainerRecord::default()
        };
        let before = self.last.map(|(started, finished, exit_code)| ContainerRecord {
            id: self.id(pod, self.restarts.saturating_sub(1)),
            restart_count: self.restarts.saturating_sub(1),
            run: Run::Exited,
            started_at: Some(whole(started)),
            finished_at: Some(whole(finished)),
            exit_code,
            replaced: false,
            ..newest.clone()
        });
        Some(newest).filter(|_| self.run != Run::Created).into_iter().chain(before)
    }
}

pub fn told<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == name)
}

/// Times in the API have no fractions.
pub fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
