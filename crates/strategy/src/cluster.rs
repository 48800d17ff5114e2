//! Namespaces, nodes, service accounts, leases, endpoints and endpoint slices.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults, invalid_each};
use crate::json::{
    copy, default, default_text, each, fields, is_empty, items, number, put, same, set, text, within,
};
use crate::kind::{Kind, PLAIN};
use crate::metadata::{NameRule, known_finalizer};
use crate::pod::scheduling::TAINT_EFFECTS;

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub static NAMESPACE: Kind = Kind {
    name: NameRule::Label,
    status: true,
    default: |object| {
        let name = text(&object["metadata"]["name"]).to_owned();
        if !name.is_empty() {
            within(object, "metadata", |metadata| {
                within(metadata, "labels", |labels| put(labels, "kubernetes.io/metadata.name", name));
            });
        }
        within(object, "spec", |_| {});
        within(object, "status", |status| default_text(status, "phase", "Active"));
    },
    create: |_, object| {
        put(object, "status", json!({"phase": "Active"}));
        within(object, "spec", |spec| {
            let mut list = items(&spec["finalizers"]).to_vec();
            if !list.iter().any(|f| f == "kubernetes") {
                list.push("kubernetes".into());
            }
            put(spec, "finalizers", list);
        });
    },
    update: |context, object, old| {
        if context.subresource == "finalize" {
            copy(object, "status", old);
        } else {
            copy(object, "spec", old);
        }
    },
    validate: |object| {
        let mut faults = Faults::new();
        for finalizer in items(&object["spec"]["finalizers"]) {
            let (at, name) = (Path::new("spec").child("finalizers"), text(finalizer));
            invalid_each(&mut faults, &at, name, check::qualified_name(name));
            known_finalizer(&mut faults, &at, name);
        }
        faults
    },
    validate_status: |new, _| {
        let mut faults = Faults::new();
        let phase = text(&new["status"]["phase"]);
        let at = Path::new("status").child("Phase");
        match (set(&new["metadata"]["deletionTimestamp"]), phase) {
            (false, "Active") | (true, "Terminating") => {}
            (false, _) => {
                let detail = "may only be 'Active' if `deletionTimestamp` is empty";
                faults.push(Error::invalid(&at, phase, detail));
            }
            (true, _) => {
                let detail = "may only be 'Terminating' if `deletionTimestamp` is not empty";
                faults.push(Error::invalid(&at, phase, detail));
            }
        }
        faults
    },
    ..PLAIN
};

pub static NODE: Kind = Kind {
    status: true,
    default: |object| {
        within(object, "spec", |_| {});
        within(object, "status", |status| {
            for list in ["capacity", "allocatable"] {
                crate::json::with(status, list, crate::pod::defaults::canonical_list);
            }
            if set(&status["capacity"]) {
                let capacity = status["capacity"].clone();
                default(status, "allocatable", capacity);
            }
        });
    },
    validate: node,
    validate_change: node_change,
    keep_status_at_create: true,
    ..PLAIN
};

pub static SERVICE_ACCOUNT: Kind = Kind {
    // Tokens are asked for; the server makes no secrets of its own accord.
    ..PLAIN
};

pub static LEASE: Kind =
    Kind { create_on_update: true, unconditional_update: false, validate: lease, ..PLAIN };

pub static ENDPOINTS: Kind = Kind {
    create_on_update: true,
    default: |object| {
        each(object, "subsets", |subset| each(subset, "ports", |port| default_text(port, "protocol", "TCP")));
    },
    validate: endpoints,
    warn: |_, _| {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
    },
    ..PLAIN
};

pub static ENDPOINT_SLICE: Kind = Kind {
    generation: true,
    default: |object| {
        default(object, "endpoints", Value::Array(Vec::new()));
        if let Some(Value::Null) = object.get("ports") {
            crate::json::remove(object, "ports");
        }
        each(object, "ports", |port| {
            default(port, "name", "");
            default_text(port, "protocol", "TCP");
        });
    },
    validate: endpoint_slice,
    validate_change: |new, old| {
        let mut faults = Faults::new();
        let path = Path::new("addressType");
        check::immutable(&mut faults, &path, &new["addressType"], &old["addressType"]);
        faults
    },
    ..PLAIN
};

fn node(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in items(&spec["taints"]).iter().enumerate() {
        let at = path.child("taints").index(i);
        let (key, value, effect) = (text(&taint["key"]), text(&taint["value"]), text(&taint["effect"]));
        invalid_each(&mut faults, &at.child("key"), key, check::qualified_name(key));
        let texts = check::label_value(value);
        if !texts.is_empty() {
            faults.push(Error::invalid(&at.child("value"), value, texts.join(";")));
        }
        check::one_of(&mut faults, &at.child("effect"), &taint["effect"], &TAINT_EFFECTS);
        if seen.contains(&(key, effect)) {
            let mut fault = Error::duplicate(&at, taint.clone());
            fault.detail = "taints must be unique by key and effect pair".to_owned();
            faults.push(fault);
        }
        seen.push((key, effect));
    }
    let cidrs = items(&spec["podCIDRs"]);
    for (i, cidr) in cidrs.iter().enumerate() {
        check::cidr(&mut faults, &path.child("podCIDRs").index(i), text(cidr));
    }
    if cidrs.len() > 2 {
        let detail = "may specify no more than one CIDR for each IP family";
        faults.push(Error::invalid(&path.child("podCIDRs"), spec["podCIDRs"].clone(), detail));
    }
    faults
}

fn node_change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    let (now, then) = (items(&spec["podCIDRs"]), items(&before["podCIDRs"]));
    if !then.is_empty() && now != then {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        faults.push(Error::forbidden(&path.child("podCIDRs"), detail));
    }
    let provider = text(&before["providerID"]);
    if !provider.is_empty() && provider != text(&spec["providerID"]) {
        let detail = "node updates may not change providerID except from \"\" to valid";
        faults.push(Error::forbidden(&path.child("providerID"), detail));
    }
    let mut munged = spec.clone();
    for key in ["podCIDR", "podCIDRs", "providerID", "unschedulable", "taints", "configSource"] {
        copy(&mut munged, key, before);
    }
    if !same(&munged, before) {
        let detail = "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)";
        faults.push(Error::forbidden(&path, detail));
    }
    faults
}

fn lease(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    if set(&spec["leaseDurationSeconds"]) && number(&spec["leaseDurationSeconds"]) <= 0 {
        let value = number(&spec["leaseDurationSeconds"]);
        faults.push(Error::invalid(&path.child("leaseDurationSeconds"), value, "must be greater than 0"));
    }
    if set(&spec["leaseTransitions"]) {
        check::not_negative(&mut faults, &path.child("leaseTransitions"), &spec["leaseTransitions"]);
    }
    if set(&spec["strategy"])
        && text(&spec["strategy"]) != "OldestEmulationVersion"
        && !text(&spec["strategy"]).contains('/')
    {
        let strategies = ["OldestEmulationVersion"];
        faults.push(Error::not_supported(&path.child("strategy"), text(&spec["strategy"]), &strategies));
    }
    faults
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
                endpoint_address(&mut faults, &at.child(list).index(a), address);
            }
        }
        let ports = items(&subset["ports"]);
        for (p, port) in ports.iter().enumerate() {
            let at = at.child("ports").index(p);
            let name = text(&port["name"]);
            if name.is_empty() {
                if ports.len() > 1 {
                    faults.push(Error::required(&at.child("name"), ""));
                }
            } else {
                invalid_each(&mut faults, &at.child("name"), name, check::dns1123_label(name));
            }
            check::port_number(&mut faults, &at.child("port"), number(&port["port"]));
            check::one_of(&mut faults, &at.child("protocol"), &port["protocol"], &PROTOCOLS);
            if set(&port["appProtocol"]) {
                let protocol = text(&port["appProtocol"]);
                invalid_each(
                    &mut faults,
                    &at.child("appProtocol"),
                    protocol,
                    check::qualified_name(protocol),
                );
            }
        }
    }
    faults
}

fn endpoint_address(faults: &mut Faults, path: &Path, address: &Value) {
    let ip = text(&address["ip"]);
    let before = faults.len();
    check::ip(faults, &path.child("ip"), ip);
    let hostname = text(&address["hostname"]);
    if !hostname.is_empty() {
        invalid_each(faults, &path.child("hostname"), hostname, check::dns1123_label(hostname));
    }
    if set(&address["nodeName"]) {
        let node = text(&address["nodeName"]);
        invalid_each(faults, &path.child("nodeName"), node, check::dns1123_subdomain(node));
    }
    if faults.len() == before {
        check::ordinary_ip(faults, &path.child("ip"), ip);
    }
}

fn endpoint_slice(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let kind = text(&object["addressType"]);
    check::one_of(&mut faults, &Path::new("addressType"), &object["addressType"], &ADDRESS_TYPES);
    let list = items(&object["endpoints"]);
    let path = Path::new("endpoints");
    if list.len() > MAX_ENDPOINTS {
        faults.push(Error::too_many(&path, list.len(), MAX_ENDPOINTS));
        return faults;
    }
    for (i, endpoint) in list.iter().enumerate() {
        slice_endpoint(&mut faults, &path.index(i), endpoint, kind);
    }
    let ports = items(&object["ports"]);
    let path = Path::new("ports");
    if ports.len() > MAX_PORTS {
        faults.push(Error::too_many(&path, ports.len(), MAX_PORTS));
        return faults;
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(&port["name"]);
        if !name.is_empty() {
            invalid_each(&mut faults, &at.child("name"), name, check::dns1123_label(name));
        }
        if names.contains(&name) {
            faults.push(Error::duplicate(&at.child("name"), name));
        }
        names.push(name);
        if set(&port["port"]) {
            check::port_number(&mut faults, &at.child("port"), number(&port["port"]));
        }
        check::one_of(&mut faults, &at.child("protocol"), &port["protocol"], &PROTOCOLS);
    }
    faults
}

fn slice_endpoint(faults: &mut Faults, path: &Path, endpoint: &Value, kind: &str) {
    let addresses = items(&endpoint["addresses"]);
    let at = path.child("addresses");
    if addresses.is_empty() {
        faults.push(Error::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > MAX_ADDRESSES {
        faults.push(Error::too_many(&at, addresses.len(), MAX_ADDRESSES));
    }
    for (i, address) in addresses.iter().enumerate() {
        let (at, address) = (at.index(i), text(address));
        match kind {
            "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                faults.push(Error::invalid(&at, address, "must be a valid IPv4 address"));
            }
            "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                faults.push(Error::invalid(&at, address, "must be a valid IPv6 address"));
            }
            "IPv4" | "IPv6" => check::ordinary_ip(faults, &at, address),
            "FQDN" => {
                invalid_each(faults, &at, address, check::dns1123_subdomain(address.trim_end_matches('.')))
            }
            _ => {}
        }
    }
    if set(&endpoint["nodeName"]) {
        let node = text(&endpoint["nodeName"]);
        invalid_each(faults, &path.child("nodeName"), node, check::dns1123_subdomain(node));
    }
    if set(&endpoint["hostname"]) {
        let name = text(&endpoint["hostname"]);
        invalid_each(faults, &path.child("hostname"), name, check::dns1123_label(name));
    }
    for (key, value) in fields(&endpoint["deprecatedTopology"]) {
        let at = path.child("deprecatedTopology");
        invalid_each(faults, &at, key, check::qualified_name(key));
        invalid_each(faults, &at, text(value), check::label_value(text(value)));
    }
}
