//! Amounts as Kubernetes writes them, and rounded as people read them.

use std::collections::BTreeMap;

use amphipod_api::pod_resources::HUGE_PAGES;
use amphipod_api::quantity::{Format, Quantity};

use crate::amounts::{Amounts, PODS, ResourceId, Resources, Sums};

pub fn quantity(resources: &Resources, id: ResourceId, amount: i64) -> Quantity {
    if id == ResourceId::CPU {
        return Quantity::from_milli(amount, Format::DecimalSi);
    }
    let bytes = !id.is_scalar() || resources.name(id).starts_with(HUGE_PAGES);
    Quantity::from_units(amount, if bytes { Format::BinarySi } else { Format::DecimalSi })
}

pub fn readable(resources: &Resources, id: ResourceId, amount: i64, up: bool) -> String {
    quantity(resources, id, amount).readable(up)
}

/// `None` stands for places for pods.
pub fn name(resources: &Resources, id: Option<ResourceId>) -> &str {
    id.map_or(PODS, |id| resources.name(id))
}

pub fn text(resources: &Resources, id: Option<ResourceId>, amount: i64) -> String {
    id.map_or_else(|| amount.to_string(), |id| quantity(resources, id, amount).to_string())
}

pub fn all(resources: &Resources, amounts: &Amounts) -> BTreeMap<String, String> {
    all_asked(resources, amounts, &Sums::default())
}

/// What is counted of an amount that is asked for, or what was written where that is more.
pub fn asked(resources: &Resources, id: ResourceId, counted: i64, written: &Sums) -> Quantity {
    written.beyond(id).unwrap_or_else(|| quantity(resources, id, counted))
}

pub fn all_asked(resources: &Resources, amounts: &Amounts, written: &Sums) -> BTreeMap<String, String> {
    let named =
        |(id, amount)| (resources.name(id).to_owned(), asked(resources, id, amount, written).to_string());
    amounts.iter().map(named).collect()
}
