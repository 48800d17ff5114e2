//! Writing a pod's status to the API: the newest one always, in order, until it is there.

use std::time::Duration;

use amphipod_client::{Api, Client, Patch, Resource, Writable};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tracing::debug;

use crate::pod::conditions::is_owned;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Which object carries the status: the pod, or the mirror of a static one.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Target {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The newest status and where it goes.
type Wanted = Option<(Target, PodStatus)>;

pub struct Poster {
    wanted: watch::Sender<Wanted>,
    done: watch::Receiver<Wanted>,
    task: tokio::task::JoinHandle<()>,
}

impl Poster {
    /// `stored`: what the object says now, as far as known.
    pub fn new(client: Client, stored: Option<(Target, PodStatus)>) -> Self {
        let (wanted, receiver) = watch::channel(None);
        let (done_sender, done) = watch::channel(None);
        Poster { wanted, done, task: tokio::spawn(run(client, receiver, done_sender, stored)) }
    }

    /// `again`: it is to be written also where it was written last.
    pub fn post(&self, target: Target, status: PodStatus, again: bool) {
        let new = Some((target, status));
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != new;
            if changed {
                *wanted = new;
            }
            changed || again
        });
    }

    /// Resolves once the newest status is written (or its object is gone).
    pub async fn flushed(&mut self, patience: Duration) {
        let wanted = self.wanted.borrow().clone();
        let written = self.done.wait_for(|done| *done == wanted);
        let _ = tokio::time::timeout(patience, written).await;
    }
}

impl Drop for Poster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    client: Client,
    mut wanted: watch::Receiver<Wanted>,
    done: watch::Sender<Wanted>,
    mut last: Wanted,
) {
    while wanted.changed().await.is_ok() {
        let mut retry = FIRST_RETRY;
        loop {
            let newest = wanted.borrow_and_update().clone();
            let Some((target, status)) = &newest else { break };
            let before = last.as_ref().filter(|(t, _)| t == target).map(|(_, s)| s);
            match write(&client, target, status, before).await {
                Ok(()) => {
                    last = newest.clone();
                    done.send_replace(newest);
                    break;
                }
                Err(error) => {
                    debug!(%error, pod = target.name, "the pod's status could not be written");
                    tokio::select! {
                        () = tokio::time::sleep(retry) => {}
                        _ = wanted.changed() => wanted.mark_changed(),
                    }
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }
}

async fn write(
    client: &Client,
    target: &Target,
    status: &PodStatus,
    before: Option<&PodStatus>,
) -> Result<(), amphipod_client::Error> {
    let api = Api::<Pod>::namespaced(client.clone(), &target.namespace);
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": target.uid}, "status": status_patch(status, before)}));
    match api.patch_status(&target.name, &patch).await {
        Ok(_) => Ok(()),
        // Gone, or another pod of the same name: nobody is left to tell.
        Err(error) if error.is_not_found() || error.is_conflict() && other_uid(&api, target).await => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether what is told of a pod contradicts what its kubelet says: someone else changed a condition
/// that is the kubelet's, as is done for the pods of a node that was not heard of.
pub fn contradicts(told: Option<&PodStatus>, own: Option<&PodStatus>) -> bool {
    let mut told = told.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_otherwise = |told: &PodCondition| {
        let own = own.iter().flat_map(|status| status.conditions.iter().flatten());
        own.into_iter().any(|c| c.type_ == told.type_ && c.status != told.status)
    };
    told.any(|told| is_owned(&told.type_) && is_otherwise(told))
}

async fn other_uid(api: &Api<Pod>, target: &Target) -> bool {
    matches!(api.get_opt(&target.name).await, Ok(found) if found.as_ref().is_none_or(|p| p.uid() != target.uid))
}

fn to_json(status: &PodStatus) -> Map<String, Value> {
    let pod = Pod { status: Some(status.clone()), ..Pod::default() };
    // Encoding an API struct yields an object, and we put the status there.
    let object: Value = serde_json::from_slice(&pod.encode()).unwrap_or_default();
    object.get("status").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Fields of a pod's status that others write and its kubelet never does.
const OF_OTHERS: [&str; 3] = ["extendedResourceClaimStatus", "nominatedNodeName", "resourceClaimStatuses"];

/// The status as a strategic merge patch: fields that went away are nulls, lists that merge by key
/// are replaced where entries went away.
pub fn status_patch(status: &PodStatus, before: Option<&PodStatus>) -> Value {
    let mut patch = to_json(status);
    let old = before.map(to_json).unwrap_or_default();
    for key in old.keys().filter(|key| !OF_OTHERS.contains(&key.as_str())) {
        patch.entry(key.clone()).or_insert(Value::Null);
    }
    for condition in patch.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        clear_absent(condition);
    }
    // Conditions of others are theirs to change.
    if let Some(conditions) = patch.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|c| c["type"].as_str().is_some_and(is_owned));
    }
    remove_ended(&mut patch, before);
    let changed = |key: &str| before.is_some() && old.get(key).is_some_and(|o| Some(o) != patch.get(key));
    let replaced: Vec<&str> = ["podIPs", "hostIPs"].into_iter().filter(|key| changed(key)).collect();
    for key in replaced {
        if let Some(list) = patch.get_mut(key).and_then(Value::as_array_mut) {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    Value::Object(patch)
}

/// Conditions of ours that are over are taken out one by one: the list merges by type.
fn remove_ended(patch: &mut Map<String, Value>, before: Option<&PodStatus>) {
    let Some(conditions) = patch.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    let old = before.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    for kind in old.iter().map(|c| c.type_.as_str()).filter(|kind| is_owned(kind)) {
        if !conditions.iter().any(|c| c["type"] == kind) {
            conditions.push(json!({"$patch": "delete", "type": kind}));
        }
    }
}

fn clear_absent(condition: &mut Value) {
    if let Some(fields) = condition.as_object_mut() {
        for key in ["reason", "message"] {
            fields.entry(key).or_insert(Value::Null);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodIP, PodResourceClaimStatus};

    #[test]
    fn what_went_away_is_cleared() {
        let condition = |kind: &str| PodCondition {
            type_: kind.into(),
            status: "True".into(),
            ..PodCondition::default()
        };
        let before = PodStatus {
            reason: Some("Old".into()),
            nominated_node_name: Some("n".into()),
            resource_claim_statuses: Some(vec![PodResourceClaimStatus::default()]),
            pod_ips: Some(vec![PodIP { ip: "1".into() }]),
            conditions: Some(vec![condition("PodResizePending"), condition("example.com/old")]),
            ..PodStatus::default()
        };
        let status = PodStatus {
            phase: Some("Running".into()),
            pod_ips: Some(vec![PodIP { ip: "2".into() }]),
            conditions: Some(vec![condition("Ready"), condition("example.com/gate")]),
            ..PodStatus::default()
        };
        let patch = status_patch(&status, Some(&before));
        assert_eq!(patch["reason"], Value::Null);
        assert!(patch.as_object().unwrap().contains_key("reason"));
        assert!(OF_OTHERS.iter().all(|key| !patch.as_object().unwrap().contains_key(*key)), "{patch}");
        assert_eq!(patch["podIPs"], json!([{"$patch": "replace"}, {"ip": "2"}]));
        assert_eq!(patch["conditions"].as_array().unwrap().len(), 2);
        assert_eq!(patch["conditions"][1], json!({"$patch": "delete", "type": "PodResizePending"}));
        assert!(patch["conditions"][0].as_object().unwrap().contains_key("message"));
    }
}
