//! Which probes of a pod run, and how their results come back.

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Event, Life, Worker};
use crate::pod::state::ContainerRecord;
use crate::pod::sync::is_started;
use crate::pod::{ContainerSpec, ProbeKind, containers};
use crate::probes;

impl Worker {
    /// Starts the probes that should run and ends the others.
    pub(super) fn reconcile_probes(&mut self) {
        let ending = !matches!(self.life, Life::Running);
        let mut wanted = Vec::new();
        for spec in containers(&self.pod) {
            let Some(record) = self.state.latest(spec.name()).filter(|r| r.is_running()) else { continue };
            let started = is_started(&spec, record, &self.probes);
            for kind in ProbeKind::ALL {
                let due = match kind {
                    ProbeKind::Startup => !started && !ending,
                    ProbeKind::Liveness => started && !ending,
                    ProbeKind::Readiness => started,
                };
                if due && kind.of(&spec.container).is_some() {
                    wanted.push((spec.clone().into_owned(), record.clone(), kind));
                }
            }
        }
        let keep = |id: &str, kind: ProbeKind| wanted.iter().any(|(_, r, k)| r.id == id && *k == kind);
        self.probers.retain(|(id, kind), task| {
            let keep = keep(id, *kind);
            if !keep {
                task.abort();
            }
            keep
        });
        let containers = &self.state.containers;
        self.probes.retain_containers(|id| containers.iter().any(|c| c.id == id && c.is_running()));
        for (spec, record, kind) in wanted {
            self.spawn_probe(spec, &record, kind);
        }
    }

    fn spawn_probe(&mut self, spec: ContainerSpec<'static>, record: &ContainerRecord, kind: ProbeKind) {
        let key = (record.id.clone(), kind);
        if self.probers.contains_key(&key) {
            return;
        }
        let target = probes::Target {
            pod: self.pod.clone(),
            spec,
            kind,
            container_id: record.id.clone(),
            started_at: record.started_at.unwrap_or(Timestamp::UNIX_EPOCH),
            pod_ip: self.pod_ip(),
            seed: self.probes.get(&record.id, kind),
        };
        let (sender, id) = (self.sender.clone(), record.id.clone());
        let report = move |outcome| {
            let event = Event::Probe { container_id: id.clone(), kind, outcome };
            let sender = sender.clone();
            // The queue is bounded; a result must not be lost, so a task waits for room.
            if let Err(mpsc::error::TrySendError::Full(event)) = sender.try_send(event) {
                tokio::spawn(async move { sender.send(event).await });
            }
        };
        self.probers.insert(key, probes::spawn(self.context.clone(), target, report));
    }
}
