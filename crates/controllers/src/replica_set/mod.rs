//! ReplicaSets and ReplicationControllers: as many pods as asked for. One controller for both, over
//! what they share (`ReplicaOwner`).

mod core;
mod kinds;

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, EventRecorder, Informer, Resource};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;

use self::core::{Failure, Manage, Set};
pub use self::core::{ReplicaOwner, Status};
use crate::claim::{self, claim};
use crate::expectations::Expectations;
use crate::harness::{Controller, Scope, candidates, enqueue_all, enqueue_owners, index_by_controller, now};
use crate::pod_control::{PodControl, slow_start};
use crate::{Error, meta, pods};

pub async fn run_replica_sets(scope: Scope) {
    run::<ReplicaSet>(scope, "replicaset-controller").await;
}

pub async fn run_replication_controllers(scope: Scope) {
    run::<ReplicationController>(scope, "replication-controller").await;
}

struct ReplicaController<O> {
    scope: Scope,
    owners: Informer<O>,
    pods: Informer<CachedPod>,
    control: PodControl,
    expectations: Arc<Expectations>,
}

async fn run<O: ReplicaOwner>(scope: Scope, component: &str) {
    let owners = scope.informers.get::<O>();
    let pods = scope.informers.get::<CachedPod>();
    index_by_controller(&pods);
    if !(scope.synced(&owners).await && scope.synced(&pods).await) {
        return;
    }
    let queue = WorkQueue::new();
    let expectations = Arc::new(Expectations::default());
    index_by_controller(&owners);
    enqueue_all(&owners, &queue);
    let observer = expectations.clone();
    enqueue_owners(&pods, &owners, &queue, O::takes, move |change: &Change<CachedPod>, key: &str| {
        observer.observe(change, key);
    });
    let events: EventRecorder = scope.events(component);
    let control = PodControl { client: scope.client.clone(), events };
    let controller = ReplicaController { scope: scope.clone(), owners, pods, control, expectations };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

impl<O: ReplicaOwner> Controller for ReplicaController<O> {
    const QUEUE: &'static str = O::QUEUE;
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(owner) = self.owners.get(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let Some(selector) = O::selector(&owner) else { return Ok(None) };
        let may_manage = self.expectations.satisfied(key) && !owner.is_terminating();
        let found = candidates(&self.pods, owner.uid(), owner.namespace());
        let (active, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|pod| pods::is_active(pod));
        let claim = claim(owner.uid(), owner.is_terminating(), &selector, &active);
        let owned = claim::carry_out(&self.scope.client, owner.as_ref(), claim, None).await?;
        let terminating = rest
            .iter()
            .filter(|p| !pods::is_terminal(p) && meta::is_controlled_by(&p.metadata, owner.uid()))
            .count();
        let set = owner.view();
        let mut failure = None;
        let mut outcome = Ok(());
        if may_manage {
            let managed = self.manage(key, &owner, &set, &owned).await;
            if let Err((reason, error)) = managed {
                failure = Some(Failure { reason, message: error.to_string() });
                outcome = Err(error);
            }
        }
        let status =
            core::status(&set, &owned, terminating, failure.filter(|_| may_manage), may_manage, now());
        self.write_status(&owner, &set, status).await?;
        outcome?;
        Ok(core::next_check(&set, &owned, now()))
    }
}

impl<O: ReplicaOwner> ReplicaController<O> {
    async fn manage(
        &self,
        key: &str,
        owner: &O,
        set: &Set<'_>,
        owned: &[Arc<CachedPod>],
    ) -> Result<(), (&'static str, Error)> {
        match core::manage(set, owned.len()) {
            Manage::Nothing => Ok(()),
            Manage::Create(count) => {
                self.create(key, owner, set, count).await.map_err(|error| ("FailedCreate", error))
            }
            Manage::Delete(count) => {
                let related = self.related(owner, owned);
                let victims = pods::victims(owned, &related, count, now());
                let uids = victims.iter().map(|pod| pod.uid().to_owned());
                self.expectations.expect_deletes(key, uids);
                let unseen = |pod: &CachedPod| self.expectations.deleted(key, pod.uid());
                let deleted = self.control.delete_all(owner, &victims, unseen).await;
                deleted.map_err(|error| ("FailedDelete", error))
            }
        }
    }

    async fn create(&self, key: &str, owner: &O, set: &Set<'_>, count: usize) -> Result<(), Error> {
        let Some(template) = set.template else { return Ok(()) };
        self.expectations.expect_creates(key, count);
        let reference = meta::controller_reference(owner);
        let prefix = pods::name_prefix(owner.name());
        let pod = pods::from_template(template, owner.namespace(), &prefix, reference);
        let started = slow_start(vec![(); count], |()| self.control.create(owner, &pod)).await;
        self.expectations.created_many(key, started.missing);
        match started.error {
            Some(error) if error.is_namespace_terminating() => Ok(()),
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The pods of all owners that share this one's controller: where a Deployment's pods crowd.
    fn related(&self, owner: &O, owned: &[Arc<CachedPod>]) -> Vec<Arc<CachedPod>> {
        let Some(parent) = meta::controller_of(owner.metadata()) else { return owned.to_vec() };
        let siblings = self.owners.by_index(crate::harness::BY_CONTROLLER, &parent.uid);
        let pods_of = |sibling: &Arc<O>| self.pods.by_index(crate::harness::BY_CONTROLLER, sibling.uid());
        siblings.iter().flat_map(pods_of).collect()
    }

    async fn write_status(&self, owner: &O, set: &Set<'_>, status: Status) -> Result<(), Error> {
        if status == set.status {
            return Ok(());
        }
        let api = Api::<O>::of(self.scope.client.clone(), owner);
        api.update_status(&owner.with_status(status)).await?;
        Ok(())
    }
}
