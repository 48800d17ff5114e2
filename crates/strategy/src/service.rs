//! Services. The addresses and ports themselves are handed out by the server; here is what a
//! service may ask for and what follows from its type.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults, invalid_each};
use crate::contract::Context;
use crate::json::{
    copy, default, default_text, each, is_empty, items, number, put, remove, set, text, within,
};
use crate::kind::{Kind, PLAIN};
use crate::metadata::NameRule;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITIES: [&str; 2] = ["ClientIP", "None"];
const TRAFFIC_POLICIES: [&str; 2] = ["Cluster", "Local"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
const AFFINITY_SECONDS_DEFAULT: i64 = 10800;
const AFFINITY_SECONDS_MAX: i64 = 86400;

pub static SERVICE: Kind = Kind {
    name: NameRule::Label1035,
    status: true,
    default: defaults,
    create,
    update,
    validate,
    validate_change,
    warn: warnings,
    ..PLAIN
};

fn defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        default_text(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "None" {
            remove(spec, "sessionAffinityConfig");
        } else if spec["sessionAffinity"] == "ClientIP"
            && !set(&spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"])
        {
            put(
                spec,
                "sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS_DEFAULT}}),
            );
        }
        default_text(spec, "type", "ClusterIP");
        each(spec, "ports", |port| {
            default_text(port, "protocol", "TCP");
            if is_empty(&port["targetPort"]) {
                copy_port(port);
            }
        });
        let kind = text(&spec["type"]).to_owned();
        if externally_accessible(spec) {
            default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind.as_str()) {
            default_text(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
    });
    within(object, "status", |status| within(status, "loadBalancer", |_| {}));
}

fn copy_port(port: &mut Value) {
    let number = port["port"].clone();
    if set(&number) {
        put(port, "targetPort", number);
    }
}

fn externally_accessible(spec: &Value) -> bool {
    let kind = text(&spec["type"]);
    kind == "LoadBalancer"
        || kind == "NodePort"
        || (kind == "ClusterIP" && !items(&spec["externalIPs"]).is_empty())
}
pub fn needs_health_check(spec: &Value) -> bool {
    text(&spec["type"]) == "LoadBalancer" && text(&spec["externalTrafficPolicy"]) == "Local"
}
fn needs_cluster_ip(spec: &Value) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"].contains(&text(&spec["type"]))
}
fn needs_node_port(spec: &Value) -> bool {
    let kind = text(&spec["type"]);
    kind == "NodePort" || (kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false)
}
pub fn is_headless(spec: &Value) -> bool {
    text(&spec["clusterIP"]) == "None" || text(&spec["clusterIPs"][0]) == "None"
}

fn create(_: &Context, object: &mut Value) {
    within(object, "spec", |spec| {
        match (text(&spec["clusterIP"]).is_empty(), items(&spec["clusterIPs"]).is_empty()) {
            (false, true) => put(spec, "clusterIPs", json!([spec["clusterIP"]])),
            (true, false) => put(spec, "clusterIP", spec["clusterIPs"][0].clone()),
            _ => {}
        }
        families(spec);
    });
}

/// This cluster has one address family; a headless service without pods of ours to select may
/// still name both.
fn families(spec: &mut Value) {
    if text(&spec["type"]) == "ExternalName" {
        return;
    }
    let free = is_headless(spec) && crate::json::fields(&spec["selector"]).next().is_none();
    default_text(spec, "ipFamilyPolicy", if free { "RequireDualStack" } else { "SingleStack" });
    let both = free && text(&spec["ipFamilyPolicy"]) != "SingleStack";
    let wanted = items(&spec["ipFamilies"]).to_vec();
    match (wanted.as_slice(), both) {
        ([], true) => put(spec, "ipFamilies", json!(["IPv4", "IPv6"])),
        ([], false) => put(spec, "ipFamilies", json!(["IPv4"])),
        ([first], true) => {
            let other = if *first == "IPv4" { "IPv6" } else { "IPv4" };
            put(spec, "ipFamilies", json!([first, other]));
        }
        _ => {}
    }
}

fn update(context: &Context, object: &mut Value, old: &Value) {
    if context.subresource == "status" {
        return;
    }
    let before = &old["spec"];
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    keep_allocated(spec, before);
    drop_stale(spec, before);
    normalise_cluster_ips(spec, before);
    families(spec);
}

/// Clients that send a service without what the server chose mean to keep it.
fn keep_allocated(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(spec) {
        if text(&spec["clusterIP"]).is_empty() {
            copy(spec, "clusterIP", old);
        }
        if items(&spec["clusterIPs"]).is_empty() && spec["clusterIP"] == old["clusterIP"] {
            copy(spec, "clusterIPs", old);
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if !set(&spec[key]) {
                copy(spec, key, old);
            }
        }
    }
    if needs_node_port(old) && needs_node_port(spec) {
        let chosen: Vec<(String, Value)> =
            items(&old["ports"]).iter().map(|p| (port_key(p), p["nodePort"].clone())).collect();
        let taken: Vec<i64> = items(&spec["ports"]).iter().map(|p| number(&p["nodePort"])).collect();
        each(spec, "ports", |port| {
            let known = chosen.iter().find(|(key, _)| *key == port_key(port));
            if let Some((_, node_port)) = known.filter(|_| number(&port["nodePort"]) == 0)
                && number(node_port) != 0
                && !taken.contains(&number(node_port))
            {
                put(port, "nodePort", node_port.clone());
            }
        });
    }
    if needs_health_check(old) && needs_health_check(spec) && number(&spec["healthCheckNodePort"]) == 0 {
        copy(spec, "healthCheckNodePort", old);
    }
}

fn port_key(port: &Value) -> String {
    format!("{}/{}", text(&port["protocol"]), number(&port["port"]))
}

/// What belonged to the old type goes with it, unless the client changed it on purpose.
fn drop_stale(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) && spec["clusterIP"] == old["clusterIP"] {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            remove(spec, key);
        }
    }
    if needs_node_port(old) && !needs_node_port(spec) {
        let stale: Vec<i64> = items(&old["ports"]).iter().map(|p| number(&p["nodePort"])).collect();
        each(spec, "ports", |port| {
            if stale.contains(&number(&port["nodePort"])) {
                remove(port, "nodePort");
            }
        });
    }
    if needs_health_check(old)
        && !needs_health_check(spec)
        && spec["healthCheckNodePort"] == old["healthCheckNodePort"]
    {
        remove(spec, "healthCheckNodePort");
    }
    let balanced = |s: &Value| text(&s["type"]) == "LoadBalancer";
    if balanced(old) && !balanced(spec) {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec[key] == old[key] {
                remove(spec, key);
            }
        }
    }
    if externally_accessible(old)
        && !externally_accessible(spec)
        && spec["externalTrafficPolicy"] == old["externalTrafficPolicy"]
    {
        remove(spec, "externalTrafficPolicy");
    }
}

/// `clusterIP` and the first of `clusterIPs` are one value under two names.
fn normalise_cluster_ips(spec: &mut Value, old: &Value) {
    let same_single = spec["clusterIP"] == old["clusterIP"];
    let same_list = spec["clusterIPs"] == old["clusterIPs"];
    if !same_single && same_list {
        if text(&spec["clusterIP"]).is_empty() {
            remove(spec, "clusterIPs");
        } else if items(&spec["clusterIPs"]).len() == 1 || items(&spec["clusterIPs"]).is_empty() {
            put(spec, "clusterIPs", json!([spec["clusterIP"]]));
        }
    } else if same_single && !same_list && items(&spec["clusterIPs"]).is_empty() {
        remove(spec, "clusterIP");
    }
}

fn validate(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let (kind, headless) = (text(&spec["type"]), is_headless(spec));
    let ports = items(&spec["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        faults.push(Error::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            faults.push(Error::invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(&mut faults, &path, spec),
        _ => {}
    }
    validate_ports(&mut faults, &path.child("ports"), ports);
    check::labels(&mut faults, &path.child("selector"), &spec["selector"]);
    affinity(&mut faults, &path, spec);
    cluster_ips(&mut faults, &path, spec);
    for (i, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        let at = path.child("externalIPs").index(i);
        let before = faults.len();
        check::ip(&mut faults, &at, text(ip));
        if faults.len() == before {
            check::ordinary_ip(&mut faults, &at, text(ip));
        }
    }
    check::one_of(&mut faults, &path.child("type"), &spec["type"], &TYPES);
    duplicate_ports(&mut faults, &path.child("ports"), kind, ports);
    load_balancer(&mut faults, &path, spec);
    traffic(&mut faults, &path, spec);
    faults
}

fn external_name(faults: &mut Faults, path: &Path, spec: &Value) {
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !is_empty(&spec[key]) {
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

fn validate_ports(faults: &mut Faults, path: &Path, ports: &[Value]) {
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(&port["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                faults.push(Error::required(&at.child("name"), ""));
            }
        } else {
            invalid_each(faults, &at.child("name"), name, check::dns1123_label(name));
            if names.contains(&name) {
                faults.push(Error::duplicate(&at.child("name"), name));
            }
            names.push(name);
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
    let mut node_ports: Vec<(&str, i64)> = Vec::new();
    for (i, port) in ports.iter().enumerate().filter(|(_, p)| number(&p["nodePort"]) != 0) {
        let key = (text(&port["protocol"]), number(&port["nodePort"]));
        if node_ports.contains(&key) {
            faults.push(Error::duplicate(&path.index(i).child("nodePort"), key.1));
        }
        node_ports.push(key);
    }
    let mut seen: Vec<(&str, i64)> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let key = (text(&port["protocol"]), number(&port["port"]));
        if seen.contains(&key) {
            let shown = json!({"port": key.1, "protocol": key.0, "targetPort": 0});
            faults.push(Error::duplicate(&path.index(i), shown));
        }
        seen.push(key);
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

fn cluster_ips(faults: &mut Faults, path: &Path, spec: &Value) {
    if text(&spec["type"]) == "ExternalName" {
        return;
    }
    let ips = items(&spec["clusterIPs"]);
    let list = path.child("clusterIPs");
    if text(&spec["clusterIP"]).is_empty() != ips.is_empty() {
        if ips.is_empty() {
            faults.push(Error::required(&list, ""));
        } else {
            faults.push(Error::invalid(
                &list,
                spec["clusterIPs"].clone(),
                "must be empty when `clusterIP` is not specified",
            ));
        }
    } else if !ips.is_empty() && ips[0] != spec["clusterIP"] {
        faults.push(Error::invalid(&list, spec["clusterIPs"].clone(), "first value must match `clusterIP`"));
    }
    let families = items(&spec["ipFamilies"]);
    for (i, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(i);
        if !FAMILIES.contains(&text(family)) {
            faults.push(Error::not_supported(&at, text(family), &FAMILIES));
        } else if families[..i].contains(family) {
            faults.push(Error::duplicate(&at, text(family)));
        }
    }
    check::optional_one_of(faults, &path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], &FAMILY_POLICIES);
    if text(&spec["ipFamilyPolicy"]) == "RequireDualStack"
        && !(is_headless(spec) && crate::json::fields(&spec["selector"]).next().is_none())
    {
        let detail = "this cluster is not configured for dual-stack services";
        faults.push(Error::invalid(&path.child("ipFamilyPolicy"), "RequireDualStack", detail));
    }
    for (i, ip) in ips.iter().enumerate() {
        let at = list.index(i);
        match text(ip) {
            "None" if i == 0 && ips.len() == 1 => {}
            "None" => {
                let detail = "'None' must be the first and only value";
                faults.push(Error::invalid(&list, spec["clusterIPs"].clone(), detail));
            }
            "" => faults.push(Error::required(&at, "must be empty string or valid IP or \"None\"")),
            ip => check::ip(faults, &at, ip),
        }
    }
}

fn load_balancer(faults: &mut Faults, path: &Path, spec: &Value) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(&spec["type"]) == "LoadBalancer";
    let ranges = items(&spec["loadBalancerSourceRanges"]);
    let at = path.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !balanced {
        faults.push(Error::forbidden(&at, only));
    }
    for (i, range) in ranges.iter().enumerate() {
        check::cidr(faults, &at.index(i), text(range).trim());
    }
    for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if set(&spec[key]) && !balanced {
            faults.push(Error::forbidden(&path.child(key), only));
        }
    }
    if set(&spec["loadBalancerClass"]) {
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

fn validate_change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    if text(&spec["type"]) == "ExternalName" || text(&before["type"]) == "ExternalName" {
        return faults;
    }
    let (now, then) = (items(&spec["clusterIPs"]), items(&before["clusterIPs"]));
    let primary = path.child("clusterIPs").index(0);
    match (now.first(), then.first()) {
        (None, Some(_)) => {
            faults.push(Error::invalid(&primary, Value::Null, "primary clusterIP can not be unset"))
        }
        (Some(now), Some(then)) if now != then => {
            let detail = "may not change once set";
            faults.push(Error::invalid(&primary, spec["clusterIPs"].clone(), detail));
        }
        _ => {}
    }
    let (now, then) = (items(&spec["ipFamilies"]), items(&before["ipFamilies"]));
    if !then.is_empty() && now.first() != then.first() {
        let detail =
            if now.is_empty() { "primary ipFamily can not be unset" } else { "may not change once set" };
        faults.push(Error::invalid(&path.child("ipFamilies").index(0), spec["ipFamilies"].clone(), detail));
    }
    if needs_health_check(before)
        && needs_health_check(spec)
        && spec["healthCheckNodePort"] != before["healthCheckNodePort"]
    {
        faults.push(Error::forbidden(&path.child("healthCheckNodePort"), check::IMMUTABLE));
    }
    let balanced = |s: &Value| text(&s["type"]) == "LoadBalancer";
    if balanced(before) && balanced(spec) && spec["loadBalancerClass"] != before["loadBalancerClass"] {
        let value = spec["loadBalancerClass"].clone();
        faults.push(Error::invalid(&path.child("loadBalancerClass"), value, "may not change once set"));
    }
    faults
}

fn warnings(object: &Value, _old: Option<&Value>) -> Vec<String> {
    let spec = &object["spec"];
    let mut texts = Vec::new();
    if is_headless(spec) && text(&spec["sessionAffinity"]) == "ClientIP" {
        texts.push("spec.SessionAffinity is ignored for headless services".to_owned());
    }
    if !items(&spec["externalIPs"]).is_empty() && text(&spec["type"]) == "ExternalName" {
        texts.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec});
        defaults(&mut object);
        within(&mut object, "spec", families);
        object
    }

    #[test]
    fn a_plain_service_is_filled() {
        let object = service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}}));
        assert_eq!(
            object["spec"],
            json!({
                "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "selector": {"a": "b"},
                "sessionAffinity": "None", "type": "ClusterIP"
            })
        );
        assert!(validate(&object).is_empty());
    }

    #[test]
    fn addresses_and_node_ports_stay() {
        let mut old = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        old["spec"]["clusterIP"] = "10.96.0.7".into();
        old["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
        old["spec"]["ports"][0]["nodePort"] = 30001.into();
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        keep_allocated(&mut new["spec"], &old["spec"]);
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.7"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(validate_change(&new, &old).is_empty());
        let mut plain = service(
            json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30001}], "externalTrafficPolicy": "Cluster"}),
        );
        drop_stale(&mut plain["spec"], &old["spec"]);
        assert!(validate(&plain).is_empty(), "{:?}", validate(&plain));
    }

    #[test]
    fn faults_are_worded_as_upstream() {
        let object = service(json!({"type": "Foo", "ports": [{"port": 0}]}));
        let texts: Vec<String> = validate(&object).iter().map(ToString::to_string).collect();
        assert!(texts.contains(
            &"spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive".to_owned()
        ));
        assert!(texts.contains(&"spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"".to_owned()));
    }
}
