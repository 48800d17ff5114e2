//! The service dataplane: what Services and EndpointSlices ask for (`desired`), as flat entries of
//! a few maps; what changes between two states (`diff`); how entries and chains look to the kernel
//! (`layout`); and the loop that keeps both equal (`run`).

pub mod desired;
pub mod diff;
pub mod layout;
pub mod run;
pub mod stale;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    /// As the API spells it; TCP where it says nothing.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// Where clients send to. The address 0.0.0.0 stands for every address of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub address: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
}

impl Key {
    pub fn is_node_port(&self) -> bool {
        self.address.is_unspecified()
    }
}

/// Where packets end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    pub port: u16,
}

/// What the rules need to know about the node they run on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub name: String,
    pub zone: Option<String>,
}

/// The kind of chain a service's packets go to. Services alike in these share one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Endpoints to choose from; never zero.
    pub endpoints: u32,
    pub node_port: bool,
    /// For clients outside the cluster where `externalTrafficPolicy` is Local: endpoints of this
    /// node only, and the client's address stays.
    pub preserve_source: bool,
    pub affinity_seconds: Option<u32>,
}

/// One element of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    Service(Key),
    /// Looked at first for clients outside the cluster.
    External(Key),
    /// Nothing to send to: answered before a socket or the network sees it.
    Refused(Key),
    Endpoint(Key, u32),
    /// A remembered choice of session affinity counts only while it stands here.
    Affinity(Key, Endpoint),
    /// An endpoint on this node: reaching itself through a service needs a masqueraded source.
    Hairpin(Ipv4Addr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Chain(Chain),
    Drop,
    Reject,
    To(Endpoint),
    Member,
}

/// Everything the kernel is to know, as data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruleset {
    pub chains: BTreeSet<Chain>,
    pub entries: BTreeMap<Entry, Value>,
}

/// One step from a ruleset to another. Applied in the order given, a step never refers to what is
/// not there yet or no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    AddChain(Chain),
    DeleteEntry(Entry, Value),
    AddEntry(Entry, Value),
    DeleteChain(Chain),
}
