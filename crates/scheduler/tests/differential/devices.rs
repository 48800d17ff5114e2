//! The slow scheduler's view of devices: slices, classes and claims, straight from API objects.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use amphipod_client::Resource;
use amphipod_scheduler::Snapshot;
use amphipod_scheduler::devices::ClaimWork;
use k8s_openapi::api::core::v1::{Node, NodeSelector, Pod};
use k8s_openapi::api::resource::v1::{
    Device, DeviceClass, DeviceRequest, DeviceSelector, ResourceClaim, ResourceSlice,
};

use crate::device_search::Attempt;
use crate::oracle::{self, Verdict, refuse};
use crate::world::key;

pub const ELSEWHERE: &str = "resourceclaim not available on the node";
pub const MAX_CONSUMERS: usize = 256;
const TOO_HARD: &str = "too much to try";
/// Of a pod for which more has to be tried on one node no answer is asked: the fast scheduler gives up
/// searches at some point.
pub const MAX_TRIALS: usize = 300;

#[derive(Clone, Default)]
pub struct Devices {
    pub classes: BTreeMap<String, DeviceClass>,
    pub slices: BTreeMap<String, ResourceSlice>,
    pub claims: BTreeMap<String, ResourceClaim>,
    /// What claims are about to get and the API does not show yet, with the pod it is for.
    pub pending: BTreeMap<String, (ClaimWork, String)>,
}

/// One of the ways to meet a request.
pub struct Want<'a> {
    /// `request` or `request/alternative`.
    pub name: String,
    pub class: &'a str,
    pub selectors: Option<&'a Vec<DeviceSelector>>,
    /// `None` for all.
    pub count: Option<usize>,
    pub admin: bool,
}

/// A device a node reaches.
#[derive(Clone, Copy)]
pub struct Offer<'a> {
    pub slice: &'a ResourceSlice,
    pub device: &'a Device,
}

/// A device for a request of a claim.
#[derive(Clone)]
pub struct Pick<'a> {
    pub claim: usize,
    pub want: Rc<Want<'a>>,
    pub offer: Offer<'a>,
}

enum Pool<'a> {
    Offers(Vec<Offer<'a>>),
    Invalid,
    BeingUpdated,
    Replaced,
}

impl<'a> Offer<'a> {
    pub fn id(&self) -> [&'a str; 3] {
        [&self.slice.spec.driver, &self.slice.spec.pool.name, &self.device.name]
    }
}

pub fn wants(request: &DeviceRequest) -> Vec<Want<'_>> {
    let count = |mode: &Option<String>, count: Option<i64>| match mode.as_deref() {
        Some("All") => None,
        _ => Some(count.unwrap_or(1) as usize),
    };
    if let Some(exact) = &request.exactly {
        return vec![Want {
            name: request.name.clone(),
            class: &exact.device_class_name,
            selectors: exact.selectors.as_ref(),
            count: count(&exact.allocation_mode, exact.count),
            admin: exact.admin_access == Some(true),
        }];
    }
    let alternatives = request.first_available.iter().flatten().map(|sub| Want {
        name: format!("{}/{}", request.name, sub.name),
        class: &sub.device_class_name,
        selectors: sub.selectors.as_ref(),
        count: count(&sub.allocation_mode, sub.count),
        admin: false,
    });
    alternatives.collect()
}
pub fn requests(claim: &ResourceClaim) -> &[DeviceRequest] {
    claim.spec.devices.as_ref().and_then(|devices| devices.requests.as_deref()).unwrap_or_default()
}
pub fn allocation(claim: &ResourceClaim) -> Option<&k8s_openapi::api::resource::v1::AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}
pub fn consumers(claim: &ResourceClaim) -> Vec<&str> {
    let status = claim.status.as_ref();
    status.iter().flat_map(|s| s.reserved_for.iter().flatten()).map(|c| c.uid.as_str()).collect()
}
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().expect("a uid")
}
fn admits(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| oracle::term_selects(term, node))
}
fn is_near(slice: &ResourceSlice, node: &Node) -> bool {
    let spec = &slice.spec;
    match (&spec.node_name, spec.all_nodes, &spec.node_selector) {
        (Some(name), _, _) => name == oracle::name(node),
        (None, Some(true), _) => true,
        (None, _, Some(selector)) => admits(selector, node),
        _ => false,
    }
}

impl Devices {
    pub fn tell(&self, snapshot: &mut Snapshot) {
        let Snapshot { catalogue, devices, .. } = &mut *snapshot;
        let symbols = &mut catalogue.symbols;
        for class in self.classes.values() {
            devices.set_class(symbols, class);
        }
        for slice in self.slices.values() {
            devices.set_slice(symbols, slice);
        }
        for claim in self.claims.values() {
            devices.set_claim(symbols, claim);
        }
        let works: Vec<ClaimWork> = self.pending.values().map(|(work, _)| work.clone()).collect();
        snapshot.assume_devices(&works);
    }

    /// The claims a pod names, or that were made for it; an error where one has not been made.
    fn of(&self, pod: &Pod) -> Result<Vec<(String, bool)>, String> {
        let made = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.clone()).unwrap_or_default();
        let mut keys = Vec::new();
        for entry in oracle::spec(pod).resource_claims.iter().flatten() {
            let key_of = |name: &String| format!("{}/{name}", oracle::namespace(pod));
            if let Some(name) = &entry.resource_claim_name {
                keys.push((key_of(name), false));
                continue;
            }
            let status = made.iter().find(|status| status.name == entry.name);
            let status =
                status.ok_or_else(|| format!("pod {:?}: ResourceClaim not created yet", key(pod)))?;
            keys.extend(status.resource_claim_name.as_ref().map(|name| (key_of(name), true)));
        }
        Ok(keys)
    }
    pub fn claims(&self, pod: &Pod) -> Vec<(String, &ResourceClaim)> {
        let keys = self.of(pod).unwrap_or_default().into_iter();
        keys.filter_map(|(key, _)| Some((key.clone(), self.claims.get(&key)?))).collect()
    }

    /// Why no node at all will do.
    pub fn before(&self, pod: &Pod) -> Option<String> {
        // What comes first in the pod is found first.
        for entry in oracle::spec(pod).resource_claims.iter().flatten() {
            let mut part = pod.clone();
            part.spec.get_or_insert_default().resource_claims = Some(vec![entry.clone()]);
            match self.of(&part) {
                Err(text) => return Some(text),
                Ok(keys) => {
                    let unfit = keys.iter().find_map(|(key, owned)| self.unfit(pod, key, *owned));
                    if unfit.is_some() {
                        return unfit;
                    }
                }
            }
        }
        self.claims(pod).iter().find_map(|(key, claim)| self.unusable(pod, key, claim))
    }
    fn unfit(&self, pod: &Pod, key: &str, owned: bool) -> Option<String> {
        let name = key.split_once('/').expect("a key").1;
        let Some(claim) = self.claims.get(key) else {
            return Some(format!("resourceclaim.resource.k8s.io {name:?} not found"));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(format!("resourceclaim {name:?} is being deleted"));
        }
        let mut owners = claim.metadata.owner_references.iter().flatten();
        let is_own = owners.any(|owner| owner.controller == Some(true) && owner.uid == uid(pod));
        (owned && !is_own).then(|| {
            let pod = crate::world::key(pod);
            format!("ResourceClaim {key} was not created for pod {pod} (pod is not owner)")
        })
    }
    fn unusable(&self, pod: &Pod, key: &str, claim: &ResourceClaim) -> Option<String> {
        if allocation(claim).is_some() {
            let consumers = consumers(claim);
            let full = consumers.len() >= MAX_CONSUMERS && !consumers.contains(&uid(pod));
            return full.then(|| "resourceclaim in use".to_owned());
        }
        if self.pending.contains_key(key) {
            return Some(format!("resource claim {key} is in the process of being allocated"));
        }
        let wants: Vec<Want> = requests(claim).iter().flat_map(wants).collect();
        let missing = wants.iter().find(|want| !self.classes.contains_key(want.class))?;
        Some(format!("request {}: device class {} does not exist", missing.name, missing.class))
    }

    pub fn filter(&self, pod: &Pod, node: &Node) -> Verdict {
        self.search(pod, node).map_err(|why| (vec![why.to_owned()], false))?;
        let places = self.claims(pod).into_iter().filter_map(|(_, claim)| allocation(claim));
        let mut selectors = places.filter_map(|allocation| allocation.node_selector.as_ref());
        match selectors.all(|selector| admits(selector, node)) {
            true => Ok(()),
            false => refuse(ELSEWHERE, false),
        }
    }
    /// Whether too much would have to be tried on the node to find out.
    pub fn is_hard(&self, pod: &Pod, node: &Node) -> bool {
        self.search(pod, node).is_err_and(|why| why == TOO_HARD)
    }
    /// For each request with alternatives more, the earlier the chosen one stands.
    pub fn preference(&self, pod: &Pod, node: &Node) -> i64 {
        let picks = self.search(pod, node).unwrap_or_default();
        let claims = self.unallocated(pod);
        let of_request = |index: usize, request: &DeviceRequest| {
            let alternatives = request.first_available.as_deref().unwrap_or_default();
            let chosen = alternatives.iter().position(|sub| {
                let name = format!("{}/{}", request.name, sub.name);
                picks.iter().any(|pick| pick.claim == index && pick.want.name == name)
            });
            chosen.map_or(0, |place| 8 - place as i64)
        };
        let of_claim = |(index, (_, claim)): (usize, &(String, &ResourceClaim))| {
            requests(claim).iter().map(|request| of_request(index, request)).sum::<i64>()
        };
        claims.iter().enumerate().map(of_claim).sum()
    }
    /// The pod's claims that could give back what they have, for it is of no use on one of the nodes.
    pub fn in_the_way(&self, pod: &Pod, nodes: &[&Node]) -> BTreeSet<String> {
        let is_in_the_way = |claim: &ResourceClaim| {
            let selector = allocation(claim).and_then(|allocation| allocation.node_selector.as_ref());
            consumers(claim).iter().all(|consumer| *consumer == uid(pod))
                && selector.is_some_and(|selector| nodes.iter().any(|node| !admits(selector, node)))
        };
        let claims = self.claims(pod).into_iter().filter(|(_, claim)| is_in_the_way(claim));
        claims.map(|(key, _)| key).collect()
    }

    pub fn unallocated(&self, pod: &Pod) -> Vec<(String, &ResourceClaim)> {
        self.claims(pod).into_iter().filter(|(_, claim)| allocation(claim).is_none()).collect()
    }
    /// The devices some claim has, by the API's word or as good as.
    fn in_use(&self) -> BTreeSet<[&str; 3]> {
        let allocated = self.claims.values().filter_map(allocation);
        let results = allocated.flat_map(|a| a.devices.iter().flat_map(|d| d.results.iter().flatten()));
        let own = results.filter(|result| result.admin_access != Some(true));
        let own = own.map(|r| [r.driver.as_str(), r.pool.as_str(), r.device.as_str()]);
        let pending = self.pending.values().flat_map(|(work, _)| &work.devices);
        own.chain(pending.map(|id| [&*id[0], &*id[1], &*id[2]])).collect()
    }
    fn pool(&self, mut near: Vec<&'_ ResourceSlice>, node: &Node) -> Pool<'_> {
        let newest = near.iter().map(|slice| slice.spec.pool.generation).max().expect("a slice");
        near.retain(|slice| slice.spec.pool.generation == newest);
        let (driver, name) = (&near[0].spec.driver, &near[0].spec.pool.name);
        let of_pool = self.slices.values().filter(|s| (&s.spec.driver, &s.spec.pool.name) == (driver, name));
        let counts = |slices: &[&ResourceSlice]| {
            slices.iter().all(|slice| slice.spec.pool.resource_slice_count == slices.len() as i64)
        };
        if !counts(&near) {
            let all: Vec<&ResourceSlice> = of_pool.collect();
            if all.iter().any(|slice| slice.spec.pool.generation > newest) {
                return Pool::Replaced;
            }
            let now: Vec<_> = all.into_iter().filter(|s| s.spec.pool.generation == newest).collect();
            if !counts(&now) {
                return Pool::BeingUpdated;
            }
        }
        // A node's own come first.
        let names: BTreeSet<String> = near.iter().map(|slice| slice.name().to_owned()).collect();
        let is_own = |slice: &&ResourceSlice| slice.spec.node_name.as_deref() == Some(oracle::name(node));
        let slices: Vec<&ResourceSlice> = names.iter().map(|name| &self.slices[name]).collect();
        let ordered = slices.iter().filter(|s| is_own(s)).chain(slices.iter().filter(|s| !is_own(s)));
        let offers: Vec<Offer> = ordered
            .flat_map(|slice| slice.spec.devices.iter().flatten().map(move |device| Offer { slice, device }))
            .collect();
        let unique: BTreeSet<&str> = offers.iter().map(|offer| offer.device.name.as_str()).collect();
        if unique.len() < offers.len() { Pool::Invalid } else { Pool::Offers(offers) }
    }

    /// The first way to meet all claims of the pod that have nothing yet, or why there is none.
    pub fn search(&self, pod: &Pod, node: &Node) -> Result<Vec<Pick<'_>>, &'static str> {
        let claims: Vec<&ResourceClaim> = self.unallocated(pod).into_iter().map(|(_, c)| c).collect();
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let mut pools: BTreeMap<(&str, &str), Vec<&ResourceSlice>> = BTreeMap::new();
        for slice in self.slices.values().filter(|slice| is_near(slice, node)) {
            pools.entry((&slice.spec.driver, &slice.spec.pool.name)).or_default().push(slice);
        }
        let pools: Vec<Pool> = pools.into_values().map(|near| self.pool(near, node)).collect();
        let invalid = pools.iter().any(|pool| matches!(pool, Pool::Invalid));
        let updated = pools.iter().any(|pool| matches!(pool, Pool::BeingUpdated));
        let mut all = claims.iter().flat_map(|claim| requests(claim)).flat_map(wants);
        if (invalid || updated) && all.any(|want| want.count.is_none()) {
            return Err(match updated {
                true => "asks for all devices, but a resource pool is currently being updated",
                false => "invalid resource pools were encountered",
            });
        }
        let offers = pools.into_iter().flat_map(|pool| match pool {
            Pool::Offers(offers) => offers,
            _ => Vec::new(),
        });
        let todo = claims.iter().enumerate();
        let todo: Vec<_> = todo.flat_map(|(i, c)| requests(c).iter().map(move |r| (i, r))).collect();
        let mut attempt =
            Attempt { devices: self, in_use: self.in_use(), claims, offers: offers.collect(), trials: 0 };
        let found = attempt.meet(&todo, Vec::new());
        match found {
            _ if attempt.trials > MAX_TRIALS => Err(TOO_HARD),
            Some(picks) => Ok(picks),
            None if invalid => Err("invalid resource pools were encountered"),
            None => Err("cannot allocate all claims"),
        }
    }
}
