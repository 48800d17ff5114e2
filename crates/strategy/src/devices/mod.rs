//! Devices (`resource.k8s.io`): claims, their templates, classes and the slices drivers publish.
//! Fields of features that are off are dropped: taints and tolerations, consumable capacity,
//! partitionable devices, binding conditions, extended resource names.

mod claim;
mod slice;
mod status;
#[cfg(test)]
mod tests;

pub use claim::{DEVICE_CLASS, RESOURCE_CLAIM, RESOURCE_CLAIM_TEMPLATE};
pub use slice::RESOURCE_SLICE;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::json::items;

const DOMAIN_MAX: usize = 63;
const IDENTIFIER_MAX: usize = 32;
const POOL_NAME_MAX: usize = 253;
/// Parameters for drivers and what drivers report.
const OPAQUE_BYTES_MAX: usize = 10 * 1024;

const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

fn pool_name(faults: &mut Faults, path: &Path, name: &str) {
    if name.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    if name.len() > POOL_NAME_MAX {
        faults.push(Error::too_long(path, POOL_NAME_MAX));
    }
    for part in name.split('/') {
        invalid_each(faults, path, part, check::dns1123_subdomain(part));
    }
}

fn identifier(faults: &mut Faults, path: &Path, name: &str) {
    if name.len() > IDENTIFIER_MAX {
        faults.push(Error::too_long(path, IDENTIFIER_MAX));
    }
    let sound = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !sound {
        faults.push(Error::invalid(path, name, IDENTIFIER));
    }
}

/// `name` or `domain/name`.
fn qualified(faults: &mut Faults, path: &Path, name: &str) {
    match *name.split('/').collect::<Vec<_>>() {
        [name] => identifier(faults, path, name),
        [domain, name] => {
            if domain.is_empty() {
                faults.push(Error::invalid(path, "", "the domain must not be empty"));
            } else {
                crate::domains::driver_name(faults, path, domain);
            }
            if name.is_empty() {
                faults.push(Error::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(faults, path, name);
            }
        }
        _ => {}
    }
}

fn label(faults: &mut Faults, path: &Path, name: &str) {
    invalid_each(faults, path, name, check::dns1123_label(name));
}

/// Free-form parameters: an object, not too large.
fn opaque(faults: &mut Faults, path: &Path, value: &Value) {
    match value {
        Value::Null => faults.push(Error::required(path, "")),
        value if value.to_string().len() > OPAQUE_BYTES_MAX => {
            faults.push(Error::too_long(path, OPAQUE_BYTES_MAX));
        }
        Value::Object(_) => {}
        _ => faults.push(Error::invalid(path, "<value omitted>", "must be a valid JSON object")),
    }
}

/// Each item of a list that is not too long; a longer one is not looked into.
fn each_of(
    faults: &mut Faults,
    path: &Path,
    list: &Value,
    max: usize,
    mut check: impl FnMut(&mut Faults, &Path, &Value),
) {
    let list = items(list);
    if list.len() > max {
        faults.push(Error::too_many(path, list.len(), max));
        return;
    }
    list.iter().enumerate().for_each(|(i, item)| check(faults, &path.index(i), item));
}

/// The same, of a list whose items are told apart by a key.
fn set_of(
    faults: &mut Faults,
    path: &Path,
    list: &Value,
    max: usize,
    key: fn(&Value) -> &Value,
    check: impl FnMut(&mut Faults, &Path, &Value),
) {
    each_of(faults, path, list, max, check);
    let list = items(list);
    if list.len() <= max {
        for (i, item) in list.iter().enumerate() {
            if list[..i].iter().any(|before| key(before) == key(item)) {
                faults.push(Error::duplicate(&path.index(i), key(item).clone()));
            }
        }
    }
}
