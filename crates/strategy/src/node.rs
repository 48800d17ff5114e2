//! Nodes, and the leases they and other leaders hold.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::addresses::{keep_in_step, legacy_cidr, one_of_each_family, warn_cidr};
use crate::check::{self, Faults, invalid_each};
use crate::contract::Warnings;
use crate::json::{default, fields, is_empty, items, number, remove, set, text, with, within};
use crate::kind::{Kind, PLAIN};
use crate::pod::resources::amount;
use crate::pod::scheduling::TAINT_EFFECTS;

pub static NODE: Kind = Kind {
    status: true,
    keep_status_at_create: true,
    default: |object| {
        within(object, "spec", |spec| keep_in_step(spec, "podCIDR", "podCIDRs", None));
        within(object, "status", |status| {
            for list in ["capacity", "allocatable"] {
                with(status, list, crate::pod::defaults::canonical_list);
            }
            if set(&status["capacity"]) {
                let capacity = status["capacity"].clone();
                default(status, "allocatable", capacity);
            }
        });
    },
    create: |_, object| {
        // One feature is gone, the other not on yet.
        with(object, "spec", |spec| remove(spec, "configSource"));
        with(object, "status", |status| {
            remove(status, "config");
            remove(status, "declaredFeatures");
        });
    },
    update: |_, object, old| {
        if !set(&old["spec"]["configSource"]) {
            with(object, "spec", |spec| remove(spec, "configSource"));
        }
        for key in ["config", "declaredFeatures"] {
            if is_empty(&old["status"][key]) {
                with(object, "status", |status| remove(status, key));
            }
        }
    },
    validate: |object| {
        let mut faults = Faults::new();
        taints(&mut faults, items(&object["spec"]["taints"]));
        resources(&mut faults, object);
        pod_cidrs(&mut faults, &object["spec"]["podCIDRs"]);
        faults
    },
    validate_change: change,
    validate_status: |new, _| {
        let mut faults = Faults::new();
        resources(&mut faults, new);
        let addresses = items(&new["status"]["addresses"]);
        let path = Path::new("status").child("addresses");
        let mut seen = HashSet::new();
        for (i, address) in addresses.iter().enumerate().filter(|(_, address)| !seen.insert(*address)) {
            let shown = [("Type", &address["type"]), ("Address", &address["address"])];
            let shown = shown.map(|(name, part)| (name, text(part).into()));
            faults.push(check::shown_as(Error::duplicate(&path.index(i), Value::Null), &shown));
        }
        faults
    },
    warn: |object, _| {
        let mut texts = Warnings::new();
        if !text(&object["spec"]["externalID"]).is_empty() {
            texts.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        for (i, cidr) in items(&object["spec"]["podCIDRs"]).iter().enumerate() {
            warn_cidr(&mut texts, &Path::new("spec").child("podCIDRs").index(i), text(cidr));
        }
        texts
    },
    ..PLAIN
};

/// Labels that nodes once had, and what is said of those who still look for them.
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

pub fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(label, _)| *label == key).map(|(_, hint)| *hint)
}

/// Upstream reports them under the metadata.
fn taints(faults: &mut Faults, taints: &[Value]) {
    let path = Path::new("metadata").child("taints");
    let mut seen = HashSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let at = path.index(i);
        let (key, value, effect) = (text(&taint["key"]), text(&taint["value"]), text(&taint["effect"]));
        invalid_each(faults, &at.child("key"), key, check::qualified_name(key));
        let texts = check::label_value(value);
        if !texts.is_empty() {
            faults.push(Error::invalid(&at.child("value"), value, texts.join(";")));
        }
        check::one_of(faults, &at.child("effect"), &taint["effect"], &TAINT_EFFECTS);
        if !seen.insert((key, effect)) {
            let mut fault = Error::duplicate(&at, Value::Null);
            fault.detail = "taints must be unique by key and effect pair".to_owned();
            let shown = [
                ("Key", key.into()),
                ("Value", value.into()),
                ("Effect", effect.into()),
                ("TimeAdded", taint["timeAdded"].clone()),
            ];
            faults.push(check::shown_as(fault, &shown));
        }
    }
}

fn resources(faults: &mut Faults, object: &Value) {
    for list in ["capacity", "allocatable"] {
        for (name, value) in fields(&object["status"][list]) {
            amount(faults, &Path::new("status").child(list).child(name), name, value);
        }
    }
}

fn pod_cidrs(faults: &mut Faults, cidrs: &Value) {
    let path = Path::new("spec").child("podCIDRs");
    let list = items(cidrs);
    for (i, cidr) in list.iter().enumerate() {
        legacy_cidr(faults, &path.index(i), text(cidr));
    }
    let fits = match list {
        [] | [_] => true,
        [first, second] => one_of_each_family(text(first), text(second)) == Some(true),
        _ => false,
    };
    if !fits {
        let detail = "may specify no more than one CIDR for each IP family";
        faults.push(Error::invalid(&path, cidrs.clone(), detail));
    }
}

fn change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    let (now, then) = (items(&spec["podCIDRs"]), items(&before["podCIDRs"]));
    if !then.is_empty() && now != then {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        faults.push(Error::forbidden(&path.child("podCIDRs"), detail));
    }
    let provider = text(&before["providerID"]);
    if !provider.is_empty() && provider != text(&spec["providerID"]) {
        let detail = "node updates may not change providerID except from \"\" to valid";
        faults.push(Error::forbidden(&path.child("providerID"), detail));
    }
    if text(&spec["externalID"]) != text(&before["externalID"]) {
        faults.push(Error::forbidden(&path.child("externalID"), "may not be updated"));
    }
    faults
}

pub static LEASE: Kind = Kind {
    short_finalizers: true,
    create_on_update: true,
    unconditional_update: false,
    // Leaders chosen by the cluster are not a feature that is on.
    create: |_, object| uncoordinated(object, &Value::Null),
    update: |_, object, old| uncoordinated(object, old),
    validate: |object| {
        let mut faults = Faults::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        if set(&spec["leaseDurationSeconds"]) && number(&spec["leaseDurationSeconds"]) <= 0 {
            let value = number(&spec["leaseDurationSeconds"]);
            faults.push(Error::invalid(&path.child("leaseDurationSeconds"), value, "must be greater than 0"));
        }
        if set(&spec["leaseTransitions"]) {
            check::not_negative(&mut faults, &path.child("leaseTransitions"), &spec["leaseTransitions"]);
        }
        faults
    },
    ..PLAIN
};

fn uncoordinated(object: &mut Value, old: &Value) {
    for key in ["strategy", "preferredHolder"] {
        if is_empty(&old["spec"][key]) {
            with(object, "spec", |spec| remove(spec, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge, patched, stored, updated, warned};
    use serde_json::json;

    #[test]
    fn nodes() {
        let bad = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "X"}],
            "podCIDRs": ["10.0.0.1/24", "10.0.0.1/24"]}, "status": {"declaredFeatures": ["X"], "capacity": {"pods": "-1"}}});
        assert_eq!(
            created("", "nodes", bad),
            [
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
                "metadata.taints[2].effect: Unsupported value: \"X\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "status.capacity.pods: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.allocatable.pods: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.podCIDRs: Invalid value: [\"10.0.0.1/24\",\"10.0.0.1/24\"]: may specify no more than one CIDR for each IP family",
            ]
        );
        let given = json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "a"}});
        assert_eq!(updated("", "nodes", json!({}), given.clone()), [""; 0]);
        assert_eq!(
            updated(
                "",
                "nodes",
                given,
                json!({"spec": {"podCIDR": "10.0.1.0/24", "providerID": "b", "externalID": "c"}})
            ),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
                "spec.externalID: Forbidden: may not be updated",
            ]
        );
        let twice = json!({"status": {"addresses": [{"type": "InternalIP", "address": "1"}, {"type": "InternalIP", "address": "1"}]}});
        let (_, faults) = patched("", "nodes", "status", &stored("", "nodes", json!({})), twice);
        assert_eq!(
            faults,
            ["status.addresses[1]: Duplicate value: {\"Type\":\"InternalIP\",\"Address\":\"1\"}"]
        );
        let features = json!({"status": {"declaredFeatures": ["X"]}});
        assert!(stored("", "nodes", features.clone())["status"]["declaredFeatures"].is_null());
        let (object, _) = patched("", "nodes", "status", &stored("", "nodes", json!({})), features);
        assert!(object["status"]["declaredFeatures"].is_null(), "a feature that is off");
        assert_eq!(
            warned("", "nodes", json!({"spec": {"externalID": "x"}})),
            ["spec.externalID: this field is deprecated, and is unused by Kubernetes"]
        );
    }

    #[test]
    fn leases() {
        const GROUP: &str = "coordination.k8s.io";
        let bad = json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "strategy": "OldestEmulationVersion"}});
        assert_eq!(
            created(GROUP, "leases", bad.clone()),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
        assert!(stored(GROUP, "leases", merge(bad, json!({})))["spec"]["strategy"].is_null());
    }
}
