//! The `HollowConfiguration` file, and the flags that say the same of one group of nodes: read into
//! [`Config`], or refused with the path of every field at fault. Documented in `docs/hollow-nodes.md`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amphipod_api::codec::{parse_document, parse_go_duration};
use amphipod_api::field::{Error, Faults, Path};
use amphipod_api::names;
use amphipod_api::node_labels::kubelet_may_set;
use amphipod_api::quantity::Quantity;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use serde_json::{Map, Value, json};

use super::chance::Span;
use super::config::{Behaviour, CAPACITY, CRASH_AFTER, Config, Group, NAME_PREFIX, Outages, Readiness};
use crate::pod::resources::Amounts;

const API_VERSION: &str = "hollow.amphipod.io/v1alpha1";
const KIND: &str = "HollowConfiguration";
const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// Far beyond what one API server is made for; a slip of the finger must not fill the disk.
const NODES_MAX: u32 = 100_000;
const NANOS_PER_UNIT: i128 = 1_000_000_000;
const GROUP_FIELDS: [&str; 12] = [
    "count",
    "namePrefix",
    "capacity",
    "allocatable",
    "labels",
    "annotations",
    "taints",
    "region",
    "zones",
    "latencies",
    "failures",
    "outages",
];
static NULL: Value = Value::Null;

/// Reads a file. `total`: how many nodes there are, 0 if the file says; groups without a count share
/// what the others leave.
pub fn parse(text: &str, total: u32, pod_cidr: IpNet) -> Result<Config, String> {
    let document = parse_document(text.as_bytes(), true)?;
    let faults = RefCell::default();
    let top = At { value: &document, path: Path::default(), faults: &faults };
    top.only(&["apiVersion", "kind", "seed", "events", "nodes"]);
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let given = top.child(field);
        if given.text().is_some_and(|text| text != wanted) {
            given.fault(Error::not_supported(&given.path, given.value.clone(), &[wanted]));
        }
    }
    let nodes = top.child("nodes");
    let groups: Vec<At> = nodes.items();
    if groups.is_empty() {
        nodes.fault(Error::required(&nodes.path, "at least one group of nodes"));
    }
    let counts = counts(&nodes, &groups, total);
    let groups = groups.iter().zip(counts).map(|(at, count)| group(at, count)).collect();
    let config = Config {
        seed: top.child("seed").unsigned(u64::MAX).unwrap_or(0),
        events: top.child("events").truth(),
        pod_cidr,
        groups,
    };
    if config.count() == 0 && faults.borrow().is_empty() {
        nodes.fault(Error::invalid(&nodes.path, 0, "there must be at least one node"));
    }
    check_names(&nodes, &config);
    outcome(config, faults.into_inner())
}

/// What flags say of the one group there is: field and its entries, `key=value` or plain, and taints as
/// `key=value:effect`. Fields at fault are named as the flags are.
pub fn from_flags(total: u32, flags: &[(&str, &[String])], pod_cidr: IpNet) -> Result<Config, String> {
    let mut object = Map::new();
    for (field, entries) in flags.iter().filter(|(_, entries)| !entries.is_empty()) {
        let value = match *field {
            "zones" => json!(entries),
            "taints" => entries.iter().map(|entry| taint_of(entry)).collect(),
            _ => entries
                .iter()
                .map(|entry| {
                    let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
                    (key.to_owned(), Value::from(value))
                })
                .collect::<Map<String, Value>>()
                .into(),
        };
        object.insert((*field).to_owned(), value);
    }
    let document = Value::Object(object);
    let faults = RefCell::default();
    let top = At { value: &document, path: Path::default(), faults: &faults };
    let config = Config { seed: 0, events: false, pod_cidr, groups: vec![group(&top, total)] };
    if total > NODES_MAX {
        top.fault(too_many_nodes(&Path::new("nodes"), total));
    }
    outcome(config, faults.into_inner())
        .map_err(|text| text.lines().map(|line| format!("--hollow-{line}")).collect::<Vec<_>>().join("\n"))
}

fn outcome(config: Config, faults: Faults) -> Result<Config, String> {
    if faults.is_empty() {
        return Ok(config);
    }
    Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn taint_of(entry: &str) -> Value {
    let (rest, effect) = entry.rsplit_once(':').unwrap_or((entry, ""));
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    json!({"key": key, "value": value, "effect": effect})
}

fn too_many_nodes(path: &Path, count: u32) -> Error {
    Error::invalid(path, count, format!("must be no more than {NODES_MAX} nodes"))
}

/// How many nodes each group has.
fn counts(nodes: &At, groups: &[At], total: u32) -> Vec<u32> {
    let given: Vec<Option<u32>> = groups
        .iter()
        .map(|group| {
            let count = group.child("count").unsigned(u64::from(NODES_MAX));
            count.and_then(|count| u32::try_from(count).ok())
        })
        .collect();
    let told: u32 = given.iter().flatten().fold(0, |sum, count| sum.saturating_add(*count));
    let open: Vec<&At> =
        groups.iter().zip(&given).filter(|(_, given)| given.is_none()).map(|(at, _)| at).collect();
    if total == 0 {
        for at in &open {
            let count = at.child("count");
            if count.value.is_null() {
                count.fault(Error::required(&count.path, "unless --hollow-nodes says how many there are"));
            }
        }
    } else if told > total || (told < total && open.is_empty()) {
        let detail = format!("groups count {told} nodes, --hollow-nodes says {total}");
        nodes.fault(Error::invalid(&nodes.path, told, detail));
    }
    if told.max(total) > NODES_MAX {
        nodes.fault(too_many_nodes(&nodes.path, told.max(total)));
    }
    let left = total.saturating_sub(told);
    let sharers = u32::try_from(open.len()).unwrap_or(u32::MAX).max(1);
    let mut shares = (0..).map(|turn| left / sharers + u32::from(turn < left % sharers));
    given.into_iter().map(|count| count.or_else(|| shares.next()).unwrap_or(0)).collect()
}

fn group(at: &At, count: u32) -> Group {
    at.only(&GROUP_FIELDS);
    let name_prefix = at.child("namePrefix");
    let prefix = name_prefix.text().unwrap_or(NAME_PREFIX);
    // Nodes differ in their numbers, so what holds for the last name holds for all. Each is a label's value.
    let last = format!("{prefix}{}", count.saturating_sub(1));
    let faults = Some(names::dns1123_subdomain(&last)).filter(|faults| !faults.is_empty());
    for text in faults.unwrap_or_else(|| names::label_value(&last)) {
        name_prefix.fault(Error::invalid(&name_prefix.path, prefix, text));
    }
    let mut capacity: Amounts =
        CAPACITY.iter().filter_map(|(k, v)| Some(((*k).to_owned(), Quantity::parse(v).ok()?))).collect();
    capacity.extend(at.child("capacity").amounts());
    let mut allocatable = capacity.clone();
    let less = at.child("allocatable");
    for (name, amount) in less.amounts() {
        let at = less.path.key(&name);
        match capacity.get(&name) {
            Some(whole) if amount <= *whole => {}
            Some(whole) => {
                less.fault(Error::invalid(&at, amount.to_string(), format!("must be at most {whole}")))
            }
            None => less.fault(Error::not_found(&at, name.as_str())),
        }
        allocatable.insert(name, amount);
    }
    Group {
        count,
        name_prefix: prefix.to_owned(),
        capacity,
        allocatable,
        labels: labels(&at.child("labels")),
        annotations: at.child("annotations").texts(|_| Vec::new()),
        taints: taints(&at.child("taints")),
        region: at.child("region").label(),
        zones: at.child("zones").items().iter().filter_map(At::label).collect(),
        behaviour: behaviour(&at.child("latencies"), &at.child("failures")),
        outages: outages(&at.child("outages")),
    }
}

/// What a kubelet may say of its node.
fn labels(at: &At) -> BTreeMap<String, String> {
    let labels = at.texts(names::label_value);
    for key in labels.keys().filter(|key| !kubelet_may_set(key)) {
        at.fault(Error::forbidden(&at.path.key(key), "kubelets are not let set this label"));
    }
    labels
}

fn behaviour(latencies: &At, failures: &At) -> Behaviour {
    latencies.only(&["start", "init", "ready", "stop", "completion"]);
    failures.only(&["imagePull", "crash", "crashAfter", "ready"]);
    let latency = |name| latencies.child(name).span();
    let (ready, never) = (latency("ready"), failures.child("ready"));
    let is_told = ready.is_some() || !never.value.is_null();
    let readiness = Readiness { after: ready.unwrap_or_default(), never: never.share() };
    Behaviour {
        start: latency("start").unwrap_or_default(),
        init: latency("init").unwrap_or_default(),
        stop: latency("stop").unwrap_or_default(),
        completion: latency("completion"),
        image_pull_failures: failures.child("imagePull").share(),
        crashes: failures.child("crash").share(),
        crash_after: failures.child("crashAfter").span().unwrap_or(CRASH_AFTER),
        readiness: is_told.then_some(readiness),
    }
}

fn outages(at: &At) -> Option<Outages> {
    at.only(&["after", "duration"]);
    if at.value.is_null() {
        return None;
    }
    let span = |name| {
        let field = at.child(name);
        let span = field.span();
        if field.value.is_null() || span.is_some_and(Span::is_zero) {
            at.fault(Error::required(&field.path, "a duration above 0"));
        }
        span.unwrap_or_default()
    };
    Some(Outages { after: span("after"), duration: span("duration") })
}

fn taints(at: &At) -> Vec<Taint> {
    let mut seen = BTreeSet::new();
    let read = |at: At| {
        at.only(&["key", "value", "effect"]);
        let (key, value, effect) = (at.child("key"), at.child("value"), at.child("effect"));
        key.check(names::qualified_name);
        value.check(names::label_value);
        let name = effect.text().unwrap_or("");
        if !TAINT_EFFECTS.contains(&name) {
            effect.fault(Error::not_supported(&effect.path, name, &TAINT_EFFECTS));
        }
        let taint = Taint {
            key: key.value.as_str().unwrap_or("").to_owned(),
            value: value.value.as_str().filter(|v| !v.is_empty()).map(str::to_owned),
            effect: name.to_owned(),
            time_added: None,
        };
        if !seen.insert((taint.key.clone(), taint.effect.clone())) {
            at.fault(Error::duplicate(&at.path, at.value.clone()));
        }
        taint
    };
    at.items().into_iter().map(read).collect()
}

/// No two nodes may have one name.
fn check_names(nodes: &At, config: &Config) {
    let mut seen = BTreeSet::new();
    for (index, group) in config.groups.iter().enumerate() {
        let twice = (0..group.count.min(NODES_MAX)).map(|number| group.node_name(number)).find(|name| {
            let is_new = seen.insert(name.clone());
            !is_new
        });
        if let Some(name) = twice {
            let at = nodes.path.index(index).child("namePrefix");
            let mut fault = Error::duplicate(&at, group.name_prefix.as_str());
            fault.detail = format!("another group has a node {name}");
            nodes.fault(fault);
        }
    }
}

/// A place in the document; what is wrong with it goes to one list.
struct At<'a> {
    value: &'a Value,
    path: Path,
    faults: &'a RefCell<Faults>,
}

impl<'a> At<'a> {
    fn fault(&self, fault: Error) {
        self.faults.borrow_mut().push(fault);
    }
    fn mistyped(&self, wanted: &str) {
        self.fault(Error::type_invalid(&self.path, self.value.clone(), format!("must be {wanted}")));
    }
    fn at(&self, value: &'a Value, path: Path) -> At<'a> {
        At { value, path, faults: self.faults }
    }
    fn child(&self, name: &str) -> At<'a> {
        self.at(self.value.get(name).unwrap_or(&NULL), self.path.child(name))
    }
    fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        if !self.value.is_null() && !self.value.is_object() {
            self.mistyped("a map");
        }
        self.value.as_object().into_iter().flatten()
    }
    fn items(&self) -> Vec<At<'a>> {
        if !self.value.is_null() && !self.value.is_array() {
            self.mistyped("a list");
        }
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(|(index, value)| self.at(value, self.path.index(index))).collect()
    }
    fn only(&self, fields: &[&str]) {
        for (name, _) in self.entries().filter(|(name, _)| !fields.contains(&name.as_str())) {
            let detail = format!("unknown field; there are {}", fields.join(", "));
            self.fault(Error::forbidden(&self.path.child(name), detail));
        }
    }

    fn text(&self) -> Option<&'a str> {
        if !self.value.is_null() && !self.value.is_string() {
            self.mistyped("a string");
        }
        self.value.as_str()
    }
    fn truth(&self) -> bool {
        if !self.value.is_null() && !self.value.is_boolean() {
            self.mistyped("true or false");
        }
        self.value.as_bool().unwrap_or(false)
    }
    fn unsigned(&self, max: u64) -> Option<u64> {
        let number = self.value.as_u64().filter(|n| *n <= max);
        if !self.value.is_null() && number.is_none() {
            self.mistyped(&format!("a whole number from 0 to {max}"));
        }
        number
    }
    fn check(&self, rule: fn(&str) -> Vec<String>) {
        let text = self.text().unwrap_or("");
        for why in rule(text) {
            self.fault(Error::invalid(&self.path, text, why));
        }
    }
    fn label(&self) -> Option<String> {
        self.check(names::label_value);
        self.value.as_str().map(str::to_owned)
    }
    fn texts(&self, rule: fn(&str) -> Vec<String>) -> BTreeMap<String, String> {
        let entries = self.entries().map(|(key, value)| {
            let at = self.at(value, self.path.key(key));
            for why in names::qualified_name(key) {
                at.fault(Error::invalid(&self.path, key.as_str(), why));
            }
            at.check(rule);
            (key.clone(), value.as_str().unwrap_or("").to_owned())
        });
        entries.collect()
    }

    /// Numbers may stand without quotes, as people write them.
    fn plain(&self) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null => None,
            _ => {
                self.mistyped("a string or a number");
                None
            }
        }
    }
    fn amounts(&self) -> Amounts {
        let mut amounts = Amounts::new();
        for (name, value) in self.entries() {
            let at = self.at(value, self.path.key(name));
            for why in names::qualified_name(name) {
                at.fault(Error::invalid(&at.path, name.as_str(), why));
            }
            let text = at.plain().unwrap_or_default();
            match Quantity::parse(&text) {
                Err(why) => at.fault(Error::invalid(&at.path, text, why.to_string())),
                Ok(amount) if amount.is_negative() => {
                    at.fault(Error::invalid(&at.path, text, "must be greater than or equal to 0"))
                }
                Ok(amount) if is_whole(name) && amount.nanos() % NANOS_PER_UNIT != 0 => {
                    at.fault(Error::invalid(&at.path, text, "must be an integer"))
                }
                Ok(amount) => {
                    amounts.insert(name.clone(), amount);
                }
            }
        }
        amounts
    }
    fn share(&self) -> f64 {
        let Some(text) = self.plain() else { return 0.0 };
        match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => share,
            _ => {
                self.fault(Error::invalid(&self.path, text, "must be a number from 0 to 1"));
                0.0
            }
        }
    }
    /// `250ms`, or `1s-5s`.
    fn span(&self) -> Option<Span> {
        let text = self.text()?;
        let parsed = match text.split_once('-') {
            None => duration(text).map(Span::fixed),
            Some((min, max)) => {
                let bounds = duration(min).zip(duration(max));
                bounds.filter(|(min, max)| min <= max).map(|(min, max)| Span { min, max })
            }
        };
        if parsed.is_none() {
            let detail = "must be a duration like 250ms, or a range like 1s-5s";
            self.fault(Error::invalid(&self.path, text, detail));
        }
        parsed
    }
}

/// Pods and what only comes in pieces.
fn is_whole(resource: &str) -> bool {
    resource == "pods" || resource.contains('/')
}

fn duration(text: &str) -> Option<Duration> {
    Some(Duration::from_nanos(u64::try_from(parse_go_duration(text)?).ok()?))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
