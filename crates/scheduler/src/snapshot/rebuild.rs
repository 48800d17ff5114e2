//! Whether a snapshot is what it should be. What it has become by difference must be what one built
//! from the same objects would be; the names of what differs are told.

use std::collections::BTreeMap;

use super::Snapshot;
use crate::node::NodeInfo;
use crate::pod::HostPort;
use crate::symbols::Symbol;

/// Fewer symbols than this are not worth building a snapshot anew for.
const LEAST_SYMBOLS: usize = 1 << 20;
/// A pod and a node bring this many symbols of their own at most, as a rule; with more, most of them
/// are of objects that are gone.
const SYMBOLS_PER_OBJECT: usize = 8;

impl Snapshot {
    /// Whether most of what is interned is of objects that are gone, so that a snapshot built anew
    /// would be much smaller.
    pub fn is_overgrown(&self) -> bool {
        let objects = self.pods.len() + self.nodes.len();
        self.catalogue.symbols.count() > LEAST_SYMBOLS.max(SYMBOLS_PER_OBJECT * objects)
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
