//! What the arguments of plugins must be, as kube-scheduler judges them, in its words.

use std::fmt::Display;
use std::ops::RangeInclusive;

use amphipod_api::field::{Error, Faults, Path};
use amphipod_api::names::{label_value, qualified_name};
use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, TopologySpreadConstraint,
};
use serde_json::Value;

use super::arguments::{Arguments, DynamicResources, Fit, Preemption, ResourceSpec, Spread, VolumeBinding};
use super::validate::bad_duration;
use crate::framework::ShapePoint;

pub(super) fn arguments(faults: &mut Faults, path: &Path, arguments: &Arguments) {
    match arguments {
        Arguments::DefaultPreemption(given) => preemption(faults, path, given),
        Arguments::DynamicResources(given) => dynamic_resources(faults, path, given),
        Arguments::InterPodAffinity(given) => {
            in_range(faults, &path.child("hardPodAffinityWeight"), given.hard_weight, 0..=100);
        }
        Arguments::NodeAffinity(given) => {
            if let Some(added) = given {
                node_affinity(faults, &path.child("addedAffinity"), added);
            }
        }
        Arguments::BalancedAllocation(given) => balanced(faults, &path.child("resources"), given),
        Arguments::Fit(given) => fit(faults, path, given),
        Arguments::PodTopologySpread(given) => spread(faults, path, given),
        Arguments::VolumeBinding(given) => volume_binding(faults, path, given),
    }
}

fn in_range<N: Copy + PartialOrd + Display + Into<Value>>(
    faults: &mut Faults,
    path: &Path,
    value: N,
    range: RangeInclusive<N>,
) {
    if !range.contains(&value) {
        let why = format!("not in valid range [{}, {}]", range.start(), range.end());
        faults.push(Error::invalid(path, value, why));
    }
}

fn preemption(faults: &mut Faults, path: &Path, given: &Preemption) {
    let (share, number) = (given.min_candidate_nodes_percentage, given.min_candidate_nodes_absolute);
    let share_path = path.child("minCandidateNodesPercentage");
    let number_path = path.child("minCandidateNodesAbsolute");
    in_range(faults, &share_path, share, 0..=100);
    if number < 0 {
        faults.push(Error::invalid(&number_path, number, "not in valid range [0, inf)"));
    }
    if share == 0 && number == 0 {
        let zero = |path, other: &str| {
            Error::invalid(path, 0, format!("cannot be zero at the same time as {other}"))
        };
        faults.push(zero(&share_path, "minCandidateNodesAbsolute"));
        faults.push(zero(&number_path, "minCandidateNodesPercentage"));
    }
}

fn dynamic_resources(faults: &mut Faults, path: &Path, given: &DynamicResources) {
    if given.filter_timeout < 0 {
        let why = "must be zero or positive";
        faults.push(bad_duration(&path.child("filterTimeout"), given.filter_timeout, why));
    }
    if given.binding_timeout.is_some() {
        let why = "DRADeviceBindingConditions or DRAResourceClaimDeviceStatus feature gate is disabled";
        faults.push(Error::forbidden(&path.child("bindingTimeout"), why));
    }
}

fn balanced(faults: &mut Faults, path: &Path, specs: &[ResourceSpec]) {
    for (index, spec) in specs.iter().enumerate() {
        let path = path.index(index);
        if specs[..index].iter().any(|earlier| earlier.name == spec.name) {
            faults.push(Error::duplicate(&path.child("name"), spec.name.as_str()));
        }
        if spec.weight != 1 {
            faults.push(Error::invalid(&path.child("weight"), spec.weight, "must be 1"));
        }
    }
}

fn fit(faults: &mut Faults, path: &Path, given: &Fit) {
    for (index, name) in given.ignored_resources.iter().enumerate() {
        label_name(faults, &path.child("ignoredResources").index(index), name);
    }
    for (index, group) in given.ignored_resource_groups.iter().enumerate() {
        let path = path.child("ignoredResourceGroups").index(index);
        if group.contains('/') {
            faults.push(Error::invalid(&path, group.as_str(), "resource group name can't contain '/'"));
        }
        label_name(faults, &path, group);
    }
    let path = path.child("scoringStrategy");
    let (strategy, kind) = (&given.strategy, given.strategy.kind.as_str());
    let kinds = ["LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"];
    if !kinds.contains(&kind) {
        faults.push(Error::not_supported(&path.child("type"), kind, &kinds));
    }
    for (index, spec) in strategy.resources.iter().enumerate() {
        if !(1..=100).contains(&spec.weight) {
            let why = format!("resource weight of {} not in valid range (0, 100]", spec.name);
            let path = path.child("resources").index(index).child("weight");
            faults.push(Error::invalid(&path, spec.weight, why));
        }
    }
    let path = path.child("requestedToCapacityRatio");
    match (&strategy.shape, kind == "RequestedToCapacityRatio") {
        (Some(points), true) => shape(faults, &path.child("shape"), points),
        (Some(_), false) => {
            faults.push(Error::forbidden(&path, "must be nil when type is not RequestedToCapacityRatio"));
        }
        (None, true) => {
            faults.push(Error::required(&path, "must be specified when type is RequestedToCapacityRatio"));
        }
        (None, false) => {}
    }
}

fn shape(faults: &mut Faults, path: &Path, points: &[ShapePoint]) {
    if points.is_empty() {
        faults.push(Error::required(path, "at least one point must be specified"));
    }
    let falls = points.windows(2).position(|pair| pair[0].utilization >= pair[1].utilization);
    if let Some(index) = falls.map(|index| index + 1) {
        let path = path.index(index).child("utilization");
        let why = "values must be sorted in increasing order";
        faults.push(Error::invalid(&path, points[index].utilization, why));
    }
    for (index, point) in points.iter().enumerate() {
        let path = path.index(index);
        in_range(faults, &path.child("utilization"), point.utilization, 0..=100);
        in_range(faults, &path.child("score"), point.score, 0..=10);
    }
}

fn spread(faults: &mut Faults, path: &Path, given: &Spread) {
    let (kind, kind_path) = (given.defaulting_type.as_str(), path.child("defaultingType"));
    if !["System", "List"].contains(&kind) {
        faults.push(Error::not_supported(&kind_path, kind, &["System", "List"]));
    } else if kind == "System" && !given.default_constraints.is_empty() {
        faults.push(Error::invalid(&kind_path, kind, "when .defaultConstraints are not empty"));
    }
    let path = path.child("defaultConstraints");
    for (index, constraint) in given.default_constraints.iter().enumerate() {
        default_constraint(faults, &path.index(index), constraint);
        let same = |earlier: &TopologySpreadConstraint| {
            earlier.topology_key == constraint.topology_key
                && earlier.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if given.default_constraints[..index].iter().any(same) {
            let value = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            faults.push(Error::duplicate(&path.index(index), value));
        }
    }
}

fn default_constraint(faults: &mut Faults, path: &Path, constraint: &TopologySpreadConstraint) {
    if constraint.max_skew <= 0 {
        let path = path.child("maxSkew");
        faults.push(Error::invalid(&path, constraint.max_skew, "not in valid range (0, inf)"));
    }
    match constraint.topology_key.as_str() {
        "" => faults.push(Error::required(&path.child("topologyKey"), "can not be empty")),
        key => label_name(faults, &path.child("topologyKey"), key),
    }
    let (action, action_path) = (constraint.when_unsatisfiable.as_str(), path.child("whenUnsatisfiable"));
    let actions = ["DoNotSchedule", "ScheduleAnyway"];
    if action.is_empty() {
        faults.push(Error::required(&action_path, "can not be empty"));
    } else if !actions.contains(&action) {
        faults.push(Error::not_supported(&action_path, action, &actions));
    }
    if constraint.label_selector.is_some() {
        let why = "constraint must not define a selector, as they deduced for each pod";
        faults.push(Error::forbidden(&path.child("labelSelector"), why));
    }
}

fn volume_binding(faults: &mut Faults, path: &Path, given: &VolumeBinding) {
    if given.bind_timeout_seconds < 0 {
        let why = "invalid BindTimeoutSeconds, should not be a negative value";
        faults.push(Error::invalid(&path.child("bindTimeoutSeconds"), given.bind_timeout_seconds, why));
    }
    if let Some(points) = &given.shape {
        let show =
            |point: &ShapePoint| serde_json::json!({"utilization": point.utilization, "score": point.score});
        let points: Vec<Value> = points.iter().map(show).collect();
        let why = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
        faults.push(Error::invalid(&path.child("shape"), points, why));
    }
}

fn node_affinity(faults: &mut Faults, path: &Path, added: &NodeAffinity) {
    let is_empty = |term: &NodeSelectorTerm| {
        let none = |list: &Option<Vec<NodeSelectorRequirement>>| list.as_ref().is_none_or(Vec::is_empty);
        none(&term.match_expressions) && none(&term.match_fields)
    };
    if let Some(required) = &added.required_during_scheduling_ignored_during_execution {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        for (index, term) in required.node_selector_terms.iter().enumerate() {
            node_term(faults, &path.index(index), term);
        }
    }
    let preferred = added.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (index, preferred) in preferred.enumerate() {
        if preferred.weight != 0 && !is_empty(&preferred.preference) {
            node_term(faults, &path.index(index), &preferred.preference);
        }
    }
}

fn node_term(faults: &mut Faults, path: &Path, term: &NodeSelectorTerm) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        expression(faults, &path.child("matchExpressions").index(index), requirement);
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = path.child("matchFields").index(index);
        let values = requirement.values.clone().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => {
                faults.push(Error::invalid(&path.child("values"), values, "must have one element"));
            }
            operator => {
                faults.push(Error::not_supported(&path.child("operator"), operator, &["In", "NotIn"]));
            }
        }
    }
}

fn expression(faults: &mut Faults, path: &Path, requirement: &NodeSelectorRequirement) {
    let (key, values) = (requirement.key.as_str(), requirement.values.clone().unwrap_or_default());
    let values_path = path.child("values");
    let operator = requirement.operator.as_str();
    if !["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"].contains(&operator) {
        faults.push(Error::not_supported::<&str>(&path.child("operator"), operator, &[]));
        return;
    }
    let texts = qualified_name(key);
    if !texts.is_empty() {
        faults.push(Error::invalid(&path.child("key"), key, texts.join("; ")));
    }
    let why = match operator {
        "In" | "NotIn" if values.is_empty() => "for 'in', 'notin' operators, values set can't be empty",
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            "values set must be empty for exists and does not exist"
        }
        "Gt" | "Lt" if values.len() != 1 => "for 'Gt', 'Lt' operators, exactly one value is required",
        _ => "",
    };
    if !why.is_empty() {
        faults.push(Error::invalid(&values_path, values.clone(), why));
    }
    for (index, value) in values.iter().enumerate() {
        let path = values_path.index(index);
        if matches!(operator, "Gt" | "Lt") && value.parse::<i64>().is_err() {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer";
            faults.push(Error::invalid(&path, value.as_str(), why));
        }
        let texts = label_value(value);
        if !texts.is_empty() {
            faults.push(Error::invalid(&path.key(key), value.as_str(), texts.join("; ")));
        }
    }
}

fn label_name(faults: &mut Faults, path: &Path, name: &str) {
    faults.extend(qualified_name(name).into_iter().map(|why| Error::invalid(path, name, why)));
}
