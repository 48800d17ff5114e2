//! Care for a pod that lives: volumes that follow their sources, old instances.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::{Event, Life, Worker};
use crate::volumes;

/// How often volumes are looked at without a sign of change: tokens run out.
const VOLUME_REFRESH: SignedDuration = SignedDuration::from_secs(60);

impl Worker {
    pub(super) fn refresh_volumes(&mut self, now: Timestamp) {
        if !volumes::follows_sources(&self.pod) || self.state.running().next().is_none() {
            return;
        }
        if self.following {
            // What changed meanwhile is looked at when this round is over.
            return;
        }
        let due = self.volumes_at.map_or(now, |at| at + VOLUME_REFRESH);
        if now < due {
            return self.wake_at(due);
        }
        self.wake_at(now + VOLUME_REFRESH);
        self.volumes_at = Some(now);
        self.following = true;
        let addresses = crate::spec::downward::Addresses {
            pod_ips: self.state.ips().to_vec(),
            host_ips: self.context.host_ips(),
        };
        let (context, pod, sender) = (self.context.clone(), self.pod.clone(), self.sender.clone());
        tokio::spawn(async move {
            let outcome = volumes::set_up(&context, &pod, &addresses, true).await;
            let _ = sender.send(Event::Volumes(outcome)).await;
        });
    }

    /// A config map or secret that the pod refers to is there, changed or gone.
    pub(super) fn sources_changed(&mut self) {
        self.volumes_at = None;
        self.sources_moved = self.starting.is_some();
        let waiting = &self.waiting;
        let misses_source = |name: &str| {
            name.is_empty() || waiting.get(name).is_some_and(|w| w.reason == "CreateContainerConfigError")
        };
        self.hold.retain(|name, _| !misses_source(name));
    }

    /// Keeps watches on what the pod refers to for as long as it can use them.
    pub(super) fn follow_objects(&self) {
        match self.life {
            Life::Fresh | Life::Running => self.context.objects.follow(&self.pod),
            Life::Terminating { .. } | Life::Terminated | Life::Gone => {
                self.context.objects.forget(&self.pod);
            }
        }
    }

    /// Of each container the newest instance and the one before are kept, likewise of sandboxes.
    pub(super) fn prune(&mut self) {
        let sandboxes: Vec<String> =
            self.state.sandboxes.iter().skip(2).filter(|s| !s.ready).map(|s| s.id.clone()).collect();
        let mut seen: HashMap<&str, u32> = HashMap::new();
        let mut old = Vec::new();
        for record in &self.state.containers {
            let count = seen.entry(record.name.as_str()).or_default();
            *count += 1;
            if *count > 2 && !record.is_running() {
                old.push((record.id.clone(), record.log_path.clone()));
            }
        }
        if old.is_empty() && sandboxes.is_empty() {
            return;
        }
        self.state.containers.retain(|c| !old.iter().any(|(id, _)| *id == c.id));
        self.state.sandboxes.retain(|s| !sandboxes.contains(&s.id));
        let runtime = self.context.runtime.clone();
        tokio::spawn(async move {
            for (id, log) in old {
                let _ = runtime.remove_container(&id).await;
                let _ = std::fs::remove_file(log);
            }
            for id in sandboxes {
                let _ = runtime.remove_sandbox(&id).await;
            }
        });
    }
}
