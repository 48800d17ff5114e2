//! `metav1.Condition`s, which the newer kinds share.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{Faults, invalid_each, qualified_name};
use crate::json::{items, number, set, text};

pub const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
pub const REASON_TEXT: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// `metav1.Condition`s.
pub fn check(faults: &mut Faults, path: &Path, conditions: &Value) {
    let mut seen = HashSet::new();
    for (i, condition) in items(conditions).iter().enumerate() {
        let at = path.index(i);
        let kind = text(&condition["type"]);
        if !seen.insert(kind) {
            faults.push(Error::duplicate(&at.child("type"), kind));
        }
        invalid_each(faults, &at.child("type"), kind, qualified_name(kind));
        let status = text(&condition["status"]);
        if !STATUSES.contains(&status) {
            faults.push(Error::not_supported(&at.child("status"), status, &STATUSES));
        }
        let generation = number(&condition["observedGeneration"]);
        if generation < 0 {
            let detail = "must be greater than or equal to zero";
            faults.push(Error::invalid(&at.child("observedGeneration"), generation, detail));
        }
        if !set(&condition["lastTransitionTime"]) {
            faults.push(Error::required(&at.child("lastTransitionTime"), ""));
        }
        let (reason, reason_path) = (text(&condition["reason"]), at.child("reason"));
        if reason.is_empty() {
            faults.push(Error::required(&reason_path, ""));
        } else if !reason_fits(reason) {
            faults.push(Error::invalid(&reason_path, reason, REASON_TEXT));
        }
        if reason.len() > REASON_BYTES_MAX {
            faults.push(Error::too_long(&reason_path, REASON_BYTES_MAX));
        }
        if text(&condition["message"]).len() > MESSAGE_BYTES_MAX {
            faults.push(Error::too_long(&at.child("message"), MESSAGE_BYTES_MAX));
        }
    }
}

fn reason_fits(reason: &str) -> bool {
    reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && reason.bytes().all(|b| b.is_ascii_alphanumeric() || b"_,:".contains(&b))
}
