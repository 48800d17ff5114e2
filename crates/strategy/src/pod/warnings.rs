//! Hints about pods that are accepted but hardly meant: deprecated fields, duplicates.

use amphipod_api::field::Path;
use serde_json::Value;

use super::resources::quantity;
use crate::json::{fields, items, set, text};

const NODE_LABELS: [(&str, &str); 6] = [
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
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];
const VOLUMES: [(&str, &str); 4] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
];
const MORE_VOLUMES: [(&str, &str); 3] = [
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warnings of a pod (`path` empty) or of a template (`path` is `spec.template`). Nothing is said
/// again when the spec stayed as it was.
pub fn for_template(path: &Path, template: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = &template["spec"];
    if old.is_some_and(|old| crate::json::same(&old["spec"], spec)) {
        return Vec::new();
    }
    let at = path.child("spec");
    let mut texts = Vec::new();
    node_labels(&mut texts, &at, spec);
    volumes(&mut texts, &at, spec);
    for list in ["initContainers", "containers"] {
        for (i, container) in items(&spec[list]).iter().enumerate() {
            in_container(&mut texts, &at.child(list).index(i), container);
        }
    }
    overlapping_ports(&mut texts, &at, spec);
    if number_is(&spec["terminationGracePeriodSeconds"], |s| s < 0) {
        texts.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            at.child("terminationGracePeriodSeconds")
        ));
    }
    texts
}

fn number_is(value: &Value, test: impl Fn(i64) -> bool) -> bool {
    value.as_i64().is_some_and(test)
}

fn node_labels(texts: &mut Vec<String>, at: &Path, spec: &Value) {
    for (label, hint) in NODE_LABELS {
        if set(&spec["nodeSelector"][label]) {
            texts.push(format!("{}: {hint}", at.child("nodeSelector").key(label)));
        }
    }
}

fn volumes(texts: &mut Vec<String>, at: &Path, spec: &Value) {
    for (i, volume) in items(&spec["volumes"]).iter().enumerate() {
        for (kind, hint) in VOLUMES.iter().chain(&MORE_VOLUMES) {
            if set(&volume[*kind]) {
                texts.push(format!("{}: {hint}", at.child("volumes").index(i).child(kind)));
            }
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        let name = text(&secret["name"]);
        let place = at.child("imagePullSecrets").index(i);
        if name.is_empty() {
            texts.push(format!("{}: invalid empty name \"\"", place.child("name")));
        } else if seen.contains(&name) {
            texts.push(format!("{}: duplicate name \"{name}\"", place.child("name")));
        }
        seen.push(name);
    }
}

fn in_container(texts: &mut Vec<String>, at: &Path, container: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, variable) in items(&container["env"]).iter().enumerate() {
        let name = text(&variable["name"]);
        if seen.contains(&name) {
            let place = at.child("env").index(i);
            texts.push(format!(
                "{place}: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
        seen.push(name);
    }
    for kind in ["limits", "requests"] {
        for (name, value) in fields(&container["resources"][kind]) {
            let fractional = name != "cpu" && quantity(value).is_some_and(|q| q.nanos() % 1_000_000_000 != 0);
            if fractional {
                let place = at.child("resources").child(kind).key(name);
                let shown = text(value);
                texts.push(format!(
                    "{place}: fractional byte value \"{shown}\" is invalid, must be an integer"
                ));
            }
        }
    }
}

fn overlapping_ports(texts: &mut Vec<String>, at: &Path, spec: &Value) {
    let mut seen: Vec<(i64, &str)> = Vec::new();
    for (i, container) in items(&spec["containers"]).iter().enumerate() {
        for (p, port) in items(&container["ports"]).iter().enumerate() {
            let key = (port["containerPort"].as_i64().unwrap_or(0), text(&port["protocol"]));
            let place = at.child("containers").index(i).child("ports").index(p);
            if seen.contains(&key) && !set(&port["hostPort"]) {
                texts.push(format!("{place}: duplicate port definition with earlier port"));
            }
            seen.push(key);
        }
    }
}
