//! nftables over netlink: tables, chains, maps, rules and their expressions, gathered into a
//! batch that the kernel applies whole or not at all. Only what our tables use is here.

pub mod rule;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::Error;
use crate::netlink::{Attributes, CREATE, REQUEST, Socket, message};
pub use rule::{Register, Rule};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;
const FAMILY_IPV4: u8 = 2;
const APPEND: u16 = 0x800;

const LIST_ELEMENT: u16 = 1;
const SET_FLAG_MAP: u32 = 8;
const SET_FLAG_TIMEOUT: u32 = 0x10;
const SET_FLAG_DYNAMIC: u32 = 0x20;
/// The kernel's marker for "the data is a verdict".
const DATA_VERDICT: u32 = 0xffff_ff00;
const DATA_VALUE: u16 = 1;
const DATA_IS_VERDICT: u16 = 2;
const VERDICT_GOTO: i32 = -4;
const VERDICT_JUMP: i32 = -3;
const VERDICT_DROP: i32 = 0;
/// A list of elements is one attribute, whose length is 16 bits.
const MAX_ELEMENT_BYTES: usize = 48 << 10;

/// A component of a key or of data, with the type number that `nft list` shows it by.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    Address = 7,
    Protocol = 12,
    Port = 13,
    /// A 32-bit number in host order.
    Number = 19,
}

/// What a map gives for a key.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// A set: membership only.
    None,
    Verdict,
    Fields(&'static [Field]),
}

pub struct Map {
    pub name: &'static str,
    pub key: &'static [Field],
    pub data: Data,
    /// Filled by rules, entries expire: the bound on their number.
    pub dynamic: Option<u32>,
}

fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| (all << 6) | *field as u32)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Goto(String),
    Jump(String),
    Drop,
}

impl Verdict {
    pub fn attributes(&self) -> Attributes {
        let (code, chain) = match self {
            Verdict::Goto(chain) => (VERDICT_GOTO, Some(chain)),
            Verdict::Jump(chain) => (VERDICT_JUMP, Some(chain)),
            Verdict::Drop => (VERDICT_DROP, None),
        };
        let mut verdict = Attributes::new().big32(1, code as u32);
        if let Some(chain) = chain {
            verdict = verdict.text(2, chain);
        }
        Attributes::new().nest(DATA_IS_VERDICT, verdict)
    }
}

pub fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(DATA_VALUE, bytes)
}

/// The bytes of a key or of data: every component fills whole 32-bit words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(pub Vec<u8>);

impl Words {
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.0.extend_from_slice(&address.octets());
        self
    }
    pub fn protocol(mut self, number: u8) -> Self {
        self.0.extend_from_slice(&[number, 0, 0, 0]);
        self
    }
    pub fn port(mut self, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        self.0.extend_from_slice(&[high, low, 0, 0]);
        self
    }
    pub fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementData {
    None,
    Verdict(Verdict),
    Words(Words),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Words,
    pub data: ElementData,
}

impl Element {
    fn attributes(&self, with_data: bool) -> Attributes {
        let attributes = Attributes::new().nest(1, value(&self.key.0));
        match &self.data {
            _ if !with_data => attributes,
            ElementData::None => attributes,
            ElementData::Verdict(verdict) => attributes.nest(2, verdict.attributes()),
            ElementData::Words(words) => attributes.nest(2, value(&words.0)),
        }
    }
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

impl Hook {
    pub const RAW_PREROUTING: Hook = Hook { kind: "filter", number: 0, priority: -300 };
    pub const NAT_PREROUTING: Hook = Hook { kind: "nat", number: 0, priority: -100 };
    pub const NAT_OUTPUT: Hook = Hook { kind: "nat", number: 3, priority: -100 };
    pub const NAT_POSTROUTING: Hook = Hook { kind: "nat", number: 4, priority: 100 };
    pub const FILTER_INPUT: Hook = Hook { kind: "filter", number: 1, priority: 0 };
    pub const FILTER_FORWARD: Hook = Hook { kind: "filter", number: 2, priority: 0 };
    pub const FILTER_OUTPUT: Hook = Hook { kind: "filter", number: 3, priority: 0 };
}

/// Changes to one table, applied together.
pub struct Batch {
    table: String,
    messages: Vec<Vec<u8>>,
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

impl Batch {
    pub fn new(table: &str) -> Self {
        let begin = message(BATCH_BEGIN, 0, &header(0, SUBSYSTEM), &Attributes::new());
        Batch { table: table.to_owned(), messages: vec![begin] }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }

    fn push(&mut self, kind: u16, flags: u16, attributes: &Attributes) {
        let kind = (SUBSYSTEM << 8) | kind;
        self.messages.push(message(kind, REQUEST | flags, &header(FAMILY_IPV4, 0), attributes));
    }

    pub fn add_table(&mut self) {
        let attributes = Attributes::new().text(1, &self.table).big32(2, 0);
        self.push(NEW_TABLE, CREATE, &attributes);
    }
    /// Fails where there is none; `add_table` first makes it sure.
    pub fn delete_table(&mut self) {
        let attributes = Attributes::new().text(1, &self.table);
        self.push(DELETE_TABLE, 0, &attributes);
    }
    /// An empty table, whatever was there before, without a moment in between.
    pub fn replace_table(&mut self) {
        self.add_table();
        self.delete_table();
        self.add_table();
    }

    pub fn add_chain(&mut self, name: &str, hook: Option<Hook>, rules: &[Rule]) {
        let mut attributes = Attributes::new().text(1, &self.table).text(3, name);
        if let Some(hook) = hook {
            let place = Attributes::new().big32(1, hook.number).big32(2, hook.priority as u32);
            attributes = attributes.nest(4, place).text(7, hook.kind);
        }
        self.push(NEW_CHAIN, CREATE, &attributes);
        for rule in rules {
            let attributes =
                Attributes::new().text(1, &self.table).text(2, name).nest(4, rule.expressions().clone());
            self.push(NEW_RULE, CREATE | APPEND, &attributes);
        }
    }
    /// Declares a chain that others refer to before its rules come.
    pub fn delete_chain(&mut self, name: &str) {
        let attributes = Attributes::new().text(1, &self.table).text(3, name);
        self.push(DELETE_CHAIN, 0, &attributes);
    }

    pub fn add_map(&mut self, map: &Map, id: u32) {
        let mut flags = 0;
        let mut attributes = Attributes::new()
            .text(1, &self.table)
            .text(2, map.name)
            .big32(4, type_number(map.key))
            .big32(5, map.key.len() as u32 * 4)
            .big32(10, id);
        match map.data {
            Data::None => {}
            Data::Verdict => {
                flags |= SET_FLAG_MAP;
                attributes = attributes.big32(6, DATA_VERDICT);
            }
            Data::Fields(fields) => {
                flags |= SET_FLAG_MAP;
                attributes = attributes.big32(6, type_number(fields)).big32(7, fields.len() as u32 * 4);
            }
        }
        if let Some(size) = map.dynamic {
            flags |= SET_FLAG_TIMEOUT | SET_FLAG_DYNAMIC;
            attributes = attributes.nest(9, Attributes::new().big32(1, size));
        }
        attributes = attributes.big32(3, flags);
        self.push(NEW_SET, CREATE, &attributes);
    }

    pub fn add_elements(&mut self, map: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, CREATE, map, elements, true);
    }
    pub fn delete_elements(&mut self, map: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENT, 0, map, elements, false);
    }

    fn elements(&mut self, kind: u16, flags: u16, map: &str, elements: &[Element], with_data: bool) {
        let mut list = Attributes::new();
        for (at, element) in elements.iter().enumerate() {
            list.append(Attributes::new().nest(LIST_ELEMENT, element.attributes(with_data)));
            if list.len() > MAX_ELEMENT_BYTES || at + 1 == elements.len() {
                let whole = std::mem::take(&mut list);
                let attributes = Attributes::new().text(1, &self.table).text(2, map).nest(3, whole);
                self.push(kind, flags, &attributes);
            }
        }
    }

    pub fn commit(mut self, socket: &mut Socket) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        self.messages.push(message(BATCH_END, 0, &header(0, SUBSYSTEM), &Attributes::new()));
        socket.transact(&format!("changing nftables table {}", self.table), self.messages)
    }
}

pub fn table_exists(socket: &mut Socket, table: &str) -> Result<bool, Error> {
    let attributes = Attributes::new().text(1, table);
    let kind = (SUBSYSTEM << 8) | GET_TABLE;
    let request = message(kind, 0, &header(FAMILY_IPV4, 0), &attributes);
    Ok(socket.get(&format!("looking for nftables table {table}"), request)?.is_some())
}

/// Removes a table; none there is fine.
pub fn remove_table(socket: &mut Socket, table: &str) -> Result<(), Error> {
    let mut batch = Batch::new(table);
    batch.add_table();
    batch.delete_table();
    batch.commit(socket)
}

/// Address and mask as bytes, for comparing an address with a network.
pub fn network_bytes(network: Ipv4Net) -> ([u8; 4], [u8; 4]) {
    (network.network().octets(), network.netmask().octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fill_whole_words() {
        let key = Words::default().address(Ipv4Addr::new(10, 0, 0, 1)).protocol(6).port(80);
        assert_eq!(key.0, [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
    }

    #[test]
    fn element_lists_are_cut_to_what_an_attribute_holds() {
        let mut batch = Batch::new("t");
        let element = Element { key: Words::default().number(1), data: ElementData::None };
        batch.add_elements("m", &vec![element; 10_000]);
        assert!(batch.messages.len() > 2);
        assert!(batch.messages.iter().all(|message| message.len() < 1 << 16));
    }

    #[test]
    fn concatenated_types_are_six_bits_each() {
        assert_eq!(type_number(&[Field::Address, Field::Protocol]), (7 << 6) | 12);
    }
}
