//! The node that misses by least: in how many respects it is refused, whether for good, and by how
//! much of its size. And which pods would have to leave it.

use std::sync::Arc;

use amphipod_api::scheduling_review::{Eviction, NearMiss, Victim};

use super::verdicts::{self, NodeVerdict};
use super::{joined, quantities};
use crate::amounts::Sums;
use crate::class::{Class, Signature, Trial};
use crate::framework::{Cause, Profile, Shortage, View};
use crate::node::Slot;
use crate::pod::{PodInfo, Spec};
use crate::snapshot::Snapshot;

/// Pods that would have to leave a node are shown up to this many; sentences name fewer.
const MAX_VICTIMS: usize = 20;
const MAX_VICTIMS_NAMED: usize = 3;
/// Shares are compared in parts of this.
const SHARE: i64 = 1_000_000;

/// Of the nodes that refuse the pod the one that misses by least.
pub fn miss(
    class: &mut Class,
    snapshot: &Snapshot,
    profile: &Profile,
    verdicts: &[NodeVerdict],
    written: &Sums,
) -> Option<NearMiss> {
    let refused = verdicts.iter().filter(|verdict| !verdict.fits());
    let nearest = refused.min_by_key(|verdict| distance(verdict))?;
    let node_name = snapshot.name(nearest.slot).to_owned();
    let (remedies, plugins) = {
        let view: View = class.view(snapshot, profile);
        (verdicts::remedies(&view, nearest, written), verdicts::of_one(&view, nearest, written))
    };
    let without = if nearest.refusals().all(|refusal| refusal.resolvable) {
        without(class, snapshot, profile, nearest.slot)
    } else {
        None
    };
    let summary = format!("{node_name} would take the pod if {}", joined(&remedies, "and"));
    Some(NearMiss { node_name, summary, plugins, without })
}

fn distance(verdict: &NodeVerdict) -> (usize, usize, i64) {
    let for_good = verdict.refusals().filter(|refusal| !refusal.resolvable).count();
    let shortages = verdict.refusals().filter_map(|refusal| match &refusal.cause {
        Cause::Short(shortages) => Some(shortages),
        _ => None,
    });
    let worst = shortages.flatten().map(share).max();
    (for_good, verdict.refusals().count(), worst.unwrap_or(0))
}

/// What is missing, as a share of what the node has.
fn share(shortage: &Shortage) -> i64 {
    shortage.missing().saturating_mul(SHARE).checked_div(shortage.capacity).unwrap_or(i64::MAX)
}

/// The pods that would have to leave the node: those preemption would take, or those it would take
/// for a pod that matters more than all of them.
fn without(class: &mut Class, snapshot: &Snapshot, profile: &Profile, slot: Slot) -> Option<Eviction> {
    let own = class.signature.spec.clone();
    if !own.never_preempts
        && let Some((Trial::Helps(rank), victims)) = class.try_node(snapshot, profile, slot)
    {
        return Some(eviction(snapshot, slot, &victims, rank.violations, true));
    }
    let highest = snapshot.node(slot).pods.iter().map(|pod| pod.priority()).max()?;
    let raised = Spec { priority: own.priority.max(highest.saturating_add(1)), ..Spec::clone(&own) };
    let signature = Signature { spec: Arc::new(raised), ..class.signature.clone() };
    let mut above = Class::new(snapshot, signature);
    above.refresh(snapshot, profile);
    let Some((Trial::Helps(rank), victims)) = above.try_node(snapshot, profile, slot) else { return None };
    let mut eviction = eviction(snapshot, slot, &victims, rank.violations, false);
    let why = if own.never_preempts {
        "the pod's preemptionPolicy is Never".to_owned()
    } else {
        let highest = victims.iter().map(|pod| pod.priority()).max().unwrap_or(highest);
        format!("priority {} is not above {highest}", own.priority)
    };
    eviction.summary = format!("{}, but the scheduler will not preempt: {why}", eviction.summary);
    Some(eviction)
}

pub fn eviction(
    snapshot: &Snapshot,
    slot: Slot,
    victims: &[Arc<PodInfo>],
    budget_violations: usize,
    by_preemption: bool,
) -> Eviction {
    let names: Vec<String> = victims.iter().take(MAX_VICTIMS_NAMED).map(|pod| pod.key.to_string()).collect();
    let mut names = names;
    if victims.len() > MAX_VICTIMS_NAMED {
        names.push(format!("{} more", victims.len() - MAX_VICTIMS_NAMED));
    }
    let names = joined(&names, "and");
    let mut summary = match by_preemption {
        true => format!("preempting {names} would do"),
        false => format!("without {names} it would do"),
    };
    if budget_violations > 0 {
        summary += &format!(" (against {budget_violations} disruption budget(s))");
    }
    Eviction {
        node_name: snapshot.name(slot).to_owned(),
        summary,
        pods: victims.iter().take(MAX_VICTIMS).map(|pod| victim(snapshot, pod)).collect(),
        pods_not_shown: victims.len().saturating_sub(MAX_VICTIMS),
        budget_violations,
        by_preemption,
    }
}

fn victim(snapshot: &Snapshot, pod: &PodInfo) -> Victim {
    let catalogue = &snapshot.catalogue;
    Victim {
        namespace: catalogue.symbols.text(pod.template.namespace).to_owned(),
        name: pod.name().to_owned(),
        priority: pod.priority(),
        requests: quantities::all(&catalogue.resources, &pod.template.spec.requests),
    }
}
