//! What to do next for a pod: the distance between its spec and what runs, as a list of actions.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::backoff::BackOffs;
use super::restart::{restarts_after, should_start};
use super::state::{ContainerRecord, Outcome, ProbeResults, Run, RuntimeState};
use super::{
    ContainerSpec, Kind, ProbeKind, app_containers, container_hash, containers, init_containers,
    is_host_network, restart_policy,
};

/// Everything a decision may look at.
pub struct View<'a> {
    pub pod: &'a Pod,
    pub state: &'a RuntimeState,
    pub probes: &'a ProbeResults,
    pub backoffs: &'a BackOffs,
    /// The last status known: it remembers restart counts of instances already collected.
    pub previous: Option<&'a PodStatus>,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The old sandbox cannot be used; whatever runs in it is stopped first.
    StopSandbox {
        id: String,
    },
    CreateSandbox {
        attempt: u32,
    },
    Start {
        name: String,
        kind: Kind,
        restart_count: u32,
    },
    /// Not yet: the container failed too recently.
    BackOff {
        name: String,
        delay: SignedDuration,
        until: Timestamp,
    },
    Stop {
        container_id: String,
        name: String,
        cause: Cause,
    },
}

/// Why a running container is stopped while its pod lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    DefinitionChanged,
    StartupProbe,
    LivenessProbe,
    /// Its policy wants a restart to take up other resources.
    Resized,
}

impl Cause {
    pub fn message(self, container: &str) -> String {
        match self {
            Cause::DefinitionChanged => {
                format!("Container {container} definition changed, will be restarted")
            }
            Cause::Resized => format!("Container {container} resize requires restart"),
            Cause::StartupProbe => format!("Container {container} failed startup probe, will be restarted"),
            Cause::LivenessProbe => format!("Container {container} failed liveness probe, will be restarted"),
        }
    }
}

/// The back-off key of a container: a changed definition starts afresh.
pub fn backoff_key(spec: &ContainerSpec) -> String {
    format!("{}_{:x}", spec.name(), container_hash(&spec.container))
}

pub fn sync_pod(view: &View) -> Vec<Action> {
    if let Some(attempt) = sandbox_attempt_needed(view) {
        return new_sandbox(view, attempt);
    }
    let Some(sandbox) = view.state.sandboxes.first() else { return Vec::new() };
    let mut actions = Vec::new();
    start_ephemeral(view, &mut actions);
    if init_step(view, &sandbox.id, &mut actions) {
        for spec in app_containers(view.pod) {
            app_step(view, &spec, &mut actions);
        }
    }
    actions
}

/// Every app container has ended and none will start again: sidecars need not go on.
pub fn is_done(pod: &Pod, state: &RuntimeState) -> bool {
    app_containers(pod).all(|spec| {
        state.latest(spec.name()).is_some_and(|r| r.is_over() && !should_start(pod, &spec, Some(r)))
    })
}

/// The number of the sandbox to make, if the present one will not do.
fn sandbox_attempt_needed(view: &View) -> Option<u32> {
    let Some(newest) = view.state.sandboxes.first() else { return Some(0) };
    let ready = view.state.sandboxes.iter().filter(|s| s.ready).count();
    let host_network = is_host_network(view.pod);
    let usable = ready == 1
        && newest.ready
        && newest.host_network == host_network
        && (host_network || !newest.ips.is_empty());
    (!usable).then_some(newest.attempt + 1)
}

fn new_sandbox(view: &View, attempt: u32) -> Vec<Action> {
    let ran_before = attempt != 0 && !view.state.containers.is_empty();
    if ran_before && restart_policy(view.pod) == "Never" && !any_restartable(view) {
        return Vec::new(); // what ran, ran: a lost sandbox does not revive a pod that never restarts
    }
    let any_to_run = app_containers(view.pod)
        .any(|spec| should_start(view.pod, &spec, over(view.state.latest(spec.name()))));
    if !any_to_run {
        return Vec::new();
    }
    // The newest is stopped in any case: its network and names are given back.
    let sandboxes = view.state.sandboxes.iter().enumerate();
    let stale = sandboxes.filter(|(index, s)| *index == 0 || s.ready || runs_in(view.state, &s.id));
    let mut actions: Vec<Action> = stale.map(|(_, s)| Action::StopSandbox { id: s.id.clone() }).collect();
    actions.push(Action::CreateSandbox { attempt });
    actions
}

fn any_restartable(view: &View) -> bool {
    app_containers(view.pod).any(|spec| {
        let latest = view.state.latest(spec.name());
        latest.is_none_or(|r| restarts_after(view.pod, Kind::App, &spec.container, r.exit_code))
    })
}

fn runs_in(state: &RuntimeState, sandbox: &str) -> bool {
    state.running().any(|c| c.sandbox_id == sandbox)
}

/// Instances of a lost sandbox count as ended, even where they still seem to run.
fn over(record: Option<&ContainerRecord>) -> Option<&ContainerRecord> {
    record.filter(|r| !r.is_running())
}

/// Walks the init containers in order; true once the app containers may run.
fn init_step(view: &View, sandbox: &str, actions: &mut Vec<Action>) -> bool {
    let initialized = app_containers(view.pod).any(|c| view.state.latest_in(sandbox, c.name()).is_some());
    for spec in init_containers(view.pod) {
        if spec.kind == Kind::Init && initialized {
            continue;
        }
        let record = view.state.latest_in(sandbox, spec.name());
        let passed = match spec.kind {
            Kind::Sidecar => sidecar_step(view, &spec, record, actions),
            _ => plain_init_step(view, &spec, record, actions),
        };
        if !passed && !initialized {
            return false;
        }
    }
    true
}

fn plain_init_step(
    view: &View,
    spec: &ContainerSpec,
    record: Option<&ContainerRecord>,
    actions: &mut Vec<Action>,
) -> bool {
    match record {
        Some(r) if r.is_over() && r.exit_code == 0 => return true,
        Some(r) if r.is_running() => {}
        Some(r) if r.is_over() && !restarts_after(view.pod, Kind::Init, &spec.container, r.exit_code) => {}
        _ => start(view, spec, actions),
    }
    false
}

/// True once the sidecar runs and has passed its startup probe.
fn sidecar_step(
    view: &View,
    spec: &ContainerSpec,
    record: Option<&ContainerRecord>,
    actions: &mut Vec<Action>,
) -> bool {
    let Some(record) = record.filter(|r| r.is_running()) else {
        if view.pod.metadata.deletion_timestamp.is_none() {
            start(view, spec, actions);
        }
        return false;
    };
    if let Some(cause) = failed(view, spec, record) {
        actions.push(stop(record, cause));
        return false;
    }
    is_started(spec, record, view.probes)
}

fn app_step(view: &View, spec: &ContainerSpec, actions: &mut Vec<Action>) {
    let record = view.state.latest(spec.name());
    let Some(running) = record.filter(|r| r.is_running()) else {
        if should_start(view.pod, spec, record) {
            start(view, spec, actions);
        }
        return;
    };
    if let Some(cause) = failed(view, spec, running) {
        actions.push(stop(running, cause));
    }
}

fn stop(record: &ContainerRecord, cause: Cause) -> Action {
    Action::Stop { container_id: record.id.clone(), name: record.name.clone(), cause }
}

/// Why this running instance must go, if it must.
fn failed(view: &View, spec: &ContainerSpec, record: &ContainerRecord) -> Option<Cause> {
    if record.hash != container_hash(&spec.container) && record.hash != 0 {
        return Some(Cause::DefinitionChanged);
    }
    let is_failure = |kind| view.probes.get(&record.id, kind) == Some(Outcome::Failure);
    if spec.container.liveness_probe.is_some() && is_failure(ProbeKind::Liveness) {
        return Some(Cause::LivenessProbe);
    }
    (spec.container.startup_probe.is_some() && is_failure(ProbeKind::Startup)).then_some(Cause::StartupProbe)
}

/// Running and past its startup probe.
pub fn is_started(spec: &ContainerSpec, record: &ContainerRecord, probes: &ProbeResults) -> bool {
    record.is_running()
        && (spec.container.startup_probe.is_none()
            || probes.get(&record.id, ProbeKind::Startup) == Some(Outcome::Success))
}

fn start_ephemeral(view: &View, actions: &mut Vec<Action>) {
    for spec in containers(view.pod).filter(|c| c.kind == Kind::Ephemeral) {
        if view.state.latest(spec.name()).is_none() {
            actions.push(Action::Start {
                name: spec.name().to_owned(),
                kind: Kind::Ephemeral,
                restart_count: 0,
            });
        }
    }
}

/// Starts a container, unless its last instance ended too recently.
fn start(view: &View, spec: &ContainerSpec, actions: &mut Vec<Action>) {
    let record = view.state.latest(spec.name());
    let finished = record.filter(|r| r.run == Run::Exited && !r.replaced).and_then(|r| r.finished_at);
    let blocked = finished.and_then(|at| view.backoffs.waiting(&backoff_key(spec), at, view.now));
    if let Some((delay, until)) = blocked {
        actions.push(Action::BackOff { name: spec.name().to_owned(), delay, until });
        return;
    }
    let restart_count = match record {
        Some(record) => record.restart_count + 1,
        None => remembered_restarts(view.previous, spec.name()),
    };
    actions.push(Action::Start { name: spec.name().to_owned(), kind: spec.kind, restart_count });
}

/// The next count for a container whose instances are all gone from the runtime.
fn remembered_restarts(previous: Option<&PodStatus>, name: &str) -> u32 {
    let Some(status) = previous else { return 0 };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|c| c.name == name);
    match found {
        Some(c) if c.container_id.as_deref().is_some_and(|id| !id.is_empty()) => {
            c.restart_count.unsigned_abs() + 1
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::testing::{at, exited, record, sandbox, state};
    use super::super::testing::pod;
    use super::*;
    use serde_json::{Value, json};

    fn decide(spec: Value, state: &RuntimeState, probes: &ProbeResults, backoffs: &BackOffs) -> Vec<String> {
        let pod = pod(spec);
        let view = View { pod: &pod, state, probes, backoffs, previous: None, now: at(101) };
        sync_pod(&view).iter().map(brief).collect()
    }
    fn brief(action: &Action) -> String {
        match action {
            Action::StopSandbox { id } => format!("stop sandbox {id}"),
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::Start { name, restart_count, .. } => format!("start {name} {restart_count}"),
            Action::BackOff { name, delay, .. } => format!("back off {name} {}", delay.as_secs()),
            Action::Stop { name, cause, .. } => format!("stop {name} {cause:?}"),
        }
    }
    fn run(name: &str) -> ContainerRecord {
        record(name, 0, Run::Running)
    }

    #[test]
    fn what_happens_next() {
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let never = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
        let init = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
        let init_never = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
        let sidecar = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "j"}], "containers": [{"name": "a"}]});
        let probed = json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}], "containers": [{"name": "a"}]});
        let dead = RuntimeState { sandboxes: vec![sandbox("s0", 0, false)], containers: vec![run("a")] };
        let cases: Vec<(&str, &Value, RuntimeState, &[&str])> = vec![
            ("first", &two, RuntimeState::default(), &["sandbox 0"]),
            ("start all", &two, state(vec![]), &["start a 0", "start b 0"]),
            ("keep", &two, state(vec![run("a"), run("b")]), &[]),
            ("restart", &two, state(vec![exited("a", 2, 1), run("b")]), &["start a 3"]),
            ("never", &never, state(vec![exited("a", 0, 1)]), &[]),
            ("lost sandbox", &two, dead.clone(), &["stop sandbox s0", "sandbox 1"]),
            ("lost, never", &never, dead, &[]),
            ("init first", &init, state(vec![]), &["start i 0"]),
            ("init runs", &init, state(vec![run("i")]), &[]),
            ("init next", &init, state(vec![exited("i", 0, 0)]), &["start j 0"]),
            ("init failed", &init, state(vec![exited("i", 0, 1)]), &["start i 1"]),
            ("init failed for good", &init_never, state(vec![exited("i", 0, 1)]), &[]),
            ("init done", &init, state(vec![exited("i", 0, 0), exited("j", 0, 0)]), &["start a 0"]),
            ("initialized stays", &init, state(vec![run("a")]), &[]),
            ("sidecar runs on", &sidecar, state(vec![run("s")]), &["start j 0"]),
            ("sidecar again", &sidecar, state(vec![exited("s", 0, 0), run("a")]), &["start s 1"]),
            ("sidecar not started", &probed, state(vec![run("s")]), &[]),
        ];
        for (name, spec, state, expected) in cases {
            let actions = decide(spec.clone(), &state, &ProbeResults::default(), &BackOffs::default());
            assert_eq!(actions, expected, "{name}");
        }
    }

    #[test]
    fn failing_containers_wait() {
        let spec = json!({"containers": [{"name": "a"}]});
        let crashed = state(vec![exited("a", 1, 1)]);
        let mut backoffs = BackOffs::default();
        let test_pod = pod(spec.clone());
        backoffs.next(&backoff_key(&app_containers(&test_pod).next().unwrap()), at(100));
        let actions = decide(spec.clone(), &crashed, &ProbeResults::default(), &backoffs);
        assert_eq!(actions, ["back off a 10"]);
        let replaced = state(vec![ContainerRecord { replaced: true, ..exited("a", 1, 143) }]);
        assert_eq!(decide(spec, &replaced, &ProbeResults::default(), &backoffs), ["start a 2"]);
    }

    #[test]
    fn probes_and_new_definitions_stop_containers() {
        let spec =
            json!({"containers": [{"name": "a", "image": "x", "livenessProbe": {}, "startupProbe": {}}]});
        let mut probes = ProbeResults::default();
        let mut changed = run("a");
        changed.hash = 1;
        let none = BackOffs::default();
        assert_eq!(decide(spec.clone(), &state(vec![changed]), &probes, &none), ["stop a DefinitionChanged"]);
        probes.set("a-0", ProbeKind::Startup, Outcome::Failure);
        assert_eq!(decide(spec.clone(), &state(vec![run("a")]), &probes, &none), ["stop a StartupProbe"]);
        probes.set("a-0", ProbeKind::Liveness, Outcome::Failure);
        assert_eq!(decide(spec, &state(vec![run("a")]), &probes, &none), ["stop a LivenessProbe"]);
    }

    #[test]
    fn ephemeral_containers_run_once() {
        let spec = json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]});
        let none = (ProbeResults::default(), BackOffs::default());
        assert_eq!(decide(spec.clone(), &state(vec![run("a")]), &none.0, &none.1), ["start e 0"]);
        assert_eq!(decide(spec, &state(vec![run("a"), exited("e", 0, 1)]), &none.0, &none.1), [""; 0]);
    }
}
