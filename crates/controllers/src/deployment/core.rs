//! One sync of a deployment as a function: from what is there to what is to be written. ReplicaSets
//! are changed on a working copy; the plan holds those that came out different.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphipod_client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::conditions::{self, PROGRESSING};
use super::plan::Plan;
use super::replica_sets::{self, DESIRED_REPLICAS, annotated_count, replicas};
use super::scaling::{self, Sizes};
use crate::meta;

/// What there is, besides the deployment.
#[derive(Default)]
pub struct View {
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    /// By uid: whether pods of that ReplicaSet have not ended yet.
    pub pods_running: BTreeMap<String, bool>,
}

/// The sync in progress.
pub(super) struct Work<'a> {
    pub view: &'a View,
    pub deployment: &'a Deployment,
    pub sizes: Sizes,
    pub now: Timestamp,
    /// The working copy; the new ReplicaSet may be one that is to be created.
    pub sets: Vec<ReplicaSet>,
    pub new: Option<usize>,
    pub creating: bool,
    pub status: DeploymentStatus,
    pub revision: Option<i64>,
    pub plan: Plan,
}

pub fn is_recreate(deployment: &Deployment) -> bool {
    !Sizes::of(deployment).rolling
}

pub fn reconcile(view: &View, deployment: &Deployment, now: Timestamp) -> Plan {
    let mut work = Work::new(view, deployment, now);
    work.find_new();
    if deployment.is_terminating() {
        work.status = work.totals();
        return work.finish();
    }
    conditions::note_pause(deployment, &mut work.status, now);
    let paused = deployment.spec.as_ref().and_then(|s| s.paused) == Some(true);
    if paused || work.was_resized() {
        work.update_existing_new();
        work.scale();
        if paused {
            work.clean_up();
        }
        work.status = work.totals();
    } else if work.sizes.rolling {
        work.roll();
    } else {
        work.recreate();
    }
    work.finish()
}

/// The same ReplicaSet we would have made (the answer to a name clash).
pub fn is_same_set(deployment: &Deployment, rs: &ReplicaSet) -> bool {
    let template = deployment.spec.as_ref().map(|s| &s.template);
    meta::is_controlled_by(&rs.metadata, deployment.uid())
        && template.is_some_and(|template| replica_sets::has_template(rs, template))
}

pub fn with_collision(deployment: &Deployment) -> Deployment {
    let mut changed = deployment.clone();
    let status = changed.status.get_or_insert_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    changed
}

pub fn with_failed_create(deployment: &Deployment, message: &str, now: Timestamp) -> Option<Deployment> {
    conditions::deadline_seconds(deployment)?;
    let mut changed = deployment.clone();
    let condition = conditions::make(PROGRESSING, "False", "ReplicaSetCreateError", message.to_owned(), now);
    conditions::set(changed.status.get_or_insert_default(), condition);
    (changed.status != deployment.status).then_some(changed)
}

impl<'a> Work<'a> {
    fn new(view: &'a View, deployment: &'a Deployment, now: Timestamp) -> Self {
        let mut sets: Vec<ReplicaSet> = view.replica_sets.iter().map(|rs| rs.as_ref().clone()).collect();
        // Oldest first, as every walk below wants them.
        sets.sort_by(|a, b| {
            (meta::created(&a.metadata), a.name()).cmp(&(meta::created(&b.metadata), b.name()))
        });
        Work {
            view,
            deployment,
            sizes: Sizes::of(deployment),
            now,
            sets,
            new: None,
            creating: false,
            status: deployment.status.clone().unwrap_or_default(),
            revision: None,
            plan: Plan::default(),
        }
    }

    fn find_new(&mut self) {
        let Some(template) = self.deployment.spec.as_ref().map(|s| &s.template) else { return };
        self.new = self.sets.iter().position(|rs| replica_sets::has_template(rs, template));
    }

    /// Indices of all but the new one, oldest first.
    pub fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|i| Some(*i) != self.new).collect()
    }
    pub fn active(&self, indices: impl IntoIterator<Item = usize>) -> Vec<usize> {
        indices.into_iter().filter(|i| replicas(&self.sets[*i]) > 0).collect()
    }
    pub fn total_replicas(&self) -> i32 {
        self.sets.iter().map(replicas).sum()
    }
    pub fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|i| &self.sets[i])
    }

    fn next_revision(&self) -> i64 {
        let newest = self.old().iter().map(|i| replica_sets::revision(&self.sets[*i])).max();
        newest.unwrap_or(0).saturating_add(1)
    }

    /// An existing new ReplicaSet gets its revision and annotations; the deployment shows both.
    pub fn update_existing_new(&mut self) {
        let Some(index) = self.new else { return };
        let revision = self.next_revision();
        let deployment = self.deployment;
        let rs = &mut self.sets[index];
        replica_sets::annotate_new(deployment, rs, revision);
        let wanted = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        if let Some(spec) = &mut rs.spec
            && spec.min_ready_seconds.unwrap_or(0) != wanted.unwrap_or(0)
        {
            spec.min_ready_seconds = wanted;
        }
        self.revision = Some(replica_sets::revision(&self.sets[index]));
        let has_deadline = conditions::deadline_seconds(deployment).is_some();
        if has_deadline && conditions::get(&self.status, PROGRESSING).is_none() {
            let message = format!("Found new replica set \"{}\"", self.sets[index].name());
            self.progressing("FoundNewReplicaSet", message);
        }
    }

    /// Makes sure there is a ReplicaSet for the template.
    pub fn ensure_new(&mut self) {
        if self.new.is_some() {
            return self.update_existing_new();
        }
        let Some(spec) = &self.deployment.spec else { return };
        let hash = replica_sets::hash(&spec.template, self.status.collision_count);
        let mut rs = replica_sets::build(self.deployment, &hash);
        let count = scaling::new_set_replicas(&self.sizes, 0, self.total_replicas());
        if let Some(spec) = &mut rs.spec {
            spec.replicas = Some(count);
        }
        let revision = self.next_revision();
        replica_sets::annotate_new(self.deployment, &mut rs, revision);
        replica_sets::annotate_sizes(&mut rs, self.sizes.replicas, self.sizes.ceiling());
        if count > 0 {
            let message = format!("Scaled up replica set {} from 0 to {count}", rs.name());
            self.plan.events.push(("ScalingReplicaSet", message));
        }
        if conditions::deadline_seconds(self.deployment).is_some() {
            self.progressing("NewReplicaSetCreated", format!("Created new replica set \"{}\"", rs.name()));
        }
        self.revision = Some(revision);
        self.creating = true;
        self.new = Some(self.sets.len());
        self.sets.push(rs);
    }

    fn progressing(&mut self, reason: &str, message: String) {
        let condition = conditions::make(PROGRESSING, "True", reason, message, self.now);
        conditions::set(&mut self.status, condition);
    }

    /// Someone changed `spec.replicas`: the sizes noted on an active ReplicaSet are not ours.
    fn was_resized(&self) -> bool {
        let noted = |i: &usize| annotated_count(&self.sets[*i], DESIRED_REPLICAS);
        let active = self.active(0..self.sets.len());
        active.iter().filter_map(noted).any(|desired| desired != self.sizes.replicas)
    }

    /// Gives a ReplicaSet a size; true when that changes its number of replicas.
    pub fn resize(&mut self, index: usize, wanted: i32) -> bool {
        let sizes = self.sizes;
        let rs = &mut self.sets[index];
        let had = replicas(rs);
        replica_sets::annotate_sizes(rs, sizes.replicas, sizes.ceiling());
        if had == wanted {
            return false;
        }
        if let Some(spec) = &mut rs.spec {
            spec.replicas = Some(wanted);
        }
        let direction = if wanted > had { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {had} to {wanted}", rs.name());
        self.plan.events.push(("ScalingReplicaSet", message));
        true
    }

    pub fn totals(&self) -> DeploymentStatus {
        conditions::totals(self.deployment, &self.status, self.sets.iter(), self.new_set(), self.now)
    }

    /// Turns the working copy's differences into the plan.
    fn finish(mut self) -> Plan {
        let original: BTreeMap<&str, &Arc<ReplicaSet>> =
            self.view.replica_sets.iter().map(|rs| (rs.uid(), rs)).collect();
        for (index, rs) in self.sets.iter().enumerate() {
            if self.creating && Some(index) == self.new {
                self.plan.create = Some(rs.clone());
            } else if original.get(rs.uid()).is_some_and(|before| before.as_ref() != rs) {
                self.plan.update.push(rs.clone());
            }
        }
        let mut changed = self.deployment.clone();
        if let Some(revision) = self.revision {
            meta::annotate(&mut changed.metadata, replica_sets::REVISION, &revision.to_string());
        }
        self.plan.again = conditions::next_check(self.deployment, &self.status, self.now);
        changed.status = Some(self.status);
        if changed != *self.deployment {
            self.plan.status = Some(changed);
        }
        self.plan
    }
}
