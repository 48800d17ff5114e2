//! What an update of a service may not do: addresses and families are given once.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::{is_headless, needs_health_check};
use crate::check::{Faults, IMMUTABLE, pointer};
use crate::json::{is_empty, items, text};

const FIXED: &str = "may not change once set";

pub fn service(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    if ![spec, before].iter().any(|s| text(&s["type"]) == "ExternalName") {
        let headless = (is_headless(before), is_headless(spec));
        if headless != (true, true) {
            fixed_list(&mut faults, &path, spec, before, &ADDRESSES);
        }
        if headless == (false, false) {
            fixed_list(&mut faults, &path, spec, before, &FAMILIES);
        }
    }
    let balanced = |s: &Value| text(&s["type"]) == "LoadBalancer";
    if balanced(before) && balanced(spec) && spec["loadBalancerClass"] != before["loadBalancerClass"] {
        faults.push(Error::invalid(
            &path.child("loadBalancerClass"),
            pointer(&spec["loadBalancerClass"]),
            FIXED,
        ));
    }
    if needs_health_check(before)
        && needs_health_check(spec)
        && spec["healthCheckNodePort"] != before["healthCheckNodePort"]
    {
        faults.push(Error::forbidden(&path.child("healthCheckNodePort"), IMMUTABLE));
    }
    faults
}

/// A list whose first value stays and whose second may come and go with the policy.
struct List {
    field: &'static str,
    unset: &'static str,
    released: &'static str,
}

const ADDRESSES: List = List {
    field: "clusterIPs",
    unset: "primary clusterIP can not be unset",
    released: "must be set to 'SingleStack' when releasing the secondary clusterIP",
};
const FAMILIES: List = List {
    field: "ipFamilies",
    unset: "primary ipFamily can not be unset",
    released: "must be set to 'SingleStack' when releasing the secondary ipFamily",
};

fn fixed_list(faults: &mut Faults, path: &Path, spec: &Value, before: &Value, list: &List) {
    let (now, then) = (items(&spec[list.field]), items(&before[list.field]));
    let refused = |i: usize, shown: &str, detail: &str| {
        Error::invalid(&path.child(list.field).index(i), spec[shown].clone(), detail)
    };
    if now.len() == then.len() {
        for i in (0..now.len()).filter(|i| now[*i] != then[*i]) {
            // Families are all reported at the place of the first.
            let place = if list.field == FAMILIES.field { 0 } else { i };
            faults.push(refused(place, list.field, FIXED));
        }
        return;
    }
    // Whatever list is short, it is the addresses that count and are shown.
    if now.len() < then.len() && is_empty(&spec["clusterIPs"]) {
        faults.push(refused(0, list.field, list.unset));
    }
    if let (Some(now), Some(then)) = (now.first(), then.first())
        && now != then
    {
        faults.push(refused(0, "clusterIPs", FIXED));
    }
    let policy = &spec["ipFamilyPolicy"];
    if now.len() < then.len() && now.len() == 1 && text(policy) != "SingleStack" {
        faults.push(Error::invalid(&path.child("ipFamilyPolicy"), pointer(policy), list.released));
    }
}
