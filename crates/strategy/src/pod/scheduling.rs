//! The fields that say where a pod may run: node selectors, affinity, tolerations, spreading.

use std::collections::{HashMap, HashSet};

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults, invalid_each};
use crate::json::{each, fields, int, items, number, put, set, text, with};

pub const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn affinity(faults: &mut Faults, path: &Path, affinity: &Value) {
    let node = &affinity["nodeAffinity"];
    let at = path.child("nodeAffinity");
    if set(&node[REQUIRED]) {
        node_selector(faults, &at.child(REQUIRED), &node[REQUIRED]);
    }
    for (i, term) in items(&node[PREFERRED]).iter().enumerate() {
        let at = at.child(PREFERRED).index(i);
        weight(faults, &at, term);
        node_selector_term(faults, &at.child("preference"), &term["preference"], true);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = path.child(kind);
        for (i, term) in items(&affinity[kind][REQUIRED]).iter().enumerate() {
            pod_term(faults, &at.child(REQUIRED).index(i), term);
        }
        for (i, term) in items(&affinity[kind][PREFERRED]).iter().enumerate() {
            let at = at.child(PREFERRED).index(i);
            weight(faults, &at, term);
            pod_term(faults, &at.child("podAffinityTerm"), &term["podAffinityTerm"]);
        }
    }
}

fn weight(faults: &mut Faults, path: &Path, term: &Value) {
    let weight = number(&term["weight"]);
    if !(1..=100).contains(&weight) {
        faults.push(Error::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

pub fn node_selector(faults: &mut Faults, path: &Path, selector: &Value) {
    let terms = items(&selector["nodeSelectorTerms"]);
    let at = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        faults.push(Error::required(&at, "must have at least one node selector term"));
        return;
    }
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(faults, &at.index(i), term, false);
    }
}

fn node_selector_term(faults: &mut Faults, path: &Path, term: &Value, any_value: bool) {
    for (i, requirement) in items(&term["matchExpressions"]).iter().enumerate() {
        node_requirement(faults, &path.child("matchExpressions").index(i), requirement, any_value);
    }
    for (i, requirement) in items(&term["matchFields"]).iter().enumerate() {
        let at = path.child("matchFields").index(i);
        let values = items(&requirement["values"]);
        match text(&requirement["operator"]) {
            "In" | "NotIn" if values.len() != 1 => {
                let detail =
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                faults.push(Error::required(&at.child("values"), detail));
            }
            "In" | "NotIn" => {}
            other => {
                faults.push(Error::invalid(&at.child("operator"), other, "not a valid selector operator"))
            }
        }
        if text(&requirement["key"]) != "metadata.name" {
            let key = text(&requirement["key"]);
            faults.push(Error::invalid(&at.child("key"), key, "not a valid field selector key"));
            continue;
        }
        for (v, value) in values.iter().enumerate() {
            let at = at.child("values").index(v);
            invalid_each(faults, &at, text(value), check::dns1123_subdomain(text(value)));
        }
    }
}

fn node_requirement(faults: &mut Faults, path: &Path, requirement: &Value, any_value: bool) {
    let values = items(&requirement["values"]);
    let at = path.child("values");
    match text(&requirement["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            faults.push(Error::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            faults.push(Error::forbidden(&at, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            faults
                .push(Error::required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            faults.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator"));
        }
    }
    let key = text(&requirement["key"]);
    invalid_each(faults, &path.child("key"), key, check::qualified_name(key));
    if !any_value {
        for (i, value) in values.iter().enumerate() {
            invalid_each(faults, &at.index(i), text(value), check::label_value(text(value)));
        }
    }
}

fn pod_term(faults: &mut Faults, path: &Path, term: &Value) {
    check::label_selector(faults, &path.child("labelSelector"), &term["labelSelector"]);
    check::label_selector(faults, &path.child("namespaceSelector"), &term["namespaceSelector"]);
    for name in items(&term["namespaces"]) {
        invalid_each(faults, &path.child("namespace"), text(name), check::dns1123_label(text(name)));
    }
    label_keys(faults, path, term);
    let key = text(&term["topologyKey"]);
    if key.is_empty() {
        faults.push(Error::required(&path.child("topologyKey"), "can not be empty"));
    }
    invalid_each(faults, &path.child("topologyKey"), key, check::qualified_name(key));
}

/// Keys whose values are taken from the pod itself, checked against the selector they join.
fn label_keys(faults: &mut Faults, path: &Path, term: &Value) {
    let (keys, mismatch) = (items(&term["matchLabelKeys"]), items(&term["mismatchLabelKeys"]));
    let selector = &term["labelSelector"];
    for (name, list) in [("matchLabelKeys", keys), ("mismatchLabelKeys", mismatch)] {
        let at = path.child(name);
        if !list.is_empty() && !set(selector) {
            faults.push(Error::forbidden(&at, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in list.iter().enumerate() {
            invalid_each(faults, &at.index(i), text(key), check::qualified_name(text(key)));
        }
    }
    // The server has added one expression for each key: another is the client's own.
    let mut seen: HashSet<&str> = fields(&selector["matchLabels"]).map(|(key, _)| key).collect();
    let places: HashMap<&str, usize> = keys.iter().enumerate().map(|(i, key)| (text(key), i)).collect();
    for expression in items(&selector["matchExpressions"]) {
        let key = text(&expression["key"]);
        let is_new = seen.insert(key);
        if let Some(i) = places.get(key).filter(|_| !is_new) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            faults.push(Error::invalid(&path.index(*i), key, detail));
        }
    }
    let mismatch: HashSet<&str> = mismatch.iter().map(text).collect();
    for (i, key) in keys.iter().enumerate().filter(|(_, key)| mismatch.contains(text(key))) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        faults.push(Error::invalid(&path.child("matchLabelKeys").index(i), text(key), detail));
    }
}

/// Writes the values that a pod's labels have for `matchLabelKeys` into the selectors of its terms.
pub fn merge_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let spec = &mut pod["spec"];
    each(spec, "topologySpreadConstraints", |constraint| merge_keys(constraint, &labels));
    with(spec, "affinity", |affinity| {
        for kind in ["podAffinity", "podAntiAffinity"] {
            with(affinity, kind, |terms| {
                each(terms, REQUIRED, |term| merge_keys(term, &labels));
                each(terms, PREFERRED, |weighted| {
                    with(weighted, "podAffinityTerm", |term| merge_keys(term, &labels));
                });
            });
        }
    });
}

fn merge_keys(term: &mut Value, labels: &Value) {
    if !set(&term["labelSelector"]) {
        return;
    }
    let mut added: Vec<Value> = Vec::new();
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in items(&term[list]) {
            if let Some(value) = labels.get(text(key)) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if !added.is_empty() {
        with(term, "labelSelector", |selector| {
            let mut all = items(&selector["matchExpressions"]).to_vec();
            all.extend(added);
            put(selector, "matchExpressions", all);
        });
    }
}

pub fn tolerations(faults: &mut Faults, path: &Path, tolerations: &Value) {
    for (i, toleration) in items(tolerations).iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (text(&toleration["key"]), text(&toleration["operator"]));
        let (value, effect) = (text(&toleration["value"]), text(&toleration["effect"]));
        if !key.is_empty() {
            invalid_each(faults, &at.child("key"), key, check::qualified_name(key));
        } else if operator != "Exists" {
            faults.push(Error::invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if set(&toleration["tolerationSeconds"]) && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            faults.push(Error::invalid(&at.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                let texts = check::label_value(value);
                if !texts.is_empty() {
                    faults.push(Error::invalid(&at.child("operator"), value, texts.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                faults.push(Error::invalid(&at.child("operator"), value, detail));
            }
            "Exists" => {}
            // Comparing numbers is not possible yet, but has a place in the list.
            "Lt" | "Gt" => {
                let known = ["Equal", "Exists", "Lt", "Gt"];
                faults.push(Error::not_supported(&at.child("operator"), operator, &known));
            }
            other => {
                faults.push(Error::not_supported(&at.child("operator"), other, &["Equal", "Exists"]));
            }
        }
        if !effect.is_empty() && !TAINT_EFFECTS.contains(&effect) {
            faults.push(Error::not_supported(&at.child("effect"), effect, &TAINT_EFFECTS));
        }
    }
}

/// What makes two tolerations one, but for how long they last.
pub fn toleration_kind(toleration: &Value) -> [&str; 4] {
    ["key", "operator", "value", "effect"].map(|key| text(&toleration[key]))
}

/// What two constraints of a pod may not have alike.
fn spread_kind(constraint: &Value) -> (&str, &str) {
    (text(&constraint["topologyKey"]), text(&constraint["whenUnsatisfiable"]))
}

pub fn topology_spread(faults: &mut Faults, path: &Path, constraints: &Value) {
    let constraints = items(constraints);
    let mut left: HashMap<(&str, &str), usize> = HashMap::new();
    for constraint in constraints {
        *left.entry(spread_kind(constraint)).or_default() += 1;
    }
    for (i, constraint) in constraints.iter().enumerate() {
        let at = path.index(i);
        let skew = number(&constraint["maxSkew"]);
        if skew <= 0 {
            faults.push(Error::invalid(&at.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, action) = spread_kind(constraint);
        if key.is_empty() {
            faults.push(Error::required(&at.child("topologyKey"), "can not be empty"));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            faults.push(Error::not_supported(&at.child("whenUnsatisfiable"), action, &actions));
        }
        // Each but the last of its kind is reported.
        let others = left.entry((key, action)).or_default();
        *others = others.saturating_sub(1);
        if *others > 0 {
            let at = at.child("{topologyKey, whenUnsatisfiable}");
            faults.push(Error::duplicate(&at, format!("{{{key}, {action}}}")));
        }
        if let Some(least) = int(&constraint["minDomains"]) {
            let at = at.child("minDomains");
            if least <= 0 {
                faults.push(Error::invalid(&at, least, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                faults.push(Error::invalid(&at, least, detail));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            check::optional_one_of(faults, &at.child(policy), &constraint[policy], &["Honor", "Ignore"]);
        }
        label_keys(faults, &at, constraint);
        check::label_selector(faults, &at.child("labelSelector"), &constraint["labelSelector"]);
    }
}

/// Names of labels a pod wants of its node.
pub fn node_labels(faults: &mut Faults, path: &Path, selector: &Value) {
    for (key, value) in fields(selector) {
        invalid_each(faults, path, key, check::qualified_name(key));
        invalid_each(faults, path, text(value), check::label_value(text(value)));
    }
}
