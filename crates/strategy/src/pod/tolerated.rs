//! Faults that once were accepted: an update may keep them where the stored object has the like,
//! or it could never be changed again, not even to let go of a finalizer.

use amphipod_api::field::Error;

use super::annotations::COST_TEXT;
use crate::check::Faults;

type Like = fn(&Error) -> bool;

const LIKES: [Like; 8] = [
    |fault| fault.detail == COST_TEXT,
    |fault| fault.detail.contains("is not positive integer multiple of hugepages-"),
    |fault| fault.field.contains(".sysctls[") && fault.detail.starts_with("may not be specified when 'host"),
    |fault| fault.field.ends_with(".projected.path"),
    |fault| fault.field.ends_with(".volumeDevices"),
    |fault| fault.field.ends_with(".seLinuxChangePolicy"),
    |fault| fault.field.contains("nodeSelectorTerms[") && fault.field.contains(".values["),
    |fault| {
        let spread = fault.field.contains("topologySpreadConstraints[");
        let selects = fault.field.contains("labelSelector.") || fault.detail.contains("matchLabelKeys");
        selects && (spread || fault.field.contains("ffinity."))
    },
];

/// Takes out of `faults` what the `old` object was already guilty of; `old` is judged only if there
/// is something to forgive.
pub fn forgive(faults: &mut Faults, old: impl FnOnce() -> Faults) {
    if !faults.iter().any(|fault| LIKES.iter().any(|like| like(fault))) {
        return;
    }
    let before = old();
    for like in LIKES {
        if before.iter().any(like) {
            faults.retain(|fault| !like(fault));
        }
    }
}
