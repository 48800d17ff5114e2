//! The moves of a rollout: scaling without a new template, rolling, recreating, and clearing away
//! what is beyond the history limit.

use std::sync::Arc;

use amphipod_client::Resource;
use k8s_openapi::api::apps::v1::ReplicaSet;

use super::conditions;
use super::core::Work;
use super::replica_sets::{self, available, replicas};
use super::scaling::{new_set_replicas, share_out};

impl Work<'_> {
    /// Follows a change of `spec.replicas`: one ReplicaSet takes it whole; several in the middle of a
    /// rollout share it in proportion.
    pub fn scale(&mut self) {
        let wanted = self.sizes.replicas;
        if let Some(index) = self.active_or_latest() {
            if replicas(&self.sets[index]) != wanted {
                self.resize(index, wanted);
            } else {
                // Also a size that fits by chance must be noted, or each sync would see a resize.
                self.note_sizes(index);
            }
            return;
        }
        if self.is_saturated() {
            for index in self.active(self.old()) {
                self.resize(index, 0);
            }
            return;
        }
        if self.sizes.rolling {
            return self.scale_in_proportion();
        }
        // Recreate resizes as part of its next step; noting the sizes lets it come to that.
        for index in self.active(0..self.sets.len()) {
            self.note_sizes(index);
        }
    }

    fn note_sizes(&mut self, index: usize) {
        let sizes = self.sizes;
        replica_sets::annotate_sizes(&mut self.sets[index], sizes.replicas, sizes.ceiling());
    }

    /// The one ReplicaSet with pods, or without any the new (else the youngest) one.
    fn active_or_latest(&self) -> Option<usize> {
        match self.active(0..self.sets.len()).as_slice() {
            [] => self.new.or_else(|| self.old().last().copied()),
            [one] => Some(*one),
            _ => None,
        }
    }

    /// The new ReplicaSet has all its pods, and all available.
    fn is_saturated(&self) -> bool {
        let Some(rs) = self.new_set() else { return false };
        let desired = replica_sets::annotated_count(rs, replica_sets::DESIRED_REPLICAS);
        let wanted = self.sizes.replicas;
        replicas(rs) == wanted && desired == Some(wanted) && available(rs) == wanted
    }

    fn scale_in_proportion(&mut self) {
        let mut active = self.active(0..self.sets.len());
        let total: i32 = active.iter().map(|i| replicas(&self.sets[*i])).sum();
        let growing = self.sizes.replicas > 0 && self.sizes.ceiling() > total;
        // Largest first; of equals the newer one when growing, the older one when shrinking.
        active.sort_by(|a, b| {
            let by_size = replicas(&self.sets[*b]).cmp(&replicas(&self.sets[*a]));
            let by_age = if growing { b.cmp(a) } else { a.cmp(b) };
            by_size.then(by_age)
        });
        let sets: Vec<&ReplicaSet> = active.iter().map(|i| &self.sets[*i]).collect();
        let sizes = share_out(&sets, &self.sizes, self.status.replicas.unwrap_or(0));
        for (index, size) in active.into_iter().zip(sizes) {
            self.resize(index, size);
        }
    }

    pub fn roll(&mut self) {
        self.ensure_new();
        let moved = self.grow_new() || self.shrink_old();
        if !moved && conditions::is_complete(self.deployment, &self.status) {
            self.clean_up();
        }
        self.conclude();
    }

    fn grow_new(&mut self) -> bool {
        let Some(index) = self.new else { return false };
        let (have, wanted) = (replicas(&self.sets[index]), self.sizes.replicas);
        let size =
            if have > wanted { wanted } else { new_set_replicas(&self.sizes, have, self.total_replicas()) };
        if size == have && self.creating {
            return true; // its first size was given at birth
        }
        self.resize(index, size)
    }

    fn shrink_old(&mut self) -> bool {
        let old = self.active(self.old());
        if old.is_empty() {
            return false;
        }
        let minimum = self.sizes.replicas - self.sizes.max_unavailable;
        let new_unavailable = self.new_set().map_or(0, |rs| replicas(rs) - available(rs));
        let room = self.total_replicas() - minimum - new_unavailable;
        if room <= 0 {
            return false;
        }
        let unhealthy = self.drop_unhealthy(&old, room);
        let healthy = self.drop_healthy(&old, minimum);
        unhealthy || healthy
    }

    /// Pods that never became available cost nothing to lose: they go first.
    fn drop_unhealthy(&mut self, old: &[usize], room: i32) -> bool {
        let mut dropped = 0;
        for &index in old {
            if dropped >= room {
                break;
            }
            let (have, up) = (replicas(&self.sets[index]), available(&self.sets[index]));
            if have == 0 || have <= up {
                continue;
            }
            let part = (room - dropped).min(have - up);
            self.resize(index, have - part);
            dropped += part;
        }
        dropped > 0
    }

    fn drop_healthy(&mut self, old: &[usize], minimum: i32) -> bool {
        let up: i32 = self.sets.iter().map(available).sum();
        let mut spare = up - minimum;
        let mut moved = false;
        for &index in old {
            if spare <= 0 {
                break;
            }
            let have = replicas(&self.sets[index]);
            if have == 0 {
                continue;
            }
            let part = have.min(spare);
            self.resize(index, have - part);
            spare -= part;
            moved = true;
        }
        moved
    }

    pub fn recreate(&mut self) {
        let old = self.old();
        let mut moved = false;
        for index in self.active(old.clone()) {
            moved |= self.resize(index, 0);
        }
        if moved || self.old_pods_exist(&old) {
            self.update_existing_new();
            return self.conclude();
        }
        self.ensure_new();
        if let Some(index) = self.new
            && !self.creating
        {
            self.resize(index, self.sizes.replicas);
        }
        if conditions::is_complete(self.deployment, &self.status) {
            self.clean_up();
        }
        self.conclude();
    }

    fn old_pods_exist(&self, old: &[usize]) -> bool {
        old.iter().any(|i| {
            let rs = &self.sets[*i];
            rs.status.as_ref().is_some_and(|s| s.replicas > 0)
                || self.view.pods_running.get(rs.uid()).copied().unwrap_or(false)
        })
    }

    fn conclude(&mut self) {
        let before = self.deployment.status.clone().unwrap_or_default();
        let mut status = self.totals();
        let new = self.new_set();
        // What this sync itself noted (a new ReplicaSet, a resume) stands; else judge the movement.
        if conditions::get(&self.status, conditions::PROGRESSING)
            == conditions::get(&before, conditions::PROGRESSING)
        {
            conditions::judge_progress(self.deployment, new, &before, &mut status, self.now);
        } else if conditions::deadline_seconds(self.deployment).is_none() {
            conditions::remove(&mut status, conditions::PROGRESSING);
        }
        conditions::note_failures(&mut status, new, self.sets.iter(), self.now);
        self.status = status;
    }

    /// Deletes the oldest revisions beyond the history limit, those that are empty and settled.
    pub fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|s| s.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old = self.old();
        old.retain(|i| !self.sets[*i].is_terminating());
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|i| (replica_sets::revision(&self.sets[*i]), *i));
        for index in old.into_iter().take(excess) {
            let rs = &self.sets[index];
            let status = rs.status.as_ref();
            let pods = status.map_or(0, |s| s.replicas);
            let settled = status.and_then(|s| s.observed_generation) >= rs.metadata.generation;
            if pods != 0 || replicas(rs) != 0 || !settled {
                continue;
            }
            let found = self.view.replica_sets.iter().find(|r| r.uid() == rs.uid());
            self.plan.delete.extend(found.map(Arc::clone));
        }
    }
}
