//! Server-side apply against a slow model: an object is a flat set of places, each manager owns
//! some of them, and every rule is one sentence over those sets.

use std::collections::{BTreeMap, BTreeSet};

use amphipod_api::apply::{self, Fields, OneVersion, Tracked, Writer};
use amphipod_api::schema::Node;
use serde_json::{Map, Value, json};

use crate::choices::some;
use crate::for_seeds;
use crate::rng::Rng;

/// A label, a container, or a field of one; and the two places that hold them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Labels,
    Label(String),
    Containers,
    Container(String),
    Field(String, String),
}

use Place::*;

impl Place {
    fn path(&self) -> Vec<String> {
        let path = |parts: &[&str]| parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let item = |name: &str| format!("k:{{\"name\":\"{name}\"}}");
        match self {
            Labels => path(&["f:metadata", "f:labels"]),
            Label(key) => path(&["f:metadata", "f:labels", &format!("f:{key}")]),
            Containers => path(&["f:spec", "f:containers"]),
            Container(name) => path(&["f:spec", "f:containers", &item(name)]),
            Field(name, field) => path(&["f:spec", "f:containers", &item(name), &format!("f:{field}")]),
        }
    }
    fn is_holder(&self) -> bool {
        matches!(self, Labels | Containers)
    }
}

type Object = BTreeMap<Place, String>;

/// Leaves have values; what holds them is there because they are.
fn with_holders(mut leaves: Object) -> Object {
    for place in leaves.keys().cloned().collect::<Vec<_>>() {
        match place {
            Label(_) => drop(leaves.insert(Labels, String::new())),
            Field(name, _) => {
                leaves.insert(Container(name), String::new());
                leaves.insert(Containers, String::new());
            }
            _ => {}
        }
    }
    leaves
}

fn to_json(object: &Object) -> Value {
    let (mut labels, mut containers) = (Map::new(), BTreeMap::<String, Map<String, Value>>::new());
    for (place, value) in object {
        match place {
            Label(key) => drop(labels.insert(key.clone(), value.as_str().into())),
            Field(name, field) => {
                containers.entry(name.clone()).or_default().insert(field.clone(), value.as_str().into());
            }
            _ => {}
        }
    }
    let mut json = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    if !labels.is_empty() {
        json["metadata"]["labels"] = labels.into();
    }
    if !containers.is_empty() {
        json["spec"]["containers"] = containers.into_values().map(Value::Object).collect();
    }
    json
}

fn from_json(value: &Value) -> Object {
    let mut leaves = Object::new();
    let text = |v: &Value| v.as_str().expect("text").to_owned();
    for (key, value) in value["metadata"]["labels"].as_object().into_iter().flatten() {
        leaves.insert(Label(key.clone()), text(value));
    }
    for container in value["spec"]["containers"].as_array().into_iter().flatten() {
        let name = text(&container["name"]);
        for (field, value) in container.as_object().expect("a container") {
            leaves.insert(Field(name.clone(), field.clone()), text(value));
        }
    }
    with_holders(leaves)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Manager {
    name: &'static str,
    applies: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    object: Object,
    owned: BTreeMap<Manager, BTreeSet<Place>>,
}

impl Model {
    /// Everyone but the writer loses what changed or went.
    fn take(&mut self, new: Object, writer: Option<&Manager>) -> BTreeSet<Place> {
        let changed: BTreeSet<Place> =
            new.iter().filter(|(p, v)| self.object.get(*p) != Some(*v)).map(|(p, _)| p.clone()).collect();
        let gone: Vec<Place> = self.object.keys().filter(|p| !new.contains_key(*p)).cloned().collect();
        for (manager, owned) in &mut self.owned {
            if Some(manager) != writer {
                owned.retain(|p| !changed.contains(p) && !gone.contains(p));
            }
        }
        self.object = new;
        changed
    }

    fn update(&mut self, manager: &Manager, new: Object) {
        let changed = self.take(new, None);
        self.owned.entry(manager.clone()).or_default().extend(changed);
        self.owned.retain(|_, owned| !owned.is_empty());
    }

    /// The places in conflict, or none when it was done.
    fn apply(&mut self, manager: &Manager, config: &Object, force: bool) -> BTreeSet<(Manager, Place)> {
        let leaves = |o: &Object| o.keys().filter(|p| !p.is_holder()).cloned().collect::<BTreeSet<_>>();
        let wanted = leaves(config);
        let mut new: Object = self.object.clone();
        new.extend(config.clone());
        // Of what it applied before and applies no more, goes what nobody else owns.
        let others = |p: &Place| self.owned.iter().any(|(m, owned)| m != manager && owned.contains(p));
        let before = self.owned.get(manager).cloned().unwrap_or_default();
        for place in before.iter().filter(|p| !wanted.contains(*p) && !others(p)) {
            match place {
                // A container takes its fields with it.
                Container(name) => new.retain(|p, _| !matches!(p, Field(n, _) if n == name)),
                place => drop(new.remove(place)),
            }
        }
        new.retain(|p, _| matches!(p, Label(_) | Field(..)));
        let new = with_holders(new);
        let differs = |p: &Place| new.get(p).is_some_and(|v| self.object.get(p) != Some(v));
        let owned_by_others = self.owned.iter().filter(|(m, _)| *m != manager);
        let conflicts: BTreeSet<(Manager, Place)> = owned_by_others
            .flat_map(|(m, owned)| owned.iter().filter(|p| differs(p)).map(|p| (m.clone(), p.clone())))
            .collect();
        if !force && !conflicts.is_empty() {
            return conflicts;
        }
        self.take(new, Some(manager));
        self.owned.insert(manager.clone(), wanted);
        self.owned.retain(|_, owned| !owned.is_empty());
        BTreeSet::new()
    }
}

const KEYS: [&str; 3] = ["a", "b", "c"];
const FIELDS: [&str; 2] = ["image", "workingDir"];
const MANAGERS: [Manager; 4] = [
    Manager { name: "one", applies: true },
    Manager { name: "two", applies: true },
    Manager { name: "three", applies: false },
    Manager { name: "four", applies: false },
];

/// Some labels and containers with one of two values each.
fn random(rng: &mut Rng) -> Object {
    let mut leaves = Object::new();
    let value = |rng: &mut Rng| rng.pick(&["0", "1"]).to_owned();
    for key in some(rng, &KEYS) {
        leaves.insert(Label(key.to_owned()), value(rng));
    }
    for name in some(rng, &KEYS) {
        leaves.insert(Field(name.to_owned(), "name".to_owned()), name.to_owned());
        for field in some(rng, &FIELDS) {
            leaves.insert(Field(name.to_owned(), field.to_owned()), value(rng));
        }
    }
    with_holders(leaves)
}

fn writer<'a>(manager: &Manager, now: &'a str) -> Writer<'a> {
    Writer {
        manager: manager.name,
        api_version: "v1",
        subresource: "",
        now,
        schema: Node::of_kind("", "v1", "Pod"),
        tracked: Tracked::AllBut(&[&["status"]]),
        versions: &OneVersion,
    }
}

/// Who owns what, as the object says.
fn owned(live: &Value) -> BTreeMap<(String, bool), BTreeSet<Vec<String>>> {
    let entries = live["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let read = |e: &Value| {
        let fields = Fields::from_json(&e["fieldsV1"]).expect("fields");
        let name = e["manager"].as_str().expect("a name").to_owned();
        ((name, e["operation"] == "Apply"), fields.paths().into_iter().collect())
    };
    entries.iter().map(read).collect()
}

fn agree(live: &Value, model: &Model, step: &str) {
    assert_eq!(from_json(live), model.object, "{step}: {live}");
    let expected: BTreeMap<(String, bool), BTreeSet<Vec<String>>> = model
        .owned
        .iter()
        .map(|(m, places)| ((m.name.to_owned(), m.applies), places.iter().map(Place::path).collect()))
        .collect();
    assert_eq!(owned(live), expected, "{step}: {live}");
    // Nobody owns what is not there.
    let present: BTreeSet<Vec<String>> = model.object.keys().map(Place::path).collect();
    assert!(owned(live).values().flatten().all(|path| present.contains(path)), "{step}: {live}");
}

fn run(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let (mut live, mut model) = (None::<Value>, Model::default());
    for step in 0..steps {
        let manager = rng.pick(&[&MANAGERS[0], &MANAGERS[1], &MANAGERS[2], &MANAGERS[3]]);
        let (object, force, now) = (random(&mut rng), rng.one_in(3), format!("t{step:03}"));
        let told = format!("step {step}: {manager:?} force={force} {object:?}");
        if !manager.applies {
            if live.is_some() && model.owned.is_empty() {
                continue;
            }
            let mut new = to_json(&object);
            new["metadata"]["uid"] = "u".into();
            apply::update_managers(live.as_ref(), &mut new, &writer(manager, &now));
            model.update(manager, object);
            live = Some(new);
        } else if live.is_none() || !model.owned.is_empty() {
            let outcome = apply::apply(live.as_ref(), &to_json(&object), force, &writer(manager, &now));
            let conflicts = model.apply(manager, &object, force);
            match outcome {
                Ok(new) => {
                    assert!(conflicts.is_empty(), "{told}: {conflicts:?}");
                    let again = apply::apply(Some(&new), &to_json(&object), false, &writer(manager, "later"));
                    assert_eq!(again.as_ref().ok(), Some(&new), "{told}: applied twice");
                    live = Some(new);
                }
                Err(status) => {
                    let causes = status.details.map(|d| d.causes.len());
                    assert_eq!((status.code, causes), (409, Some(conflicts.len())), "{told}");
                }
            }
        }
        if let Some(live) = &live {
            agree(live, &model, &told);
        }
    }
}

#[test]
fn apply_agrees_with_its_model() {
    for_seeds(300, |seed| run(seed, 12));
}

#[test]
fn disjoint_managers_commute() {
    for_seeds(200, |seed| {
        let mut rng = Rng::new(seed);
        let all = random(&mut rng);
        // Labels for the one, containers for the other.
        let (labels, containers): (Object, Object) =
            all.into_iter().partition(|(p, _)| matches!(p, Labels | Label(_)));
        let step = |live: Option<&Value>, manager: &Manager, object: &Object| {
            apply::apply(live, &to_json(object), false, &writer(manager, "t")).expect("no conflict")
        };
        let one = step(Some(&step(None, &MANAGERS[0], &labels)), &MANAGERS[1], &containers);
        let other = step(Some(&step(None, &MANAGERS[1], &containers)), &MANAGERS[0], &labels);
        assert_eq!(one, other);
    });
}
