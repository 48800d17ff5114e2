//! What makes a node better or worse for a class of pods in comparison with others. Nodes with equal
//! features are told apart by what fills them only, so they are compared as one group.

use super::topology::Topology;
use crate::framework::{Candidate, View};
use crate::node::Slot;
use crate::plugins::{dynamic_resources, image_locality, node_affinity, taint_toleration};
use crate::symbols::Symbol;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features {
    /// Taints the pod would rather not have.
    pub taints: i64,
    /// The weights of the preferred node terms that match.
    pub affinity: i64,
    /// The pod's images that are there, with their sizes.
    pub images: Box<[(Symbol, i64)]>,
    /// How much its claims would rather have than what they could have.
    pub devices: i64,
    /// By key of the topology.
    pub places: Box<[Place]>,
    /// What nominated pods would add to each table; empty where there are none to count.
    pub nominated: Box<[i64]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The node has no such label.
    Nowhere,
    Domain(Symbol),
    /// What the tables of the key count there.
    Counts(Box<[i64]>),
}

impl Features {
    pub fn of(view: &View, candidate: &Candidate, slot: Slot, nominated: Box<[i64]>) -> Self {
        let topology: &Topology = view.topology;
        Features {
            taints: taint_toleration::unwelcome(view.pod, candidate.shape),
            affinity: node_affinity::preference(view, candidate),
            images: image_locality::present(view.pod, candidate.shape),
            devices: dynamic_resources::preference(view, candidate),
            places: topology.places(slot),
            nominated,
        }
    }
}
