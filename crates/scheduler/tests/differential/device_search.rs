//! All ways to give a pod's claims devices are tried in order, each as a whole.

use std::collections::BTreeSet;
use std::rc::Rc;

use k8s_openapi::api::resource::v1::{DeviceAttribute, DeviceRequest, ResourceClaim};

use crate::devices::{Devices, MAX_TRIALS, Offer, Pick, wants};
use crate::expressions::{attribute, selected};

const MAX_RESULTS: usize = 32;

pub struct Attempt<'a> {
    pub devices: &'a Devices,
    pub in_use: BTreeSet<[&'a str; 3]>,
    pub claims: Vec<&'a ResourceClaim>,
    pub offers: Vec<Offer<'a>>,
    pub trials: usize,
}

impl<'a> Attempt<'a> {
    pub fn meet(
        &mut self,
        todo: &[(usize, &'a DeviceRequest)],
        picks: Vec<Pick<'a>>,
    ) -> Option<Vec<Pick<'a>>> {
        let Some(((claim, request), rest)) = todo.split_first() else { return Some(picks) };
        for want in wants(request) {
            let want = Rc::new(want);
            // A pod that names no such class is not asked about nodes.
            let Some(class) = self.devices.classes.get(want.class) else { continue };
            let suits = |offer: &&Offer| {
                let (driver, device) = (&offer.slice.spec.driver, offer.device);
                selected(class.spec.selectors.as_ref(), driver, device)
                    && selected(want.selectors, driver, device)
            };
            let suitable: Vec<Offer> = self.offers.iter().filter(suits).copied().collect();
            let sets = match want.count {
                None if suitable.is_empty() => Vec::new(),
                None => vec![suitable],
                Some(count) => choices(&suitable, count),
            };
            for set in sets {
                self.trials += 1;
                if self.trials > MAX_TRIALS {
                    return None;
                }
                let new = set.into_iter().map(|offer| Pick { claim: *claim, want: want.clone(), offer });
                let picks: Vec<Pick> = picks.iter().cloned().chain(new).collect();
                if self.is_legal(&picks)
                    && let Some(found) = self.meet(rest, picks)
                {
                    return Some(found);
                }
            }
        }
        None
    }

    fn is_legal(&self, picks: &[Pick]) -> bool {
        let clashes = |index: usize| {
            let pick = &picks[index];
            let mut earlier = picks[..index].iter().filter(|other| other.offer.id() == pick.offer.id());
            match pick.want.admin {
                true => earlier.any(|other| other.claim == pick.claim),
                false => earlier.next().is_some() || self.in_use.contains(&pick.offer.id()),
            }
        };
        let of_claim = |index: usize| picks.iter().filter(move |pick| pick.claim == index);
        let keeps = |index: usize| {
            let devices = self.claims[index].spec.devices.as_ref();
            let mut constraints = devices.iter().flat_map(|d| d.constraints.iter().flatten());
            of_claim(index).count() <= MAX_RESULTS
                && constraints.all(|constraint| {
                    let names = constraint.requests.as_deref().unwrap_or_default();
                    let is_about = |name: &str| {
                        names.is_empty()
                            || names.iter().any(|n| n == name || name.split('/').next() == Some(n))
                    };
                    let name = constraint.match_attribute.as_ref().expect("an attribute");
                    let values: Vec<Option<&DeviceAttribute>> = of_claim(index)
                        .filter(|pick| is_about(&pick.want.name))
                        .map(|pick| attribute(&pick.offer.slice.spec.driver, pick.offer.device, name))
                        .collect();
                    values.iter().all(|value| value.is_some() && *value == values[0])
                })
        };
        !(0..picks.len()).any(clashes) && (0..self.claims.len()).all(keeps)
    }
}

/// So many of the offers, in all ways, the first ones first.
fn choices<'a>(offers: &[Offer<'a>], count: usize) -> Vec<Vec<Offer<'a>>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut found = Vec::new();
    for (index, first) in offers.iter().enumerate() {
        for rest in choices(&offers[index + 1..], count - 1) {
            found.push([vec![*first], rest].concat());
        }
    }
    found
}
