//! Devices on their way: what the API shows of them goes to the snapshot, and what a pod's claims are
//! given is written before the pod is bound.

use std::sync::Arc;

use amphipod_client::{Api, CachedPod, Change, Error, Informer, Patch, Resource, SharedInformers};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};
use tracing::warn;

use super::{Shell, State};
use crate::devices::{ClaimWork, DeviceObject};
use crate::framework::{Event, Point};
use crate::plugins::dynamic_resources;
use crate::snapshot::Snapshot;
use crate::version;

/// Keeps a claim that has devices from going before they are given back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a claim is written that others write at the same time, as client-go does.
const CLAIM_TRIES: usize = 5;

pub struct DeviceSources {
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    classes: Informer<DeviceClass>,
}

impl DeviceSources {
    pub fn new(informers: &SharedInformers) -> Self {
        DeviceSources { claims: informers.get(), slices: informers.get(), classes: informers.get() }
    }
    pub async fn synced(&self) {
        self.claims.synced().await;
        self.slices.synced().await;
        self.classes.synced().await;
    }
    /// Everything there is, for a snapshot that is built anew.
    pub fn tell(&self, state: &mut State) {
        state.feed(&self.claims, State::devices_changed);
        state.feed(&self.slices, State::devices_changed);
        state.feed(&self.classes, State::devices_changed);
    }
}

impl State {
    fn devices_changed<T: DeviceObject>(&mut self, change: &Change<T>) {
        let Snapshot { catalogue, devices, .. } = &mut self.snapshot;
        let object = change.object();
        let changed = match change {
            Change::Deleted(_) => {
                T::remove(devices, &catalogue.symbols, &object.key());
                true
            }
            _ => object.set(devices, &mut catalogue.symbols),
        };
        self.happened(changed.then_some(Event::Devices));
    }
    /// What was settled for a pod is not to be: others may have it.
    pub(super) fn give_back_devices(&mut self, works: &[ClaimWork]) {
        self.snapshot.release_devices(works);
        let given = works.iter().any(|work| work.allocation.is_some());
        self.happened(given.then_some(Event::Devices));
    }
    fn devices_written(&mut self, work: &ClaimWork, claim: &ResourceClaim) {
        let Snapshot { catalogue, devices, .. } = &mut self.snapshot;
        let freed = devices.written(&mut catalogue.symbols, work, version(claim));
        self.happened(freed.then_some(Event::Devices));
    }
}

impl Shell {
    pub(super) fn observe_devices(self: &Arc<Self>, sources: &DeviceSources) {
        self.on_change(&sources.claims, State::devices_changed);
        self.on_change(&sources.slices, State::devices_changed);
        self.on_change(&sources.classes, State::devices_changed);
    }

    /// Writes into the pod's claims what they are given, and that the pod has use of it. What could not
    /// be written is others' again; an error says why. What was written stays assumed until the API
    /// shows it.
    pub(super) async fn claim_devices(&self, object: &CachedPod, works: &[ClaimWork]) -> Result<(), String> {
        if works.is_empty() {
            return Ok(());
        }
        let claimed = self.claim_all(object, works);
        self.timed_plugin(dynamic_resources::NAME, Point::PreBind, claimed).await
    }
    async fn claim_all(&self, object: &CachedPod, works: &[ClaimWork]) -> Result<(), String> {
        for (index, work) in works.iter().enumerate() {
            if let Err(text) = self.claim(object, work).await {
                self.state.lock().give_back_devices(&works[index..]);
                self.work.notify_one();
                return Err(format!("running PreBind plugin {:?}: {text}", dynamic_resources::NAME));
            }
        }
        Ok(())
    }
    async fn claim(&self, object: &CachedPod, work: &ClaimWork) -> Result<(), String> {
        let known = self.sources.devices.claims.get(&work.claim);
        let mut claim = known.ok_or_else(|| format!("resourceclaim {:?} not found", work.claim))?;
        let api = Api::<ResourceClaim>::of(self.client.clone(), &claim);
        let uid = claim.uid().to_owned();
        let mut tries = 1;
        loop {
            is_as_decided(&claim, &uid, work)?;
            match self.write_claim(&api, &claim, object, work).await {
                Err(error) if error.is_conflict() && tries < CLAIM_TRIES => tries += 1,
                Err(error) => return Err(error.to_string()),
                Ok(written) => {
                    self.state.lock().devices_written(work, &written);
                    self.work.notify_one();
                    return Ok(());
                }
            }
            let now = self.answered(api.get(claim.name())).await;
            let lost = |error| format!("get updated claim {} after conflict: {error}", work.claim);
            claim = Arc::new(now.map_err(lost)?);
        }
    }
    async fn write_claim(
        &self,
        api: &Api<ResourceClaim>,
        claim: &Arc<ResourceClaim>,
        object: &CachedPod,
        work: &ClaimWork,
    ) -> Result<ResourceClaim, Error> {
        let mut claim = claim.clone();
        if work.allocation.is_some()
            && let Some(patch) = protection(&claim)
        {
            claim = Arc::new(self.written(api.patch(claim.name(), &Patch::Merge(patch))).await?);
        }
        let patch = Patch::Merge(consumption(&claim, object, work.allocation.as_ref()));
        self.written(api.patch_status(claim.name(), &patch)).await
    }

    /// The claim gives its devices back, unless somebody has written it meanwhile.
    pub(super) async fn deallocate(&self, key: &str) {
        let Some(claim) = self.sources.devices.claims.get(key) else { return };
        let (uid, version) = (claim.uid(), claim.resource_version());
        let nothing = json!({"reservedFor": null, "allocation": null, "devices": null});
        let patch = json!({"metadata": {"uid": uid, "resourceVersion": version}, "status": nothing});
        let api = Api::<ResourceClaim>::of(self.client.clone(), &claim);
        if let Err(error) = self.answered(api.patch_status(claim.name(), &Patch::Merge(patch))).await {
            warn!(claim = key, %error, "a claim did not give its devices back");
        }
    }

    /// The pod has no use of its claims after all: others may have it.
    pub(super) async fn disclaim_devices(&self, object: &CachedPod, works: &[ClaimWork]) {
        for work in works {
            let Some(claim) = self.sources.devices.claims.get(&work.claim) else { continue };
            let gone = json!([{"$patch": "delete", "uid": object.uid()}]);
            let patch = json!({"metadata": {"uid": claim.uid()}, "status": {"reservedFor": gone}});
            let api = Api::<ResourceClaim>::of(self.client.clone(), &claim);
            let patch = Patch::Strategic(patch);
            if let Err(error) = self.written(api.patch_status(claim.name(), &patch)).await {
                warn!(claim = work.claim, %error, "a claim is still reserved for a pod that was not bound");
            }
        }
    }
}

/// Whether what was decided still makes sense for the claim, which had this uid then.
fn is_as_decided(claim: &ResourceClaim, uid: &str, work: &ClaimWork) -> Result<(), String> {
    if claim.uid() != uid || claim.is_terminating() {
        return Err(format!("claim {} got deleted in the meantime", work.claim));
    }
    let is_allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
    if work.allocation.is_some() && is_allocated {
        return Err(format!("claim {} got allocated elsewhere in the meantime", work.claim));
    }
    Ok(())
}

/// The claim with our finalizer, unless it has it.
fn protection(claim: &ResourceClaim) -> Option<Value> {
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    if finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return None;
    }
    finalizers.push(FINALIZER.to_owned());
    let (uid, version) = (claim.uid(), claim.resource_version());
    Some(json!({"metadata": {"uid": uid, "resourceVersion": version, "finalizers": finalizers}}))
}

/// The claim with the pod among its consumers, as long as nobody has written it meanwhile.
fn consumption(claim: &ResourceClaim, pod: &CachedPod, allocation: Option<&Value>) -> Value {
    let known = claim.status.as_ref().and_then(|s| s.reserved_for.as_ref());
    let mut consumers: Vec<Value> = known.into_iter().flatten().map(|consumer| json!(consumer)).collect();
    if consumers.iter().all(|consumer| consumer["uid"] != pod.uid()) {
        consumers.push(json!({"resource": "pods", "name": pod.name(), "uid": pod.uid()}));
    }
    let mut status = json!({"reservedFor": consumers});
    if let Some(allocation) = allocation {
        status["allocation"] = allocation.clone();
    }
    let (uid, version) = (claim.uid(), claim.resource_version());
    json!({"metadata": {"uid": uid, "resourceVersion": version}, "status": status})
}
