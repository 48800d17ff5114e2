//! CSIDriver, CSINode and CSIStorageCapacity.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use super::class_name;
use crate::check::{self, Faults, invalid_each};
use crate::contract::Warnings;
use crate::domains::driver_name;
use crate::json::{default, fields, int, items, number, remove, same, set, text, within};
use crate::kind::{Kind, PLAIN};
use crate::node::old_label;
use crate::pod::resources::quantity;

const GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLES: [&str; 2] = ["Persistent", "Ephemeral"];
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const UPDATE_SECONDS_MIN: i64 = 10;
const NODE_ID_MAX: usize = 256;

pub static CSI_DRIVER: Kind = Kind {
    unconditional_update: false,
    generation: true,
    default: |object| {
        within(object, "spec", |spec| {
            for (key, value) in [
                ("attachRequired", true),
                ("podInfoOnMount", false),
                ("storageCapacity", false),
                ("requiresRepublish", false),
                ("seLinuxMount", false),
            ] {
                default(spec, key, value);
            }
            default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            default(spec, "volumeLifecycleModes", json!(["Persistent"]));
        });
    },
    validate: driver,
    validate_change: |new, old| {
        let mut faults = Faults::new();
        for (field, shown) in
            [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            let at = Path::new("spec").child(shown);
            check::immutable(&mut faults, &at, &new["spec"][field], &old["spec"][field]);
        }
        faults
    },
    ..PLAIN
};

pub static CSI_NODE: Kind = Kind {
    unconditional_update: false,
    default: |object| within(object, "spec", |_| {}),
    validate: |object| {
        let mut faults = Faults::new();
        let path = Path::new("spec").child("drivers");
        let drivers = items(&object["spec"]["drivers"]);
        let mut seen = HashSet::new();
        for (i, driver) in drivers.iter().enumerate() {
            let twice = !seen.insert(text(&driver["name"]));
            node_driver(&mut faults, &path.index(i), driver, twice);
        }
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        let path = Path::new("spec").child("drivers");
        // How many volumes fit may be learned anew.
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            remove(&mut driver, "allocatable");
            driver
        };
        for before in items(&old["spec"]["drivers"]) {
            let now = items(&new["spec"]["drivers"]).iter().find(|d| d["name"] == before["name"]);
            if let Some(now) = now.filter(|now| !same(&fixed(now), &fixed(before))) {
                faults.push(Error::invalid(&path, fixed(now), check::IMMUTABLE));
            }
        }
        faults
    },
    ..PLAIN
};

pub static CSI_CAPACITY: Kind = Kind {
    unconditional_update: false,
    validate: |object| {
        let mut faults = Faults::new();
        check::label_selector(&mut faults, &Path::new("nodeTopology"), &object["nodeTopology"]);
        class_name(&mut faults, &Path::new("storageClassName"), &object["storageClassName"]);
        if let Some(q) = quantity(&object["capacity"]).filter(|q| q.is_negative()) {
            faults.push(Error::invalid(&Path::new("capacity"), q.to_string(), check::NEGATIVE));
        }
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        let of = |key: &'static str| (Path::new(key), &new[key], &old[key]);
        let (path, now, before) = of("nodeTopology");
        check::immutable(&mut faults, &path, now, before);
        let (path, now, before) = of("storageClassName");
        check::immutable_text(&mut faults, &path, now, before);
        faults
    },
    warn: |object, _| {
        let mut texts = Warnings::new();
        let path = Path::new("nodeTopology");
        for (i, expression) in items(&object["nodeTopology"]["matchExpressions"]).iter().enumerate() {
            let key = text(&expression["key"]);
            if let Some(hint) = old_label(key) {
                let at = path.child("matchExpressions").index(i).child("key");
                texts.push(format!("{at}: {key} is {hint}"));
            }
        }
        for (label, _) in fields(&object["nodeTopology"]["matchLabels"]) {
            if let Some(hint) = old_label(label) {
                texts.push(format!("{}: {hint}", path.child("matchLabels").child(label)));
            }
        }
        texts
    },
    ..PLAIN
};

fn driver(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let policy = &spec["fsGroupPolicy"];
    check::optional_one_of(&mut faults, &path.child("fsGroupPolicy"), policy, &GROUP_POLICIES);
    token_requests(&mut faults, &path.child("tokenRequests"), items(&spec["tokenRequests"]));
    let at = path.child("volumeLifecycleModes");
    for mode in items(&spec["volumeLifecycleModes"]).iter().filter(|m| !LIFECYCLES.contains(&text(m))) {
        faults.push(Error::not_supported(&at, text(mode), &LIFECYCLES));
    }
    if let Some(seconds) =
        int(&spec["nodeAllocatableUpdatePeriodSeconds"]).filter(|s| *s < UPDATE_SECONDS_MIN)
    {
        let detail = "must be greater than or equal to 10 seconds";
        faults.push(Error::invalid(&path.child("nodeAllocatableUpdatePeriodSeconds"), seconds, detail));
    }
    let in_secrets = &spec["serviceAccountTokenInSecrets"];
    if set(in_secrets) && items(&spec["tokenRequests"]).is_empty() {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        faults.push(Error::invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets.clone(), detail));
    }
    faults
}

fn token_requests(faults: &mut Faults, path: &Path, requests: &[Value]) {
    let mut seen = HashSet::new();
    for (i, request) in requests.iter().enumerate() {
        let (at, audience) = (path.index(i), text(&request["audience"]));
        if !seen.insert(audience) {
            faults.push(Error::duplicate(&at.child("audience"), audience));
            continue;
        }
        let Some(seconds) = int(&request["expirationSeconds"]) else { continue };
        let at = at.child("expirationSeconds");
        if seconds < TOKEN_SECONDS_MIN {
            let detail = "may not specify a duration less than 10 minutes";
            faults.push(Error::invalid(&at, seconds, detail));
        }
        if seconds > TOKEN_SECONDS_MAX {
            let detail = "may not specify a duration larger than 2^32 seconds";
            faults.push(Error::invalid(&at, seconds, detail));
        }
    }
}

fn node_driver(faults: &mut Faults, path: &Path, driver: &Value, twice: bool) {
    driver_name(faults, &path.child("name"), text(&driver["name"]));
    let id = text(&driver["nodeID"]);
    if id.is_empty() {
        faults.push(Error::required(&path.child("nodeID"), ""));
    }
    if id.len() > NODE_ID_MAX {
        let detail = format!("must be {NODE_ID_MAX} characters or less");
        faults.push(Error::invalid(&path.child("nodeID"), id, detail));
    }
    if set(&driver["allocatable"]["count"]) && number(&driver["allocatable"]["count"]) < 0 {
        check::not_negative(
            faults,
            &path.child("allocatable").child("count"),
            &driver["allocatable"]["count"],
        );
    }
    if twice {
        faults.push(Error::duplicate(&path.child("name"), text(&driver["name"])));
    }
    let keys = items(&driver["topologyKeys"]);
    let mut seen = HashSet::new();
    for key in keys {
        check::required(faults, path, key);
        if !seen.insert(key) {
            faults.push(Error::duplicate(path, text(key)));
        }
        invalid_each(faults, path, text(key), check::qualified_name(text(key)));
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge, updated, warned};
    use serde_json::json;

    const GROUP: &str = "storage.k8s.io";

    #[test]
    fn drivers() {
        assert_eq!(created(GROUP, "csidrivers", json!({})), [""; 0]);
        let bad = json!({"spec": {"fsGroupPolicy": "X", "volumeLifecycleModes": ["Y"], "nodeAllocatableUpdatePeriodSeconds": 1,
            "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}]}});
        assert_eq!(
            created(GROUP, "csidrivers", bad),
            [
                "spec.fsGroupPolicy: Unsupported value: \"X\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.volumeLifecycleModes: Unsupported value: \"Y\": supported values: \"Persistent\", \"Ephemeral\"",
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 1: must be greater than or equal to 10 seconds",
            ]
        );
        assert_eq!(
            created(GROUP, "csidrivers", json!({"spec": {"serviceAccountTokenInSecrets": true}})),
            [
                "spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests are specified"
            ]
        );
        assert_eq!(
            updated(
                GROUP,
                "csidrivers",
                json!({}),
                json!({"spec": {"attachRequired": false, "podInfoOnMount": true}})
            ),
            ["spec.attachedRequired: Invalid value: false: field is immutable"]
        );
    }

    #[test]
    fn nodes() {
        let node = |drivers| json!({"spec": {"drivers": drivers}});
        assert_eq!(
            created(
                GROUP,
                "csinodes",
                node(
                    json!([{"name": "d", "allocatable": {"count": -1}}, {"name": "d", "nodeID": "i", "topologyKeys": ["k", "k"]}])
                )
            ),
            [
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].name: Duplicate value: \"d\"",
                "spec.drivers[1]: Duplicate value: \"k\"",
            ]
        );
        let one = node(json!([{"name": "d", "nodeID": "i"}]));
        let more = node(
            json!([{"name": "d", "nodeID": "i", "allocatable": {"count": 9}}, {"name": "e", "nodeID": "j"}]),
        );
        assert_eq!(updated(GROUP, "csinodes", one.clone(), more), [""; 0]);
        assert_eq!(
            updated(GROUP, "csinodes", one, node(json!([{"name": "d", "nodeID": "j"}]))),
            ["spec.drivers: Invalid value: {\"name\":\"d\",\"nodeID\":\"j\"}: field is immutable"]
        );
    }

    #[test]
    fn capacities() {
        let good = json!({"storageClassName": "s", "capacity": "1Gi"});
        assert_eq!(created(GROUP, "csistoragecapacities", good.clone()), [""; 0]);
        let old_label = "beta.kubernetes.io/arch";
        let topology = json!({"matchLabels": {old_label: "a"}, "matchExpressions": [{"key": old_label, "operator": "Exists"}]});
        assert_eq!(
            warned(GROUP, "csistoragecapacities", merge(good.clone(), json!({"nodeTopology": topology}))),
            [
                "nodeTopology.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
                "nodeTopology.matchLabels.beta.kubernetes.io/arch: deprecated since v1.14; use \"kubernetes.io/arch\" instead",
            ]
        );
        assert_eq!(
            updated(GROUP, "csistoragecapacities", good, json!({"storageClassName": "t", "capacity": "-1"})),
            [
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
                "storageClassName: Invalid value: \"t\": field is immutable",
            ]
        );
    }
}
