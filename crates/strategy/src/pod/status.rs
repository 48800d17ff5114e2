//! What a write of a pod's status may say.

use std::collections::HashSet;

use std::net::IpAddr;

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use super::STATUS_LISTS;
use crate::addresses::{legacy_ip, warn_ip};
use crate::check::{self, Faults, invalid_each};
use crate::contract::Warnings;
use crate::json::{copy, each, int, items, number, set, text};

/// Conditions whose names are older than the rule for names.
const SYSTEM_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];
const GENERATION: &str = "must be a non-negative integer";
const MAX_ID: i64 = i32::MAX as i64;

/// A writer that does not know observed generations does not erase them.
pub fn keep_observed_generations(status: &mut Value, old: &Value) {
    if number(&status["observedGeneration"]) == 0 {
        copy(status, "observedGeneration", old);
    }
    each(status, "conditions", |condition| {
        if number(&condition["observedGeneration"]) == 0
            && let Some(before) = items(&old["conditions"]).iter().find(|o| o["type"] == condition["type"])
        {
            copy(condition, "observedGeneration", before);
        }
    });
}

pub fn change(faults: &mut Faults, new: &Value, old: &Value) {
    let path = Path::new("status");
    let (status, before, spec) = (&new["status"], &old["status"], &old["spec"]);
    conditions(faults, &path.child("conditions"), status);
    let nominated = text(&status["nominatedNodeName"]);
    if !nominated.is_empty() && nominated != text(&before["nominatedNodeName"]) {
        invalid_each(
            faults,
            &path.child("nominatedNodeName"),
            nominated,
            check::dns1123_subdomain(nominated),
        );
    }
    let bound = !text(&spec["nodeName"]).is_empty();
    if bound && !nominated.is_empty() && nominated != text(&before["nominatedNodeName"]) {
        let detail = "may not be set on pods that are already bound to a node";
        faults.push(Error::forbidden(&path.child("nominatedNodeName"), detail));
    }
    if number(&status["observedGeneration"]) < 0 {
        let generation = number(&status["observedGeneration"]);
        faults.push(Error::invalid(&path.child("observedGeneration"), generation, GENERATION));
    }
    if text(&status["qosClass"]) != text(&before["qosClass"]) {
        let value = text(&status["qosClass"]);
        faults.push(Error::invalid(&path.child("qosClass"), value, check::IMMUTABLE));
    }
    for (list, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        // These never run again.
        ("ephemeralContainerStatuses", ""),
    ] {
        let at = path.child(list);
        transitions(faults, &at, &status[list], &before[list], |name, code| {
            let container = items(&spec[containers]).iter().find(|c| text(&c["name"]) == name);
            container.is_some_and(|container| runs_again(container, spec, code))
        });
    }
    claim_statuses(faults, &path.child("resourceClaimStatuses"), status, spec);
    addresses(faults, &path.child("podIPs"), &status["podIPs"]);
    host_addresses(faults, &path.child("hostIPs"), status);
    for list in STATUS_LISTS {
        users(faults, &path.child(list), &status[list], spec);
    }
}

/// Addresses that will not be accepted for ever.
pub fn warnings(status: &Value) -> Warnings {
    let mut texts = Warnings::new();
    for list in ["podIPs", "hostIPs"] {
        for (i, entry) in items(&status[list]).iter().enumerate() {
            let at = Path::new("status").child(list).index(i).child("ip");
            warn_ip(&mut texts, &at, text(&entry["ip"]));
        }
    }
    texts
}

fn conditions(faults: &mut Faults, path: &Path, status: &Value) {
    for (i, condition) in items(&status["conditions"]).iter().enumerate() {
        let at = path.index(i);
        let generation = number(&condition["observedGeneration"]);
        if generation < 0 {
            faults.push(Error::invalid(&at.child("observedGeneration"), generation, GENERATION));
        }
        let kind = text(&condition["type"]);
        if !SYSTEM_CONDITIONS.contains(&kind) {
            invalid_each(faults, &at.child("Type"), kind, check::qualified_name(kind));
        }
    }
}

/// A container that ended for good cannot run again.
fn transitions(
    faults: &mut Faults,
    path: &Path,
    new: &Value,
    old: &Value,
    may_restart: impl Fn(&str, i64) -> bool,
) {
    for (i, status) in items(old).iter().enumerate().filter(|(_, s)| set(&s["state"]["terminated"])) {
        let revived =
            items(new).iter().any(|n| n["name"] == status["name"] && !set(&n["state"]["terminated"]));
        let code = number(&status["state"]["terminated"]["exitCode"]);
        if revived && !may_restart(text(&status["name"]), code) {
            let detail = "may not be transitioned to non-terminated state";
            faults.push(Error::forbidden(&path.index(i).child("state"), detail));
        }
    }
}

/// The container's own rules come first, then its policy, then the pod's.
fn runs_again(container: &Value, spec: &Value, code: i64) -> bool {
    let own = text(&container["restartPolicy"]);
    let by_rule = items(&container["restartPolicyRules"]).iter().any(|rule| {
        let codes = &rule["exitCodes"];
        let listed = items(&codes["values"]).iter().any(|value| int(value) == Some(code));
        match text(&codes["operator"]) {
            "In" => listed,
            "NotIn" => !listed && set(codes),
            _ => false,
        }
    });
    if by_rule && !own.is_empty() {
        return true;
    }
    match if own.is_empty() { text(&spec["restartPolicy"]) } else { own } {
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
    }
}

fn claim_statuses(faults: &mut Faults, path: &Path, status: &Value, spec: &Value) {
    let mut seen = HashSet::new();
    let declared: HashSet<&str> =
        items(&spec["resourceClaims"]).iter().map(|declared| text(&declared["name"])).collect();
    for (i, claim) in items(&status["resourceClaimStatuses"]).iter().enumerate() {
        let at = path.index(i).child("name");
        let name = text(&claim["name"]);
        if !declared.contains(name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            faults.push(Error::invalid(&at, name, detail));
        }
        if !seen.insert(name) {
            faults.push(Error::duplicate(&at, name));
        }
        if set(&claim["resourceClaimName"]) {
            let made = text(&claim["resourceClaimName"]);
            invalid_each(faults, &at, made, check::dns1123_subdomain(made));
        }
    }
}

/// At most one address of each family.
fn addresses(faults: &mut Faults, path: &Path, list: &Value) {
    let all: Vec<&str> = items(list).iter().map(|item| text(&item["ip"])).collect();
    for (i, ip) in all.iter().enumerate() {
        legacy_ip(faults, &path.index(i), ip);
    }
    if all.len() < 2 {
        return;
    }
    let families: Vec<bool> =
        all.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.is_ipv6()).collect();
    let dual = families.contains(&true) && families.contains(&false);
    if !dual || all.len() > 2 {
        let detail = "may specify no more than one IP for each IP family";
        faults.push(Error::invalid(path, list.clone(), detail));
    }
}

fn host_addresses(faults: &mut Faults, path: &Path, status: &Value) {
    let Some(first) = items(&status["hostIPs"]).first() else { return };
    if text(&first["ip"]) != text(&status["hostIP"]) {
        let at = path.index(0).child("ip");
        faults.push(Error::invalid(&at, text(&first["ip"]), "must be equal to `hostIP`"));
    }
    addresses(faults, path, &status["hostIPs"]);
}

/// The identity a container was started with.
fn users(faults: &mut Faults, path: &Path, statuses: &Value, spec: &Value) {
    for (i, status) in items(statuses).iter().enumerate() {
        let user = &status["user"]["linux"];
        if !set(user) {
            continue;
        }
        let at = path.index(i).child("user").child("linux");
        if text(&spec["os"]["name"]) == "windows" {
            faults.push(Error::forbidden(&at, "cannot be set for a windows pod"));
            continue;
        }
        let mut id = |at: Path, value: &Value| {
            if !(0..=MAX_ID).contains(&number(value)) {
                faults.push(Error::invalid(&at, number(value), inclusive_range_text(0, MAX_ID)));
            }
        };
        id(at.child("uid"), &user["uid"]);
        id(at.child("gid"), &user["gid"]);
        for (g, group) in items(&user["supplementalGroups"]).iter().enumerate() {
            id(at.child("supplementalGroups").index(g), group);
        }
    }
}
