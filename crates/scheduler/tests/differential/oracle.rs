//! The slow scheduler: every node, every plugin, straight from API objects, with nothing remembered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use amphipod_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    Container, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Taint,
    Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::devices::ELSEWHERE;
use crate::world::{PREEMPTED, World, key};

type Labels = BTreeMap<String, String>;
type Amounts = BTreeMap<String, i64>;
/// Reasons, and whether fewer pods on the node could help.
pub type Verdict = Result<(), (Vec<String>, bool)>;
type Rank = (usize, i32, i64, usize, Reverse<i128>);

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// How both schedulers are configured, where that is not the default.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub prefers_full_nodes: bool,
    pub hard_weight: i64,
    pub ignores_wishes_of_others: bool,
}

pub struct Oracle<'a> {
    world: &'a World,
    settings: Settings,
    placed: Vec<Pod>,
}

pub fn refuse(reason: &str, resolvable: bool) -> Verdict {
    Err((vec![reason.to_owned()], resolvable))
}
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().expect("a specification")
}
pub fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().expect("a name")
}
pub fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().expect("a namespace")
}
fn labels(pod: &Pod) -> Labels {
    pod.metadata.labels.clone().unwrap_or_default()
}
pub fn never_preempts(pod: &Pod) -> bool {
    spec(pod).preemption_policy.as_deref() == Some("Never")
}
fn priority(pod: &Pod) -> i32 {
    spec(pod).priority.unwrap_or(0)
}
pub fn is_on(pod: &Pod, node: &Node) -> bool {
    spec(pod).node_name.as_deref() == Some(name(node))
}
fn started(pod: &Pod) -> i128 {
    let time = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    time.map_or(i128::MAX, |time| time.0.as_nanosecond())
}

fn requirement(key: &str, operator: &str, values: &[String], labels: &Labels) -> bool {
    let value = labels.get(key);
    let number = |text: &String| text.parse::<i64>().expect("a number");
    match operator {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => !value.is_some_and(|v| values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.is_some_and(|v| number(v) > number(&values[0])),
        "Lt" => value.is_some_and(|v| number(v) < number(&values[0])),
        other => panic!("operator {other}"),
    }
}
pub fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|r| requirement(&r.key, &r.operator, r.values.as_deref().unwrap_or_default(), labels))
}
pub fn term_selects(term: &NodeSelectorTerm, node: &Node) -> bool {
    let own = node.metadata.labels.clone().unwrap_or_default();
    let fields: Labels = [("metadata.name".to_owned(), name(node).to_owned())].into();
    let holds = |r: &NodeSelectorRequirement, labels: &Labels| {
        requirement(&r.key, &r.operator, r.values.as_deref().unwrap_or_default(), labels)
    };
    let (expressions, names) = (term.match_expressions.iter().flatten(), term.match_fields.iter().flatten());
    (expressions.clone().count() + names.clone().count() > 0)
        && expressions.into_iter().all(|r| holds(r, &own))
        && names.into_iter().all(|r| holds(r, &fields))
}
fn node_terms(pod: &Pod) -> Option<&[NodeSelectorTerm]> {
    let affinity = spec(pod).affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&required.node_selector_terms)
}
fn affinity_admits(pod: &Pod, node: &Node) -> bool {
    let selector = spec(pod).node_selector.iter().flatten();
    selector.into_iter().all(|(key, value)| label(node, key) == Some(value))
        && node_terms(pod).is_none_or(|terms| terms.iter().any(|term| term_selects(term, node)))
}
/// The nodes every term names; an error if that leaves none.
fn named(pod: &Pod) -> Result<Option<BTreeSet<String>>, ()> {
    let mut all = BTreeSet::new();
    let terms = node_terms(pod).unwrap_or_default();
    for term in terms {
        let names = term.match_fields.iter().flatten().filter(|r| r.operator == "In");
        let sets =
            names.map(|r| r.values.clone().unwrap_or_default().into_iter().collect::<BTreeSet<String>>());
        match sets.reduce(|a, b| a.intersection(&b).cloned().collect()) {
            None => return Ok(None),
            Some(names) => all.extend(names),
        }
    }
    match terms {
        [] => Ok(None),
        _ if all.is_empty() => Err(()),
        _ => Ok(Some(all)),
    }
}

fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (wanted_key, wanted_effect) = (text(&t.key), text(&t.effect));
    (wanted_effect.is_empty() || wanted_effect == taint.effect)
        && (wanted_key.is_empty() || wanted_key == taint.key)
        && (text(&t.operator) == "Exists" || text(&t.value) == text(&taint.value))
}
fn tolerated(pod: &Pod, taint: &Taint) -> bool {
    spec(pod).tolerations.iter().flatten().any(|t| tolerates(t, taint))
}
fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}
fn taints_tolerated(pod: &Pod, node: &Node) -> bool {
    taints(node).iter().filter(|t| t.effect != "PreferNoSchedule").all(|taint| tolerated(pod, taint))
}

fn amounts(wire: Option<&BTreeMap<String, WireQuantity>>) -> Amounts {
    let parse = |(name, text): (&String, &WireQuantity)| {
        let quantity = Quantity::parse(&text.0).expect("a quantity");
        (name.clone(), if name == "cpu" { quantity.milli() } else { quantity.units() })
    };
    wire.into_iter().flatten().map(parse).collect()
}
fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += amount;
    }
}
fn raise(sum: &mut Amounts, to: &Amounts) {
    for (name, amount) in to {
        let mine = sum.entry(name.clone()).or_default();
        *mine = (*mine).max(*amount);
    }
}
/// With `fill`, containers that name no CPU or memory are given some.
fn requests(pod: &Pod, fill: bool) -> Amounts {
    let whole = amounts(spec(pod).resources.as_ref().and_then(|r| r.requests.as_ref()));
    let plain = if fill { requests(pod, false) } else { Amounts::new() };
    let of = |container: &Container| {
        let mut own = amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
        for (name, default) in [("cpu", 100), ("memory", 200 << 20)] {
            let silent = whole.is_empty() || plain.get(name).copied().unwrap_or(0) == 0;
            if fill && silent && !own.contains_key(name) {
                own.insert(name.to_owned(), default);
            }
        }
        own
    };
    let mut sum = Amounts::new();
    spec(pod).containers.iter().for_each(|container| add(&mut sum, &of(container)));
    // At most one init container in these tests.
    for init in spec(pod).init_containers.iter().flatten() {
        if init.restart_policy.is_some() {
            add(&mut sum, &of(init));
        } else {
            raise(&mut sum, &of(init));
        }
    }
    sum.extend(whole);
    add(&mut sum, &amounts(spec(pod).overhead.as_ref()));
    sum
}
fn allocatable(node: &Node) -> Amounts {
    amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref()))
}

fn ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let sidecars = spec(pod).init_containers.iter().flatten().filter(|c| c.restart_policy.is_some());
    let ports = spec(pod).containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0".to_owned());
            Some((ip, port.protocol.clone()?, port.host_port?))
        })
        .collect()
}

fn required(pod: &Pod, near: bool) -> Vec<PodAffinityTerm> {
    let Some(affinity) = &spec(pod).affinity else { return Vec::new() };
    let terms = if near {
        affinity
            .pod_affinity
            .as_ref()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.clone())
    } else {
        let apart = affinity.pod_anti_affinity.as_ref();
        apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.clone())
    };
    terms.unwrap_or_default()
}
fn preferred(pod: &Pod) -> Vec<(i64, PodAffinityTerm)> {
    let Some(affinity) = &spec(pod).affinity else { return Vec::new() };
    let near = affinity.pod_affinity.as_ref();
    let near = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.clone());
    let apart = affinity.pod_anti_affinity.as_ref();
    let apart = apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.clone());
    let near = near.unwrap_or_default().into_iter().map(|t| (i64::from(t.weight), t.pod_affinity_term));
    let apart = apart.unwrap_or_default().into_iter().map(|t| (-i64::from(t.weight), t.pod_affinity_term));
    near.chain(apart).collect()
}
/// Whether the labels a term or constraint compares with those of its owner are (not) equal.
fn keys_agree(keys: &Option<Vec<String>>, owner: &Pod, other: &Pod, equal: bool) -> bool {
    keys.iter().flatten().all(|key| match labels(owner).get(key) {
        None => true,
        Some(value) => (labels(other).get(key) == Some(value)) == equal,
    })
}

impl<'a> Oracle<'a> {
    pub fn new(world: &'a World, settings: Settings) -> Self {
        let counts = |pod: &&Pod| {
            let finished = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded");
            !finished && spec(pod).node_name.as_ref().is_some_and(|node| world.nodes.contains_key(node))
        };
        Oracle { world, settings, placed: world.pods.values().filter(counts).cloned().collect() }
    }

    /// The feasible nodes and their total scores.
    pub fn scores(&self, pod: &Pod) -> BTreeMap<String, i64> {
        let feasible: Vec<&Node> =
            self.world.nodes.values().filter(|n| self.verdict(pod, n).is_ok()).collect();
        let marks = [
            (3, normalise(feasible.iter().map(|n| unwelcome(pod, n)).collect(), true)),
            (2, normalise(feasible.iter().map(|n| preference(pod, n)).collect(), false)),
            (1, feasible.iter().map(|n| self.allocated(pod, n)).collect()),
            (1, feasible.iter().map(|n| self.balanced(pod, n)).collect()),
            (1, feasible.iter().map(|n| self.images(pod, n)).collect()),
            (2, self.spreading(pod, &feasible)),
            (2, self.affinity(pod, &feasible)),
            (1, normalise(feasible.iter().map(|n| self.world.devices.preference(pod, n)).collect(), false)),
        ];
        let total = |i: usize| marks.iter().map(|(weight, marks)| weight * marks[i]).sum();
        feasible.iter().enumerate().map(|(i, node)| (name(node).to_owned(), total(i))).collect()
    }

    /// Why no node at all will do.
    pub fn before(&self, pod: &Pod) -> Option<String> {
        let conflict = || "pod affinity terms conflict".to_owned();
        named(pod)
            .err()
            .map(|()| conflict())
            .or_else(|| self.world.storage.before(pod))
            .or_else(|| self.world.devices.before(pod))
    }
    /// Why a node will not do.
    pub fn refusal(&self, pod: &Pod, node: &str) -> Vec<String> {
        self.verdict(pod, &self.world.nodes[node]).err().map_or_else(Vec::new, |(reasons, _)| reasons)
    }
    /// The pod's claims that may give their devices back, as no node will do.
    pub fn in_the_way(&self, pod: &Pod) -> BTreeSet<String> {
        let elsewhere =
            |node: &&Node| self.verdict(pod, node).is_err_and(|(reasons, _)| reasons == [ELSEWHERE]);
        let nodes: Vec<&Node> = self.world.nodes.values().filter(elsewhere).collect();
        self.world.devices.in_the_way(pod, &nodes)
    }
    /// Why nodes will not do, counted.
    pub fn reasons(&self, pod: &Pod) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        if self.before(pod).is_some() {
            return counts;
        }
        for node in self.world.nodes.values() {
            for reason in self.verdict(pod, node).err().into_iter().flat_map(|(reasons, _)| reasons) {
                *counts.entry(reason).or_default() += 1;
            }
        }
        counts
    }

    fn verdict(&self, pod: &Pod, node: &Node) -> Verdict {
        if let Some(reason) = self.before(pod) {
            return refuse(&reason, false);
        }
        match named(pod) {
            Ok(Some(names)) if !names.contains(name(node)) => {
                return refuse("node(s) didn't satisfy plugin(s) [NodeAffinity]", false);
            }
            _ => {}
        }
        self.with_nominated(&self.placed, pod, node)
    }
    fn with_nominated(&self, placed: &[Pod], pod: &Pod, node: &Node) -> Verdict {
        let mut more = placed.to_vec();
        for (waiting, at) in self.world.nominated.values() {
            if at == name(node) && priority(waiting) >= priority(pod) {
                let mut waiting = waiting.clone();
                waiting.spec.as_mut().expect("a specification").node_name = Some(at.clone());
                more.push(waiting);
            }
        }
        self.filter(&more, pod, node)?;
        self.filter(placed, pod, node)
    }

    fn filter(&self, placed: &[Pod], pod: &Pod, node: &Node) -> Verdict {
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
        if cordoned && !tolerated(pod, &cordon) {
            return refuse("node(s) were unschedulable", false);
        }
        if !taints_tolerated(pod, node) {
            return refuse("node(s) had untolerated taint(s)", false);
        }
        if !affinity_admits(pod, node) {
            return refuse("node(s) didn't match Pod's node affinity/selector", false);
        }
        let here: Vec<&Pod> = placed.iter().filter(|p| is_on(p, node)).collect();
        let clashes = |(ip, protocol, port): &(String, String, i32), taken: &(String, String, i32)| {
            (protocol, port) == (&taken.1, &taken.2)
                && (ip == &taken.0 || ip == "0.0.0.0" || taken.0 == "0.0.0.0")
        };
        let taken: Vec<_> = here.iter().flat_map(|p| ports(p)).collect();
        if ports(pod).iter().any(|port| taken.iter().any(|other| clashes(port, other))) {
            return refuse("node(s) didn't have free ports for the requested pod ports", true);
        }
        fit(&here, pod, node)?;
        self.world.storage.filter(&self.placed, placed, pod, node)?;
        self.world.devices.filter(pod, node)?;
        self.spread_evenly(placed, pod, node)?;
        self.rules_hold(placed, pod, node)
    }

    fn spread_evenly(&self, placed: &[Pod], pod: &Pod, node: &Node) -> Verdict {
        let hard: Vec<&TopologySpreadConstraint> = spec(pod)
            .topology_spread_constraints
            .iter()
            .flatten()
            .filter(|c| c.when_unsatisfiable == "DoNotSchedule")
            .collect();
        for constraint in &hard {
            let Some(here) = label(node, &constraint.topology_key) else {
                return refuse(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                    false,
                );
            };
            let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
            for other in self.world.nodes.values() {
                let complete = hard.iter().all(|c| label(other, &c.topology_key).is_some());
                if complete && includes(constraint, pod, other) {
                    let domain = label(other, &constraint.topology_key).expect("it is complete");
                    let there = placed.iter().filter(|p| is_on(p, other));
                    *domains.entry(domain).or_default() +=
                        there.filter(|p| counts(constraint, pod, p)).count() as i64;
                }
            }
            let enough = domains.len() as i64 >= i64::from(constraint.min_domains.unwrap_or(1));
            let least = if enough { domains.values().copied().min().unwrap_or(0) } else { 0 };
            let itself = i64::from(selects_with_keys(constraint, pod, pod));
            let there = domains.get(here).copied().unwrap_or(0);
            if there + itself - least > i64::from(constraint.max_skew) {
                return refuse("node(s) didn't match pod topology spread constraints", true);
            }
        }
        Ok(())
    }

    /// Whether `other` is one of the pods a term of `owner` speaks of. What is not known of a
    /// namespace is taken as nothing (`unknown_matches`) or as no match.
    fn matches(&self, term: &PodAffinityTerm, owner: &Pod, other: &Pod, unknown_matches: bool) -> bool {
        let listed = term.namespaces.clone().unwrap_or_default();
        let own =
            listed.is_empty() && term.namespace_selector.is_none() && namespace(owner) == namespace(other);
        let known = self.world.namespaces.get(namespace(other));
        let about = known.map(|n| n.metadata.labels.clone().unwrap_or_default());
        let selected = term.namespace_selector.as_ref().is_some_and(|selector| {
            let everything = *selector == LabelSelector::default();
            everything
                || ((known.is_some() || unknown_matches)
                    && selects(Some(selector), &about.unwrap_or_default()))
        });
        (own || listed.iter().any(|n| n == namespace(other)) || selected)
            && selects(term.label_selector.as_ref(), &labels(other))
            && keys_agree(&term.match_label_keys, owner, other, true)
            && keys_agree(&term.mismatch_label_keys, owner, other, false)
    }

    fn rules_hold(&self, placed: &[Pod], pod: &Pod, node: &Node) -> Verdict {
        let node_of = |p: &Pod| self.world.nodes.get(spec(p).node_name.as_deref().unwrap_or(""));
        let together = |p: &Pod, key: &str| {
            let theirs = node_of(p).and_then(|n| label(n, key));
            theirs.is_some() && theirs == label(node, key)
        };
        let near = required(pod, true);
        let joins = |p: &Pod| near.iter().all(|term| self.matches(term, pod, p, false));
        let friends: Vec<&Pod> = placed.iter().filter(|p| joins(p)).collect();
        let satisfied = near.iter().all(|term| friends.iter().any(|p| together(p, &term.topology_key)));
        let has_labels = near.iter().all(|term| label(node, &term.topology_key).is_some());
        let nobody = near.iter().all(|term| {
            friends.iter().all(|p| node_of(p).and_then(|n| label(n, &term.topology_key)).is_none())
        });
        if !has_labels || !(satisfied || (nobody && joins(pod))) {
            return refuse("node(s) didn't match pod affinity rules", false);
        }
        for term in required(pod, false) {
            if placed.iter().any(|p| self.matches(&term, pod, p, false) && together(p, &term.topology_key)) {
                return refuse("node(s) didn't match pod anti-affinity rules", true);
            }
        }
        for other in placed {
            let apart = required(other, false);
            if apart.iter().any(|t| self.matches(t, other, pod, true) && together(other, &t.topology_key)) {
                return refuse("node(s) didn't satisfy existing pods anti-affinity rules", true);
            }
        }
        Ok(())
    }

    fn used(&self, node: &Node, fill: bool) -> Amounts {
        let mut sum = Amounts::new();
        self.placed.iter().filter(|p| is_on(p, node)).for_each(|p| add(&mut sum, &requests(p, fill)));
        sum
    }
    fn allocated(&self, pod: &Pod, node: &Node) -> i64 {
        let (capacity, used, wanted) = (allocatable(node), self.used(node, true), requests(pod, true));
        let get = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(0);
        let mark = |name: &&str| {
            let (capacity, used) = (get(&capacity, name), get(&used, name) + get(&wanted, name));
            match self.settings.prefers_full_nodes {
                true => used.min(capacity) * 100 / capacity,
                false if used > capacity => 0,
                false => (capacity - used) * 100 / capacity,
            }
        };
        (mark(&"cpu") + mark(&"memory")) / 2
    }
    fn balanced(&self, pod: &Pod, node: &Node) -> i64 {
        let (capacity, used, wanted) = (allocatable(node), self.used(node, false), requests(pod, false));
        let get = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(0);
        if get(&wanted, "cpu") == 0 && get(&wanted, "memory") == 0 {
            return 0;
        }
        let share = |name: &str| {
            let used = get(&used, name) + get(&wanted, name);
            (used as f64 / get(&capacity, name) as f64).min(1.0)
        };
        ((1.0 - ((share("cpu") - share("memory")) / 2.0).abs()) * 100.0) as i64
    }
    fn images(&self, pod: &Pod, node: &Node) -> i64 {
        let has = |node: &Node, image: &str| {
            let mut images = node.status.iter().flat_map(|s| s.images.iter().flatten());
            let found = images.find(|i| i.names.iter().flatten().any(|name| name == image))?;
            found.size_bytes
        };
        let containers: Vec<&Container> =
            spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers).collect();
        let mut sum = 0;
        for container in &containers {
            let image = container.image.clone().expect("an image");
            let image = if image.starts_with("reg") { image } else { format!("{image}:latest") };
            let Some(size) = has(node, &image) else { continue };
            let nodes = self.world.nodes.values().filter(|n| has(n, &image).is_some()).count();
            sum += (size as f64 * (nodes as f64 / self.world.nodes.len() as f64)) as i64;
        }
        let (least, most) = (23 << 20, (1000 << 20) * containers.len() as i64);
        100 * (sum.clamp(least, most) - least) / (most - least)
    }

    fn affinity(&self, pod: &Pod, feasible: &[&Node]) -> Vec<i64> {
        let mark = |node: &&Node| {
            let mut sum = 0;
            for other in &self.placed {
                let theirs = &self.world.nodes[spec(other).node_name.as_deref().expect("it is placed")];
                let together = |term: &PodAffinityTerm| {
                    let value = label(theirs, &term.topology_key);
                    value.is_some() && value == label(node, &term.topology_key)
                };
                let own = preferred(pod).into_iter().filter(|(_, t)| self.matches(t, pod, other, false));
                sum += own.filter(|(_, t)| together(t)).map(|(weight, _)| weight).sum::<i64>();
                if self.settings.ignores_wishes_of_others && preferred(pod).is_empty() {
                    continue;
                }
                let hard = required(other, true).into_iter().map(|term| (self.settings.hard_weight, term));
                let about = hard.chain(preferred(other)).filter(|(_, t)| self.matches(t, other, pod, true));
                sum += about.filter(|(_, t)| together(t)).map(|(weight, _)| weight).sum::<i64>();
            }
            sum
        };
        let marks: Vec<i64> = feasible.iter().map(mark).collect();
        let (least, most) = (marks.iter().min().copied(), marks.iter().max().copied());
        let (Some(least), Some(most)) = (least, most) else { return marks };
        let scale =
            |m: i64| if most == least { 0.0 } else { 100.0 * ((m - least) as f64 / (most - least) as f64) };
        marks.into_iter().map(|mark| scale(mark) as i64).collect()
    }

    /// Labels that services and the controller of a pod select by, as one selector.
    fn default_selector(&self, pod: &Pod) -> Option<LabelSelector> {
        let mut merged = Labels::new();
        for service in self.world.services.values() {
            let same = service.metadata.namespace.as_deref() == Some(namespace(pod));
            let selector = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
            let matches = selector.iter().all(|(key, value)| labels(pod).get(key) == Some(value));
            if same && !selector.is_empty() && matches {
                merged.extend(selector);
            }
        }
        // The sets of these tests select by a label no service selects by.
        let owner = pod.metadata.owner_references.iter().flatten().next();
        let set = owner.and_then(|o| self.world.replica_sets.get(&format!("{}/{}", namespace(pod), o.name)));
        merged.extend(set.and_then(|s| s.spec.as_ref()?.selector.match_labels.clone()).unwrap_or_default());
        (!merged.is_empty()).then_some(LabelSelector { match_labels: Some(merged), match_expressions: None })
    }

    fn spreading(&self, pod: &Pod, feasible: &[&Node]) -> Vec<i64> {
        let own = spec(pod).topology_spread_constraints.clone().unwrap_or_default();
        let system = own.is_empty();
        let soft: Vec<TopologySpreadConstraint> = match self.default_selector(pod) {
            _ if !system => own.into_iter().filter(|c| c.when_unsatisfiable == "ScheduleAnyway").collect(),
            None => Vec::new(),
            Some(selector) => [(HOSTNAME, 3), (ZONE, 5)]
                .map(|(key, max_skew)| TopologySpreadConstraint {
                    label_selector: Some(selector.clone()),
                    max_skew,
                    topology_key: key.to_owned(),
                    ..TopologySpreadConstraint::default()
                })
                .into(),
        };
        if soft.is_empty() {
            return vec![0; feasible.len()];
        }
        let complete = |node: &Node| system || soft.iter().all(|c| label(node, &c.topology_key).is_some());
        let on = |node: &Node, c: &TopologySpreadConstraint| {
            self.placed.iter().filter(|p| is_on(p, node) && counts(c, pod, p)).count()
        };
        let taking_part: Vec<&&Node> = feasible.iter().filter(|n| complete(n)).collect();
        let mark = |node: &Node| {
            let mut sum = 0.0;
            for c in &soft {
                let values = taking_part.iter().map(|n| label(n, &c.topology_key));
                let size = match c.topology_key == HOSTNAME {
                    true => taking_part.len(),
                    false => values.collect::<BTreeSet<_>>().len(),
                };
                let Some(value) = label(node, &c.topology_key) else { continue };
                let alike = self.world.nodes.values().filter(|n| {
                    complete(n) && includes(c, pod, n) && label(n, &c.topology_key) == Some(value)
                });
                let pods = match c.topology_key == HOSTNAME {
                    true => on(node, c),
                    false => alike.map(|n| on(n, c)).sum(),
                };
                sum += pods as f64 * ((size + 2) as f64).ln() + f64::from(c.max_skew - 1);
            }
            f64::round(sum) as i64
        };
        let marks: Vec<Option<i64>> = feasible.iter().map(|n| complete(n).then(|| mark(n))).collect();
        let most = marks.iter().flatten().copied().max().unwrap_or(0);
        let least = marks.iter().flatten().copied().min().unwrap_or(0);
        let scale = |mark: i64| if most == 0 { 100 } else { 100 * (most + least - mark) / most };
        marks.into_iter().map(|mark| mark.map_or(0, scale)).collect()
    }

    /// Whether those that were sent away for a pod are still leaving the node it waits for.
    pub fn makes_room(&self, pod: &Pod, node: &str) -> bool {
        let Some(node) = self.world.nodes.get(node) else { return false };
        let leaving = |p: &Pod| {
            let conditions = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
            p.metadata.deletion_timestamp.is_some()
                && conditions.into_iter().any(|c| c.reason.as_deref() == Some(PREEMPTED))
        };
        let lesser = |p: &&Pod| is_on(p, node) && priority(p) < priority(pod);
        self.verdict(pod, node).is_err_and(|(_, resolvable)| resolvable)
            && self.placed.iter().filter(lesser).any(leaving)
    }
    /// Of each node that would take the pod without some others: how good that is, and the others.
    pub fn victims(&self, pod: &Pod) -> BTreeMap<String, (Rank, BTreeSet<String>)> {
        let mut found = BTreeMap::new();
        if never_preempts(pod) {
            return found;
        }
        for node in self.world.nodes.values() {
            if self.verdict(pod, node).is_err_and(|(_, resolvable)| resolvable)
                && let Some(victims) = self.victims_on(pod, node)
            {
                found.insert(name(node).to_owned(), victims);
            }
        }
        found
    }
    fn victims_on(&self, pod: &Pod, node: &Node) -> Option<(Rank, BTreeSet<String>)> {
        let less = |p: &&Pod| is_on(p, node) && priority(p) < priority(pod);
        let mut candidates: Vec<Pod> = self.placed.iter().filter(less).cloned().collect();
        candidates.sort_by_key(|p| (Reverse(priority(p)), started(p)));
        let mut left: Vec<Pod> = self.placed.iter().filter(|p| !less(p)).cloned().collect();
        if candidates.is_empty() || self.with_nominated(&left, pod, node).is_err() {
            return None;
        }
        let mut allowed: BTreeMap<&String, i64> = BTreeMap::new();
        let mut protected = |p: &Pod| {
            let mut overrun = false;
            for (key, budget) in &self.world.budgets {
                let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
                let empty = selector.is_none_or(|s| *s == LabelSelector::default());
                let same = budget.metadata.namespace.as_deref() == Some(namespace(p));
                if empty || !same || labels(p).is_empty() || !selects(selector, &labels(p)) {
                    continue;
                }
                let start = budget.status.as_ref().map_or(0, |s| i64::from(s.disruptions_allowed));
                let allowed = allowed.entry(key).or_insert(start);
                *allowed -= 1;
                overrun |= *allowed < 0;
            }
            overrun
        };
        let (first, then): (Vec<Pod>, Vec<Pod>) = candidates.into_iter().partition(|p| protected(p));
        let mut victims: Vec<Pod> = Vec::new();
        let mut violations = 0;
        for (p, is_protected) in
            first.into_iter().map(|p| (p, true)).chain(then.into_iter().map(|p| (p, false)))
        {
            left.push(p);
            if self.with_nominated(&left, pod, node).is_err() {
                victims.extend(left.pop());
                violations += usize::from(is_protected);
            }
        }
        let highest = victims.iter().map(priority).max()?;
        let sum = victims.iter().map(|p| i64::from(priority(p)) + (1 << 31)).sum();
        let earliest = victims.iter().filter(|p| priority(p) == highest).map(started).min()?;
        let rank = (violations, highest, sum, victims.len(), Reverse(earliest));
        Some((rank, victims.iter().map(key).collect()))
    }
}

fn fit(here: &[&Pod], pod: &Pod, node: &Node) -> Verdict {
    let capacity = allocatable(node);
    let mut used = Amounts::new();
    here.iter().for_each(|p| add(&mut used, &requests(p, false)));
    let mut reasons = Vec::new();
    let mut resolvable = true;
    if here.len() as i64 + 1 > capacity.get("pods").copied().unwrap_or(0) {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in requests(pod, false) {
        let get = |amounts: &Amounts| amounts.get(&name).copied().unwrap_or(0);
        if wanted > 0 && get(&used) + wanted > get(&capacity) {
            reasons.push(format!("Insufficient {name}"));
            resolvable &= wanted <= get(&capacity);
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err((reasons, resolvable)) }
}

fn includes(c: &TopologySpreadConstraint, pod: &Pod, node: &Node) -> bool {
    let affinity = c.node_affinity_policy.as_deref().unwrap_or("Honor") == "Honor";
    let taints = c.node_taints_policy.as_deref().unwrap_or("Ignore") == "Honor";
    (!affinity || affinity_admits(pod, node)) && (!taints || taints_tolerated(pod, node))
}
fn selects_with_keys(c: &TopologySpreadConstraint, pod: &Pod, other: &Pod) -> bool {
    selects(c.label_selector.as_ref(), &labels(other)) && keys_agree(&c.match_label_keys, pod, other, true)
}
fn counts(c: &TopologySpreadConstraint, pod: &Pod, other: &Pod) -> bool {
    namespace(other) == namespace(pod)
        && other.metadata.deletion_timestamp.is_none()
        && selects_with_keys(c, pod, other)
}

fn unwelcome(pod: &Pod, node: &Node) -> i64 {
    let soft = |t: &&Toleration| matches!(t.effect.as_deref(), None | Some("" | "PreferNoSchedule"));
    let tolerated =
        |taint: &Taint| spec(pod).tolerations.iter().flatten().filter(soft).any(|t| tolerates(t, taint));
    taints(node).iter().filter(|t| t.effect == "PreferNoSchedule" && !tolerated(t)).count() as i64
}
fn preference(pod: &Pod, node: &Node) -> i64 {
    let affinity = spec(pod).affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.clone());
    let terms = terms.unwrap_or_default().into_iter().filter(|t| term_selects(&t.preference, node));
    terms.map(|t| i64::from(t.weight)).sum()
}
fn normalise(marks: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = marks.iter().copied().max().unwrap_or(0);
    let scale = |mark: i64| if most == 0 { 0 } else { 100 * mark / most };
    marks.into_iter().map(|mark| if reverse { 100 - scale(mark) } else { scale(mark) }).collect()
}
