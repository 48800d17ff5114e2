//! What is derived from storage objects and pods, told in names, so that a view that came about by
//! difference can be compared with one built anew.

use std::collections::BTreeMap;

use super::Storage;
use crate::symbols::{Symbol, Symbols};

impl Storage {
    pub(crate) fn summary(&self, symbols: &Symbols) -> BTreeMap<String, String> {
        let text = |symbol: Symbol| symbols.text(symbol);
        let mut summary = BTreeMap::new();
        for (class, free) in &self.free {
            for (label, volumes) in free.places().filter(|(_, volumes)| !volumes.is_empty()) {
                let label = label.map(|(key, value)| (text(key), text(value)));
                let mut names: Vec<&str> = volumes.iter().map(|(_, name)| text(*name)).collect();
                names.sort_unstable();
                summary.insert(format!("free {:?} {label:?}", class.map(text)), format!("{names:?}"));
            }
        }
        for (claim, volumes) in &self.kept {
            let mut names: Vec<&str> = volumes.iter().map(|name| text(*name)).collect();
            names.sort_unstable();
            summary.insert(format!("kept for {}", text(*claim)), format!("{names:?}"));
        }
        for (claim, users) in &self.users {
            summary.insert(format!("users of {}", text(*claim)), users.len().to_string());
        }
        for (claim, users) in &self.waiting_users {
            summary.insert(format!("waiting users of {}", text(*claim)), users.len().to_string());
        }
        for ((driver, handle), volumes) in &self.handles {
            summary.insert(format!("{} of {}", text(*handle), text(*driver)), volumes.to_string());
        }
        for (driver, nodes) in &self.limited {
            summary.insert(format!("limits of {}", text(*driver)), nodes.to_string());
        }
        summary
    }
}
