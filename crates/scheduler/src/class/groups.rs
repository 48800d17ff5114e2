//! Nodes that pass all filters about themselves, grouped by features and, within a group, by score.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::features::Features;
use crate::node::Slot;

#[derive(Debug, Default)]
pub struct Groups {
    groups: Vec<Option<Group>>,
    by_features: HashMap<Arc<Features>, u32>,
    vacant: Vec<u32>,
}

#[derive(Debug)]
pub struct Group {
    pub features: Arc<Features>,
    pub nodes: usize,
    by_score: BTreeMap<i64, Vec<Slot>>,
}

/// Where a node is among the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    group: u32,
    position: u32,
    score: i64,
}

impl Group {
    /// The best nodes, and their score.
    pub fn best(&self) -> Option<(i64, &[Slot])> {
        self.by_score.last_key_value().map(|(score, slots)| (*score, slots.as_slice()))
    }
    pub fn slots(&self) -> impl Iterator<Item = (Slot, i64)> + '_ {
        self.by_score.iter().flat_map(|(score, slots)| slots.iter().map(|slot| (*slot, *score)))
    }
}

impl Groups {
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().flatten()
    }
    pub fn features(&self, member: Member) -> Option<&Features> {
        self.groups[member.group as usize].as_ref().map(|group| &*group.features)
    }
    pub fn add(&mut self, features: Features, score: i64, slot: Slot) -> Member {
        let index = self.index(features);
        let group = self.groups[index as usize].as_mut();
        let position = group.map_or(0, |group| {
            group.nodes += 1;
            let slots = group.by_score.entry(score).or_default();
            slots.push(slot);
            slots.len() - 1
        });
        Member { group: index, position: position as u32, score }
    }
    /// Takes a member out. The node that takes its position, if one does, is returned.
    pub fn remove(&mut self, member: Member) -> Option<Slot> {
        let group = self.groups[member.group as usize].as_mut()?;
        let slots = group.by_score.get_mut(&member.score)?;
        slots.swap_remove(member.position as usize);
        let moved = slots.get(member.position as usize).copied();
        if slots.is_empty() {
            group.by_score.remove(&member.score);
        }
        group.nodes -= 1;
        if group.nodes == 0 {
            let features = group.features.clone();
            self.by_features.remove(&features);
            self.groups[member.group as usize] = None;
            self.vacant.push(member.group);
        }
        moved
    }
    fn index(&mut self, features: Features) -> u32 {
        if let Some(index) = self.by_features.get(&features) {
            return *index;
        }
        let features = Arc::new(features);
        let group = Some(Group { features: features.clone(), nodes: 0, by_score: BTreeMap::new() });
        let index = match self.vacant.pop() {
            Some(index) => {
                self.groups[index as usize] = group;
                index
            }
            None => {
                self.groups.push(group);
                (self.groups.len() - 1) as u32
            }
        };
        self.by_features.insert(features, index);
        index
    }
}

impl Member {
    pub fn at(self, position: u32) -> Self {
        Member { position, ..self }
    }
    pub fn position(self) -> u32 {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_a_group_and_what_moves_when_one_leaves() {
        let mut groups = Groups::default();
        let low = groups.add(Features::default(), 10, 1);
        let first = groups.add(Features::default(), 20, 2);
        let second = groups.add(Features::default(), 20, 3);
        let group = groups.iter().next().unwrap();
        assert_eq!((group.nodes, group.best()), (3, Some((20, [2, 3].as_slice()))));
        assert_eq!(groups.remove(first), Some(3), "the last takes the place of the first");
        assert_eq!(groups.remove(second.at(0)), None);
        assert_eq!(groups.iter().next().unwrap().best(), Some((10, [1].as_slice())));
        groups.remove(low);
        assert_eq!(groups.iter().count(), 0);
        groups.add(Features { taints: 1, ..Features::default() }, 5, 7);
        assert_eq!(groups.groups.len(), 1, "room is used again");
    }
}
