//! What an apply would take from others, and how the refusal says it.

use super::managed::{Identity, Managers};
use super::versions::Changes;
use super::{Fields, fields};
use crate::status::{Cause, Details, Status};

pub(super) type Conflicts = Vec<(Identity, Fields)>;

/// What other managers own and this apply would change.
pub(super) fn find(managers: &Managers, changes: &mut Changes<'_>, applier: &Identity) -> Conflicts {
    let mut found = Conflicts::new();
    for (identity, entry) in managers.iter().filter(|(identity, _)| *identity != applier) {
        let Some(compared) = changes.at(&entry.api_version) else { continue };
        let taken = entry.fields.intersection(&compared.changed());
        if !taken.is_empty() {
            found.push((identity.clone(), taken));
        }
    }
    // By name, appliers first among the entries of one manager.
    found.sort_by(|(a, _), (b, _)| {
        let key =
            |i: &Identity| (i.manager.clone(), !i.applies, i.api_version.clone(), i.subresource.clone());
        key(a).cmp(&key(b))
    });
    found
}

pub(super) fn status(conflicts: &Conflicts) -> Status {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (identity, taken) in conflicts {
        lines.push(format!("conflicts with {}:", identity.shown()));
        for path in taken.paths() {
            let field = fields::path_text(&path);
            lines.push(format!("- {field}"));
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {}", identity.shown()),
                field,
            });
        }
    }
    let message = match causes.as_slice() {
        [only] => format!("Apply failed with 1 conflict: {}: {}", only.message, only.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    let mut status = Status::failure(409, "Conflict", message);
    status.details = Some(Details { causes, ..Details::default() });
    status
}
