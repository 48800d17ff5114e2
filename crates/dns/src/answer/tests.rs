//! Questions against a small cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointPort};

use super::*;

/// A cluster in a map.
#[derive(Default)]
pub struct Cluster {
    services: BTreeMap<(String, String), Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl View for Cluster {
    fn has_namespace(&self, name: &str) -> bool {
        name == "default"
    }
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.iter().filter(|slice| owner(slice) == Some((namespace, service))).cloned().collect()
    }
    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>> {
        let text = address.to_string();
        self.services.values().find(|service| cluster_ips(service).contains(&text)).cloned()
    }
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let text = address.to_string();
        let has = |slice: &&Arc<EndpointSlice>| slice.endpoints.iter().any(|e| e.addresses.contains(&text));
        self.slices.iter().filter(has).cloned().collect()
    }
}

impl Cluster {
    pub fn add(&mut self, name: &str, ip: &str, change: impl FnOnce(&mut ServiceSpec)) {
        let mut service = Service::default();
        service.metadata.name = Some(name.into());
        service.metadata.namespace = Some("default".into());
        let port = |name: &str, protocol: &str, port| ServicePort {
            name: Some(name.into()),
            protocol: Some(protocol.into()),
            port,
            ..Default::default()
        };
        let mut spec = ServiceSpec {
            cluster_ips: Some(vec![ip.into()]),
            ports: Some(vec![port("http", "TCP", 80), port("dns", "UDP", 53)]),
            ..Default::default()
        };
        change(&mut spec);
        service.spec = Some(spec);
        self.services.insert(("default".into(), name.into()), Arc::new(service));
    }

    /// `(address, host name, ready)`
    pub fn endpoints(&mut self, service: &str, rows: &[(&str, &str, bool)]) {
        let mut slice = EndpointSlice { address_type: "IPv4".into(), ..Default::default() };
        slice.metadata.namespace = Some("default".into());
        slice.metadata.labels = Some([("kubernetes.io/service-name".to_owned(), service.to_owned())].into());
        slice.ports = Some(vec![EndpointPort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            port: Some(8080),
            ..Default::default()
        }]);
        slice.endpoints = rows
            .iter()
            .map(|(address, hostname, ready)| Endpoint {
                addresses: vec![(*address).into()],
                hostname: Some((*hostname).to_owned()).filter(|name| !name.is_empty()),
                conditions: Some(EndpointConditions { ready: Some(*ready), ..Default::default() }),
                ..Default::default()
            })
            .collect();
        self.slices.push(Arc::new(slice));
    }
}

pub fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.add("web", "10.96.0.5", |_| {});
    cluster.endpoints("web", &[("10.244.0.7", "", true)]);
    cluster.add("peers", "None", |_| {});
    cluster.endpoints(
        "peers",
        &[("10.244.0.2", "peer-0", true), ("10.244.0.3", "", true), ("10.244.0.4", "peer-2", false)],
    );
    cluster.add("nobody", "None", |_| {});
    cluster.add("outer", "", |spec| {
        spec.type_ = Some("ExternalName".into());
        spec.external_name = Some("example.com".into());
    });
    cluster
}

pub fn zone() -> Zone {
    let networks = ["10.244.0.0/16", "10.96.0.0/16"].map(|network| network.parse().unwrap());
    Zone::new("cluster.local", "10.96.0.10".parse().unwrap(), networks.to_vec(), 1).unwrap()
}

fn ask(name: &str, kind: RecordType) -> Answer {
    answer(&cluster(), &zone(), &Name::from_ascii(name).unwrap(), kind)
}

/// The answer in short: record data, one per line of `dig +short`.
fn short(name: &str, kind: RecordType) -> String {
    match ask(name, kind) {
        Answer::Records { answers, .. } if answers.is_empty() => "nodata".into(),
        Answer::Records { answers, .. } => {
            answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(", ")
        }
        Answer::Alias { target, .. } => format!("alias {target}"),
        Answer::NoName => "nxdomain".into(),
        Answer::Elsewhere => "elsewhere".into(),
    }
}

#[test]
fn questions_and_their_answers() {
    use RecordType::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
    let cases = [
        ("web.default.svc.cluster.local.", A, "10.96.0.5"),
        ("WEB.Default.SVC.cluster.LOCAL.", A, "10.96.0.5"),
        ("web.default.svc.cluster.local.", AAAA, "nodata"),
        (
            "web.default.svc.cluster.local.",
            SRV,
            "0 50 53 web.default.svc.cluster.local., 0 50 80 web.default.svc.cluster.local.",
        ),
        ("_http._tcp.web.default.svc.cluster.local.", SRV, "0 100 80 web.default.svc.cluster.local."),
        ("_dns._udp.web.default.svc.cluster.local.", SRV, "0 100 53 web.default.svc.cluster.local."),
        ("_dns._tcp.web.default.svc.cluster.local.", SRV, "nxdomain"),
        ("10-244-0-7.web.default.svc.cluster.local.", A, "10.244.0.7"),
        ("peers.default.svc.cluster.local.", A, "10.244.0.2, 10.244.0.3"),
        ("peer-0.peers.default.svc.cluster.local.", A, "10.244.0.2"),
        ("10-244-0-3.peers.default.svc.cluster.local.", A, "10.244.0.3"),
        ("peer-2.peers.default.svc.cluster.local.", A, "nxdomain"),
        (
            "_http._tcp.peers.default.svc.cluster.local.",
            SRV,
            "0 50 8080 10-244-0-3.peers.default.svc.cluster.local., 0 50 8080 peer-0.peers.default.svc.cluster.local.",
        ),
        ("nobody.default.svc.cluster.local.", A, "nxdomain"),
        ("missing.default.svc.cluster.local.", A, "nxdomain"),
        ("a.b.web.default.svc.cluster.local.", A, "nxdomain"),
        ("outer.default.svc.cluster.local.", A, "alias example.com."),
        ("outer.default.svc.cluster.local.", CNAME, "example.com."),
        ("x.outer.default.svc.cluster.local.", A, "nxdomain"),
        ("10-244-0-9.default.pod.cluster.local.", A, "10.244.0.9"),
        ("10-244-0-9.missing.pod.cluster.local.", A, "nxdomain"),
        ("nonsense.default.pod.cluster.local.", A, "nxdomain"),
        ("default.svc.cluster.local.", A, "nodata"),
        ("missing.svc.cluster.local.", A, "nxdomain"),
        ("svc.cluster.local.", A, "nodata"),
        ("cluster.local.", NS, "ns.dns.cluster.local."),
        ("cluster.local.", SOA, "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"),
        ("cluster.local.", A, "nodata"),
        ("ns.dns.cluster.local.", A, "10.96.0.10"),
        ("dns-version.cluster.local.", TXT, "1.1.0"),
        ("other.cluster.local.", A, "nxdomain"),
        ("5.0.96.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local."),
        ("2.0.244.10.in-addr.arpa.", PTR, "peer-0.peers.default.svc.cluster.local."),
        ("9.9.244.10.in-addr.arpa.", PTR, "nxdomain"),
        ("8.8.8.8.in-addr.arpa.", PTR, "elsewhere"),
        ("example.com.", A, "elsewhere"),
        ("notcluster.local.", A, "elsewhere"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(short(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn service_records_bring_the_addresses_along() {
    let Answer::Records { answers, additionals } =
        ask("_http._tcp.peers.default.svc.cluster.local.", RecordType::SRV)
    else {
        panic!("no records")
    };
    assert_eq!((answers.len(), additionals.len()), (2, 2));
    assert!(answers.iter().all(|record| record.ttl == 5));
}

#[test]
fn ipv6_names_are_understood() {
    assert_eq!(pod_address("fd00--5"), Some("fd00::5".parse().unwrap()));
    let digits = format!("{}ip6.arpa.", "5.".to_owned() + &"0.".repeat(27) + "0.0.d.f.");
    let name = Name::from_ascii(&digits).unwrap();
    assert_eq!(reverse_address(&name), Some("fd00::5".parse().unwrap()));
}
