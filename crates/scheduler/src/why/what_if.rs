//! What is assumed that is not so: changed objects, before a snapshot is made of them. Each change is
//! told in words, for the answer says what it assumed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphipod_api::field::{self, Path};
use amphipod_api::scheduling_review::{AddedNodes, Changes, Taint};
use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{Container, Node, Pod, Taint as WireTaint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use super::{Cluster, joined};
use crate::pod::node_name;

pub type Faults = Vec<field::Error>;

/// Taints that nodes get for their state begin so; a node that is added is well.
const STATE_TAINTS: &str = "node.kubernetes.io/";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Asks for these amounts with the first container, and with no other.
pub fn change_requests(pod: &mut Pod, requests: &BTreeMap<String, String>) -> Vec<String> {
    let Some(spec) = pod.spec.as_mut().filter(|_| !requests.is_empty()) else { return Vec::new() };
    if let Some(whole) = spec.resources.as_mut().and_then(|resources| resources.requests.as_mut()) {
        whole.retain(|name, _| !requests.contains_key(name));
    }
    let forget = |container: &mut Container| {
        if let Some(asked) = container.resources.as_mut().and_then(|r| r.requests.as_mut()) {
            asked.retain(|name, _| !requests.contains_key(name));
        }
    };
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(forget);
    if let Some(first) = spec.containers.first_mut() {
        let asked = first.resources.get_or_insert_default().requests.get_or_insert_default();
        asked.extend(requests.iter().map(|(name, amount)| (name.clone(), Quantity(amount.clone()))));
    }
    // What its containers were given is not what this pod would be given.
    if let Some(status) = &mut pod.status {
        (status.container_statuses, status.init_container_statuses) = (None, None);
    }
    let texts: Vec<String> = requests.iter().map(|(name, amount)| format!("{amount} {name}")).collect();
    vec![format!("the pod asks for {}", joined(&texts, "and"))]
}

/// Changes nodes; refused with the field's path where a node is named that is not there.
pub fn change_nodes(cluster: &mut Cluster, changes: &Changes) -> Result<Vec<String>, Faults> {
    let path = Path::new("spec").child("changes");
    let mut faults = Faults::new();
    let known: BTreeSet<String> = cluster.nodes.iter().map(|node| node.name().to_owned()).collect();
    let named = [
        ("removeNodes", &changes.remove_nodes),
        ("cordonNodes", &changes.cordon_nodes),
        ("uncordonNodes", &changes.uncordon_nodes),
    ];
    for (field, names) in named {
        for (index, name) in names.iter().enumerate().filter(|(_, name)| !known.contains(*name)) {
            faults.push(field::Error::not_found(&path.child(field).index(index), name.as_str()));
        }
    }
    for (index, tainted) in changes.taint_nodes.iter().enumerate() {
        if !known.contains(&tainted.node_name) {
            let path = path.child("taintNodes").index(index).child("nodeName");
            faults.push(field::Error::not_found(&path, tainted.node_name.as_str()));
        }
    }
    let mut assumed = Vec::new();
    // What is added is like what is there before anything is changed.
    let mut added = Vec::new();
    for (index, wanted) in changes.add_nodes.iter().enumerate() {
        match model(cluster, wanted, &path.child("addNodes").index(index)) {
            Ok(node) => added.push((wanted, node)),
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    remove(cluster, &changes.remove_nodes, &mut assumed);
    cordon(cluster, &changes.cordon_nodes, true, &mut assumed);
    cordon(cluster, &changes.uncordon_nodes, false, &mut assumed);
    for tainted in &changes.taint_nodes {
        taint(cluster, &tainted.node_name, &tainted.taint, &mut assumed);
    }
    add(cluster, &known, added, &mut assumed);
    Ok(assumed)
}

fn remove(cluster: &mut Cluster, names: &[String], assumed: &mut Vec<String>) {
    if names.is_empty() {
        return;
    }
    let removed: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let gone = |name: &str| removed.contains(name);
    cluster.nodes.retain(|node| !gone(node.name()));
    cluster.pods.retain(|pod| !node_name(pod).is_some_and(gone));
    assumed.push(format!("{} removed, with the pods there", joined(names, "and")));
}

fn each<'a>(cluster: &'a mut Cluster, names: &'a [String]) -> impl Iterator<Item = &'a mut Node> {
    let named: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    cluster.nodes.iter_mut().filter(move |node| named.contains(node.name())).map(Arc::make_mut)
}

fn cordon(cluster: &mut Cluster, names: &[String], cordoned: bool, assumed: &mut Vec<String>) {
    for node in each(cluster, names) {
        let spec = node.spec.get_or_insert_default();
        spec.unschedulable = cordoned.then_some(true);
        // The API has both, and keeps them together.
        if let Some(taints) = &mut spec.taints {
            taints.retain(|taint| cordoned || taint.key != "node.kubernetes.io/unschedulable");
        }
    }
    if !names.is_empty() {
        let what = if cordoned { "cordoned" } else { "uncordoned" };
        assumed.push(format!("{} {what}", joined(names, "and")));
    }
}

fn taint(cluster: &mut Cluster, name: &str, taint: &Taint, assumed: &mut Vec<String>) {
    for node in each(cluster, &[name.to_owned()]) {
        let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
        taints.retain(|known| known.key != taint.key || known.effect != taint.effect);
        taints.push(WireTaint {
            key: taint.key.clone(),
            value: (!taint.value.is_empty()).then(|| taint.value.clone()),
            effect: taint.effect.clone(),
            time_added: None,
        });
    }
    let value = if taint.value.is_empty() { String::new() } else { format!("={}", taint.value) };
    assumed.push(format!("{name} tainted {}{value}:{}", taint.key, taint.effect));
}

/// The node that the added ones are like, and in which words.
struct Model {
    node: Node,
    words: String,
}

fn model(cluster: &Cluster, wanted: &AddedNodes, path: &Path) -> Result<Model, field::Error> {
    if let Some(described) = &wanted.node {
        let node = serde_json::from_value::<Node>(Value::clone(described));
        let node = node.map_err(|error| field::Error::invalid(&path.child("node"), "", error.to_string()))?;
        return Ok(Model { node: bare(node), words: "as described".to_owned() });
    }
    let mut nodes: Vec<&Arc<Node>> = cluster.nodes.iter().collect();
    nodes.sort_by_key(|node| node.name());
    let like = nodes.into_iter().find(|node| wanted.like.is_empty() || node.name() == wanted.like);
    let like = like.ok_or_else(|| match wanted.like.as_str() {
        "" => field::Error::required(&path.child("node"), "there is no node another could be like"),
        name => field::Error::not_found(&path.child("like"), name),
    })?;
    Ok(Model { words: format!("like {}", like.name()), node: fresh(like) })
}

/// The same node as it was when it was new.
fn fresh(node: &Node) -> Node {
    let mut node = bare(node.clone());
    if let Some(spec) = &mut node.spec {
        spec.unschedulable = None;
        if let Some(taints) = &mut spec.taints {
            taints.retain(|taint| !taint.key.starts_with(STATE_TAINTS));
        }
    }
    node
}

/// What decisions look at, of a node without images: each node that is added keeps a copy.
fn bare(mut node: Node) -> Node {
    (node.metadata.annotations, node.metadata.managed_fields) = (None, None);
    if let Some(status) = &mut node.status {
        status.images = None;
    }
    node
}

fn add(
    cluster: &mut Cluster,
    known: &BTreeSet<String>,
    models: Vec<(&AddedNodes, Model)>,
    assumed: &mut Vec<String>,
) {
    let mut names = (1..).map(|number| format!("added-{number}")).filter(|name| !known.contains(name));
    for (wanted, model) in models {
        for name in names.by_ref().take(wanted.count as usize) {
            let mut node = model.node.clone();
            let labels = node.metadata.labels.get_or_insert_default();
            labels.insert(HOSTNAME.to_owned(), name.clone());
            node.metadata.name = Some(name);
            cluster.nodes.push(Arc::new(node));
        }
        let (count, plural) = (wanted.count, if wanted.count == 1 { "" } else { "s" });
        assumed.push(format!("{count} node{plural} more, {}", model.words));
    }
}
