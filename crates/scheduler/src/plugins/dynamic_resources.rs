//! A pod goes where the devices it claims are: those its claims have, or free ones they can be given.
//! If no node will do, a claim nobody else has use of gives back what it has, to be given other devices.

use std::borrow::Cow;

use super::normalise;
use crate::devices::{Claim, MAX_CONSUMERS, Wish, allocate};
use crate::framework::{Candidate, Choice, Event, Question, Refusal, Verdict, View};
use crate::labels::NodeTerm;
use crate::node::{NodeInfo, Shape, Slot};
use crate::pod::{DeviceClaim, PodInfo};
use crate::snapshot::Snapshot;
use crate::symbols::Symbol;

pub const NAME: &str = "DynamicResources";
/// As many a request can have; what the first of them counts.
const MAX_ALTERNATIVES: i64 = 8;
const ELSEWHERE: &str = "resourceclaim not available on the node";

/// A pod whose claims are still to be made is not looked at until its status names them.
pub fn admits(pod: &PodInfo) -> bool {
    pod.devices.iter().flat_map(|claims| claims.iter()).all(|claim| claim.key.is_ok())
}

pub fn before(snapshot: &Snapshot, pod: &PodInfo) -> Result<(), Cow<'static, str>> {
    let claims = pod.devices.iter().flat_map(|claims| claims.iter());
    let found: Result<Vec<_>, _> = claims.map(|of| find(snapshot, pod, of)).collect();
    found?.into_iter().flatten().try_for_each(|(key, claim)| is_usable(snapshot, pod, key, claim))
}

fn find<'a>(
    snapshot: &'a Snapshot,
    pod: &PodInfo,
    of: &DeviceClaim,
) -> Result<Option<(Symbol, &'a Claim)>, Cow<'static, str>> {
    let key = of.key.map_err(|_| format!("pod {:?}: ResourceClaim not created yet", &*pod.key))?;
    let Some(key) = key else { return Ok(None) };
    let text = snapshot.catalogue.symbols.text(key);
    let name = text.split_once('/').map_or(text, |(_, name)| name);
    let Some(claim) = snapshot.devices.claim(key) else {
        return Err(format!("resourceclaim.resource.k8s.io {name:?} not found").into());
    };
    if claim.terminating {
        return Err(format!("resourceclaim {name:?} is being deleted").into());
    }
    if of.owned && claim.owner.as_deref() != Some(&*pod.uid) {
        let text = format!("ResourceClaim {text} was not created for pod {} (pod is not owner)", pod.key);
        return Err(text.into());
    }
    Ok(Some((key, claim)))
}

fn is_usable(
    snapshot: &Snapshot,
    pod: &PodInfo,
    key: Symbol,
    claim: &Claim,
) -> Result<(), Cow<'static, str>> {
    let symbols = &snapshot.catalogue.symbols;
    if claim.allocation.is_some() {
        let full = claim.consumers.len() >= MAX_CONSUMERS && !claim.consumers.contains(&pod.uid);
        return if full { Err("resourceclaim in use".into()) } else { Ok(()) };
    }
    if snapshot.devices.is_pending(key) {
        let key = symbols.text(key);
        return Err(format!("resource claim {key} is in the process of being allocated").into());
    }
    for request in claim.wish.requests.iter().flatten() {
        let (name, class) = (&request.name, symbols.text(request.class));
        let Some(known) = snapshot.devices.class(request.class) else {
            return Err(format!("request {name}: device class {class} does not exist").into());
        };
        let mut selectors = known.selectors.iter().chain(&request.selectors);
        if let Some(error) = selectors.find_map(|selector| selector.error()) {
            let key = symbols.text(key);
            return Err(format!("claim {key}, request {name}: CEL compile error: {error}").into());
        }
    }
    Ok(())
}

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    let Some(needs) = &view.pod.devices else { return Ok(()) };
    let (snapshot, shape) = (view.snapshot, candidate.shape);
    let (symbols, name) = (&snapshot.catalogue.symbols, candidate.node.name);
    let wishes: Vec<&Wish> = needs.wishes.iter().map(|wish| &**wish).collect();
    if !wishes.is_empty() {
        let given = allocate(&snapshot.devices, symbols, &wishes, name, shape);
        given.map_err(|why| Refusal::for_good(NAME, why))?;
    }
    let mut places = needs.places.iter();
    if !places.all(|terms| terms.iter().any(|term| term.matches(symbols, name, &shape.labels))) {
        return Err(elsewhere());
    }
    Ok(())
}

/// The marks of the alternatives a node's devices would do for, the first of a request the best.
pub fn preference(view: &View, candidate: &Candidate) -> i64 {
    let wishes = view.pod.devices.iter().flat_map(|needs| &needs.wishes);
    let wishes: Vec<&Wish> = wishes.map(|wish| &**wish).collect();
    if !wishes.iter().any(|wish| wish.has_alternatives()) {
        return 0;
    }
    let (snapshot, name) = (view.snapshot, candidate.node.name);
    let given = allocate(&snapshot.devices, &snapshot.catalogue.symbols, &wishes, name, candidate.shape);
    let marks = wishes.iter().zip(given.unwrap_or_default()).map(|(wish, given)| {
        let names: Vec<&str> = given.iter().map(|given| &*given.request.name).collect();
        wish.alternatives()
            .filter(|(_, request)| names.contains(&&*request.name))
            .map(|(rank, _)| MAX_ALTERNATIVES - rank as i64)
            .sum::<i64>()
    });
    marks.sum()
}

pub fn score(_: &View, choices: &[Choice]) -> Vec<i64> {
    normalise(choices.iter().map(|choice| choice.features.devices).collect(), false)
}

fn elsewhere() -> Refusal {
    Refusal::for_good(NAME, ELSEWHERE)
}

/// Whether a node is refused for what the pod's claims have cannot be used there.
pub fn is_elsewhere(refusal: Option<Refusal>) -> bool {
    refusal == Some(elsewhere())
}

/// What came of looking for a claim whose devices no node has that would do otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deallocation {
    /// Nobody looked for nodes, or the pod has no claims.
    NoClaims,
    /// None, or none that only this pod has use of.
    NoHelp,
    /// This claim (`namespace/name`) is to give them back; then the pod is decided about again.
    Of(String),
}

impl Deallocation {
    pub fn message(&self) -> &'static str {
        match self {
            Deallocation::NoClaims => "no new claims to deallocate",
            Deallocation::NoHelp => "still not schedulable",
            Deallocation::Of(_) => "deallocation of ResourceClaim completed",
        }
    }
}

/// `nodes`: those that are refused because a claim has its devices elsewhere.
pub fn deallocation<'a, I: Iterator<Item = (Slot, &'a NodeInfo, &'a Shape)>>(
    snapshot: &Snapshot,
    pod: &PodInfo,
    nodes: impl Fn() -> I,
    tie_break: u64,
) -> Deallocation {
    let Some(claims) = &pod.devices else { return Deallocation::NoClaims };
    let symbols = &snapshot.catalogue.symbols;
    let is_in_the_way = |claim: &Claim| {
        let terms = claim.allocation.as_ref().and_then(|allocation| allocation.terms.as_ref());
        let is_on = |node: &NodeInfo, shape: &Shape, terms: &[NodeTerm]| {
            terms.iter().any(|term| term.matches(symbols, node.name, &shape.labels))
        };
        claim.consumers.iter().all(|consumer| *consumer == pod.uid)
            && terms.is_some_and(|terms| nodes().any(|(_, node, shape)| !is_on(node, shape, terms)))
    };
    let keys = claims.iter().filter_map(|of| of.key.ok().flatten());
    let found = keys.filter(|key| snapshot.devices.claim(*key).is_some_and(is_in_the_way));
    let found: Vec<Symbol> = found.collect();
    match found.is_empty() {
        true => Deallocation::NoHelp,
        false => Deallocation::Of(symbols.text(found[(tie_break % found.len() as u64) as usize]).to_owned()),
    }
}

pub fn hint(question: &Question) -> bool {
    match question.event {
        Event::NodeAdded { .. } | Event::Devices => true,
        Event::NodeChanged { old, new, .. } => old.labels != new.labels,
        _ => false,
    }
}
