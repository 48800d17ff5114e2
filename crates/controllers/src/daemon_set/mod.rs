//! DaemonSets: one pod on each node that suits it.

mod core;
mod placement;

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, Informer, Resource};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use self::core::{Plan, View};
use crate::claim::{self, claim};
use crate::expectations::Expectations;
use crate::harness::{
    BY_CONTROLLER, Controller, Scope, candidates, enqueue_all, enqueue_owners, index_by_controller, now,
};
use crate::pod_control::{PodControl, slow_start};
use crate::revisions::{self, Outcome, REVISION_LABEL};
use crate::selector::Labels;
use crate::{Error, meta, pods, selector};

/// Kept by the API server, passed on to pods for older tools.
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

struct DaemonSetController {
    scope: Scope,
    sets: Informer<DaemonSet>,
    pods: Informer<CachedPod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
    expectations: Arc<Expectations>,
}

pub async fn run(scope: Scope) {
    let sets = scope.informers.get::<DaemonSet>();
    let pods = scope.informers.get::<CachedPod>();
    let nodes = scope.informers.get::<Node>();
    let revisions = scope.informers.get::<ControllerRevision>();
    index_by_controller(&pods);
    index_by_controller(&revisions);
    let synced = scope.synced(&sets).await
        && scope.synced(&pods).await
        && scope.synced(&nodes).await
        && scope.synced(&revisions).await;
    if !synced {
        return;
    }
    let queue = WorkQueue::new();
    let expectations = Arc::new(Expectations::default());
    enqueue_all(&sets, &queue);
    let observer = expectations.clone();
    let takes = |set: &DaemonSet, labels: Labels<'_>| {
        selector::object_matches(set.spec.as_ref().map(|s| &s.selector), labels)
    };
    enqueue_owners(&pods, &sets, &queue, takes, move |change: &Change<CachedPod>, key: &str| {
        observer.observe(change, key);
    });
    let (all, by_node) = (sets.clone(), queue.clone());
    nodes.on_change(move |change| {
        if !matches!(change, Change::Updated { old, new } if is_alike(old, new)) {
            all.list().iter().for_each(|set| by_node.add(&set.key()));
        }
    });
    let control = PodControl { client: scope.client.clone(), events: scope.events("daemonset-controller") };
    let controller =
        DaemonSetController { scope: scope.clone(), sets, pods, nodes, revisions, control, expectations };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

/// Whether a node's update leaves it as fit for daemons as it was.
fn is_alike(old: &Node, new: &Node) -> bool {
    let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone());
    old.metadata.labels == new.metadata.labels && taints(old) == taints(new)
}

impl Controller for DaemonSetController {
    const QUEUE: &'static str = "daemonset";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let Some(spec) = &set.spec else { return Ok(None) };
        let Some(selector) = selector::from_object(Some(&spec.selector)) else { return Ok(None) };
        if selector.is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.control.events.warning(set.as_ref(), "SelectingAll", message);
            return Ok(None);
        }
        let known = self.revisions.by_index(BY_CONTROLLER, set.uid());
        let Some(revision) = self.revision(&set, &known).await? else { return Ok(None) };
        let hash = meta::label(&revision.metadata, REVISION_LABEL).unwrap_or("").to_owned();
        let may_manage = self.expectations.satisfied(key);
        let found = candidates(&self.pods, set.uid(), set.namespace());
        let claim = claim(set.uid(), set.is_terminating(), &selector, &found);
        let owned = claim::carry_out(&self.scope.client, set.as_ref(), claim, None).await?;
        let plan =
            core::reconcile(&View { nodes: &self.nodes.list(), pods: &owned, hash: &hash }, &set, now());
        let (status, again) = (plan.status.clone(), plan.again);
        let outcome = if may_manage { self.manage(key, &set, plan, &hash).await } else { Ok(()) };
        self.write_status(&set, status).await?;
        outcome?;
        let in_use = |other: &ControllerRevision| {
            let label = meta::label(&other.metadata, REVISION_LABEL);
            let has = |pod: &Arc<CachedPod>| meta::label(&pod.metadata, REVISION_LABEL) == label;
            other.name() == revision.name() || owned.iter().any(has)
        };
        let excess = revisions::excess(&known, spec.revision_history_limit, in_use);
        revisions::delete(&self.scope.client, &excess).await?;
        Ok(again)
    }
}

impl DaemonSetController {
    async fn revision(
        &self,
        set: &DaemonSet,
        known: &[Arc<ControllerRevision>],
    ) -> Result<Option<Arc<ControllerRevision>>, Error> {
        let Some(spec) = &set.spec else { return Ok(None) };
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let step = revisions::resolve(set, &spec.template, known, collisions, REVISION_LABEL);
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

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        Api::<DaemonSet>::of(self.scope.client.clone(), set).update_status(&changed).await?;
        Ok(())
    }

    fn pod(&self, set: &DaemonSet, node: &str, hash: &str) -> Pod {
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let prefix = pods::name_prefix(set.name());
        let reference = meta::controller_reference(set);
        let mut pod = pods::from_template(&template, set.namespace(), &prefix, reference);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
        if let Some(generation) = meta::annotation(&set.metadata, GENERATION) {
            labels.insert(GENERATION_LABEL.to_owned(), generation.to_owned());
        }
        if let Some(spec) = &mut pod.spec {
            placement::add_tolerations(spec);
            placement::pin(spec, node);
        }
        pod
    }

    async fn manage(&self, key: &str, set: &DaemonSet, plan: Plan, hash: &str) -> Result<(), Error> {
        for pod in &plan.ended {
            let (what, node) = (pod.key(), pods::node_name(pod));
            if pods::phase(pod) == "Failed" {
                let message = format!("Found failed daemon pod {what} on node {node}, will try to kill it");
                self.control.events.warning(set, "FailedDaemonPod", message);
            } else {
                let message =
                    format!("Found succeeded daemon pod {what} on node {node}, will try to delete it");
                self.control.events.normal(set, "SucceededDaemonPod", message);
            }
        }
        self.expectations.expect(key, plan.create.len(), plan.delete.iter().map(|p| p.uid().to_owned()));
        let unseen = |pod: &CachedPod| self.expectations.deleted(key, pod.uid());
        let deleted = self.control.delete_all(set, &plan.delete, unseen).await;
        let started = slow_start(plan.create, |node| {
            let pod = self.pod(set, &node, hash);
            async move { self.control.create(set, &pod).await }
        })
        .await;
        self.expectations.created_many(key, started.missing);
        match started.error {
            Some(error) if !error.is_namespace_terminating() => Err(error),
            _ => deleted,
        }
    }
}
