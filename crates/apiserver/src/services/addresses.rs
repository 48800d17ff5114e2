//! Which address of which range a service gets. Pure: what is taken is asked of the caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use amphipod_store::Revision;
use ipnet::IpNet;

/// Of a range, the lower part that is given automatically only when the upper is full, so that those
/// who name an address find one: a sixteenth, within these bounds (KEP-3070).
const STATIC_MIN: u128 = 16;
const STATIC_MAX: u128 = 256;
const STATIC_SHARE: u128 = 16;

pub const V4: &str = "IPv4";
pub const V6: &str = "IPv6";

pub fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { V4 } else { V6 }
}

/// One block of a ServiceCIDR that gives addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub block: IpNet,
    /// The key of the ServiceCIDR and the revision it was seen at.
    pub key: String,
    pub revision: Revision,
}

impl Range {
    /// The network's own address is never given, nor an IPv4 network's broadcast address.
    pub fn gives(&self, address: IpAddr) -> bool {
        let broadcast = self.block.addr().is_ipv4() && address == self.block.broadcast();
        self.block.contains(&address) && address != self.block.network() && !broadcast
    }

    pub fn family(&self) -> &'static str {
        family(self.block.addr())
    }

    /// All addresses, the unusable ones too.
    fn size(&self) -> u128 {
        let bits = u32::from(self.block.max_prefix_len() - self.block.prefix_len());
        1u128.checked_shl(bits).unwrap_or(u128::MAX)
    }

    fn address(&self, offset: u128) -> IpAddr {
        match self.block.network() {
            // An offset within the block does not overflow.
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4).wrapping_add(offset as u32))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6).wrapping_add(offset))),
        }
    }

    /// A free address, or none: the upper part is searched first, from a place `seed` decides.
    /// `taken_count` bounds the search: a free one is met within one step more.
    fn choose(&self, seed: u64, taken_count: usize, is_taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let size = self.size();
        let usable = size.saturating_sub(if self.block.addr().is_ipv4() { 2 } else { 1 });
        let reserved =
            if size <= STATIC_MIN { 0 } else { (size / STATIC_SHARE).clamp(STATIC_MIN, STATIC_MAX) };
        let reserved = reserved.min(usable);
        for (start, count) in [(reserved, usable - reserved), (0, reserved)] {
            if count == 0 {
                continue;
            }
            let begin = u128::from(seed) % count;
            let steps = count.min(taken_count as u128 + 1);
            let mut candidates =
                (0..steps).map(|step| self.address(1 + start + begin.wrapping_add(step) % count));
            if let Some(free) = candidates.find(|address| !is_taken(*address)) {
                return Some(free);
            }
        }
        None
    }
}

/// A free address of this family from any of the ranges.
pub fn choose<'a>(
    ranges: &'a [Range],
    family: &str,
    seed: u64,
    taken_count: usize,
    is_taken: &dyn Fn(IpAddr) -> bool,
) -> Option<(&'a Range, IpAddr)> {
    let mut ranges = ranges.iter().filter(|range| range.family() == family);
    ranges.find_map(|range| Some((range, range.choose(seed, taken_count, is_taken)?)))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use super::*;

    fn range(block: &str) -> Range {
        Range { block: block.parse().unwrap(), key: String::new(), revision: 1 }
    }

    fn drain(ranges: &[Range], family: &str) -> Vec<IpAddr> {
        let taken: RefCell<HashSet<IpAddr>> = RefCell::default();
        let mut seed = 7;
        std::iter::from_fn(|| {
            seed = seed * 31 % 10_007;
            let count = taken.borrow().len();
            let (_, address) = choose(ranges, family, seed, count, &|a| taken.borrow().contains(&a))?;
            assert!(taken.borrow_mut().insert(address), "{address} was given twice");
            Some(address)
        })
        .collect()
    }

    #[test]
    fn every_address_is_given_once_the_upper_part_first() {
        let given = drain(&[range("10.0.0.0/26")], V4);
        assert_eq!(given.len(), 62);
        let last = |a: &IpAddr| match a {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => unreachable!(),
        };
        assert!(given[..46].iter().all(|a| last(a) > 16), "{given:?}");
        assert!(given[46..].iter().all(|a| (1..=16).contains(&last(a))), "{given:?}");
    }

    #[test]
    fn ranges_are_used_in_turn_and_by_family() {
        let ranges = [range("10.0.0.0/29"), range("fd00::/125"), range("10.1.0.0/30")];
        let given = drain(&ranges, V4);
        assert_eq!(given.len(), 6 + 2);
        assert!(
            given[..6].iter().all(|a| ranges[0].gives(*a)) && given[6..].iter().all(|a| ranges[2].gives(*a))
        );
        assert_eq!(drain(&ranges, V6).len(), 7);
    }

    #[test]
    fn the_ends_of_a_range_are_not_given() {
        let range = range("10.0.0.0/30");
        let gives = |text: &str| range.gives(text.parse().unwrap());
        assert_eq!(
            ["10.0.0.0", "10.0.0.1", "10.0.0.3", "10.0.0.4", "fd00::1"].map(gives),
            [false, true, false, false, false]
        );
        assert!(drain(&[self::range("10.0.0.0/32")], V4).is_empty());
    }
}
