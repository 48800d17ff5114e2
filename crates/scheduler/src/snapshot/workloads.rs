//! Services and controllers, whose selectors say which pods belong together where a pod has no
//! spreading constraints of its own.

use std::collections::BTreeMap;

use amphipod_client::Resource;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ReplicationController, Service};

use crate::labels::{Labels, Selector};
use crate::pod::{Catalogue, OwnerKind, Template};
use crate::symbols::{NumberMap, Symbol, Symbols};

#[derive(Debug, Default)]
pub struct Workloads {
    /// By namespace and name.
    services: NumberMap<Symbol, BTreeMap<Symbol, Labels>>,
    controllers: BTreeMap<(u8, Symbol, Symbol), Owned>,
    generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    /// A replication controller's labels are put over those of services.
    Labels(Labels),
    Selector(Selector),
}

/// A controller whose pods are spread.
pub trait Controller: Resource {
    const OWNER: OwnerKind;
    fn selector(&self, catalogue: &mut Catalogue) -> ControllerSelector;
}
pub struct ControllerSelector(Owned);

impl Controller for ReplicationController {
    const OWNER: OwnerKind = OwnerKind::ReplicationController;
    fn selector(&self, catalogue: &mut Catalogue) -> ControllerSelector {
        let selector = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        ControllerSelector(Owned::Labels(Labels::parse(&mut catalogue.symbols, selector)))
    }
}
impl Controller for ReplicaSet {
    const OWNER: OwnerKind = OwnerKind::ReplicaSet;
    fn selector(&self, catalogue: &mut Catalogue) -> ControllerSelector {
        let selector = self.spec.as_ref().map(|s| &s.selector);
        ControllerSelector(Owned::Selector(Selector::parse(&mut catalogue.symbols, selector)))
    }
}
impl Controller for StatefulSet {
    const OWNER: OwnerKind = OwnerKind::StatefulSet;
    fn selector(&self, catalogue: &mut Catalogue) -> ControllerSelector {
        let selector = self.spec.as_ref().map(|s| &s.selector);
        ControllerSelector(Owned::Selector(Selector::parse(&mut catalogue.symbols, selector)))
    }
}

impl Workloads {
    /// Rises with each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }
    pub fn set_service(&mut self, catalogue: &mut Catalogue, service: &Service) {
        let symbols = &mut catalogue.symbols;
        let (namespace, name) = (symbols.intern(service.namespace()), symbols.intern(service.name()));
        let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
        let labels = Labels::parse(symbols, selector);
        if labels.is_empty() {
            return self.forget_service(namespace, name); // it stands for no pods
        }
        let services = self.services.entry(namespace).or_default();
        if services.get(&name) != Some(&labels) {
            services.insert(name, labels);
            self.generation += 1;
        }
    }
    pub fn remove_service(&mut self, symbols: &Symbols, namespace: &str, name: &str) {
        if let (Some(namespace), Some(name)) = (symbols.find(namespace), symbols.find(name)) {
            self.forget_service(namespace, name);
        }
    }
    fn forget_service(&mut self, namespace: Symbol, name: Symbol) {
        let Some(services) = self.services.get_mut(&namespace) else { return };
        self.generation += u64::from(services.remove(&name).is_some());
        if services.is_empty() {
            self.services.remove(&namespace);
        }
    }
    pub fn set_controller<C: Controller>(&mut self, catalogue: &mut Catalogue, controller: &C) {
        let ControllerSelector(owned) = controller.selector(catalogue);
        let symbols = &mut catalogue.symbols;
        let (namespace, name) = (symbols.intern(controller.namespace()), symbols.intern(controller.name()));
        let key = (C::OWNER as u8, namespace, name);
        if self.controllers.get(&key) != Some(&owned) {
            self.controllers.insert(key, owned);
            self.generation += 1;
        }
    }
    pub fn remove_controller<C: Controller>(&mut self, symbols: &Symbols, namespace: &str, name: &str) {
        if let (Some(namespace), Some(name)) = (symbols.find(namespace), symbols.find(name)) {
            let known = self.controllers.remove(&(C::OWNER as u8, namespace, name));
            self.generation += u64::from(known.is_some());
        }
    }

    /// Which pods belong together with those of the template: what its services and its controller
    /// select. `None` where nobody selects it.
    pub fn default_selector(&self, symbols: &Symbols, template: &Template) -> Option<Selector> {
        let mut labels: BTreeMap<Symbol, Symbol> = BTreeMap::new();
        for service in self.services.get(&template.namespace).into_iter().flat_map(BTreeMap::values) {
            if Selector::of_labels(service).matches(symbols, &template.labels) {
                labels.extend(service.iter());
            }
        }
        let owner = template.owner.as_ref();
        let owned = owner.and_then(|o| self.controllers.get(&(o.kind as u8, template.namespace, o.name)));
        if let Some(Owned::Labels(own)) = owned {
            labels.extend(own.iter());
        }
        let mut selector = Selector::of_labels(&Labels::from_pairs(labels.into_iter().collect()));
        if let Some(Owned::Selector(own)) = owned {
            selector.extend(own);
        }
        (!selector.is_everything()).then_some(selector)
    }
}
