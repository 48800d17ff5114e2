//! What every filter says of every node, each by itself: a decision stops at the first that refuses,
//! an explanation does not. Nodes of which all say the same are told as one group.

use std::cmp::Reverse;
use std::collections::HashMap;

use amphipod_api::scheduling_review::{Group, PluginVerdict, Shortage as ShortageReport};

use super::details::{self, Detail, Place};
use super::quantities;
use crate::amounts::{ResourceId, Resources, Sums};
use crate::class::{Class, Features};
use crate::framework::{Candidate, Cause, Enabled, Filter, Point, Profile, Refusal, Shortage, Verdict, View};
use crate::node::{Fill, NodeInfo, Shape, Slot};
use crate::plugins::node_affinity;
use crate::snapshot::Snapshot;

/// Groups that are shown; more are not read, and each costs a few hundred bytes.
const MAX_GROUPS: usize = 20;
/// Names that are shown of each group.
const MAX_NAMES: usize = 10;

/// Of one plugin on one node.
pub struct Said {
    pub plugin: &'static str,
    pub verdict: Verdict,
}

pub struct NodeVerdict {
    pub slot: Slot,
    pub said: Vec<Said>,
    pub features: Features,
}

impl NodeVerdict {
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.said.iter().filter_map(|said| said.verdict.as_ref().err())
    }
    pub fn fits(&self) -> bool {
        self.refusals().next().is_none()
    }
}

/// The verdicts on all nodes, by name.
pub fn of_nodes(snapshot: &Snapshot, profile: &Profile, class: &Class) -> Vec<NodeVerdict> {
    let view = class.view(snapshot, profile);
    let named = node_affinity::named_nodes(&view.pod.spec).ok().flatten();
    let filters: Vec<&Enabled> = profile.at(Point::Filter).collect();
    let mut found: Vec<NodeVerdict> = snapshot
        .nodes()
        .filter_map(|(slot, node, shape)| {
            let features = class.features(&view, slot)?;
            let excluded = named.as_ref().is_some_and(|names| !names.contains(&node.name));
            let said = of_node(&view, (node, shape), &features, &filters, excluded);
            Some(NodeVerdict { slot, said, features })
        })
        .collect();
    found.sort_by_cached_key(|verdict| natural(snapshot.name(verdict.slot)));
    found
}

fn of_node(
    view: &View,
    (node, shape): (&NodeInfo, &Shape),
    features: &Features,
    filters: &[&Enabled],
    excluded: bool,
) -> Vec<Said> {
    let now = Candidate { node, shape, fill: &node.fill };
    let crowded = with_waiting(view, node);
    let crowded = crowded.as_ref().map(|fill| Candidate { node, shape, fill });
    let ask = |enabled: &&Enabled| {
        let plugin = enabled.plugin.name;
        let verdict = match enabled.plugin.filter {
            Filter::Node(_) if excluded && plugin == node_affinity::NAME => Err(node_affinity::not_named()),
            Filter::Node(filter) => crowded
                .as_ref()
                .map_or(Ok(()), |crowded| filter(view, crowded))
                .and_then(|()| filter(view, &now)),
            Filter::Place(filter) => {
                let waiting = &features.nominated;
                let crowded = if waiting.is_empty() { Ok(()) } else { filter(view, features, waiting) };
                crowded.and_then(|()| filter(view, features, &[]))
            }
            Filter::None => Ok(()),
        };
        Said { plugin, verdict }
    };
    filters.iter().map(ask).collect()
}

/// What fills the node with the pods that wait for room there and matter at least as much.
fn with_waiting(view: &View, node: &NodeInfo) -> Option<Fill> {
    let waiting = node.nominated.iter().filter(|pod| pod.priority() >= view.pod.spec.priority);
    let mut fill = None;
    for pod in waiting {
        fill.get_or_insert_with(|| node.fill.clone()).add(pod);
    }
    fill
}

/// node-2 before node-10.
fn natural(name: &str) -> (String, u64, String) {
    let stem = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    (stem.to_owned(), name[stem.len()..].parse().unwrap_or(0), name.to_owned())
}

/// By what nodes are alike: per plugin the refusal without its numbers, and what is behind it.
type Likeness = Vec<Option<(Refusal, Vec<Detail>)>>;

#[derive(Default)]
struct Gathered {
    nodes: usize,
    names: Vec<String>,
    shortages: HashMap<(usize, Option<ResourceId>), Range>,
}

/// Of one resource over the nodes of a group.
#[derive(Clone, Copy)]
struct Range {
    wanted: i64,
    least_free: i64,
    most_free: i64,
    capacity: i64,
}

impl Range {
    fn of(shortage: &Shortage) -> Self {
        let free = shortage.capacity - shortage.used;
        Range { wanted: shortage.wanted, least_free: free, most_free: free, capacity: shortage.capacity }
    }
    fn and(self, other: Range) -> Self {
        Range {
            wanted: self.wanted,
            least_free: self.least_free.min(other.least_free),
            most_free: self.most_free.max(other.most_free),
            capacity: self.capacity.max(other.capacity),
        }
    }
    fn report(&self, resources: &Resources, id: Option<ResourceId>, written: &Sums) -> ShortageReport {
        let text = |amount: i64| quantities::text(resources, id, amount);
        let beyond = id.and_then(|id| {
            let (asked, free) = (written.beyond(id)?, quantities::quantity(resources, id, self.most_free));
            Some((asked.to_string(), asked.minus(free).to_string()))
        });
        let (requested, missing) =
            beyond.unwrap_or_else(|| (text(self.wanted), text(self.wanted - self.most_free)));
        ShortageReport {
            resource: quantities::name(resources, id).to_owned(),
            requested,
            least_free: text(self.least_free.max(0)),
            most_free: text(self.most_free.max(0)),
            most_allocatable: text(self.capacity),
            missing,
        }
    }
}

/// The groups, and how many nodes are in those that are not shown. `written`: what the pod asks for.
pub fn groups(view: &View, verdicts: &[NodeVerdict], written: &Sums) -> (Vec<Group>, usize) {
    let mut order: Vec<Likeness> = Vec::new();
    let mut found: HashMap<Likeness, Gathered> = HashMap::new();
    for verdict in verdicts {
        let likeness = likeness(view, verdict);
        let gathered = found.entry(likeness.clone()).or_default();
        if gathered.nodes == 0 {
            order.push(likeness);
        }
        gathered.add(view, verdict);
    }
    let refused = |likeness: &Likeness| likeness.iter().flatten().count();
    order.sort_by_key(|likeness| (refused(likeness), Reverse(found.get(likeness).map_or(0, |g| g.nodes))));
    let hidden = order.iter().skip(MAX_GROUPS).filter_map(|likeness| found.get(likeness));
    let hidden = hidden.map(|gathered| gathered.nodes).sum();
    let names: Vec<&'static str> =
        verdicts.first().map(|v| v.said.iter().map(|said| said.plugin).collect()).unwrap_or_default();
    let shown = order.iter().take(MAX_GROUPS);
    let shown =
        shown.filter_map(|likeness| Some(found.get(likeness)?.report(view, &names, likeness, written)));
    (shown.collect(), hidden)
}

/// What one plugin says of all nodes without looking at them.
pub fn of_all(
    snapshot: &Snapshot,
    verdicts: &[NodeVerdict],
    plugin: &'static str,
    reason: &str,
) -> Vec<Group> {
    let said = PluginVerdict {
        name: plugin.to_owned(),
        reasons: vec![reason.to_owned()],
        ..PluginVerdict::default()
    };
    let names = verdicts.iter().take(MAX_NAMES).map(|verdict| snapshot.name(verdict.slot).to_owned());
    let group = Group { nodes: verdicts.len(), names: names.collect(), fits: false, plugins: vec![said] };
    if verdicts.is_empty() { Vec::new() } else { vec![group] }
}

/// Runs with the node as the plugins saw it.
fn at<T>(view: &View, verdict: &NodeVerdict, tell: impl FnOnce(&Place) -> T) -> Option<T> {
    let node = view.snapshot.node(verdict.slot);
    let candidate = Candidate { node, shape: node.shape.as_ref()?, fill: &node.fill };
    Some(tell(&Place { view, candidate: &candidate, features: &verdict.features }))
}

fn likeness(view: &View, verdict: &NodeVerdict) -> Likeness {
    let told = at(view, verdict, |place| {
        let of = |said: &Said| {
            let refusal = said.verdict.as_ref().err()?;
            Some((refusal.clone().kind(), details::of(place, refusal)))
        };
        verdict.said.iter().map(of).collect()
    });
    told.unwrap_or_default()
}

impl Gathered {
    fn add(&mut self, view: &View, verdict: &NodeVerdict) {
        self.nodes += 1;
        if self.names.len() < MAX_NAMES {
            self.names.push(view.snapshot.name(verdict.slot).to_owned());
        }
        for (index, said) in verdict.said.iter().enumerate() {
            let Err(Refusal { cause: Cause::Short(shortages), .. }) = &said.verdict else { continue };
            for shortage in shortages {
                let range = Range::of(shortage);
                let known = self.shortages.entry((index, shortage.resource)).or_insert(range);
                *known = known.and(range);
            }
        }
    }
    fn report(&self, view: &View, names: &[&'static str], likeness: &Likeness, written: &Sums) -> Group {
        let resources = &view.snapshot.catalogue.resources;
        let plugin = |(index, told): (usize, &Option<(Refusal, Vec<Detail>)>)| {
            let mut verdict = PluginVerdict { name: names[index].to_owned(), ..PluginVerdict::default() };
            let Some((refusal, details)) = told else {
                return PluginVerdict { passes: true, ..verdict };
            };
            verdict.reasons = refusal.reasons(resources);
            verdict.details = details.iter().map(|detail| detail.is.clone()).collect();
            if let Cause::Short(shortages) = &refusal.cause {
                let range = |s: &Shortage| {
                    Some(self.shortages.get(&(index, s.resource))?.report(resources, s.resource, written))
                };
                verdict.shortages = shortages.iter().filter_map(range).collect();
            }
            verdict
        };
        Group {
            nodes: self.nodes,
            names: self.names.clone(),
            fits: likeness.iter().all(Option::is_none),
            plugins: likeness.iter().enumerate().map(plugin).collect(),
        }
    }
}

/// One node's verdicts as they are told of a group of one.
pub fn of_one(view: &View, verdict: &NodeVerdict, written: &Sums) -> Vec<PluginVerdict> {
    let (groups, _) = groups(view, std::slice::from_ref(verdict), written);
    groups.into_iter().next().map(|group| group.plugins).unwrap_or_default()
}

/// The remedies of all plugins that refuse the node.
pub fn remedies(view: &View, verdict: &NodeVerdict, written: &Sums) -> Vec<String> {
    let told = at(view, verdict, |place| {
        verdict.refusals().flat_map(|refusal| details::remedies(place, refusal, written)).collect()
    });
    told.unwrap_or_default()
}
