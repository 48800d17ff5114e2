//! How many pods that matter are in which domain. A table counts pods for one purpose of one class of
//! pods over the values of one node label; a pod that comes or goes changes the counts of its node's
//! domains and nothing else.

use std::collections::HashSet;

use super::features::{Features, Place};
use super::signature::Signature;
use super::table::{Purpose, Table};
use crate::framework::Profile;
use crate::node::{NodeInfo, Shape, Slot};
use crate::plugins::pod_topology_spread;
use crate::pod::{Force, SpreadConstraint, Template};
use crate::snapshot::Snapshot;
use crate::symbols::{NumberMap, Symbol};

/// A label whose values have fewer nodes than this on average is told by counts, not by value.
const FEWEST_NODES_PER_VALUE: usize = 4;
/// What is remembered of templates is forgotten when there are so many more than placed pods have.
const MEMO_SLACK: usize = 1024;

/// How nodes that differ in a label's value only are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grain {
    /// By the value: many nodes share one.
    Value,
    /// By what is counted there: nearly every node has a value of its own, most with equal counts.
    Count,
    /// By what is counted on the node itself, whatever other nodes have its value.
    Node,
}

#[derive(Debug)]
struct Key {
    label: Symbol,
    grain: Grain,
    tables: Vec<usize>,
    /// Of a label told by counts: the nodes with each value.
    members: NumberMap<Symbol, Vec<Slot>>,
}

/// Where a node stands in all this.
#[derive(Clone, Debug, Default)]
struct Presence {
    /// The value of each key's label.
    values: Box<[Option<Symbol>]>,
    /// What each table counts on the node, where it counts the node at all.
    amounts: Box<[Option<i64>]>,
}

#[derive(Debug, Default)]
pub struct Topology {
    keys: Vec<Key>,
    tables: Vec<Table>,
    presences: Vec<Option<Presence>>,
    /// What a pod of each template adds to which tables.
    memo: NumberMap<u32, Box<[(usize, i64)]>>,
}

impl Topology {
    pub fn new(snapshot: &Snapshot, pod: &Signature) -> Self {
        let mut topology = Topology::default();
        let spec = &pod.spec;
        for term in &spec.affinity {
            topology.want(snapshot, Purpose::Affinity, term.topology_key);
        }
        for term in &spec.anti_affinity {
            topology.want(snapshot, Purpose::AntiAffinity, term.topology_key);
        }
        for (_, term) in &spec.preferred_pods {
            topology.want(snapshot, Purpose::Preference, term.topology_key);
        }
        for (_, owned) in &pod.others {
            let purpose = match owned.force {
                Force::RequiredAntiAffinity => Purpose::OthersAntiAffinity,
                Force::RequiredAffinity | Force::Preferred(_) => Purpose::Preference,
            };
            topology.want(snapshot, purpose, owned.term.topology_key);
        }
        for (index, hard) in pod.hard.iter().enumerate() {
            topology.want(snapshot, Purpose::Hard(index), hard.constraint.topology_key);
        }
        for (index, soft) in pod.soft.iter().enumerate() {
            topology.want(snapshot, Purpose::Soft(index), soft.topology_key);
        }
        topology
    }

    fn want(&mut self, snapshot: &Snapshot, purpose: Purpose, label: Symbol) {
        let known = |table: &Table| table.purpose == purpose && self.keys[table.key].label == label;
        if self.tables.iter().any(known) {
            return;
        }
        let grain = match purpose {
            Purpose::Soft(_) if label == Symbol::HOSTNAME => Grain::Node,
            Purpose::Soft(_) => Grain::Value, // how many values there are enters the score
            _ => grain_of(snapshot, label),
        };
        let key = self.keys.iter().position(|key| (key.label, key.grain) == (label, grain));
        let key = key.unwrap_or_else(|| {
            self.keys.push(Key { label, grain, tables: Vec::new(), members: NumberMap::default() });
            self.keys.len() - 1
        });
        let position = self.keys[key].tables.len();
        self.keys[key].tables.push(self.tables.len());
        self.tables.push(Table::new(purpose, key, position));
    }

    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
    pub fn len(&self) -> usize {
        self.tables.len()
    }
    /// Of how many templates it remembers what they add.
    pub fn remembered(&self) -> usize {
        self.memo.len()
    }
    pub fn tables(&self) -> impl Iterator<Item = (usize, &Table)> {
        self.tables.iter().enumerate()
    }
    /// The table of a spreading constraint.
    pub fn table(&self, purpose: Purpose) -> Option<(usize, &Table)> {
        self.tables().find(|(_, table)| table.purpose == purpose)
    }
    /// What a table counts in the domain of a node with these features; `None` without the label.
    pub fn pods(&self, table: usize, features: &Features) -> Option<i64> {
        let table = &self.tables[table];
        match &features.places[table.key] {
            Place::Nowhere => None,
            Place::Domain(value) => Some(table.pods(*value)),
            Place::Counts(counts) => Some(counts[table.position]),
        }
    }
    /// The place of nodes with these features in the table's kind of domain.
    pub fn place<'a>(&self, table: usize, features: &'a Features) -> &'a Place {
        &features.places[self.tables[table].key]
    }
    /// The label whose values are the table's domains.
    pub fn label(&self, table: usize) -> Symbol {
        self.keys[self.tables[table].key].label
    }
    /// Whether a table counts on each node by itself.
    pub fn is_by_node(&self, table: usize) -> bool {
        self.keys[self.tables[table].key].grain == Grain::Node
    }

    /// Takes over what a slot is like now. `stale` gets the other nodes whose features changed by it.
    pub fn update(
        &mut self,
        snapshot: &Snapshot,
        profile: &Profile,
        pod: &Signature,
        slot: Slot,
        stale: &mut Vec<Slot>,
    ) {
        if self.is_empty() {
            return;
        }
        let node = snapshot.node(slot);
        let new = node.shape.as_ref().map(|shape| self.presence(snapshot, profile, pod, node, shape));
        if self.presences.len() <= slot as usize {
            self.presences.resize(slot as usize + 1, None);
        }
        let old = self.presences[slot as usize].take();
        self.move_member(slot, old.as_ref(), new.as_ref());
        for table in 0..self.tables.len() {
            self.change(table, old.as_ref(), new.as_ref(), slot, stale);
        }
        self.presences[slot as usize] = new;
    }

    fn change(
        &mut self,
        index: usize,
        old: Option<&Presence>,
        new: Option<&Presence>,
        slot: Slot,
        stale: &mut Vec<Slot>,
    ) {
        let table = &mut self.tables[index];
        let key = &self.keys[table.key];
        let counted = |presence: Option<&Presence>| {
            let presence = presence?;
            Some((presence.values[table.key]?, presence.amounts[index]?))
        };
        let (old, new) = (counted(old), counted(new));
        if old == new || key.grain == Grain::Node {
            return;
        }
        if let Some((value, pods)) = old {
            table.change(value, -pods, -1);
        }
        if let Some((value, pods)) = new {
            table.change(value, pods, 1);
        }
        if key.grain == Grain::Count {
            for (value, _) in old.into_iter().chain(new) {
                let members = key.members.get(&value).into_iter().flatten();
                stale.extend(members.copied().filter(|member| *member != slot));
            }
        }
    }

    fn move_member(&mut self, slot: Slot, old: Option<&Presence>, new: Option<&Presence>) {
        for (index, key) in self.keys.iter_mut().enumerate().filter(|(_, key)| key.grain == Grain::Count) {
            let value = |presence: Option<&Presence>| presence.and_then(|p| p.values[index]);
            let (old, new) = (value(old), value(new));
            if old == new {
                continue;
            }
            if let Some(value) = old
                && let Some(members) = key.members.get_mut(&value)
            {
                members.retain(|member| *member != slot);
                if members.is_empty() {
                    key.members.remove(&value);
                }
            }
            if let Some(value) = new {
                key.members.entry(value).or_default().push(slot);
            }
        }
    }

    fn presence(
        &mut self,
        snapshot: &Snapshot,
        profile: &Profile,
        pod: &Signature,
        node: &NodeInfo,
        shape: &Shape,
    ) -> Presence {
        let counts = self.eligibility(snapshot, pod, node, shape);
        let mut amounts: Box<[Option<i64>]> = counts.into_iter().map(|counts| counts.then_some(0)).collect();
        if self.memo.len() > 4 * snapshot.template_count() + MEMO_SLACK {
            self.memo.clear();
        }
        for placed in &node.pods {
            for (table, amount) in self.contributions(snapshot, profile, pod, &placed.template) {
                if let Some(sum) = &mut amounts[*table] {
                    *sum += amount;
                }
            }
        }
        Presence { values: self.values(shape), amounts }
    }

    fn values(&self, shape: &Shape) -> Box<[Option<Symbol>]> {
        self.keys.iter().map(|key| shape.labels.get(key.label)).collect()
    }

    /// Which tables count what is on a node.
    fn eligibility(&self, snapshot: &Snapshot, pod: &Signature, node: &NodeInfo, shape: &Shape) -> Vec<bool> {
        let has = |key: Symbol| shape.labels.get(key).is_some();
        let has_hard = pod.hard.iter().all(|hard| has(hard.constraint.topology_key));
        let has_soft = !pod.soft_needs_all_keys || pod.soft.iter().all(|soft| has(soft.topology_key));
        let includes = |c| pod_topology_spread::includes(snapshot, &pod.spec, c, node.name, shape);
        let counts = |table: &Table| match table.purpose {
            Purpose::Hard(index) => has_hard && includes(&pod.hard[index].constraint),
            Purpose::Soft(_) if self.keys[table.key].grain == Grain::Node => true,
            Purpose::Soft(index) => has_soft && includes(&pod.soft[index]),
            _ => true,
        };
        self.tables.iter().map(counts).collect()
    }

    fn contributions(
        &mut self,
        snapshot: &Snapshot,
        profile: &Profile,
        pod: &Signature,
        template: &Template,
    ) -> &[(usize, i64)] {
        if !self.memo.contains_key(&template.id) {
            let found = self.contribute(snapshot, profile, pod, template);
            self.memo.insert(template.id, found);
        }
        self.memo.get(&template.id).map(|found| &**found).unwrap_or_default()
    }

    fn contribute(
        &self,
        snapshot: &Snapshot,
        profile: &Profile,
        pod: &Signature,
        template: &Template,
    ) -> Box<[(usize, i64)]> {
        let symbols = &snapshot.catalogue.symbols;
        let about = snapshot.namespace_labels(template.namespace);
        let matches =
            |term: &crate::pod::Term| term.matches(symbols, template.namespace, &template.labels, about);
        let spec = &pod.spec;
        let joins = !spec.affinity.is_empty() && spec.affinity.iter().all(matches);
        let spreads = |c: &SpreadConstraint| {
            template.namespace == pod.namespace && pod_topology_spread::counts(symbols, c, template)
        };
        let owned = |force: Force| {
            let terms = template.terms.iter().filter(move |(_, owned)| owned.force == force);
            terms.filter(|(id, _)| pod.others.binary_search_by_key(id, |(id, _)| *id).is_ok())
        };
        let hard_weight = profile.arguments.inter_pod_affinity.hard_weight;
        let amount = |table: &Table| {
            let label = self.keys[table.key].label;
            match table.purpose {
                Purpose::Affinity => i64::from(joins),
                Purpose::AntiAffinity => {
                    let terms = spec.anti_affinity.iter().filter(|t| t.topology_key == label);
                    terms.filter(|term| matches(term)).count() as i64
                }
                Purpose::OthersAntiAffinity => {
                    let terms = owned(Force::RequiredAntiAffinity);
                    terms.filter(|(_, owned)| owned.term.topology_key == label).count() as i64
                }
                Purpose::Preference => {
                    let own = spec.preferred_pods.iter().filter(|(_, term)| term.topology_key == label);
                    let own: i64 = own.filter(|(_, term)| matches(term)).map(|(weight, _)| weight).sum();
                    own + others_preference(pod, template, label, hard_weight)
                }
                Purpose::Hard(index) => i64::from(spreads(&pod.hard[index].constraint)),
                Purpose::Soft(index) => i64::from(spreads(&pod.soft[index])),
            }
        };
        self.tables()
            .map(|(index, table)| (index, amount(table)))
            .filter(|(_, amount)| *amount != 0)
            .collect()
    }

    /// What one more pod of the template on a node adds to the tables. Pods on the node were met
    /// when it was looked at; of others nothing is remembered.
    pub fn change_by(
        &self,
        snapshot: &Snapshot,
        profile: &Profile,
        pod: &Signature,
        slot: Slot,
        template: &Template,
    ) -> Box<[i64]> {
        let mut change = vec![0; self.tables.len()];
        let Some(presence) = self.presences.get(slot as usize).and_then(Option::as_ref) else {
            return change.into();
        };
        let mut apply = |contributions: &[(usize, i64)]| {
            for (table, amount) in contributions {
                if presence.amounts[*table].is_some() {
                    change[*table] += amount;
                }
            }
        };
        match self.memo.get(&template.id) {
            Some(known) => apply(known),
            None => apply(&self.contribute(snapshot, profile, pod, template)),
        }
        change.into()
    }

    /// Where a node stands, as far as decisions tell nodes apart by it.
    pub fn places(&self, slot: Slot) -> Box<[Place]> {
        let Some(presence) = self.presences.get(slot as usize).and_then(Option::as_ref) else {
            return self.keys.iter().map(|_| Place::Nowhere).collect();
        };
        let counts = |key: &Key, value: Symbol| {
            let count = |table: &usize| match key.grain {
                Grain::Node => presence.amounts[*table].unwrap_or(0),
                _ => self.tables[*table].pods(value),
            };
            Place::Counts(key.tables.iter().map(count).collect())
        };
        let place = |(key, value): (&Key, &Option<Symbol>)| match (value, key.grain) {
            (None, _) => Place::Nowhere,
            (Some(value), Grain::Value) => Place::Domain(*value),
            (Some(value), _) => counts(key, *value),
        };
        self.keys.iter().zip(&presence.values).map(place).collect()
    }
}

/// How much a placed pod wants, or does not want, pods of the class near it.
fn others_preference(pod: &Signature, template: &Template, label: Symbol, hard_weight: i64) -> i64 {
    let speak_of_it = template.terms.iter().filter(|(id, owned)| {
        owned.term.topology_key == label && pod.others.binary_search_by_key(id, |(id, _)| *id).is_ok()
    });
    let weight = speak_of_it.map(|(_, owned)| match owned.force {
        Force::RequiredAffinity => hard_weight,
        Force::Preferred(weight) => weight,
        Force::RequiredAntiAffinity => 0,
    });
    weight.sum()
}

fn grain_of(snapshot: &Snapshot, label: Symbol) -> Grain {
    let values = snapshot.nodes().filter_map(|(_, _, shape)| shape.labels.get(label));
    let (mut nodes, mut distinct) = (0, HashSet::new());
    for value in values {
        nodes += 1;
        distinct.insert(value);
    }
    if distinct.len() * FEWEST_NODES_PER_VALUE > nodes { Grain::Count } else { Grain::Value }
}
