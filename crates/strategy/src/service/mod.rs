//! Services. The addresses and ports themselves are handed out by the server; here is what a
//! service may ask for and what follows from its type.

mod change;
mod families;
mod stack;
#[cfg(test)]
mod tests;
mod validate;

pub use stack::settle_families;
pub use validate::entry_host;

use amphipod_api::field::Path;
use serde_json::{Value, json};

use crate::addresses;
use crate::contract::{Context, Warnings};
use crate::json::{
    copy, default, default_text, each, is_empty, items, number, put, remove, same, set, text, with, within,
};
use crate::kind::{Kind, PLAIN};
use crate::metadata::NameRule;

const AFFINITY_SECONDS_DEFAULT: i64 = 10800;
pub const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
pub const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

pub static SERVICE: Kind = Kind {
    create_on_update: true,
    name: NameRule::Label1035,
    status: true,
    default: defaults,
    create,
    update,
    validate: validate::service,
    revalidate: Some(|new, old| {
        let mut faults = change::service(new, old);
        faults.extend(validate::service(new));
        faults
    }),
    validate_status: validate::status,
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
    let balanced = text(&object["spec"]["type"]) == "LoadBalancer";
    within(object, "status", |status| {
        within(status, "loadBalancer", |balancer| {
            each(balancer, "ingress", |point| {
                if balanced && !text(&point["ip"]).is_empty() {
                    default(point, "ipMode", "VIP");
                }
            });
        });
    });
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
pub fn needs_node_port(spec: &Value) -> bool {
    let kind = text(&spec["type"]);
    kind == "NodePort" || (kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false)
}
pub fn is_headless(spec: &Value) -> bool {
    text(&spec["clusterIP"]) == "None" || text(&spec["clusterIPs"][0]) == "None"
}

/// An older client knows one address only; a newer one gives both fields.
fn create(_: &Context, object: &mut Value) {
    within(object, "spec", |spec| {
        if !text(&spec["clusterIP"]).is_empty() && items(&spec["clusterIPs"]).is_empty() {
            put(spec, "clusterIPs", json!([spec["clusterIP"]]));
        }
    });
}

fn update(context: &Context, object: &mut Value, old: &Value) {
    if context.subresource == "status" {
        return;
    }
    // Points of entry belong to the type.
    if text(&object["spec"]["type"]) != "LoadBalancer" {
        with(object, "status", |status| put(status, "loadBalancer", json!({})));
    }
    let before = &old["spec"];
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    keep_allocated(spec, before);
    normalise_cluster_ips(spec, before);
    drop_stale(spec, before);
}

/// Clients that send a service without what the server chose mean to keep it.
fn keep_allocated(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(spec) {
        if text(&spec["clusterIP"]).is_empty() {
            copy(spec, "clusterIP", old);
        }
        if items(&spec["clusterIPs"]).is_empty() {
            copy(spec, "clusterIPs", old);
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if !set(&spec[key]) {
                copy(spec, key, old);
            }
        }
    }
    if needs_node_port(old) && needs_node_port(spec) {
        // Whatever else of a port has changed.
        let chosen: Vec<(&str, &Value)> =
            items(&old["ports"]).iter().map(|p| (text(&p["name"]), &p["nodePort"])).collect();
        let taken: Vec<i64> = items(&spec["ports"]).iter().map(|p| number(&p["nodePort"])).collect();
        each(spec, "ports", |port| {
            let known = chosen.iter().rev().find(|(name, _)| *name == text(&port["name"]));
            if let Some((_, node_port)) = known.filter(|_| number(&port["nodePort"]) == 0)
                && number(node_port) != 0
                && !taken.contains(&number(node_port))
            {
                put(port, "nodePort", (*node_port).clone());
            }
        });
    }
    if needs_health_check(old) && needs_health_check(spec) && number(&spec["healthCheckNodePort"]) == 0 {
        copy(spec, "healthCheckNodePort", old);
    }
}

/// What belonged to the old type goes with it, unless the client changed it on purpose.
fn drop_stale(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        for keys in [&["clusterIP", "clusterIPs"][..], &["ipFamilies"], &["ipFamilyPolicy"]] {
            if keys.iter().all(|key| same(&spec[*key], &old[*key])) {
                keys.iter().for_each(|key| remove(spec, key));
            }
        }
    }
    // A balancer has them whether or not more are handed out.
    let on_nodes = |s: &Value| ["NodePort", "LoadBalancer"].contains(&text(&s["type"]));
    if on_nodes(old) && !on_nodes(spec) {
        let known: Vec<i64> = items(&old["ports"]).iter().map(|p| number(&p["nodePort"])).collect();
        let named = |port: &Value| Some(number(&port["nodePort"])).filter(|port| *port != 0);
        if items(&spec["ports"]).iter().filter_map(named).all(|port| known.contains(&port)) {
            each(spec, "ports", |port| remove(port, "nodePort"));
        }
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
    let (now, before) = (text(&spec["clusterIP"]), text(&old["clusterIP"]));
    if items(&spec["clusterIPs"]).is_empty() && now == before {
        copy(spec, "clusterIPs", old);
    } else if now != before && same(&spec["clusterIPs"], &old["clusterIPs"]) {
        if now.is_empty() {
            remove(spec, "clusterIPs");
        } else {
            put(spec, "clusterIPs", json!([now]));
        }
    }
}

/// What a user is told although the service is accepted.
fn warnings(object: &Value, _old: Option<&Value>) -> Warnings {
    let spec = &object["spec"];
    let path = Path::new("spec");
    let mut texts = Warnings::new();
    if set(&object["metadata"]["annotations"][TOPOLOGY_HINTS]) {
        texts.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    for (i, ip) in items(&spec["clusterIPs"]).iter().enumerate().filter(|(_, ip)| text(ip) != "None") {
        addresses::warn_ip(&mut texts, &path.child("clusterIPs").index(i), text(ip));
    }
    if is_headless(spec) {
        let ignored = [
            ("loadBalancerIP", !text(&spec["loadBalancerIP"]).is_empty()),
            ("externalIPs", !items(&spec["externalIPs"]).is_empty()),
            ("SessionAffinity", text(&spec["sessionAffinity"]) != "None"),
        ];
        let ignored = ignored.iter().filter(|(_, used)| *used);
        texts.extend(ignored.map(|(field, _)| format!("spec.{field} is ignored for headless services")));
    }
    for (i, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        addresses::warn_ip(&mut texts, &path.child("externalIPs").index(i), text(ip));
    }
    addresses::warn_ip(&mut texts, &path.child("loadBalancerIP"), text(&spec["loadBalancerIP"]));
    for (i, range) in items(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        addresses::warn_cidr(&mut texts, &path.child("loadBalancerSourceRanges").index(i), text(range));
    }
    if !items(&spec["externalIPs"]).is_empty() && text(&spec["type"]) == "ExternalName" {
        texts.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    texts
}
