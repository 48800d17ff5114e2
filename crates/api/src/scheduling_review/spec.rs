//! The question: about which pod, and what to assume that is not so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::field::{Error, Path};
use crate::quantity::Quantity;

/// Nodes one question may add; the largest cluster there is has so many.
pub const MAX_ADDED_NODES: u32 = 5000;
/// Entries of one list of changes; each may be about another node.
const MAX_ENTRIES: usize = 5000;
/// Of a node that is described as JSON: it is kept once for each that is added.
const MAX_NODE_BYTES: usize = 16 << 10;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Spec {
    /// A pod of the review's namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod_name: String,
    /// Or a whole pod that does not exist; it is checked and defaulted as if it was to be created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Value>,
    #[serde(skip_serializing_if = "Changes::is_empty")]
    pub changes: Changes,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Changes {
    /// What the pod's containers ask for together, by resource; others stay as they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_nodes: Vec<AddedNodes>,
    /// With the pods on them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cordon_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uncordon_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taint_nodes: Vec<TaintedNode>,
}

/// Empty nodes like one that exists, or as described.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AddedNodes {
    pub count: u32,
    /// The first by name if nothing is said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub like: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaintedNode {
    pub node_name: String,
    pub taint: Taint,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    pub key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub effect: String,
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

impl Changes {
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

impl Spec {
    /// What can be said against it without knowing the cluster.
    pub fn faults(&self) -> Vec<Error> {
        let path = Path::new("spec");
        let mut faults = Vec::new();
        match (self.pod_name.is_empty(), &self.pod) {
            (true, None) => {
                faults.push(Error::required(&path.child("podName"), "or `pod`: which pod it is about"))
            }
            (false, Some(_)) => {
                faults.push(Error::forbidden(&path.child("pod"), "may not be given together with `podName`"));
            }
            _ => {}
        }
        let changes = path.child("changes");
        for (resource, amount) in &self.changes.requests {
            let path = changes.child("requests").key(resource);
            match Quantity::parse(amount) {
                Err(error) => faults.push(Error::invalid(&path, amount.as_str(), error.to_string())),
                Ok(parsed) if parsed.is_negative() => {
                    faults.push(Error::invalid(&path, amount.as_str(), "must be greater than or equal to 0"));
                }
                Ok(_) => {}
            }
        }
        let lists = [
            ("addNodes", self.changes.add_nodes.len()),
            ("cordonNodes", self.changes.cordon_nodes.len()),
            ("removeNodes", self.changes.remove_nodes.len()),
            ("taintNodes", self.changes.taint_nodes.len()),
            ("uncordonNodes", self.changes.uncordon_nodes.len()),
        ];
        for (field, entries) in lists.into_iter().filter(|(_, entries)| *entries > MAX_ENTRIES) {
            faults.push(Error::too_many(&changes.child(field), entries, MAX_ENTRIES));
        }
        let mut room = MAX_ADDED_NODES;
        for (index, added) in self.changes.add_nodes.iter().enumerate() {
            faults.extend(added.fault(&changes.child("addNodes").index(index), &mut room));
        }
        for (index, tainted) in self.changes.taint_nodes.iter().enumerate() {
            let path = changes.child("taintNodes").index(index).child("taint");
            let taint = &tainted.taint;
            if taint.key.is_empty() {
                faults.push(Error::required(&path.child("key"), ""));
            }
            if !EFFECTS.contains(&taint.effect.as_str()) {
                faults.push(Error::not_supported(&path.child("effect"), taint.effect.as_str(), &EFFECTS));
            }
        }
        faults
    }
}

impl AddedNodes {
    fn fault(&self, path: &Path, room: &mut u32) -> Option<Error> {
        if !self.like.is_empty() && self.node.is_some() {
            return Some(Error::forbidden(&path.child("node"), "may not be given together with `like`"));
        }
        if self.node.as_ref().is_some_and(|node| node.to_string().len() > MAX_NODE_BYTES) {
            return Some(Error::too_long(&path.child("node"), MAX_NODE_BYTES));
        }
        if self.count == 0 || self.count > *room {
            let detail = format!("must be between 1 and {MAX_ADDED_NODES}, over all entries");
            return Some(Error::invalid(&path.child("count"), self.count, detail));
        }
        *room -= self.count;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn questions_are_checked() {
        let cases = [
            (json!({"podName": "a"}), ""),
            (json!({"pod": {}, "changes": {"addNodes": [{"count": 3}]}}), ""),
            (
                json!({"podName": "a", "changes": {"removeNodes": vec!["n"; MAX_ENTRIES + 1]}}),
                "spec.changes.removeNodes: Too many: 5001: must have at most 5000 items",
            ),
            (
                json!({"podName": "a", "changes": {"addNodes": [{"count": 1, "node": {"a": "x".repeat(MAX_NODE_BYTES)}}]}}),
                "spec.changes.addNodes[0].node: Too long: may not be more than 16384 bytes",
            ),
            (json!({}), "spec.podName: Required value: or `pod`: which pod it is about"),
            (
                json!({"podName": "a", "pod": {}}),
                "spec.pod: Forbidden: may not be given together with `podName`",
            ),
            (
                json!({"podName": "a", "changes": {"requests": {"cpu": "-1"}}}),
                "spec.changes.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                json!({"podName": "a", "changes": {"addNodes": [{"count": 4000}, {"count": 1001}]}}),
                "spec.changes.addNodes[1].count: Invalid value: 1001: must be between 1 and 5000, over all entries",
            ),
            (
                json!({"podName": "a", "changes": {"taintNodes":
                    [{"nodeName": "n", "taint": {"key": "k", "effect": "Never"}}]}}),
                "spec.changes.taintNodes[0].taint.effect: Unsupported value: \"Never\": supported values: \
                 \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ),
        ];
        for (spec, expected) in cases {
            let parsed: Spec = serde_json::from_value(spec.clone()).unwrap();
            let faults: Vec<String> = parsed.faults().iter().map(ToString::to_string).collect();
            assert_eq!(faults.join(", "), expected, "{spec}");
        }
        assert!(
            serde_json::from_value::<Spec>(json!({"podname": "a"})).is_err(),
            "unknown fields are refused"
        );
    }
}
