//! The decision: what a question about the cluster is answered with.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::{self, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::view::{View, cluster_ips, owner};
use crate::zone::{Zone, address_record, record};

/// Total weight of the SRV records of one name, shared evenly.
const SRV_WEIGHT: u16 = 100;

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Authoritative records. No answers: the name exists, but not with this type.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// Another name stands for this one; its records are to follow.
    Alias { record: Box<Record>, target: Name },
    /// No such name.
    NoName,
    /// Not ours to answer.
    Elsewhere,
}

impl Answer {
    fn no_data() -> Self {
        Answer::Records { answers: Vec::new(), additionals: Vec::new() }
    }
    fn records(answers: Vec<Record>) -> Self {
        Answer::Records { answers, additionals: Vec::new() }
    }
}

/// Answers a question for `name`, whose labels may have any case.
pub fn answer(view: &impl View, zone: &Zone, name: &Name, kind: RecordType) -> Answer {
    if let Some(labels) = zone.labels_of(name) {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        return in_zone(view, zone, name, kind, &labels);
    }
    match reverse_address(name) {
        Some(address) => reverse(view, zone, name, kind, address),
        None => Answer::Elsewhere,
    }
}

fn wants(asked: RecordType, kind: RecordType) -> bool {
    asked == kind || asked == RecordType::ANY
}

fn in_zone(view: &impl View, zone: &Zone, name: &Name, kind: RecordType, labels: &[&str]) -> Answer {
    let existing = |exists: bool| if exists { Answer::no_data() } else { Answer::NoName };
    match labels {
        [] => apex(zone, kind),
        ["dns-version"] if wants(kind, RecordType::TXT) => Answer::records(vec![zone.version(name)]),
        ["dns-version"] | ["dns"] | ["svc"] | ["pod"] => Answer::no_data(),
        ["ns", "dns"] => addresses(name, kind, &[zone.service_ip]),
        [namespace, "svc" | "pod"] => existing(view.has_namespace(namespace)),
        [address, namespace, "pod"] => match pod_address(address) {
            Some(address) if view.has_namespace(namespace) => addresses(name, kind, &[address]),
            _ => Answer::NoName,
        },
        [rest @ .., service, namespace, "svc"] => {
            let Some(service) = view.service(namespace, service) else { return Answer::NoName };
            of_service(view, zone, &Asked { name, kind }, &service, rest)
        }
        _ => Answer::NoName,
    }
}

fn apex(zone: &Zone, kind: RecordType) -> Answer {
    let mut answers = Vec::new();
    if wants(kind, RecordType::SOA) {
        answers.push(zone.soa());
    }
    if wants(kind, RecordType::NS) {
        answers.push(zone.ns());
    }
    Answer::records(answers)
}

/// Those of the addresses that the question's type asks for.
fn addresses(name: &Name, kind: RecordType, addresses: &[IpAddr]) -> Answer {
    let is_wanted = |ip: &&IpAddr| wants(kind, if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA });
    Answer::records(addresses.iter().filter(is_wanted).map(|ip| address_record(name, *ip)).collect())
}

/// `10-244-0-5` or, for IPv6, `fd00--5`.
fn pod_address(label: &str) -> Option<IpAddr> {
    if label.matches('-').count() == 3
        && let Ok(address) = label.replace('-', ".").parse::<Ipv4Addr>()
    {
        return Some(address.into());
    }
    label.replace('-', ":").parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6)
}

struct Asked<'a> {
    name: &'a Name,
    kind: RecordType,
}

/// One thing a service name leads to: an address, its ports, and the label it has below the service.
struct Target {
    address: IpAddr,
    /// `None` for the service's own address.
    label: Option<String>,
    ports: Vec<Port>,
}

#[derive(Clone)]
struct Port {
    name: String,
    protocol: String,
    number: u16,
}

fn of_service(view: &impl View, zone: &Zone, asked: &Asked<'_>, service: &Service, rest: &[&str]) -> Answer {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return match rest {
            [] => external(asked, spec.external_name.as_deref().unwrap_or("")),
            _ => Answer::NoName,
        };
    }
    let namespace = service.metadata.namespace.as_deref().unwrap_or("");
    let service_name = service.metadata.name.as_deref().unwrap_or("");
    let own: Vec<Target> = own_targets(service);
    let is_headless = own.is_empty();
    let endpoints = || endpoint_targets(&view.slices(namespace, service_name));
    let everything = || if is_headless { endpoints() } else { own };
    let targets: Vec<Target> = match rest {
        [] => everything(),
        [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
            let is_asked = |p: &Port| p.name == port[1..] && p.protocol == protocol[1..];
            let mut targets = everything();
            targets.iter_mut().for_each(|target| target.ports.retain(is_asked));
            targets.retain(|target| !target.ports.is_empty());
            targets
        }
        [label] => {
            let mut targets = endpoints();
            targets.retain(|target| target.label.as_deref() == Some(label));
            targets
        }
        _ => Vec::new(),
    };
    if targets.is_empty() {
        return Answer::NoName;
    }
    if wants(asked.kind, RecordType::SRV) {
        return service_records(zone, asked.name, namespace, service_name, &targets);
    }
    let ips: BTreeSet<IpAddr> = targets.iter().map(|target| target.address).collect();
    addresses(asked.name, asked.kind, &ips.into_iter().collect::<Vec<_>>())
}

fn external(asked: &Asked<'_>, target: &str) -> Answer {
    let Ok(mut target) = Name::from_ascii(target) else { return Answer::NoName };
    target.set_fqdn(true);
    let record = record(asked.name, RData::CNAME(rdata::CNAME(target.clone())));
    if wants(asked.kind, RecordType::CNAME) {
        return Answer::records(vec![record]);
    }
    Answer::Alias { record: Box::new(record), target }
}

fn own_targets(service: &Service) -> Vec<Target> {
    let ports: Vec<Port> = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                number: u16::try_from(port.port).ok()?,
            })
        })
        .collect();
    let ips = cluster_ips(service).iter().filter_map(|ip| ip.parse().ok());
    ips.map(|address| Target { address, label: None, ports: ports.clone() }).collect()
}

/// What an endpoint is called below its service: its host name, else its address with dashes.
fn endpoint_label(endpoint: &Endpoint, address: &str) -> String {
    match endpoint.hostname.as_deref() {
        Some(hostname) if !hostname.is_empty() => hostname.to_lowercase(),
        _ => address.replace(['.', ':'], "-"),
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn endpoint_targets(slices: &[std::sync::Arc<EndpointSlice>]) -> Vec<Target> {
    let mut targets = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                    number: u16::try_from(port.port?).ok()?,
                })
            })
            .collect();
        for endpoint in slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
            for text in &endpoint.addresses {
                let Ok(address) = text.parse() else { continue };
                let label = Some(endpoint_label(endpoint, text));
                targets.push(Target { address, label, ports: ports.clone() });
            }
        }
    }
    targets
}

fn service_records(zone: &Zone, name: &Name, namespace: &str, service: &str, targets: &[Target]) -> Answer {
    let mut rows = BTreeSet::new();
    let (mut additionals, mut named) = (Vec::new(), BTreeSet::new());
    for target in targets {
        let labels: Vec<&str> =
            target.label.iter().map(String::as_str).chain([service, namespace, "svc"]).collect();
        let Some(host) = zone.name(&labels) else { continue };
        rows.extend(target.ports.iter().map(|port| (host.clone(), port.number)));
        if !target.ports.is_empty() && named.insert((host.clone(), target.address)) {
            additionals.push(address_record(&host, target.address));
        }
    }
    let weight = (SRV_WEIGHT / u16::try_from(rows.len().max(1)).unwrap_or(SRV_WEIGHT)).max(1);
    let answers = rows
        .into_iter()
        .map(|(host, port)| record(name, RData::SRV(SRV::new(0, weight, port, host))))
        .collect();
    Answer::Records { answers, additionals }
}

/// The address a reverse name is about; `None` for other names and for parts of one.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).to_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse().ok().map(IpAddr::V4),
        [digits @ .., "ip6", "arpa"] if digits.len() == 32 && digits.iter().all(|d| d.len() == 1) => {
            let text: String = digits.iter().rev().copied().collect();
            u128::from_str_radix(&text, 16).ok().map(|bits| IpAddr::V6(bits.into()))
        }
        _ => None,
    }
}

fn reverse(view: &impl View, zone: &Zone, name: &Name, kind: RecordType, address: IpAddr) -> Answer {
    let mut names = BTreeSet::new();
    if let Some(service) = view.service_at(address) {
        let namespace = service.metadata.namespace.as_deref().unwrap_or("");
        let service = service.metadata.name.as_deref().unwrap_or("");
        names.extend(zone.name(&[service, namespace, "svc"]));
    } else {
        let text = address.to_string();
        for slice in view.slices_at(address) {
            let Some((namespace, service)) = owner(&slice) else { continue };
            let here = |endpoint: &&Endpoint| is_ready(endpoint) && endpoint.addresses.contains(&text);
            for endpoint in slice.endpoints.iter().filter(here) {
                names.extend(zone.name(&[&endpoint_label(endpoint, &text), service, namespace, "svc"]));
            }
        }
    }
    if names.is_empty() {
        let is_ours = zone.networks.iter().any(|network| network.contains(&address));
        return if is_ours { Answer::NoName } else { Answer::Elsewhere };
    }
    if !wants(kind, RecordType::PTR) {
        return Answer::no_data();
    }
    Answer::records(names.into_iter().map(|target| record(name, RData::PTR(rdata::PTR(target)))).collect())
}

#[cfg(test)]
pub mod tests;
