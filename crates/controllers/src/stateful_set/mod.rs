//! StatefulSets: pods with a number, a name and claims that stay theirs.

mod core;
mod pods;

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, DeleteParams, EventRecorder, Informer, Resource};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use self::core::{Create, View};
use crate::claim::{self, claim};
use crate::harness::{
    BY_CONTROLLER, Controller, Scope, candidates, enqueue_all, enqueue_owners, index_by_controller, now,
};
use crate::revisions::{self, HASH_LABEL, Outcome, REVISION_LABEL};
use crate::selector::Labels;
use crate::{Error, meta, selector};

struct StatefulSetController {
    scope: Scope,
    sets: Informer<StatefulSet>,
    pods: Informer<CachedPod>,
    revisions: Informer<ControllerRevision>,
    claims: Informer<PersistentVolumeClaim>,
    events: EventRecorder,
}

pub async fn run(scope: Scope) {
    let sets = scope.informers.get::<StatefulSet>();
    let pods = scope.informers.get::<CachedPod>();
    let revisions = scope.informers.get::<ControllerRevision>();
    let claims = scope.informers.get::<PersistentVolumeClaim>();
    index_by_controller(&pods);
    index_by_controller(&revisions);
    let synced = scope.synced(&sets).await
        && scope.synced(&pods).await
        && scope.synced(&revisions).await
        && scope.synced(&claims).await;
    if !synced {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&sets, &queue);
    let takes = |set: &StatefulSet, labels: Labels<'_>| {
        selector::object_matches(set.spec.as_ref().map(|s| &s.selector), labels)
    };
    enqueue_owners(&pods, &sets, &queue, takes, |_, _| {});
    let events = scope.events("statefulset-controller");
    let controller = StatefulSetController { scope: scope.clone(), sets, pods, revisions, claims, events };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

impl Controller for StatefulSetController {
    const QUEUE: &'static str = "statefulset";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get(key) else { return Ok(None) };
        let Some(spec) = &set.spec else { return Ok(None) };
        let Some(selector) = selector::from_object(Some(&spec.selector)) else { return Ok(None) };
        let mut found = candidates(&self.pods, set.uid(), set.namespace());
        found.retain(|pod| pods::ordinal(set.name(), pod.name()).is_some());
        let claim = claim(set.uid(), set.is_terminating(), &selector, &found);
        let owned = claim::carry_out(&self.scope.client, set.as_ref(), claim, None).await?;
        let known = self.revisions.by_index(BY_CONTROLLER, set.uid());
        let Some(update) = self.update_revision(&set, &known).await? else { return Ok(None) };
        let current = current_revision(&set, &known).unwrap_or_else(|| update.clone());
        let view = View { pods: &owned, current: current.name(), update: update.name() };
        let plan = core::reconcile(&view, &set, now());
        for pod in &plan.delete {
            self.delete(&set, pod).await?;
        }
        for create in &plan.create {
            let revision = if create.update { &update } else { &current };
            self.create(&set, create, revision).await?;
        }
        self.write_status(&set, plan.status).await?;
        let in_use = |revision: &ControllerRevision| {
            let name = revision.name();
            let label = |pod: &Arc<CachedPod>| meta::label(&pod.metadata, REVISION_LABEL) == Some(name);
            name == current.name() || name == update.name() || owned.iter().any(label)
        };
        let excess = revisions::excess(&known, spec.revision_history_limit, in_use);
        revisions::delete(&self.scope.client, &excess).await?;
        Ok(plan.again)
    }
}

fn current_revision(set: &StatefulSet, known: &[Arc<ControllerRevision>]) -> Option<Arc<ControllerRevision>> {
    let name = set.status.as_ref()?.current_revision.as_deref()?;
    known.iter().find(|revision| revision.name() == name).cloned()
}

impl StatefulSetController {
    /// None where a collision was noted; the status write brings the key back.
    async fn update_revision(
        &self,
        set: &StatefulSet,
        known: &[Arc<ControllerRevision>],
    ) -> Result<Option<Arc<ControllerRevision>>, Error> {
        let Some(spec) = &set.spec else { return Ok(None) };
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let step = revisions::resolve(set, &spec.template, known, collisions, HASH_LABEL);
        match revisions::carry_out(&self.scope.client, set, step).await? {
            Outcome::Ready(revision) => Ok(Some(revision)),
            Outcome::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions.unwrap_or(0).saturating_add(1));
                self.write_status(set, status).await?;
                Ok(None)
            }
        }
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        Api::<StatefulSet>::of(self.scope.client.clone(), set).update_status(&changed).await?;
        Ok(())
    }

    async fn create(
        &self,
        set: &StatefulSet,
        create: &Create,
        revision: &ControllerRevision,
    ) -> Result<(), Error> {
        let Some(template) = revisions::template(revision) else {
            let what = format!("ControllerRevision {}", revision.key());
            return Err(Error::Invalid { what, why: "holds no pod template".to_owned() });
        };
        let pod = pods::build(set, &template, revision.name(), create.ordinal);
        for wanted in pods::claims(set, create.ordinal) {
            self.create_claim(set, &wanted, &pod).await?;
        }
        let verb = format!("create Pod {} in StatefulSet {}", pod.name(), set.name());
        match Api::<Pod>::namespaced(self.scope.client.clone(), set.namespace()).create(&pod).await {
            Ok(_) => self.events.normal(set, "SuccessfulCreate", format!("{verb} successful")),
            Err(error) if error.is_already_exists() => return Err(Error::Stale(pod.key())),
            Err(error) => {
                let error = Error::from(error);
                if error.is_namespace_terminating() {
                    return Ok(());
                }
                self.events.warning(set, "FailedCreate", format!("{verb} failed error: {error}"));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn create_claim(
        &self,
        set: &StatefulSet,
        wanted: &PersistentVolumeClaim,
        pod: &Pod,
    ) -> Result<(), Error> {
        if self.claims.get(&wanted.key()).is_some() {
            return Ok(());
        }
        let what = format!("create Claim {} Pod {} in StatefulSet {}", wanted.name(), pod.name(), set.name());
        let api = Api::<PersistentVolumeClaim>::namespaced(self.scope.client.clone(), set.namespace());
        match api.create(wanted).await {
            Ok(_) => self.events.normal(set, "SuccessfulCreate", format!("{what} success")),
            Err(error) if error.is_already_exists() => {}
            Err(error) => {
                self.events.warning(set, "FailedCreate", format!("{what} failed error: {error}"));
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn delete(&self, set: &StatefulSet, pod: &CachedPod) -> Result<(), Error> {
        let verb = format!("delete Pod {} in StatefulSet {}", pod.name(), set.name());
        let params = DeleteParams { uid: Some(pod.uid().to_owned()), ..DeleteParams::default() };
        let api = Api::<Pod>::namespaced(self.scope.client.clone(), set.namespace());
        match api.delete(pod.name(), &params).await {
            Ok(()) => self.events.normal(set, "SuccessfulDelete", format!("{verb} successful")),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                self.events.warning(set, "FailedDelete", format!("{verb} failed error: {error}"));
                return Err(error.into());
            }
        }
        Ok(())
    }
}
