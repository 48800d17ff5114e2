//! What is derived from slices and claims, told in names, so that a view that came about by difference can
//! be compared with one built anew.

use std::collections::BTreeMap;

use super::Devices;
use crate::symbols::{Symbol, Symbols};

impl Devices {
    pub(crate) fn summary(&self, symbols: &Symbols) -> BTreeMap<String, String> {
        let text = |symbol: Symbol| symbols.text(symbol);
        let mut summary = BTreeMap::new();
        for ((driver, pool, device), claims) in &self.allocated {
            let name = format!("device {} {} {}", text(*driver), text(*pool), text(*device));
            summary.insert(name, claims.to_string());
        }
        for (node, slices) in &self.by_node {
            summary.insert(format!("slices of {:?}", node.map(text)), format!("{slices:?}"));
        }
        for ((driver, pool), slices) in &self.by_pool {
            summary.insert(format!("slices of {} {}", text(*driver), text(*pool)), format!("{slices:?}"));
        }
        for claim in self.assumed.keys() {
            summary.insert(format!("claim {}", text(*claim)), "is being given devices".to_owned());
        }
        summary
    }
}
