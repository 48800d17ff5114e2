//! Probing containers: one small task per probe, its standing result sent to the pod's worker.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::events;
use crate::pod::state::Outcome;
use crate::pod::{ContainerSpec, ProbeKind};

mod grpc;
pub mod http;
mod verdict;

use verdict::Verdict;

/// Output of a probe shown in events.
const MAX_SHOWN: usize = 10 * 1024;

/// One probe of one running instance.
pub struct Target {
    pub pod: Arc<Pod>,
    pub spec: ContainerSpec<'static>,
    pub kind: ProbeKind,
    pub container_id: String,
    pub started_at: Timestamp,
    pub pod_ip: String,
    /// The result known from before a restart of the kubelet.
    pub seed: Option<Outcome>,
}

/// What one probing came to.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Success,
    /// Success with something to tell.
    Warning(String),
    Failure(String),
    /// The probe itself could not be made.
    Error(String),
}

/// Probes until told to stop; `report` gets each change of the standing result.
pub fn spawn(
    context: Arc<Context>,
    target: Target,
    report: impl Fn(Outcome) + Send + Sync + 'static,
) -> AbortHandle {
    tokio::spawn(run(context, target, report)).abort_handle()
}

async fn run(context: Arc<Context>, target: Target, report: impl Fn(Outcome) + Send + Sync) {
    let Some(probe) = target.kind.of(&target.spec.container).cloned() else { return };
    let positive =
        |value: Option<i32>, default: u32| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default);
    let success = positive(probe.success_threshold, 1);
    let mut verdict =
        Verdict::new(target.kind, success, positive(probe.failure_threshold, 3)).seeded(target.seed);
    report(verdict.standing());
    let delay = Duration::from_secs(u64::from(positive(probe.initial_delay_seconds, 0)));
    let age = Timestamp::now().duration_since(target.started_at);
    let age = Duration::try_from(age).unwrap_or_default();
    tokio::time::sleep(delay.saturating_sub(age)).await;
    let period = Duration::from_secs(u64::from(positive(probe.period_seconds, 10).max(1)));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = once(&context, &target, &probe).await;
        let outcome = tell(&context, &target, &answer);
        if !verdict.add(outcome) {
            continue;
        }
        report(verdict.standing());
        // The container will be restarted, or has started: this probe has said what it had to say.
        let over = match target.kind {
            ProbeKind::Startup => true,
            ProbeKind::Liveness => verdict.standing() == Outcome::Failure,
            ProbeKind::Readiness => false,
        };
        if over {
            return;
        }
    }
}

/// Events of an answer, and what it counts as.
fn tell(context: &Context, target: &Target, answer: &Answer) -> Outcome {
    let kind = target.kind.as_str();
    let tell = |notice| context.container_event(&target.pod, &target.spec, notice);
    context.metrics.probe(target.kind, !matches!(answer, Answer::Failure(_) | Answer::Error(_)));
    match answer {
        Answer::Success => Outcome::Success,
        Answer::Warning(text) => {
            tell(events::probe_warned(kind, text));
            Outcome::Success
        }
        Answer::Failure(text) => {
            tell(events::probe_failed(kind, text));
            Outcome::Failure
        }
        Answer::Error(text) => {
            tell(events::probe_errored(kind, text));
            Outcome::Failure
        }
    }
}

async fn once(context: &Context, target: &Target, probe: &Probe) -> Answer {
    let seconds = probe.timeout_seconds.and_then(|t| u64::try_from(t).ok()).unwrap_or(1).max(1);
    let timeout = Duration::from_secs(seconds);
    let container: &Container = &target.spec.container;
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return exec_probe(context, &target.container_id, command, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let url = match http::url(action, container, &target.pod_ip) {
            Ok(url) => url,
            Err(error) => return Answer::Error(error),
        };
        let headers = action.http_headers.as_deref().unwrap_or_default();
        return http_answer(http::get(&url, headers, timeout).await);
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.pod_ip);
        return match http::port_number(&action.port, container) {
            Ok(port) => tcp_probe(host, port, timeout).await,
            Err(error) => Answer::Error(error),
        };
    }
    if let Some(action) = &probe.grpc {
        let Ok(port) = u16::try_from(action.port) else { return Answer::Error("invalid port".into()) };
        return grpc::probe(&target.pod_ip, port, action.service.as_deref().unwrap_or(""), timeout).await;
    }
    Answer::Error(format!("missing probe handler for {}", crate::pod::display(&target.pod)))
}

fn http_answer(answer: Result<http::Answer, String>) -> Answer {
    match answer {
        Ok(answer) if answer.left_host => {
            Answer::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
        }
        Ok(answer) if (200..400).contains(&answer.code) => Answer::Success,
        Ok(answer) => Answer::Failure(format!("HTTP probe failed with statuscode: {}", answer.code)),
        Err(error) => Answer::Failure(error),
    }
}

async fn tcp_probe(host: &str, port: u16, timeout: Duration) -> Answer {
    match tokio::time::timeout(timeout, http::dial(host, port)).await {
        Ok(Ok(_)) => Answer::Success,
        Ok(Err(error)) => Answer::Failure(error),
        Err(_) => Answer::Failure(format!("dial tcp {}: i/o timeout", http::join_host_port(host, port))),
    }
}

async fn exec_probe(context: &Context, id: &str, command: Vec<String>, timeout: Duration) -> Answer {
    let shown = command.join(" ");
    let timed_out = || format!("command timed out: {shown:?} timed out after {}s", timeout.as_secs());
    let call = context.runtime.exec_sync(id, command, timeout);
    match tokio::time::timeout(timeout + Duration::from_secs(1), call).await {
        Err(_) => Answer::Failure(timed_out()),
        Ok(Err(crate::Error::Runtime(status))) if status.code() == tonic::Code::DeadlineExceeded => {
            Answer::Failure(timed_out())
        }
        Ok(Err(error)) => Answer::Error(error.to_string()),
        Ok(Ok(output)) if output.exit_code == 0 => Answer::Success,
        Ok(Ok(output)) => {
            let end = output.output.len().min(MAX_SHOWN);
            Answer::Failure(String::from_utf8_lossy(&output.output[..end]).into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_codes() {
        let answer = |code, left_host| http_answer(Ok(http::Answer { code, body: "b".into(), left_host }));
        assert_eq!(answer(200, false), Answer::Success);
        assert_eq!(answer(399, false), Answer::Success);
        assert_eq!(answer(503, false), Answer::Failure("HTTP probe failed with statuscode: 503".into()));
        assert_eq!(answer(302, true), Answer::Warning("Probe terminated redirects, Response body: b".into()));
    }
}
