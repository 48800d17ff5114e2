//! A pod's phase from the statuses of its containers.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::{Kind, app_containers, init_containers, restart_policy};

#[derive(Default)]
struct Counts {
    pending_init: usize,
    failed_init: usize,
    pending_sidecars: usize,
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    unknown: usize,
}

fn status_of<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

fn last_exit_code(status: &ContainerStatus) -> Option<i32> {
    Some(status.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// `over`: the pod is being ended for good, so nothing of it will be started again.
pub fn phase(pod: &Pod, init: &[ContainerStatus], app: &[ContainerStatus], over: bool) -> &'static str {
    let counts = count(pod, init, app);
    if counts.failed_init > 0 && restart_policy(pod) == "Never" {
        return "Failed";
    }
    let initialized = app.iter().any(has_run);
    let init_pending = counts.pending_init > 0 || (counts.pending_sidecars > 0 && !initialized);
    if (init_pending || counts.waiting > 0) && !over {
        return "Pending";
    }
    if counts.running > 0 && counts.unknown == 0 {
        return "Running";
    }
    if counts.running == 0 && counts.stopped > 0 && counts.unknown == 0 {
        return ended(pod, &counts, over);
    }
    "Pending"
}

fn ended(pod: &Pod, counts: &Counts, over: bool) -> &'static str {
    let all_well = counts.stopped == counts.succeeded;
    match restart_policy(pod) {
        _ if over => {
            if all_well {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        "Always" => "Running",
        _ if all_well => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}

fn has_run(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
        || last_exit_code(status).is_some()
}

fn count(pod: &Pod, init: &[ContainerStatus], app: &[ContainerStatus]) -> Counts {
    let mut counts = Counts::default();
    for spec in init_containers(pod) {
        let status = status_of(init, spec.name());
        if spec.kind == Kind::Sidecar {
            count_sidecar(status, &mut counts)
        } else {
            count_init(status, &mut counts)
        }
    }
    for spec in app_containers(pod) {
        count_app(status_of(app, spec.name()), &mut counts);
    }
    counts
}

fn count_init(status: Option<&ContainerStatus>, counts: &mut Counts) {
    let state = status.and_then(|s| s.state.as_ref());
    let exit_code = match state.and_then(|s| s.terminated.as_ref()) {
        Some(terminated) => Some(terminated.exit_code),
        None if state.is_some_and(|s| s.waiting.is_some()) => status.and_then(last_exit_code),
        None => None,
    };
    match exit_code {
        Some(0) => {}
        Some(_) => {
            counts.failed_init += 1;
            counts.pending_init += 1;
        }
        None => counts.pending_init += 1,
    }
}

fn count_sidecar(status: Option<&ContainerStatus>, counts: &mut Counts) {
    let Some(status) = status else {
        counts.unknown += 1;
        return;
    };
    let Some(state) = &status.state else { return };
    if state.running.is_some() {
        if status.started != Some(true) {
            counts.pending_sidecars += 1;
        }
        counts.running += 1;
    } else if state.terminated.is_none() && last_exit_code(status).is_none() {
        counts.pending_sidecars += 1;
    }
}

fn count_app(status: Option<&ContainerStatus>, counts: &mut Counts) {
    let Some((status, state)) = status.and_then(|s| Some((s, s.state.as_ref()?))) else {
        counts.unknown += 1;
        return;
    };
    if state.running.is_some() {
        counts.running += 1;
        return;
    }
    let exit_code = state.terminated.as_ref().map(|t| t.exit_code);
    let waiting_again = state.terminated.is_none() && last_exit_code(status).is_some();
    match exit_code {
        Some(code) => {
            counts.stopped += 1;
            counts.succeeded += usize::from(code == 0);
        }
        None if waiting_again => counts.stopped += 1,
        None => counts.waiting += 1,
    }
}
