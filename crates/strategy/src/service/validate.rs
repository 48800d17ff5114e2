//! What a service may say.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::{
    TOPOLOGY_HINTS, TOPOLOGY_MODE, externally_accessible, families, is_headless, needs_health_check,
};
use crate::addresses::{legacy_cidr, legacy_ip, lenient_ip};
use crate::check::{self, Faults, invalid_each};
use crate::json::{items, number, set, text};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITIES: [&str; 2] = ["ClientIP", "None"];
const TRAFFIC_POLICIES: [&str; 2] = ["Cluster", "Local"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
const AFFINITY_SECONDS_MAX: i64 = 86400;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const BALANCED_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

pub fn service(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    topology(&mut faults, &object["metadata"]["annotations"]);
    let (kind, headless) = (text(&spec["type"]), is_headless(spec));
    let ports = items(&spec["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        faults.push(Error::required(&path.child("ports"), ""));
    }
    by_type(&mut faults, &path, spec, headless);
    port_list(&mut faults, &path.child("ports"), ports);
    check::labels(&mut faults, &path.child("selector"), &spec["selector"]);
    affinity(&mut faults, &path, spec);
    families::check(&mut faults, &path, spec);
    for (i, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        let at = path.child("externalIPs").index(i);
        match lenient_ip(text(ip)) {
            Some(address) => check::ordinary_ip(&mut faults, &at, &address.to_string()),
            None => legacy_ip(&mut faults, &at, text(ip)),
        }
    }
    check::one_of(&mut faults, &path.child("type"), &spec["type"], &TYPES);
    duplicate_ports(&mut faults, &path.child("ports"), kind, ports);
    source_ranges(&mut faults, &path, object);
    load_balancer(&mut faults, &path, spec);
    traffic(&mut faults, &path, spec);
    faults
}

fn topology(faults: &mut Faults, annotations: &Value) {
    let (hints, mode) = (&annotations[TOPOLOGY_HINTS], &annotations[TOPOLOGY_MODE]);
    if set(hints) && set(mode) && hints != mode {
        let at = Path::new("metadata").child("annotations").key(TOPOLOGY_MODE);
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        faults.push(Error::invalid(&at, mode.clone(), detail));
    }
}

fn by_type(faults: &mut Faults, path: &Path, spec: &Value, headless: bool) {
    let kind = text(&spec["type"]);
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            faults.push(Error::invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(faults, path, spec),
        _ => {}
    }
}

fn external_name(faults: &mut Faults, path: &Path, spec: &Value) {
    let used =
        |key: &str| if key == "ipFamilyPolicy" { set(&spec[key]) } else { !items(&spec[key]).is_empty() };
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if used(key) {
            faults.push(Error::forbidden(&path.child(key), "may not be set for ExternalName services"));
        }
    }
    let name = text(&spec["externalName"]);
    let at = path.child("externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => faults.push(Error::required(&at, "")),
        name => invalid_each(faults, &at, name, check::dns1123_subdomain(name)),
    }
}

fn port_list(faults: &mut Faults, path: &Path, ports: &[Value]) {
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(&port["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                faults.push(Error::required(&at.child("name"), ""));
            }
        } else {
            invalid_each(faults, &at.child("name"), name, check::dns1123_label(name));
            if !names.insert(name) {
                faults.push(Error::duplicate(&at.child("name"), name));
            }
        }
        check::port_number(faults, &at.child("port"), number(&port["port"]));
        check::one_of(faults, &at.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        check::port_number_or_name(faults, &at.child("targetPort"), &port["targetPort"]);
        if set(&port["appProtocol"]) {
            let protocol = text(&port["appProtocol"]);
            invalid_each(faults, &at.child("appProtocol"), protocol, check::qualified_name(protocol));
        }
    }
}

fn duplicate_ports(faults: &mut Faults, path: &Path, kind: &str, ports: &[Value]) {
    if kind == "ClusterIP" {
        for i in (0..ports.len()).filter(|i| number(&ports[*i]["nodePort"]) != 0) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            faults.push(Error::forbidden(&path.index(i).child("nodePort"), detail));
        }
    }
    let mut node_ports = HashSet::new();
    for (i, port) in ports.iter().enumerate().filter(|(_, p)| number(&p["nodePort"]) != 0) {
        let key = (text(&port["protocol"]), number(&port["nodePort"]));
        if !node_ports.insert(key) {
            faults.push(Error::duplicate(&path.index(i).child("nodePort"), key.1));
        }
    }
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let key = (text(&port["protocol"]), number(&port["port"]));
        if !seen.insert(key) {
            let shown = [
                ("Name", "".into()),
                ("Protocol", key.0.into()),
                ("AppProtocol", Value::Null),
                ("Port", key.1.into()),
                ("TargetPort", 0.into()),
                ("NodePort", 0.into()),
            ];
            faults.push(check::shown_as(Error::duplicate(&path.index(i), Value::Null), &shown));
        }
    }
}

fn affinity(faults: &mut Faults, path: &Path, spec: &Value) {
    check::one_of(faults, &path.child("sessionAffinity"), &spec["sessionAffinity"], &AFFINITIES);
    let config = &spec["sessionAffinityConfig"];
    let at = path.child("sessionAffinityConfig");
    match text(&spec["sessionAffinity"]) {
        "ClientIP" => {
            let seconds = &config["clientIP"]["timeoutSeconds"];
            let at = at.child("clientIP").child("timeoutSeconds");
            if !set(seconds) {
                faults.push(Error::required(&at, "when session affinity type is ClientIP"));
            } else if !(1..=AFFINITY_SECONDS_MAX).contains(&number(seconds)) {
                let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                faults.push(Error::invalid(&at, number(seconds), detail));
            }
        }
        "None" if set(config) => {
            faults.push(Error::forbidden(&at, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

/// The field, or the annotation that was there before it.
fn source_ranges(faults: &mut Faults, path: &Path, object: &Value) {
    let balanced = text(&object["spec"]["type"]) == "LoadBalancer";
    let ranges = items(&object["spec"]["loadBalancerSourceRanges"]);
    let annotation = &object["metadata"]["annotations"][SOURCE_RANGES];
    if !ranges.is_empty() {
        let at = path.child("LoadBalancerSourceRanges");
        if !balanced {
            faults.push(Error::forbidden(&at, BALANCED_ONLY));
        }
        for (i, range) in ranges.iter().enumerate() {
            legacy_cidr(faults, &at.index(i), text(range).trim());
        }
    } else if set(annotation) {
        let at = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !balanced {
            faults.push(Error::forbidden(&at, BALANCED_ONLY));
        }
        let list = text(annotation).trim();
        for range in list.split(',').filter(|_| !list.is_empty()) {
            legacy_cidr(faults, &at, range.trim());
        }
    }
}

fn load_balancer(faults: &mut Faults, path: &Path, spec: &Value) {
    let balanced = text(&spec["type"]) == "LoadBalancer";
    for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if set(&spec[key]) && !balanced {
            faults.push(Error::forbidden(&path.child(key), BALANCED_ONLY));
        }
    }
    if balanced && set(&spec["loadBalancerClass"]) {
        let class = text(&spec["loadBalancerClass"]);
        invalid_each(faults, &path.child("loadBalancerClass"), class, check::qualified_name(class));
    }
}

fn traffic(faults: &mut Faults, path: &Path, spec: &Value) {
    let external = &spec["externalTrafficPolicy"];
    let at = path.child("externalTrafficPolicy");
    if externally_accessible(spec) {
        check::one_of(faults, &at, external, &TRAFFIC_POLICIES);
    } else if !text(external).is_empty() {
        let detail = "may only be set for externally-accessible services";
        faults.push(Error::invalid(&at, text(external), detail));
    }
    let health = number(&spec["healthCheckNodePort"]);
    if health != 0 {
        let at = path.child("healthCheckNodePort");
        if needs_health_check(spec) {
            check::port_number(faults, &at, health);
        } else {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            faults.push(Error::invalid(&at, health, detail));
        }
    }
    let internal = &spec["internalTrafficPolicy"];
    check::optional_one_of(faults, &path.child("internalTrafficPolicy"), internal, &TRAFFIC_POLICIES);
    let distribution = &spec["trafficDistribution"];
    check::optional_one_of(faults, &path.child("trafficDistribution"), distribution, &DISTRIBUTIONS);
}

/// What a load balancer reports back.
pub fn status(new: &Value, _: &Value) -> Faults {
    let mut faults = Faults::new();
    let points = items(&new["status"]["loadBalancer"]["ingress"]);
    let path = Path::new("status").child("loadBalancer").child("ingress");
    if text(&new["spec"]["type"]) != "LoadBalancer" && !points.is_empty() {
        faults.push(Error::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
        return faults;
    }
    for (i, point) in points.iter().enumerate() {
        let at = path.index(i);
        let (ip, mode) = (text(&point["ip"]), &point["ipMode"]);
        if !ip.is_empty() {
            legacy_ip(&mut faults, &at.child("ip"), ip);
        }
        match (set(mode), ip.is_empty()) {
            (false, false) => {
                faults.push(Error::required(&at.child("ipMode"), "must be specified when `ip` is set"));
            }
            (true, true) => {
                let detail = "may not be specified when `ip` is not set";
                faults.push(Error::forbidden(&at.child("ipMode"), detail));
            }
            _ => check::optional_one_of(&mut faults, &at.child("ipMode"), mode, &["Proxy", "VIP"]),
        }
        entry_host(&mut faults, &at.child("hostname"), text(&point["hostname"]));
    }
    faults
}

/// The host name of a point of entry, of a service or an ingress.
pub fn entry_host(faults: &mut Faults, path: &Path, host: &str) {
    if host.is_empty() {
        return;
    }
    invalid_each(faults, path, host, check::dns1123_subdomain(host));
    if lenient_ip(host).is_some() {
        faults.push(Error::invalid(path, host, "must be a DNS name, not an IP address"));
    }
}
