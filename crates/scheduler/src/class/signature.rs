//! What decides where a pod may go and where it is best. Pods with equal signatures get equal answers
//! from every plugin, whatever their names and most of their labels are: of a pod's labels only what
//! other pods' rules and its own make of them is in it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::devices::DeviceNeeds;
use crate::framework::{DefaultConstraints, Profile};
use crate::labels::{Labels, Selector};
use crate::pod::{Force, OwnedTerm, PodInfo, Spec, SpreadConstraint, Template, TermId};
use crate::snapshot::Snapshot;
use crate::storage::Needs;
use crate::symbols::Symbol;

/// By which signatures are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    profile: usize,
    spec: u32,
    node: Option<Symbol>,
    /// Where the pod is spread among those of its namespace.
    namespace: Option<Symbol>,
    default_selector: Option<Selector>,
    /// Whether it is one of those each of its hard spreading constraints counts.
    counts_itself: Box<[bool]>,
    joins_itself: bool,
    others: Box<[TermId]>,
    /// How often namespaces had changed, where the pod's own rules select by their labels.
    namespaces: Option<u64>,
    volumes: Option<Arc<Needs>>,
    devices: Option<Arc<DeviceNeeds>>,
}

#[derive(Clone, Debug)]
pub struct Signature {
    pub identity: Arc<Identity>,
    pub spec: Arc<Spec>,
    /// The node it is bound to, for pods that are.
    pub node: Option<Symbol>,
    pub namespace: Symbol,
    pub hard: Vec<Hard>,
    pub soft: Vec<SpreadConstraint>,
    /// Whether a node without one of the soft constraints' labels is left out of spreading.
    pub soft_needs_all_keys: bool,
    /// The pod matches its own required affinity: the first of a group may start where nobody is.
    pub joins_itself: bool,
    /// The rules of placed pods that speak of it.
    pub others: Vec<(TermId, Arc<OwnedTerm>)>,
    /// What its volumes ask of nodes.
    pub volumes: Option<Arc<Needs>>,
    pub devices: Option<Arc<DeviceNeeds>>,
}

#[derive(Clone, Debug)]
pub struct Hard {
    pub constraint: SpreadConstraint,
    pub counts_itself: bool,
}

/// The system's default constraints: softly over nodes and over zones.
const SYSTEM_DEFAULTS: [(Symbol, i64); 2] = [(Symbol::HOSTNAME, 3), (Symbol::ZONE, 5)];

impl Signature {
    pub fn new(snapshot: &Snapshot, profiles: &[Profile], profile: usize, pod: &PodInfo) -> Self {
        let (template, node) = (&*pod.template, pod.node);
        let symbols = &snapshot.catalogue.symbols;
        let spec = template.spec.clone();
        let own_constraints = !spec.spread.is_empty();
        let defaults = &profiles[profile].arguments.default_constraints;
        let (constraints, default_selector) = constraints(snapshot, &profiles[profile], template);
        let (hard, soft): (Vec<_>, Vec<_>) = constraints.into_owned().into_iter().partition(|c| c.hard);
        let hard: Vec<Hard> = hard
            .into_iter()
            .map(|c| Hard { counts_itself: c.selector.matches(symbols, &template.labels), constraint: c })
            .collect();
        let (namespace, labels) = (template.namespace, &template.labels);
        let about = snapshot.namespace_labels(namespace);
        let mut terms = spec.affinity.iter();
        let joins_itself = terms.all(|term| term.matches(symbols, namespace, labels, about));
        let others = others(snapshot, &profiles[profile], template);
        let volumes = snapshot.storage.needs(pod, |slot| snapshot.node(slot).shape.is_some());
        let devices = snapshot.devices.needs(pod);
        let identity = Identity {
            profile,
            spec: template.spec_id,
            node,
            namespace: (!hard.is_empty() || !soft.is_empty()).then_some(namespace),
            default_selector,
            counts_itself: hard.iter().map(|h| h.counts_itself).collect(),
            joins_itself,
            others: others.iter().map(|(id, _)| *id).collect(),
            namespaces: selects_namespaces(&spec).then(|| snapshot.generations().namespaces),
            volumes: volumes.clone(),
            devices: devices.clone(),
        };
        Signature {
            identity: Arc::new(identity),
            node,
            namespace,
            hard,
            soft,
            soft_needs_all_keys: own_constraints || !matches!(defaults, DefaultConstraints::System),
            joins_itself,
            others,
            volumes,
            devices,
            spec,
        }
    }

    pub fn profile(&self) -> usize {
        self.identity.profile
    }
    /// Whether where other pods are can exclude nodes.
    pub fn has_rules_about_places(&self) -> bool {
        let others = self.others.iter().any(|(_, o)| o.force == Force::RequiredAntiAffinity);
        others
            || !self.hard.is_empty()
            || !self.spec.affinity.is_empty()
            || !self.spec.anti_affinity.is_empty()
    }
}

fn selects_namespaces(spec: &Spec) -> bool {
    let preferred = spec.preferred_pods.iter().map(|(_, term)| term);
    let mut terms = spec.affinity.iter().chain(&spec.anti_affinity).chain(preferred);
    terms.any(|term| term.namespace_selector.as_ref().is_some_and(|s| !s.is_everything()))
}

/// How a pod is spread: by its own constraints, or by its profile's among those that its services and
/// its controller select, if any do.
pub fn constraints<'a>(
    snapshot: &Snapshot,
    profile: &Profile,
    template: &'a Template,
) -> (Cow<'a, [SpreadConstraint]>, Option<Selector>) {
    let own = &template.spec.spread;
    if !own.is_empty() {
        return (Cow::Borrowed(own), None);
    }
    let Some(selector) = snapshot.workloads.default_selector(&snapshot.catalogue.symbols, template) else {
        return (Cow::Borrowed(&[]), None);
    };
    let constraints = defaults(&profile.arguments.default_constraints, &selector);
    (Cow::Owned(constraints), Some(selector))
}

fn defaults(defaults: &DefaultConstraints, selector: &Selector) -> Vec<SpreadConstraint> {
    match defaults {
        DefaultConstraints::System => {
            let constraint = |(topology_key, max_skew)| SpreadConstraint {
                hard: false,
                topology_key,
                selector: selector.clone(),
                max_skew,
                min_domains: 1,
                honors_affinity: true,
                honors_taints: false,
            };
            SYSTEM_DEFAULTS.map(constraint).into()
        }
        DefaultConstraints::List(list) => {
            let with = |c: &SpreadConstraint| SpreadConstraint { selector: selector.clone(), ..c.clone() };
            list.iter().map(with).collect()
        }
    }
}

/// The rules of placed pods that speak of pods like this.
fn others(snapshot: &Snapshot, profile: &Profile, template: &Template) -> Vec<(TermId, Arc<OwnedTerm>)> {
    let nothing_known = Labels::default();
    let about = snapshot.namespace_labels(template.namespace).unwrap_or(&nothing_known);
    let arguments = &profile.arguments.inter_pod_affinity;
    let ignores =
        arguments.ignore_preferred_terms_of_existing_pods && template.spec.preferred_pods.is_empty();
    let speaks_of_it = |owned: &OwnedTerm| {
        let counts = match owned.force {
            Force::RequiredAntiAffinity => true,
            Force::RequiredAffinity => arguments.hard_weight > 0 && !ignores,
            Force::Preferred(_) => !ignores,
        };
        let symbols = &snapshot.catalogue.symbols;
        counts && owned.term.matches(symbols, template.namespace, &template.labels, Some(about))
    };
    let found = snapshot.terms().filter(|(_, owned)| speaks_of_it(owned));
    let mut found: Vec<_> = found.map(|(id, owned)| (id, owned.clone())).collect();
    found.sort_unstable_by_key(|(id, _)| *id);
    found
}
