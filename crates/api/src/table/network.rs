//! Services, their endpoints and what leads to them.

use serde_json::Value;

use super::cells::{LIST_MAX, NONE, Object, UNKNOWN, UNSET, int_of, shortened, str_of, strings};
use super::{Kind, columns, kind};

pub(super) const KINDS: &[Kind] = &[
    kind("", "services", columns::SERVICES, service),
    kind("", "endpoints", columns::ENDPOINTS, endpoints),
    kind("discovery.k8s.io", "endpointslices", columns::ENDPOINT_SLICES, endpoint_slice),
    kind("networking.k8s.io", "ingresses", columns::INGRESSES, ingress),
    kind("networking.k8s.io", "ingressclasses", columns::INGRESS_CLASSES, ingress_class),
    kind("networking.k8s.io", "networkpolicies", columns::NETWORK_POLICIES, |o| {
        vec![o.name(), o.selector("/spec/podSelector"), o.age()]
    }),
    kind("networking.k8s.io", "ipaddresses", columns::IP_ADDRESSES, ip_address),
    kind("networking.k8s.io", "servicecidrs", columns::SERVICE_CIDRS, |o| {
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
        object.text_or("/spec/clusterIPs/0", NONE),
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
        "ClusterIP" | "NodePort" if own.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => own,
        _ => UNKNOWN.to_owned(),
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
    let shown = if object.list("/subsets").is_empty() { NONE.to_owned() } else { shortened(&all, ",") };
    vec![object.name(), shown.into(), object.age()]
}

fn endpoint_slice(object: &Object<'_>) -> Vec<Value> {
    // Any port is a star, or the name it goes by.
    let port = |p: &Value| match p.get("port").and_then(Value::as_i64) {
        Some(number) => number.to_string(),
        None => p.get("name").and_then(Value::as_str).unwrap_or("*").to_owned(),
    };
    let ports: Vec<String> = object.list("/ports").iter().map(port).collect();
    let points = object.list("/endpoints").iter();
    let addresses = points.flat_map(|e| e.get("addresses").and_then(Value::as_array).into_iter().flatten());
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    let or_unset = |list: &[String]| match shortened(list, ",") {
        text if text.is_empty() => UNSET.to_owned(),
        text => text,
    };
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
    let ports = if object.list("/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        object.name(),
        object.text_or("/spec/ingressClassName", NONE),
        hosts(rules).into(),
        load_balancer(object).into(),
        ports.into(),
        object.age(),
    ]
}

/// The first hosts; rules, with a host or not, count for those left out.
fn hosts(rules: &[Value]) -> String {
    let named = |rule: &&str| !rule.is_empty();
    let all = strings(rules, "host");
    let shown: Vec<&str> = all.iter().copied().filter(named).take(LIST_MAX).collect();
    let full_after = all.iter().enumerate().filter(|(_, h)| named(h)).nth(LIST_MAX - 1).map(|(i, _)| i + 1);
    match (shown.is_empty(), full_after) {
        (true, _) => "*".to_owned(),
        (false, Some(end)) if end < all.len() => {
            format!("{} + {} more...", shown.join(","), all.len() - LIST_MAX)
        }
        _ => shown.join(","),
    }
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
    if object.map("/spec/parentRef").is_none() {
        return vec![object.name(), NONE.into()];
    }
    let resource = crate::status::qualified(part("group"), part("resource")).to_lowercase();
    let parent = match part("namespace") {
        "" => format!("{resource}/{}", part("name")),
        namespace => format!("{resource}/{namespace}/{}", part("name")),
    };
    vec![object.name(), parent.into()]
}
