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
