//! From a profile's settings to the profile the decision works with.

use std::time::Duration;

use super::ProfileSettings;
use super::arguments::{Arguments, Fit, ResourceSpec, Spread};
use crate::framework::{
    self, AddedAffinity, DefaultConstraints, FitStrategy, Profile, ScoringStrategy, Weights,
};
use crate::labels::NodeTerm;
use crate::pod::{Catalogue, spread_constraint};
use k8s_openapi::api::core::v1::NodeAffinity;

/// `ignored`: resources that an extender looks after; they take the place of the configured ones.
pub fn build(settings: &ProfileSettings, ignored: &[String], catalogue: &mut Catalogue) -> Profile {
    let mut arguments = framework::Arguments::default();
    for config in &settings.plugin_config {
        if let Some(given) = &config.arguments {
            apply(&mut arguments, given, catalogue);
        }
    }
    if !ignored.is_empty() {
        arguments.fit.ignored_resources = ignored.to_vec();
    }
    Profile {
        scheduler_name: settings.scheduler_name.clone(),
        // Validation has seen to it that there is no fault.
        enabled: settings.plugins.enabled(&settings.scheduler_name).unwrap_or_default(),
        arguments,
    }
}

fn apply(arguments: &mut framework::Arguments, given: &Arguments, catalogue: &mut Catalogue) {
    match given {
        Arguments::Fit(fit) => arguments.fit = fit_strategy(fit, catalogue),
        Arguments::BalancedAllocation(specs) => arguments.balanced = weights(specs, catalogue),
        Arguments::InterPodAffinity(given) => arguments.inter_pod_affinity = *given,
        Arguments::NodeAffinity(added) => {
            arguments.added_affinity =
                added.as_ref().map(|a| added_affinity(a, catalogue)).unwrap_or_default();
        }
        Arguments::PodTopologySpread(spread) => {
            arguments.default_constraints = default_constraints(spread, catalogue);
        }
        Arguments::VolumeBinding(given) => {
            // Validation has seen to it that it is not negative.
            let seconds = u64::try_from(given.bind_timeout_seconds).unwrap_or_default();
            arguments.volume_binding.bind_timeout = Duration::from_secs(seconds);
        }
        // These change nothing in how this scheduler decides.
        Arguments::DefaultPreemption(_) | Arguments::DynamicResources(_) => {}
    }
}

fn weights(specs: &[ResourceSpec], catalogue: &mut Catalogue) -> Weights {
    Weights(specs.iter().map(|spec| (catalogue.resources.intern(&spec.name), spec.weight)).collect())
}

fn fit_strategy(fit: &Fit, catalogue: &mut Catalogue) -> FitStrategy {
    let scoring = match (fit.strategy.kind.as_str(), &fit.strategy.shape) {
        ("MostAllocated", _) => ScoringStrategy::MostAllocated,
        ("RequestedToCapacityRatio", Some(shape)) => ScoringStrategy::RequestedToCapacityRatio(shape.clone()),
        _ => ScoringStrategy::LeastAllocated,
    };
    FitStrategy {
        ignored_resources: fit.ignored_resources.clone(),
        ignored_resource_groups: fit.ignored_resource_groups.clone(),
        scoring,
        resources: weights(&fit.strategy.resources, catalogue),
    }
}

fn added_affinity(added: &NodeAffinity, catalogue: &mut Catalogue) -> AddedAffinity {
    let symbols = &mut catalogue.symbols;
    let required = added.required_during_scheduling_ignored_during_execution.as_ref();
    let required =
        required.map(|r| r.node_selector_terms.iter().map(|term| NodeTerm::parse(symbols, term)).collect());
    let preferred = added.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    let preferred = preferred.map(|p| (i64::from(p.weight), NodeTerm::parse(symbols, &p.preference)));
    AddedAffinity {
        required,
        preferred: preferred.filter(|(weight, term)| *weight != 0 && !term.is_empty()).collect(),
    }
}

fn default_constraints(spread: &Spread, catalogue: &mut Catalogue) -> DefaultConstraints {
    if spread.defaulting_type == "System" {
        return DefaultConstraints::System;
    }
    let constraints = spread.default_constraints.iter();
    DefaultConstraints::List(
        constraints.map(|c| spread_constraint(&mut catalogue.symbols, c, None)).collect(),
    )
}
