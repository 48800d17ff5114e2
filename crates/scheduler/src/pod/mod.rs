//! What the scheduler keeps of a pod. What its specification asks for is parsed once and shared by
//! all pods that ask for the same; of its own a pod keeps its name, its uid and when it started.

mod catalogue;
mod devices;
mod parse;
mod requests;
mod volumes;

use std::sync::Arc;

pub use catalogue::{Catalogue, TermId};
pub use devices::{DeviceClaim, NotMade};
pub use parse::{
    effect, holds_room, is_finished, node_name, scheduler_name, spread_constraint, waits_for_node,
};
pub use requests::written;
pub use volumes::{Disk, PodClaim, PodVolumes};

use crate::amounts::Amounts;
use crate::labels::{Labels, NodeTerm, Selector};
use crate::symbols::{Symbol, Symbols};

/// The start time of a pod that has not started: later than any.
pub const NOT_STARTED: i64 = i64::MAX;

#[derive(Clone, Debug)]
pub struct PodInfo {
    /// `namespace/name`
    pub key: Arc<str>,
    pub uid: Arc<str>,
    pub template: Arc<Template>,
    /// The node it is bound to.
    pub node: Option<Symbol>,
    /// In nanoseconds since 1970, or [`NOT_STARTED`].
    pub started: i64,
    /// Of pods with volumes that bind them to nodes.
    pub volumes: Option<Arc<PodVolumes>>,
    /// Of pods that claim devices.
    pub devices: Option<Arc<[DeviceClaim]>>,
    /// It is on its way out because the scheduler made room for another.
    pub preempted: bool,
}

impl PodInfo {
    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&*self.key, |(_, name)| name)
    }
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }
    pub fn priority(&self) -> i32 {
        self.template.spec.priority
    }
}

/// What pods of one workload have in common.
#[derive(Debug)]
pub struct Template {
    /// Never used again for another.
    pub id: u32,
    pub spec_id: u32,
    pub spec: Arc<Spec>,
    pub namespace: Symbol,
    pub labels: Labels,
    pub owner: Option<Owner>,
    /// A pod that is being deleted is no longer counted by topology spreading.
    pub terminating: bool,
    /// What the pods' own rules about other pods are known as.
    pub terms: Box<[(TermId, Arc<OwnedTerm>)]>,
}

/// The controller of a pod, where topology spreading reads that controller's selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub kind: OwnerKind,
    pub name: Symbol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerKind {
    ReplicationController,
    ReplicaSet,
    StatefulSet,
}

/// What a pod asks of a node, with its labels put in where its rules refer to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spec {
    pub priority: i32,
    pub never_preempts: bool,
    pub requests: Amounts,
    /// CPU and memory as scores count them: containers that ask for nothing are given something.
    pub nonzero: [i64; 2],
    pub ports: Box<[HostPort]>,
    pub node_selector: Box<[(Symbol, Symbol)]>,
    /// Alternatives; `None` where the pod has no required node affinity.
    pub node_affinity: Option<Box<[NodeTerm]>>,
    pub preferred_nodes: Box<[(i64, NodeTerm)]>,
    pub tolerations: Box<[Toleration]>,
    /// Of all containers, as nodes report them.
    pub images: Box<[Symbol]>,
    pub affinity: Box<[Term]>,
    pub anti_affinity: Box<[Term]>,
    /// Negative weights are anti-affinity.
    pub preferred_pods: Box<[(i64, Term)]>,
    pub spread: Box<[SpreadConstraint]>,
    pub gates: Box<[Symbol]>,
    pub scheduler: Symbol,
}

impl Spec {
    /// Forgets what matters only until the pod is placed: what it asked of nodes.
    fn settle(&mut self) {
        *self = Spec {
            priority: self.priority,
            requests: std::mem::take(&mut self.requests),
            nonzero: self.nonzero,
            ports: std::mem::take(&mut self.ports),
            affinity: std::mem::take(&mut self.affinity),
            anti_affinity: std::mem::take(&mut self.anti_affinity),
            preferred_pods: std::mem::take(&mut self.preferred_pods),
            scheduler: self.scheduler,
            ..Spec::default()
        };
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub address: Symbol,
    pub protocol: Symbol,
    pub port: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    pub key: Symbol,
    pub operator: TolerationOperator,
    pub value: Symbol,
    /// Empty for every effect.
    pub effect: Option<Effect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TolerationOperator {
    Equal,
    Exists,
    /// One this level does not know.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
    /// One this level does not know; nobody acts on it.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Taint {
    pub key: Symbol,
    pub value: Symbol,
    pub effect: Effect,
}

impl Toleration {
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_none_or(|effect| effect == taint.effect);
        let key = self.key == Symbol::EMPTY || self.key == taint.key;
        let value = match self.operator {
            TolerationOperator::Exists => true,
            TolerationOperator::Equal => self.value == taint.value,
            TolerationOperator::Never => false,
        };
        effect && key && value
    }
}

/// A rule about other pods: which, and in which kind of place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    pub namespaces: Box<[Symbol]>,
    pub namespace_selector: Option<Selector>,
    pub selector: Selector,
    pub topology_key: Symbol,
}

impl Term {
    /// `namespace_labels`: of the other pod's namespace; `None` where nobody knows them.
    pub fn matches(
        &self,
        symbols: &Symbols,
        namespace: Symbol,
        labels: &Labels,
        namespace_labels: Option<&Labels>,
    ) -> bool {
        let selected = |selector: &Selector| {
            selector.is_everything() || namespace_labels.is_some_and(|l| selector.matches(symbols, l))
        };
        let in_namespace =
            self.namespaces.contains(&namespace) || self.namespace_selector.as_ref().is_some_and(selected);
        in_namespace && self.selector.matches(symbols, labels)
    }
}

/// A rule that a placed pod has about pods that come later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnedTerm {
    pub force: Force,
    pub term: Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Force {
    RequiredAffinity,
    RequiredAntiAffinity,
    Preferred(i64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpreadConstraint {
    pub hard: bool,
    pub topology_key: Symbol,
    pub selector: Selector,
    pub max_skew: i64,
    pub min_domains: i64,
    /// Nodes the pod's node selector and affinity exclude are not counted.
    pub honors_affinity: bool,
    /// Nor those with taints it does not tolerate.
    pub honors_taints: bool,
}
