//! Network policies.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::addresses::{legacy_cidr, lenient_cidr, warn_cidr};
use crate::check::{self, Faults};
use crate::contract::Warnings;
use crate::json::{default, default_text, each, is_empty, items, number, put, set, text, within};
use crate::kind::{Kind, PLAIN};

const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

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
            for (list, _) in DIRECTIONS {
                each(spec, list, |rule| each(rule, "ports", |port| default_text(port, "protocol", "TCP")));
            }
        });
    },
    validate,
    warn: |object, _| {
        let mut texts = Warnings::new();
        each_peer(&object["spec"], |path, peer| {
            let (at, block) = (path.child("ipBlock"), &peer["ipBlock"]);
            warn_cidr(&mut texts, &at.child("cidr"), text(&block["cidr"]));
            for (i, except) in items(&block["except"]).iter().enumerate() {
                warn_cidr(&mut texts, &at.child("except").index(i), text(except));
            }
        });
        texts
    },
    ..PLAIN
};

fn each_peer(spec: &Value, mut f: impl FnMut(&Path, &Value)) {
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in items(&spec[direction]).iter().enumerate() {
            let at = Path::new("spec").child(direction).index(i).child(peers);
            items(&rule[peers]).iter().enumerate().for_each(|(p, peer)| f(&at.index(p), peer));
        }
    }
}

fn validate(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    check::label_selector(&mut faults, &path.child("podSelector"), &spec["podSelector"]);
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in items(&spec[direction]).iter().enumerate() {
            let at = path.child(direction).index(i);
            for (p, port) in items(&rule["ports"]).iter().enumerate() {
                self::port(&mut faults, &at.child("ports").index(p), port);
            }
            for (p, peer) in items(&rule[peers]).iter().enumerate() {
                self::peer(&mut faults, &at.child(peers).index(p), peer);
            }
        }
    }
    let types = items(&spec["policyTypes"]);
    let at = path.child("policyTypes");
    if types.len() > TYPES.len() {
        let detail = "may not specify more than two policyTypes";
        faults.push(Error::invalid(&at, spec["policyTypes"].clone(), detail));
        return faults;
    }
    for (i, kind) in types.iter().enumerate().filter(|(_, k)| !TYPES.contains(&text(k))) {
        faults.push(Error::not_supported(&at.index(i), text(kind), &TYPES));
    }
    faults
}

fn port(faults: &mut Faults, path: &Path, port: &Value) {
    let protocols = ["TCP", "UDP", "SCTP"];
    check::optional_one_of(faults, &path.child("protocol"), &port["protocol"], &protocols);
    let (start, end) = (&port["port"], &port["endPort"]);
    let at = path.child("endPort");
    match start {
        Value::Null if set(end) => {
            let detail = "may not be specified when `port` is not specified";
            faults.push(Error::invalid(&at, end.clone(), detail));
        }
        Value::Null => {}
        Value::String(_) => {
            if set(end) {
                let detail = "may not be specified when `port` is non-numeric";
                faults.push(Error::invalid(&at, end.clone(), detail));
            }
            check::port_number_or_name(faults, &path.child("port"), start);
        }
        _ => {
            check::port_number(faults, &path.child("port"), number(start));
            if set(end) {
                if number(end) < number(start) {
                    let detail = "must be greater than or equal to `port`";
                    faults.push(Error::invalid(&at, start.clone(), detail));
                }
                check::port_number(faults, &at, number(end));
            }
        }
    }
}

fn peer(faults: &mut Faults, path: &Path, peer: &Value) {
    let selectors = ["podSelector", "namespaceSelector"];
    for key in selectors {
        check::label_selector(faults, &path.child(key), &peer[key]);
    }
    let any_selector = selectors.iter().any(|key| set(&peer[*key]));
    if set(&peer["ipBlock"]) {
        block(faults, &path.child("ipBlock"), &peer["ipBlock"]);
        if any_selector {
            faults.push(Error::forbidden(path, "may not specify both ipBlock and another peer"));
        }
    } else if !any_selector {
        faults.push(Error::required(path, "must specify a peer"));
    }
}

fn block(faults: &mut Faults, path: &Path, block: &Value) {
    if !check::required(faults, &path.child("cidr"), &block["cidr"]) {
        return;
    }
    legacy_cidr(faults, &path.child("cidr"), text(&block["cidr"]));
    let Some((_, outer)) = lenient_cidr(text(&block["cidr"])) else { return };
    for (i, except) in items(&block["except"]).iter().enumerate() {
        let at = path.child("except").index(i);
        legacy_cidr(faults, &at, text(except));
        let inner = lenient_cidr(text(except));
        if inner.is_some_and(|(_, inner)| !outer.contains(&inner) || inner == outer) {
            faults.push(Error::invalid(&at, text(except), "must be a strict subset of `cidr`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, warned};
    use serde_json::{Value, json};

    fn rule(rule: Value) -> Value {
        json!({"spec": {"podSelector": {}, "ingress": [rule]}})
    }

    #[test]
    fn faults() {
        for (object, expected) in [
            (json!({}), vec![]),
            (
                rule(
                    json!({"ports": [{"protocol": "X", "port": 0, "endPort": 70000}, {"endPort": 1}, {"port": "a", "endPort": 1}, {"port": 9, "endPort": 8}]}),
                ),
                vec![
                    "spec.ingress[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                    "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ingress[0].ports[0].endPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                    "spec.ingress[0].ports[1].endPort: Invalid value: 1: may not be specified when `port` is not specified",
                    "spec.ingress[0].ports[2].endPort: Invalid value: 1: may not be specified when `port` is non-numeric",
                    "spec.ingress[0].ports[3].endPort: Invalid value: 9: must be greater than or equal to `port`",
                ],
            ),
            (
                rule(
                    json!({"from": [{}, {"ipBlock": {}}, {"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8", "x"]}}]}),
                ),
                vec![
                    "spec.ingress[0].from[0]: Required value: must specify a peer",
                    "spec.ingress[0].from[1].ipBlock.cidr: Required value",
                    "spec.ingress[0].from[2].ipBlock.except[0]: Invalid value: \"11.0.0.0/8\": must be a strict subset of `cidr`",
                    "spec.ingress[0].from[2].ipBlock.except[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                    "spec.ingress[0].from[2]: Forbidden: may not specify both ipBlock and another peer",
                ],
            ),
            (
                json!({"spec": {"policyTypes": ["X"]}}),
                vec![
                    "spec.policyTypes[0]: Unsupported value: \"X\": supported values: \"Ingress\", \"Egress\"",
                ],
            ),
        ] {
            assert_eq!(created("networking.k8s.io", "networkpolicies", object.clone()), expected, "{object}");
        }
    }

    #[test]
    fn hints() {
        let policy = rule(json!({"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}));
        assert_eq!(
            warned("networking.k8s.io", "networkpolicies", policy),
            [
                "spec.ingress[0].from[0].ipBlock.cidr: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)"
            ]
        );
    }
}
