//! What a hollow pod does next, and how it looks: the real status computation over containers
//! that are only imagined.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::pod::resize::Standing;
use crate::pod::state::{ContainerRecord, Outcome, ProbeResults, Run, RuntimeState, Sandbox};
use crate::pod::status::{StatusView, pod_status};
use crate::pod::{Kind, ProbeKind, annotation, containers, grace_period_seconds, is_host_network};

pub struct Timing {
    pub start: Duration,
    pub stop: Duration,
    pub seen: Timestamp,
    pub now: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    Wait(Duration),
    Write(Phase),
    Delete,
    Rest,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    Running,
    Completed,
}

fn left(since: Timestamp, delay: Duration, now: Timestamp) -> Option<Duration> {
    let due = since + SignedDuration::try_from(delay).unwrap_or(SignedDuration::ZERO);
    Duration::try_from(due.duration_since(now)).ok().filter(|d| !d.is_zero())
}

pub fn next(pod: &Pod, timing: &Timing) -> Step {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if let Some(deletion) = &pod.metadata.deletion_timestamp {
        let grace = SignedDuration::from_secs(grace_period_seconds(pod));
        // The deletion timestamp lies at the end of the grace period.
        let asked = deletion.0 - grace;
        let patience = timing.stop.min(Duration::try_from(grace).unwrap_or_default());
        return left(asked.max(timing.seen), patience, timing.now).map_or(Step::Delete, Step::Wait);
    }
    match phase {
        "Succeeded" | "Failed" => Step::Rest,
        "Running" => match complete_after(pod) {
            None if is_overruled(pod) => Step::Write(Phase::Running),
            None => Step::Rest,
            Some(delay) => {
                let start =
                    pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(timing.seen, |t| t.0);
                left(start, delay, timing.now).map_or(Step::Write(Phase::Completed), Step::Wait)
            }
        },
        _ => left(timing.seen, timing.start, timing.now).map_or(Step::Write(Phase::Running), Step::Wait),
    }
}

/// Someone says that the pod is not ready, as is done for those of a node that was not heard of, and
/// nothing that the pod waits for stands against it.
fn is_overruled(pod: &Pod) -> bool {
    let holds = |kind: &str| {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.filter(|c| c.type_ == kind).any(|c| c.status == "True")
    };
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    !holds("Ready") && gates.into_iter().all(|gate| holds(&gate.condition_type))
}

/// Since when a container runs, as far as it was told before.
fn started_at(pod: &Pod, name: &str) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let told = lists.into_iter().flatten().flatten().find(|s| s.name == name)?;
    Some(told.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

fn complete_after(pod: &Pod) -> Option<Duration> {
    Some(Duration::from_millis(annotation(pod, super::COMPLETE_AFTER)?.parse().ok()?))
}

pub fn status(pod: &Pod, phase: Phase, ip: &str, host_ip: &str, now: Timestamp) -> PodStatus {
    let mut probes = ProbeResults::default();
    let records = containers(pod).map(|spec| {
        let over = spec.kind == Kind::Init || phase == Phase::Completed;
        // One instance per container: its name is id enough, made unique by the pod's.
        let id = format!("{}-{}", pod.metadata.uid.as_deref().unwrap_or(""), spec.name());
        probes.set(&id, ProbeKind::Startup, Outcome::Success);
        probes.set(&id, ProbeKind::Readiness, Outcome::Success);
        let since = started_at(pod, spec.name()).unwrap_or(now);
        ContainerRecord {
            id,
            sandbox_id: "hollow".to_owned(),
            name: spec.name().to_owned(),
            run: if over { Run::Exited } else { Run::Running },
            created_at: Some(since),
            started_at: Some(since),
            finished_at: over.then_some(now),
            image: spec.container.image.clone().unwrap_or_default(),
            image_id: "sha256:hollow".to_owned(),
            ..ContainerRecord::default()
        }
    });
    let sandbox = Sandbox {
        id: "hollow".to_owned(),
        ready: phase == Phase::Running,
        ips: vec![ip.to_owned()],
        host_network: is_host_network(pod),
        ..Sandbox::default()
    };
    let state = RuntimeState { containers: records.collect(), sandboxes: vec![sandbox] };
    pod_status(&StatusView {
        pod,
        state: &state,
        probes: &probes,
        resize: &Standing::default(),
        actuated: &HashMap::new(),
        waiting: &BTreeMap::new(),
        previous: pod.status.as_ref(),
        failed: None,
        over: phase == Phase::Completed,
        host_ips: &[host_ip.to_owned()],
        runtime_name: "hollow",
        now,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::with_meta;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }
    fn pod(annotations: serde_json::Value) -> Pod {
        with_meta(
            json!({"name": "p", "namespace": "ns", "uid": "u", "annotations": annotations}),
            json!({"containers": [{"name": "a", "image": "x", "readinessProbe": {}}]}),
        )
    }
    fn timing(now: i64) -> Timing {
        Timing {
            start: Duration::from_millis(20),
            stop: Duration::from_millis(50),
            seen: at(0),
            now: at(now),
        }
    }

    #[test]
    fn a_life() {
        let mut pod = pod(json!({"hollow.amphipod.io/complete-after-ms": "100"}));
        assert_eq!(next(&pod, &timing(5)), Step::Wait(Duration::from_millis(15)));
        assert_eq!(next(&pod, &timing(20)), Step::Write(Phase::Running));
        let running = status(&pod, Phase::Running, "10.128.0.2", "172.16.0.1", at(20));
        assert_eq!(
            (running.phase.as_deref(), running.pod_ip.as_deref()),
            (Some("Running"), Some("10.128.0.2"))
        );
        assert!(running.container_statuses.as_ref().unwrap()[0].ready);
        let ready = running.conditions.as_ref().unwrap().iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "True");
        pod.status = Some(running);
        assert_eq!(next(&pod, &timing(130)), Step::Write(Phase::Completed));
        pod.metadata.deletion_grace_period_seconds = Some(30);
        pod.metadata.deletion_timestamp = Some(Time(at(30_100)));
        assert_eq!(next(&pod, &timing(110)), Step::Wait(Duration::from_millis(40)));
        assert_eq!(next(&pod, &timing(150)), Step::Delete);
    }

    #[test]
    fn pods_that_stay() {
        let mut pod = pod(json!({}));
        pod.status = Some(status(&pod, Phase::Running, "1.1.1.1", "2.2.2.2", at(0)));
        assert_eq!(next(&pod, &timing(1000)), Step::Rest);
        let since =
            |pod: &Pod| pod.status.as_ref().unwrap().container_statuses.clone().unwrap()[0].state.clone();
        let told = since(&pod);
        let condition = |pod: &mut Pod, kind: &str, holds: &str| {
            let conditions = pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions.retain(|c| c.type_ != kind);
            conditions.push(serde_json::from_value(json!({"type": kind, "status": holds})).unwrap());
        };
        condition(&mut pod, "Ready", "False");
        assert_eq!(next(&pod, &timing(1000)), Step::Write(Phase::Running));
        let gate = serde_json::from_value(json!([{"conditionType": "example.com/gate"}])).unwrap();
        pod.spec.as_mut().unwrap().readiness_gates = gate;
        assert_eq!(next(&pod, &timing(1000)), Step::Rest, "the gate is closed");
        condition(&mut pod, "example.com/gate", "True");
        assert_eq!(next(&pod, &timing(1000)), Step::Write(Phase::Running));
        pod.status = Some(status(&pod, Phase::Running, "1.1.1.1", "2.2.2.2", at(1000)));
        assert_eq!((next(&pod, &timing(1001)), since(&pod)), (Step::Rest, told));
    }
}
