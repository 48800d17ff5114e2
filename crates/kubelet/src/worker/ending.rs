//! The end of a pod: its containers stopped, its traces on the node removed, its object deleted.

use std::time::Duration;

use amphipod_client::{Api, DeleteParams, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tracing::{debug, warn};

use super::{Event, Life, Worker, kill};
use crate::events;
use crate::pod::{grace_period_seconds, is_static};
use crate::volumes;

/// How long the last status may take to be written before the object is deleted anyway.
const FLUSH: Duration = Duration::from_secs(30);
/// Another look at containers that would not stop.
const RETRY: SignedDuration = SignedDuration::from_secs(1);

impl Worker {
    /// Nothing new is started from here on.
    pub(super) fn begin_end(&mut self) {
        if let Some(starting) = &self.starting {
            starting.cancel();
        }
        self.life = Life::Terminating { grace: grace_period_seconds(&self.pod) };
        self.inbox.withdraw();
        // Restart work is over: the kill of the whole pod takes its place.
        for (_, stop) in self.stopping.drain() {
            stop.abort();
        }
    }

    pub(super) async fn end_step(&mut self, now: Timestamp) {
        if let Life::Terminating { grace } = self.life {
            self.terminate(grace, now).await;
        }
        let asked = self.pod.metadata.deletion_timestamp.is_some() || self.removed;
        if self.life == Life::Terminated && asked {
            self.publish(now);
            self.clean_up().await;
            self.life = Life::Gone;
        }
    }

    async fn terminate(&mut self, grace: i64, now: Timestamp) {
        if self.starting.is_some() {
            return; // it was told to stop and will report
        }
        let wanted = grace_period_seconds(&self.pod);
        if wanted < grace {
            // Deleted again with less patience.
            self.life = Life::Terminating { grace: wanted };
            if let Some(killing) = self.killing.take() {
                killing.abort();
            }
        }
        if self.killing.is_some() || self.stale {
            return;
        }
        let running: Vec<_> = self.state.running().cloned().collect();
        if running.is_empty() {
            return self.stop_sandboxes(now).await;
        }
        let grace = grace.min(wanted);
        let ip = self.pod_ip();
        let (context, pod, sender) = (self.context.clone(), self.pod.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            kill::pod(context, pod, running, ip, grace).await;
            let _ = sender.send(Event::Killed).await;
        });
        self.killing = Some(task.abort_handle());
    }

    async fn stop_sandboxes(&mut self, now: Timestamp) {
        let ids: Vec<String> = self.state.sandboxes.iter().map(|s| s.id.clone()).collect();
        for id in ids {
            if let Err(error) = self.context.runtime.stop_sandbox(&id).await {
                let notice = events::kill_failed("KillPodSandbox", self.pod.uid(), &error);
                self.context.event(&self.pod, notice);
                self.wake_at(now + RETRY);
                return;
            }
        }
        self.refresh().await;
        if self.stale || self.state.running().next().is_some() {
            self.wake_at(now + RETRY);
            return;
        }
        // The phase that the end itself decides: everything has stopped now.
        self.publish(now);
        self.life = Life::Terminated;
        self.inbox.release();
        let dir = self.context.config.pod_dir(self.pod.uid());
        for part in ["volume-subpaths", "volumes"] {
            if let Err(error) = volumes::tear_down(&dir.join(part)) {
                warn!(%error, pod = self.pod.name(), "volumes could not be removed");
            }
        }
        self.context.tokens.forget_pod(self.pod.uid());
        self.context.cgroups.remove(self.pod.uid());
    }

    /// Removes every trace of the pod, the API object last.
    async fn clean_up(&mut self) {
        let runtime = &self.context.runtime;
        for sandbox in &self.state.sandboxes {
            if let Err(error) = runtime.stop_sandbox(&sandbox.id).await {
                debug!(%error, "stopping a sandbox");
            }
        }
        for container in &self.state.containers {
            if let Err(error) = runtime.remove_container(&container.id).await {
                debug!(%error, "removing a container");
            }
        }
        for sandbox in &self.state.sandboxes {
            if let Err(error) = runtime.remove_sandbox(&sandbox.id).await {
                debug!(%error, "removing a sandbox");
            }
        }
        let pod = &self.pod;
        if let Err(error) = volumes::tear_down(&self.context.config.pod_dir(pod.uid())) {
            warn!(%error, pod = pod.name(), "the pod's folder could not be removed");
        }
        let _ =
            std::fs::remove_dir_all(self.context.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid()));
        self.context.cgroups.remove(pod.uid());
        self.inbox.release();
        if !self.removed && !is_static(pod) {
            self.poster.flushed(FLUSH).await;
            self.delete_object().await;
        }
    }

    /// Takes the pod out of the API for good.
    async fn delete_object(&self) {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            uid: Some(self.pod.uid().to_owned()),
            ..DeleteParams::default()
        };
        let api = Api::<Pod>::namespaced(self.context.client.clone(), self.pod.namespace());
        let mut retry = Duration::from_millis(100);
        // Bounded: the pod's next event or the pod garbage collector tries again.
        for _ in 0..10 {
            match api.delete(self.pod.name(), &params).await {
                Ok(()) => return,
                Err(error) if error.is_not_found() || error.is_conflict() => return,
                Err(error) => debug!(%error, pod = self.pod.name(), "the pod could not be deleted"),
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(Duration::from_secs(10));
        }
        warn!(
            pod = self.pod.name(),
            namespace = self.pod.namespace(),
            "gave up deleting a pod that has ended"
        );
    }
}
