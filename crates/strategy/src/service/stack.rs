//! Which address families a service has on a cluster with one or two of them: the policy, the
//! families it implies, and what of a second family comes and goes with an update.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use super::{families, is_headless, needs_cluster_ip};
use crate::addresses::is_ipv6;
use crate::check::Faults;
use crate::json::{fields, items, put, set, text};

const TWO_NEEDED: &str = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";

/// Fills in `ipFamilyPolicy` and `ipFamilies`. `cluster` are the cluster's families, the preferred
/// one first; a service is never given a second family, nor robbed of one, unless its policy or its
/// lists ask for that.
pub fn settle_families(service: &mut Value, old: Option<&Value>, cluster: &[&str]) -> Faults {
    let before = old.map(|old| &old["spec"]);
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return Faults::new() };
    if text(&spec["type"]) == "ExternalName" || before.is_some_and(|old| still_prefers_two(spec, old)) {
        return Faults::new();
    }
    let free = is_headless(spec) && fields(&spec["selector"]).next().is_none();
    settle_policy(spec, before, free);
    let path = Path::new("spec");
    let mut faults = Faults::new();
    families::check(&mut faults, &path, spec);
    if !faults.is_empty() {
        return faults;
    }
    if let Some(before) = before {
        give_up_second(&mut faults, &path, spec, before);
    }
    agree_with_policy(&mut faults, &path, spec);
    infer(&mut faults, &path, spec, cluster);
    if !free && faults.is_empty() {
        configured(&mut faults, &path, spec, cluster);
    }
    if faults.is_empty() {
        // What selects nothing may name a family the cluster does not have.
        complete(spec, cluster, free || cluster.len() == 2);
    }
    faults
}

/// A service that takes what it can get, and whose addresses this update leaves alone.
fn still_prefers_two(spec: &Value, old: &Value) -> bool {
    let prefers = |s: &Value| text(&s["ipFamilyPolicy"]) == "PreferDualStack";
    spec["type"] == old["type"]
        && needs_cluster_ip(spec)
        && prefers(spec)
        && (prefers(old) || !set(&old["ipFamilyPolicy"]))
        && same_list(spec, old, "clusterIPs")
        && same_list(spec, old, "ipFamilies")
}

fn same_list(a: &Value, b: &Value, key: &str) -> bool {
    items(&a[key]) == items(&b[key])
}

fn settle_policy(spec: &mut Value, before: Option<&Value>, free: bool) {
    if set(&spec["ipFamilyPolicy"]) {
        return;
    }
    let had = before.map(|old| text(&old["ipFamilyPolicy"])).unwrap_or_default();
    let policy = match had {
        "" if free => "RequireDualStack",
        "" => "SingleStack",
        had => had,
    };
    put(spec, "ipFamilyPolicy", policy);
}

/// The policy alone says that the second goes; shortened lists without it are a mistake.
fn give_up_second(faults: &mut Faults, path: &Path, spec: &mut Value, old: &Value) {
    let single = text(&spec["ipFamilyPolicy"]) == "SingleStack";
    for (key, noun) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let count = items(&spec[key]).len();
        if single && count > 1 && same_list(spec, old, key) {
            put(spec, key, json!([spec[key][0]]));
        } else if !single && count > 0 && count < items(&old[key]).len() {
            let detail = format!("must be 'SingleStack' to release the secondary {noun}");
            faults.push(Error::invalid(
                &path.child("ipFamilyPolicy"),
                spec["ipFamilyPolicy"].clone(),
                detail,
            ));
        }
    }
}

fn agree_with_policy(faults: &mut Faults, path: &Path, spec: &Value) {
    if text(&spec["ipFamilyPolicy"]) != "SingleStack" {
        return;
    }
    for (key, nouns) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if items(&spec[key]).len() == 2 {
            let detail = format!("{TWO_NEEDED} {nouns} are specified");
            faults.push(Error::invalid(&path.child("ipFamilyPolicy"), "SingleStack", detail));
        }
    }
}

/// Families follow from named addresses.
fn infer(faults: &mut Faults, path: &Path, spec: &mut Value, cluster: &[&str]) {
    if is_headless(spec) {
        return;
    }
    let mut families = items(&spec["ipFamilies"]).to_vec();
    for (i, ip) in items(&spec["clusterIPs"]).iter().enumerate().skip(families.len()) {
        let family = if is_ipv6(text(ip)) { "IPv6" } else { "IPv4" };
        if cluster.contains(&family) {
            families.push(family.into());
        } else {
            let at = path.child("clusterIPs").index(i);
            let detail = format!("{family} is not configured on this cluster");
            faults.push(Error::invalid(&at, spec["clusterIPs"].clone(), detail));
        }
    }
    if !families.is_empty() {
        put(spec, "ipFamilies", families);
    }
}

fn configured(faults: &mut Faults, path: &Path, spec: &Value, cluster: &[&str]) {
    if text(&spec["ipFamilyPolicy"]) == "RequireDualStack" && cluster.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        faults.push(Error::invalid(&path.child("ipFamilyPolicy"), "RequireDualStack", detail));
    }
    for (i, family) in items(&spec["ipFamilies"]).iter().enumerate() {
        if !cluster.contains(&text(family)) {
            let at = path.child("ipFamilies").index(i);
            faults.push(Error::invalid(&at, family.clone(), "not configured on this cluster"));
        }
    }
}

fn complete(spec: &mut Value, cluster: &[&str], two_possible: bool) {
    let mut families = items(&spec["ipFamilies"]).to_vec();
    if families.is_empty() {
        families.extend(cluster.first().map(|family| Value::from(*family)));
    }
    if let [only] = families.as_slice()
        && two_possible
        && text(&spec["ipFamilyPolicy"]) != "SingleStack"
    {
        let other = if text(only) == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.into());
    }
    put(spec, "ipFamilies", families);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::named::merge;

    const SINGLE: &[&str] = &["IPv4"];
    const DUAL: &[&str] = &["IPv6", "IPv4"];

    fn settled(spec: Value, old: Option<Value>, cluster: &[&str]) -> Result<Value, Vec<String>> {
        let mut service = json!({"spec": merge(json!({"type": "ClusterIP"}), spec)});
        let old = old.map(|spec| json!({"spec": merge(json!({"type": "ClusterIP"}), spec)}));
        let faults = settle_families(&mut service, old.as_ref(), cluster);
        if !faults.is_empty() {
            return Err(faults.iter().map(ToString::to_string).collect());
        }
        let spec = &service["spec"];
        Ok(json!([spec["ipFamilyPolicy"], spec["ipFamilies"], spec["clusterIPs"]]))
    }

    #[test]
    fn new_services() {
        let none = Value::Null;
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
        let cases = [
            (json!({}), SINGLE, json!(["SingleStack", ["IPv4"], none])),
            (json!({}), DUAL, json!(["SingleStack", ["IPv6"], none])),
            (
                json!({"ipFamilyPolicy": "PreferDualStack"}),
                SINGLE,
                json!(["PreferDualStack", ["IPv4"], none]),
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack"}),
                DUAL,
                json!(["PreferDualStack", ["IPv6", "IPv4"], none]),
            ),
            (
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4"]}),
                DUAL,
                json!(["RequireDualStack", ["IPv4", "IPv6"], none]),
            ),
            (
                json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"]}),
                DUAL,
                json!(["SingleStack", ["IPv4"], ["10.0.0.9"]]),
            ),
            (headless.clone(), SINGLE, json!(["RequireDualStack", ["IPv4", "IPv6"], ["None"]])),
            (
                merge(headless.clone(), json!({"selector": {"a": "b"}})),
                SINGLE,
                json!(["SingleStack", ["IPv4"], ["None"]]),
            ),
            (
                merge(headless, json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"})),
                SINGLE,
                json!(["SingleStack", ["IPv6"], ["None"]]),
            ),
        ];
        for (spec, cluster, expected) in cases {
            assert_eq!(settled(spec.clone(), None, cluster), Ok(expected), "{spec} {cluster:?}");
        }
    }

    #[test]
    fn what_the_cluster_cannot_give_is_refused() {
        let cases = [
            (
                json!({"ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(settled(spec, None, SINGLE), Err(vec![expected.to_owned()]));
        }
    }

    #[test]
    fn a_second_family_comes_and_goes_when_asked_for() {
        let one = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIP": "10.0.0.1",
            "clusterIPs": ["10.0.0.1"]});
        let two = json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]});
        let change = |old: &Value, change: Value, cluster: &[&str]| {
            settled(merge(old.clone(), change), Some(old.clone()), cluster)
        };
        assert_eq!(
            change(&one, json!({"ipFamilyPolicy": "PreferDualStack"}), DUAL),
            Ok(json!(["PreferDualStack", ["IPv4", "IPv6"], ["10.0.0.1"]]))
        );
        assert_eq!(
            change(&two, json!({"ipFamilyPolicy": "SingleStack"}), DUAL),
            Ok(json!(["SingleStack", ["IPv4"], ["10.0.0.1"]]))
        );
        assert_eq!(
            change(&two, json!({"clusterIPs": ["10.0.0.1"]}), DUAL).unwrap_err(),
            [
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary cluster IP"
            ]
        );
        // The cluster lost a family; the service keeps both until told otherwise.
        assert_eq!(
            change(&two, json!({"sessionAffinity": "None"}), SINGLE),
            Ok(json!(["PreferDualStack", ["IPv4", "IPv6"], ["10.0.0.1", "fd00::1"]]))
        );
    }
}
