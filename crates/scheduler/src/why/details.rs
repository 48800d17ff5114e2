//! What stands behind a refusal: events have one sentence for all nodes, here it is told which taint,
//! which label, which port, which domain, and what would have to be otherwise.

use super::quantities::{asked, readable};
use crate::amounts::Sums;
use crate::class::{Features, Purpose};
use crate::framework::{Candidate, Cause, Refusal, Shortage, View};
use crate::plugins::{
    inter_pod_affinity, node_affinity, node_ports, node_unschedulable, pod_topology_spread, taint_toleration,
};
use crate::pod::{Effect, Taint};
use crate::symbols::{Symbol, Symbols};

/// Of one refusal on one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Detail {
    pub is: String,
    /// Goes behind "the node would take the pod if".
    pub remedy: String,
}

impl Detail {
    fn new(is: impl Into<String>, remedy: impl Into<String>) -> Self {
        Detail { is: is.into(), remedy: remedy.into() }
    }
}

/// The node a refusal is about, as the plugins saw it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub view: &'a View<'a>,
    pub candidate: &'a Candidate<'a>,
    pub features: &'a Features,
}

type Tell = fn(&Place) -> Vec<Detail>;

/// A plugin without a line here is told by its reasons alone.
const TELL: [(&str, Tell); 6] = [
    (node_unschedulable::NAME, cordoned),
    (taint_toleration::NAME, taints),
    (node_affinity::NAME, labels),
    (node_ports::NAME, ports),
    (pod_topology_spread::NAME, crowded),
    (inter_pod_affinity::NAME, neighbours),
];

/// What is behind a refusal beside its numbers.
pub fn of(place: &Place, refusal: &Refusal) -> Vec<Detail> {
    let tell = TELL.iter().find(|(name, _)| *name == refusal.plugin);
    tell.map(|(_, tell)| tell(place)).unwrap_or_default()
}

/// What would have to be otherwise for the plugin to let the pod in.
pub fn remedies(place: &Place, refusal: &Refusal, written: &Sums) -> Vec<String> {
    if let Cause::Short(shortages) = &refusal.cause {
        return shortages.iter().map(|shortage| remedy_of_shortage(place.view, shortage, written)).collect();
    }
    let told: Vec<String> = of(place, refusal).into_iter().map(|detail| detail.remedy).collect();
    match told.as_slice() {
        [] => vec![format!("{} let it in", refusal.plugin)],
        _ => told,
    }
}

fn remedy_of_shortage(view: &View, shortage: &Shortage, written: &Sums) -> String {
    let resources = &view.snapshot.catalogue.resources;
    let Some(id) = shortage.resource else {
        return format!("it had room for one pod more (it takes {})", shortage.capacity);
    };
    let (name, amount) = (resources.name(id), |amount, up| readable(resources, id, amount, up));
    if shortage.wanted > shortage.capacity {
        let wanted = asked(resources, id, shortage.wanted, written).readable(true);
        let all = amount(shortage.capacity, false);
        return format!("it had {wanted} {name} in all (it has {all})");
    }
    format!("{} more {name} were free", amount(shortage.missing(), true))
}

fn cordoned(_: &Place) -> Vec<Detail> {
    vec![Detail::new("cordoned", "it were uncordoned")]
}

fn taint_text(symbols: &Symbols, taint: &Taint) -> String {
    let effect = match taint.effect {
        Effect::NoSchedule => "NoSchedule",
        Effect::PreferNoSchedule => "PreferNoSchedule",
        Effect::NoExecute => "NoExecute",
        Effect::Other => "",
    };
    let value = match taint.value {
        Symbol::EMPTY => String::new(),
        value => format!("={}", symbols.text(value)),
    };
    format!("{}{value}:{effect}", symbols.text(taint.key))
}

fn taints(place: &Place) -> Vec<Detail> {
    let symbols = &place.view.snapshot.catalogue.symbols;
    let untolerated = taint_toleration::untolerated(&place.view.pod.spec, place.candidate.shape);
    let texts = untolerated.map(|taint| taint_text(symbols, taint));
    texts.map(|text| Detail::new(format!("taint {text}"), format!("the pod tolerated {text}"))).collect()
}

fn labels(place: &Place) -> Vec<Detail> {
    let symbols = &place.view.snapshot.catalogue.symbols;
    let (spec, labels) = (&place.view.pod.spec, &place.candidate.shape.labels);
    let selector = spec.node_selector.iter().filter(|(key, value)| labels.get(*key) != Some(*value));
    let mut found: Vec<Detail> = selector
        .map(|(key, value)| {
            let text = format!("{}={}", symbols.text(*key), symbols.text(*value));
            let has = labels.get(*key).map(|has| format!(" (it has {:?})", symbols.text(has)));
            let has = has.unwrap_or_default();
            Detail::new(format!("not labelled {text}{has}"), format!("it were labelled {text}"))
        })
        .collect();
    let terms = spec.node_affinity.as_deref().unwrap_or_default();
    let matches = |term: &crate::labels::NodeTerm| term.matches(symbols, place.candidate.node.name, labels);
    if !terms.is_empty() && !terms.iter().any(matches) {
        let unmet = terms.iter().map(|term| {
            let texts: Vec<String> = term.unmet(symbols, labels).map(|r| r.text(symbols)).collect();
            if texts.is_empty() { "another node's name".to_owned() } else { texts.join(" and ") }
        });
        let mut unmet: Vec<String> = unmet.collect();
        unmet.dedup();
        let text = unmet.join(", or ");
        found.push(Detail::new(
            format!("its node affinity asks for {text}"),
            format!("the pod's node affinity did not ask for {text}"),
        ));
    }
    found
}

fn ports(place: &Place) -> Vec<Detail> {
    let symbols = &place.view.snapshot.catalogue.symbols;
    let taken = node_ports::taken(place.view, place.candidate);
    let texts = taken.map(|port| format!("host port {}/{}", port.port, symbols.text(port.protocol)));
    texts.map(|text| Detail::new(format!("{text} is taken"), format!("{text} were free"))).collect()
}

/// The node's domain in words, without the node's name, so that nodes with the same trouble are told
/// together.
fn domain(place: &Place, table: usize) -> Result<String, Detail> {
    let symbols = &place.view.snapshot.catalogue.symbols;
    let key = place.view.topology.label(table);
    let name = symbols.text(key);
    match place.candidate.shape.labels.get(key) {
        None => Err(Detail::new(format!("no label {name}"), format!("it had the label {name}"))),
        Some(value) if value == place.candidate.node.name => Ok("on the node".to_owned()),
        Some(value) => Ok(format!("in {name}={}", symbols.text(value))),
    }
}

/// What a table counts around the node, with the pods that wait for room there.
fn counted(place: &Place, table: usize) -> i64 {
    let waiting = place.features.nominated.get(table).copied().unwrap_or(0);
    place.view.topology.pods(table, place.features).unwrap_or(0) + waiting
}

fn crowded(place: &Place) -> Vec<Detail> {
    let topology = place.view.topology;
    let mut found = Vec::new();
    for (index, hard) in place.view.pod.hard.iter().enumerate() {
        let Some((id, table)) = topology.table(Purpose::Hard(index)) else { continue };
        let domain = match domain(place, id) {
            Ok(domain) => domain,
            Err(detail) => {
                found.push(detail);
                continue;
            }
        };
        let here = counted(place, id);
        let waiting = here - topology.pods(id, place.features).unwrap_or(0);
        let enough = table.domain_count() >= hard.constraint.min_domains;
        let least = if enough { table.least(here - waiting, waiting) } else { 0 };
        let skew = hard.constraint.max_skew;
        let excess = here + i64::from(hard.counts_itself) - least - skew;
        if excess > 0 {
            found.push(Detail::new(
                format!("{here} matching pods {domain}, {least} where there are fewest, maxSkew {skew}"),
                format!("{excess} of the {here} matching pods {domain} were elsewhere"),
            ));
        }
    }
    found
}

fn neighbours(place: &Place) -> Vec<Detail> {
    let mut found = Vec::new();
    for (id, table) in place.view.topology.tables() {
        let (unwanted, is, remedy) = match table.purpose {
            Purpose::Affinity => (false, "no pod its affinity asks for", "a pod its affinity asks for ran"),
            Purpose::AntiAffinity => {
                (true, "a pod its anti-affinity excludes", "no pod its anti-affinity excludes ran")
            }
            Purpose::OthersAntiAffinity => {
                (true, "a pod whose anti-affinity excludes it", "no pod whose anti-affinity excludes it ran")
            }
            _ => continue,
        };
        match domain(place, id) {
            Ok(domain) if (counted(place, id) > 0) == unwanted => {
                found.push(Detail::new(format!("{is} {domain}"), format!("{remedy} {domain}")));
            }
            Err(detail) if !unwanted => found.push(detail),
            _ => {}
        }
    }
    found
}
