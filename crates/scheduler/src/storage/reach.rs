//! Things that only some nodes reach, found by the label that says which. A cluster can have more
//! local volumes than nodes; no node may look at those of all the others.

use std::collections::BTreeSet;

use crate::labels::{Labels, NodeTerm};
use crate::storage::Reach;
use crate::symbols::{NumberMap, Symbol};

#[derive(Debug)]
pub struct ByNode<T> {
    anywhere: BTreeSet<T>,
    by_label: NumberMap<(Symbol, Symbol), BTreeSet<T>>,
    /// How many things each label key is used for.
    keys: NumberMap<Symbol, usize>,
}

/// Where a thing is kept: a label key, and the values one of which a node must have to reach it.
pub type Handhold<'a> = Option<(Symbol, &'a [Symbol])>;

/// A single term of a volume's affinity may name a label; alternatives may each name another.
pub fn handhold(reach: &Reach) -> Handhold<'_> {
    match reach.as_deref() {
        Some([term]) => NodeTerm::handhold(term),
        _ => None,
    }
}

impl<T> Default for ByNode<T> {
    fn default() -> Self {
        ByNode { anywhere: BTreeSet::new(), by_label: NumberMap::default(), keys: NumberMap::default() }
    }
}

impl<T: Ord + Clone> ByNode<T> {
    pub fn insert(&mut self, handhold: Handhold, thing: T) {
        let Some((key, values)) = handhold else {
            self.anywhere.insert(thing);
            return;
        };
        *self.keys.entry(key).or_insert(0) += 1;
        for value in values {
            self.by_label.entry((key, *value)).or_default().insert(thing.clone());
        }
    }
    pub fn remove(&mut self, handhold: Handhold, thing: &T) {
        let Some((key, values)) = handhold else {
            self.anywhere.remove(thing);
            return;
        };
        for value in values {
            if let Some(things) = self.by_label.get_mut(&(key, *value)) {
                things.remove(thing);
                if things.is_empty() {
                    self.by_label.remove(&(key, *value));
                }
            }
        }
        if let Some(things) = self.keys.get_mut(&key) {
            *things -= 1;
            if *things == 0 {
                self.keys.remove(&key);
            }
        }
    }
    /// Everything nodes with these labels may reach, and perhaps more; in order from each place.
    pub fn within(&self, labels: &Labels) -> impl Iterator<Item = &BTreeSet<T>> {
        let labelled = self.keys.keys().filter_map(|key| {
            let value = labels.get(*key)?;
            self.by_label.get(&(*key, value))
        });
        labelled.chain(std::iter::once(&self.anywhere))
    }
    /// Every place with something in it, by the label that says so.
    pub fn places(&self) -> impl Iterator<Item = (Option<(Symbol, Symbol)>, &BTreeSet<T>)> {
        let labelled = self.by_label.iter().map(|(label, things)| (Some(*label), things));
        labelled.chain(std::iter::once((None, &self.anywhere)))
    }
    pub fn is_empty(&self) -> bool {
        self.anywhere.is_empty() && self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::Symbols;

    #[test]
    fn a_node_finds_its_own_and_what_is_everywhere() {
        let mut symbols = Symbols::default();
        let [host, one, two, three] = ["host", "1", "2", "3"].map(|text| symbols.intern(text));
        let mut things = ByNode::default();
        things.insert(Some((host, &[one, two])), "shared");
        things.insert(Some((host, &[three])), "other");
        things.insert(None, "anywhere");
        let of = |things: &ByNode<&'static str>, value| {
            let labels = Labels::from_pairs(vec![(host, value)]);
            things.within(&labels).flatten().copied().collect::<Vec<_>>()
        };
        assert_eq!(of(&things, one), ["shared", "anywhere"]);
        assert_eq!(of(&things, three), ["other", "anywhere"]);
        things.remove(Some((host, &[one, two])), &"shared");
        things.remove(None, &"anywhere");
        assert_eq!(of(&things, two), [] as [&str; 0]);
        things.remove(Some((host, &[three])), &"other");
        assert!(things.is_empty());
    }
}
