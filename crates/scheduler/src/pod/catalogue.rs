//! What is shared between pods: symbols, resource names, specifications, templates, and the rules
//! pods have about each other. A number given to one of them is never used for another, so what is
//! remembered under a number cannot come to mean something else.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::{OwnedTerm, Owner, PodInfo, Spec, Template};
use crate::amounts::Resources;
use crate::labels::Labels;
use crate::symbols::{NumberMap, Symbol, Symbols};

pub type TermId = u32;

/// Unused entries are looked for when there are twice as many as last time, and these many more.
const SWEEP_SLACK: usize = 1024;

#[derive(Debug, Default)]
pub struct Catalogue {
    pub symbols: Symbols,
    pub resources: Resources,
    specs: Shared<Spec>,
    terms: Shared<OwnedTerm>,
    templates: HashMap<TemplateKey, Arc<Template>>,
    next_template: u32,
    templates_kept: usize,
    /// By a waiting pod's template the one it has when placed.
    settled: NumberMap<u32, Arc<Template>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TemplateKey {
    spec: u32,
    namespace: Symbol,
    labels: Labels,
    owner: Option<Owner>,
    terminating: bool,
}

/// A pod as parsed, before what it has in common with others is found.
pub struct Parsed {
    pub spec: Spec,
    pub namespace: Symbol,
    pub labels: Labels,
    pub owner: Option<Owner>,
    pub terminating: bool,
    pub terms: Vec<OwnedTerm>,
}

impl Catalogue {
    pub fn template(&mut self, parsed: Parsed) -> Arc<Template> {
        let (spec_id, spec) = self.specs.intern(parsed.spec);
        let Parsed { namespace, labels, owner, terminating, terms, .. } = parsed;
        let key = TemplateKey {
            spec: spec_id,
            namespace,
            labels: labels.clone(),
            owner: owner.clone(),
            terminating,
        };
        if let Some(template) = self.templates.get(&key) {
            return template.clone();
        }
        self.sweep_templates();
        let id = self.next_template;
        self.next_template += 1;
        let terms = terms.into_iter().map(|term| self.terms.intern(term)).collect();
        let template = Arc::new(Template { id, spec_id, spec, namespace, labels, owner, terminating, terms });
        self.templates.insert(key, template.clone());
        template
    }

    /// A waiting pod as it is once placed on a node.
    pub fn settled(&mut self, pod: &PodInfo, node: Symbol) -> PodInfo {
        let waiting = &pod.template;
        let template = match self.settled.get(&waiting.id) {
            Some(known) => known.clone(),
            None => {
                let mut spec = Spec::clone(&waiting.spec);
                spec.settle();
                let parsed = Parsed {
                    spec,
                    namespace: waiting.namespace,
                    labels: waiting.labels.clone(),
                    owner: waiting.owner.clone(),
                    terminating: waiting.terminating,
                    terms: waiting.terms.iter().map(|(_, term)| OwnedTerm::clone(term)).collect(),
                };
                let template = self.template(parsed);
                self.settled.insert(waiting.id, template.clone());
                template
            }
        };
        let (key, uid) = (pod.key.clone(), pod.uid.clone());
        let (volumes, devices) = (pod.volumes.clone(), pod.devices.clone());
        PodInfo { key, uid, volumes, devices, template, node: Some(node), ..*pod }
    }

    /// Forgets templates no pod has any more.
    fn sweep_templates(&mut self) {
        if self.templates.len() > 2 * self.templates_kept + SWEEP_SLACK {
            self.settled.clear();
            self.templates.retain(|_, template| Arc::strong_count(template) > 1);
            self.templates_kept = self.templates.len();
        }
    }
}

/// Equal values are kept once and have one number.
#[derive(Debug)]
struct Shared<T> {
    numbers: HashMap<Arc<T>, u32>,
    next: u32,
    kept: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { numbers: HashMap::new(), next: 0, kept: 0 }
    }
}

impl<T: Eq + Hash> Shared<T> {
    fn intern(&mut self, value: T) -> (u32, Arc<T>) {
        if let Some((known, number)) = self.numbers.get_key_value(&value) {
            return (*number, known.clone());
        }
        if self.numbers.len() > 2 * self.kept + SWEEP_SLACK {
            self.numbers.retain(|value, _| Arc::strong_count(value) > 1);
            self.kept = self.numbers.len();
        }
        let number = self.next;
        self.next += 1;
        let value = Arc::new(value);
        self.numbers.insert(value.clone(), number);
        (number, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_forgotten_and_its_number_not_given_again() {
        let mut shared = Shared::default();
        let (first, _held) = shared.intern(0);
        let numbers: Vec<u32> = (1..=SWEEP_SLACK + 1).map(|value| shared.intern(value).0).collect();
        assert_eq!(shared.numbers.len(), 2, "the held one and the last");
        assert_eq!(shared.intern(0).0, first);
        assert!(!numbers.contains(&shared.intern(1).0));
    }
}
