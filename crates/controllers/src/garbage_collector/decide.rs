//! What becomes of an object, once its owners were looked up.

use amphipod_client::dynamic::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::{FOREGROUND, ORPHAN};

/// What the API said about one owner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OwnerState {
    /// There, and to stay.
    Solid,
    /// Not there, or another object by now.
    Absent,
    /// Deleting its dependents before itself.
    Waiting,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Keep,
    /// A solid owner keeps it, but these references lead nowhere: what remains of the list.
    Drop(Vec<OwnerReference>),
    /// With this propagation policy.
    Delete(&'static str),
    /// First stop blocking the owners that wait, then delete in the foreground: a cycle.
    UnblockAndDelete(Vec<OwnerReference>),
}

/// `dependents_wait` says whether the object has dependents, and whether one of them deletes its own.
pub fn decide(
    object: &Metadata,
    states: &[OwnerState],
    has_dependents: bool,
    dependents_wait: bool,
) -> Verdict {
    let owners = || object.owner_references.iter().zip(states);
    if states.is_empty() {
        return Verdict::Keep;
    }
    if states.contains(&OwnerState::Solid) {
        if states.iter().all(|state| *state == OwnerState::Solid) {
            return Verdict::Keep;
        }
        let solid = owners().filter(|(_, state)| **state == OwnerState::Solid);
        return Verdict::Drop(solid.map(|(owner, _)| owner.clone()).collect());
    }
    if states.contains(&OwnerState::Waiting) && has_dependents {
        if !dependents_wait {
            return Verdict::Delete("Foreground");
        }
        let unblocked = owners().map(|(owner, state)| {
            let mut owner = owner.clone();
            if *state == OwnerState::Waiting {
                owner.block_owner_deletion = Some(false);
            }
            owner
        });
        return Verdict::UnblockAndDelete(unblocked.collect());
    }
    let has = |finalizer: &str| object.finalizers.iter().any(|f| f == finalizer);
    Verdict::Delete(if has(ORPHAN) {
        "Orphan"
    } else if has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use OwnerState::{Absent, Solid, Waiting};

    #[test]
    fn verdicts() {
        let owner = |uid: &str, blocks| OwnerReference {
            uid: uid.to_owned(),
            block_owner_deletion: Some(blocks),
            ..OwnerReference::default()
        };
        let object = |count: usize| Metadata {
            owner_references: (0..count).map(|i| owner(&i.to_string(), true)).collect(),
            ..Metadata::default()
        };
        let cases = [
            (vec![], false, false, Verdict::Keep),
            (vec![Solid, Solid], true, false, Verdict::Keep),
            (vec![Absent, Solid, Waiting], false, false, Verdict::Drop(vec![owner("1", true)])),
            (vec![Absent, Absent], true, true, Verdict::Delete("Background")),
            (vec![Waiting], false, false, Verdict::Delete("Background")),
            (vec![Waiting], true, false, Verdict::Delete("Foreground")),
            (vec![Waiting], true, true, Verdict::UnblockAndDelete(vec![owner("0", false)])),
        ];
        for (states, has, wait, expected) in cases {
            assert_eq!(decide(&object(states.len()), &states, has, wait), expected, "{states:?}");
        }
        let mut orphaning = object(1);
        orphaning.finalizers = vec![ORPHAN.to_owned()];
        assert_eq!(decide(&orphaning, &[Absent], false, false), Verdict::Delete("Orphan"));
    }
}
