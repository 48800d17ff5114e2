//! How the ruleset looks in the kernel.
//!
//! All services share a few maps. `services` leads from {destination, protocol, port} to the chain
//! for that *number* of endpoints; the chain draws a slot and finds the endpoint in `endpoints`
//! under {destination, protocol, port, slot}. So the cost of a packet does not depend on how many
//! services there are, and a changed endpoint is one changed element.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::desired::EXTERNAL_SLOTS;
use super::{Chain, Change, Endpoint, Entry, Key, Ruleset, Value};
use crate::Error;
use crate::netlink::Socket;
use crate::nft::{Batch, Data, Element, ElementData, Field, Hook, Map, Register, Rule, Verdict, Words};

const KEY: &[Field] = &[Field::Address, Field::Protocol, Field::Port];
const TARGET: &[Field] = &[Field::Address, Field::Port];
/// The most clients whose choice of endpoint is remembered; beyond, choices are random again.
const AFFINITY_ENTRIES: u32 = 1 << 17;

const SERVICES: Map = Map { name: "services", key: KEY, data: Data::Verdict, dynamic: None };
const EXTERNAL: Map = Map { name: "external", key: KEY, data: Data::Verdict, dynamic: None };
const REFUSED: Map = Map { name: "refused", key: KEY, data: Data::Verdict, dynamic: None };
const ENDPOINTS: Map = Map {
    name: "endpoints",
    key: &[Field::Address, Field::Protocol, Field::Port, Field::Number],
    data: Data::Fields(TARGET),
    dynamic: None,
};
const AFFINITY: Map = Map {
    name: "affinity",
    key: &[Field::Address, Field::Address, Field::Protocol, Field::Port],
    data: Data::Fields(TARGET),
    dynamic: Some(AFFINITY_ENTRIES),
};
const AFFINITY_ENDPOINTS: Map = Map {
    name: "affinity-endpoints",
    key: &[Field::Address, Field::Protocol, Field::Port, Field::Address, Field::Port],
    data: Data::None,
    dynamic: None,
};
const HAIRPIN: Map =
    Map { name: "hairpin", key: &[Field::Address, Field::Address], data: Data::None, dynamic: None };
const MAPS: [&Map; 7] =
    [&SERVICES, &EXTERNAL, &REFUSED, &ENDPOINTS, &AFFINITY, &AFFINITY_ENDPOINTS, &HAIRPIN];

const CHAIN_SERVICES: &str = "find-service";
const CHAIN_EXTERNAL: &str = "find-external";
const CHAIN_REFUSE: &str = "find-refused";
const CHAIN_REJECT: &str = "reject";

// Registers: client, then the key, then the slot; the endpoint found stands clear of them.
const CLIENT: Register = Register(0);
const ADDRESS: Register = Register(1);
const PROTOCOL: Register = Register(2);
const PORT: Register = Register(3);
const SLOT: Register = Register(4);
const REMEMBERED: Register = Register(4);
const FOUND: Register = Register(8);

/// What the dataplane needs to know about the cluster's addresses.
#[derive(Clone, Debug)]
pub struct Layout {
    pub table: String,
    pub pod_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    /// The bridge of this node's pods; without one, pods are told by their addresses.
    pub bridge: Option<String>,
}

impl Chain {
    fn name(&self) -> String {
        let mut name = format!("n{}", self.endpoints);
        if self.node_port {
            name.push_str("-node");
        }
        if self.preserve_source {
            name.push_str("-external");
        }
        if let Some(seconds) = self.affinity_seconds {
            name.push_str(&format!("-affinity{seconds}"));
        }
        name
    }

    fn load_key(&self, rule: Rule) -> Rule {
        let rule = if self.node_port {
            rule.load_address(Ipv4Addr::UNSPECIFIED, ADDRESS)
        } else {
            rule.load_destination(ADDRESS)
        };
        rule.load_protocol(PROTOCOL).load_port(PORT)
    }

    fn rules(&self, layout: &Layout) -> Vec<Rule> {
        let first = if self.preserve_source { EXTERNAL_SLOTS } else { 0 };
        let mut rules = Vec::new();
        if !self.preserve_source {
            rules.push(layout.when_outside(Rule::new()).ask_for_masquerade());
        }
        if let Some(seconds) = self.affinity_seconds {
            rules.push(
                self.load_key(Rule::new().load_source(CLIENT))
                    .look_up(AFFINITY.name, CLIENT, REMEMBERED)
                    .when_in_set(AFFINITY_ENDPOINTS.name, ADDRESS)
                    .remember(AFFINITY.name, CLIENT, REMEMBERED, seconds)
                    .translate_destination(REMEMBERED),
            );
            rules.push(
                self.load_key(Rule::new().load_source(CLIENT))
                    .load_random(self.endpoints, first, SLOT)
                    .look_up(ENDPOINTS.name, ADDRESS, FOUND)
                    .forget(AFFINITY.name, CLIENT, FOUND)
                    .remember(AFFINITY.name, CLIENT, FOUND, seconds)
                    .translate_destination(FOUND),
            );
        }
        rules.push(
            self.load_key(Rule::new())
                .load_random(self.endpoints, first, SLOT)
                .look_up(ENDPOINTS.name, ADDRESS, FOUND)
                .translate_destination(FOUND),
        );
        // A packet may meet the maps of the next generation half-way; the first slot always exists.
        rules.push(
            self.load_key(Rule::new())
                .load_number(first, SLOT)
                .look_up(ENDPOINTS.name, ADDRESS, FOUND)
                .translate_destination(FOUND),
        );
        rules
    }
}

fn load_key(rule: Rule) -> Rule {
    rule.load_destination(ADDRESS).load_protocol(PROTOCOL).load_port(PORT)
}
fn load_node_key(rule: Rule) -> Rule {
    rule.load_address(Ipv4Addr::UNSPECIFIED, ADDRESS).load_protocol(PROTOCOL).load_port(PORT)
}
fn jump(chain: &str) -> Verdict {
    Verdict::Jump(chain.to_owned())
}

impl Layout {
    /// Packets that do not come from a pod of this node.
    fn when_outside(&self, rule: Rule) -> Rule {
        match &self.bridge {
            Some(bridge) => rule.when_input_is_not(bridge),
            None => rule.when_source_not_in(self.pod_cidr),
        }
    }

    /// The table with all that does not depend on services.
    fn base(&self, batch: &mut Batch) {
        batch.replace_table();
        for (id, map) in (1..).zip(MAPS) {
            batch.add_map(map, id);
        }
        batch.add_chain(CHAIN_REJECT, None, &[Rule::new().reject_tcp(), Rule::new().reject()]);
        let find = |map: &Map| {
            [
                load_key(Rule::new()).follow(map.name, ADDRESS),
                load_node_key(Rule::new().when_destination_is_local()).follow(map.name, ADDRESS),
            ]
        };
        batch.add_chain(CHAIN_SERVICES, None, &find(&SERVICES));
        batch.add_chain(CHAIN_EXTERNAL, None, &find(&EXTERNAL));
        let unknown = Rule::new().when_destination_in(self.service_cidr).verdict(&jump(CHAIN_REJECT));
        let [refused, node_refused] = find(&REFUSED);
        batch.add_chain(CHAIN_REFUSE, None, &[refused, node_refused, unknown]);

        let external = Rule::new().when_source_not_in(self.pod_cidr).verdict(&jump(CHAIN_EXTERNAL));
        let services = Rule::new().verdict(&jump(CHAIN_SERVICES));
        batch.add_chain("prerouting", Some(Hook::NAT_PREROUTING), &[external, services.clone()]);
        batch.add_chain("output", Some(Hook::NAT_OUTPUT), &[services]);
        let hairpin = Rule::new()
            .when_destination_was_translated()
            .load_source(CLIENT)
            .load_destination(ADDRESS)
            .when_in_set(HAIRPIN.name, CLIENT)
            .masquerade();
        let asked = Rule::new().when_masquerade_is_asked().masquerade();
        batch.add_chain("postrouting", Some(Hook::NAT_POSTROUTING), &[hairpin, asked]);
        let refuse = [Rule::new().when_connection_is_new().verdict(&jump(CHAIN_REFUSE))];
        batch.add_chain("filter-input", Some(Hook::FILTER_INPUT), &refuse);
        batch.add_chain("filter-forward", Some(Hook::FILTER_FORWARD), &refuse);
        batch.add_chain("filter-output", Some(Hook::FILTER_OUTPUT), &refuse);
    }

    /// Replaces the whole table in one step. Connections stay: the kernel tracks them elsewhere.
    pub fn replace(&self, socket: &mut Socket, ruleset: &Ruleset) -> Result<(), Error> {
        let mut batch = Batch::new(&self.table);
        self.base(&mut batch);
        self.add_changes(&mut batch, &super::diff::diff(&Ruleset::default(), ruleset));
        batch.commit(socket)
    }

    /// Applies changes: new chains first, then everything else in one step. A packet under way
    /// goes on in the generation it began in but finds the elements of the next; a chain that came
    /// with them would be empty for it, and its connection refused.
    pub fn apply(&self, socket: &mut Socket, changes: &[Change]) -> Result<(), Error> {
        let (chains, rest): (Vec<Change>, Vec<Change>) =
            changes.iter().cloned().partition(|change| matches!(change, Change::AddChain(_)));
        for step in [chains, rest].into_iter().filter(|step| !step.is_empty()) {
            let mut batch = Batch::new(&self.table);
            self.add_changes(&mut batch, &step);
            batch.commit(socket)?;
        }
        Ok(())
    }

    fn add_changes(&self, batch: &mut Batch, changes: &[Change]) {
        // Neighbours that go into one map share messages.
        for run in changes.chunk_by(|a, b| place(a).is_some() && place(a) == place(b)) {
            match run {
                [Change::AddChain(chain)] => batch.add_chain(&chain.name(), None, &chain.rules(self)),
                [Change::DeleteChain(chain)] => batch.delete_chain(&chain.name()),
                _ => add_run(batch, run),
            }
        }
    }
}

fn add_run(batch: &mut Batch, run: &[Change]) {
    let Some((map, is_addition)) = run.first().and_then(place) else { return };
    let elements: Vec<Element> = run
        .iter()
        .filter_map(|change| match change {
            Change::AddEntry(entry, value) | Change::DeleteEntry(entry, value) => Some(element(entry, value)),
            Change::AddChain(_) | Change::DeleteChain(_) => None,
        })
        .collect();
    if is_addition { batch.add_elements(map, &elements) } else { batch.delete_elements(map, &elements) }
}

/// The map an entry's change goes to, and whether it adds.
fn place(change: &Change) -> Option<(&'static str, bool)> {
    let (entry, is_addition) = match change {
        Change::AddEntry(entry, _) => (entry, true),
        Change::DeleteEntry(entry, _) => (entry, false),
        Change::AddChain(_) | Change::DeleteChain(_) => return None,
    };
    let map = match entry {
        Entry::Service(_) => &SERVICES,
        Entry::External(_) => &EXTERNAL,
        Entry::Refused(_) => &REFUSED,
        Entry::Endpoint(..) => &ENDPOINTS,
        Entry::Affinity(..) => &AFFINITY_ENDPOINTS,
        Entry::Hairpin(_) => &HAIRPIN,
    };
    Some((map.name, is_addition))
}

fn key_words(key: &Key) -> Words {
    Words::default().address(key.address).protocol(key.protocol as u8).port(key.port)
}

fn element(entry: &Entry, value: &Value) -> Element {
    let key = match entry {
        Entry::Service(key) | Entry::External(key) | Entry::Refused(key) => key_words(key),
        Entry::Endpoint(key, slot) => key_words(key).number(*slot),
        Entry::Affinity(key, Endpoint { address, port }) => key_words(key).address(*address).port(*port),
        Entry::Hairpin(address) => Words::default().address(*address).address(*address),
    };
    let data = match value {
        Value::Chain(chain) => ElementData::Verdict(Verdict::Goto(chain.name())),
        Value::Reject => ElementData::Verdict(Verdict::Goto(CHAIN_REJECT.to_owned())),
        Value::Drop => ElementData::Verdict(Verdict::Drop),
        Value::To(to) => ElementData::Words(Words::default().address(to.address).port(to.port)),
        Value::Member => ElementData::None,
    };
    Element { key, data }
}
