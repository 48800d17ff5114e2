//! Which service addresses and node ports are taken. Held in memory, filled from the stored
//! services at start; an allocation is reserved before the service is written and given back if
//! the write fails, so two creates cannot get the same.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use parking_lot::Mutex;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    AddressTaken,
    #[error("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")]
    AddressOutside { address: IpAddr, range: IpNet },
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {}-{}", .0.start(), .0.end())]
    PortOutside(RangeInclusive<u16>),
}

/// Addresses of one service range. The network and (for IPv4) broadcast address are never given.
pub struct Addresses {
    range: IpNet,
    taken: Mutex<HashSet<IpAddr>>,
}

impl Addresses {
    pub fn new(range: IpNet) -> Self {
        Addresses { range, taken: Mutex::default() }
    }
    pub fn range(&self) -> IpNet {
        self.range
    }
    fn base(&self) -> u128 {
        number(self.range.network())
    }
    /// Usable addresses: offsets 1..=this.
    fn usable(&self) -> u128 {
        let bits = u32::from(self.range.max_prefix_len() - self.range.prefix_len());
        let total = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        total.saturating_sub(if self.range.addr().is_ipv4() { 2 } else { 1 })
    }
    fn address(&self, offset: u128) -> IpAddr {
        match self.range {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from((self.base() + offset) as u32)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(self.base() + offset)),
        }
    }
    /// Takes a named address.
    pub fn take(&self, address: IpAddr) -> Result<(), Error> {
        let outside = Error::AddressOutside { address, range: self.range };
        let offset = number(address).checked_sub(self.base()).filter(|_| self.range.contains(&address));
        if !offset.is_some_and(|o| o >= 1 && o <= self.usable()) {
            return Err(outside);
        }
        if self.taken.lock().insert(address) { Ok(()) } else { Err(Error::AddressTaken) }
    }
    /// Takes any free address: from the upper part first (the lower is left for those who name
    /// one), beginning at a place `seed` decides.
    pub fn take_any(&self, seed: u64) -> Result<IpAddr, Error> {
        let usable = self.usable();
        // Kubernetes reserves min(max(16, size/16), 256) for static use.
        let reserved = if usable < 16 { 0 } else { (usable / 16).clamp(16, 256).min(usable) };
        let mut taken = self.taken.lock();
        for (start, count) in [(reserved, usable - reserved), (0, reserved)] {
            if count == 0 {
                continue;
            }
            let begin = u128::from(seed) % count;
            // A free one is met within as many steps as there are taken ones, and one more.
            let steps = count.min(taken.len() as u128 + 1);
            for step in 0..steps {
                let address = self.address(1 + start + (begin + step) % count);
                if taken.insert(address) {
                    return Ok(address);
                }
            }
        }
        Err(Error::Full)
    }
    pub fn give_back(&self, address: IpAddr) {
        self.taken.lock().remove(&address);
    }
    pub fn taken_count(&self) -> usize {
        self.taken.lock().len()
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Node ports, one set for all protocols: a port belongs to one service.
pub struct Ports {
    range: RangeInclusive<u16>,
    taken: Mutex<BTreeSet<u16>>,
}

impl Ports {
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Ports { range, taken: Mutex::default() }
    }
    pub fn take(&self, port: u16) -> Result<(), Error> {
        if !self.range.contains(&port) {
            return Err(Error::PortOutside(self.range.clone()));
        }
        if self.taken.lock().insert(port) { Ok(()) } else { Err(Error::PortTaken) }
    }
    pub fn take_any(&self, seed: u64) -> Result<u16, Error> {
        let count = u64::from(self.range.end() - self.range.start()) + 1;
        let mut taken = self.taken.lock();
        for step in 0..count {
            let port = self.range.start() + ((seed % count + step) % count) as u16;
            if taken.insert(port) {
                return Ok(port);
            }
        }
        Err(Error::Full)
    }
    pub fn give_back(&self, port: u16) {
        self.taken.lock().remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_given_once() {
        let addresses = Addresses::new("10.0.0.0/27".parse().unwrap());
        addresses.take("10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!(addresses.take("10.0.0.1".parse().unwrap()), Err(Error::AddressTaken));
        assert!(matches!(addresses.take("10.0.0.31".parse().unwrap()), Err(Error::AddressOutside { .. })));
        let given: HashSet<IpAddr> = (0..29).map(|seed| addresses.take_any(seed * 7).unwrap()).collect();
        assert_eq!(given.len(), 29);
        assert_eq!(addresses.take_any(3), Err(Error::Full));
        addresses.give_back("10.0.0.9".parse().unwrap());
        assert_eq!(addresses.take_any(3).unwrap().to_string(), "10.0.0.9");
    }

    #[test]
    fn ports_are_given_once_and_within_the_range() {
        let ports = Ports::new(30000..=30002);
        assert!(matches!(ports.take(80), Err(Error::PortOutside(_))));
        ports.take(30001).unwrap();
        assert_eq!(ports.take(30001), Err(Error::PortTaken));
        let mut given = [ports.take_any(1).unwrap(), ports.take_any(1).unwrap()];
        given.sort_unstable();
        assert_eq!(given, [30000, 30002]);
        assert_eq!(ports.take_any(9), Err(Error::Full));
    }
}
