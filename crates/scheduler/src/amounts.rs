//! Amounts of resources in the units kube-scheduler compares: CPU in thousandths, the rest whole. A
//! resource is a number, so that what a node has and what a pod asks for are short lists of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use amphipod_api::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

pub type WireAmounts = BTreeMap<String, WireQuantity>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(u32);

impl ResourceId {
    pub const CPU: ResourceId = ResourceId(0);
    pub const MEMORY: ResourceId = ResourceId(1);
    pub const EPHEMERAL_STORAGE: ResourceId = ResourceId(2);
    /// Neither CPU, memory nor storage: scores leave it out where a pod does not ask for it.
    pub fn is_scalar(self) -> bool {
        self.0 > Self::EPHEMERAL_STORAGE.0
    }
    fn index(self) -> usize {
        self.0 as usize
    }
}

const WELL_KNOWN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// No amount is taken for more (or for less than its opposite): a petabyte is far above what any node
/// has, and thousands of such pods on one node still add up without leaving 64 bits.
const MAX_AMOUNT: i64 = 1 << 50;
/// How many pods a node takes is counted apart: no pod asks for it.
pub const PODS: &str = "pods";

/// The resources that nodes offer or pods ask for, in the order they were first seen.
#[derive(Debug)]
pub struct Resources {
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, ResourceId>,
}

impl Default for Resources {
    fn default() -> Self {
        let mut resources = Resources { names: Vec::new(), by_name: HashMap::new() };
        for name in WELL_KNOWN {
            resources.intern(name);
        }
        resources
    }
}

impl Resources {
    pub fn intern(&mut self, name: &str) -> ResourceId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = ResourceId(self.names.len() as u32);
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.by_name.insert(name, id);
        id
    }
    pub fn name(&self, id: ResourceId) -> &str {
        &self.names[id.index()]
    }
    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }
    /// Unparsable amounts count as nothing; the API server refuses them anyway.
    pub fn from_wire(&mut self, wire: Option<&WireAmounts>) -> Sums {
        let mut sums = Sums::default();
        for (name, text) in wire.into_iter().flatten().filter(|(name, _)| *name != PODS) {
            if let Ok(quantity) = Quantity::parse(&text.0) {
                sums.0.insert(self.intern(name), quantity);
            }
        }
        sums
    }
}

/// In the unit that is counted of a resource.
fn whole(id: ResourceId, amount: Quantity) -> i64 {
    if id == ResourceId::CPU { amount.milli() } else { amount.units() }
}

/// Exact amounts while they are added up; what is absent was never named.
#[derive(Clone, Debug, Default)]
pub struct Sums(BTreeMap<ResourceId, Quantity>);

impl Sums {
    pub fn has(&self, id: ResourceId) -> bool {
        self.0.contains_key(&id)
    }
    pub fn is_zero(&self, id: ResourceId) -> bool {
        self.0.get(&id).is_none_or(|amount| amount.is_zero())
    }
    pub fn set(&mut self, id: ResourceId, amount: Quantity) {
        self.0.insert(id, amount);
    }
    pub fn iter(&self) -> impl Iterator<Item = (ResourceId, Quantity)> {
        self.0.iter().map(|(id, amount)| (*id, *amount))
    }
    pub fn add(&mut self, other: &Sums) {
        for (id, amount) in other.iter() {
            let sum = self.0.get(&id).map_or(amount, |sum| sum.plus(amount));
            self.0.insert(id, sum);
        }
    }
    /// Each amount raised to at least the other's.
    pub fn raise_to(&mut self, other: &Sums) {
        for (id, amount) in other.iter() {
            if self.0.get(&id).is_none_or(|sum| amount > *sum) {
                self.0.insert(id, amount);
            }
        }
    }
    /// The amount of a resource where it is more than decisions count.
    pub fn beyond(&self, id: ResourceId) -> Option<Quantity> {
        self.0.get(&id).copied().filter(|amount| whole(id, *amount) > MAX_AMOUNT)
    }
    pub fn rounded(&self) -> Amounts {
        let mut amounts = Amounts::default();
        for (id, amount) in self.iter() {
            amounts.set(id, whole(id, amount).clamp(-MAX_AMOUNT, MAX_AMOUNT));
        }
        amounts
    }
}

/// Amounts by resource. Whoever names a resource makes it known to all, so only the well-known ones,
/// which nearly all pods and nodes have, are given room everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    well_known: [i64; WELL_KNOWN.len()],
    /// By resource; none is zero.
    others: Vec<(ResourceId, i64)>,
}

impl Amounts {
    pub fn get(&self, id: ResourceId) -> i64 {
        match self.well_known.get(id.index()) {
            Some(amount) => *amount,
            None => self.position(id).map_or(0, |at| self.others[at].1),
        }
    }
    pub fn set(&mut self, id: ResourceId, amount: i64) {
        self.change(id, |_| amount);
    }
    /// The amounts that are not zero.
    pub fn iter(&self) -> impl Iterator<Item = (ResourceId, i64)> {
        let well_known = self.well_known.iter().zip(0..).map(|(amount, id)| (ResourceId(id), *amount));
        well_known.filter(|(_, amount)| *amount != 0).chain(self.others.iter().copied())
    }
    /// What is added can be subtracted again whatever the sum was between: it wraps, and never sticks
    /// at an end.
    pub fn add(&mut self, other: &Amounts) {
        other.iter().for_each(|(id, more)| self.change(id, |amount| amount.wrapping_add(more)));
    }
    pub fn subtract(&mut self, other: &Amounts) {
        other.iter().for_each(|(id, less)| self.change(id, |amount| amount.wrapping_sub(less)));
    }
    fn position(&self, id: ResourceId) -> Result<usize, usize> {
        self.others.binary_search_by_key(&id, |(id, _)| *id)
    }
    fn change(&mut self, id: ResourceId, change: impl FnOnce(i64) -> i64) {
        if let Some(amount) = self.well_known.get_mut(id.index()) {
            *amount = change(*amount);
            return;
        }
        match self.position(id) {
            Ok(at) => {
                self.others[at].1 = change(self.others[at].1);
                if self.others[at].1 == 0 {
                    self.others.remove(at);
                }
            }
            Err(at) => {
                let amount = change(0);
                if amount != 0 {
                    self.others.insert(at, (id, amount));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_round_up_and_cancel_out() {
        let mut resources = Resources::default();
        let wire: WireAmounts =
            [("cpu", "1500u"), ("memory", "1Ki"), ("example.com/gpu", "2"), ("pods", "9")]
                .map(|(name, text)| (name.to_owned(), WireQuantity(text.to_owned())))
                .into();
        let amounts = resources.from_wire(Some(&wire)).rounded();
        let named: Vec<_> = amounts.iter().map(|(id, amount)| (resources.name(id), amount)).collect();
        assert_eq!(named, [("cpu", 2), ("memory", 1024), ("example.com/gpu", 2)]);
        let mut sum = Amounts::default();
        sum.add(&amounts);
        sum.subtract(&amounts);
        assert_eq!(sum, Amounts::default());
    }

    #[test]
    fn a_resource_costs_those_who_have_it_only_and_is_no_other() {
        let mut resources = Resources::default();
        let ids: Vec<_> = (0..70_000).map(|number| resources.intern(&format!("x.io/{number}"))).collect();
        let (first, last) = (ids[0], ids[ids.len() - 1]);
        assert_eq!((resources.name(last), resources.count()), ("x.io/69999", 70_003));
        let mut amounts = Amounts::default();
        for (id, amount) in [(last, 2), (ids[65_600], 3), (first, 1), (ResourceId::MEMORY, 4)] {
            amounts.set(id, amount);
        }
        let all = [(ResourceId::MEMORY, 4), (first, 1), (ids[65_600], 3), (last, 2)];
        assert_eq!(amounts.iter().collect::<Vec<_>>(), all, "in their order");
        assert_eq!((amounts.get(last), amounts.get(ids[65_601]), amounts.others.len()), (2, 0, 3));
        let mut sum = amounts.clone();
        sum.add(&amounts);
        assert_eq!((sum.get(last), sum.get(ids[65_600])), (4, 6));
        sum.subtract(&amounts);
        assert_eq!(sum, amounts);
        sum.subtract(&amounts);
        assert_eq!(sum, Amounts::default(), "what is zero takes no room");
    }
}
