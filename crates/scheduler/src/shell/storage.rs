//! Storage on its way: what the API shows of it goes to the snapshot, and what was decided about a
//! pod's claims is written before the pod is bound. Whoever binds and makes volumes does the rest, and
//! the pod waits for it.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Api, CachedPod, Change, Informer, Patch, Resource, SharedInformers};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use serde_json::{Value, json};

use super::{Shell, State};
use crate::devices::ClaimWork;
use crate::framework::{Event, Point, StorageChange};
use crate::plugins::volume_binding;
use crate::snapshot::Snapshot;
use crate::storage::{Reservation, SELECTED_NODE, StorageObject};
use crate::version;

/// That its pod is gone tells a waiting binding nobody; it looks so often itself.
const GLANCE: Duration = Duration::from_secs(1);
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// All kinds of storage objects decisions look at.
pub struct StorageSources {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    limits: Informer<CSINode>,
    drivers: Informer<CSIDriver>,
    capacities: Informer<CSIStorageCapacity>,
    attachments: Informer<VolumeAttachment>,
}

impl StorageSources {
    pub fn new(informers: &SharedInformers) -> Self {
        StorageSources {
            claims: informers.get(),
            volumes: informers.get(),
            classes: informers.get(),
            limits: informers.get(),
            drivers: informers.get(),
            capacities: informers.get(),
            attachments: informers.get(),
        }
    }
    pub async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.limits.synced().await;
        self.drivers.synced().await;
        self.capacities.synced().await;
        self.attachments.synced().await;
    }
    /// Everything there is, for a snapshot that is built anew.
    pub fn tell(&self, state: &mut State) {
        state.feed(&self.claims, State::storage_changed);
        state.feed(&self.volumes, State::storage_changed);
        state.feed(&self.classes, State::storage_changed);
        state.feed(&self.limits, State::storage_changed);
        state.feed(&self.drivers, State::storage_changed);
        state.feed(&self.capacities, State::storage_changed);
        state.feed(&self.attachments, State::storage_changed);
    }
}

/// What is to be done about a pod's claims before it is bound.
pub struct Work {
    pub reservation: Reservation,
    pub claims: Vec<ClaimWork>,
    pub timeout: Duration,
}

/// The versions of what was written: caches are of use from then on.
#[derive(Default)]
struct Written {
    claims: Vec<(String, u64)>,
    volumes: Vec<(String, u64)>,
}

impl Work {
    pub fn is_empty(&self) -> bool {
        self.reservation.is_empty() && self.claims.is_empty()
    }
}

impl Shell {
    pub(super) fn observe_storage(self: &Arc<Self>, sources: &StorageSources) {
        self.on_storage(&sources.claims);
        self.on_storage(&sources.volumes);
        self.on_storage(&sources.classes);
        self.on_storage(&sources.limits);
        self.on_storage(&sources.drivers);
        self.on_storage(&sources.capacities);
        self.on_storage(&sources.attachments);
    }
    fn on_storage<T: StorageObject>(self: &Arc<Self>, informer: &Informer<T>) {
        let this = self.clone();
        informer.on_change(move |change| {
            this.state.lock().storage_changed(change);
            this.work.notify_one();
            this.storage_news.notify_waiters();
        });
    }

    /// Writes what was decided about the pod's claims and waits until they are bound. An error says
    /// why that will not be, in kube-scheduler's words.
    pub(super) async fn bind_volumes(&self, object: &CachedPod, work: &Work) -> Result<(), String> {
        if work.reservation.is_empty() {
            return Ok(());
        }
        let outcome = async {
            tokio::select! {
                () = self.cancel.cancelled() => Err("binding volumes: context canceled".to_owned()),
                outcome = self.write_and_wait(object, work) => outcome,
            }
        };
        let outcome = self.timed_plugin(volume_binding::NAME, Point::PreBind, outcome).await;
        outcome.map_err(|text| format!("running PreBind plugin {:?}: {text}", volume_binding::NAME))
    }

    async fn write_and_wait(&self, object: &CachedPod, work: &Work) -> Result<(), String> {
        let written = self.write_volumes(&work.reservation).await?;
        let deadline = tokio::time::sleep(work.timeout);
        tokio::pin!(deadline);
        loop {
            // Listened for before looking, so that nothing falls in between.
            let news = self.storage_news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.are_bound(object, &work.reservation, &written)? {
                return Ok(());
            }
            tokio::select! {
                () = &mut news => {}
                () = tokio::time::sleep(GLANCE) => {}
                () = &mut deadline => return Err("binding volumes: context deadline exceeded".to_owned()),
            }
        }
    }

    async fn write_volumes(&self, reservation: &Reservation) -> Result<Written, String> {
        let sources = &self.sources.storage;
        let mut written = Written::default();
        for (claim, volume) in &reservation.volumes {
            let object =
                sources.claims.get(claim).ok_or_else(|| no_object("persistentvolumeclaim", claim))?;
            let known = sources.volumes.get(volume).ok_or_else(|| no_object("persistentvolume", volume))?;
            let patch = Patch::Merge(binding_of(&known, &object));
            let api = Api::<PersistentVolume>::all(self.client.clone());
            let new = self.written(api.patch(volume, &patch)).await.map_err(|error| error.to_string())?;
            written.volumes.push((volume.clone(), version(&new)));
        }
        for claim in &reservation.provisions {
            let object =
                sources.claims.get(claim).ok_or_else(|| no_object("persistentvolumeclaim", claim))?;
            let patch = Patch::Merge(json!({"metadata": {
                "uid": object.uid(), "resourceVersion": object.resource_version(),
                "annotations": {SELECTED_NODE: reservation.node},
            }}));
            let api = Api::<PersistentVolumeClaim>::of(self.client.clone(), &object);
            let new =
                self.written(api.patch(object.name(), &patch)).await.map_err(|error| error.to_string())?;
            written.claims.push((claim.clone(), version(&new)));
        }
        Ok(written)
    }

    fn are_bound(
        &self,
        object: &CachedPod,
        reservation: &Reservation,
        written: &Written,
    ) -> Result<bool, String> {
        let failed = |text: String| format!("binding volumes: {text}");
        let pod = self.sources.pods.get(&object.key()).filter(|pod| pod.uid() == object.uid());
        if pod.is_none() {
            return Err(failed(format!("pod does not exist any more: pod {:?} not found", object.name())));
        }
        let sources = &self.sources.storage;
        let seen = |known: Option<u64>, written: u64| known.is_none_or(|known| known >= written);
        let is_current =
            written.claims.iter().all(|(key, at)| seen(sources.claims.get(key).map(|o| version(&*o)), *at))
                && written
                    .volumes
                    .iter()
                    .all(|(key, at)| seen(sources.volumes.get(key).map(|o| version(&*o)), *at));
        Ok(is_current && self.state.lock().snapshot.is_bound(reservation).map_err(failed)?)
    }
}

fn no_object(kind: &str, key: &str) -> String {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    format!("{kind} {name:?} not found")
}

/// What makes a volume the claim's. One that was given to the claim by hand stays so when the claim goes.
fn binding_of(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Value {
    let mut metadata = json!({"uid": volume.uid(), "resourceVersion": volume.resource_version()});
    if volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none()) {
        metadata["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
    }
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
        "name": claim.name(), "uid": claim.uid(), "resourceVersion": claim.resource_version(),
    });
    json!({"metadata": metadata, "spec": {"claimRef": claim}})
}

impl State {
    pub(super) fn storage_changed<T: StorageObject>(&mut self, change: &Change<T>) {
        let Snapshot { catalogue, storage, .. } = &mut self.snapshot;
        let object = change.object();
        let gone = matches!(change, Change::Deleted(_));
        let changed = if gone {
            T::remove(storage, &catalogue.symbols, &object.key());
            true
        } else {
            object.set(storage, &mut catalogue.symbols)
        };
        let event = object.helps(&catalogue.symbols, gone).filter(|_| changed);
        self.happened(event.map(Event::Storage));
    }
    /// What was settled for a pod is not to be: others may have the volumes, and its claims may get
    /// theirs elsewhere.
    pub(super) fn give_back_volumes(&mut self, reservation: &Reservation) {
        self.snapshot.release(reservation);
        let is_volume_free = !reservation.volumes.is_empty();
        self.happened(is_volume_free.then_some(Event::Storage(StorageChange::Volume)));
        for claim in reservation.claims() {
            let key = self.snapshot.catalogue.symbols.find(claim);
            self.happened(key.map(|key| Event::Storage(StorageChange::Claim(key))));
        }
    }
}
