//! From Services and EndpointSlices to the entries the kernel should hold: which endpoints a
//! service port has on this node (readiness, termination, traffic policies, topology hints), and
//! under which addresses clients reach it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

use super::{Chain, Endpoint, Entry, Key, Node, Protocol, Ruleset, Value};

/// Slices carry the name of the service they belong to under this label.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Services with this label are served by another proxy.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// What the API defaults `sessionAffinityConfig.clientIP.timeoutSeconds` to.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// Slots of endpoints for clients outside the cluster start here; the API bounds a service's
/// endpoints far below (a slice holds at most 1000).
pub const EXTERNAL_SLOTS: u32 = 1 << 24;

type SliceIndex<'a> = HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// Everything the kernel should hold. Where two services claim one address and port, the first wins.
pub fn desired(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &Node) -> Ruleset {
    let mut index = SliceIndex::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) else { continue };
        let namespace = slice.metadata.namespace.as_deref().unwrap_or("");
        index.entry((namespace, service)).or_default().push(slice);
    }
    let mut ruleset = Ruleset::default();
    for service in services {
        let Some(spec) = service.spec.as_ref().filter(|spec| is_proxied(service, spec)) else { continue };
        let name = service.metadata.name.as_deref().unwrap_or("");
        let namespace = service.metadata.namespace.as_deref().unwrap_or("");
        let slices = index.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
        for port in spec.ports.iter().flatten() {
            if let Some(view) = PortView::new(service, spec, port, slices, node) {
                view.add_to(&mut ruleset);
            }
        }
    }
    ruleset
}

fn is_proxied(service: &Service, spec: &ServiceSpec) -> bool {
    let elsewhere = service.metadata.labels.as_ref().is_some_and(|l| l.contains_key(OTHER_PROXY_LABEL));
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or("");
    !elsewhere
        && spec.type_.as_deref() != Some("ExternalName")
        && !cluster_ip.is_empty()
        && cluster_ip != "None"
}

/// The endpoints of one service port as this node sees them.
#[derive(Default)]
struct Candidates {
    /// Anywhere in the cluster.
    cluster: Vec<Endpoint>,
    /// On this node.
    local: Vec<Endpoint>,
}

#[derive(Default)]
struct Known {
    ready: bool,
    /// Going away, but still answering.
    draining: bool,
    local: bool,
    hinted: Hint,
}

/// Whether topology hints ask this node to use an endpoint.
#[derive(Clone, Copy, Default, PartialEq)]
enum Hint {
    #[default]
    None,
    Elsewhere,
    Zone,
    Node,
}

fn hint(endpoint: &SliceEndpoint, node: &Node) -> Hint {
    let Some(hints) = &endpoint.hints else { return Hint::None };
    let zones = hints.for_zones.as_deref().unwrap_or_default();
    let nodes = hints.for_nodes.as_deref().unwrap_or_default();
    if nodes.iter().any(|hint| hint.name == node.name) {
        Hint::Node
    } else if zones.iter().any(|hint| Some(&hint.name) == node.zone.as_ref()) {
        Hint::Zone
    } else if zones.is_empty() && nodes.is_empty() {
        Hint::None
    } else {
        Hint::Elsewhere
    }
}

fn known_endpoints(slices: &[&EndpointSlice], port_name: &str, node: &Node) -> BTreeMap<Endpoint, Known> {
    let mut known = BTreeMap::<Endpoint, Known>::new();
    for slice in slices {
        let named = |port: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            port.name.as_deref().unwrap_or("") == port_name
        };
        let port = slice.ports.iter().flatten().find(named).and_then(|port| port.port);
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let draining = conditions.terminating == Some(true) && conditions.serving.unwrap_or(ready);
            let seen = known.entry(Endpoint { address, port }).or_default();
            seen.ready |= ready;
            seen.draining |= draining;
            seen.local |= endpoint.node_name.as_deref() == Some(node.name.as_str());
            seen.hinted = hint(endpoint, node);
        }
    }
    known
}

/// Ready endpoints; where there is none, those that still answer while they go away.
fn usable<'a>(known: impl Iterator<Item = (&'a Endpoint, &'a Known)> + Clone) -> Vec<Endpoint> {
    let pick = |wanted: fn(&Known) -> bool| -> Vec<Endpoint> {
        known.clone().filter(|(_, known)| wanted(known)).map(|(endpoint, _)| *endpoint).collect()
    };
    let ready = pick(|known| known.ready);
    if ready.is_empty() { pick(|known| known.draining) } else { ready }
}

/// Follows hints only where every ready endpoint has one and some point here.
fn nearest(known: &BTreeMap<Endpoint, Known>) -> Option<Vec<Endpoint>> {
    let ready = || known.iter().filter(|(_, known)| known.ready);
    if ready().any(|(_, known)| known.hinted == Hint::None) {
        return None;
    }
    [Hint::Node, Hint::Zone].into_iter().find_map(|wanted| {
        let near: Vec<Endpoint> = ready()
            .filter(|(_, known)| {
                known.hinted == wanted || (wanted == Hint::Zone && known.hinted == Hint::Node)
            })
            .map(|(endpoint, _)| *endpoint)
            .collect();
        (!near.is_empty()).then_some(near)
    })
}

fn candidates(known: &BTreeMap<Endpoint, Known>) -> Candidates {
    Candidates {
        cluster: nearest(known).unwrap_or_else(|| usable(known.iter())),
        local: usable(known.iter().filter(|(_, known)| known.local)),
    }
}

struct PortView {
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
    cluster_addresses: Vec<Ipv4Addr>,
    /// External IPs and load balancer addresses.
    outer_addresses: BTreeSet<Ipv4Addr>,
    internal_local: bool,
    external_local: bool,
    affinity_seconds: Option<u32>,
    candidates: Candidates,
}

fn addresses(texts: &[String]) -> Vec<Ipv4Addr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
    let seconds = seconds.and_then(|s| u32::try_from(s).ok()).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    (spec.session_affinity.as_deref() == Some("ClientIP")).then_some(seconds)
}

impl PortView {
    fn new(
        service: &Service,
        spec: &ServiceSpec,
        port: &ServicePort,
        slices: &[&EndpointSlice],
        node: &Node,
    ) -> Option<Self> {
        let known = known_endpoints(slices, port.name.as_deref().unwrap_or(""), node);
        let mut cluster_addresses = addresses(spec.cluster_ips.as_deref().unwrap_or_default());
        if cluster_addresses.is_empty() {
            cluster_addresses.extend(spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()));
        }
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
        let mut outer_addresses: BTreeSet<Ipv4Addr> =
            addresses(spec.external_ips.as_deref().unwrap_or_default()).into_iter().collect();
        outer_addresses.extend(
            // With the mode "Proxy" the load balancer itself must see the traffic.
            ingress
                .iter()
                .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
                .filter_map(|ingress| ingress.ip.as_deref()?.parse::<Ipv4Addr>().ok()),
        );
        let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        Some(PortView {
            protocol: Protocol::parse(port.protocol.as_deref())?,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
            cluster_addresses,
            outer_addresses,
            internal_local: is_local(&spec.internal_traffic_policy),
            external_local: is_local(&spec.external_traffic_policy),
            affinity_seconds: affinity(spec),
            candidates: candidates(&known),
        })
    }

    fn add_to(&self, ruleset: &mut Ruleset) {
        let Candidates { cluster, local } = &self.candidates;
        let refusal = if cluster.is_empty() { Value::Reject } else { Value::Drop };
        let internal = if self.internal_local { local } else { cluster };
        for address in &self.cluster_addresses {
            let key = Key { address: *address, protocol: self.protocol, port: self.port };
            self.add_key(ruleset, key, internal, refusal);
        }
        let outer = self.outer_addresses.iter().map(|address| (*address, self.port));
        let node_port = self.node_port.map(|port| (Ipv4Addr::UNSPECIFIED, port));
        for (address, port) in outer.chain(node_port) {
            let key = Key { address, protocol: self.protocol, port };
            let is_ours = self.add_key(ruleset, key, cluster, refusal);
            if is_ours && self.external_local && !cluster.is_empty() {
                self.add_external(ruleset, key, local);
            }
        }
        for endpoint in local {
            ruleset.entries.insert(Entry::Hairpin(endpoint.address), Value::Member);
        }
    }

    fn chain(&self, endpoints: &[Endpoint], key: Key, preserve_source: bool) -> Chain {
        Chain {
            endpoints: endpoints.len() as u32,
            node_port: key.is_node_port(),
            preserve_source,
            affinity_seconds: self.affinity_seconds,
        }
    }

    /// False when another service holds the key already.
    fn add_key(&self, ruleset: &mut Ruleset, key: Key, endpoints: &[Endpoint], refusal: Value) -> bool {
        if [Entry::Service(key), Entry::Refused(key)].iter().any(|e| ruleset.entries.contains_key(e)) {
            return false;
        }
        if endpoints.is_empty() {
            ruleset.entries.insert(Entry::Refused(key), refusal);
            return true;
        }
        let chain = self.chain(endpoints, key, false);
        ruleset.chains.insert(chain);
        ruleset.entries.insert(Entry::Service(key), Value::Chain(chain));
        self.add_endpoints(ruleset, key, endpoints, 0);
        true
    }

    fn add_external(&self, ruleset: &mut Ruleset, key: Key, local: &[Endpoint]) {
        if local.is_empty() {
            ruleset.entries.insert(Entry::External(key), Value::Drop);
            return;
        }
        let chain = self.chain(local, key, true);
        ruleset.chains.insert(chain);
        ruleset.entries.insert(Entry::External(key), Value::Chain(chain));
        self.add_endpoints(ruleset, key, local, EXTERNAL_SLOTS);
    }

    fn add_endpoints(&self, ruleset: &mut Ruleset, key: Key, endpoints: &[Endpoint], first: u32) {
        for (slot, endpoint) in (first..).zip(endpoints) {
            ruleset.entries.insert(Entry::Endpoint(key, slot), Value::To(*endpoint));
            if self.affinity_seconds.is_some() {
                ruleset.entries.insert(Entry::Affinity(key, *endpoint), Value::Member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, ServiceStatus};
    use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointHints, EndpointPort, ForZone};

    const CLUSTER_IP: &str = "10.96.1.1";

    fn service(change: impl FnOnce(&mut Service)) -> Arc<Service> {
        let mut service = Service::default();
        service.metadata.name = Some("web".into());
        service.metadata.namespace = Some("default".into());
        service.spec = Some(ServiceSpec {
            cluster_ip: Some(CLUSTER_IP.into()),
            cluster_ips: Some(vec![CLUSTER_IP.into()]),
            ports: Some(vec![ServicePort { port: 80, ..Default::default() }]),
            ..Default::default()
        });
        change(&mut service);
        Arc::new(service)
    }

    fn spec(change: impl FnOnce(&mut ServiceSpec)) -> Arc<Service> {
        service(|service| change(service.spec.as_mut().unwrap()))
    }

    /// `(last octet, node, ready, serving, terminating)`
    type Row = (u8, &'static str, bool, bool, bool);

    fn slice(rows: &[Row]) -> Arc<EndpointSlice> {
        let mut slice = EndpointSlice { address_type: "IPv4".into(), ..Default::default() };
        slice.metadata.namespace = Some("default".into());
        slice.metadata.labels = Some([(SERVICE_NAME_LABEL.to_owned(), "web".to_owned())].into());
        slice.ports = Some(vec![EndpointPort { port: Some(8080), ..Default::default() }]);
        slice.endpoints = rows
            .iter()
            .map(|(octet, node, ready, serving, terminating)| SliceEndpoint {
                addresses: vec![format!("10.244.0.{octet}")],
                node_name: Some((*node).into()),
                conditions: Some(EndpointConditions {
                    ready: Some(*ready),
                    serving: Some(*serving),
                    terminating: Some(*terminating),
                }),
                ..Default::default()
            })
            .collect();
        Arc::new(slice)
    }

    fn rules(service: Arc<Service>, slices: &[Arc<EndpointSlice>]) -> Ruleset {
        let node = Node { name: "here".into(), zone: Some("a".into()) };
        desired(&[service], slices, &node)
    }

    fn key(address: &str, port: u16) -> Key {
        Key { address: address.parse().unwrap(), protocol: Protocol::Tcp, port }
    }

    /// Last octets in slot order.
    fn targets(ruleset: &Ruleset, key: Key, first: u32) -> Vec<u8> {
        (first..)
            .map_while(|slot| match ruleset.entries.get(&Entry::Endpoint(key, slot)) {
                Some(Value::To(endpoint)) => Some(endpoint.address.octets()[3]),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn ready_endpoints_are_preferred_and_draining_ones_a_last_resort() {
        let cases: [(&[Row], &[u8]); 4] = [
            (&[(1, "x", true, true, false), (2, "x", false, false, false)], &[1]),
            (&[(1, "x", true, true, false), (2, "x", false, true, true)], &[1]),
            (&[(1, "x", false, false, true), (2, "x", false, true, true)], &[2]),
            (&[(1, "x", false, true, false)], &[]),
        ];
        for (rows, expected) in cases {
            let ruleset = rules(spec(|_| {}), &[slice(rows)]);
            assert_eq!(targets(&ruleset, key(CLUSTER_IP, 80), 0), expected, "{rows:?}");
            let refused = ruleset.entries.get(&Entry::Refused(key(CLUSTER_IP, 80)));
            assert_eq!(refused, expected.is_empty().then_some(&Value::Reject));
        }
    }

    #[test]
    fn an_endpoint_in_two_slices_is_one_endpoint() {
        let rows: &[Row] = &[(1, "x", true, true, false)];
        let ruleset = rules(spec(|_| {}), &[slice(rows), slice(rows)]);
        assert_eq!(targets(&ruleset, key(CLUSTER_IP, 80), 0), [1]);
    }

    #[test]
    fn every_address_of_a_service_leads_to_its_endpoints() {
        let balanced = service(|service| {
            let spec = service.spec.as_mut().unwrap();
            spec.type_ = Some("LoadBalancer".into());
            spec.external_ips = Some(vec!["192.0.2.1".into()]);
            spec.ports.as_mut().unwrap()[0].node_port = Some(30080);
            let ip = |ip: &str, mode: &str| LoadBalancerIngress {
                ip: Some(ip.into()),
                ip_mode: Some(mode.into()),
                ..Default::default()
            };
            let ingress = Some(vec![ip("192.0.2.2", "VIP"), ip("192.0.2.3", "Proxy")]);
            let load_balancer = Some(LoadBalancerStatus { ingress });
            service.status = Some(ServiceStatus { load_balancer, ..Default::default() });
        });
        let ruleset = rules(balanced, &[slice(&[(1, "x", true, true, false)])]);
        for key in [key("192.0.2.1", 80), key("192.0.2.2", 80), key("0.0.0.0", 30080)] {
            assert_eq!(targets(&ruleset, key, 0), [1]);
        }
        assert_eq!(targets(&ruleset, key("192.0.2.3", 80), 0), [0u8; 0]);
    }

    #[test]
    fn local_policies_keep_to_this_node() {
        let local = || {
            spec(|spec| {
                spec.external_traffic_policy = Some("Local".into());
                spec.internal_traffic_policy = Some("Local".into());
                spec.ports.as_mut().unwrap()[0].node_port = Some(30080);
            })
        };
        let both = [slice(&[(1, "here", true, true, false), (2, "there", true, true, false)])];
        let ruleset = rules(local(), &both);
        let node_port = key("0.0.0.0", 30080);
        assert_eq!(targets(&ruleset, key(CLUSTER_IP, 80), 0), [1]);
        assert_eq!(targets(&ruleset, node_port, 0), [1, 2], "from inside the cluster");
        assert_eq!(targets(&ruleset, node_port, EXTERNAL_SLOTS), [1]);

        let ruleset = rules(local(), &[slice(&[(2, "there", true, true, false)])]);
        assert_eq!(ruleset.entries.get(&Entry::External(node_port)), Some(&Value::Drop));
        assert_eq!(ruleset.entries.get(&Entry::Refused(key(CLUSTER_IP, 80))), Some(&Value::Drop));
    }

    #[test]
    fn affinity_marks_chain_and_choices() {
        let sticky = spec(|spec| spec.session_affinity = Some("ClientIP".into()));
        let ruleset = rules(sticky, &[slice(&[(1, "x", true, true, false)])]);
        let chain = ruleset.chains.first().unwrap();
        assert_eq!(chain.affinity_seconds, Some(DEFAULT_AFFINITY_SECONDS));
        assert_eq!(ruleset.entries.keys().filter(|e| matches!(e, Entry::Affinity(..))).count(), 1);
    }

    #[test]
    fn headless_external_and_foreign_services_are_left_alone() {
        let mut others = vec![
            spec(|spec| spec.cluster_ip = Some("None".into())),
            spec(|spec| spec.type_ = Some("ExternalName".into())),
        ];
        others.push(service(|service| {
            service.metadata.labels = Some([(OTHER_PROXY_LABEL.to_owned(), "x".to_owned())].into());
        }));
        for other in others {
            assert_eq!(rules(other, &[slice(&[(1, "x", true, true, false)])]), Ruleset::default());
        }
    }

    #[test]
    fn the_first_of_two_claims_on_an_address_wins() {
        let claim = |ip: &str| {
            let ip = ip.to_owned();
            spec(move |spec| {
                spec.cluster_ips = Some(vec![ip]);
                spec.external_ips = Some(vec!["192.0.2.1".into()]);
            })
        };
        let slices = [slice(&[(1, "x", true, true, false), (2, "x", true, true, false)])];
        let node = Node::default();
        let ruleset = desired(&[claim("10.96.0.1"), claim("10.96.0.2")], &slices, &node);
        assert_eq!(targets(&ruleset, key("192.0.2.1", 80), 0), [1, 2]);
    }

    #[test]
    fn hints_count_only_when_all_endpoints_have_them() {
        let hinted = |all: bool| {
            let mut slice = (*slice(&[(1, "x", true, true, false), (2, "y", true, true, false)])).clone();
            let zone = |name: &str| EndpointHints {
                for_zones: Some(vec![ForZone { name: name.into() }]),
                ..Default::default()
            };
            slice.endpoints[0].hints = Some(zone("a"));
            slice.endpoints[1].hints = all.then(|| zone("b"));
            [Arc::new(slice)]
        };
        assert_eq!(targets(&rules(spec(|_| {}), &hinted(true)), key(CLUSTER_IP, 80), 0), [1]);
        assert_eq!(targets(&rules(spec(|_| {}), &hinted(false)), key(CLUSTER_IP, 80), 0), [1, 2]);
    }
}
