//! Cluster addresses and their families: which combinations make sense.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::is_headless;
use crate::addresses::{is_ipv6, legacy_ip};
use crate::check::{self, Faults};
use crate::json::{items, text};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const ADDRESSES_MAX: usize = 2;

pub fn check(faults: &mut Faults, path: &Path, spec: &Value) {
    if text(&spec["type"]) == "ExternalName" {
        return;
    }
    let ips = items(&spec["clusterIPs"]);
    let list = path.child("clusterIPs");
    in_step(faults, &list, spec);
    family_list(faults, &path.child("ipFamilies"), items(&spec["ipFamilies"]));
    check::optional_one_of(faults, &path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], &POLICIES);
    if !address_list(faults, &list, spec) {
        return;
    }
    let of_family = |six| ips.iter().any(|ip| is_ipv6(text(ip)) == six);
    if ips.len() > 1 && !(of_family(true) && of_family(false)) {
        let detail = "may specify no more than one IP for each IP family";
        faults.push(Error::invalid(&list, spec["clusterIPs"].clone(), detail));
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(items(&spec["ipFamilies"])).enumerate() {
        let family = text(family);
        if FAMILIES.contains(&family) && is_ipv6(text(ip)) != (family == "IPv6") {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            faults.push(Error::invalid(&list.index(i), text(ip), detail));
        }
    }
}

/// `clusterIP` and the first of `clusterIPs` are one value under two names.
fn in_step(faults: &mut Faults, list: &Path, spec: &Value) {
    let (single, ips) = (text(&spec["clusterIP"]), items(&spec["clusterIPs"]));
    match (single.is_empty(), ips) {
        (false, []) => faults.push(Error::required(list, "")),
        (false, [first, ..]) if text(first) != single => {
            let detail = "first value must match `clusterIP`";
            faults.push(Error::invalid(list, spec["clusterIPs"].clone(), detail));
        }
        (true, [_, ..]) => {
            let detail = "must be empty when `clusterIP` is not specified";
            faults.push(Error::invalid(list, spec["clusterIPs"].clone(), detail));
        }
        _ => {}
    }
}

fn family_list(faults: &mut Faults, path: &Path, families: &[Value]) {
    let mut seen = HashSet::new();
    for (i, family) in families.iter().enumerate() {
        let at = path.index(i);
        if !FAMILIES.contains(&text(family)) {
            faults.push(Error::not_supported(&at, text(family), &FAMILIES));
        }
        if !seen.insert(family) {
            faults.push(Error::duplicate(&at, text(family)));
        }
    }
}

/// Whether each address is one; what follows would only repeat the fault.
fn address_list(faults: &mut Faults, list: &Path, spec: &Value) -> bool {
    let ips = items(&spec["clusterIPs"]);
    let before = faults.len();
    for (i, ip) in ips.iter().enumerate() {
        match text(ip) {
            "None" if i == 0 && ips.len() == 1 => {}
            "None" if i == 0 => {
                let detail = "'None' must be the first and only value";
                faults.push(Error::invalid(list, spec["clusterIPs"].clone(), detail));
            }
            ip => legacy_ip(faults, &list.index(i), ip),
        }
    }
    let sound = faults.len() == before;
    if ips.len() > ADDRESSES_MAX {
        let detail = "may only hold up to 2 values";
        faults.push(Error::invalid(list, spec["clusterIPs"].clone(), detail));
    }
    sound
}
