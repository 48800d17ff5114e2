//! How many pods a deployment may have and must keep, and how a change of size is shared out.

use amphipod_api::intstr::IntOrString;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr;

use super::replica_sets::{MAX_REPLICAS, annotated_count, replicas};

/// A deployment's numbers, percentages resolved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
    pub rolling: bool,
}

fn scaled(value: Option<&intstr::IntOrString>, total: i32, round_up: bool) -> i32 {
    let value = match value {
        None => return 0,
        Some(intstr::IntOrString::Int(n)) => IntOrString::Int(*n),
        Some(intstr::IntOrString::String(text)) => IntOrString::Text(text.clone()),
    };
    // What validation let through parses; a stray text counts as nothing.
    let scaled = value.scaled(i64::from(total), round_up).unwrap_or(0);
    i32::try_from(scaled).unwrap_or(i32::MAX)
}

impl Sizes {
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|s| s.replicas).unwrap_or(1);
        let strategy = spec.and_then(|s| s.strategy.as_ref());
        if strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
            return Sizes { replicas, max_surge: 0, max_unavailable: 0, rolling: false };
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let max_surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), replicas, true);
        let mut max_unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            // Both rounded to nothing: a rollout could never move.
            max_unavailable = 1;
        }
        Sizes { replicas, max_surge, max_unavailable: max_unavailable.min(replicas), rolling: true }
    }
    /// The most pods there may be while rolling.
    pub fn ceiling(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }
}

/// How many replicas the new ReplicaSet may have, given all there are.
pub fn new_set_replicas(sizes: &Sizes, current_new: i32, all: i32) -> i32 {
    if !sizes.rolling {
        return sizes.replicas;
    }
    if all >= sizes.ceiling() {
        return current_new;
    }
    let room = sizes.ceiling() - all;
    current_new + room.min(sizes.replicas - current_new)
}

/// How much of a change in size falls to one ReplicaSet, by its share before the change.
fn proportion(rs: &ReplicaSet, sizes: &Sizes, status_replicas: i32, to_add: i32, added: i32) -> i32 {
    let have = replicas(rs);
    if have == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let left = to_add - added;
    let share = share(rs, sizes, status_replicas);
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn share(rs: &ReplicaSet, sizes: &Sizes, status_replicas: i32) -> i32 {
    let have = replicas(rs);
    if sizes.replicas == 0 {
        return -have;
    }
    let before = annotated_count(rs, MAX_REPLICAS).filter(|n| *n != 0).unwrap_or(status_replicas);
    if before == 0 {
        return 0;
    }
    let exact = f64::from(have) * f64::from(sizes.ceiling()) / f64::from(before);
    // Within 32 bits: a fraction of at most `ceiling` scaled by at most `have`.
    #[allow(clippy::cast_possible_truncation, reason = "rounded and bounded above")]
    let new = exact.round() as i32;
    new - have
}

/// New sizes for the ReplicaSets that have pods, in the order given (largest first); what rounding
/// leaves over goes to the first.
pub fn share_out(active: &[&ReplicaSet], sizes: &Sizes, status_replicas: i32) -> Vec<i32> {
    let total: i32 = active.iter().map(|rs| replicas(rs)).sum();
    let allowed = if sizes.replicas > 0 { sizes.ceiling() } else { 0 };
    let to_add = allowed - total;
    let mut added = 0;
    let mut result = Vec::with_capacity(active.len());
    for rs in active {
        let part = proportion(rs, sizes, status_replicas, to_add, added);
        added += part;
        result.push(replicas(rs) + part);
    }
    if let Some(first) = result.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    result
}
