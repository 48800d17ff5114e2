//! Endpoints and EndpointSlices.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::addresses::{is_ipv6, legacy_ip, lenient_ip, strict_ip, warn_ip};
use crate::check::{self, Faults, invalid_each};
use crate::contract::{Context, Warnings};
use crate::domains::fully_qualified_host;
use crate::json::{default, default_text, each, fields, is_empty, items, number, remove, same, set, text};
use crate::kind::{Kind, PLAIN};

const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;
const TOPOLOGY_LABELS_MAX: usize = 16;
const HINTS_MAX: usize = 8;
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// What the controllers wrote of themselves needs no hints.
const ENDPOINTS_MANAGER: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const SLICE_MANAGERS: [(&str, &str); 2] = [
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"),
    ("endpointslice.kubernetes.io/managed-by", "endpointslicemirroring-controller.k8s.io"),
];

pub static ENDPOINTS: Kind = Kind {
    create_on_update: true,
    default: |object| {
        each(object, "subsets", |subset| each(subset, "ports", |port| default_text(port, "protocol", "TCP")));
    },
    validate: endpoints,
    // Subsets that were accepted once are kept, whatever is asked of new ones since.
    revalidate: Some(
        |new, old| {
            if same(&new["subsets"], &old["subsets"]) { Faults::new() } else { endpoints(new) }
        },
    ),
    warn: |object, _| {
        let mut texts = Warnings::new();
        if managed(object, ENDPOINTS_MANAGER) {
            return texts;
        }
        for (s, subset) in items(&object["subsets"]).iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                let at = Path::new("subsets").index(s).child(list);
                for (i, address) in items(&subset[list]).iter().enumerate() {
                    warn_ip(&mut texts, &at.index(i).child("ip"), text(&address["ip"]));
                }
            }
        }
        texts
    },
    ..PLAIN
};

pub static ENDPOINT_SLICE: Kind = Kind {
    generation: true,
    generation_of_labels: true,
    default: |object| {
        default(object, "endpoints", Value::Array(Vec::new()));
        if let Some(Value::Null) = object.get("ports") {
            remove(object, "ports");
        }
        each(object, "ports", |port| {
            default(port, "name", "");
            default_text(port, "protocol", "TCP");
        });
    },
    create: |_, object| each(object, "endpoints", |endpoint| remove(endpoint, "deprecatedTopology")),
    update: |_: &Context, object, old| {
        if !same(&object["endpoints"], &old["endpoints"]) {
            each(object, "endpoints", |endpoint| remove(endpoint, "deprecatedTopology"));
        }
    },
    validate: |object| slice(object, None),
    revalidate: Some(|new, old| {
        let mut faults = slice(new, Some(old));
        let path = Path::new("addressType");
        check::immutable_text(&mut faults, &path, &new["addressType"], &old["addressType"]);
        faults
    }),
    warn: |object, old| {
        let mut texts = Warnings::new();
        let fqdn = text(&object["addressType"]) == "FQDN";
        if fqdn && old.is_none() {
            texts.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        if fqdn || SLICE_MANAGERS.into_iter().any(|manager| managed(object, manager)) {
            return texts;
        }
        for (e, endpoint) in items(&object["endpoints"]).iter().enumerate() {
            for (i, address) in items(&endpoint["addresses"]).iter().enumerate() {
                let at = Path::new("endpoints").index(e).child("addresses").index(i);
                warn_ip(&mut texts, &at, text(address));
            }
        }
        texts
    },
    ..PLAIN
};

fn managed(object: &Value, (label, manager): (&str, &str)) -> bool {
    text(&object["metadata"]["labels"][label]) == manager
}

fn endpoints(object: &Value) -> Faults {
    let mut faults = Faults::new();
    for (i, subset) in items(&object["subsets"]).iter().enumerate() {
        let at = Path::new("subsets").index(i);
        if is_empty(&subset["addresses"]) && is_empty(&subset["notReadyAddresses"]) {
            faults.push(Error::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (a, address) in items(&subset[list]).iter().enumerate() {
                self::address(&mut faults, &at.child(list).index(a), address);
            }
        }
        let ports = items(&subset["ports"]);
        for (p, port) in ports.iter().enumerate() {
            let at = at.child("ports").index(p);
            if text(&port["name"]).is_empty() && ports.len() > 1 {
                faults.push(Error::required(&at.child("name"), ""));
            }
            port_name(&mut faults, &at, port);
            check::port_number(&mut faults, &at.child("port"), number(&port["port"]));
            check::one_of(&mut faults, &at.child("protocol"), &port["protocol"], &PROTOCOLS);
            app_protocol(&mut faults, &at, port);
        }
    }
    faults
}

fn address(faults: &mut Faults, path: &Path, address: &Value) {
    let (ip, at) = (text(&address["ip"]), path.child("ip"));
    legacy_ip(faults, &at, ip);
    let hostname = text(&address["hostname"]);
    if !hostname.is_empty() {
        invalid_each(faults, &path.child("hostname"), hostname, check::dns1123_label(hostname));
    }
    node_name(faults, path, address);
    match lenient_ip(ip) {
        Some(ip) => check::ordinary_ip(faults, &at, &ip.to_string()),
        None => faults.push(Error::invalid(&at, ip, "must be a valid IP address")),
    }
}

fn node_name(faults: &mut Faults, path: &Path, holder: &Value) {
    if set(&holder["nodeName"]) {
        let node = text(&holder["nodeName"]);
        invalid_each(faults, &path.child("nodeName"), node, check::dns1123_subdomain(node));
    }
}

fn port_name(faults: &mut Faults, path: &Path, port: &Value) {
    let name = text(&port["name"]);
    if !name.is_empty() {
        invalid_each(faults, &path.child("name"), name, check::dns1123_label(name));
    }
}

fn app_protocol(faults: &mut Faults, path: &Path, port: &Value) {
    if set(&port["appProtocol"]) {
        let protocol = text(&port["appProtocol"]);
        invalid_each(faults, &path.child("appProtocol"), protocol, check::qualified_name(protocol));
    }
}

fn slice(object: &Value, old: Option<&Value>) -> Faults {
    let mut faults = Faults::new();
    check::one_of(&mut faults, &Path::new("addressType"), &object["addressType"], &ADDRESS_TYPES);
    slice_ports(&mut faults, &Path::new("ports"), items(&object["ports"]));
    let found = slice_endpoints(object);
    // Endpoints that were accepted once are kept, whatever is asked of new ones since.
    if found.is_empty() || !old.is_some_and(|old| same(&object["endpoints"], &old["endpoints"])) {
        faults.extend(found);
    }
    faults
}

fn slice_endpoints(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let kind = text(&object["addressType"]);
    let (list, path) = (items(&object["endpoints"]), Path::new("endpoints"));
    if list.len() > ENDPOINTS_MAX {
        faults.push(Error::too_many(&path, list.len(), ENDPOINTS_MAX));
        return faults;
    }
    for (i, endpoint) in list.iter().enumerate() {
        slice_endpoint(&mut faults, &path.index(i), endpoint, kind);
    }
    faults
}

fn slice_ports(faults: &mut Faults, path: &Path, ports: &[Value]) {
    if ports.len() > PORTS_MAX {
        faults.push(Error::too_many(path, ports.len(), PORTS_MAX));
        return;
    }
    let mut names = std::collections::HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let (at, name) = (path.index(i), text(&port["name"]));
        port_name(faults, &at, port);
        if !names.insert(name) {
            faults.push(Error::duplicate(&at.child("name"), name));
        }
        check::one_of(faults, &at.child("protocol"), &port["protocol"], &PROTOCOLS);
        app_protocol(faults, &at, port);
    }
}

fn slice_endpoint(faults: &mut Faults, path: &Path, endpoint: &Value, kind: &str) {
    let addresses = items(&endpoint["addresses"]);
    let at = path.child("addresses");
    if addresses.is_empty() {
        faults.push(Error::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MAX {
        faults.push(Error::too_many(&at, addresses.len(), ADDRESSES_MAX));
    }
    for (i, address) in addresses.iter().enumerate() {
        slice_address(faults, &at, i, text(address), kind);
    }
    node_name(faults, path, endpoint);
    let topology = path.child("deprecatedTopology");
    let labels = fields(&endpoint["deprecatedTopology"]).count();
    if labels > TOPOLOGY_LABELS_MAX {
        faults.push(Error::too_many(&topology, labels, TOPOLOGY_LABELS_MAX));
    }
    check::labels(faults, &topology, &endpoint["deprecatedTopology"]);
    if set(&endpoint["hostname"]) {
        let name = text(&endpoint["hostname"]);
        invalid_each(faults, &path.child("hostname"), name, check::dns1123_label(name));
    }
    let at = path.child("hints");
    let (zones, nodes) = (items(&endpoint["hints"]["forZones"]), items(&endpoint["hints"]["forNodes"]));
    if hints(faults, &at.child("forZones"), zones, check::label_value) {
        hints(faults, &at.child("forNodes"), nodes, check::dns1123_subdomain);
    }
}

/// Slices came to IPv6 late, so only IPv4 addresses may be written in the ways of old fields. An
/// address of the other family is reported under the list it stands in, as Kubernetes does.
fn slice_address(faults: &mut Faults, list: &Path, i: usize, address: &str, kind: &str) {
    let path = &list.index(i);
    let before = faults.len();
    match kind {
        "IPv4" => legacy_ip(faults, path, address),
        "IPv6" => faults.extend(strict_ip(address).map(|detail| Error::invalid(path, address, detail))),
        "FQDN" => return fully_qualified_host(faults, path, address),
        _ => return,
    }
    let Some(ip) = lenient_ip(address).filter(|_| faults.len() == before) else { return };
    if is_ipv6(address) != (kind == "IPv6") {
        faults.push(Error::invalid(list, address, format!("must be an {kind} address")));
    }
    check::ordinary_ip(faults, path, &ip.to_string());
}

/// False where there are too many to look at.
fn hints(faults: &mut Faults, path: &Path, hints: &[Value], rule: fn(&str) -> Vec<String>) -> bool {
    if hints.len() > HINTS_MAX {
        faults.push(Error::too_many(path, hints.len(), HINTS_MAX));
        return false;
    }
    for (i, hint) in hints.iter().enumerate() {
        let (at, name) = (path.index(i).child("name"), text(&hint["name"]));
        if hints[..i].iter().any(|before| text(&before["name"]) == name) {
            faults.push(Error::duplicate(&at, name));
        }
        invalid_each(faults, &at, name, rule(name));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::named::{created, merge, patched, stored, updated, warned};
    use serde_json::json;

    const GROUP: &str = "discovery.k8s.io";

    #[test]
    fn endpoints_in_subsets() {
        for (subset, expected) in [
            (json!({}), vec!["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
            (
                json!({"addresses": [{"ip": "x", "hostname": "A.b"}, {"ip": "169.254.1.1"}], "ports": [{"port": 1}, {"port": 0, "name": "a"}]}),
                vec![
                    "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    "subsets[0].addresses[0].hostname: Invalid value: \"A.b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address",
                    "subsets[0].addresses[1].ip: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
                    "subsets[0].ports[0].name: Required value",
                    "subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
        ] {
            assert_eq!(created("", "endpoints", json!({"subsets": [subset]})), expected);
        }
        let mut once = stored("", "endpoints", json!({}));
        once["subsets"] = json!([{"addresses": [{"ip": "127.0.0.1"}]}]);
        let kept = patched("", "endpoints", "", &once, json!({"metadata": {"labels": {"a": "b"}}})).1;
        assert_eq!(kept, [""; 0], "what was accepted once");
        let moved = json!({"subsets": [{"addresses": [{"ip": "127.0.0.2"}]}]});
        assert_eq!(patched("", "endpoints", "", &once, moved).1.len(), 1);
    }

    #[test]
    fn slices() {
        let slice = |endpoint: Value| json!({"addressType": "IPv4", "endpoints": [endpoint]});
        for (object, expected) in [
            (slice(json!({"addresses": ["1.2.3.4"]})), vec![]),
            (
                json!({"addressType": "X"}),
                vec!["addressType: Unsupported value: \"X\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
            ),
            (
                slice(json!({})),
                vec!["endpoints[0].addresses: Required value: must contain at least 1 address"],
            ),
            (
                slice(
                    json!({"addresses": ["fd00::1", "127.0.0.1"], "hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}),
                ),
                vec![
                    "endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
                    "endpoints[0].addresses[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                    "endpoints[0].hints.forZones[1].name: Duplicate value: \"z\"",
                ],
            ),
            (
                json!({"addressType": "IPv6", "endpoints": [{"addresses": ["10.0.0.1", "FD00::1"]}]}),
                vec![
                    "endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address",
                    "endpoints[0].addresses[1]: Invalid value: \"FD00::1\": must be in canonical form (\"fd00::1\")",
                ],
            ),
            (
                json!({"addressType": "FQDN", "endpoints": [{"addresses": ["host"]}], "ports": [{"port": 0}, {"appProtocol": "a b"}]}),
                vec![
                    "ports[1].name: Duplicate value: \"\"",
                    "ports[1].appProtocol: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "endpoints[0].addresses[0]: Invalid value: \"host\": should be a domain with at least two segments separated by dots",
                ],
            ),
        ] {
            assert_eq!(created(GROUP, "endpointslices", object.clone()), expected, "{object}");
        }
        let old = slice(json!({"addresses": ["1.2.3.4"], "deprecatedTopology": {"a": "b"}}));
        assert_eq!(
            updated(GROUP, "endpointslices", old.clone(), json!({"addressType": "IPv6", "endpoints": []})),
            ["addressType: Invalid value: \"IPv6\": field is immutable"]
        );
        let mut accepted_once = stored(GROUP, "endpointslices", old.clone());
        accepted_once["endpoints"][0]["addresses"] = json!(["127.0.0.1"]);
        for (patch, expected) in [
            (json!({"metadata": {"labels": {"a": "b"}}}), vec![]),
            (
                json!({"endpoints": [{"addresses": ["127.0.0.2"]}]}),
                vec![
                    "endpoints[0].addresses[0]: Invalid value: \"127.0.0.2\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ],
            ),
        ] {
            assert_eq!(patched(GROUP, "endpointslices", "", &accepted_once, patch).1, expected);
        }
        let old = stored(GROUP, "endpointslices", old);
        assert!(old["endpoints"][0]["deprecatedTopology"].is_null());
        let (object, _) =
            patched(GROUP, "endpointslices", "", &old, json!({"metadata": {"labels": {"a": "b"}}}));
        assert_eq!(object["metadata"]["generation"], 2, "labels count");
    }

    #[test]
    fn hints_about_addresses() {
        let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["010.0.0.1"]}]});
        assert_eq!(
            warned(GROUP, "endpointslices", slice.clone()),
            [
                "endpoints[0].addresses[0]: non-standard IP address \"010.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\""
            ]
        );
        let mirrored = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"}}});
        assert_eq!(warned(GROUP, "endpointslices", merge(slice, mirrored)), [""; 0]);
        let fqdn = json!({"addressType": "FQDN"});
        assert_eq!(
            warned(GROUP, "endpointslices", fqdn.clone()),
            ["spec.addressType: FQDN endpoints are deprecated"]
        );
        assert_eq!(*(ENDPOINT_SLICE.warn)(&fqdn, Some(&fqdn)), [""; 0], "said once");
    }
}
