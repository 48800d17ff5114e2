//! Whether a snapshot is what it should be. What it has become by difference must be what one built
//! from the same objects would be; the names of what differs are told.

use std::collections::BTreeMap;

use super::Snapshot;
use crate::node::NodeInfo;
use crate::pod::HostPort;
use crate::symbols::Symbol;

/// Fewer names than this are not worth building a snapshot anew for.
const LEAST_NAMES: usize = 1 << 20;
/// A snapshot is built anew when it has so many times the names it began with: each time costs what
/// the cluster has, and so nothing to speak of beside what brought the new names.
const GROWTH: usize = 2;

/// What a snapshot has interned beside what it began with.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// As of the first time anybody asked, which is soon after it was built.
    began_with: Option<usize>,
}

impl Growth {
    fn is_too_much(&mut self, names: usize) -> bool {
        let began_with = *self.began_with.get_or_insert(names);
        names > LEAST_NAMES.max(GROWTH * began_with)
    }
}

impl Snapshot {
    /// Whether so much was interned since the snapshot was built that one built anew may be much
    /// smaller. To be asked now and then, the first time soon after it was built.
    pub fn is_overgrown(&mut self) -> bool {
        let names = self.names();
        self.growth.is_too_much(names)
    }
    /// What is interned and never given back one by one.
    fn names(&self) -> usize {
        self.catalogue.symbols.count() + self.catalogue.resources.count()
    }

    /// In what two snapshots of the same objects differ, by name; nothing, if both are right.
    pub fn differences(&self, other: &Snapshot) -> Vec<String> {
        let (mine, theirs) = (self.summary(), other.summary());
        let names = mine.keys().chain(theirs.keys().filter(|name| !mine.contains_key(*name)));
        let differs = |name: &&String| mine.get(*name) != theirs.get(*name);
        let tell = |name: &String| format!("{name}: {:?} against {:?}", mine.get(name), theirs.get(name));
        names.filter(differs).map(tell).collect()
    }

    fn summary(&self) -> BTreeMap<String, String> {
        let text = |symbol: Symbol| self.catalogue.symbols.text(symbol);
        let mut summary = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| !node.is_vacant()) {
            summary.insert(format!("node {}", text(node.name)), self.node_summary(node));
        }
        for (image, nodes) in &self.images {
            summary.insert(format!("image {}", text(*image)), nodes.to_string());
        }
        let key = |used: &super::TermUse| {
            format!("{:?} over {} of {}", used.term.force, text(used.term.term.topology_key), used.templates)
        };
        let mut terms: Vec<String> = self.terms.values().map(key).collect();
        terms.sort();
        summary.insert("terms".to_owned(), terms.join("; "));
        let slots_agree =
            self.pods.iter().all(|(key, slot)| self.node(*slot).pods.iter().any(|p| p.key == *key));
        summary.insert("pods are where they are said to be".to_owned(), slots_agree.to_string());
        summary.extend(self.storage.summary(&self.catalogue.symbols));
        summary.extend(self.devices.summary(&self.catalogue.symbols));
        summary.insert("pods".to_owned(), self.pods.len().to_string());
        summary.insert("nodes".to_owned(), self.known.to_string());
        summary.insert("templates".to_owned(), self.templates.len().to_string());
        summary
    }

    fn node_summary(&self, node: &NodeInfo) -> String {
        let mut pods: Vec<&str> = node.pods.iter().map(|pod| &*pod.key).collect();
        pods.sort_unstable();
        let mut nominated: Vec<&str> = node.nominated.iter().map(|pod| &*pod.key).collect();
        nominated.sort_unstable();
        let resources = &self.catalogue.resources;
        let mut requested: Vec<_> =
            node.fill.requested.iter().map(|(id, amount)| (resources.name(id), amount)).collect();
        requested.sort_unstable();
        let text = |symbol: Symbol| self.catalogue.symbols.text(symbol);
        let port =
            |(port, users): &(HostPort, u32)| (text(port.address), text(port.protocol), port.port, *users);
        let mut ports: Vec<_> = node.fill.ports.iter().map(port).collect();
        ports.sort_unstable();
        let labels = node.shape.as_ref().map(|shape| {
            shape.labels.iter().map(|(key, value)| (text(key), text(value))).collect::<BTreeMap<_, _>>()
        });
        format!(
            "{labels:?} {pods:?} {nominated:?} {} {requested:?} {:?} {ports:?}",
            node.fill.pods, node.fill.nonzero
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_that_are_all_in_use_are_not_too_many() {
        let mut growth = Growth::default();
        assert!(!growth.is_too_much(10) && !growth.is_too_much(LEAST_NAMES));
        assert!(growth.is_too_much(LEAST_NAMES + 1), "few at first");
        let mut rebuilt = Growth::default();
        assert!(!rebuilt.is_too_much(3 * LEAST_NAMES) && !rebuilt.is_too_much(6 * LEAST_NAMES));
        assert!(rebuilt.is_too_much(6 * LEAST_NAMES + 1));
    }

    #[test]
    fn names_of_resources_count() {
        let mut snapshot = Snapshot::default();
        assert!(!snapshot.is_overgrown());
        for number in 0..LEAST_NAMES {
            snapshot.catalogue.resources.intern(&number.to_string());
        }
        assert!(snapshot.is_overgrown());
    }
}
