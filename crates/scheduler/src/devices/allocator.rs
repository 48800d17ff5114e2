//! Which devices a pod's claims get on a node: the first choice, in the order of pools and devices, with
//! which every request of every claim is met. A search: what was taken too early is given back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::resource::v1::{
    Device, DeviceAttribute, DeviceConstraint, DeviceTaint, DeviceToleration,
};

use super::Devices;
use super::objects::{DeviceId, Place, Request, Wish};
use crate::labels::{Labels, NodeTerm};
use crate::node::Shape;
use crate::symbols::{Symbol, Symbols};

/// Devices looked at in one search. The most a claim can have, of the most devices a slice can have,
/// takes 4,096 where nothing is given back; a claim whose constraints ask for trying all combinations of
/// many devices is not to stop the scheduler.
const MAX_STEPS: usize = 10_000;
/// As many devices a claim can have.
const MAX_RESULTS: usize = 32;

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
    /// Not all slices of its pool are known, or its pool names a device twice.
    doubtful: bool,
}

struct Search<'a> {
    devices: &'a Devices,
    symbols: &'a Symbols,
    candidates: Vec<Candidate<'a>>,
    claims: &'a [&'a Wish],
    /// For each claim.
    given: Vec<Vec<(Given<'a>, &'a Device)>>,
    taken: BTreeSet<DeviceId>,
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

/// For each claim what it gets on the node; `None` where that cannot be.
pub fn allocate<'a>(
    devices: &'a Devices,
    symbols: &'a Symbols,
    claims: &'a [&'a Wish],
    node: Symbol,
    shape: &Shape,
) -> Option<Vec<Vec<Given<'a>>>> {
    let candidates = candidates(devices, symbols, node, &shape.labels);
    let given = claims.iter().map(|_| Vec::new()).collect();
    let (taken, selected) = (BTreeSet::new(), HashMap::new());
    let mut search = Search { devices, symbols, candidates, claims, given, taken, selected, steps: 0 };
    if !search.requests(0, 0) {
        return None;
    }
    let given = search.given.into_iter();
    Some(given.map(|claim| claim.into_iter().map(|(given, _)| given).collect()).collect())
}

fn is_reached(symbols: &Symbols, place: &Place, node: Symbol, labels: &Labels) -> bool {
    match place {
        Place::Node(name) => *name == node,
        Place::Everywhere => true,
        Place::Selected { terms, .. } => {
            terms.iter().any(|term: &NodeTerm| term.matches(symbols, node, labels))
        }
        Place::PerDevice | Place::Nowhere => false,
    }
}

/// The devices a node reaches, of the newest slices of each pool.
fn candidates<'a>(
    devices: &'a Devices,
    symbols: &'a Symbols,
    node: Symbol,
    labels: &Labels,
) -> Vec<Candidate<'a>> {
    let mut pools: BTreeMap<(&str, &str), Vec<_>> = BTreeMap::new();
    for slice in devices.slices_near(node) {
        let reached = |place: &Place| is_reached(symbols, place, node, labels);
        let per_device = slice.place == Place::PerDevice;
        if reached(&slice.place) || (per_device && slice.devices.iter().any(|(_, place, _)| reached(place))) {
            pools.entry((symbols.text(slice.driver), symbols.text(slice.pool))).or_default().push(slice);
        }
    }
    let mut found = Vec::new();
    for mut slices in pools.into_values() {
        let newest = slices.iter().map(|slice| slice.generation).max();
        slices.retain(|slice| Some(slice.generation) == newest);
        let names: Vec<Symbol> =
            slices.iter().flat_map(|s| s.devices.iter().map(|(name, _, _)| *name)).collect();
        let unique: BTreeSet<Symbol> = names.iter().copied().collect();
        let complete = slices.iter().all(|slice| slice.slices == slices.len() as i64);
        if unique.len() < names.len() {
            continue; // nobody could tell which device was meant
        }
        for slice in slices {
            for (name, place, device) in &slice.devices {
                let place = if slice.place == Place::PerDevice { place } else { &slice.place };
                // Devices that share something with others are not to be had one by one.
                let shares = device.consumes_counters.as_ref().is_some_and(|counters| !counters.is_empty());
                if !shares && is_reached(symbols, place, node, labels) {
                    let id = (slice.driver, slice.pool, *name);
                    found.push(Candidate { id, place, device, doubtful: !complete });
                }
            }
        }
    }
    found
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
    /// How many devices "all" are; `None` where that is not known, or there are none.
    fn all(&mut self, request: &Request) -> Option<usize> {
        if self.candidates.iter().any(|candidate| candidate.doubtful) {
            return None;
        }
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
            let newly = !goal.request.admin && self.taken.insert(candidate.id);
            if self.devices(Goal { missing: goal.missing - 1, from: position + 1, ..goal }) {
                return true;
            }
            self.given[goal.claim].pop();
            if newly {
                self.taken.remove(&candidate.id);
            }
        }
        false
    }
    fn may_have(&mut self, goal: &Goal, position: usize) -> bool {
        let candidate = self.candidates[position];
        let free = goal.request.admin
            || !(self.taken.contains(&candidate.id) || self.devices.is_allocated(candidate.id));
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
        let taints = candidate.device.taints.iter().flatten();
        taints.into_iter().all(|taint| is_tolerated(taint, &request.tolerations))
            && selectors.all(|selector| selector.selects(driver, candidate.device))
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
        let others = self.given[goal.claim].iter().filter(|(given, _)| is_about(given.request));
        let value = |name: &String, id: DeviceId, device: &'a Device| {
            attribute(self.symbols.text(id.0), device, name)
        };
        match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(name), _) => {
                let mine = value(name, candidate.id, candidate.device);
                let mut others = others.map(|(given, device)| value(name, given.id, device));
                mine.is_some() && others.all(|theirs| theirs == mine)
            }
            (None, Some(name)) => {
                let mine = value(name, candidate.id, candidate.device);
                let mut others = others.map(|(given, device)| value(name, given.id, device));
                mine.is_some() && others.all(|theirs| theirs != mine)
            }
            (None, None) => false,
        }
    }
}

/// Names without a domain are of the driver's.
fn attribute<'a>(driver: &str, device: &'a Device, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    let own = name.strip_prefix(driver).and_then(|rest| rest.strip_prefix('/'));
    attributes.get(name).or_else(|| attributes.get(own?))
}

fn is_tolerated(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let tolerates = |t: &DeviceToleration| {
        (text(&t.effect).is_empty() || text(&t.effect) == taint.effect)
            && (text(&t.key).is_empty() || text(&t.key) == taint.key)
            && (text(&t.operator) == "Exists" || text(&t.value) == text(&taint.value))
    };
    !matches!(&*taint.effect, "NoSchedule" | "NoExecute") || tolerations.iter().any(tolerates)
}
