//! Ending containers gracefully: hook, turn, TERM, grace, KILL.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use super::hooks;
use crate::context::Context;
use crate::events;
use crate::pod::state::ContainerRecord;
use crate::pod::sync::Cause;
use crate::pod::{ContainerSpec, Kind, find_container, init_containers};

/// A container gets at least this long to end, whatever its hook took.
const MIN_GRACE_SECONDS: i64 = 2;

/// Names of the containers of a dying pod that still run; sidecars wait for their turn on it.
type Alive = watch::Sender<Vec<String>>;

/// Stops all given containers of a pod: apps at once, sidecars after them in reverse order.
pub async fn pod(
    context: Arc<Context>,
    pod: Arc<Pod>,
    running: Vec<ContainerRecord>,
    pod_ip: String,
    grace: i64,
) {
    let alive: Arc<Alive> = Arc::new(watch::channel(running.iter().map(|r| r.name.clone()).collect()).0);
    let mut stops = tokio::task::JoinSet::new();
    for record in running {
        let (context, pod, ip, alive) = (context.clone(), pod.clone(), pod_ip.clone(), alive.clone());
        stops.spawn(async move {
            let stop = Stop { context: &context, pod: &pod, record: &record, pod_ip: &ip };
            stop.with_turn(grace, &alive).await;
            alive.send_modify(|names| names.retain(|name| *name != record.name));
        });
    }
    while stops.join_next().await.is_some() {}
}

/// Stops one container of a living pod.
pub async fn container(
    context: Arc<Context>,
    pod: Arc<Pod>,
    record: ContainerRecord,
    pod_ip: String,
    cause: Cause,
) {
    let stop = Stop { context: &context, pod: &pod, record: &record, pod_ip: &pod_ip };
    let spec = stop.spec();
    let probe = spec.as_ref().and_then(|s| match cause {
        Cause::LivenessProbe => s.container.liveness_probe.clone(),
        Cause::StartupProbe => s.container.startup_probe.clone(),
        Cause::DefinitionChanged | Cause::Resized => None,
    });
    let grace = probe.and_then(|p| p.termination_grace_period_seconds);
    let grace = grace.unwrap_or_else(|| crate::pod::grace_period_seconds(&pod));
    stop.tell(cause.message(&record.name));
    let left = stop.pre_stop(grace).await;
    stop.now(left.max(MIN_GRACE_SECONDS)).await;
}

/// Stops a container without ceremony: its start went wrong.
pub async fn failed_start(context: &Context, pod: &Pod, spec: &ContainerSpec<'_>, container_id: &str) {
    context.container_event(pod, spec, events::killing("FailedPostStartHook"));
    let grace = crate::pod::grace_period_seconds(pod);
    if let Err(error) = context.runtime.stop_container(container_id, grace).await {
        debug!(%error, container = spec.name(), "stopping after a failed hook");
    }
}

struct Stop<'a> {
    context: &'a Context,
    pod: &'a Pod,
    record: &'a ContainerRecord,
    pod_ip: &'a str,
}

impl Stop<'_> {
    fn spec(&self) -> Option<ContainerSpec<'_>> {
        find_container(self.pod, &self.record.name)
    }

    fn tell(&self, message: String) {
        if let Some(spec) = self.spec() {
            self.context.container_event(self.pod, &spec, events::killing(message));
        }
    }

    async fn with_turn(&self, grace: i64, alive: &Alive) {
        self.tell(format!("Stopping container {}", self.record.name));
        let mut left = if grace > 1 { self.pre_stop(grace).await } else { grace };
        let is_sidecar = self.spec().is_some_and(|s| s.kind == Kind::Sidecar);
        if is_sidecar && left > 0 {
            left -= self.wait_for_turn(left, alive).await;
        }
        // A forced deletion (grace 0 or 1) is not lengthened.
        let least = if grace > 1 { MIN_GRACE_SECONDS } else { grace };
        self.now(left.max(least)).await;
    }

    /// Runs the preStop hook within the grace period; gives back what is left of it.
    async fn pre_stop(&self, grace: i64) -> i64 {
        let Some(spec) = self.spec() else { return grace };
        let hook = spec.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        let Some(hook) = hook.filter(|_| grace > 0) else { return grace };
        let began = Instant::now();
        let run = hooks::run(self.context, &self.record.id, &spec.container, self.pod_ip, &hook);
        let patience = Duration::from_secs(grace.unsigned_abs());
        if let Ok(Err(error)) = tokio::time::timeout(patience, run).await {
            debug!(%error, container = spec.name(), "preStop hook");
            self.context.container_event(self.pod, &spec, events::pre_stop_failed());
        }
        grace - i64::try_from(began.elapsed().as_secs()).unwrap_or(grace)
    }

    /// Waits until the app containers and all later sidecars have ended.
    async fn wait_for_turn(&self, patience_seconds: i64, alive: &Alive) -> i64 {
        let sidecars: Vec<String> = init_containers(self.pod)
            .filter(|c| c.kind == Kind::Sidecar)
            .map(|c| c.name().to_owned())
            .collect();
        let own = sidecars.iter().position(|n| *n == self.record.name).unwrap_or(0);
        let waits_for = |name: &String| match sidecars.iter().position(|n| n == name) {
            Some(position) => position > own,
            None => true,
        };
        let mut watcher = alive.subscribe();
        let began = Instant::now();
        let turn = watcher.wait_for(|names| !names.iter().any(waits_for));
        let _ = tokio::time::timeout(Duration::from_secs(patience_seconds.unsigned_abs()), turn).await;
        i64::try_from(began.elapsed().as_secs()).unwrap_or(patience_seconds)
    }

    async fn now(&self, grace: i64) {
        if let Err(error) = self.context.runtime.stop_container(&self.record.id, grace).await {
            debug!(%error, container = self.record.name, "stop");
            if let Some(spec) = self.spec() {
                let notice = events::kill_failed("KillContainer", &self.record.name, &error);
                self.context.container_event(self.pod, &spec, notice);
            }
        }
    }
}
