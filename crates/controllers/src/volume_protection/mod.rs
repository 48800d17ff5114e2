//! Claims and volumes in use are not deleted under their users: admission gives each a finalizer,
//! and these controllers take it off once the object is being deleted and nobody uses it.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, Informer, ListParams, Resource, Writable};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};

use crate::harness::{Controller, Scope, enqueue_all};
use crate::{Error, meta, pods};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const BY_CLAIM: &str = "claim";

/// The finalizers an object should have instead of those it has.
fn finalizers<T: Resource>(object: &T, own: &str, is_used: bool) -> Option<Vec<String>> {
    let mut list = object.metadata().finalizers.clone().unwrap_or_default();
    let has = list.iter().any(|finalizer| finalizer == own);
    match (object.is_terminating(), has) {
        // Admission sets it; this is for objects from before.
        (false, false) => list.push(own.to_owned()),
        (true, true) if !is_used => list.retain(|finalizer| finalizer != own),
        _ => return None,
    }
    Some(list)
}

/// A conflict where someone else has changed the object meanwhile: it comes back.
async fn write<T: Writable>(scope: &Scope, object: &T, finalizers: Vec<String>) -> Result<(), Error> {
    let mut changed = object.clone();
    changed.metadata_mut().finalizers = Some(finalizers);
    match Api::<T>::of(scope.client.clone(), object).update(&changed).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// The claim a volume of this pod stands for: one that is named, or the one made for the pod.
fn claim_name(pod: &CachedPod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name(), volume.name)),
        (None, None) => None,
    }
}

fn claim_keys(pod: &CachedPod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(format!("{}/{}", pod.namespace(), claim_name(pod, volume)?))).collect()
}

/// Only a scheduled pod uses claims: a kubelet starts none with a claim that is being deleted.
fn uses(pod: &CachedPod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|_| !pods::node_name(pod).is_empty()) else { return false };
    let is_owned = || meta::controller_of(&claim.metadata).is_some_and(|owner| owner.uid == pod.uid());
    // Its kubelet is done with it, and both may wait for each other's finalizers.
    let is_shut_down = pod.is_terminating() && pod.metadata.deletion_grace_period_seconds == Some(0);
    spec.volumes.iter().flatten().any(|volume| {
        claim_name(pod, volume).is_some_and(|name| name == claim.name())
            && (volume.persistent_volume_claim.is_some() || (!is_shut_down && is_owned()))
    })
}

struct ClaimController {
    scope: Scope,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<CachedPod>,
}

pub async fn run_claims(scope: Scope) {
    let claims = scope.informers.get::<PersistentVolumeClaim>();
    let pods = scope.informers.get::<CachedPod>();
    if !scope.synced(&claims).await || !scope.synced(&pods).await {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&claims, &queue);
    pods.add_index(BY_CLAIM, claim_keys);
    let freed = queue.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        let is_scheduled = pod.node_name.is_some();
        let may_free = matches!(change, Change::Deleted(_)) || pods::is_terminal(pod) || pod.is_terminating();
        if may_free || !is_scheduled {
            claim_keys(pod).iter().for_each(|key| freed.add(key));
        }
    });
    let controller = ClaimController { scope: scope.clone(), claims, pods };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

impl Controller for ClaimController {
    const QUEUE: &'static str = "pvcprotection";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(claim) = self.claims.get(key) else { return Ok(None) };
        let is_used = self.pods.by_index(BY_CLAIM, key).iter().any(|pod| uses(pod, &claim));
        let Some(list) = finalizers(claim.as_ref(), CLAIM_FINALIZER, is_used) else { return Ok(None) };
        // A pod the cache has not heard of yet may use it.
        if claim.is_terminating() && self.is_used_live(&claim).await? {
            return Ok(None);
        }
        write(&self.scope, claim.as_ref(), list).await.map(|()| None)
    }
}

impl ClaimController {
    async fn is_used_live(&self, claim: &PersistentVolumeClaim) -> Result<bool, Error> {
        let api = Api::<CachedPod>::namespaced(self.scope.client.clone(), claim.namespace());
        let (_, pods) = api.list(&ListParams::default()).await?;
        Ok(pods.iter().any(|pod| uses(pod, claim)))
    }
}

struct VolumeController {
    scope: Scope,
    volumes: Informer<PersistentVolume>,
}

pub async fn run_volumes(scope: Scope) {
    let volumes = scope.informers.get::<PersistentVolume>();
    if !scope.synced(&volumes).await {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&volumes, &queue);
    let controller = VolumeController { scope: scope.clone(), volumes };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

impl Controller for VolumeController {
    const QUEUE: &'static str = "pvprotection";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(volume) = self.volumes.get(key) else { return Ok(None) };
        let is_bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let Some(list) = finalizers(volume.as_ref(), VOLUME_FINALIZER, is_bound) else { return Ok(None) };
        write(&self.scope, volume.as_ref(), list).await.map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::object;

    fn claim(metadata: Value) -> PersistentVolumeClaim {
        object(json!({"metadata": metadata}))
    }

    #[test]
    fn finalizers_come_and_go() {
        let deleted = "2026-01-01T00:00:00Z";
        let own = json!(["a", CLAIM_FINALIZER]);
        for (metadata, is_used, expected) in [
            (json!({"name": "c"}), false, Some(vec![CLAIM_FINALIZER])),
            (json!({"name": "c", "finalizers": own}), false, None),
            (json!({"name": "c", "finalizers": own, "deletionTimestamp": deleted}), true, None),
            (json!({"name": "c", "finalizers": own, "deletionTimestamp": deleted}), false, Some(vec!["a"])),
            (json!({"name": "c", "finalizers": ["a"], "deletionTimestamp": deleted}), false, None),
        ] {
            let wanted = finalizers(&claim(metadata.clone()), CLAIM_FINALIZER, is_used);
            assert_eq!(wanted, expected.map(|l| l.into_iter().map(str::to_owned).collect()), "{metadata}");
        }
    }

    #[test]
    fn who_uses_a_claim() {
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let own = json!({"name": "v", "ephemeral": {}});
        let pod = |name: &str, node: Option<&str>, volume: &Value, grace: Option<i64>| -> CachedPod {
            let deleted = grace.map(|_| "2026-01-01T00:00:00Z");
            object(
                json!({"metadata": {"name": name, "namespace": "n", "uid": "u", "deletionTimestamp": deleted,
                "deletionGracePeriodSeconds": grace}, "spec": {"nodeName": node, "containers": [], "volumes": [volume]}}),
            )
        };
        let plain = claim(json!({"name": "c"}));
        assert!(uses(&pod("p", Some("n"), &named, Some(0)), &plain));
        assert!(!uses(&pod("p", None, &named, None), &plain), "not scheduled");
        assert_eq!(claim_keys(&pod("p", None, &own, None)), ["n/p-v"]);
        let owner = json!([{"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u", "controller": true}]);
        let made = claim(json!({"name": "p-v", "ownerReferences": owner}));
        assert!(uses(&pod("p", Some("n"), &own, None), &made));
        assert!(!uses(&pod("p", Some("n"), &own, Some(0)), &made), "shut down");
        assert!(!uses(&pod("p", Some("n"), &own, None), &claim(json!({"name": "p-v"}))), "someone else's");
    }
}
