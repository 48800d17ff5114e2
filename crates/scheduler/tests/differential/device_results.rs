//! What is to be written into a pod's claims, by the slow scheduler.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};

use crate::devices::{Devices, Pick, allocation, consumers, requests, uid};
use crate::oracle;

impl Devices {
    /// What is to be written for the pod's claims where it goes to a node, by claim; `None` for those
    /// that have something already, or only need the pod among their consumers.
    pub fn expected(&self, pod: &Pod, node: &Node) -> BTreeMap<String, Option<Value>> {
        let picks = self.search(pod, node).expect("a node that takes the pod");
        let given = self.unallocated(pod).into_iter().enumerate().map(|(index, (key, claim))| {
            let own: Vec<&Pick> = picks.iter().filter(|pick| pick.claim == index).collect();
            (key, Some(self.written(claim, &own, node)))
        });
        let had = self.claims(pod).into_iter().filter(|(_, claim)| allocation(claim).is_some());
        let new = had.filter(|(_, claim)| !consumers(claim).contains(&uid(pod)));
        given.chain(new.map(|(key, _)| (key, None))).collect()
    }
    fn written(&self, claim: &ResourceClaim, picks: &[&Pick], node: &Node) -> Value {
        let result = |pick: &&Pick| {
            let [driver, pool, device] = pick.offer.id();
            let mut result =
                json!({"request": pick.want.name, "driver": driver, "pool": pool, "device": device});
            if pick.want.admin {
                result["adminAccess"] = true.into();
            }
            result
        };
        let mut devices = json!({"results": picks.iter().map(result).collect::<Vec<_>>()});
        let config = self.config(claim, picks);
        if !config.is_empty() {
            devices["config"] = config.into();
        }
        let mut written = json!({"devices": devices});
        let slices = || picks.iter().map(|pick| &pick.offer.slice.spec);
        let expressions: BTreeSet<String> = slices()
            .filter_map(|spec| spec.node_selector.as_ref())
            .flat_map(|s| s.node_selector_terms.iter().flat_map(|t| t.match_expressions.iter().flatten()))
            .map(|expression| json!(expression).to_string())
            .collect();
        if slices().any(|spec| spec.node_name.is_some()) {
            let field = json!({"key": "metadata.name", "operator": "In", "values": [oracle::name(node)]});
            written["nodeSelector"] = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        } else if !expressions.is_empty() {
            let parse = |text: &String| serde_json::from_str::<Value>(text).expect("JSON");
            let all: Vec<Value> = expressions.iter().map(parse).collect();
            written["nodeSelector"] = json!({"nodeSelectorTerms": [{"matchExpressions": all}]});
        }
        written
    }
    /// Each class's configurations once, with the requests that chose the class, then the claim's own.
    fn config(&self, claim: &ResourceClaim, picks: &[&Pick]) -> Vec<Value> {
        let requests = requests(claim);
        let chosen: Vec<(&str, &str)> = requests
            .iter()
            .map(|request| {
                let is_of = |name: &str| name.split('/').next() == Some(&request.name);
                let pick = picks.iter().find(|pick| is_of(&pick.want.name)).expect("it is met");
                (pick.want.name.as_str(), pick.want.class)
            })
            .collect();
        let entry = |source: &str, config: Value, names: Vec<&str>| {
            let mut config = config;
            config["source"] = source.into();
            let all = names.is_empty() || names.len() == requests.len();
            match all {
                true => config.as_object_mut().expect("an object").remove("requests"),
                false => config.as_object_mut().expect("an object").insert("requests".into(), json!(names)),
            };
            config
        };
        let mut configs = Vec::new();
        for (index, (_, class)) in chosen.iter().enumerate() {
            if chosen[..index].iter().any(|(_, earlier)| earlier == class) {
                continue;
            }
            let names: Vec<&str> = chosen.iter().filter(|(_, c)| c == class).map(|(name, _)| *name).collect();
            for config in self.classes[*class].spec.config.iter().flatten() {
                configs.push(entry("FromClass", json!(config), names.clone()));
            }
        }
        for config in claim.spec.devices.iter().flat_map(|devices| devices.config.iter().flatten()) {
            let names: Vec<&str> = config.requests.iter().flatten().map(String::as_str).collect();
            let speaks_of =
                |name: &str| names.iter().any(|n| *n == name || name.split('/').next() == Some(n));
            if names.is_empty() || chosen.iter().any(|(name, _)| speaks_of(name)) {
                configs.push(entry("FromClaim", json!(config), names));
            }
        }
        configs
    }
}
