//! Connection tracking entries of UDP: the kernel pins a flow to the endpoint it chose first, and
//! a UDP flow has no end, so entries that lead to gone endpoints must be removed by hand.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Attributes, Socket, attribute, message};
use crate::Error;

const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const FAMILY_INET: u8 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;
pub const UDP: u8 = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// A tracked UDP flow: what the sender addressed, and where answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub original: Tuple,
    pub reply: Tuple,
}

fn parse_tuple(bytes: &[u8]) -> Option<Tuple> {
    let ip = attribute(bytes, TUPLE_IP)?;
    let protocol = attribute(bytes, TUPLE_PROTOCOL)?;
    if attribute(protocol, PROTOCOL_NUMBER)? != [UDP] {
        return None;
    }
    let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(attribute(ip, kind)?).ok()?));
    let port = |kind| Some(u16::from_be_bytes(attribute(protocol, kind)?.try_into().ok()?));
    Some(Tuple {
        source: SocketAddrV4::new(address(IP_SOURCE)?, port(PROTOCOL_SOURCE_PORT)?),
        destination: SocketAddrV4::new(address(IP_DESTINATION)?, port(PROTOCOL_DESTINATION_PORT)?),
    })
}

fn encode_tuple(tuple: &Tuple) -> Attributes {
    let ip = Attributes::new()
        .bytes(IP_SOURCE, &tuple.source.ip().octets())
        .bytes(IP_DESTINATION, &tuple.destination.ip().octets());
    let protocol = Attributes::new()
        .byte(PROTOCOL_NUMBER, UDP)
        .big16(PROTOCOL_SOURCE_PORT, tuple.source.port())
        .big16(PROTOCOL_DESTINATION_PORT, tuple.destination.port());
    Attributes::new().nest(TUPLE_IP, ip).nest(TUPLE_PROTOCOL, protocol)
}

impl Socket {
    pub fn udp_flows(&mut self) -> Result<Vec<Flow>, Error> {
        let request = message(GET, 0, &[FAMILY_INET, 0, 0, 0], &Attributes::new());
        let parse = |body: &Vec<u8>| {
            let body = body.get(4..)?;
            Some(Flow {
                original: parse_tuple(attribute(body, ORIGINAL)?)?,
                reply: parse_tuple(attribute(body, REPLY)?)?,
            })
        };
        Ok(self.dump("listing tracked connections", request)?.iter().filter_map(parse).collect())
    }

    /// Gone already is fine.
    pub fn forget_flow(&mut self, flow: &Flow) -> Result<(), Error> {
        let wanted = Attributes::new().nest(ORIGINAL, encode_tuple(&flow.original));
        let request = message(DELETE, 0, &[FAMILY_INET, 0, 0, 0], &wanted);
        match self.execute("forgetting a tracked connection", request) {
            Err(error) if !error.is_absent() => Err(error),
            _ => Ok(()),
        }
    }
}
