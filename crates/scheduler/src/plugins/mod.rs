//! The plugins, one file each, under kube-scheduler's names, and the table of them. A filter says why
//! not, in kube-scheduler's words; a score is 0 to 100 and higher is better. All are plain functions
//! of what a [`View`](crate::framework::View) shows.

pub mod default_preemption;
pub mod dynamic_resources;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use crate::framework::Point::{
    Bind, Filter as AtFilter, NormalizeScore, PostFilter, PreBind, PreEnqueue, PreFilter, PreScore,
    QueueSort, Reserve, Score as AtScore,
};
use crate::framework::{Filter, MAX_SCORE, Plugin, Score};

/// It binds pods that no extender binds.
pub const DEFAULT_BINDER: &str = "DefaultBinder";

/// The default plugins with their default weights, in kube-scheduler's order.
pub static TABLE: [Plugin; 19] = [
    Plugin::row(scheduling_gates::NAME, &[PreEnqueue]),
    Plugin::row("PrioritySort", &[QueueSort]),
    Plugin::row(node_unschedulable::NAME, &[AtFilter])
        .filters(Filter::Node(node_unschedulable::filter), node_unschedulable::hint),
    Plugin::row(node_name::NAME, &[AtFilter]).filters(Filter::Node(node_name::filter), node_name::hint),
    Plugin::row(taint_toleration::NAME, &[AtFilter, PreScore, AtScore, NormalizeScore])
        .filters(Filter::Node(taint_toleration::filter), taint_toleration::hint)
        .scores(3, Score::Groups(taint_toleration::score)),
    Plugin::row(node_affinity::NAME, &[PreFilter, AtFilter, PreScore, AtScore, NormalizeScore])
        .asks_before(node_affinity::before)
        .filters(Filter::Node(node_affinity::filter), node_affinity::hint)
        .scores(2, Score::Groups(node_affinity::score)),
    Plugin::row(node_ports::NAME, &[PreFilter, AtFilter])
        .filters(Filter::Node(node_ports::filter), node_ports::hint),
    Plugin::row(node_resources_fit::NAME, &[PreFilter, AtFilter, PreScore, AtScore])
        .filters(Filter::Node(node_resources_fit::filter), node_resources_fit::hint)
        .scores(1, Score::Node(node_resources_fit::score)),
    Plugin::row(volume_restrictions::NAME, &[PreFilter, AtFilter])
        .asks_before(volume_restrictions::before)
        .filters(Filter::Node(volume_restrictions::filter), volume_restrictions::hint),
    Plugin::row(node_volume_limits::NAME, &[PreFilter, AtFilter])
        .filters(Filter::Node(node_volume_limits::filter), node_volume_limits::hint),
    Plugin::row(volume_binding::NAME, &[PreFilter, AtFilter, Reserve, PreBind])
        .asks_before(volume_binding::before)
        .filters(Filter::Node(volume_binding::filter), volume_binding::hint),
    Plugin::row(volume_zone::NAME, &[PreFilter, AtFilter])
        .asks_before(volume_zone::before)
        .filters(Filter::Node(volume_zone::filter), volume_zone::hint),
    Plugin::row(pod_topology_spread::NAME, &[PreFilter, AtFilter, PreScore, AtScore, NormalizeScore])
        .filters(Filter::Place(pod_topology_spread::filter), pod_topology_spread::hint)
        .scores(2, Score::Groups(pod_topology_spread::score))
        .cares_for_placed_pods(),
    Plugin::row(inter_pod_affinity::NAME, &[PreFilter, AtFilter, PreScore, AtScore, NormalizeScore])
        .filters(Filter::Place(inter_pod_affinity::filter), inter_pod_affinity::hint)
        .scores(2, Score::Groups(inter_pod_affinity::score))
        .cares_for_placed_pods(),
    Plugin::row(
        dynamic_resources::NAME,
        &[PreEnqueue, PreFilter, AtFilter, PostFilter, AtScore, NormalizeScore, Reserve, PreBind],
    )
    .asks_before(dynamic_resources::before)
    .filters(Filter::Node(dynamic_resources::filter), dynamic_resources::hint)
    .scores(1, Score::Groups(dynamic_resources::score)),
    Plugin::row(default_preemption::NAME, &[PostFilter]),
    Plugin::row(node_resources_balanced_allocation::NAME, &[PreScore, AtScore])
        .scores(1, Score::Node(node_resources_balanced_allocation::score)),
    Plugin::row(image_locality::NAME, &[AtScore]).scores(1, Score::Groups(image_locality::score)),
    Plugin::row(DEFAULT_BINDER, &[Bind]),
];

/// Stretches marks so that the largest becomes 100; `reverse` turns small into good.
fn normalise(mut marks: Vec<i64>, reverse: bool) -> Vec<i64> {
    let largest = marks.iter().copied().max().unwrap_or(0);
    for mark in &mut marks {
        let scaled = if largest == 0 { 0 } else { MAX_SCORE * *mark / largest };
        *mark = if reverse { MAX_SCORE - scaled } else { scaled };
    }
    marks
}

#[cfg(test)]
mod tests;
