//! A pod goes where its volumes can be used: where bound ones are, where free ones are for claims that
//! have waited for it, or where new ones can be made.

use std::borrow::Cow;

use crate::framework::{Candidate, Cause, Event, Question, Refusal, StorageChange, Verdict, View};
use crate::labels::Labels;
use crate::pod::{PodClaim, PodInfo};
use crate::snapshot::Snapshot;
use crate::storage::{Binding, Bound, Claim, Storage, Unbound, reaches};
use crate::symbols::{Symbol, Symbols};

pub const NAME: &str = "VolumeBinding";
const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NONE_FREE: &str = "node(s) didn't find available persistent volumes to bind";
const NO_ROOM: &str = "node(s) did not have enough free storage";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

pub fn no_claim(snapshot: &Snapshot, key: Symbol) -> Cow<'static, str> {
    format!("persistentvolumeclaim {:?} not found", name(&snapshot.catalogue.symbols, key)).into()
}

fn name(symbols: &Symbols, key: Symbol) -> &str {
    let key = symbols.text(key);
    key.split_once('/').map_or(key, |(_, name)| name)
}

pub fn before(snapshot: &Snapshot, pod: &PodInfo) -> Result<(), Cow<'static, str>> {
    let claims = || pod.volumes.iter().flat_map(|volumes| &volumes.claims);
    for claim in claims() {
        is_usable(snapshot, pod, claim)?;
    }
    let storage = &snapshot.storage;
    for claim in claims().filter_map(|of| storage.claim(of.key)).filter(|claim| !claim.bound) {
        let class = claim.wish.class.and_then(|class| Some((class, storage.class(class)?)));
        if let Some((class, _)) = class.filter(|(_, class)| class.waits.is_none()) {
            let class = snapshot.catalogue.symbols.text(class);
            return Err(format!("VolumeBindingMode not set for StorageClass {class:?}").into());
        }
    }
    let is_immediate = |claim: &Claim| !claim.bound && (claim.volume.is_some() || !storage.waits(claim));
    if claims().filter_map(|of| storage.claim(of.key)).any(is_immediate) {
        return Err("pod has unbound immediate PersistentVolumeClaims".into());
    }
    Ok(())
}

fn is_usable(snapshot: &Snapshot, pod: &PodInfo, of: &PodClaim) -> Result<(), Cow<'static, str>> {
    let symbols = &snapshot.catalogue.symbols;
    let name = name(symbols, of.key);
    let Some(claim) = snapshot.storage.claim(of.key) else {
        return Err(match of.ephemeral {
            true => format!(
                "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
            )
            .into(),
            false => no_claim(snapshot, of.key),
        });
    };
    if claim.lost {
        let volume = claim.volume.map_or("", |volume| symbols.text(volume));
        return Err(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        )
        .into());
    }
    if claim.terminating {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted").into());
    }
    if of.ephemeral && claim.owner.as_deref() != Some(&*pod.uid) {
        let claim = symbols.text(of.key);
        return Err(format!("PVC {claim} was not created for pod {} (pod is not owner)", pod.key).into());
    }
    Ok(())
}

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    let Some(needs) = &view.pod.volumes else { return Ok(()) };
    let (symbols, storage) = (&view.snapshot.catalogue.symbols, &view.snapshot.storage);
    let labels = &candidate.shape.labels;
    let mut reasons = Vec::new();
    let is_elsewhere = |bound: &Bound| match bound {
        Bound::Reach(reach) => !reaches(symbols, reach, labels),
        Bound::InTree(plugin, [drivers, plugins]) => {
            let migrated = storage.migrates(candidate.node.name, *plugin);
            !reaches(symbols, if migrated { drivers } else { plugins }, labels)
        }
        Bound::NoVolume => false,
    };
    if needs.bound.iter().any(is_elsewhere) {
        reasons.push(ELSEWHERE);
    }
    if let Err(reason) = bindings(storage, symbols, &needs.unbound, candidate.node.name, labels) {
        reasons.push(reason);
    }
    if needs.bound.contains(&Bound::NoVolume) {
        reasons.push(NO_VOLUME);
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Refusal { plugin: NAME, cause: Cause::Texts(reasons), resolvable: false }),
    }
}

/// How each claim gets its volume on a node, or why one does not. Claims come the smallest first.
pub fn bindings(
    storage: &Storage,
    symbols: &Symbols,
    claims: &[Unbound],
    node: Symbol,
    labels: &Labels,
) -> Result<Vec<Binding>, &'static str> {
    // What was decided before the pod came is not decided again.
    if claims.iter().any(|claim| claim.selected_node.is_some_and(|selected| selected != node)) {
        return Err(NONE_FREE);
    }
    let mut taken = Vec::new();
    let free = claims.iter().map(|claim| {
        let volume = match (claim.selected_node, &*claim.kept) {
            (Some(_), _) => None,
            (None, []) => storage.smallest(symbols, &claim.wish, labels, &taken),
            (None, kept) => {
                let near = kept.iter().find(|(_, reach)| reaches(symbols, reach, labels));
                near.map(|(volume, _)| *volume)
            }
        };
        taken.extend(volume);
        volume
    });
    let free: Vec<Option<Symbol>> = free.collect();
    // Of several that cannot be made, one that was decided about before says why.
    let (decided, others): (Vec<_>, Vec<_>) = claims
        .iter()
        .zip(&free)
        .filter(|(_, volume)| volume.is_none())
        .partition(|(claim, _)| claim.selected_node.is_some());
    for (claim, _) in decided.into_iter().chain(others) {
        can_be_made(storage, symbols, claim, labels)?;
    }
    Ok(free.into_iter().map(|volume| volume.map_or(Binding::Provision, Binding::Volume)).collect())
}

/// An error says why not.
fn can_be_made(
    storage: &Storage,
    symbols: &Symbols,
    claim: &Unbound,
    labels: &Labels,
) -> Result<(), &'static str> {
    let class = claim.wish.class.and_then(|class| storage.class(class)).ok_or(NONE_FREE)?;
    let driver = class.provisioner.filter(|_| class.allows(symbols, labels)).ok_or(NONE_FREE)?;
    match storage.has_room(symbols, driver, &claim.wish, labels) {
        true => Ok(()),
        false => Err(NO_ROOM),
    }
}

pub fn hint(question: &Question) -> bool {
    use StorageChange::{Class, Limits, Room, Volume};
    matches!(question.event, Event::Storage(Volume | Class | Limits | Room))
        || question.is_about_new_labels()
        || question.is_about_own_claim()
}
