//! What each pod's status has of its own: addresses, times, names of containers. The rest is the same
//! for all pods of a template that do well.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own {
    pub pod_ip: Option<String>,
    pub pod_ips: Option<Vec<PodIP>>,
    pub start_time: Option<Time>,
    host_ip: Option<String>,
    host_ips: Option<Vec<HostIP>>,
    /// When each condition last turned, in their order; empty where none says so.
    conditions: Box<[Option<Time>]>,
    /// Of the app containers, in their order; empty where there is nothing to tell.
    containers: Box<[OwnContainer]>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct OwnContainer {
    id: Option<Box<str>>,
    running_since: Option<Time>,
}

impl Own {
    /// Takes it out of a status.
    pub(super) fn take(status: &mut PodStatus) -> Self {
        let conditions = status.conditions.iter_mut().flatten().map(|c| c.last_transition_time.take());
        let containers = status.container_statuses.iter_mut().flatten().map(OwnContainer::take);
        Own {
            conditions: unless_all_default(conditions.collect()),
            containers: unless_all_default(containers.collect()),
            pod_ip: status.pod_ip.take(),
            pod_ips: status.pod_ips.take(),
            host_ip: status.host_ip.take(),
            host_ips: status.host_ips.take(),
            start_time: status.start_time.take(),
        }
    }

    /// Undoes [`Own::take`].
    pub(super) fn put_back(&self, status: &mut PodStatus) {
        for (condition, since) in status.conditions.iter_mut().flatten().zip(&self.conditions) {
            condition.last_transition_time.clone_from(since);
        }
        for (container, own) in status.container_statuses.iter_mut().flatten().zip(&self.containers) {
            own.put_back(container);
        }
        status.pod_ip.clone_from(&self.pod_ip);
        status.pod_ips.clone_from(&self.pod_ips);
        status.host_ip.clone_from(&self.host_ip);
        status.host_ips.clone_from(&self.host_ips);
        status.start_time.clone_from(&self.start_time);
    }

    pub(super) fn condition_since(&self, index: usize) -> Option<Timestamp> {
        self.conditions.get(index)?.as_ref().map(|time| time.0)
    }
}

impl OwnContainer {
    fn take(status: &mut ContainerStatus) -> Self {
        let running = status.state.as_mut().and_then(|state| state.running.as_mut());
        OwnContainer {
            id: status.container_id.take().map(String::into_boxed_str),
            running_since: running.and_then(|running| running.started_at.take()),
        }
    }
    fn put_back(&self, status: &mut ContainerStatus) {
        status.container_id = self.id.as_deref().map(str::to_owned);
        if let Some(running) = status.state.as_mut().and_then(|state| state.running.as_mut()) {
            running.started_at.clone_from(&self.running_since);
        }
    }
}

fn unless_all_default<T: Default + PartialEq>(parts: Vec<T>) -> Box<[T]> {
    if parts.iter().all(|part| *part == T::default()) { Box::default() } else { parts.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use crate::{CachedPod, Resource};

    fn status(last: u8) -> Value {
        let at = format!("2026-01-01T00:00:{last:02}Z");
        let ip = format!("10.0.0.{last}");
        json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": ip, "hostIPs": [{"ip": ip}],
            "startTime": at, "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": at}],
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "containerID": format!("hollow://{last}"), "state": {"running": {"startedAt": at}}}]})
    }

    fn cached(status: &Value) -> CachedPod {
        CachedPod::decode(json!({"metadata": {}, "status": status}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn pods_that_do_well_share_a_status_and_keep_their_own() {
        let (one, other) = (cached(&status(1)), cached(&status(2)));
        let shared = |pod: &CachedPod| pod.status.clone().unwrap();
        assert!(Arc::ptr_eq(&shared(&one), &shared(&other)));
        for (pod, last) in [(&one, 1), (&other, 2)] {
            assert_eq!(serde_json::to_value(pod.to_pod().status).unwrap(), status(last), "nothing is lost");
            let since = |kind: &str| pod.condition(kind).unwrap().since.map(|at| at.to_string());
            assert_eq!(since("Ready"), Some(format!("2026-01-01T00:00:0{last}Z")));
            assert_eq!(since("Initialized"), None);
        }
        assert!(one.condition("Ready").unwrap().is_true() && one.condition("PodScheduled").is_none());
    }

    #[test]
    fn what_ended_says_when_in_the_shared_status() {
        let mut ended = status(1);
        ended["containerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:09Z"}});
        let pod = cached(&ended);
        assert_eq!(serde_json::to_value(pod.to_pod().status).unwrap(), ended);
        let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap();
        assert!(statuses[0].state.as_ref().unwrap().terminated.as_ref().unwrap().finished_at.is_some());
    }
}
