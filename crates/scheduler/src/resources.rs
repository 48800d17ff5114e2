//! Amounts of resources in the units the scheduler compares: CPU in thousandths, the rest whole.

use std::collections::BTreeMap;

use amphipod_api::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";

type WireAmounts = BTreeMap<String, WireQuantity>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<String, i64>);

impl Resources {
    /// Unparsable amounts count as nothing; the API server refuses them anyway.
    pub fn from_wire(amounts: Option<&WireAmounts>) -> Self {
        let parse = |(name, text): (&String, &WireQuantity)| {
            let quantity = Quantity::parse(&text.0).ok()?;
            Some((name.clone(), if name == CPU { quantity.milli() } else { quantity.units() }))
        };
        Resources(amounts.into_iter().flatten().filter_map(parse).collect())
    }
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }
    pub fn set(&mut self, name: &str, amount: i64) {
        self.0.insert(name.to_owned(), amount);
    }
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }
    pub fn add(&mut self, other: &Resources) {
        for (name, amount) in other.iter() {
            *self.0.entry(name.to_owned()).or_insert(0) += amount;
        }
    }
    pub fn subtract(&mut self, other: &Resources) {
        for (name, amount) in other.iter() {
            *self.0.entry(name.to_owned()).or_insert(0) -= amount;
        }
    }
    /// Each amount raised to at least the other's.
    pub fn raise_to(&mut self, other: &Resources) {
        for (name, amount) in other.iter() {
            let mine = self.0.entry(name.to_owned()).or_insert(0);
            *mine = (*mine).max(amount);
        }
    }
}
