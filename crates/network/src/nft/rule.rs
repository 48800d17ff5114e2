//! One rule as a chain of expressions. Values travel through 32-bit registers; a key of several
//! components is several neighbouring registers.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Verdict, network_bytes, value};
use crate::netlink::Attributes;

/// The first of the kernel's sixteen 32-bit registers.
const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

const META_MARK: u32 = 3;
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_L4_PROTOCOL: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_STATE_NEW: u32 = 8;
const CT_STATUS_DESTINATION_NAT: u32 = 1 << 5;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const ROUTE_LOCAL: u32 = 2;
const ICMP: u8 = 1;
const ICMP_REDIRECT: u8 = 5;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const NUMGEN_RANDOM: u32 = 1;
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;
const TCP: u8 = 6;
const REJECT_ICMP: u32 = 0;
const REJECT_TCP_RESET: u32 = 1;
const NAT_DESTINATION: u32 = 1;
const FAMILY_IPV4: u32 = 2;
const MASQUERADE_RANDOM_FULLY: u32 = 1 << 4;
const INTERFACE_NAME_BYTES: usize = 16;

/// The packet mark bit that asks postrouting to masquerade, the one Kubernetes has always used.
const MASQUERADE_MARK: u32 = 0x4000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    fn number(self) -> u32 {
        FIRST_REGISTER + self.0
    }
}

#[derive(Clone, Debug, Default)]
pub struct Rule(Attributes);

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn expressions(&self) -> &Attributes {
        &self.0
    }

    fn with(mut self, name: &str, data: Attributes) -> Self {
        let expression = Attributes::new().text(1, name).nest(2, data);
        self.0.append(Attributes::new().nest(1, expression));
        self
    }
    fn meta(self, key: u32, to: Register) -> Self {
        self.with("meta", Attributes::new().big32(2, key).big32(1, to.number()))
    }
    fn payload(self, base: u32, offset: u32, length: u32, to: Register) -> Self {
        let data = Attributes::new().big32(1, to.number()).big32(2, base).big32(3, offset).big32(4, length);
        self.with("payload", data)
    }
    fn compare(self, register: Register, operation: u32, bytes: &[u8]) -> Self {
        let data = Attributes::new().big32(1, register.number()).big32(2, operation).nest(3, value(bytes));
        self.with("cmp", data)
    }
    /// `register = (register & mask) ^ flip`.
    fn bits(self, register: Register, mask: &[u8], flip: &[u8]) -> Self {
        let data = Attributes::new()
            .big32(1, register.number())
            .big32(2, register.number())
            .big32(3, mask.len() as u32)
            .nest(4, value(mask))
            .nest(5, value(flip));
        self.with("bitwise", data)
    }

    // Loading values.

    pub fn load_source(self, to: Register) -> Self {
        self.payload(NETWORK_HEADER, SOURCE_OFFSET, 4, to)
    }
    pub fn load_destination(self, to: Register) -> Self {
        self.payload(NETWORK_HEADER, DESTINATION_OFFSET, 4, to)
    }
    pub fn load_protocol(self, to: Register) -> Self {
        self.meta(META_L4_PROTOCOL, to)
    }
    pub fn load_port(self, to: Register) -> Self {
        self.payload(TRANSPORT_HEADER, 2, 2, to)
    }
    pub fn load_address(self, address: Ipv4Addr, to: Register) -> Self {
        let data = Attributes::new().big32(1, to.number()).nest(2, value(&address.octets()));
        self.with("immediate", data)
    }
    pub fn load_number(self, number: u32, to: Register) -> Self {
        let data = Attributes::new().big32(1, to.number()).nest(2, value(&number.to_ne_bytes()));
        self.with("immediate", data)
    }
    /// A random number from `offset` to below `offset + modulus`.
    pub fn load_random(self, modulus: u32, offset: u32, to: Register) -> Self {
        let data = Attributes::new()
            .big32(1, to.number())
            .big32(2, modulus)
            .big32(3, NUMGEN_RANDOM)
            .big32(4, offset);
        self.with("numgen", data)
    }

    // Conditions: the rule ends where one does not hold.

    pub fn when_source_in(self, network: Ipv4Net) -> Self {
        self.load_source(Register(0)).network(network, EQUAL)
    }
    pub fn when_source_not_in(self, network: Ipv4Net) -> Self {
        self.load_source(Register(0)).network(network, NOT_EQUAL)
    }
    pub fn when_destination_in(self, network: Ipv4Net) -> Self {
        self.load_destination(Register(0)).network(network, EQUAL)
    }
    pub fn when_destination_not_in(self, network: Ipv4Net) -> Self {
        self.load_destination(Register(0)).network(network, NOT_EQUAL)
    }
    fn network(self, network: Ipv4Net, operation: u32) -> Self {
        let (address, mask) = network_bytes(network);
        self.bits(Register(0), &mask, &[0; 4]).compare(Register(0), operation, &address)
    }
    pub fn when_input_is(self, interface: &str) -> Self {
        self.meta(META_INPUT_NAME, Register(0)).compare(Register(0), EQUAL, &interface_name(interface))
    }
    pub fn when_input_is_not(self, interface: &str) -> Self {
        self.meta(META_INPUT_NAME, Register(0)).compare(Register(0), NOT_EQUAL, &interface_name(interface))
    }
    pub fn when_output_is(self, interface: &str) -> Self {
        self.meta(META_OUTPUT_NAME, Register(0)).compare(Register(0), EQUAL, &interface_name(interface))
    }
    pub fn when_output_is_not(self, interface: &str) -> Self {
        self.meta(META_OUTPUT_NAME, Register(0)).compare(Register(0), NOT_EQUAL, &interface_name(interface))
    }
    /// The destination is one of this machine's own addresses.
    pub fn when_destination_is_local(self) -> Self {
        let fib = Attributes::new()
            .big32(1, Register(0).number())
            .big32(2, FIB_ADDRESS_TYPE)
            .big32(3, FIB_DESTINATION);
        self.with("fib", fib).compare(Register(0), EQUAL, &ROUTE_LOCAL.to_ne_bytes())
    }
    pub fn when_connection_is_new(self) -> Self {
        self.when_tracked(CT_STATE, CT_STATE_NEW)
    }
    pub fn when_destination_was_translated(self) -> Self {
        self.when_tracked(CT_STATUS, CT_STATUS_DESTINATION_NAT)
    }
    fn when_tracked(self, key: u32, bit: u32) -> Self {
        let load = Attributes::new().big32(1, Register(0).number()).big32(2, key);
        self.with("ct", load).bits(Register(0), &bit.to_ne_bytes(), &[0; 4]).compare(
            Register(0),
            NOT_EQUAL,
            &[0; 4],
        )
    }
    pub fn when_masquerade_is_asked(self) -> Self {
        let bit = MASQUERADE_MARK.to_ne_bytes();
        self.meta(META_MARK, Register(0)).bits(Register(0), &bit, &[0; 4]).compare(Register(0), EQUAL, &bit)
    }
    pub fn when_icmp_redirect(self) -> Self {
        self.meta(META_L4_PROTOCOL, Register(0))
            .compare(Register(0), EQUAL, &[ICMP])
            .payload(TRANSPORT_HEADER, 0, 1, Register(0))
            .compare(Register(0), EQUAL, &[ICMP_REDIRECT])
    }
    pub fn when_in_set(self, set: &str, key: Register) -> Self {
        self.with("lookup", Attributes::new().text(1, set).big32(2, key.number()))
    }

    // Looking up and acting.

    /// Loads what `map` has for the key; the rule ends where there is nothing.
    pub fn look_up(self, map: &str, key: Register, to: Register) -> Self {
        let data = Attributes::new().text(1, map).big32(2, key.number()).big32(3, to.number());
        self.with("lookup", data)
    }
    /// Follows the verdict that `map` has for the key.
    pub fn follow(self, map: &str, key: Register) -> Self {
        let data = Attributes::new().text(1, map).big32(2, key.number()).big32(3, VERDICT_REGISTER);
        self.with("lookup", data)
    }
    /// Stores key and data in a map, for so long; data already there stays and lasts longer.
    pub fn remember(self, map: &str, key: Register, data: Register, timeout_seconds: u32) -> Self {
        let timeout_milliseconds = u64::from(timeout_seconds) * 1000;
        self.dynamic(DYNSET_UPDATE, map, key, data, |data| data.big64(6, timeout_milliseconds))
    }
    /// Removes what a map has for the key. The kernel wants a data register named for a map.
    pub fn forget(self, map: &str, key: Register, data: Register) -> Self {
        self.dynamic(DYNSET_DELETE, map, key, data, |data| data)
    }
    fn dynamic(
        self,
        operation: u32,
        map: &str,
        key: Register,
        data: Register,
        more: impl FnOnce(Attributes) -> Attributes,
    ) -> Self {
        let attributes =
            Attributes::new().text(1, map).big32(3, operation).big32(4, key.number()).big32(5, data.number());
        self.with("dynset", more(attributes))
    }
    pub fn ask_for_masquerade(self) -> Self {
        self.set_mark_bit(MASQUERADE_MARK)
    }
    fn set_mark_bit(self, bit: u32) -> Self {
        let store = Attributes::new().big32(2, META_MARK).big32(3, Register(0).number());
        self.meta(META_MARK, Register(0))
            .bits(Register(0), &(!MASQUERADE_MARK).to_ne_bytes(), &bit.to_ne_bytes())
            .with("meta", store)
    }
    /// Also clears the request: a packet that gets wrapped in another must not carry it along.
    pub fn masquerade(self) -> Self {
        self.set_mark_bit(0).with("masq", Attributes::new().big32(1, MASQUERADE_RANDOM_FULLY))
    }
    /// Sends the packet to the address and port in two neighbouring registers.
    pub fn translate_destination(self, to: Register) -> Self {
        let data = Attributes::new()
            .big32(1, NAT_DESTINATION)
            .big32(2, FAMILY_IPV4)
            .big32(3, to.number())
            .big32(5, Register(to.0 + 1).number());
        self.with("nat", data)
    }
    pub fn verdict(self, verdict: &Verdict) -> Self {
        let data = Attributes::new().big32(1, VERDICT_REGISTER).nest(2, verdict.attributes());
        self.with("immediate", data)
    }
    /// Answers with ICMP "port unreachable", of which the kernel sends few per second.
    pub fn reject(self) -> Self {
        self.with("reject", Attributes::new().big32(1, REJECT_ICMP).byte(2, ICMP_PORT_UNREACHABLE))
    }
    /// Answers TCP with a reset.
    pub fn reject_tcp(self) -> Self {
        self.meta(META_L4_PROTOCOL, Register(0))
            .compare(Register(0), EQUAL, &[TCP])
            .with("reject", Attributes::new().big32(1, REJECT_TCP_RESET).byte(2, 0))
    }
}

fn interface_name(name: &str) -> [u8; INTERFACE_NAME_BYTES] {
    let mut bytes = [0; INTERFACE_NAME_BYTES];
    // Longer names do not exist: links cannot be created with them.
    let length = name.len().min(INTERFACE_NAME_BYTES - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}
