//! Where a pod would go and why, for people: what every plugin says of every node, the node that
//! misses by least and what would help, the scores behind a choice. Asked of a snapshot made for the
//! question, on which nodes can be added and taken away without touching the cluster; the answer is
//! what the scheduler itself would decide on that snapshot.

mod cluster;
mod details;
mod explainer;
mod kept;
mod nearest;
mod quantities;
mod queue;
mod ranking;
mod summary;
mod verdicts;
mod waits;
mod what_if;

use std::sync::Arc;

use amphipod_api::scheduling_review::{Eviction, Status, Subject, Wait};

pub use cluster::Cluster;
pub use explainer::{Explainer, Source};
pub use kept::Kept;
pub use queue::QueueView;
pub(crate) use queue::Seen;
pub use waits::waits;
pub use what_if::{Faults, change_nodes, change_requests};

use ranking::Ranking;
use summary::Told;

use crate::amounts::Sums;
use crate::class::{Class, Trial};
use crate::decision::{Decision, Scheduler, Unschedulable};
use crate::framework::Profile;
use crate::pod::PodInfo;
use crate::preemption::Preemption;
use crate::snapshot::Snapshot;

/// What is asked, beside the pod.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Where the pod is, if it is anywhere.
    pub node: Option<String>,
    /// Where room is being made for it.
    pub nominated: Option<String>,
    pub waits_for: Vec<Wait>,
    /// What it asks for as its author wrote it; what is counted of an absurd amount is less.
    pub written: Sums,
    /// What is not so but was put into the snapshot or the pod.
    pub assumed: Vec<String>,
}

/// Explains a pod as one that has no node yet. It changes the snapshot: where the pod is there, it is
/// taken out, so that it does not stand in its own way.
pub fn explain(snapshot: &mut Snapshot, profiles: Vec<Profile>, pod: &Arc<PodInfo>, asked: Asked) -> Status {
    snapshot.remove_pod(&pod.key);
    if let Some(slot) = asked.nominated.as_deref().and_then(|name| snapshot.slot(name)) {
        snapshot.nominate(pod.clone(), slot);
    }
    let mut scheduler = Scheduler::new(profiles);
    // Which of equals would be taken is chance; the first stands for all.
    let decision = scheduler.decide(snapshot, pod, 0);
    snapshot.denominate(&pod.key);
    let snapshot = &*snapshot;
    let index = scheduler.profile_of(snapshot, &pod.template).unwrap_or(0);
    let beforehand = scheduler.refusal_beforehand(snapshot, pod, index);
    let (class, profile) = scheduler.class(snapshot, pod);
    let verdicts = verdicts::of_nodes(snapshot, profile, class);
    let current = asked.node.as_deref().and_then(|name| snapshot.slot(name));
    let refused = match &decision {
        Decision::Node(_) => None,
        Decision::Unschedulable(unschedulable) => Some(unschedulable),
    };
    let mut status = Status {
        nodes: snapshot.node_count(),
        message: refused.map(|refused| refused.explanation.message()),
        preemption: refused.and_then(|refused| planned(refused, class, snapshot, profile)),
        ..Status::default()
    };
    if refused.is_some() {
        status.nearest_miss = nearest::miss(class, snapshot, profile, &verdicts, &asked.written);
    }
    let view = class.view(snapshot, profile);
    let mut judgement = class.judge(snapshot, profile);
    if let Some((plugin, text)) = beforehand {
        // Nobody looks at the nodes, so nothing can be said of them one by one.
        judgement.feasible.clear();
        status.groups = verdicts::of_all(snapshot, &verdicts, plugin, &text);
        status.nearest_miss = None;
    } else {
        (status.groups, status.nodes_not_shown) = verdicts::groups(&view, &verdicts, &asked.written);
    }
    let ranking = Ranking::new(snapshot, &judgement);
    status.feasible_nodes = ranking.len();
    status.ranking = ranking.report(&view, &judgement, current);
    let told = Told {
        snapshot,
        pod,
        node: asked.node.as_deref(),
        current,
        decision: &decision,
        preemption: status.preemption.as_ref(),
        ranking: &ranking,
    };
    status.outcome = told.outcome();
    status.summary = told.summary(status.outcome);
    status.pod = subject(snapshot, pod, &asked);
    (status.assumed, status.waits_for) = (asked.assumed, asked.waits_for);
    status
}

/// The room the scheduler would make.
fn planned(
    refused: &Unschedulable,
    class: &mut Class,
    snapshot: &Snapshot,
    profile: &Profile,
) -> Option<Eviction> {
    let Some(Preemption::Plan(plan)) = &refused.preemption else { return None };
    let (Trial::Helps(rank), victims) = class.try_node(snapshot, profile, plan.slot)? else { return None };
    Some(nearest::eviction(snapshot, plan.slot, &victims, rank.violations, true))
}

fn subject(snapshot: &Snapshot, pod: &PodInfo, asked: &Asked) -> Subject {
    let (spec, symbols) = (&pod.template.spec, &snapshot.catalogue.symbols);
    Subject {
        namespace: symbols.text(pod.template.namespace).to_owned(),
        name: pod.name().to_owned(),
        scheduler_name: symbols.text(spec.scheduler).to_owned(),
        priority: spec.priority,
        requests: quantities::all_asked(&snapshot.catalogue.resources, &spec.requests, &asked.written),
        node_name: asked.node.clone(),
        nominated_node_name: asked.nominated.clone(),
    }
}

/// `a`, `a and b`, `a, b and c`.
fn joined(parts: &[String], word: &str) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {word} {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests;
