//! Which requests are meant: rules and match conditions.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use amphipod_api::names::path_segment_name;
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::json::{items, text};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const CONDITIONS_MAX: usize = 64;

pub fn rule(faults: &mut Faults, path: &Path, rule: &Value) {
    list(faults, &path.child("operations"), &rule["operations"], "operations");
    for (i, operation) in items(&rule["operations"]).iter().enumerate() {
        if !OPERATIONS.contains(&text(operation)) {
            faults.push(Error::not_supported(
                &path.child("operations").index(i),
                text(operation),
                &OPERATIONS,
            ));
        }
    }
    list(faults, &path.child("apiGroups"), &rule["apiGroups"], "API groups");
    list(faults, &path.child("apiVersions"), &rule["apiVersions"], "API versions");
    for (i, version) in items(&rule["apiVersions"]).iter().enumerate() {
        check::required(faults, &path.child("apiVersions").index(i), version);
    }
    resources(faults, &path.child("resources"), &rule["resources"]);
    check::optional_one_of(faults, &path.child("scope"), &rule["scope"], &SCOPES);
}

/// Not empty, and a star stands alone.
fn list(faults: &mut Faults, path: &Path, value: &Value, noun: &str) {
    let list = items(value);
    if list.is_empty() {
        faults.push(Error::required(path, ""));
    }
    if list.len() > 1 && list.iter().any(|item| item == "*") {
        let detail = format!("if '*' is present, must not specify other {noun}");
        faults.push(Error::invalid(path, value.clone(), detail));
    }
}

fn resources(faults: &mut Faults, path: &Path, value: &Value) {
    let list = items(value);
    if list.is_empty() {
        faults.push(Error::required(path, ""));
    }
    let (mut all_parts_of, mut part_of_all): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut whole = false;
    for (i, resource) in list.iter().enumerate() {
        let (at, name) = (path.index(i), text(resource));
        let Some((resource, part)) = name.split_once('/') else {
            if check::required(faults, &at, &list[i]) {
                whole = name != "*";
            }
            continue;
        };
        if all_parts_of.contains(&resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {name}");
            faults.push(Error::invalid(&at, name, detail));
        }
        if part_of_all.contains(&part) {
            let detail = format!("if '*/{part}' is present, must not specify {name}");
            faults.push(Error::invalid(&at, name, detail));
        }
        if part == "*" {
            all_parts_of.push(resource);
        }
        if resource == "*" {
            part_of_all.push(part);
        }
    }
    let has = |wanted: &str| list.iter().any(|resource| resource == wanted);
    if list.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        faults.push(Error::invalid(path, value.clone(), detail));
    }
    if has("*") && whole {
        let detail = "if '*' is present, must not specify other resources without subresources";
        faults.push(Error::invalid(path, value.clone(), detail));
    }
}

/// A rule of a policy may also name objects.
pub fn named_rule(faults: &mut Faults, path: &Path, rule: &Value) {
    let mut seen = HashSet::new();
    for (i, name) in items(&rule["resourceNames"]).iter().enumerate() {
        let at = path.child("resourceNames").index(i);
        invalid_each(faults, &at, text(name), path_segment_name(text(name)));
        if !seen.insert(name) {
            faults.push(Error::duplicate(&at, text(name)));
        }
    }
    self::rule(faults, path, rule);
}

pub fn conditions(faults: &mut Faults, path: &Path, conditions: &Value) {
    let list = items(conditions);
    if list.len() > CONDITIONS_MAX {
        faults.push(Error::too_many(path, list.len(), CONDITIONS_MAX));
    }
    let mut names = HashSet::new();
    for (i, condition) in list.iter().enumerate() {
        let (at, name) = (path.index(i), text(&condition["name"]));
        if text(&condition["expression"]).trim().is_empty() {
            faults.push(Error::required(&at.child("expression"), ""));
        }
        if name.is_empty() {
            faults.push(Error::required(&at.child("name"), ""));
            continue;
        }
        invalid_each(faults, &at.child("name"), name, check::qualified_name(name));
        if !names.insert(name) {
            faults.push(Error::duplicate(&at.child("name"), name));
        }
    }
}
