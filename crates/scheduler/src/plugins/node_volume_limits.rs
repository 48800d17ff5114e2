//! A node can attach so many volumes of a driver. Each volume counts once, however many pods use it.

use std::collections::BTreeSet;

use crate::framework::{Candidate, Event, Question, Refusal, StorageChange, Verdict, View};
use crate::node::Mount;
use crate::storage::Attachment;
use crate::symbols::Symbol;

pub const NAME: &str = "NodeVolumeLimits";

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    let wanted = view.pod.volumes.as_ref().map_or(&[][..], |needs| &needs.attachments);
    let (storage, node) = (&view.snapshot.storage, candidate.node.name);
    let wanted: BTreeSet<Attachment> = wanted.iter().filter_map(|wanted| wanted.on(storage, node)).collect();
    let drivers: BTreeSet<Symbol> = wanted.iter().map(|attachment| attachment.driver).collect();
    for driver in drivers {
        let Some(limit) = storage.limit(node, driver) else { continue };
        let of_driver = |attachment: &Attachment| attachment.driver == driver;
        let used = candidate.fill.mounts.iter().filter_map(|(mount, _)| match mount {
            Mount::Claim(claim) => storage.attachment(*claim),
            Mount::Inline(attachment) => Some(*attachment),
            Mount::Disk(_) => None,
        });
        let used = used.filter_map(|used| used.on(storage, node));
        let others = storage.attached(node).iter().filter_map(|other| other.attachment(storage));
        let attached: BTreeSet<Attachment> = used.chain(others).filter(of_driver).collect();
        let new = wanted.iter().filter(|wanted| of_driver(wanted) && !attached.contains(wanted)).count();
        if new > 0 && (attached.len() + new) as i64 > limit {
            return Err(Refusal::for_now(NAME, "node(s) exceed max volume count"));
        }
    }
    Ok(())
}

pub fn hint(question: &Question) -> bool {
    match question.event {
        Event::NodeAdded { .. } | Event::Storage(StorageChange::Limits | StorageChange::Detached) => true,
        Event::PodRemoved(pod) => pod
            .volumes
            .as_ref()
            .is_some_and(|volumes| !(volumes.claims.is_empty() && volumes.inline.is_empty())),
        _ => question.is_about_own_claim(),
    }
}
