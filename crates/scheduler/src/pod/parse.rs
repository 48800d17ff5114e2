//! From the API's pod to the scheduler's.

use std::collections::BTreeMap;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration as WireToleration,
    TopologySpreadConstraint,
};

use super::catalogue::Parsed;
use super::requests::{is_sidecar, requests};
use super::{
    Catalogue, Effect, Force, HostPort, NOT_STARTED, OwnedTerm, Owner, OwnerKind, PodInfo, Spec,
    SpreadConstraint, Term, Toleration, TolerationOperator,
};
use crate::config::DEFAULT_SCHEDULER;
use crate::labels::{Labels, NodeTerm, Requirement, Selector};
use crate::symbols::{Symbol, Symbols};

type WireLabels = BTreeMap<String, String>;

/// The node a pod was bound to.
pub fn node_name(pod: &CachedPod) -> Option<&str> {
    pod.node_name.as_deref().filter(|name| !name.is_empty())
}

/// A finished pod takes nothing of its node any more.
pub fn is_finished(pod: &CachedPod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod is still to be given a node.
pub fn waits_for_node(pod: &CachedPod) -> bool {
    node_name(pod).is_none() && !pod.is_terminating() && !is_finished(pod)
}

/// The scheduler a pod names.
pub fn scheduler_name(pod: &CachedPod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(DEFAULT_SCHEDULER)
}

/// The node by the API's word, where a pod holds room that waits for one of these schedulers.
pub fn holds_room(pod: &CachedPod, ours: impl FnOnce(&str) -> bool) -> Option<&str> {
    let node = pod.status.as_ref()?.nominated_node_name.as_deref().filter(|node| !node.is_empty())?;
    (waits_for_node(pod) && ours(scheduler_name(pod))).then_some(node)
}

impl Catalogue {
    pub fn pod(&mut self, pod: &CachedPod) -> PodInfo {
        let started = pod.own.start_time.as_ref().and_then(|time| i64::try_from(time.0.as_nanosecond()).ok());
        let parsed = self.parse(pod);
        PodInfo {
            key: pod.key().into(),
            uid: pod.uid().into(),
            template: self.template(parsed),
            node: node_name(pod).map(|name| self.symbols.intern(name)),
            volumes: super::volumes::volumes(&mut self.symbols, pod),
            devices: super::devices::claims(&mut self.symbols, pod),
            started: started.unwrap_or(NOT_STARTED),
            preempted: pod.is_terminating() && is_preempted(pod),
        }
    }

    fn parse(&mut self, pod: &CachedPod) -> Parsed {
        let (requests, nonzero) = requests(&mut self.resources, pod);
        let symbols = &mut self.symbols;
        let namespace = symbols.intern(pod.namespace());
        let own = pod.metadata.labels.as_ref();
        let mut spec = pod.spec.as_ref().map(|s| spec(symbols, s, namespace, own)).unwrap_or_default();
        (spec.requests, spec.nonzero) = (requests, nonzero);
        if node_name(pod).is_some() {
            spec.settle();
        }
        Parsed {
            terms: owned_terms(&spec),
            spec,
            namespace,
            labels: Labels::parse(symbols, own),
            owner: owner(symbols, pod),
            terminating: pod.is_terminating(),
        }
    }
}

fn is_preempted(pod: &CachedPod) -> bool {
    let told = pod.condition("DisruptionTarget");
    told.is_some_and(|c| c.is_true() && c.reason == Some(crate::preemption::PREEMPTED_REASON))
}

fn owner(symbols: &mut Symbols, pod: &CachedPod) -> Option<Owner> {
    let owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|o| o.controller == Some(true))?;
    let kind = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("v1", "ReplicationController") => OwnerKind::ReplicationController,
        ("apps/v1", "ReplicaSet") => OwnerKind::ReplicaSet,
        ("apps/v1", "StatefulSet") => OwnerKind::StatefulSet,
        _ => return None,
    };
    Some(Owner { kind, name: symbols.intern(&owner.name) })
}

fn spec(symbols: &mut Symbols, spec: &PodSpec, namespace: Symbol, own: Option<&WireLabels>) -> Spec {
    let affinity = spec.affinity.as_ref();
    let node = affinity.and_then(|a| a.node_affinity.as_ref());
    let required = node.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    let preferred = node.and_then(|n| n.preferred_during_scheduling_ignored_during_execution.as_deref());
    let mut parse_term = |term: &NodeSelectorTerm| NodeTerm::parse(symbols, term);
    let node_affinity = required.map(|r| r.node_selector_terms.iter().map(&mut parse_term).collect());
    let preferred_nodes =
        preferred.unwrap_or_default().iter().map(|p| (i64::from(p.weight), parse_term(&p.preference)));
    let preferred_nodes = preferred_nodes.filter(|(weight, term)| *weight != 0 && !term.is_empty()).collect();
    let selector = spec.node_selector.iter().flatten();
    let (required_pods, anti, preferred_pods) = pod_terms(symbols, affinity, namespace, own);
    Spec {
        priority: spec.priority.unwrap_or(0),
        never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        ports: host_ports(symbols, spec),
        node_selector: selector.map(|(key, value)| (symbols.intern(key), symbols.intern(value))).collect(),
        node_affinity,
        preferred_nodes,
        tolerations: spec.tolerations.iter().flatten().map(|t| toleration(symbols, t)).collect(),
        images: images(symbols, spec),
        affinity: required_pods,
        anti_affinity: anti,
        preferred_pods,
        spread: spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .map(|c| spread_constraint(symbols, c, own))
            .collect(),
        gates: spec.scheduling_gates.iter().flatten().map(|gate| symbols.intern(&gate.name)).collect(),
        scheduler: symbols.intern(spec.scheduler_name.as_deref().unwrap_or(DEFAULT_SCHEDULER)),
        ..Spec::default()
    }
}

type PodTerms = (Box<[Term]>, Box<[Term]>, Box<[(i64, Term)]>);

fn pod_terms(
    symbols: &mut Symbols,
    affinity: Option<&Affinity>,
    namespace: Symbol,
    own: Option<&WireLabels>,
) -> PodTerms {
    let mut parse = |term: &PodAffinityTerm| term_of(symbols, term, namespace, own);
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let required = near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
    let required = required.unwrap_or_default().iter().map(&mut parse).collect();
    let anti = apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
    let anti = anti.unwrap_or_default().iter().map(&mut parse).collect();
    let wanted = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let unwanted = apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let wanted = wanted.unwrap_or_default().iter().map(|t| (i64::from(t.weight), &t.pod_affinity_term));
    let unwanted = unwanted.unwrap_or_default().iter().map(|t| (-i64::from(t.weight), &t.pod_affinity_term));
    let preferred = wanted.chain(unwanted).map(|(weight, term)| (weight, parse(term))).collect();
    (required, anti, preferred)
}

/// The API server writes `matchLabelKeys` into the selector; pods it never saw (older ones, those in
/// tests) say the same thing here.
fn term_of(
    symbols: &mut Symbols,
    term: &PodAffinityTerm,
    namespace: Symbol,
    own: Option<&WireLabels>,
) -> Term {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let namespaces = if named.is_empty() && term.namespace_selector.is_none() {
        [namespace].into()
    } else {
        named.iter().map(|name| symbols.intern(name)).collect()
    };
    let mut selector = Selector::parse(symbols, term.label_selector.as_ref());
    for (key, value) in own_labels(symbols, term.match_label_keys.as_deref(), own) {
        selector.require(Requirement::In(key, [value].into()));
    }
    for (key, value) in own_labels(symbols, term.mismatch_label_keys.as_deref(), own) {
        selector.require(Requirement::NotIn(key, [value].into()));
    }
    Term {
        namespaces,
        namespace_selector: term.namespace_selector.as_ref().map(|s| Selector::parse(symbols, Some(s))),
        selector,
        topology_key: symbols.intern(&term.topology_key),
    }
}

/// The pod's own labels among these keys.
fn own_labels(
    symbols: &mut Symbols,
    keys: Option<&[String]>,
    own: Option<&WireLabels>,
) -> Vec<(Symbol, Symbol)> {
    let found = keys.unwrap_or_default().iter().filter_map(|key| own?.get_key_value(key));
    found.map(|(key, value)| (symbols.intern(key), symbols.intern(value))).collect()
}

pub fn spread_constraint(
    symbols: &mut Symbols,
    c: &TopologySpreadConstraint,
    own: Option<&WireLabels>,
) -> SpreadConstraint {
    let mut selector = Selector::parse(symbols, c.label_selector.as_ref());
    for (key, value) in own_labels(symbols, c.match_label_keys.as_deref(), own) {
        selector.require(Requirement::In(key, [value].into()));
    }
    SpreadConstraint {
        hard: c.when_unsatisfiable == "DoNotSchedule",
        topology_key: symbols.intern(&c.topology_key),
        selector,
        max_skew: i64::from(c.max_skew),
        min_domains: i64::from(c.min_domains.unwrap_or(1)),
        honors_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: c.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn owned_terms(spec: &Spec) -> Vec<OwnedTerm> {
    let of = |force: Force| move |term: &Term| OwnedTerm { force, term: term.clone() };
    let near = spec.affinity.iter().map(of(Force::RequiredAffinity));
    let apart = spec.anti_affinity.iter().map(of(Force::RequiredAntiAffinity));
    let preferred = spec.preferred_pods.iter();
    let preferred = preferred.map(|(weight, term)| of(Force::Preferred(*weight))(term));
    near.chain(apart).chain(preferred).collect()
}

pub fn effect(text: &str) -> Effect {
    match text {
        "NoSchedule" => Effect::NoSchedule,
        "PreferNoSchedule" => Effect::PreferNoSchedule,
        "NoExecute" => Effect::NoExecute,
        _ => Effect::Other,
    }
}

fn toleration(symbols: &mut Symbols, toleration: &WireToleration) -> Toleration {
    Toleration {
        key: symbols.intern(toleration.key.as_deref().unwrap_or("")),
        operator: match toleration.operator.as_deref() {
            None | Some("" | "Equal") => TolerationOperator::Equal,
            Some("Exists") => TolerationOperator::Exists,
            Some(_) => TolerationOperator::Never,
        },
        value: symbols.intern(toleration.value.as_deref().unwrap_or("")),
        effect: toleration.effect.as_deref().filter(|text| !text.is_empty()).map(effect),
    }
}

fn host_ports(symbols: &mut Symbols, spec: &PodSpec) -> Box<[HostPort]> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let mut taken = Vec::new();
    for port in ports {
        let Some(number) = port.host_port.filter(|number| *number > 0) else { continue };
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty());
        let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty());
        taken.push(HostPort {
            address: symbols.intern(address.unwrap_or(crate::plugins::node_ports::ANY_ADDRESS)),
            protocol: symbols.intern(protocol.unwrap_or("TCP")),
            port: number,
        });
    }
    taken.into()
}

fn images(symbols: &mut Symbols, spec: &PodSpec) -> Box<[Symbol]> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.map(|c| symbols.intern(&with_tag(c.image.as_deref().unwrap_or("")))).collect()
}

/// Nodes report images with their tags.
fn with_tag(image: &str) -> String {
    let tagged = image.rfind(':') > image.rfind('/');
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}
