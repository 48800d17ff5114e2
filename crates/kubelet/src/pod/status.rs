//! The status a pod deserves, from its spec, the runtime and the probes.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::state::{ContainerRecord, Outcome, ProbeResults, Run, RuntimeState};
use super::sync::is_started;
use super::{
    ContainerSpec, Kind, ProbeKind, conditions, containers, is_host_network, phase, resize, resources,
    restart, spec,
};

/// Why a container is not running: `CrashLoopBackOff`, `ErrImagePull`, ...
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// The pod is being ended by the node itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub reason: String,
    pub message: String,
}

pub struct StatusView<'a> {
    pub pod: &'a Pod,
    pub state: &'a RuntimeState,
    pub probes: &'a ProbeResults,
    pub resize: &'a resize::Standing,
    /// What the runtime was last told to give, by container id.
    pub actuated: &'a HashMap<&'a str, &'a ResourceRequirements>,
    /// By container name, for those that could not be started or must wait.
    pub waiting: &'a BTreeMap<String, Waiting>,
    pub previous: Option<&'a PodStatus>,
    /// Set when the node failed the pod (deadline, admission, eviction).
    pub failed: Option<&'a Verdict>,
    /// Nothing of this pod will be started again.
    pub over: bool,
    pub host_ips: &'a [String],
    /// Scheme of container ids: `containerd`, `amphipod`, ...
    pub runtime_name: &'a str,
    pub now: Timestamp,
}

pub fn pod_status(view: &StatusView) -> PodStatus {
    let statuses: Vec<(Kind, ContainerStatus)> =
        containers(view.pod).map(|spec| (spec.kind, container_status(view, &spec))).collect();
    let of = |wanted: &[Kind]| -> Vec<ContainerStatus> {
        statuses.iter().filter(|(kind, _)| wanted.contains(kind)).map(|(_, s)| s.clone()).collect()
    };
    let (init, app) = (of(&[Kind::Init, Kind::Sidecar]), of(&[Kind::App]));
    let ephemeral = of(&[Kind::Ephemeral]);
    let phase = decide_phase(view, &init, &app);
    let before = conditions_before(view);
    let inputs = conditions::Inputs {
        pod: view.pod,
        phase,
        init: &init,
        app: &app,
        sandbox_ready: sandbox_ready(view),
        now: view.now,
    };
    let mut all = conditions::conditions(&inputs, &before);
    all.extend(view.resize.conditions(&before, view.now));
    all.extend(before.into_iter().filter(|c| !conditions::is_owned(&c.type_)));
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: kept(view, |s| &s.reason, |v| &v.reason),
        message: kept(view, |s| &s.message, |v| &v.message),
        conditions: Some(all),
        init_container_statuses: some(init),
        container_statuses: some(app),
        ephemeral_container_statuses: some(ephemeral),
        qos_class: Some(resources::qos_class(view.pod).to_owned()),
        start_time: Some(start_time(view)),
        observed_generation: view.pod.metadata.generation,
        ..addresses(view)
    }
}

/// Conditions others wrote may be newer in the API than in our own last status.
fn conditions_before(view: &StatusView) -> Vec<PodCondition> {
    let stored = view.pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let Some(own) = view.previous.and_then(|s| s.conditions.as_ref()) else { return stored };
    let mut all: Vec<PodCondition> = own.iter().filter(|c| conditions::is_owned(&c.type_)).cloned().collect();
    let known = |kind: &str, all: &[PodCondition]| all.iter().any(|c| c.type_ == kind);
    let rest: Vec<PodCondition> = stored.into_iter().filter(|c| !known(&c.type_, &all)).collect();
    all.extend(rest);
    all
}

fn kept(
    view: &StatusView,
    old: impl Fn(&PodStatus) -> &Option<String>,
    verdict: impl Fn(&Verdict) -> &String,
) -> Option<String> {
    view.failed.map(|v| verdict(v).clone()).or_else(|| view.previous.and_then(|s| old(s).clone()))
}

fn start_time(view: &StatusView) -> Time {
    view.previous.and_then(|s| s.start_time.clone()).unwrap_or(Time(view.now))
}

fn addresses(view: &StatusView) -> PodStatus {
    let host_network = is_host_network(view.pod);
    let found: &[String] = if host_network { view.host_ips } else { view.state.ips() };
    let old = view.previous.and_then(|s| s.pod_ips.clone()).unwrap_or_default();
    let ready = view.state.ready_sandbox().is_some();
    let pod_ips: Vec<PodIP> = if found.is_empty() || (host_network && !ready && old.is_empty()) {
        old
    } else {
        found.iter().map(|ip| PodIP { ip: ip.clone() }).collect()
    };
    PodStatus {
        host_ip: view.host_ips.first().cloned(),
        host_ips: Some(view.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: pod_ips.first().map(|ip| ip.ip.clone()),
        pod_ips: (!pod_ips.is_empty()).then_some(pod_ips),
        ..PodStatus::default()
    }
}

fn sandbox_ready(view: &StatusView) -> bool {
    view.state.sandboxes.first().is_some_and(|s| s.ready && (s.host_network || !s.ips.is_empty()))
}

fn decide_phase(view: &StatusView, init: &[ContainerStatus], app: &[ContainerStatus]) -> &'static str {
    if view.failed.is_some() {
        return "Failed";
    }
    // A terminal phase is final, whatever is found later.
    match view.previous.and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => "Succeeded",
        Some("Failed") => "Failed",
        _ => phase::phase(view.pod, init, app, view.over),
    }
}

fn container_status(view: &StatusView, spec: &ContainerSpec) -> ContainerStatus {
    let record = view.state.latest(spec.name());
    let old = previous_status(view.previous, spec.name());
    let mut status = match record {
        Some(record) => from_record(view, spec, record),
        None => without_record(view, spec, old),
    };
    if status.last_state.is_none() {
        status.last_state = remembered_last_state(&status, old);
    }
    if record.is_some_and(|r| r.replaced && r.is_over()) && !view.over {
        status.last_state = status.state.take();
        status.state = Some(waiting(default_waiting(view, spec)));
    }
    apply_waiting(view, spec, record, &mut status);
    let mounts = spec.container.volume_mounts.iter().flatten().map(|mount| VolumeMountStatus {
        mount_path: mount.mount_path.clone(),
        name: mount.name.clone(),
        read_only: mount.read_only,
        recursive_read_only: mount.read_only.filter(|r| *r).map(|_| "Disabled".to_owned()),
    });
    let mounts: Vec<VolumeMountStatus> = mounts.collect();
    status.volume_mounts = (!mounts.is_empty()).then_some(mounts);
    status
}

fn previous_status<'a>(previous: Option<&'a PodStatus>, name: &str) -> Option<&'a ContainerStatus> {
    let status = previous?;
    let lists =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == name)
}

/// The last end of a container outlives the record of it at the runtime.
fn remembered_last_state(status: &ContainerStatus, old: Option<&ContainerStatus>) -> Option<ContainerState> {
    let old = old.filter(|old| old.restart_count == status.restart_count)?;
    old.last_state.clone().filter(|s| s.terminated.is_some())
}

fn from_record(view: &StatusView, spec: &ContainerSpec, record: &ContainerRecord) -> ContainerStatus {
    let id = format!("{}://{}", view.runtime_name, record.id);
    let started = record.is_running() && is_started(spec, record, view.probes);
    let state = match record.run {
        Run::Running => running(record),
        Run::Exited => terminated(record, &id),
        Run::Created | Run::Unknown => waiting(default_waiting(view, spec)),
    };
    let previous = view.state.previous(spec.name()).filter(|r| r.is_over());
    ContainerStatus {
        name: spec.name().to_owned(),
        image: if record.image.is_empty() { image(spec) } else { record.image.clone() },
        image_id: record.image_id.clone(),
        ready: is_ready(view, spec, record, started),
        started: Some(started),
        restart_count: i32::try_from(record.restart_count).unwrap_or(i32::MAX),
        last_state: previous.map(|r| terminated(r, &format!("{}://{}", view.runtime_name, r.id))),
        container_id: Some(id),
        state: Some(state),
        resources: Some(resources_in_force(view, spec, record)),
        allocated_resources: spec.container.resources.as_ref().and_then(|r| r.requests.clone()),
        user: record.is_running().then(|| user(record)).flatten(),
        ..ContainerStatus::default()
    }
}

/// What a running container was given; of others, what they are to have.
fn resources_in_force(
    view: &StatusView,
    spec: &ContainerSpec,
    record: &ContainerRecord,
) -> ResourceRequirements {
    let given = view.actuated.get(record.id.as_str()).filter(|_| record.is_running());
    given.map_or_else(|| spec.container.resources.clone().unwrap_or_default(), |r| (*r).clone())
}

fn user(record: &ContainerRecord) -> Option<ContainerUser> {
    let (uid, gid, groups) = record.user.clone()?;
    let supplemental_groups = (!groups.is_empty()).then_some(groups);
    Some(ContainerUser { linux: Some(LinuxContainerUser { uid, gid, supplemental_groups }) })
}

fn without_record(view: &StatusView, spec: &ContainerSpec, old: Option<&ContainerStatus>) -> ContainerStatus {
    if let Some(old) = old.filter(|old| old.container_id.as_deref().is_some_and(|id| !id.is_empty())) {
        return vanished(view, spec, old);
    }
    ContainerStatus {
        name: spec.name().to_owned(),
        image: image(spec),
        started: Some(false),
        state: Some(waiting(default_waiting(view, spec))),
        allocated_resources: None,
        ..ContainerStatus::default()
    }
}

/// A container that ran, of which the runtime knows nothing any more.
fn vanished(view: &StatusView, spec: &ContainerSpec, old: &ContainerStatus) -> ContainerStatus {
    let mut status = ContainerStatus { ready: false, started: Some(false), ..old.clone() };
    let ended = old.state.as_ref().is_some_and(|s| s.terminated.is_some());
    if ended {
        status.ready = spec.kind == Kind::Init && exit_code(old.state.as_ref()) == Some(0);
        return status;
    }
    let lost = ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            container_id: old.container_id.clone(),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    let was_running = old.state.as_ref().is_some_and(|s| s.running.is_some());
    if view.over || !was_running {
        let state = if was_running { lost } else { old.state.clone().unwrap_or(lost) };
        status.state = Some(state);
        return status;
    }
    status.state = Some(waiting(default_waiting(view, spec)));
    status.last_state = Some(lost);
    status
}

fn exit_code(state: Option<&ContainerState>) -> Option<i32> {
    Some(state?.terminated.as_ref()?.exit_code)
}

fn image(spec: &ContainerSpec) -> String {
    spec.container.image.clone().unwrap_or_default()
}

fn is_ready(view: &StatusView, spec: &ContainerSpec, record: &ContainerRecord, started: bool) -> bool {
    match spec.kind {
        Kind::Init => record.is_over() && record.exit_code == 0,
        Kind::Ephemeral => false,
        Kind::App | Kind::Sidecar => {
            let probed = spec.container.readiness_probe.is_none()
                || view.probes.get(&record.id, ProbeKind::Readiness) == Some(Outcome::Success);
            record.is_running() && started && probed
        }
    }
}

fn default_waiting(view: &StatusView, spec: &ContainerSpec) -> Waiting {
    let has_init = super::spec(view.pod).init_containers.as_ref().is_some_and(|c| !c.is_empty());
    let initializing = match spec.kind {
        Kind::Init | Kind::Sidecar => true,
        Kind::App => has_init,
        Kind::Ephemeral => false,
    };
    let reason = if initializing { "PodInitializing" } else { "ContainerCreating" };
    Waiting { reason: reason.to_owned(), message: String::new() }
}

/// A container that will be started again, but not now, waits: its end moves to `lastState`.
fn apply_waiting(
    view: &StatusView,
    spec: &ContainerSpec,
    record: Option<&ContainerRecord>,
    status: &mut ContainerStatus,
) {
    let Some(reason) = view.waiting.get(spec.name()) else { return };
    let will_start =
        spec.kind == Kind::Ephemeral && record.is_none() || restart::should_start(view.pod, spec, record);
    if view.over || !will_start {
        return;
    }
    if let Some(state) = status.state.take().filter(|s| s.terminated.is_some()) {
        status.last_state = Some(state);
    }
    status.state = Some(waiting(reason.clone()));
}

fn waiting(waiting: Waiting) -> ContainerState {
    let message = (!waiting.message.is_empty()).then_some(waiting.message);
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(waiting.reason), message }),
        ..ContainerState::default()
    }
}

fn running(record: &ContainerRecord) -> ContainerState {
    let started_at = record.started_at.map(Time);
    ContainerState { running: Some(ContainerStateRunning { started_at }), ..ContainerState::default() }
}

fn terminated(record: &ContainerRecord, id: &str) -> ContainerState {
    let reason = match record.reason.as_str() {
        "" if record.exit_code == 0 => "Completed",
        "" => "Error",
        given => given,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(id.to_owned()),
            exit_code: record.exit_code,
            reason: Some(reason.to_owned()),
            message: (!record.message.is_empty()).then(|| record.message.clone()),
            started_at: record.started_at.map(Time),
            finished_at: record.finished_at.map(Time),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// The status of a pod the node refuses to run.
pub fn rejected(pod: &Pod, verdict: &Verdict, now: Timestamp) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(verdict.reason.clone()),
        message: Some(format!("Pod was rejected: {}", verdict.message)),
        start_time: Some(Time(now)),
        qos_class: Some(resources::qos_class(pod).to_owned()),
        observed_generation: pod.metadata.generation,
        conditions: pod.status.as_ref().and_then(|s| s.conditions.clone()),
        ..PodStatus::default()
    }
}

pub fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

pub fn deadline_exceeded() -> Verdict {
    Verdict {
        reason: "DeadlineExceeded".to_owned(),
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
    }
}

/// True when the deadline of the pod has passed; otherwise when it will.
pub fn deadline(pod: &Pod, start: Option<&Time>) -> Option<Timestamp> {
    let seconds = spec(pod).active_deadline_seconds?;
    Some(start?.0 + jiff::SignedDuration::from_secs(seconds))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
