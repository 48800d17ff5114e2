//! What a pod waits for that no node can help: gates, volumes, room that is being made, another
//! scheduler, the scheduler's next try. Read from the objects, for those say it to everybody alike.

use amphipod_api::scheduling_review::Wait;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodCondition, Volume};
use k8s_openapi::api::storage::v1::StorageClass;

/// The scheduler's next try, as far as the pod's condition tells of it.
pub const RETRY: &str = "Retry";

/// A claim of the pod as it was found, with its class.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    pub name: String,
    pub found: Option<PersistentVolumeClaim>,
    pub class: Option<StorageClass>,
}

fn wait(kind: &str, name: &str, message: String) -> Wait {
    Wait { kind: kind.to_owned(), name: name.to_owned(), message }
}

/// `ours`: whether a profile has the name of the pod's scheduler.
pub fn waits(pod: &Pod, claims: &[Claim], ours: bool) -> Vec<Wait> {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let placed = spec.node_name.as_deref().is_some_and(|name| !name.is_empty());
    let mut found = Vec::new();
    let scheduler = spec.scheduler_name.as_deref().unwrap_or_default();
    if !ours && !placed {
        let message = format!(
            "{scheduler:?} decides for this pod; what is told here is what Amphipod's own scheduler would do"
        );
        found.push(wait("Scheduler", scheduler, message));
    }
    for gate in spec.scheduling_gates.iter().flatten() {
        found.push(wait(
            "SchedulingGate",
            &gate.name,
            "whoever set this gate has to take it away".to_owned(),
        ));
    }
    found.extend(claims.iter().filter_map(unbound));
    if placed {
        return found;
    }
    if let Some(node) = status.nominated_node_name.as_deref().filter(|name| !name.is_empty()) {
        let message =
            "room is being made there; pods that were preempted for it have to end first".to_owned();
        found.push(wait("NominatedNode", node, message));
    }
    let conditions = status.conditions.iter().flatten();
    let refused = conditions.into_iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    found.extend(refused.filter(|c| c.reason.as_deref() == Some("Unschedulable")).map(retry));
    found
}

fn retry(condition: &PodCondition) -> Wait {
    let since = condition.last_transition_time.as_ref().map(|time| format!(" since {}", time.0));
    let message = format!(
        "the scheduler has found no node{}; it tries again when something changes that may help, and every five \
         minutes",
        since.unwrap_or_default()
    );
    wait(RETRY, "", message)
}

fn unbound(claim: &Claim) -> Option<Wait> {
    let Some(found) = &claim.found else {
        return Some(wait("PersistentVolumeClaim", &claim.name, "there is no such claim".to_owned()));
    };
    let phase = found.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if phase == "Bound" {
        return None;
    }
    let late = claim.class.as_ref().and_then(|class| class.volume_binding_mode.as_deref());
    let message = match (phase, late) {
        ("Lost", _) => "its volume is gone".to_owned(),
        (_, Some("WaitForFirstConsumer")) => "it is bound once the pod has a node".to_owned(),
        _ => "it has to be bound first".to_owned(),
    };
    Some(wait("PersistentVolumeClaim", &claim.name, message))
}

/// The names of the claims a pod's volumes are of.
pub fn claim_names(pod: &Pod) -> Vec<String> {
    let owner = pod.metadata.name.as_deref().unwrap_or_default();
    let name = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{owner}-{}", volume.name)),
        (None, None) => None,
    };
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(name).collect()
}
