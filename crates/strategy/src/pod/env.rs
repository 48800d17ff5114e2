//! Environment variables: their names, and the fields, resources, keys and files they come from.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::resources;
use crate::check::{self, Faults, invalid_each};
use crate::json::{items, set, text};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that have a name for the downward API, but no use in an environment.
const OTHER_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const BYTE_DIVISORS: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";

pub fn variables(faults: &mut Faults, path: &Path, env: &Value) {
    for (i, variable) in items(env).iter().enumerate() {
        let at = path.index(i);
        let name = text(&variable["name"]);
        if check::required(faults, &at.child("name"), &variable["name"]) {
            invalid_each(faults, &at.child("name"), name, check::env_var_name(name));
        }
        if set(&variable["valueFrom"]) {
            value_from(faults, &at.child("valueFrom"), variable);
        }
    }
}

fn value_from(faults: &mut Faults, path: &Path, variable: &Value) {
    let from = &variable["valueFrom"];
    let mut sources = 0;
    for source in SOURCES.iter().filter(|source| set(&from[**source])) {
        sources += 1;
        let (at, reference) = (path.child(source), &from[*source]);
        match *source {
            "fieldRef" => field_ref(faults, &at, reference, &ENV_FIELDS),
            "resourceFieldRef" => resource_field_ref(faults, &at, reference, false),
            "fileKeyRef" => file_key(faults, &at, reference),
            _ => object_key(faults, &at, reference),
        }
    }
    let detail = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if !text(&variable["value"]).is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    faults.push(Error::invalid(path, "", detail));
}

fn object_key(faults: &mut Faults, path: &Path, reference: &Value) {
    let (name, key) = (text(&reference["name"]), text(&reference["key"]));
    invalid_each(faults, &path.child("name"), name, check::dns1123_subdomain(name));
    if check::required(faults, &path.child("key"), &reference["key"]) {
        invalid_each(faults, &path.child("key"), key, check::config_map_key(key));
    }
}

fn file_key(faults: &mut Faults, path: &Path, reference: &Value) {
    let (key, volume) = (text(&reference["key"]), text(&reference["volumeName"]));
    if check::required(faults, &path.child("key"), &reference["key"]) {
        invalid_each(faults, &path.child("key"), key, check::env_var_name(key));
    }
    if check::required(faults, &path.child("volumeName"), &reference["volumeName"]) {
        invalid_each(faults, &path.child("volumeName"), volume, check::dns1123_label(volume));
    }
    if check::required(faults, &path.child("path"), &reference["path"]) {
        check::no_backsteps(faults, &path.child("path"), text(&reference["path"]));
    }
}

/// Files of variables stand in an `emptyDir` of the same pod.
pub fn file_key_volumes(faults: &mut Faults, path: &Path, spec: &Value) {
    super::visit(spec, path, |container, at| {
        for (i, variable) in items(&container["env"]).iter().enumerate() {
            let reference = &variable["valueFrom"]["fileKeyRef"];
            if !set(reference) {
                continue;
            }
            let name = text(&reference["volumeName"]);
            let place = at.child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            match items(&spec["volumes"]).iter().rfind(|volume| text(&volume["name"]) == name) {
                None => faults.push(Error::not_found(&place, name)),
                Some(volume) if set(&volume["emptyDir"]) => {}
                Some(_) => {
                    let detail = "referenced volume must be of type emptyDir";
                    faults.push(Error::invalid(&place, name, detail));
                }
            }
        }
    });
}

pub fn env_from(faults: &mut Faults, path: &Path, sources: &Value) {
    for (i, source) in items(sources).iter().enumerate() {
        let at = path.index(i);
        let prefix = text(&source["prefix"]);
        if !prefix.is_empty() {
            invalid_each(faults, &at.child("prefix"), prefix, check::env_var_name(prefix));
        }
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            if !set(&source[key]) {
                continue;
            }
            count += 1;
            let name_path = at.child(key).child("name");
            let name = text(&source[key]["name"]);
            if check::required(faults, &name_path, &source[key]["name"]) {
                let texts = amphipod_api::names::as_prefix(check::dns1123_subdomain, name);
                invalid_each(faults, &name_path, name, texts);
            }
        }
        let detail = match count {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        faults.push(Error::invalid(path, "", detail));
    }
}

/// A downward-API field; `allowed` are the plain paths, labels and annotations may be subscripted.
pub fn field_ref(faults: &mut Faults, path: &Path, reference: &Value, allowed: &[&str]) {
    let field_path = text(&reference["fieldPath"]);
    if !check::required(faults, &path.child("apiVersion"), &reference["apiVersion"])
        || !check::required(faults, &path.child("fieldPath"), &reference["fieldPath"])
    {
        return;
    }
    let at = path.child("fieldPath");
    let subscripted = field_path
        .strip_suffix("']")
        .and_then(|rest| rest.split_once("['"))
        .filter(|(base, _)| !base.is_empty());
    let why = match subscripted {
        _ if text(&reference["apiVersion"]) != "v1" => {
            format!("unsupported pod version: {}", text(&reference["apiVersion"]))
        }
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            return invalid_each(faults, path, &key, check::qualified_name(&key));
        }
        Some(("metadata.labels", key)) => {
            return invalid_each(faults, path, key, check::qualified_name(key));
        }
        Some(_) => format!("field label does not support subscript: {field_path}"),
        None => {
            let known = if field_path == "spec.host" { "spec.nodeName" } else { field_path };
            if allowed.contains(&known) {
                return;
            }
            if ENV_FIELDS.contains(&known) || OTHER_FIELDS.contains(&known) {
                return faults.push(Error::not_supported(&at, known, allowed));
            }
            format!("field label not supported: {field_path}")
        }
    };
    faults.push(Error::invalid(&at, field_path, format!("error converting fieldPath: {why}")));
}

pub fn resource_field_ref(faults: &mut Faults, path: &Path, reference: &Value, volume: bool) {
    let resource = text(&reference["resource"]);
    let huge = |r: &str| r.starts_with("requests.hugepages-") || r.starts_with("limits.hugepages-");
    if volume && text(&reference["containerName"]).is_empty() {
        faults.push(Error::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        faults.push(Error::required(&path.child("resource"), ""));
    } else if !RESOURCE_FIELDS.contains(&resource) && !huge(resource) {
        faults.push(Error::not_supported(&path.child("resource"), resource, &RESOURCE_FIELDS));
    }
    let divisor = match resources::quantity(&reference["divisor"]) {
        Some(divisor) if !divisor.is_zero() => divisor.to_string(),
        _ => return,
    };
    let (allowed, noun) = match resource {
        "limits.cpu" | "requests.cpu" => ("1m, 1", "cpu"),
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (BYTE_DIVISORS, "local ephemeral storage")
        }
        name if huge(name) => (BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !allowed.split(", ").any(|a| a == divisor) {
        let shown = if noun == "cpu" { "1m and 1" } else { allowed };
        let detail = format!("only divisor's values {shown} are supported with the {noun} resource");
        faults.push(Error::invalid(&path.child("divisor"), resource, detail));
    }
}
