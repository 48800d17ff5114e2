//! The DisruptionTarget condition: a pod about to be deleted by the cluster says so first, so that
//! its owner can tell this end from a failure of its own.

use amphipod_client::{Api, CachedPod, Client, Patch, Resource};
use serde_json::json;

use crate::harness::now;
use crate::{Error, pods};

/// Sets the condition, and the phase where one is given (nobody else will report it any more).
pub async fn mark(
    client: &Client,
    pod: &CachedPod,
    reason: &str,
    message: &str,
    phase: Option<&str>,
) -> Result<(), Error> {
    let told = pod.condition("DisruptionTarget").is_some_and(|c| c.is_true());
    if told && phase.is_none_or(|phase| pods::phase(pod) == phase) {
        return Ok(());
    }
    let mut status = json!({"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now().to_string(),
    }]});
    if let Some(phase) = phase {
        status["phase"] = phase.into();
    }
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    match Api::<CachedPod>::of(client.clone(), pod).patch_status(pod.name(), &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}
