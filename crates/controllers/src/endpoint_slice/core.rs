//! From a service and its pods to slices, touching as few slices as can be: an endpoint stays in
//! the slice it is in, changed slices are filled up first, and only then a new one is made.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ports::{self, Port};
use crate::{meta, pods};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const HEADLESS: &str = "service.kubernetes.io/headless";
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Labels a service cannot pass on to its slices.
const RESERVED: [&str; 3] = [SERVICE_NAME, MANAGED_BY, HEADLESS];
const MAX_PER_SLICE: usize = 100;

pub struct View<'a> {
    pub pods: &'a [Arc<CachedPod>],
    /// The slices of this service that are ours.
    pub slices: &'a [Arc<EndpointSlice>],
    /// Zones by node name.
    pub zone_of: &'a dyn Fn(&str) -> Option<String>,
    /// When what this sync shows happened, for the latency measure; goes on what is written.
    pub trigger_time: Option<String>,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

pub fn zone(node: &Node) -> Option<String> {
    meta::label(&node.metadata, "topology.kubernetes.io/zone").map(str::to_owned)
}

/// The address families the service asks for, as slices name them.
fn families(service: &Service) -> Vec<&'static str> {
    let asked = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    let named = |family: &String| if family == "IPv6" { "IPv6" } else { "IPv4" };
    match asked.filter(|families| !families.is_empty()) {
        Some(families) => families.iter().map(named).collect(),
        None => vec!["IPv4"],
    }
}

fn address<'a>(pod: &'a CachedPod, family: &str) -> Option<&'a str> {
    let listed = pod.own.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all = listed.chain(pod.own.pod_ip.as_deref());
    all.find(|ip| ip.contains(':') == (family == "IPv6") && !ip.is_empty())
}

pub fn tolerates_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

/// The pod's own name under a headless service that is its subdomain.
pub fn hostname(service: &Service, pod: &CachedPod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let within = spec.subdomain.as_deref() == service.metadata.name.as_deref()
        && pod.namespace() == service.namespace();
    spec.hostname.clone().filter(|name| within && !name.is_empty())
}

pub fn target(pod: &CachedPod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn endpoint(view: &View, service: &Service, pod: &CachedPod, address: &str) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.is_terminating();
    let node = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(tolerates_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        zone: node.as_deref().and_then(|node| (view.zone_of)(node)),
        node_name: node,
        hostname: hostname(service, pod),
        target_ref: Some(target(pod)),
        ..Endpoint::default()
    }
}

/// What makes two endpoints the same one, whatever its conditions.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|t| t.uid.as_deref()).unwrap_or("");
    format!("{uid}/{}", endpoint.addresses.join(","))
}

pub fn reconcile(view: &View, service: &Service) -> Plan {
    let families = families(service);
    let mut plan = Plan::default();
    for family in &families {
        let existing: Vec<_> = view
            .slices
            .iter()
            .filter(|s| s.address_type == *family && !s.is_terminating())
            .cloned()
            .collect();
        reconcile_family(view, service, family, &existing, &mut plan);
    }
    let foreign = |slice: &&Arc<EndpointSlice>| {
        !families.contains(&slice.address_type.as_str()) && !slice.is_terminating()
    };
    plan.delete.extend(view.slices.iter().filter(foreign).cloned());
    plan
}

type Wanted = BTreeMap<Vec<Port>, Vec<Endpoint>>;

fn wanted(view: &View, service: &Service, family: &str) -> Wanted {
    let mut wanted = Wanted::new();
    for pod in view.pods {
        if pods::is_terminal(pod) {
            continue;
        }
        let Some(address) = address(pod, family) else { continue };
        let mut offered = ports::of(service, pod);
        offered.sort();
        let has_ports = service.spec.as_ref().and_then(|s| s.ports.as_ref()).is_some_and(|p| !p.is_empty());
        if offered.is_empty() && (has_ports || !ports::is_headless(service)) {
            continue; // none of the named ports is there
        }
        wanted.entry(offered).or_default().push(endpoint(view, service, pod, address));
    }
    wanted
}

fn reconcile_family(
    view: &View,
    service: &Service,
    family: &str,
    existing: &[Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    let mut wanted = wanted(view, service, family);
    if wanted.is_empty() {
        // One empty slice shows that the service was seen and leads nowhere.
        wanted.insert(Vec::new(), Vec::new());
    }
    let mut by_ports: BTreeMap<Vec<Port>, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        by_ports.entry(ports_of(slice)).or_default().push(slice.clone());
    }
    let mut slack = Vec::new();
    let created_before = plan.create.len();
    for (ports, endpoints) in wanted {
        let here = by_ports.remove(&ports).unwrap_or_default();
        place(view, service, family, (&ports, endpoints), &here, plan, &mut slack);
    }
    slack.extend(by_ports.into_values().flatten());
    // A slice to delete and one to create become one update.
    while plan.create.len() > created_before && !slack.is_empty() {
        let (Some(new), Some(old)) = (plan.create.pop(), slack.pop()) else { break };
        let mut reused = old.as_ref().clone();
        (reused.ports, reused.endpoints) = (new.ports, new.endpoints);
        plan.update.push(dress(view, service, reused));
    }
    plan.delete.extend(slack);
}

/// Puts the endpoints of one set of ports into its slices.
fn place(
    view: &View,
    service: &Service,
    family: &str,
    (ports, endpoints): (&[Port], Vec<Endpoint>),
    here: &[Arc<EndpointSlice>],
    plan: &mut Plan,
    slack: &mut Vec<Arc<EndpointSlice>>,
) {
    let only_empty = endpoints.is_empty();
    let mut missing: HashMap<String, Endpoint> = HashMap::new();
    let mut order = Vec::new();
    for endpoint in endpoints {
        let id = identity(&endpoint);
        if missing.insert(id.clone(), endpoint).is_none() {
            order.push(id);
        }
    }
    // Each slice keeps what it has and is still wanted, in its newest form.
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = here
        .iter()
        .map(|slice| {
            let still = slice.endpoints.iter().filter_map(|e| missing.remove(&identity(e)));
            (slice.clone(), still.collect())
        })
        .collect();
    let mut rest: Vec<Endpoint> = order.iter().filter_map(|id| missing.remove(id)).collect();
    // Slices that change anyway are filled first, then any with room, fullest first.
    kept.sort_by_key(|(slice, kept)| {
        let changes = slice.endpoints != *kept;
        (std::cmp::Reverse(changes), std::cmp::Reverse(kept.len()))
    });
    for (_, kept) in &mut kept {
        let room = MAX_PER_SLICE.saturating_sub(kept.len()).min(rest.len());
        kept.extend(rest.drain(..room));
    }
    let mut empty_kept = false;
    for (slice, endpoints) in kept {
        if endpoints.is_empty() && (!only_empty || empty_kept) {
            slack.push(slice);
            continue;
        }
        empty_kept |= endpoints.is_empty();
        let mut changed = slice.as_ref().clone();
        changed.endpoints = endpoints;
        changed.ports = Some(ports.iter().map(wire_port).collect());
        if needs_writing(service, &slice, &changed) {
            plan.update.push(dress(view, service, changed));
        }
    }
    while !rest.is_empty() || (only_empty && !empty_kept) {
        let part = rest.drain(..rest.len().min(MAX_PER_SLICE)).collect();
        plan.create.push(dress(view, service, blank(service, family, ports, part)));
        empty_kept = true;
    }
}

fn needs_writing(service: &Service, before: &EndpointSlice, after: &EndpointSlice) -> bool {
    before.endpoints != after.endpoints
        || before.metadata.labels != Some(labels(service))
        || before.ports.clone().unwrap_or_default() != after.ports.clone().unwrap_or_default()
        || !meta::is_controlled_by(&before.metadata, service.uid())
}

fn wire_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let ports = slice.ports.iter().flatten().map(|port| Port {
        name: port.name.clone().unwrap_or_default(),
        number: port.port.unwrap_or(0),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol.clone(),
    });
    let mut ports: Vec<Port> = ports.collect();
    ports.sort();
    ports
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let own = service.metadata.labels.iter().flatten();
    let mut labels: BTreeMap<String, String> = own
        .filter(|(key, _)| !RESERVED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if ports::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// Labels, owner and trigger time, on whatever is about to be written.
fn dress(view: &View, service: &Service, mut slice: EndpointSlice) -> EndpointSlice {
    slice.metadata.labels = Some(labels(service));
    slice.metadata.owner_references = Some(vec![meta::controller_reference(service)]);
    match &view.trigger_time {
        Some(time) => drop(meta::annotate(&mut slice.metadata, TRIGGER_TIME, time)),
        None => {
            if let Some(annotations) = &mut slice.metadata.annotations {
                annotations.remove(TRIGGER_TIME);
            }
        }
    }
    slice
}

fn blank(service: &Service, family: &str, ports: &[Port], endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints,
        ports: Some(ports.iter().map(wire_port).collect()),
        metadata: ObjectMeta {
            generate_name: Some(pods::name_prefix(service.name())),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
    }
}
