//! Amounts of resources in the units kube-scheduler compares: CPU in thousandths, the rest whole. A
//! resource is a small index, so that what a node has and what a pod asks for are short arrays.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use amphipod_api::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

pub type WireAmounts = BTreeMap<String, WireQuantity>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(u16);

impl ResourceId {
    pub const CPU: ResourceId = ResourceId(0);
    pub const MEMORY: ResourceId = ResourceId(1);
    pub const EPHEMERAL_STORAGE: ResourceId = ResourceId(2);
    /// Neither CPU, memory nor storage: scores leave it out where a pod does not ask for it.
    pub fn is_scalar(self) -> bool {
        self.0 > Self::EPHEMERAL_STORAGE.0
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
    /// Names beyond what an index holds share the last one; 65,536 kinds of resources are out of
    /// reach before the snapshot is rebuilt.
    pub fn intern(&mut self, name: &str) -> ResourceId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = ResourceId(u16::try_from(self.names.len()).unwrap_or(u16::MAX));
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.by_name.insert(name, id);
        id
    }
    pub fn name(&self, id: ResourceId) -> &str {
        &self.names[usize::from(id.0)]
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
    pub fn rounded(&self) -> Amounts {
        let mut amounts = Amounts::default();
        for (id, amount) in self.iter() {
            let amount = if id == ResourceId::CPU { amount.milli() } else { amount.units() };
            amounts.set(id, amount.clamp(-MAX_AMOUNT, MAX_AMOUNT));
        }
        amounts
    }
}

/// Amounts by resource; what lies beyond the array is zero, and so is never its last element.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Amounts(Vec<i64>);

impl Amounts {
    pub fn get(&self, id: ResourceId) -> i64 {
        self.0.get(usize::from(id.0)).copied().unwrap_or(0)
    }
    pub fn set(&mut self, id: ResourceId, amount: i64) {
        let index = usize::from(id.0);
        if self.0.len() <= index {
            self.0.resize(index + 1, 0);
        }
        self.0[index] = amount;
        self.trim();
    }
    /// The amounts that are not zero.
    pub fn iter(&self) -> impl Iterator<Item = (ResourceId, i64)> {
        let all = self.0.iter().enumerate().map(|(index, amount)| (ResourceId(index as u16), *amount));
        all.filter(|(_, amount)| *amount != 0)
    }
    /// What is added can be subtracted again whatever the sum was between: it wraps, and never sticks
    /// at an end.
    pub fn add(&mut self, other: &Amounts) {
        self.combine(other, i64::wrapping_add);
    }
    pub fn subtract(&mut self, other: &Amounts) {
        self.combine(other, i64::wrapping_sub);
    }
    fn combine(&mut self, other: &Amounts, operation: fn(i64, i64) -> i64) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = operation(*mine, *theirs);
        }
        self.trim();
    }
    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
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
}
