//! Addresses of hollow pods: handed out in turn, each to one pod at a time while there are enough.

use std::collections::HashMap;
use std::hash::Hasher;
use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::pod::Fnv;

/// Where counting begins: the first addresses of a range are a network's and its gateway's.
const FIRST: u32 = 2;

pub struct Addresses {
    base: u32,
    size: u32,
    next: u32,
    /// Who holds an address, by a hash of the uid.
    holders: HashMap<u32, u64>,
}

impl Addresses {
    pub fn new(range: IpNet) -> Self {
        // Nothing is ever sent to a hollow pod: an IPv6 range maps to one of IPv4's private ones.
        let (base, prefix) = match range {
            IpNet::V4(net) => (net.network(), net.prefix_len()),
            IpNet::V6(_) => (Ipv4Addr::new(10, 128, 0, 0), 9),
        };
        let size = 1_u32.checked_shl(32 - u32::from(prefix.min(30))).unwrap_or(u32::MAX);
        Addresses { base: base.into(), size, next: FIRST, holders: HashMap::new() }
    }

    /// An address nobody holds; when all are held, one that somebody else holds as well.
    pub fn take(&mut self, uid: &str) -> Ipv4Addr {
        let mut offset = self.next % self.size;
        if self.holders.len() < self.size as usize {
            while self.holders.contains_key(&offset) {
                offset = (offset + 1) % self.size;
            }
        }
        self.next = (offset + 1) % self.size;
        self.holders.insert(offset, owner(uid));
        Ipv4Addr::from(self.base.wrapping_add(offset))
    }
    /// What a pod's status tells, also of pods that were given it before this process began.
    pub fn keep(&mut self, address: Ipv4Addr, uid: &str) {
        if let Some(offset) = self.offset(address) {
            self.holders.insert(offset, owner(uid));
        }
    }
    pub fn release(&mut self, address: Ipv4Addr, uid: &str) {
        if let Some(offset) = self.offset(address)
            && self.holders.get(&offset) == Some(&owner(uid))
        {
            self.holders.remove(&offset);
        }
    }
    #[cfg(test)]
    pub fn is_held_by(&self, address: Ipv4Addr, uid: &str) -> bool {
        self.offset(address).and_then(|offset| self.holders.get(&offset)) == Some(&owner(uid))
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        u32::from(address).checked_sub(self.base).filter(|offset| *offset < self.size)
    }
}

fn owner(uid: &str) -> u64 {
    let mut hasher = Fnv::default();
    hasher.write(uid.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_holder_while_there_are_enough() {
        let ip = |last| Ipv4Addr::new(10, 128, 0, last);
        let mut addresses = Addresses::new("10.128.0.0/30".parse().unwrap());
        addresses.keep(ip(3), "old");
        addresses.keep(Ipv4Addr::new(10, 9, 0, 1), "elsewhere");
        assert_eq!(addresses.take("a"), ip(2));
        assert_eq!(addresses.take("b"), ip(0));
        addresses.release(ip(2), "b");
        assert_eq!(addresses.take("c"), ip(1), "only its holder gives an address back");
        addresses.release(ip(2), "a");
        addresses.release(ip(2), "a");
        assert_eq!(addresses.take("d"), ip(2));
        assert_eq!(addresses.take("e"), ip(3), "all are held");
        assert_eq!(addresses.holders.len(), 4);
    }
}
