//! Strategic merge against a slow model of its rules that knows a pod's few fields by name.

use std::collections::BTreeMap;

use amphipod_api::patch::apply_strategic_merge_patch;
use amphipod_api::schema::Node;
use serde_json::{Map, Value, json};

use crate::choices::{shuffle, some};
use crate::for_seeds;
use crate::rng::Rng;

#[derive(Clone, Debug, Default, PartialEq)]
struct Pod {
    labels: BTreeMap<String, String>,
    finalizers: Vec<String>,
    containers: Vec<(String, BTreeMap<String, String>)>,
}

impl Pod {
    fn to_json(&self) -> Value {
        let containers: Vec<Value> = self.containers.iter().map(|(n, f)| container(n, f)).collect();
        json!({"metadata": {"labels": self.labels, "finalizers": self.finalizers}, "spec": {"containers": containers}})
    }
}

fn container(name: &str, fields: &BTreeMap<String, String>) -> Value {
    let mut value = json!(fields);
    value["name"] = name.into();
    value
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const FIELDS: [&str; 3] = ["image", "workingDir", "imagePullPolicy"];

fn fields(rng: &mut Rng) -> BTreeMap<String, String> {
    some(rng, &FIELDS).into_iter().map(|f| (f.to_owned(), rng.pick(&NAMES).to_owned())).collect()
}

fn names(rng: &mut Rng) -> Vec<String> {
    let mut names: Vec<String> = some(rng, &NAMES).into_iter().map(str::to_owned).collect();
    shuffle(rng, &mut names);
    names
}

fn pod(rng: &mut Rng) -> Pod {
    let labels = names(rng).into_iter().map(|n| (n, rng.pick(&NAMES).to_owned())).collect();
    let containers = names(rng).into_iter().map(|n| (n, fields(rng))).collect();
    Pod { labels, finalizers: names(rng), containers }
}

/// What a patch wants, in words.
#[derive(Debug)]
struct Patch {
    /// `None` deletes.
    labels: BTreeMap<String, Option<String>>,
    replace_labels: bool,
    finalizers: Vec<String>,
    without_finalizers: Vec<String>,
    containers: Vec<(String, BTreeMap<String, Option<String>>)>,
    without_containers: Vec<String>,
    replace_containers: bool,
    order: Option<Vec<String>>,
}

fn patch(rng: &mut Rng) -> Patch {
    let all = names(rng);
    let (kept, without): (Vec<String>, Vec<String>) = all.into_iter().partition(|_| !rng.one_in(4));
    let change =
        |rng: &mut Rng, text: &str| (text.to_owned(), (!rng.one_in(3)).then(|| rng.pick(&NAMES).to_owned()));
    let containers = kept.iter().map(|n| {
        let changed = some(rng, &FIELDS);
        (n.clone(), changed.into_iter().map(|f| change(rng, f)).collect())
    });
    let containers: Vec<(String, BTreeMap<String, Option<String>>)> = containers.collect();
    let order = rng.one_in(2).then(|| {
        let mut order: Vec<String> = kept;
        for name in NAMES {
            let at = rng.below(order.len() + 1);
            if !order.contains(&name.to_owned()) && !without.contains(&name.to_owned()) && rng.one_in(2) {
                order.insert(at, name.to_owned());
            }
        }
        order
    });
    let (finalizers, without_finalizers) = names(rng).into_iter().partition(|_| !rng.one_in(3));
    Patch {
        labels: some(rng, &NAMES).into_iter().map(|n| change(rng, n)).collect(),
        replace_labels: rng.one_in(4),
        finalizers,
        without_finalizers,
        containers,
        without_containers: without,
        replace_containers: rng.one_in(5),
        order,
    }
}

impl Patch {
    fn to_json(&self) -> Value {
        let mut labels = json!(self.labels);
        if self.replace_labels {
            labels["$patch"] = "replace".into();
        }
        let named = |(name, fields): &(String, BTreeMap<String, Option<String>>)| {
            let mut value = json!(fields);
            value["name"] = name.as_str().into();
            value
        };
        let mut containers: Vec<Value> = self.containers.iter().map(named).collect();
        containers.extend(self.without_containers.iter().map(|n| json!({"$patch": "delete", "name": n})));
        if self.replace_containers {
            containers.push(json!({"$patch": "replace"}));
        }
        let mut metadata = json!({"labels": labels});
        if !self.finalizers.is_empty() {
            metadata["finalizers"] = json!(self.finalizers);
        }
        if !self.without_finalizers.is_empty() {
            metadata["$deleteFromPrimitiveList/finalizers"] = json!(self.without_finalizers);
        }
        let mut spec = json!({"containers": containers});
        if let Some(order) = &self.order {
            let order: Vec<Value> = order.iter().map(|n| json!({"name": n})).collect();
            spec["$setElementOrder/containers"] = order.into();
        }
        json!({"metadata": metadata, "spec": spec})
    }

    fn apply(&self, pod: &Pod) -> Pod {
        let mut labels = if self.replace_labels { BTreeMap::new() } else { pod.labels.clone() };
        for (key, value) in &self.labels {
            match value {
                Some(value) => drop(labels.insert(key.clone(), value.clone())),
                None => drop(labels.remove(key)),
            }
        }
        let finalizers = self.merged_finalizers(pod);
        Pod { labels, finalizers, containers: self.merged_containers(pod) }
    }

    fn merged_finalizers(&self, pod: &Pod) -> Vec<String> {
        let kept: Vec<String> =
            pod.finalizers.iter().filter(|f| !self.without_finalizers.contains(f)).cloned().collect();
        let rest: Vec<String> = kept.iter().filter(|f| !self.finalizers.contains(f)).cloned().collect();
        ordered(&self.finalizers, &rest, &kept)
    }

    fn merged_containers(&self, pod: &Pod) -> Vec<(String, BTreeMap<String, String>)> {
        let existing = if self.replace_containers { Vec::new() } else { pod.containers.clone() };
        let existing: Vec<_> =
            existing.into_iter().filter(|(n, _)| !self.without_containers.contains(n)).collect();
        let mut merged: BTreeMap<String, BTreeMap<String, String>> = existing.iter().cloned().collect();
        for (name, changes) in &self.containers {
            let fields = merged.entry(name.clone()).or_default();
            for (field, value) in changes {
                match value {
                    Some(value) => drop(fields.insert(field.clone(), value.clone())),
                    None => drop(fields.remove(field)),
                }
            }
        }
        let patched: Vec<String> = self.containers.iter().map(|(n, _)| n.clone()).collect();
        let before: Vec<String> = existing.into_iter().map(|(n, _)| n).collect();
        let rest: Vec<String> = before.iter().filter(|n| !patched.contains(n)).cloned().collect();
        let mut names = ordered(&patched, &rest, &before);
        if let Some(order) = &self.order {
            let first: Vec<String> = order.iter().filter(|n| names.contains(n)).cloned().collect();
            let server: Vec<String> = pod.containers.iter().map(|(n, _)| n.clone()).collect();
            let mut rest: Vec<String> = names.iter().filter(|n| !order.contains(n)).cloned().collect();
            rest.sort_by_key(|n| server.iter().position(|s| s == n));
            names = ordered(&first, &rest, &server);
        }
        names.into_iter().map(|n| (n.clone(), merged[&n].clone())).collect()
    }
}

/// The patch's items in its order, the others in theirs; one of the others goes first exactly where
/// the server had it before the patch's next.
fn ordered(patched: &[String], others: &[String], server: &[String]) -> Vec<String> {
    let place = |name: &String| server.iter().position(|s| s == name);
    let (mut patched, mut others) = (patched.to_vec(), others.to_vec());
    let mut all = Vec::new();
    while !patched.is_empty() || !others.is_empty() {
        let other_first = match (others.first(), patched.first()) {
            (Some(other), Some(patch)) => matches!((place(other), place(patch)), (Some(o), Some(p)) if o < p),
            (other, _) => other.is_some(),
        };
        all.push(if other_first { others.remove(0) } else { patched.remove(0) });
    }
    all
}

/// Empty containers of fields say nothing.
fn tidy(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(k, v)| (k, tidy(v)));
            Value::Object(kept.filter(|(_, v)| *v != json!({}) && *v != json!([])).collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[test]
fn strategic_merge_agrees_with_its_model() {
    let schema = Node::of_kind("", "v1", "Pod");
    for_seeds(2000, |seed| {
        let mut rng = Rng::new(seed);
        let (pod, patch) = (pod(&mut rng), patch(&mut rng));
        let merged = apply_strategic_merge_patch(&pod.to_json(), &patch.to_json(), schema);
        let merged = merged.unwrap_or_else(|e| panic!("{}: {}", patch.to_json(), e.message));
        let expected = patch.apply(&pod).to_json();
        assert_eq!(tidy(merged), tidy(expected), "{} patched with {}", pod.to_json(), patch.to_json());
    });
}
