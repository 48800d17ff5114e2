//! Ingresses.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::wildcard_dns1123_subdomain;
use serde_json::Value;

use super::typed_reference;
use crate::addresses::{legacy_ip, lenient_ip};
use crate::check::{self, Faults, invalid_each};
use crate::contract::{Context, Warnings};
use crate::json::{items, number, set, text, within};
use crate::kind::{Kind, SPEC_AND_STATUS};
use crate::service::entry_host;

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub static INGRESS: Kind = Kind {
    default: |object| {
        within(object, "spec", |_| {});
        within(object, "status", |status| within(status, "loadBalancer", |_| {}));
    },
    validate: |object| validate(object, &Tolerated::default()),
    validate_new: class_twice,
    revalidate: Some(|new, old| validate(new, &Tolerated::of(old))),
    validate_status: status,
    warn: |object, old| {
        let annotated = |object: &Value| set(&object["metadata"]["annotations"][CLASS_ANNOTATION]);
        if old.is_none() && annotated(object) {
            Warnings::from(format!(
                "annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"
            ))
        } else {
            Warnings::new()
        }
    },
    ..SPEC_AND_STATUS
};

fn class_twice(_: &Context, object: &Value) -> Faults {
    let (annotation, class) =
        (&object["metadata"]["annotations"][CLASS_ANNOTATION], &object["spec"]["ingressClassName"]);
    if !set(annotation) || !set(class) || annotation == class {
        return Faults::new();
    }
    let at = Path::new("annotations").child(CLASS_ANNOTATION);
    Faults::from(Error::invalid(
        &at,
        annotation.clone(),
        "must match `ingressClassName` when both are specified",
    ))
}

/// What an ingress that was stored with it may go on with.
#[derive(Default)]
struct Tolerated {
    secret_names: bool,
    rules_of_wildcards: bool,
}

impl Tolerated {
    fn of(old: &Value) -> Self {
        let (mut secrets, mut rules) = (Faults::new(), Faults::new());
        let path = Path::new("spec");
        for entry in items(&old["spec"]["tls"]) {
            secret_name(&mut secrets, &path, entry);
        }
        for rule in items(&old["spec"]["rules"]).iter().filter(|rule| is_wildcard(rule)) {
            routes(&mut rules, &path, rule);
        }
        Tolerated { secret_names: !secrets.is_empty(), rules_of_wildcards: !rules.is_empty() }
    }
}

fn is_wildcard(rule: &Value) -> bool {
    text(&rule["host"]).contains('*')
}

fn validate(object: &Value, tolerated: &Tolerated) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let rules = items(&spec["rules"]);
    if rules.is_empty() && !set(&spec["defaultBackend"]) {
        let detail = "either `defaultBackend` or `rules` must be specified";
        faults.push(Error::invalid(&path, spec["rules"].clone(), detail));
    }
    if set(&spec["defaultBackend"]) {
        backend(&mut faults, &path.child("defaultBackend"), &spec["defaultBackend"]);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.child("rules").index(i);
        host_rule(&mut faults, &at.child("host"), text(&rule["host"]));
        if !(is_wildcard(rule) && tolerated.rules_of_wildcards) {
            routes(&mut faults, &at, rule);
        }
    }
    for (i, entry) in items(&spec["tls"]).iter().enumerate() {
        let at = path.child("tls").index(i);
        for (h, host) in items(&entry["hosts"]).iter().enumerate() {
            host_name(&mut faults, &at.child("hosts").index(h), text(host));
        }
        if !tolerated.secret_names {
            secret_name(&mut faults, &at, entry);
        }
    }
    if set(&spec["ingressClassName"]) {
        let class = text(&spec["ingressClassName"]);
        invalid_each(&mut faults, &path.child("ingressClassName"), class, check::dns1123_subdomain(class));
    }
    faults
}

fn host_rule(faults: &mut Faults, path: &Path, host: &str) {
    if lenient_ip(host).is_some() {
        faults.push(Error::invalid(path, host, "must be a DNS name, not an IP address"));
    }
    if !host.is_empty() {
        host_name(faults, path, host);
    }
}

fn routes(faults: &mut Faults, path: &Path, rule: &Value) {
    if !set(&rule["http"]) {
        return;
    }
    let at = path.child("http").child("paths");
    let paths = items(&rule["http"]["paths"]);
    if paths.is_empty() {
        faults.push(Error::required(&at, ""));
    }
    for (i, entry) in paths.iter().enumerate() {
        route(faults, &at.index(i), entry);
    }
}

fn host_name(faults: &mut Faults, path: &Path, host: &str) {
    let texts =
        if host.contains('*') { wildcard_dns1123_subdomain(host) } else { check::dns1123_subdomain(host) };
    invalid_each(faults, path, host, texts);
}

fn secret_name(faults: &mut Faults, path: &Path, entry: &Value) {
    let secret = text(&entry["secretName"]);
    if !secret.is_empty() {
        invalid_each(faults, &path.child("secretName"), secret, check::dns1123_subdomain(secret));
    }
}

fn route(faults: &mut Faults, path: &Path, entry: &Value) {
    let (kind, route) = (&entry["pathType"], text(&entry["path"]));
    if !set(kind) {
        faults.push(Error::required(&path.child("pathType"), "pathType must be specified"));
        return;
    }
    let at = path.child("path");
    let relative = !route.starts_with('/');
    match text(kind) {
        "Exact" | "Prefix" => {
            if relative {
                faults.push(Error::invalid(&at, route, "must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| route.contains(**part)) {
                faults.push(Error::invalid(&at, route, format!("must not contain '{part}'")));
            }
            for end in ["/..", "/."].iter().filter(|end| route.ends_with(**end)) {
                faults.push(Error::invalid(&at, route, format!("cannot end with '{end}'")));
            }
        }
        "ImplementationSpecific" if relative && !route.is_empty() => {
            faults.push(Error::invalid(&at, route, "must be an absolute path"));
        }
        "ImplementationSpecific" => {}
        other => faults.push(Error::not_supported(&path.child("pathType"), other, &PATH_TYPES)),
    }
    backend(faults, &path.child("backend"), &entry["backend"]);
}

fn backend(faults: &mut Faults, path: &Path, backend: &Value) {
    let service = &backend["service"];
    match (set(service), set(&backend["resource"])) {
        (true, true) => {
            faults.push(Error::invalid(path, "", "cannot set both resource and service backends"));
        }
        (false, true) => typed_reference(faults, &path.child("resource"), &backend["resource"]),
        (false, false) => {
            faults.push(Error::invalid(path, "", "resource or service backend is required"));
        }
        (true, false) => {
            let (name, at) = (text(&service["name"]), path.child("service"));
            if name.is_empty() {
                faults.push(Error::required(&at.child("name"), ""));
            } else {
                invalid_each(faults, &at.child("name"), name, check::dns1035_label(name));
            }
            let port = at.child("port");
            match (text(&service["port"]["name"]), number(&service["port"]["number"])) {
                ("", 0) => faults.push(Error::required(path, "port name or number is required")),
                ("", number) => check::port_number(faults, &port.child("number"), number),
                (name, 0) => invalid_each(faults, &port.child("name"), name, check::port_name(name)),
                _ => faults.push(Error::invalid(path, "", "cannot set both port name & port number")),
            }
        }
    }
}

fn status(new: &Value, _: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (i, point) in items(&new["status"]["loadBalancer"]["ingress"]).iter().enumerate() {
        let (at, ip) = (path.index(i), text(&point["ip"]));
        if !ip.is_empty() {
            legacy_ip(&mut faults, &at.child("ip"), ip);
        }
        entry_host(&mut faults, &at.child("hostname"), text(&point["hostname"]));
    }
    faults
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, patched, stored, warned};
    use serde_json::{Value, json};

    const GROUP: &str = "networking.k8s.io";

    fn path(entry: Value) -> Value {
        let mut entry = entry;
        if entry["backend"].is_null() {
            entry["backend"] = json!({"service": {"name": "s", "port": {"number": 80}}});
        }
        json!({"spec": {"rules": [{"http": {"paths": [entry]}}]}})
    }

    #[test]
    fn faults() {
        let at = "spec.rules[0].http.paths[0]";
        for (object, expected) in [
            (
                json!({}),
                vec!["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified".to_owned()],
            ),
            (path(json!({})), vec![format!("{at}.pathType: Required value: pathType must be specified")]),
            (
                path(json!({"pathType": "Prefix", "path": "a//b/."})),
                vec![
                    format!("{at}.path: Invalid value: \"a//b/.\": must be an absolute path"),
                    format!("{at}.path: Invalid value: \"a//b/.\": must not contain '//'"),
                    format!("{at}.path: Invalid value: \"a//b/.\": cannot end with '/.'"),
                ],
            ),
            (
                path(json!({"pathType": "Foo", "backend": {}})),
                vec![
                    format!("{at}.pathType: Unsupported value: \"Foo\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""),
                    format!("{at}.backend: Invalid value: \"\": resource or service backend is required"),
                ],
            ),
            (
                json!({"spec": {"defaultBackend": {"service": {"port": {"name": "a", "number": 1}}}}}),
                vec![
                    "spec.defaultBackend.service.name: Required value".to_owned(),
                    "spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number".to_owned(),
                ],
            ),
            (
                json!({"spec": {"defaultBackend": {"resource": {"kind": "K"}}, "tls": [{"secretName": "a/b"}]}}),
                vec![
                    "spec.defaultBackend.resource.name: Required value: name is required".to_owned(),
                    "spec.tls[0].secretName: Invalid value: \"a/b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned(),
                ],
            ),
            (
                json!({"spec": {"rules": [{"host": "1.2.3.4"}]}}),
                vec!["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address".to_owned()],
            ),
            (
                json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}, "spec": {"ingressClassName": "b", "rules": [{}]}}),
                vec!["annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified".to_owned()],
            ),
        ] {
            assert_eq!(created(GROUP, "ingresses", object.clone()), expected, "{object}");
        }
    }

    #[test]
    fn status_and_hints() {
        let old = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}, "spec": {"rules": [{}]}});
        assert_eq!(
            warned(GROUP, "ingresses", old.clone()),
            [
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
            ]
        );
        let old = stored(GROUP, "ingresses", old);
        let report = json!({"spec": {"rules": null}, "status": {"loadBalancer": {"ingress": [{"ip": "x"}]}}});
        let (object, faults) = patched(GROUP, "ingresses", "status", &old, report);
        assert_eq!(
            faults,
            [
                "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            ]
        );
        assert_eq!(object["spec"], old["spec"], "a status write leaves the spec");
    }

    #[test]
    fn what_was_accepted_once_is_kept() {
        let good = path(json!({"pathType": "Prefix", "path": "/"}));
        let mut old = stored(GROUP, "ingresses", good.clone());
        old["spec"]["tls"] = json!([{"secretName": "A_"}]);
        old["spec"]["rules"][0]["host"] = "*.example.com".into();
        old["spec"]["rules"][0]["http"]["paths"][0]["path"] = "a".into();
        let spec = json!({"spec": old["spec"]});
        let labels = json!({"metadata": {"labels": {"a": "b"}}});
        assert_eq!(patched(GROUP, "ingresses", "", &old, labels).1, [""; 0]);
        let faults = patched(GROUP, "ingresses", "", &stored(GROUP, "ingresses", good), spec).1;
        assert_eq!(faults.len(), 2, "{faults:?}");
    }
}
