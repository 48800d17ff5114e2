//! The garbage collector: what lost all its owners is deleted; an owner deleted in the foreground
//! waits for its dependents; one deleted with "orphan" lets them go first. Decisions are made on
//! the server's word at that moment; the graph only says where to look.

mod decide;
mod graph;
mod monitors;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::dynamic::{Dynamic, Metadata};
use amphipod_client::{DeleteParams, Patch};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use parking_lot::Mutex;
use serde_json::json;
use tracing::debug;

use self::decide::{OwnerState, Verdict, decide};
use self::graph::{FOREGROUND, ORPHAN, Place, Uid};
use self::monitors::Monitors;
use crate::harness::{Controller, Scope};
use crate::{Error, meta};

const WORKERS: usize = 20;
/// Dependents let go at once, for one owner.
const RELEASES_AT_ONCE: usize = 32;
/// To let one dependent go, or to delete it, while others change it: as often as client-go's default retry.
/// After that the key comes back, and everything is looked up again.
const ATTEMPTS: usize = 5;
/// Owners known to be gone, so that a thousand orphans ask for theirs once.
const REMEMBERED_ABSENT: usize = 500;

struct Collector {
    scope: Scope,
    monitors: Monitors,
    absent: Mutex<VecDeque<Uid>>,
}

/// The queue of objects to look at.
struct Check(Arc<Collector>);
/// The queue of owners whose dependents are to be let go.
struct Orphan(Arc<Collector>);

pub async fn run(scope: Scope) {
    let monitors = Monitors::new(scope.clone());
    let collector =
        Arc::new(Collector { scope: scope.clone(), monitors: monitors.clone(), absent: Mutex::default() });
    let follow = monitors.run();
    let collect = async {
        if !monitors.first_sync().await {
            return;
        }
        let unsettled = monitors.graph.lock().unsettled();
        unsettled.into_iter().for_each(|uid| monitors.check.add(&uid.key()));
        let check = scope.work(monitors.check.clone(), WORKERS, Arc::new(Check(collector.clone())));
        let orphan = scope.work(monitors.orphan.clone(), WORKERS, Arc::new(Orphan(collector)));
        tokio::join!(check, orphan);
    };
    tokio::join!(follow, collect);
}

impl Controller for Check {
    const QUEUE: &'static str = "garbage_collector_attempt_to_delete";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(uid) = Uid::from_key(key) else { return Ok(None) };
        self.0.check(uid).await.map(|()| None)
    }
}

impl Controller for Orphan {
    const QUEUE: &'static str = "garbage_collector_attempt_to_orphan";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(uid) = Uid::from_key(key) else { return Ok(None) };
        self.0.orphan(uid).await.map(|()| None)
    }
}

impl Collector {
    fn api(&self, place: &Place) -> Option<Dynamic> {
        let kind = self.monitors.kind_at(place.kind)?;
        Some(Dynamic::new(self.scope.client.clone(), &kind, &place.namespace))
    }

    /// The object as the server has it; one that is gone (or another by now) leaves the graph.
    async fn live(&self, uid: Uid) -> Result<Option<(Dynamic, Metadata)>, Error> {
        let place = self.monitors.graph.lock().place(uid);
        match place {
            Some(place) => self.live_at(&place, uid).await,
            None => Ok(None),
        }
    }

    async fn live_at(&self, place: &Place, uid: Uid) -> Result<Option<(Dynamic, Metadata)>, Error> {
        let Some(api) = self.api(place) else { return Ok(None) };
        match api.get(&place.name).await {
            Ok(found) if Uid::new(&found.uid) == uid => Ok(Some((api, found))),
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => {
                let todo = self.monitors.graph.lock().remove(uid);
                self.monitors.enqueue(todo);
                Ok(None)
            }
        }
    }

    async fn check(&self, uid: Uid) -> Result<(), Error> {
        if self.monitors.graph.lock().is_leaving(uid) {
            return Ok(());
        }
        let Some((api, object)) = self.live(uid).await? else { return Ok(()) };
        if self.monitors.graph.lock().is_deleting_dependents(uid) {
            return self.wait_for_dependents(uid, &api, &object).await;
        }
        let mut states = Vec::with_capacity(object.owner_references.len());
        for owner in &object.owner_references {
            states.push(self.owner_state(owner, &object.namespace).await?);
        }
        let (has_dependents, dependents_wait) = {
            let graph = self.monitors.graph.lock();
            let dependents = graph.dependents(uid);
            let wait = dependents.iter().any(|dependent| graph.is_deleting_dependents(*dependent));
            (!dependents.is_empty(), wait)
        };
        match decide(&object, &states, has_dependents, dependents_wait) {
            Verdict::Keep => Ok(()),
            Verdict::Drop(owners) => self.set_owners(&api, &object, &owners).await,
            Verdict::Delete(policy) => self.delete(&api, object, policy).await,
            Verdict::UnblockAndDelete(owners) => {
                self.set_owners(&api, &object, &owners).await?;
                self.delete(&api, Metadata { owner_references: owners, ..object }, "Foreground").await
            }
        }
    }

    /// A foreground deletion goes on once no dependent blocks it.
    async fn wait_for_dependents(&self, uid: Uid, api: &Dynamic, object: &Metadata) -> Result<(), Error> {
        let blocking = {
            let graph = self.monitors.graph.lock();
            let blocking = graph.blocking(uid);
            let idle = blocking.iter().filter(|dependent| !graph.is_deleting_dependents(**dependent));
            idle.for_each(|dependent| self.monitors.check.add(&dependent.key()));
            blocking
        };
        if blocking.is_empty() { self.drop_finalizer(api, object, FOREGROUND).await } else { Ok(()) }
    }

    async fn owner_state(&self, owner: &OwnerReference, namespace: &str) -> Result<OwnerState, Error> {
        let uid = Uid::new(&owner.uid);
        if self.absent.lock().contains(&uid) {
            return Ok(OwnerState::Absent);
        }
        let group = meta::group_of(&owner.api_version);
        let Some(kind) = self.monitors.kind_of(group, &owner.kind) else {
            // A kind nobody serves (now) says nothing about its objects.
            let what = format!("{} {}", owner.api_version, owner.kind);
            return Err(Error::Invalid { what, why: "no such kind is served".to_owned() });
        };
        let api = Dynamic::new(self.scope.client.clone(), &kind, namespace);
        match api.get(&owner.name).await {
            Ok(found) if Uid::new(&found.uid) == uid => {
                let waits =
                    found.deletion_timestamp.is_some() && found.finalizers.iter().any(|f| f == FOREGROUND);
                Ok(if waits { OwnerState::Waiting } else { OwnerState::Solid })
            }
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => {
                self.remember_absent(uid);
                Ok(OwnerState::Absent)
            }
        }
    }

    fn remember_absent(&self, uid: Uid) {
        let mut absent = self.absent.lock();
        if absent.len() >= REMEMBERED_ABSENT {
            absent.pop_front();
        }
        absent.push_back(uid);
    }

    async fn set_owners(
        &self,
        api: &Dynamic,
        object: &Metadata,
        owners: &[OwnerReference],
    ) -> Result<(), Error> {
        let list: Vec<_> = owners.iter().map(owner_json).collect();
        self.patch_metadata(api, object, json!({"ownerReferences": list})).await
    }

    async fn drop_finalizer(&self, api: &Dynamic, object: &Metadata, finalizer: &str) -> Result<(), Error> {
        if !object.finalizers.iter().any(|f| f == finalizer) {
            return Ok(());
        }
        let rest: Vec<&String> = object.finalizers.iter().filter(|f| *f != finalizer).collect();
        self.patch_metadata(api, object, json!({"finalizers": rest})).await
    }

    /// A merge patch, which every kind takes, bound to the version it was computed from.
    async fn patch_metadata(
        &self,
        api: &Dynamic,
        object: &Metadata,
        mut metadata: serde_json::Value,
    ) -> Result<(), Error> {
        metadata["resourceVersion"] = object.resource_version.clone().into();
        metadata["uid"] = object.uid.clone().into();
        match api.patch(&object.name, &Patch::Merge(json!({"metadata": metadata}))).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }

    /// Deletes the version that was judged, or a later one of the same owners: who gave it another owner
    /// since then saved it, and it is judged anew.
    async fn delete(&self, api: &Dynamic, mut object: Metadata, policy: &'static str) -> Result<(), Error> {
        debug!(name = object.name, namespace = object.namespace, policy, "collecting");
        let mut attempts = 0;
        loop {
            let params = DeleteParams {
                uid: Some(object.uid.clone()),
                resource_version: Some(object.resource_version.clone()),
                propagation: Some(policy),
                ..DeleteParams::default()
            };
            attempts += 1;
            let conflict = match api.delete(&object.name, &params).await {
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.is_conflict() => error,
                other => return Ok(other?),
            };
            match api.get(&object.name).await {
                Ok(now) if now.uid != object.uid => return Ok(()),
                Ok(now) if now.owner_references == object.owner_references && attempts < ATTEMPTS => {
                    object = now
                }
                Ok(_) => return Err(conflict.into()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets all dependents go, then the owner.
    async fn orphan(&self, uid: Uid) -> Result<(), Error> {
        let Some((api, object)) = self.live(uid).await? else { return Ok(()) };
        if object.deletion_timestamp.is_none() || !object.finalizers.iter().any(|f| f == ORPHAN) {
            return Ok(());
        }
        let mut dependents = self.look_for_dependents(uid, &object.namespace).await?;
        {
            let graph = self.monitors.graph.lock();
            let known = graph.dependents(uid).into_iter();
            dependents.extend(known.filter_map(|dependent| Some((dependent, graph.place(dependent)?))));
        }
        let releases = dependents.into_iter().map(|(dependent, place)| self.release(place, dependent, uid));
        let outcomes = futures::stream::iter(releases).buffer_unordered(RELEASES_AT_ONCE);
        let errors = outcomes.filter_map(|outcome| async { outcome.err() }).collect().await;
        Error::combine(errors)?;
        self.drop_finalizer(&api, &object, ORPHAN).await
    }

    /// Dependents as the server lists them, also those that the graph's watches have not told of yet: left
    /// with their reference, they would be collected when the owner is gone. They stay out of the graph,
    /// which may have heard newer news than a list. Those of an owner in a namespace are there too.
    async fn look_for_dependents(&self, owner: Uid, namespace: &str) -> Result<HashMap<Uid, Place>, Error> {
        let mut found = HashMap::new();
        let kinds = self.monitors.followed();
        for (index, kind) in kinds.into_iter().filter(|(_, k)| k.namespaced || namespace.is_empty()) {
            let api = Dynamic::new(self.scope.client.clone(), &kind, namespace);
            let listed = api.list_all(|object| {
                if object.owner_references.iter().any(|o| Uid::new(&o.uid) == owner) {
                    let place = Place { kind: index, namespace: object.namespace, name: object.name };
                    found.insert(Uid::new(&object.uid), place);
                }
            });
            match listed.await {
                // No longer served.
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
        }
        Ok(found)
    }

    async fn release(&self, place: Place, dependent: Uid, owner: Uid) -> Result<(), Error> {
        let mut attempts = 0;
        loop {
            let Some((api, object)) = self.live_at(&place, dependent).await? else { return Ok(()) };
            let rest: Vec<OwnerReference> =
                object.owner_references.iter().filter(|o| Uid::new(&o.uid) != owner).cloned().collect();
            if rest.len() == object.owner_references.len() {
                return Ok(());
            }
            attempts += 1;
            match self.set_owners(&api, &object, &rest).await {
                Err(Error::Client(error)) if error.is_conflict() && attempts < ATTEMPTS => {}
                other => return other,
            }
        }
    }
}

fn owner_json(owner: &OwnerReference) -> serde_json::Value {
    let mut json = json!({
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
    });
    if let Some(controller) = owner.controller {
        json["controller"] = controller.into();
    }
    if let Some(blocks) = owner.block_owner_deletion {
        json["blockOwnerDeletion"] = blocks.into();
    }
    json
}

#[cfg(test)]
mod tests;
