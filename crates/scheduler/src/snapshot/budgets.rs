//! Disruption budgets, as preemption weighs them.

use std::collections::BTreeSet;

use amphipod_client::Resource;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::labels::Selector;
use crate::pod::{Catalogue, PodInfo};
use crate::symbols::{Symbol, Symbols};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    namespace: Symbol,
    selector: Selector,
    pub allowed: i64,
    /// Pods the API server let go already; they are in the count.
    disrupted: BTreeSet<String>,
}

impl Budget {
    /// `None` for a budget that protects nobody: one whose selector is missing or empty.
    pub fn parse(catalogue: &mut Catalogue, budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
        let selector = Selector::parse(&mut catalogue.symbols, selector);
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|s| s.disrupted_pods.as_ref());
        (!selector.is_everything()).then(|| Budget {
            namespace: catalogue.symbols.intern(budget.namespace()),
            selector,
            allowed: status.map_or(0, |s| i64::from(s.disruptions_allowed)),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        })
    }
    pub fn protects(&self, symbols: &Symbols, pod: &PodInfo) -> bool {
        let template = &pod.template;
        template.namespace == self.namespace
            && !template.labels.is_empty()
            && self.selector.matches(symbols, &template.labels)
            && !self.disrupted.contains(pod.name())
    }
}
