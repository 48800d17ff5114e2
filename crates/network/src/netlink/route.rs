//! Links, addresses and routes: the handful of rtnetlink requests a pod network needs.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use rustix::io::Errno;

use super::{Attributes, CREATE, EXCLUSIVE, REPLACE, Socket, attribute, attributes, message, native32};
use crate::Error;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const FAMILY_INET: u8 = 2;
const FAMILY_BRIDGE: u8 = 7;
const UP: u32 = 1;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_PROTOCOL_INFO: u16 = 12;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const BRIDGE_PORT_HAIRPIN: u16 = 4;

const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_TABLE_MAIN: u8 = 254;
const ROUTE_PROTOCOL_STATIC: u8 = 4;
const ROUTE_TYPE_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const ROUTE_FLAG_ONLINK: u32 = 4;

pub type Mac = [u8; 6];

/// A hardware address that is a function of the IP address, so that a neighbour's cached entry
/// stays right when an address moves to another pod or a bridge is made anew.
pub fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
    pub master: Option<u32>,
    pub up: bool,
}

fn link_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: native32(body, 4),
        name: String::new(),
        mac: Mac::default(),
        mtu: 0,
        master: None,
        up: native32(body, 8) & UP != 0,
    };
    for (kind, payload) in attributes(body.get(16..)?) {
        match kind {
            LINK_NAME => link.name = String::from_utf8_lossy(payload).trim_end_matches('\0').to_owned(),
            LINK_ADDRESS => link.mac = payload.try_into().unwrap_or_default(),
            LINK_MTU => link.mtu = native32(payload, 0),
            LINK_MASTER => link.master = Some(native32(payload, 0)),
            _ => {}
        }
    }
    Some(link)
}

/// What a veth pair is made with: one end on a bridge here, the other in a pod.
pub struct Veth<'a> {
    pub host_name: &'a str,
    pub bridge: u32,
    pub mtu: u32,
    pub pod_name: &'a str,
    pub pod_mac: Mac,
    pub pod_namespace: BorrowedFd<'a>,
}

impl Socket {
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let wanted = Attributes::new().text(LINK_NAME, name);
        let request = message(GETLINK, 0, &link_header(0, 0, 0, 0), &wanted);
        Ok(self.get(&format!("looking for interface {name}"), request)?.and_then(|body| parse_link(&body)))
    }

    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let request = message(GETLINK, 0, &link_header(0, 0, 0, 0), &Attributes::new());
        let bodies = self.dump("listing interfaces", request)?;
        Ok(bodies.iter().filter_map(|body| parse_link(body)).collect())
    }

    pub fn create_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> Result<(), Error> {
        let wanted = Attributes::new()
            .text(LINK_NAME, name)
            .bytes(LINK_ADDRESS, &mac)
            .native32(LINK_MTU, mtu)
            .nest(LINK_INFO, Attributes::new().text(INFO_KIND, "bridge"));
        let request = message(NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, UP, UP), &wanted);
        self.execute(&format!("creating bridge {name}"), request)
    }

    /// Makes the pair, the host's end already up and on its bridge, the pod's end already inside.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), Error> {
        let peer = Attributes::new()
            .text(LINK_NAME, veth.pod_name)
            .bytes(LINK_ADDRESS, &veth.pod_mac)
            .native32(LINK_MTU, veth.mtu)
            .native32(LINK_NAMESPACE_FD, veth.pod_namespace.as_raw_fd() as u32);
        let data = Attributes::new().nest_after(VETH_PEER, &link_header(0, 0, 0, 0), peer);
        let info = Attributes::new().text(INFO_KIND, "veth").nest(INFO_DATA, data);
        let wanted = Attributes::new()
            .text(LINK_NAME, veth.host_name)
            .native32(LINK_MTU, veth.mtu)
            .native32(LINK_MASTER, veth.bridge)
            .nest(LINK_INFO, info);
        let request = message(NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, UP, UP), &wanted);
        self.execute(&format!("creating {} and {}", veth.host_name, veth.pod_name), request)
    }

    /// Lets the bridge send a frame back out of the port it came in by: a pod that reaches itself
    /// through a Service.
    pub fn set_hairpin(&mut self, index: u32) -> Result<(), Error> {
        let port = Attributes::new().byte(BRIDGE_PORT_HAIRPIN, 1);
        let wanted = Attributes::new().nest(LINK_PROTOCOL_INFO, port);
        let request = message(SETLINK, 0, &link_header(FAMILY_BRIDGE, index, 0, 0), &wanted);
        self.execute("setting hairpin mode", request)
    }

    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        let request = message(NEWLINK, 0, &link_header(0, index, UP, UP), &Attributes::new());
        self.execute("setting an interface up", request)
    }

    /// Gone already is fine.
    pub fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let wanted = Attributes::new().text(LINK_NAME, name);
        let request = message(DELLINK, 0, &link_header(0, 0, 0, 0), &wanted);
        match self.execute(&format!("deleting interface {name}"), request) {
            Err(error) if !error.is_absent() => Err(error),
            _ => Ok(()),
        }
    }

    /// Already there is fine.
    pub fn add_address(&mut self, index: u32, network: Ipv4Net) -> Result<(), Error> {
        let mut header = [0; 8];
        header[0] = FAMILY_INET;
        header[1] = network.prefix_len();
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let wanted = Attributes::new()
            .bytes(ADDRESS_LOCAL, &network.addr().octets())
            .bytes(ADDRESS_ADDRESS, &network.addr().octets());
        let request = message(NEWADDR, CREATE | EXCLUSIVE, &header, &wanted);
        match self.execute(&format!("adding address {network}"), request) {
            Err(error) if error.errno() != Some(Errno::EXIST) => Err(error),
            _ => Ok(()),
        }
    }

    pub fn addresses(&mut self, index: u32) -> Result<Vec<Ipv4Net>, Error> {
        let mut header = [0; 8];
        header[0] = FAMILY_INET;
        let bodies = self.dump("listing addresses", message(GETADDR, 0, &header, &Attributes::new()))?;
        let parse = |body: &Vec<u8>| {
            let octets: [u8; 4] = attribute(body.get(8..)?, ADDRESS_LOCAL)?.try_into().ok()?;
            (native32(body, 4) == index).then(|| Ipv4Net::new(octets.into(), body[1]).ok())?
        };
        Ok(bodies.iter().filter_map(parse).collect())
    }

    /// A route out of an interface, through `gateway` where one is given; replaces an equal one.
    pub fn add_route(
        &mut self,
        destination: Ipv4Net,
        gateway: Option<Ipv4Addr>,
        index: u32,
    ) -> Result<(), Error> {
        let scope = if gateway.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
        let mut header = [0; 12];
        header[0] = FAMILY_INET;
        header[1] = destination.prefix_len();
        header[4..8].copy_from_slice(&[ROUTE_TABLE_MAIN, ROUTE_PROTOCOL_STATIC, scope, ROUTE_TYPE_UNICAST]);
        // A pod's address is a /32: its gateway is on no subnet of the interface.
        let flags = if gateway.is_some() { ROUTE_FLAG_ONLINK } else { 0 };
        header[8..12].copy_from_slice(&flags.to_ne_bytes());
        let mut wanted = Attributes::new().native32(ROUTE_INTERFACE, index);
        if destination.prefix_len() > 0 {
            wanted = wanted.bytes(ROUTE_DESTINATION, &destination.network().octets());
        }
        if let Some(gateway) = gateway {
            wanted = wanted.bytes(ROUTE_GATEWAY, &gateway.octets());
        }
        let request = message(NEWROUTE, CREATE | REPLACE, &header, &wanted);
        self.execute(&format!("adding route {destination}"), request)
    }

    /// The interface behind the default route.
    pub fn default_interface(&mut self) -> Result<Option<Link>, Error> {
        let mut header = [0; 12];
        header[0] = FAMILY_INET;
        let bodies = self.dump("listing routes", message(GETROUTE, 0, &header, &Attributes::new()))?;
        let is_default = |body: &&Vec<u8>| body.len() >= 12 && body[1] == 0 && body[4] == ROUTE_TABLE_MAIN;
        let index = bodies
            .iter()
            .filter(is_default)
            .find_map(|body| attribute(&body[12..], ROUTE_INTERFACE).map(|payload| native32(payload, 0)));
        Ok(self.links()?.into_iter().find(|link| Some(link.index) == index))
    }
}
