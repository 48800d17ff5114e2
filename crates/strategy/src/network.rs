//! Ingresses, their classes and network policies.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::wildcard_dns1123_subdomain;
use serde_json::{Value, json};

use crate::check::{self, Faults, invalid_each};
use crate::json::{default, default_text, each, is_empty, items, number, put, set, text, within};
use crate::kind::{Kind, PLAIN, SPEC_AND_STATUS};

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

pub static INGRESS: Kind = Kind {
    default: |object| {
        within(object, "spec", |_| {});
        within(object, "status", |status| within(status, "loadBalancer", |_| {}));
    },
    validate: ingress,
    warn: |object, _| {
        let class = &object["metadata"]["annotations"]["kubernetes.io/ingress.class"];
        if set(class) {
            vec!["annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead".to_owned()]
        } else {
            Vec::new()
        }
    },
    ..SPEC_AND_STATUS
};
pub static INGRESS_CLASS: Kind = Kind {
    generation: true,
    default: |object| {
        within(object, "spec", |spec| {
            if set(&spec["parameters"]) {
                within(spec, "parameters", |parameters| default(parameters, "scope", "Cluster"));
            }
        });
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        let at = Path::new("spec").child("controller");
        check::immutable(&mut faults, &at, &new["spec"]["controller"], &old["spec"]["controller"]);
        faults
    },
    ..PLAIN
};
pub static NETWORK_POLICY: Kind = Kind {
    generation: true,
    default: |object| {
        within(object, "spec", |spec| {
            default(spec, "podSelector", serde_json::Map::new());
            if items(&spec["policyTypes"]).is_empty() {
                let types =
                    if is_empty(&spec["egress"]) { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
                put(spec, "policyTypes", types);
            }
            for list in ["ingress", "egress"] {
                each(spec, list, |rule| each(rule, "ports", |port| default_text(port, "protocol", "TCP")));
            }
        });
    },
    validate: network_policy,
    ..PLAIN
};

fn ingress(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let rules = items(&spec["rules"]);
    if rules.is_empty() && !set(&spec["defaultBackend"]) {
        let detail = "either `defaultBackend` or `rules` must be specified";
        faults.push(Error::invalid(&path, spec.clone(), detail));
    }
    if set(&spec["defaultBackend"]) {
        backend(&mut faults, &path.child("defaultBackend"), &spec["defaultBackend"]);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.child("rules").index(i);
        let host = text(&rule["host"]);
        if host.contains('*') {
            invalid_each(&mut faults, &at.child("host"), host, wildcard_dns1123_subdomain(host));
        } else if host.parse::<std::net::IpAddr>().is_ok() {
            faults.push(Error::invalid(&at.child("host"), host, "must be a DNS name, not an IP address"));
        } else if !host.is_empty() {
            invalid_each(&mut faults, &at.child("host"), host, check::dns1123_subdomain(host));
        }
        if !set(&rule["http"]) {
            continue;
        }
        let paths = items(&rule["http"]["paths"]);
        if paths.is_empty() {
            faults.push(Error::required(&at.child("http").child("paths"), ""));
        }
        for (p, entry) in paths.iter().enumerate() {
            ingress_path(&mut faults, &at.child("http").child("paths").index(p), entry);
        }
    }
    faults
}

fn ingress_path(faults: &mut Faults, path: &Path, entry: &Value) {
    let (kind, route) = (&entry["pathType"], text(&entry["path"]));
    if !set(kind) {
        faults.push(Error::required(&path.child("pathType"), "pathType must be specified"));
    } else if !PATH_TYPES.contains(&text(kind)) {
        faults.push(Error::not_supported(&path.child("pathType"), text(kind), &PATH_TYPES));
    }
    let at = path.child("path");
    if text(kind) == "ImplementationSpecific" {
        if !route.is_empty() && !route.starts_with('/') {
            faults.push(Error::invalid(&at, route, "must be an absolute path"));
        }
    } else if !route.starts_with('/') {
        faults.push(Error::invalid(&at, route, "must be an absolute path"));
    } else {
        for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| route.contains(**part)) {
            faults.push(Error::invalid(&at, route, format!("must not contain '{part}'")));
        }
        for end in ["/..", "/."].iter().filter(|end| route.ends_with(**end)) {
            faults.push(Error::invalid(&at, route, format!("cannot end with '{end}'")));
        }
    }
    backend(faults, &path.child("backend"), &entry["backend"]);
}

fn backend(faults: &mut Faults, path: &Path, backend: &Value) {
    let service = &backend["service"];
    match (set(service), set(&backend["resource"])) {
        (true, true) => {
            let detail = "cannot set both resource and service backends";
            faults.push(Error::invalid(path, "", detail));
        }
        (false, true) => {}
        (false, false) => {
            faults.push(Error::required(path, "resource or service backend is required"));
        }
        (true, false) => {
            let (name, at) = (text(&service["name"]), path.child("service"));
            if name.is_empty() {
                faults.push(Error::required(&at.child("name"), ""));
            } else {
                invalid_each(faults, &at.child("name"), name, check::dns1035_label(name));
            }
            let port = &service["port"];
            let at = at.child("port");
            match (text(&port["name"]), number(&port["number"])) {
                ("", 0) => faults.push(Error::required(&at, "port name or number is required")),
                ("", number) => check::port_number(faults, &at.child("number"), number),
                (name, 0) => invalid_each(faults, &at.child("name"), name, check::port_name(name)),
                _ => faults.push(Error::invalid(&at, "", "cannot set both port name & port number")),
            }
        }
    }
}

fn network_policy(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    check::label_selector(&mut faults, &path.child("podSelector"), &spec["podSelector"]);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(&spec[direction]).iter().enumerate() {
            let at = path.child(direction).index(i);
            for (p, port) in items(&rule["ports"]).iter().enumerate() {
                policy_port(&mut faults, &at.child("ports").index(p), port);
            }
            for (p, peer) in items(&rule[peers]).iter().enumerate() {
                policy_peer(&mut faults, &at.child(peers).index(p), peer);
            }
        }
    }
    let types = items(&spec["policyTypes"]);
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        faults.push(Error::invalid(&path.child("policyTypes"), spec["policyTypes"].clone(), detail));
    }
    for (i, kind) in types.iter().enumerate().filter(|(_, k)| !["Egress", "Ingress"].contains(&text(k))) {
        let at = path.child("policyTypes").index(i);
        faults.push(Error::not_supported(&at, text(kind), &["Egress", "Ingress"]));
    }
    faults
}

fn policy_port(faults: &mut Faults, path: &Path, port: &Value) {
    let protocols = ["SCTP", "TCP", "UDP"];
    check::optional_one_of(faults, &path.child("protocol"), &port["protocol"], &protocols);
    if set(&port["port"]) {
        check::port_number_or_name(faults, &path.child("port"), &port["port"]);
    }
    if set(&port["endPort"]) {
        let end = number(&port["endPort"]);
        let at = path.child("endPort");
        match &port["port"] {
            Value::Null => {
                faults.push(Error::required(&path.child("port"), "must be specified when `endPort` is set"))
            }
            Value::String(_) => {
                faults.push(Error::invalid(&at, end, "may not be specified when `port` is non-numeric"));
            }
            start if end < number(start) => {
                faults.push(Error::invalid(&at, end, "must be greater than or equal to `port`"));
            }
            _ => check::port_number(faults, &at, end),
        }
    }
}

fn policy_peer(faults: &mut Faults, path: &Path, peer: &Value) {
    let selectors = ["podSelector", "namespaceSelector"];
    for key in selectors {
        check::label_selector(faults, &path.child(key), &peer[key]);
    }
    let any_selector = selectors.iter().any(|key| set(&peer[*key]));
    let block = &peer["ipBlock"];
    if set(block) {
        let at = path.child("ipBlock");
        if check::required(faults, &at.child("cidr"), &block["cidr"]) {
            check::cidr(faults, &at.child("cidr"), text(&block["cidr"]));
        }
        for (i, except) in items(&block["except"]).iter().enumerate() {
            except_block(faults, &at.child("except").index(i), text(except), text(&block["cidr"]));
        }
        if any_selector {
            faults.push(Error::forbidden(path, "may not specify both ipBlock and another peer"));
        }
    } else if !any_selector {
        faults.push(Error::required(path, "must specify a peer"));
    }
}

fn except_block(faults: &mut Faults, path: &Path, except: &str, cidr: &str) {
    check::cidr(faults, path, except);
    if let (Ok(inner), Ok(outer)) = (except.parse::<ipnet::IpNet>(), cidr.parse::<ipnet::IpNet>())
        && (!outer.contains(&inner) || inner == outer)
    {
        faults.push(Error::invalid(path, except, "must be a strict subset of `cidr`"));
    }
}
