//! The conditions a kubelet owns: reasons and messages as upstream words them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Kind, app_containers, init_containers, spec};

/// Conditions of these types are the kubelet's, and always there.
const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// These as well, but only while a resize waits or is under way.
const PASSING: [&str; 2] = [super::resize::PENDING, super::resize::IN_PROGRESS];

pub fn is_owned(kind: &str) -> bool {
    OWNED.contains(&kind) || PASSING.contains(&kind)
}

pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub phase: &'a str,
    pub init: &'a [ContainerStatus],
    pub app: &'a [ContainerStatus],
    pub sandbox_ready: bool,
    pub now: Timestamp,
}

#[derive(Default)]
struct Verdict {
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Self {
        Verdict { ok: true, ..Verdict::default() }
    }
    fn no(reason: &'static str, message: String) -> Self {
        let message = (!message.is_empty()).then_some(message);
        Verdict { ok: false, reason: Some(reason), message }
    }
}

/// The owned conditions, times of unchanged ones carried over from `before`.
pub fn conditions(inputs: &Inputs, before: &[PodCondition]) -> Vec<PodCondition> {
    let containers_ready = containers_ready(inputs);
    let ready = ready(inputs, &containers_ready, before);
    let verdicts = [
        Verdict { ok: inputs.sandbox_ready, ..Verdict::default() },
        initialized(inputs),
        ready,
        containers_ready,
        Verdict::yes(),
    ];
    OWNED.iter().zip(verdicts).map(|(kind, verdict)| condition(kind, verdict, inputs, before)).collect()
}

fn condition(kind: &str, verdict: Verdict, inputs: &Inputs, before: &[PodCondition]) -> PodCondition {
    let status = if verdict.ok { "True" } else { "False" };
    let old = before.iter().find(|c| c.type_ == kind);
    let unchanged = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: Some(unchanged.unwrap_or(Time(inputs.now))),
        observed_generation: inputs.pod.metadata.generation,
        last_probe_time: None,
    }
}

fn terminal(phase: &str) -> Option<Verdict> {
    match phase {
        "Failed" => Some(Verdict::no("PodFailed", String::new())),
        "Succeeded" => Some(Verdict::no("PodCompleted", String::new())),
        _ => None,
    }
}

/// `[a b]`, as Go prints a list of strings.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn join(unknown: &[&str], other: &[&str], what: &str) -> String {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", list(unknown)));
    }
    if !other.is_empty() {
        parts.push(format!("containers with {what} status: {}", list(other)));
    }
    parts.join(", ")
}

fn containers_ready(inputs: &Inputs) -> Verdict {
    if let Some(verdict) = terminal(inputs.phase) {
        return verdict;
    }
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = init_containers(inputs.pod).filter(|c| c.kind == Kind::Sidecar);
    let names: Vec<String> =
        sidecars.chain(app_containers(inputs.pod)).map(|c| c.name().to_owned()).collect();
    for name in &names {
        match inputs.init.iter().chain(inputs.app).find(|s| s.name == *name) {
            None => unknown.push(name.as_str()),
            Some(status) if !status.ready => unready.push(name.as_str()),
            Some(_) => {}
        }
    }
    let message = join(&unknown, &unready, "unready");
    if message.is_empty() { Verdict::yes() } else { Verdict::no("ContainersNotReady", message) }
}

fn ready(inputs: &Inputs, containers_ready: &Verdict, before: &[PodCondition]) -> Verdict {
    if !containers_ready.ok {
        return Verdict {
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
            ok: false,
        };
    }
    let mut unmet = Vec::new();
    for gate in spec(inputs.pod).readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match before.iter().find(|c| c.type_ == *kind) {
            None => {
                unmet.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist."))
            }
            Some(c) if c.status != "True" => {
                unmet.push(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    c.status
                ));
            }
            Some(_) => {}
        }
    }
    if unmet.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", unmet.join(", ")) }
}

fn initialized(inputs: &Inputs) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    let specs: Vec<(String, Kind)> =
        init_containers(inputs.pod).map(|c| (c.name().to_owned(), c.kind)).collect();
    for (name, kind) in &specs {
        let Some(status) = inputs.init.iter().find(|s| s.name == *name) else {
            unknown.push(name.as_str());
            continue;
        };
        let done = if *kind == Kind::Sidecar { status.started == Some(true) } else { status.ready };
        if !done {
            incomplete.push(name.as_str());
        }
    }
    if inputs.phase == "Succeeded" && unknown.is_empty() {
        return Verdict { ok: true, reason: Some("PodCompleted"), message: None };
    }
    let app_started = inputs.app.iter().any(|s| {
        s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
            || s.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    });
    let message = join(&unknown, &incomplete, "incomplete");
    if app_started || message.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotInitialized", message)
}
