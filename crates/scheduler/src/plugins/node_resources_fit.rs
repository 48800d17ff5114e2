//! Whether a node has room for a pod, and how good it is to fill it further (or to leave it empty).

use crate::amounts::ResourceId;
use crate::framework::{
    Candidate, Cause, Event, FitStrategy, MAX_SCORE, Question, Refusal, ScoringStrategy, ShapePoint,
    Shortage, Verdict, View,
};
use crate::node::Shape;

pub const NAME: &str = "NodeResourcesFit";
/// Points of a shape score at most this.
const MAX_SHAPE_SCORE: i64 = 10;

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    let (shape, fill) = (candidate.shape, candidate.fill);
    let mut short = Vec::new();
    let mut resolvable = true;
    if fill.pods + 1 > shape.pod_slots {
        short.push(Shortage { resource: None, wanted: 1, used: fill.pods, capacity: shape.pod_slots });
    }
    for (id, wanted) in view.pod.spec.requests.iter() {
        let (capacity, used) = (shape.allocatable.get(id), fill.requested.get(id));
        if wanted > 0 && wanted > capacity.saturating_sub(used) && !is_ignored(view, id) {
            short.push(Shortage { resource: Some(id), wanted, used, capacity });
            // More than the empty node has.
            resolvable &= wanted <= capacity;
        }
    }
    if short.is_empty() {
        return Ok(());
    }
    Err(Refusal { plugin: NAME, cause: Cause::Short(short), resolvable })
}

fn is_ignored(view: &View, id: ResourceId) -> bool {
    let FitStrategy { ignored_resources, ignored_resource_groups, .. } = &view.profile.arguments.fit;
    if !id.is_scalar() || (ignored_resources.is_empty() && ignored_resource_groups.is_empty()) {
        return false;
    }
    let name = view.snapshot.catalogue.resources.name(id);
    let group = name.split_once('/').map_or("", |(group, _)| group);
    amphipod_api::pod_resources::is_extended(name)
        && (ignored_resources.iter().any(|ignored| ignored == name)
            || ignored_resource_groups.iter().any(|ignored| ignored == group))
}

pub fn score(view: &View, candidate: &Candidate) -> i64 {
    let fit = &view.profile.arguments.fit;
    let weighed = fit.resources.0.iter().filter_map(|(id, weight)| {
        let (capacity, used) = with_pod(view, candidate, *id)?;
        Some((used, capacity, *weight))
    });
    match &fit.scoring {
        ScoringStrategy::LeastAllocated => {
            mean(
                weighed,
                |used, capacity| {
                    if used > capacity { 0 } else { (capacity - used) * MAX_SCORE / capacity }
                },
            )
        }
        ScoringStrategy::MostAllocated => {
            mean(weighed, |used, capacity| used.min(capacity) * MAX_SCORE / capacity)
        }
        ScoringStrategy::RequestedToCapacityRatio(points) => by_shape(weighed, points),
    }
}

/// What the node has of a resource and what would be used of it with the pod; `None` where it has
/// none, or where it is a special resource and the pod asks for none.
fn with_pod(view: &View, candidate: &Candidate, id: ResourceId) -> Option<(i64, i64)> {
    let spec = &view.pod.spec;
    let (used, wanted) = match id {
        ResourceId::CPU => (candidate.fill.nonzero[0], spec.nonzero[0]),
        ResourceId::MEMORY => (candidate.fill.nonzero[1], spec.nonzero[1]),
        _ => (candidate.fill.requested.get(id), spec.requests.get(id)),
    };
    let capacity = candidate.shape.allocatable.get(id);
    let together = used.saturating_add(wanted).max(0); // a sum of absurd amounts may have wrapped
    (capacity != 0 && (wanted != 0 || !id.is_scalar())).then_some((capacity, together))
}

fn mean(weighed: impl Iterator<Item = (i64, i64, i64)>, mark: impl Fn(i64, i64) -> i64) -> i64 {
    let sums = weighed.fold((0, 0), |(marks, weights), (used, capacity, weight)| {
        (marks + mark(used, capacity) * weight, weights + weight)
    });
    if sums.1 == 0 { 0 } else { sums.0 / sums.1 }
}

/// Resources that score nothing do not take part in the mean, and the mean is rounded.
fn by_shape(weighed: impl Iterator<Item = (i64, i64, i64)>, points: &[ShapePoint]) -> i64 {
    let mark = |used: i64, capacity: i64| {
        let utilization = if used > capacity { 100 } else { used * 100 / capacity };
        on_shape(points, utilization)
    };
    let (mut marks, mut weights) = (0, 0);
    for (used, capacity, weight) in weighed {
        let mark = mark(used, capacity);
        if mark > 0 {
            marks += mark * weight;
            weights += weight;
        }
    }
    if weights == 0 { 0 } else { (marks as f64 / weights as f64).round() as i64 }
}

/// The score at a utilisation: on the line between the points around it.
fn on_shape(points: &[ShapePoint], utilization: i64) -> i64 {
    let scaled = |point: &ShapePoint| point.score * (MAX_SCORE / MAX_SHAPE_SCORE);
    let after = points.iter().position(|point| utilization <= point.utilization);
    match after {
        None => points.last().map_or(0, scaled),
        Some(0) => scaled(&points[0]),
        Some(index) => {
            let (from, to) = (&points[index - 1], &points[index]);
            let rise = scaled(to) - scaled(from);
            scaled(from) + rise * (utilization - from.utilization) / (to.utilization - from.utilization)
        }
    }
}

/// Room comes from pods that go or shrink, and from nodes with more of what the pod asks for.
pub fn hint(question: &Question) -> bool {
    let wanted = &question.pod.template.spec.requests;
    let holds = |shape: &Shape| {
        shape.pod_slots > 0 && wanted.iter().all(|(id, amount)| amount <= shape.allocatable.get(id))
    };
    let grows = |old: &Shape, new: &Shape| {
        new.pod_slots > old.pod_slots
            || wanted.iter().any(|(id, _)| new.allocatable.get(id) > old.allocatable.get(id))
    };
    match question.event {
        Event::PodRemoved(_) => true,
        Event::PodChanged { old, new } => {
            let (old, new) = (&old.template.spec.requests, &new.template.spec.requests);
            wanted.iter().any(|(id, _)| new.get(id) < old.get(id))
        }
        Event::NodeAdded { new, .. } => holds(new),
        Event::NodeChanged { old, new, .. } => holds(new) && grows(old, new),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_on_a_shape() {
        let points =
            [(0, 0), (50, 10), (100, 5)].map(|(utilization, score)| ShapePoint { utilization, score });
        for (utilization, expected) in [(0, 0), (25, 50), (50, 100), (75, 75), (100, 50), (120, 50)] {
            assert_eq!(on_shape(&points, utilization), expected, "at {utilization} %");
        }
        let of = |resources: &[(i64, i64, i64)]| by_shape(resources.iter().copied(), &points);
        assert_eq!(of(&[(0, 10, 1), (5, 10, 1)]), 100, "what scores nothing takes no part");
        assert_eq!(of(&[(20, 10, 3), (5, 10, 1)]), 63, "over-full is full");
        assert_eq!(of(&[]), 0);
    }
}
