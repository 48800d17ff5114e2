//! What is written into a claim that has been given devices.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Devices;
use super::allocator::Given;
use super::objects::{Place, Wish};
use crate::symbols::{Symbol, Symbols};

/// What is to be written for one of a pod's claims before the pod is bound, by names: they outlive a
/// snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimWork {
    /// `namespace/name`
    pub claim: String,
    /// The uid of the pod it is for.
    pub pod: Arc<str>,
    /// `status.allocation`, where the claim has none yet.
    pub allocation: Option<Value>,
    /// Driver, pool and name of the devices nobody else can have then.
    pub devices: Vec<[String; 3]>,
}

impl ClaimWork {
    /// The pod is only to be added to the claim's consumers.
    pub fn to_consume(claim: String, pod: Arc<str>) -> Self {
        ClaimWork { claim, pod, allocation: None, devices: Vec::new() }
    }
    /// With what the pod of a work is given as well.
    pub fn to_allocate(
        self,
        devices: &Devices,
        symbols: &Symbols,
        wish: &Wish,
        given: &[Given],
        node: Symbol,
    ) -> Self {
        let names = |given: &Given| {
            let (driver, pool, device) = given.id;
            [driver, pool, device].map(|part| symbols.text(part).to_owned())
        };
        let results: Vec<Value> = given.iter().map(|given| result(given, &names(given))).collect();
        let mut allocation = json!({"devices": {"results": results}});
        let config = config(devices, wish, given);
        if !config.is_empty() {
            allocation["devices"]["config"] = config.into();
        }
        if let Some(selector) = node_selector(symbols, given, node) {
            allocation["nodeSelector"] = selector;
        }
        let own = given.iter().filter(|given| !given.request.admin);
        ClaimWork { devices: own.map(names).collect(), allocation: Some(allocation), ..self }
    }
}

fn result(given: &Given, [driver, pool, device]: &[String; 3]) -> Value {
    let mut result = json!({"request": given.request.name, "driver": driver, "pool": pool, "device": device});
    if given.request.admin {
        result["adminAccess"] = true.into();
    }
    result
}

/// Configurations of the classes, then those of the claim, each with the requests it is for.
fn config(devices: &Devices, wish: &Wish, given: &[Given]) -> Vec<Value> {
    let mut configs: Vec<Value> = Vec::new();
    let mut chosen = Vec::new();
    for alternatives in &wish.requests {
        let of_request =
            |given: &&Given| alternatives.iter().any(|request| request.name == given.request.name);
        // A request that got nothing was an alternative, or asked for nothing.
        chosen.extend(given.iter().find(of_request).map(|given| given.request).or(alternatives.first()));
    }
    let mut seen: Vec<Symbol> = Vec::new();
    for request in chosen.iter().filter(|request| !devices_seen(&mut seen, request.class)) {
        let same = chosen.iter().filter(|other| other.class == request.class);
        let names: Vec<&str> = same.map(|other| &*other.name).collect();
        for config in devices.class(request.class).iter().flat_map(|class| &class.config) {
            configs.push(with(config, "FromClass", json!(names)));
        }
    }
    for config in &wish.config {
        let wanted: Vec<&str> =
            config["requests"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let is_for = |name: &str, parent: &str| wanted.contains(&name) || wanted.contains(&parent);
        if wanted.is_empty() || chosen.iter().any(|r| is_for(&r.name, r.parent())) {
            configs.push(with(config, "FromClaim", config["requests"].clone()));
        }
    }
    // What is for all need not name them.
    for config in &mut configs {
        let all = config["requests"].as_array().is_none_or(|names| names.len() == wish.requests.len());
        if all && let Some(config) = config.as_object_mut() {
            config.remove("requests");
        }
    }
    configs
}

fn devices_seen(seen: &mut Vec<Symbol>, class: Symbol) -> bool {
    let known = seen.contains(&class);
    seen.push(class);
    known
}

fn with(config: &Value, source: &str, requests: Value) -> Value {
    let mut whole: Map<String, Value> = config.as_object().cloned().unwrap_or_default();
    whole.insert("source".to_owned(), source.into());
    whole.insert("requests".to_owned(), requests);
    whole.into()
}

/// Where all the devices can be used; nothing is said where that is everywhere.
fn node_selector(symbols: &Symbols, given: &[Given], node: Symbol) -> Option<Value> {
    if given.iter().any(|given| matches!(given.place, Place::Node(_))) {
        let field = json!({"key": "metadata.name", "operator": "In", "values": [symbols.text(node)]});
        return Some(json!({"nodeSelectorTerms": [{"matchFields": [field]}]}));
    }
    // Each of the selectors has one term: the requirements of all are one.
    let mut expressions = BTreeSet::new();
    let mut fields = BTreeSet::new();
    for given in given {
        let Place::Selected { selector, .. } = given.place else { continue };
        for term in &selector.node_selector_terms {
            expressions.extend(term.match_expressions.iter().flatten().map(|e| json!(e).to_string()));
            fields.extend(term.match_fields.iter().flatten().map(|f| json!(f).to_string()));
        }
    }
    if expressions.is_empty() && fields.is_empty() {
        return None;
    }
    let parse = |texts: BTreeSet<String>| -> Vec<Value> {
        texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
    };
    let mut term = json!({});
    for (key, requirements) in [("matchExpressions", parse(expressions)), ("matchFields", parse(fields))] {
        if !requirements.is_empty() {
            term[key] = requirements.into();
        }
    }
    Some(json!({"nodeSelectorTerms": [term]}))
}
