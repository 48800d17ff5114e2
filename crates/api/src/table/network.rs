//! Services, their endpoints and what leads to them.

use serde_json::Value;

use super::cells::{NONE, Object, UNSET, int_of, shortened, str_of, strings};
use super::{AGE, Column, Kind, NAME, kind, text, wide};

const SERVICES: &[Column] =
    &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE, wide("Selector")];
const ENDPOINTS: &[Column] = &[NAME, text("Endpoints"), AGE];
const SLICES: &[Column] = &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE];
const INGRESSES: &[Column] = &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE];
const INGRESS_CLASSES: &[Column] = &[NAME, text("Controller"), text("Parameters"), AGE];
const POLICIES: &[Column] = &[NAME, text("Pod-Selector"), AGE];
const ADDRESSES: &[Column] = &[NAME, text("ParentRef"), AGE];
const CIDRS: &[Column] = &[NAME, text("CIDRs"), AGE];

pub(super) const KINDS: &[Kind] = &[
    kind("", "services", SERVICES, service),
    kind("", "endpoints", ENDPOINTS, endpoints),
    kind("discovery.k8s.io", "endpointslices", SLICES, endpoint_slice),
    kind("networking.k8s.io", "ingresses", INGRESSES, ingress),
    kind("networking.k8s.io", "ingressclasses", INGRESS_CLASSES, ingress_class),
    kind("networking.k8s.io", "networkpolicies", POLICIES, |o| {
        vec![o.name(), o.selector("/spec/podSelector"), o.age()]
    }),
    kind("networking.k8s.io", "ipaddresses", ADDRESSES, ip_address),
    kind("networking.k8s.io", "servicecidrs", CIDRS, |o| {
        vec![o.name(), joined(o, "/spec/cidrs").into(), o.age()]
    }),
];

fn joined(object: &Object<'_>, pointer: &str) -> String {
    object.list(pointer).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn service(object: &Object<'_>) -> Vec<Value> {
    let kind = object.text("/spec/type");
    vec![
        object.name(),
        kind.into(),
        object.text_or("/spec/clusterIP", NONE),
        external_addresses(object, kind).into(),
        service_ports(object).into(),
        object.age(),
        object.labels("/spec/selector"),
    ]
}

fn external_addresses(object: &Object<'_>, kind: &str) -> String {
    let own = joined(object, "/spec/externalIPs");
    match kind {
        "ExternalName" => object.text("/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let balancer = load_balancer(object);
            match (balancer.is_empty(), own.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (true, false) => own,
                (false, true) => balancer,
                (false, false) => format!("{balancer},{own}"),
            }
        }
        _ if own.is_empty() => NONE.to_owned(),
        _ => own,
    }
}

fn load_balancer(object: &Object<'_>) -> String {
    let points = object.list("/status/loadBalancer/ingress").iter();
    let mut addresses: Vec<&str> = points
        .map(|i| match str_of(i, "ip") {
            "" => str_of(i, "hostname"),
            ip => ip,
        })
        .filter(|a| !a.is_empty())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.join(",")
}

fn service_ports(object: &Object<'_>) -> String {
    let ports = object.list("/spec/ports");
    if ports.is_empty() {
        return NONE.to_owned();
    }
    let shown = |port: &Value| {
        let (number, node_port) = (int_of(port, "port"), int_of(port, "nodePort"));
        let protocol = str_of(port, "protocol");
        if node_port > 0 {
            format!("{number}:{node_port}/{protocol}")
        } else {
            format!("{number}/{protocol}")
        }
    };
    ports.iter().map(shown).collect::<Vec<_>>().join(",")
}

fn host_port(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn endpoints(object: &Object<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in object.list("/subsets") {
        let list =
            |name: &str| subset.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let addresses = strings(list("addresses"), "ip");
        if list("ports").is_empty() {
            all.extend(addresses.iter().map(|a| (*a).to_owned()));
        }
        for port in list("ports") {
            all.extend(addresses.iter().map(|a| host_port(a, int_of(port, "port"))));
        }
    }
    let shown = if all.is_empty() { NONE.to_owned() } else { shortened(&all, ",") };
    vec![object.name(), shown.into(), object.age()]
}

fn endpoint_slice(object: &Object<'_>) -> Vec<Value> {
    let port = |p: &Value| p.get("port").and_then(Value::as_i64).map_or("*".to_owned(), |n| n.to_string());
    let ports: Vec<String> = object.list("/ports").iter().map(port).collect();
    let points = object.list("/endpoints").iter();
    let addresses = points.flat_map(|e| e.get("addresses").and_then(Value::as_array).into_iter().flatten());
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    let or_unset = |list: &[String]| if list.is_empty() { UNSET.to_owned() } else { shortened(list, ",") };
    vec![
        object.name(),
        object.cell("/addressType"),
        or_unset(&ports).into(),
        or_unset(&addresses).into(),
        object.age(),
    ]
}

fn ingress(object: &Object<'_>) -> Vec<Value> {
    let rules = object.list("/spec/rules");
    let hosts: Vec<String> =
        strings(rules, "host").into_iter().filter(|h| !h.is_empty()).map(str::to_owned).collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { shortened(&hosts, ",") };
    let ports = if object.list("/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        object.name(),
        object.text_or("/spec/ingressClassName", NONE),
        hosts.into(),
        load_balancer(object).into(),
        ports.into(),
        object.age(),
    ]
}

fn ingress_class(object: &Object<'_>) -> Vec<Value> {
    let kind = object.text("/spec/parameters/kind");
    let parameters = if kind.is_empty() {
        NONE.to_owned()
    } else {
        let group = object.text("/spec/parameters/apiGroup");
        let kind = crate::status::qualified(group, kind);
        format!("{kind}/{}", object.text("/spec/parameters/name"))
    };
    vec![object.name(), object.cell("/spec/controller"), parameters.into(), object.age()]
}

fn ip_address(object: &Object<'_>) -> Vec<Value> {
    let part = |name: &str| object.text(&format!("/spec/parentRef/{name}"));
    let parent = match part("namespace") {
        "" => format!("{}/{}", part("resource"), part("name")),
        namespace => format!("{}/{namespace}/{}", part("resource"), part("name")),
    };
    vec![object.name(), parent.into(), object.age()]
}

#[cfg(test)]
mod tests {
    use super::super::row;
    use jiff::Timestamp;
    use serde_json::json;

    #[test]
    fn services_and_endpoints() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
            "selector": {"a": "b"}, "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"},
            {"port": 53, "protocol": "UDP"}]}});
        let cells = row("", "services", &service, Timestamp::UNIX_EPOCH);
        let expected = ["s", "NodePort", "10.0.0.1", "<none>", "80:30080/TCP,53/UDP", "<unknown>", "a=b"];
        assert_eq!(cells, expected);
        let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["1"]}, {"addresses": ["2"]}, {"addresses": ["3"]}, {"addresses": ["4"]}]});
        let cells = row("discovery.k8s.io", "endpointslices", &slice, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..4], ["IPv4", "8080", "1,2,3 + 1 more..."]);
    }
}
