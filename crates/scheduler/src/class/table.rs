//! Counts of pods by domain, for one purpose of one class of pods.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::symbols::{NumberMap, Symbol};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Pods that match all terms of the required affinity.
    Affinity,
    /// Pods that match a term of the required anti-affinity.
    AntiAffinity,
    /// Pods whose required anti-affinity speaks of the class.
    OthersAntiAffinity,
    /// The sum of weights by which pods are wanted near.
    Preference,
    /// Pods a hard or soft spreading constraint counts, by its index.
    Hard(usize),
    Soft(usize),
}

#[derive(Debug)]
pub struct Table {
    pub purpose: Purpose,
    /// The label it counts by, as an index among the topology's keys.
    pub(super) key: usize,
    /// Its index among the key's tables.
    pub(super) position: usize,
    domains: NumberMap<Symbol, Domain>,
    total: i64,
    /// Of hard constraints: how many domains have so many pods.
    crowded: BTreeMap<i64, usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Domain {
    pods: i64,
    nodes: usize,
}

impl Table {
    pub(super) fn new(purpose: Purpose, key: usize, position: usize) -> Self {
        Table { purpose, key, position, domains: NumberMap::default(), total: 0, crowded: BTreeMap::new() }
    }
    /// The pods counted in a domain.
    pub fn pods(&self, domain: Symbol) -> i64 {
        self.domains.get(&domain).map_or(0, |domain| domain.pods)
    }
    /// All pods counted.
    pub fn total(&self) -> i64 {
        self.total
    }
    pub fn domain_count(&self) -> i64 {
        self.domains.len() as i64
    }
    /// The fewest pods any domain has, if one with `here` pods had `more`.
    pub fn least(&self, here: i64, more: i64) -> i64 {
        let mut counts = self.crowded.iter();
        let least = match counts.next() {
            Some((count, 1)) if more != 0 && *count == here => counts.next(),
            first => first,
        };
        let others = least.map(|(count, _)| *count);
        match (others, more) {
            (None, 0) => 0,
            (Some(count), 0) => count,
            (None, _) => here + more,
            (Some(count), _) => count.min(here + more),
        }
    }
    fn is_hard(&self) -> bool {
        matches!(self.purpose, Purpose::Hard(_))
    }
    /// So many more pods, and nodes, are counted in a domain.
    pub(super) fn change(&mut self, value: Symbol, pods: i64, nodes: isize) {
        let before = self.domains.get(&value).copied();
        let mut domain = before.unwrap_or_default();
        domain.pods += pods;
        domain.nodes = domain.nodes.saturating_add_signed(nodes);
        self.total += pods;
        let gone = domain.nodes == 0;
        if gone {
            self.domains.remove(&value);
        } else {
            self.domains.insert(value, domain);
        }
        if self.is_hard() {
            if let Some(before) = before {
                self.crowd(before.pods, false);
            }
            if !gone {
                self.crowd(domain.pods, true);
            }
        }
    }
    fn crowd(&mut self, pods: i64, more: bool) {
        match self.crowded.entry(pods) {
            Entry::Occupied(mut entry) if more => *entry.get_mut() += 1,
            Entry::Occupied(mut entry) => {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_crowded_domain_is_known_through_all_changes() {
        let mut symbols = crate::symbols::Symbols::default();
        let mut table = Table::new(Purpose::Hard(0), 0, 0);
        assert_eq!(table.least(0, 0), 0);
        let changes = [
            ("a", 2, 1, 2),
            ("b", 1, 1, 1),
            ("c", 0, 1, 0),
            ("c", 3, 0, 1),
            ("b", -1, 0, 0),
            ("b", 0, -1, 2),
        ];
        for (domain, pods, nodes, least) in changes {
            table.change(symbols.intern(domain), pods, nodes);
            assert_eq!(table.least(0, 0), least, "{domain} {pods:+}");
        }
        assert_eq!((table.total(), table.domain_count()), (5, 2));
        // a has 2, c has 3.
        assert_eq!((table.least(2, -1), table.least(2, 5), table.least(3, -3)), (1, 3, 0));
    }
}
