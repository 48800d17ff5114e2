//! A volume whose labels name zones or regions is only for nodes of one of them.

use std::borrow::Cow;

use super::volume_binding;
use crate::framework::{Candidate, Event, Question, Refusal, StorageChange, Verdict, View};
use crate::labels::Labels;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use crate::storage::TOPOLOGY_LABELS;
use crate::symbols::{Symbol, Symbols};

pub const NAME: &str = "VolumeZone";

pub fn before(snapshot: &Snapshot, pod: &PodInfo) -> Result<(), Cow<'static, str>> {
    let storage = &snapshot.storage;
    let text = |symbol: Symbol| snapshot.catalogue.symbols.text(symbol);
    let claims = pod.volumes.iter().flat_map(|volumes| &volumes.claims);
    for of in claims.filter(|claim| !claim.ephemeral) {
        let claim = storage.claim(of.key).ok_or_else(|| volume_binding::no_claim(snapshot, of.key))?;
        if let Some(name) = claim.volume {
            if storage.volume(name).is_none() {
                return Err(format!("persistentvolume {:?} not found", text(name)).into());
            }
            continue;
        }
        let Some(name) = claim.wish.class else {
            return Err("PersistentVolumeClaim had no pv name and storageClass name".into());
        };
        let waits = storage.class(name).map(|class| class.waits);
        match waits {
            None => return Err(format!("storageclass.storage.k8s.io {:?} not found", text(name)).into()),
            Some(None) => {
                return Err(format!("VolumeBindingMode not set for StorageClass {:?}", text(name)).into());
            }
            Some(Some(true)) => {}
            Some(Some(false)) => return Err("PersistentVolume had no name".into()),
        }
    }
    Ok(())
}

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    let zones = view.pod.volumes.as_ref().map_or(&[][..], |needs| &needs.zones);
    if zones.is_empty() {
        return Ok(());
    }
    let (symbols, labels) = (&view.snapshot.catalogue.symbols, &candidate.shape.labels);
    // A node that does not say where it is may be anywhere.
    let says_where = TOPOLOGY_LABELS.iter().any(|(key, _)| value(symbols, labels, key).is_some());
    let is_in = |(key, values): &(Symbol, Box<[Symbol]>)| {
        let here = labels.get(*key).or_else(|| value(symbols, labels, present_name(symbols.text(*key))));
        here.is_some_and(|here| values.contains(&here))
    };
    if says_where && !zones.iter().all(is_in) {
        return Err(Refusal::for_good(NAME, "node(s) had no available volume zone"));
    }
    Ok(())
}

fn value(symbols: &Symbols, labels: &Labels, key: &str) -> Option<Symbol> {
    labels.get(symbols.find(key)?)
}

fn present_name(key: &str) -> &str {
    TOPOLOGY_LABELS.iter().find(|(name, _)| *name == key).map_or(key, |(_, present)| present)
}

pub fn hint(question: &Question) -> bool {
    use StorageChange::{Class, Volume};
    matches!(question.event, Event::Storage(Volume | Class))
        || question.is_about_new_labels()
        || question.is_about_own_claim()
}
