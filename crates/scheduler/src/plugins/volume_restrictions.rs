//! Volumes that two pods cannot share: claims for one pod only, anywhere, and a few kinds of disks on
//! one node.

use std::borrow::Cow;

use super::volume_binding;
use crate::framework::{Candidate, Event, Question, Refusal, Verdict, View};
use crate::node::Mount;
use crate::pod::{Disk, PodInfo, PodVolumes};
use crate::snapshot::Snapshot;

pub const NAME: &str = "VolumeRestrictions";

pub fn before(snapshot: &Snapshot, pod: &PodInfo) -> Result<(), Cow<'static, str>> {
    let claims = pod.volumes.iter().flat_map(|volumes| &volumes.claims);
    let named = claims.filter(|claim| !claim.ephemeral);
    for claim in named {
        snapshot.storage.claim(claim.key).ok_or_else(|| volume_binding::no_claim(snapshot, claim.key))?;
    }
    Ok(())
}

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    let Some(needs) = &view.pod.volumes else { return Ok(()) };
    let clashes = |disk: &Disk| {
        let mut mounts = candidate.fill.mounts.iter();
        mounts.any(|(mount, _)| matches!(mount, Mount::Disk(other) if disk.conflicts(other)))
    };
    if needs.disks.iter().any(clashes) {
        return Err(Refusal::for_now(NAME, "node(s) had no available disk"));
    }
    // In a trial, users on this node may be gone; those elsewhere are not.
    let in_use = |(claim, users): &(_, usize)| {
        let elsewhere = users.saturating_sub(candidate.node.fill.users(*claim));
        elsewhere + candidate.fill.users(*claim) > 0
    };
    if needs.exclusive.iter().any(in_use) {
        return Err(Refusal::for_now(
            NAME,
            "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
        ));
    }
    Ok(())
}

pub fn hint(question: &Question) -> bool {
    match question.event {
        Event::NodeAdded { .. } => true,
        Event::PodRemoved(pod) => match (&question.pod.volumes, &pod.volumes) {
            (Some(wanted), Some(freed)) => share(wanted, freed),
            _ => false,
        },
        _ => question.is_about_own_claim(),
    }
}

fn share(wanted: &PodVolumes, freed: &PodVolumes) -> bool {
    let is_wanted = |disk: &Disk| wanted.disks.iter().any(|mine| mine.conflicts(disk));
    freed.disks.iter().any(is_wanted)
        || freed.claims.iter().any(|claim| wanted.claims.iter().any(|mine| mine.key == claim.key))
}
