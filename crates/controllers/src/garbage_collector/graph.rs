//! Who owns whom, cluster-wide, and nothing else: a uid, where the object lives, its owners' uids.
//! At half a million objects each byte here counts, hence binary uids and interned namespaces.

use std::collections::{HashMap, HashSet};

use amphipod_client::dynamic::Metadata;

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// A uid in 16 bytes. Uids are UUIDs; anything else is told apart by a hash of 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(pub u128);

impl Uid {
    pub fn new(text: &str) -> Self {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        match u128::from_str_radix(&digits, 16) {
            Ok(number) if digits.len() == 32 => Uid(number),
            _ => {
                use sha2::Digest;
                let hash = sha2::Sha256::digest(text.as_bytes());
                let bytes: [u8; 16] = std::array::from_fn(|i| hash[i]);
                Uid(u128::from_be_bytes(bytes))
            }
        }
    }
    /// As a queue key.
    pub fn key(self) -> String {
        format!("{:032x}", self.0)
    }
    pub fn from_key(key: &str) -> Option<Self> {
        u128::from_str_radix(key, 16).ok().map(Uid)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Owner {
    pub uid: Uid,
    /// A foreground deletion of the owner waits for this dependent.
    pub blocks: bool,
}

#[derive(Debug)]
struct Node {
    kind: u32,
    namespace: u32,
    /// The list that last showed it.
    epoch: u32,
    being_deleted: bool,
    deleting_dependents: bool,
    name: Box<str>,
    owners: Box<[Owner]>,
}

/// Where an object lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index given to the kind by the monitors.
    pub kind: u32,
    pub namespace: String,
    pub name: String,
}

/// What is to be looked at after a change.
#[derive(Debug, Default, PartialEq)]
pub struct Todo {
    /// May have lost its owners, or waits to be deleted.
    pub check: Vec<Uid>,
    /// Deleted with the wish that its dependents stay.
    pub orphan: Vec<Uid>,
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, Vec<Uid>>,
    namespaces: Vec<Box<str>>,
    namespace_ids: HashMap<Box<str>, u32>,
    epochs: HashMap<u32, u32>,
}

impl Graph {
    pub fn place(&self, uid: Uid) -> Option<Place> {
        let node = self.nodes.get(&uid)?;
        let namespace = self.namespaces.get(node.namespace as usize)?;
        Some(Place { kind: node.kind, namespace: namespace.to_string(), name: node.name.to_string() })
    }
    pub fn dependents(&self, uid: Uid) -> Vec<Uid> {
        self.dependents.get(&uid).cloned().unwrap_or_default()
    }
    pub fn is_deleting_dependents(&self, uid: Uid) -> bool {
        self.nodes.get(&uid).is_some_and(|node| node.deleting_dependents)
    }
    /// Already on its way out, without waiting for dependents: nothing to do.
    pub fn is_leaving(&self, uid: Uid) -> bool {
        self.nodes.get(&uid).is_some_and(|node| node.being_deleted && !node.deleting_dependents)
    }
    /// Dependents that a foreground deletion of `uid` waits for.
    pub fn blocking(&self, uid: Uid) -> Vec<Uid> {
        let blocks = |dependent: &Uid| {
            let owners = self.nodes.get(dependent).map(|node| node.owners.as_ref()).unwrap_or_default();
            owners.iter().any(|owner| owner.uid == uid && owner.blocks)
        };
        self.dependents(uid).into_iter().filter(blocks).collect()
    }

    fn intern(&mut self, namespace: &str) -> u32 {
        if let Some(id) = self.namespace_ids.get(namespace) {
            return *id;
        }
        // Bounded by the namespaces ever seen; ids are never reused.
        let id = u32::try_from(self.namespaces.len()).unwrap_or(u32::MAX);
        self.namespaces.push(namespace.into());
        self.namespace_ids.insert(namespace.into(), id);
        id
    }

    /// A new list of this kind begins.
    pub fn begin_list(&mut self, kind: u32) {
        *self.epochs.entry(kind).or_default() += 1;
    }

    /// The list is complete: what it did not show is gone.
    pub fn end_list(&mut self, kind: u32) -> Todo {
        let epoch = self.epochs.get(&kind).copied().unwrap_or(0);
        let unseen = |(uid, node): (&Uid, &Node)| (node.kind == kind && node.epoch != epoch).then_some(*uid);
        let gone: Vec<Uid> = self.nodes.iter().filter_map(unseen).collect();
        let mut todo = Todo::default();
        for uid in gone {
            todo.check.extend(self.remove(uid).check);
        }
        todo
    }

    /// The kind is served no more. Its objects are forgotten without a word about their dependents:
    /// nobody can say whether the owners are gone.
    pub fn forget_kind(&mut self, kind: u32) {
        let gone: Vec<Uid> =
            self.nodes.iter().filter(|(_, node)| node.kind == kind).map(|(uid, _)| *uid).collect();
        for uid in gone {
            if let Some(node) = self.nodes.remove(&uid) {
                self.unlink(uid, &node.owners);
            }
        }
    }

    fn link(&mut self, uid: Uid, owners: &[Owner]) {
        for owner in owners {
            let dependents = self.dependents.entry(owner.uid).or_default();
            if !dependents.contains(&uid) {
                dependents.push(uid);
            }
        }
    }
    fn unlink(&mut self, uid: Uid, owners: &[Owner]) {
        for owner in owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.retain(|dependent| *dependent != uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// An object was listed, made or changed.
    pub fn put(&mut self, kind: u32, metadata: &Metadata) -> Todo {
        let uid = Uid::new(&metadata.uid);
        let owners: Box<[Owner]> = metadata
            .owner_references
            .iter()
            .map(|o| Owner { uid: Uid::new(&o.uid), blocks: o.block_owner_deletion == Some(true) })
            .collect();
        let being_deleted = metadata.deletion_timestamp.is_some();
        let has = |finalizer: &str| metadata.finalizers.iter().any(|f| f == finalizer);
        let deleting_dependents = being_deleted && has(FOREGROUND);
        let namespace = self.intern(&metadata.namespace);
        let epoch = self.epochs.get(&kind).copied().unwrap_or(0);
        let name = metadata.name.as_str().into();
        let node = Node { kind, namespace, epoch, being_deleted, deleting_dependents, name, owners };
        let before = self.nodes.remove(&uid);
        let old_owners = before.as_ref().map(|node| node.owners.clone()).unwrap_or_default();
        let mut todo = Todo::default();
        if old_owners != node.owners {
            self.unlink(uid, &old_owners);
            self.link(uid, &node.owners);
            self.follow_owners(uid, &old_owners, &node.owners, before.is_none(), &mut todo);
        }
        if being_deleted && has(ORPHAN) {
            todo.orphan.push(uid);
        }
        let newly_waiting = deleting_dependents && !before.as_ref().is_some_and(|b| b.deleting_dependents);
        if newly_waiting {
            todo.check.extend(self.dependents(uid));
            todo.check.push(uid);
        }
        self.nodes.insert(uid, node);
        todo
    }

    /// What a change of owners calls for.
    fn follow_owners(&self, uid: Uid, old: &[Owner], new: &[Owner], is_new: bool, todo: &mut Todo) {
        // An owner no longer blocked may have waited for just this.
        for owner in old {
            let still = new.iter().any(|n| n.uid == owner.uid && n.blocks == owner.blocks);
            if owner.blocks && !still && self.is_deleting_dependents(owner.uid) {
                todo.check.push(owner.uid);
            }
        }
        let added = new.iter().filter(|n| !old.iter().any(|o| o.uid == n.uid));
        for owner in added {
            // An owner not seen (yet), or one that takes its dependents along.
            if !self.nodes.contains_key(&owner.uid) || self.is_deleting_dependents(owner.uid) {
                todo.check.push(uid);
                return;
            }
        }
        if !is_new && new.len() < old.len() && !new.is_empty() {
            todo.check.push(uid);
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: Uid) -> Todo {
        let Some(node) = self.nodes.remove(&uid) else { return Todo::default() };
        self.unlink(uid, &node.owners);
        let mut check = self.dependents(uid);
        let waiting = node.owners.iter().map(|owner| owner.uid);
        check.extend(waiting.filter(|owner| self.is_deleting_dependents(*owner)));
        Todo { check, orphan: Vec::new() }
    }

    /// Everything whose owner is not known, and everything on its way out: what a start must look at.
    pub fn unsettled(&self) -> Vec<Uid> {
        let unsettled = |(uid, node): (&Uid, &Node)| {
            let lost = node.owners.iter().any(|owner| !self.nodes.contains_key(&owner.uid));
            (lost || node.deleting_dependents).then_some(*uid)
        };
        let found: HashSet<Uid> = self.nodes.iter().filter_map(unsettled).collect();
        found.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn object(uid: &str, owners: &[(&str, bool)]) -> Metadata {
        let owner = |(uid, blocks): &(&str, bool)| OwnerReference {
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(*blocks),
            ..OwnerReference::default()
        };
        Metadata {
            name: uid.to_owned(),
            namespace: "ns".to_owned(),
            uid: uid.to_owned(),
            owner_references: owners.iter().map(owner).collect(),
            ..Metadata::default()
        }
    }

    fn deleted(mut metadata: Metadata, finalizer: &str) -> Metadata {
        metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
        metadata.finalizers = vec![finalizer.to_owned()];
        metadata
    }

    #[test]
    fn uids_are_binary_but_distinct() {
        let text = "0192f0c1-2b3c-4d5e-8f90-0123456789ab";
        let uid = Uid::new(text);
        assert_eq!(Uid::from_key(&uid.key()), Some(uid));
        assert_ne!(Uid::new("a"), Uid::new("b"));
    }

    #[test]
    fn dependents_are_checked_when_the_owner_goes() {
        let mut graph = Graph::default();
        assert_eq!(graph.put(0, &object("rs", &[])), Todo::default());
        assert_eq!(graph.put(1, &object("pod", &[("rs", true)])), Todo::default());
        // An unknown owner is looked for.
        assert_eq!(graph.put(1, &object("stray", &[("who", true)])).check, [Uid::new("stray")]);
        assert_eq!(graph.remove(Uid::new("rs")).check, [Uid::new("pod")]);
        assert_eq!(graph.place(Uid::new("pod")).unwrap().namespace, "ns");
        assert_eq!(graph.unsettled().len(), 2);
    }

    #[test]
    fn foreground_waits_for_blocking_dependents() {
        let mut graph = Graph::default();
        graph.put(0, &object("rs", &[]));
        graph.put(1, &object("a", &[("rs", true)]));
        graph.put(1, &object("b", &[("rs", false)]));
        let rs = Uid::new("rs");
        let todo = graph.put(0, &deleted(object("rs", &[]), FOREGROUND));
        assert_eq!(todo.check, [Uid::new("a"), Uid::new("b"), rs]);
        assert!(graph.is_deleting_dependents(rs) && !graph.is_leaving(rs));
        assert_eq!(graph.blocking(rs), [Uid::new("a")]);
        // The dependent's end brings the owner back.
        assert_eq!(graph.remove(Uid::new("a")).check, [rs]);
        assert!(graph.blocking(rs).is_empty());
        let todo = graph.put(0, &deleted(object("d", &[]), ORPHAN));
        assert_eq!(todo.orphan, [Uid::new("d")]);
    }

    #[test]
    fn a_list_removes_what_it_does_not_show() {
        let mut graph = Graph::default();
        graph.begin_list(0);
        graph.put(0, &object("a", &[]));
        graph.put(0, &object("b", &[("a", true)]));
        assert_eq!(graph.end_list(0), Todo::default());
        graph.begin_list(0);
        graph.put(0, &object("b", &[("a", true)]));
        assert_eq!(graph.end_list(0).check, [Uid::new("b")]);
        graph.forget_kind(0);
        assert!(graph.place(Uid::new("b")).is_none() && graph.dependents(Uid::new("a")).is_empty());
    }
}
