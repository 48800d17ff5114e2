//! A pod goes where the devices it claims are: those its claims have, or free ones they can be given.

use std::borrow::Cow;

use crate::devices::{Claim, MAX_CONSUMERS, Wish, allocate};
use crate::framework::{Candidate, Event, Question, Refusal, Verdict, View};
use crate::pod::{DeviceClaim, PodInfo};
use crate::snapshot::Snapshot;
use crate::symbols::Symbol;

pub const NAME: &str = "DynamicResources";

pub fn before(snapshot: &Snapshot, pod: &PodInfo) -> Result<(), Cow<'static, str>> {
    for of in pod.devices.iter().flat_map(|claims| claims.iter()) {
        if let Some((key, claim)) = find(snapshot, pod, of)? {
            is_usable(snapshot, pod, key, claim)?;
        }
    }
    Ok(())
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
    if !wishes.is_empty() && allocate(&snapshot.devices, symbols, &wishes, name, shape).is_none() {
        return Err(Refusal::for_good(NAME, "cannot allocate all claims"));
    }
    let mut places = needs.places.iter();
    if !places.all(|terms| terms.iter().any(|term| term.matches(symbols, name, &shape.labels))) {
        return Err(Refusal::for_good(NAME, "resourceclaim not available on the node"));
    }
    Ok(())
}

pub fn hint(question: &Question) -> bool {
    match question.event {
        Event::NodeAdded { .. } | Event::Devices => true,
        Event::NodeChanged { old, new, .. } => old.labels != new.labels,
        _ => false,
    }
}
