//! The difference of two rulesets, so that a change costs what it changes and not what there is.

use super::{Change, Ruleset};

/// The changes that lead from `old` to `new`.
pub fn diff(old: &Ruleset, new: &Ruleset) -> Vec<Change> {
    let mut changes: Vec<Change> = new.chains.difference(&old.chains).map(|c| Change::AddChain(*c)).collect();
    for (entry, value) in &old.entries {
        if new.entries.get(entry) != Some(value) {
            changes.push(Change::DeleteEntry(*entry, *value));
        }
    }
    for (entry, value) in &new.entries {
        if old.entries.get(entry) != Some(value) {
            changes.push(Change::AddEntry(*entry, *value));
        }
    }
    changes.extend(old.chains.difference(&new.chains).map(|c| Change::DeleteChain(*c)));
    changes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{Chain, Endpoint, Entry, Key, Protocol, Value};
    use super::*;

    fn ruleset(endpoints: &[u16]) -> Ruleset {
        let key = Key { address: Ipv4Addr::new(10, 96, 0, 1), protocol: Protocol::Tcp, port: 80 };
        let chain = Chain {
            endpoints: endpoints.len() as u32,
            node_port: false,
            preserve_source: false,
            affinity_seconds: None,
        };
        let mut ruleset = Ruleset::default();
        ruleset.chains.insert(chain);
        ruleset.entries.insert(Entry::Service(key), Value::Chain(chain));
        for (slot, port) in endpoints.iter().enumerate() {
            let endpoint = Endpoint { address: Ipv4Addr::new(10, 244, 0, 2), port: *port };
            ruleset.entries.insert(Entry::Endpoint(key, slot as u32), Value::To(endpoint));
        }
        ruleset
    }

    #[test]
    fn equal_rulesets_differ_in_nothing() {
        assert!(diff(&ruleset(&[1, 2]), &ruleset(&[1, 2])).is_empty());
    }

    #[test]
    fn chains_come_before_what_refers_to_them_and_go_after() {
        let (old, new) = (ruleset(&[1, 2, 3]), ruleset(&[1, 2]));
        let changes = diff(&old, &new);
        let kinds: Vec<&str> = changes
            .iter()
            .map(|change| match change {
                Change::AddChain(_) => "+chain",
                Change::DeleteChain(_) => "-chain",
                Change::AddEntry(..) => "+",
                Change::DeleteEntry(..) => "-",
            })
            .collect();
        // The service's verdict is replaced, and the third slot goes.
        assert_eq!(kinds, ["+chain", "-", "-", "+", "-chain"]);
    }
}
