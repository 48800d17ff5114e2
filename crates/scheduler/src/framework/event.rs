//! What happens in the cluster, as far as it may help a pod that found no node. Which event helps is
//! for the plugins to say that refused the pod.

use super::Profile;
use crate::node::Shape;
use crate::plugins::TABLE;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use crate::symbols::Symbol;

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    NodeAdded {
        name: Symbol,
        new: &'a Shape,
    },
    NodeChanged {
        name: Symbol,
        old: &'a Shape,
        new: &'a Shape,
    },
    NodeRemoved {
        old: &'a Shape,
    },
    /// A pod now counts on a node.
    PodPlaced(&'a PodInfo),
    /// A placed pod is gone or finished.
    PodRemoved(&'a PodInfo),
    /// A placed pod has other labels or takes more or less.
    PodChanged {
        old: &'a PodInfo,
        new: &'a PodInfo,
    },
    /// A namespace has other labels.
    NamespaceChanged,
    Storage(StorageChange),
    /// A claim of devices, a slice of them or a class of them is another now.
    Devices,
}

/// What events about pods are called, waiting ones and placed ones.
pub const UNSCHEDULABLE_POD: [&str; 6] = [
    "UnschedulablePodUpdate",
    "UnschedulablePodUpdatePodLabel",
    "UnschedulablePodUpdatePodScaleDown",
    "UnschedulablePodUpdatePodSchedulingGatesEliminated",
    "UnschedulablePodUpdatePodToleration",
    "UnschedulablePodUpdatePodGeneratedResourceClaim",
];
const ASSIGNED_POD: [&str; 6] = [
    "AssignedPodUpdate",
    "AssignedPodUpdatePodLabel",
    "AssignedPodUpdatePodScaleDown",
    "AssignedPodUpdatePodSchedulingGatesEliminated",
    "AssignedPodUpdatePodToleration",
    "AssignedPodUpdatePodGeneratedResourceClaim",
];

/// Which of the names is that of what changed of a pod, the first where it is several things.
pub fn pod_update(names: [&'static str; 6], old: &PodInfo, new: &PodInfo) -> &'static str {
    let (before, after) = (&old.template.spec, &new.template.spec);
    let shrinks = || before.requests.iter().any(|(id, amount)| after.requests.get(id) < amount);
    let changes = [
        old.template.labels != new.template.labels,
        shrinks(),
        after.gates.is_empty() && !before.gates.is_empty(),
        before.tolerations.len() != after.tolerations.len(),
        old.devices != new.devices,
    ];
    names[changes.iter().position(|changes| *changes).map_or(0, |index| index + 1)]
}

/// Likewise of a node.
fn node_update(old: &Shape, new: &Shape) -> &'static str {
    let changes = [
        (old.unschedulable && !new.unschedulable, "NodeUpdateNodeTaint"),
        ((&old.allocatable, old.pod_slots) != (&new.allocatable, new.pod_slots), "NodeUpdateNodeAllocatable"),
        (old.labels != new.labels, "NodeUpdateNodeLabel"),
        (old.taints != new.taints, "NodeUpdateNodeTaint"),
    ];
    changes.iter().find(|(changes, _)| *changes).map_or("NodeUpdate", |(_, name)| name)
}

impl Event<'_> {
    /// kube-scheduler's name for it, in its metrics. Where it is not told whether something came or
    /// changed, it changed.
    pub fn label(&self) -> &'static str {
        match self {
            Event::NodeAdded { .. } => "NodeAdd",
            Event::NodeChanged { old, new, .. } => node_update(old, new),
            Event::NodeRemoved { .. } => "NodeDelete",
            Event::PodPlaced(_) => "AssignedPodAdd",
            Event::PodRemoved(_) => "AssignedPodDelete",
            Event::PodChanged { old, new } => pod_update(ASSIGNED_POD, old, new),
            Event::NamespaceChanged => "NamespaceUpdate",
            Event::Storage(StorageChange::Claim(_)) => "PersistentVolumeClaimUpdate",
            Event::Storage(StorageChange::Volume) => "PersistentVolumeUpdate",
            Event::Storage(StorageChange::Class) => "storage.k8s.io/StorageClassUpdate",
            Event::Storage(StorageChange::Limits) => "storage.k8s.io/CSINodeUpdate",
            Event::Storage(StorageChange::Room) => "storage.k8s.io/CSIStorageCapacityUpdate",
            Event::Storage(StorageChange::Detached) => "storage.k8s.io/VolumeAttachmentDelete",
            Event::Devices => "resource.k8s.io/ResourceClaimUpdate",
        }
    }
}

/// What is new of storage, as far as it may help anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageChange {
    /// `namespace/name` of a claim that came or is otherwise now.
    Claim(Symbol),
    Volume,
    Class,
    /// How many volumes a node can attach.
    Limits,
    /// How much room drivers have.
    Room,
    /// A node has a volume attached no longer.
    Detached,
}

/// What a plugin is asked: may the event help this pod, which the plugin refused nodes to?
pub struct Question<'a> {
    pub snapshot: &'a Snapshot,
    pub profile: &'a Profile,
    pub pod: &'a PodInfo,
    pub event: Event<'a>,
}

pub type Hint = fn(&Question) -> bool;

impl Question<'_> {
    /// What a node was and is, where the event is about one that exists.
    pub fn node(&self) -> Option<(Symbol, Option<&Shape>, &Shape)> {
        match self.event {
            Event::NodeAdded { name, new } => Some((name, None, new)),
            Event::NodeChanged { name, old, new } => Some((name, Some(old), new)),
            _ => None,
        }
    }
    /// Whether there is a node with labels it did not have before.
    pub fn is_about_new_labels(&self) -> bool {
        self.node().is_some_and(|(_, old, new)| old.is_none_or(|old| old.labels != new.labels))
    }
    /// Whether one of the pod's claims came or is otherwise now.
    pub fn is_about_own_claim(&self) -> bool {
        let Event::Storage(StorageChange::Claim(key)) = self.event else { return false };
        self.pod.volumes.iter().flat_map(|volumes| &volumes.claims).any(|claim| claim.key == key)
    }
    /// Whether a node is now what it was not before.
    pub fn node_becomes(&self, is: impl Fn(Symbol, &Shape) -> bool) -> bool {
        self.node().is_some_and(|(name, old, new)| is(name, new) && !old.is_some_and(|old| is(name, old)))
    }
}

/// Plugins, by their rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginSet(u32);

impl PluginSet {
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let index = |name: &str| TABLE.iter().position(|plugin| plugin.name == name);
        PluginSet(names.into_iter().filter_map(index).fold(0, |set, index| set | 1 << index))
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.rows().map(|index| TABLE[index].name)
    }
    fn rows(self) -> impl Iterator<Item = usize> {
        (0..TABLE.len()).filter(move |index| self.0 & 1 << index != 0)
    }
    /// Whether one of the plugins has something to say to events about placed pods only being added.
    pub fn cares_for_placed_pods(self) -> bool {
        self.rows().any(|index| TABLE[index].cares_for_placed_pods)
    }
    /// Whether one of the plugins thinks that an event may help.
    pub fn hopes(self, question: &Question) -> bool {
        self.rows().any(|index| TABLE[index].hint.is_some_and(|hint| hint(question)))
    }
}
