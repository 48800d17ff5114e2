//! The two kinds, seen as replica owners.

use amphipod_api::selector::LabelSelector;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};

use super::core::{ReplicaOwner, Set, Status};
use crate::selector;
use crate::selector::Labels;

/// Zero counts are left out on the wire.
fn counted(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

impl ReplicaOwner for ReplicaSet {
    const QUEUE: &'static str = "replicaset";
    fn selector(&self) -> Option<LabelSelector> {
        selector::from_object(self.spec.as_ref().map(|spec| &spec.selector))
    }
    fn takes(&self, labels: Labels<'_>) -> bool {
        selector::object_matches(self.spec.as_ref().map(|spec| &spec.selector), labels)
    }
    fn view(&self) -> Set<'_> {
        let spec = self.spec.as_ref();
        let status = self.status.clone().unwrap_or_default();
        Set {
            replicas: spec.and_then(|s| s.replicas).unwrap_or(1),
            min_ready_seconds: spec.and_then(|s| s.min_ready_seconds).unwrap_or(0),
            generation: self.metadata.generation.unwrap_or(0),
            tracks_terminating: true,
            template: spec.and_then(|s| s.template.as_ref()),
            status: Status {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: status.terminating_replicas,
                observed_generation: status.observed_generation.unwrap_or(0),
                conditions: status.conditions.unwrap_or_default(),
            },
        }
    }
    fn with_status(&self, status: Status) -> Self {
        let mut object = self.clone();
        object.status = Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: counted(status.fully_labeled),
            ready_replicas: counted(status.ready),
            available_replicas: counted(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: (!status.conditions.is_empty()).then_some(status.conditions),
        });
        object
    }
}

impl ReplicaOwner for ReplicationController {
    const QUEUE: &'static str = "replicationmanager";
    fn selector(&self) -> Option<LabelSelector> {
        selector::from_map(self.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
    }
    fn takes(&self, labels: Labels<'_>) -> bool {
        selector::map_matches(self.spec.as_ref().and_then(|spec| spec.selector.as_ref()), labels)
    }
    fn view(&self) -> Set<'_> {
        let spec = self.spec.as_ref();
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.into_iter().flatten().map(|c| ReplicaSetCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        });
        Set {
            replicas: spec.and_then(|s| s.replicas).unwrap_or(1),
            min_ready_seconds: spec.and_then(|s| s.min_ready_seconds).unwrap_or(0),
            generation: self.metadata.generation.unwrap_or(0),
            tracks_terminating: false,
            template: spec.and_then(|s| s.template.as_ref()),
            status: Status {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: None,
                observed_generation: status.observed_generation.unwrap_or(0),
                conditions: conditions.collect(),
            },
        }
    }
    fn with_status(&self, status: Status) -> Self {
        let conditions: Vec<_> = status
            .conditions
            .into_iter()
            .map(|c| ReplicationControllerCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            })
            .collect();
        let mut object = self.clone();
        object.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: counted(status.fully_labeled),
            ready_replicas: counted(status.ready),
            available_replicas: counted(status.available),
            observed_generation: Some(status.observed_generation),
            conditions: (!conditions.is_empty()).then_some(conditions),
        });
        object
    }
}
