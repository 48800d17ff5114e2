//! Which tracked UDP flows lead astray after a change: the kernel keeps sending a flow where its
//! first packet went, also when that endpoint or service is gone, or was not there yet.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use super::{Change, Endpoint, Entry, Key, Protocol, Ruleset, Value};
use crate::netlink::conntrack::Flow;

/// Whether changes touch UDP at all; looking through the tracked flows costs time.
pub fn concerns_udp(changes: &[Change]) -> bool {
    changes.iter().any(|change| match change {
        Change::AddEntry(entry, _) | Change::DeleteEntry(entry, _) => udp_key(entry).is_some(),
        Change::AddChain(_) | Change::DeleteChain(_) => false,
    })
}

fn udp_key(entry: &Entry) -> Option<Key> {
    let key = match entry {
        Entry::Service(key) | Entry::External(key) | Entry::Refused(key) | Entry::Endpoint(key, _) => key,
        Entry::Affinity(..) | Entry::Hairpin(_) => return None,
    };
    (key.protocol == Protocol::Udp).then_some(*key)
}

/// The flows to forget. `old` is what was in force before, `new` what is now. A key of either that
/// a flow was sent to must lead to where the flow's answers come from.
pub fn stale(old: &Ruleset, new: &Ruleset, flows: &[Flow]) -> Vec<Flow> {
    let mut valid = HashMap::<Key, HashSet<Endpoint>>::new();
    for key in old.entries.keys().chain(new.entries.keys()).filter_map(udp_key) {
        valid.entry(key).or_default();
    }
    for (entry, value) in &new.entries {
        if let (Some(key), Value::To(endpoint)) = (udp_key(entry), value) {
            valid.entry(key).or_default().insert(*endpoint);
        }
    }
    flows.iter().filter(|flow| is_stale(&valid, flow)).copied().collect()
}

fn is_stale(valid: &HashMap<Key, HashSet<Endpoint>>, flow: &Flow) -> bool {
    let sent_to = flow.original.destination;
    let answered_by = Endpoint { address: *flow.reply.source.ip(), port: flow.reply.source.port() };
    let was_translated = flow.reply.source != sent_to;
    let key = |address| Key { address, protocol: Protocol::Udp, port: sent_to.port() };
    if let Some(endpoints) = valid.get(&key(*sent_to.ip())) {
        // Not translated: it started before there was anything to send it to.
        return !endpoints.contains(&answered_by) && (was_translated || !endpoints.is_empty());
    }
    // A node port: only what was translated is surely ours.
    let node_port = valid.get(&key(Ipv4Addr::UNSPECIFIED));
    was_translated && node_port.is_some_and(|endpoints| !endpoints.contains(&answered_by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::conntrack::Tuple;

    fn ruleset(address: &str, endpoints: &[&str]) -> Ruleset {
        let key = Key { address: address.parse().unwrap(), protocol: Protocol::Udp, port: 53 };
        let mut ruleset = Ruleset::default();
        for (slot, endpoint) in (0..).zip(endpoints) {
            let to = Endpoint { address: endpoint.parse().unwrap(), port: 5353 };
            ruleset.entries.insert(Entry::Endpoint(key, slot), Value::To(to));
        }
        if endpoints.is_empty() {
            ruleset.entries.insert(Entry::Refused(key), Value::Reject);
        }
        ruleset
    }

    fn flow(to: &str, from: &str) -> Flow {
        let client = "10.244.0.9:4000".parse().unwrap();
        Flow {
            original: Tuple { source: client, destination: to.parse().unwrap() },
            reply: Tuple { source: from.parse().unwrap(), destination: client },
        }
    }

    #[test]
    fn flows_must_lead_to_a_present_endpoint() {
        let service = "10.96.0.10";
        let both = ruleset(service, &["10.244.0.2", "10.244.0.3"]);
        let one = ruleset(service, &["10.244.0.2"]);
        let none = ruleset(service, &[]);
        let gone = Ruleset::default();
        let kept = flow("10.96.0.10:53", "10.244.0.2:5353");
        let lost = flow("10.96.0.10:53", "10.244.0.3:5353");
        let early = flow("10.96.0.10:53", "10.96.0.10:53");
        let other = flow("192.0.2.1:53", "192.0.2.1:53");
        assert_eq!(stale(&both, &one, &[kept, lost, other]), [lost]);
        assert_eq!(stale(&none, &one, &[early, kept]), [early]);
        assert_eq!(stale(&one, &gone, &[kept, early]), [kept]);
        assert_eq!(stale(&both, &both, &[kept, lost]), []);
    }

    #[test]
    fn node_ports_match_any_address_but_only_translated_flows() {
        let (two, one) =
            (ruleset("0.0.0.0", &["10.244.0.2", "10.244.0.3"]), ruleset("0.0.0.0", &["10.244.0.2"]));
        let lost = flow("192.0.2.7:53", "10.244.0.3:5353");
        let foreign = flow("8.8.8.8:53", "8.8.8.8:53");
        assert_eq!(stale(&two, &one, &[lost, foreign]), [lost]);
    }
}
