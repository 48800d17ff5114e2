//! Which devices a pod's claims get on a node: the first choice, in the order of pools and devices, with
//! which every request of every claim is met. A search: what was taken too early is given back.
//!
//! Taints, shared counters, devices for several claims and nodes of single devices are of features that
//! are off at this level: the server drops the fields, and nothing here looks at them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint};

use super::Devices;
use super::objects::{DeviceId, Place, Request, Slice, Wish};
use crate::labels::{Labels, NodeTerm};
use crate::node::Shape;
use crate::symbols::{Symbol, Symbols};

/// Devices looked at in one search. The most a claim can have, of the most devices a slice can have,
/// takes 4,096 where nothing is given back; a claim whose constraints ask for trying all combinations of
/// many devices is not to stop the scheduler.
const MAX_STEPS: usize = 10_000;
/// As many devices a claim can have.
const MAX_RESULTS: usize = 32;

const NOT_ENOUGH: &str = "cannot allocate all claims";
/// In the words for upstream's limit, which is ten seconds and not so many steps.
const TOO_LONG: &str = "timed out trying to allocate devices";
const BAD_POOL: &str = "invalid resource pools were encountered";
const BEING_UPDATED: &str = "asks for all devices, but a resource pool is currently being updated";

/// A device given to a request.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    pub request: &'a Request,
    pub id: DeviceId,
    /// Where it can be used.
    pub place: &'a Place,
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    id: DeviceId,
    place: &'a Place,
    device: &'a Device,
}

/// What a node reaches.
#[derive(Default)]
struct Reached<'a> {
    candidates: Vec<Candidate<'a>>,
    /// A pool names a device twice, so that nobody could tell which is meant.
    bad_pool: bool,
    /// Not all slices of a pool are known, so that its devices may be others in a moment.
    being_updated: bool,
}

/// What is known of a pool, all slices of which are of one generation.
enum Pool {
    Whole,
    BeingUpdated,
    /// There is a newer generation, which has nothing for the node.
    Replaced,
}

struct Search<'a> {
    devices: &'a Devices,
    symbols: &'a Symbols,
    candidates: Vec<Candidate<'a>>,
    claims: &'a [&'a Wish],
    /// For each claim.
    given: Vec<Vec<(Given<'a>, &'a Device)>>,
    /// Whether a request (by its address, which stays) selects the candidate at a position: expressions
    /// are evaluated once, however often the search comes back.
    selected: HashMap<(*const Request, usize), bool>,
    steps: usize,
}

/// What is still to be met of one request.
#[derive(Clone, Copy)]
struct Goal<'a> {
    claim: usize,
    index: usize,
    request: &'a Request,
    /// How many devices more, and where among the candidates to go on.
    missing: usize,
    from: usize,
}

/// For each claim what it gets on the node; an error says why that cannot be.
pub fn allocate<'a>(
    devices: &'a Devices,
    symbols: &'a Symbols,
    claims: &'a [&'a Wish],
    node: Symbol,
    shape: &Shape,
) -> Result<Vec<Vec<Given<'a>>>, &'static str> {
    let Reached { candidates, bad_pool, being_updated } = reached(devices, symbols, node, &shape.labels);
    let mut requests = claims.iter().flat_map(|wish| wish.requests.iter().flatten());
    // How many "all" are has to be known.
    if (being_updated || bad_pool) && requests.any(|request| request.count.is_none()) {
        return Err(if being_updated { BEING_UPDATED } else { BAD_POOL });
    }
    let given = claims.iter().map(|_| Vec::new()).collect();
    let selected = HashMap::new();
    let mut search = Search { devices, symbols, candidates, claims, given, selected, steps: 0 };
    if !search.requests(0, 0) {
        return Err(match search.steps > MAX_STEPS {
            true => TOO_LONG,
            false if bad_pool => BAD_POOL,
            false => NOT_ENOUGH,
        });
    }
    let given = search.given.into_iter();
    Ok(given.map(|claim| claim.into_iter().map(|(given, _)| given).collect()).collect())
}

fn is_reached(symbols: &Symbols, place: &Place, node: Symbol, labels: &Labels) -> bool {
    match place {
        Place::Node(name) => *name == node,
        Place::Everywhere => true,
        Place::Selected { terms, .. } => {
            terms.iter().any(|term: &NodeTerm| term.matches(symbols, node, labels))
        }
        Place::Nowhere => false,
    }
}

/// The devices a node reaches, of the newest slices of each pool.
fn reached<'a>(devices: &'a Devices, symbols: &'a Symbols, node: Symbol, labels: &Labels) -> Reached<'a> {
    let mut pools: BTreeMap<(&str, &str), Vec<_>> = BTreeMap::new();
    for slice in devices.slices_near(node).filter(|slice| is_reached(symbols, &slice.place, node, labels)) {
        pools.entry((symbols.text(slice.driver), symbols.text(slice.pool))).or_default().push(slice);
    }
    let mut reached = Reached::default();
    for mut slices in pools.into_values() {
        let newest = slices.iter().map(|slice| slice.generation).max();
        slices.retain(|slice| Some(slice.generation) == newest);
        match pool(devices, &slices) {
            Pool::Whole => {}
            Pool::Replaced => continue,
            Pool::BeingUpdated => {
                reached.being_updated = true;
                continue;
            }
        }
        let names: Vec<Symbol> =
            slices.iter().flat_map(|s| s.devices.iter().map(|(name, _)| *name)).collect();
        let unique: BTreeSet<Symbol> = names.iter().copied().collect();
        if unique.len() < names.len() {
            reached.bad_pool = true;
            continue;
        }
        for slice in slices {
            // A part of a larger device is not to be had without knowing what is left of that.
            let whole = slice
                .devices
                .iter()
                .filter(|(_, device)| device.consumes_counters.iter().flatten().next().is_none());
            reached.candidates.extend(whole.map(|(name, device)| Candidate {
                id: (slice.driver, slice.pool, *name),
                place: &slice.place,
                device,
            }));
        }
    }
    reached
}

/// `near`: its slices that a node reaches. Those that others reach count as well.
fn pool(devices: &Devices, near: &[&Slice]) -> Pool {
    let are_all = |slices: &[&Slice]| slices.iter().all(|slice| slice.slices == slices.len() as i64);
    let Some(first) = near.first().filter(|_| !are_all(near)) else { return Pool::Whole };
    let mut all: Vec<&Slice> = devices.slices_of((first.driver, first.pool)).collect();
    if all.iter().any(|slice| slice.generation > first.generation) {
        return Pool::Replaced;
    }
    all.retain(|slice| slice.generation == first.generation);
    if are_all(&all) { Pool::Whole } else { Pool::BeingUpdated }
}

impl<'a> Search<'a> {
    /// Meets all requests from this one on.
    fn requests(&mut self, claim: usize, index: usize) -> bool {
        let Some(wish) = self.claims.get(claim) else { return true };
        let Some(alternatives) = wish.requests.get(index) else { return self.requests(claim + 1, 0) };
        alternatives.iter().any(|request| {
            let missing = match request.count {
                Some(count) => count,
                None => match self.all(request) {
                    Some(count) => count,
                    None => return false,
                },
            };
            missing + self.given[claim].len() <= MAX_RESULTS
                && self.devices(Goal { claim, index, request, missing, from: 0 })
        })
    }
    /// How many devices "all" are; `None` where there are none.
    fn all(&mut self, request: &Request) -> Option<usize> {
        let positions = 0..self.candidates.len();
        let count = positions.filter(|position| self.is_selected(request, *position)).count();
        (count > 0).then_some(count)
    }
    /// Finds the devices a request still misses, then meets the requests after it.
    fn devices(&mut self, goal: Goal<'a>) -> bool {
        if goal.missing == 0 {
            return self.requests(goal.claim, goal.index + 1);
        }
        for position in goal.from..self.candidates.len() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return false;
            }
            let candidate = self.candidates[position];
            if !self.may_have(&goal, position) {
                continue;
            }
            let given = Given { request: goal.request, id: candidate.id, place: candidate.place };
            self.given[goal.claim].push((given, candidate.device));
            if self.devices(Goal { missing: goal.missing - 1, from: position + 1, ..goal }) {
                return true;
            }
            self.given[goal.claim].pop();
        }
        false
    }
    fn may_have(&mut self, goal: &Goal, position: usize) -> bool {
        let candidate = self.candidates[position];
        let in_use =
            |claims: &[Vec<(Given, _)>]| claims.iter().flatten().any(|(given, _)| given.id == candidate.id);
        let free = match goal.request.admin {
            true => !in_use(&self.given[goal.claim..=goal.claim]),
            false => !in_use(&self.given) && !self.devices.is_allocated(candidate.id),
        };
        let mut constraints = self.claims[goal.claim].constraints.iter();
        free && self.is_selected(goal.request, position)
            && constraints.all(|constraint| self.keeps(constraint, goal, candidate))
    }
    fn is_selected(&mut self, request: &Request, position: usize) -> bool {
        let key = (std::ptr::from_ref(request), position);
        if let Some(known) = self.selected.get(&key) {
            return *known;
        }
        let selects = self.selects(request, &self.candidates[position]);
        self.selected.insert(key, selects);
        selects
    }
    fn selects(&self, request: &Request, candidate: &Candidate) -> bool {
        let driver = self.symbols.text(candidate.id.0);
        let Some(class) = self.devices.class(request.class) else { return false };
        let mut selectors = class.selectors.iter().chain(&request.selectors);
        selectors.all(|selector| selector.selects(driver, candidate.device))
    }
    /// Whether a device may join those the claim has already.
    fn keeps(&self, constraint: &DeviceConstraint, goal: &Goal, candidate: Candidate<'a>) -> bool {
        let is_about = |request: &Request| {
            let names = constraint.requests.as_deref().unwrap_or_default();
            names.is_empty() || names.iter().any(|n| *n == request.name || n == request.parent())
        };
        if !is_about(goal.request) {
            return true;
        }
        // Of a kind this level does not know.
        let Some(name) = &constraint.match_attribute else { return false };
        let value = |id: DeviceId, device: &'a Device| attribute(self.symbols.text(id.0), device, name);
        let mut others = self.given[goal.claim].iter().filter(|(given, _)| is_about(given.request));
        let mine = value(candidate.id, candidate.device);
        mine.is_some() && others.all(|(given, device)| value(given.id, device) == mine)
    }
}

/// Names without a domain are of the driver's.
fn attribute<'a>(driver: &str, device: &'a Device, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    let own = name.strip_prefix(driver).and_then(|rest| rest.strip_prefix('/'));
    attributes.get(name).or_else(|| attributes.get(own?))
}
