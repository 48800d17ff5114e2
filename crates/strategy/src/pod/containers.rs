//! Containers of all three sorts: what they have in common and where they differ.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::resources;
use super::security;
use super::volumes::Volumes;
use crate::check::{self, Faults, invalid_each};
use crate::json::{fields, int, is_empty, items, number, set, text, truthy};

pub const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
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
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// What an ephemeral container may have; everything else is refused, new fields included.
const EPHEMERAL_FIELDS: [&str; 17] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "env",
    "envFrom",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// What the checks of a container need to know of its pod.
pub struct Scope<'a> {
    pub spec: &'a Value,
    pub volumes: &'a Volumes<'a>,
    /// A pod, not a template.
    pub is_pod: bool,
}

pub fn regular(faults: &mut Faults, path: &Path, scope: &Scope) {
    let containers = items(&scope.spec["containers"]);
    if containers.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        common(faults, &at, container, scope);
        unique_name(faults, &at, container, &mut names);
        running_parts(faults, &at, container, scope);
        restart_rules(faults, &at, container);
    }
    host_port_conflicts(faults, path, containers.iter().enumerate());
}

pub fn init(faults: &mut Faults, path: &Path, scope: &Scope) {
    let mut names: Vec<&str> = items(&scope.spec["containers"]).iter().map(|c| text(&c["name"])).collect();
    for (i, container) in items(&scope.spec["initContainers"]).iter().enumerate() {
        let at = path.index(i);
        common(faults, &at, container, scope);
        restart_rules(faults, &at, container);
        unique_name(faults, &at, container, &mut names);
        host_port_conflicts(faults, path, std::iter::once((i, container)));
        if text(&container["restartPolicy"]) == "Always" {
            running_parts(faults, &at, container, scope);
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if set(&container[name]) {
                let text = "may not be set for init containers without restartPolicy=Always";
                faults.push(Error::forbidden(&at.child(name), text));
            }
        }
    }
}

fn restart_rules(faults: &mut Faults, path: &Path, container: &Value) {
    let policy = &container["restartPolicy"];
    check::optional_one_of(faults, &path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    if !items(&container["restartPolicyRules"]).is_empty() && !set(policy) {
        let text = "must specify restartPolicy when restart rules are used";
        faults.push(Error::required(&path.child("restartPolicy"), text));
    }
}

pub fn ephemeral(faults: &mut Faults, path: &Path, scope: &Scope) {
    let others: Vec<&str> = items(&scope.spec["containers"])
        .iter()
        .chain(items(&scope.spec["initContainers"]))
        .map(|c| text(&c["name"]))
        .collect();
    let mut names = others.clone();
    for (i, container) in items(&scope.spec["ephemeralContainers"]).iter().enumerate() {
        let at = path.index(i);
        common(faults, &at, container, scope);
        image_whitespace(faults, &at, container);
        unique_name(faults, &at, container, &mut names);
        let target = text(&container["targetContainerName"]);
        if !target.is_empty() && !others.contains(&target) {
            faults.push(Error::not_found(&at.child("targetContainerName"), target));
        }
        let refused = "cannot be set for an Ephemeral Container";
        for (key, value) in fields(container) {
            if !EPHEMERAL_FIELDS.contains(&key) && !is_empty(value) {
                faults.push(Error::forbidden(&at.child(key), refused));
            }
        }
        for (m, mount) in items(&container["volumeMounts"]).iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if !text(&mount[key]).is_empty() {
                    faults.push(Error::forbidden(&at.child("volumeMounts").index(m).child(key), refused));
                }
            }
        }
    }
}

fn unique_name<'a>(faults: &mut Faults, path: &Path, container: &'a Value, names: &mut Vec<&'a str>) {
    let name = text(&container["name"]);
    if names.contains(&name) {
        faults.push(Error::duplicate(&path.child("name"), name));
    } else if !name.is_empty() {
        names.push(name);
    }
}

pub fn image_whitespace(faults: &mut Faults, path: &Path, container: &Value) {
    let image = text(&container["image"]);
    if image.trim() != image {
        faults.push(Error::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
}

fn common(faults: &mut Faults, path: &Path, container: &Value, scope: &Scope) {
    let name = text(&container["name"]);
    if check::required(faults, &path.child("name"), &container["name"]) {
        invalid_each(faults, &path.child("name"), name, check::dns1123_label(name));
    }
    check::required(faults, &path.child("image"), &container["image"]);
    check::one_of(
        faults,
        &path.child("terminationMessagePolicy"),
        &container["terminationMessagePolicy"],
        &["File", "FallbackToLogsOnError"],
    );
    ports(faults, &path.child("ports"), &container["ports"]);
    env(faults, &path.child("env"), &container["env"]);
    env_from(faults, &path.child("envFrom"), &container["envFrom"]);
    scope.volumes.mounts(faults, &path.child("volumeMounts"), container);
    scope.volumes.devices(faults, &path.child("volumeDevices"), container);
    check::one_of(faults, &path.child("imagePullPolicy"), &container["imagePullPolicy"], &PULL_POLICIES);
    let claims = &scope.spec["resourceClaims"];
    resources::requirements(faults, &path.child("resources"), &container["resources"], claims, false);
    resize_policy(faults, &path.child("resizePolicy"), &container["resizePolicy"], scope);
    let host_users = scope.spec["hostUsers"] != false;
    security::container(faults, &path.child("securityContext"), &container["securityContext"], host_users);
}

fn resize_policy(faults: &mut Faults, path: &Path, policies: &Value, scope: &Scope) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, policy) in items(policies).iter().enumerate() {
        let name = text(&policy["resourceName"]);
        if seen.contains(&name) {
            faults.push(Error::duplicate(&path.index(i), name));
        }
        seen.push(name);
        check::one_of(faults, path, &policy["resourceName"], &["cpu", "memory"]);
        check::one_of(faults, path, &policy["restartPolicy"], &["NotRequired", "RestartContainer"]);
        if text(&scope.spec["restartPolicy"]) == "Never" && text(&policy["restartPolicy"]) != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            faults.push(Error::invalid(path, text(&policy["restartPolicy"]), detail));
        }
    }
}

fn ports(faults: &mut Faults, path: &Path, ports: &Value) {
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in items(ports).iter().enumerate() {
        let at = path.index(i);
        let name = text(&port["name"]);
        if !name.is_empty() {
            let texts = check::port_name(name);
            if !texts.is_empty() {
                invalid_each(faults, &at.child("name"), name, texts);
            } else if names.contains(&name) {
                faults.push(Error::duplicate(&at.child("name"), name));
            } else {
                names.push(name);
            }
        }
        match number(&port["containerPort"]) {
            0 => faults.push(Error::required(&at.child("containerPort"), "")),
            port => check::port_number(faults, &at.child("containerPort"), port),
        }
        match number(&port["hostPort"]) {
            0 => {}
            port => check::port_number(faults, &at.child("hostPort"), port),
        }
        check::one_of(faults, &at.child("protocol"), &port["protocol"], &PROTOCOLS);
    }
}

fn host_port_conflicts<'a>(
    faults: &mut Faults,
    path: &Path,
    containers: impl Iterator<Item = (usize, &'a Value)>,
) {
    let mut taken: Vec<String> = Vec::new();
    for (i, container) in containers {
        for (p, port) in items(&container["ports"]).iter().enumerate() {
            let host_port = number(&port["hostPort"]);
            if host_port == 0 {
                continue;
            }
            let key = format!("{}/{}/{host_port}", text(&port["protocol"]), text(&port["hostIP"]));
            if taken.contains(&key) {
                faults.push(Error::duplicate(&path.index(i).child("ports").index(p).child("hostPort"), key));
            } else {
                taken.push(key);
            }
        }
    }
}

fn env(faults: &mut Faults, path: &Path, env: &Value) {
    for (i, variable) in items(env).iter().enumerate() {
        let at = path.index(i);
        let name = text(&variable["name"]);
        if check::required(faults, &at.child("name"), &variable["name"]) {
            invalid_each(faults, &at.child("name"), name, check::env_var_name(name));
        }
        let from = &variable["valueFrom"];
        if !set(from) {
            continue;
        }
        let from_path = at.child("valueFrom");
        let mut sources = 0;
        for (source, reference) in fields(from).filter(|(_, v)| set(v)) {
            sources += 1;
            env_source(faults, &from_path.child(source), source, reference);
        }
        let has_value = !text(&variable["value"]).is_empty();
        let fault = match sources {
            0 => {
                "must specify one of: `configMapKeyRef`, `fieldRef`, `fileKeyRef`, `resourceFieldRef` or `secretKeyRef`"
            }
            _ if has_value => "may not be specified when `value` is not empty",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        faults.push(Error::invalid(&from_path, "", fault));
    }
}

fn env_source(faults: &mut Faults, path: &Path, source: &str, reference: &Value) {
    match source {
        "fieldRef" => field_ref(faults, path, reference, &ENV_FIELDS),
        "resourceFieldRef" => resource_field_ref(faults, path, reference, false),
        "configMapKeyRef" | "secretKeyRef" => {
            let (name, key) = (text(&reference["name"]), text(&reference["key"]));
            invalid_each(faults, &path.child("name"), name, check::dns1123_subdomain(name));
            if check::required(faults, &path.child("key"), &reference["key"]) {
                invalid_each(faults, &path.child("key"), key, check::config_map_key(key));
            }
        }
        "fileKeyRef" => {
            for key in ["volumeName", "path", "key"] {
                check::required(faults, &path.child(key), &reference[key]);
            }
            check::local_path(faults, &path.child("path"), text(&reference["path"]));
        }
        _ => {}
    }
}

fn env_from(faults: &mut Faults, path: &Path, sources: &Value) {
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
                invalid_each(faults, &name_path, name, check::dns1123_subdomain(name));
            }
        }
        match count {
            0 => faults.push(Error::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => {
                faults.push(Error::invalid(path, "", "may not have more than one field specified at a time"))
            }
        }
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
    let subscripted = field_path
        .strip_suffix("']")
        .and_then(|rest| rest.split_once("['"))
        .filter(|(base, _)| !base.is_empty());
    match subscripted {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            invalid_each(faults, path, &key, check::qualified_name(&key));
        }
        Some(("metadata.labels", key)) => invalid_each(faults, path, key, check::qualified_name(key)),
        Some((base, _)) => faults.push(Error::invalid(path, base, "does not support subscript")),
        None if allowed.contains(&field_path) => {}
        None if known_field(field_path) => {
            faults.push(Error::not_supported(&path.child("fieldPath"), field_path, allowed));
        }
        None => faults.push(Error::invalid(
            &path.child("fieldPath"),
            field_path,
            format!("error converting fieldPath: field label not supported: {field_path}"),
        )),
    }
}

fn known_field(path: &str) -> bool {
    ENV_FIELDS.contains(&path)
        || [
            "metadata.annotations",
            "metadata.labels",
            "spec.restartPolicy",
            "spec.schedulerName",
            "status.phase",
        ]
        .contains(&path)
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
    const BYTES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let (allowed, noun) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => ("1m, 1", "cpu"),
        "memory" => (BYTES, "memory"),
        "ephemeral-storage" => (BYTES, "local ephemeral storage"),
        name if resources::is_huge_page(name) => (BYTES, "hugepages"),
        _ => return,
    };
    if !allowed.split(", ").any(|a| a == divisor) {
        let shown = if noun == "cpu" { "1m and 1" } else { allowed };
        let detail = format!("only divisor's values {shown} are supported with the {noun} resource");
        faults.push(Error::invalid(&path.child("divisor"), resource, detail));
    }
}

/// Hooks and probes of containers that keep running.
fn running_parts(faults: &mut Faults, path: &Path, container: &Value, scope: &Scope) {
    let grace = int(&scope.spec["terminationGracePeriodSeconds"]);
    for hook in ["postStart", "preStop"] {
        let handler = &container["lifecycle"][hook];
        if set(handler) {
            let at = path.child("lifecycle").child(hook);
            self::handler(faults, &at, handler, &["exec", "httpGet", "tcpSocket", "sleep"], grace);
        }
    }
    let signal = &container["lifecycle"]["stopSignal"];
    if set(signal) && !set(&scope.spec["os"]["name"]) {
        let at = path.child("lifecycle").child("stopSignal");
        faults.push(Error::forbidden(&at, "may not be set for containers with empty `spec.os.name`"));
    }
    for name in PROBES {
        if set(&container[name]) {
            probe(faults, &path.child(name), name, &container[name], grace);
        }
    }
}

fn probe(faults: &mut Faults, path: &Path, name: &str, probe: &Value, grace: Option<i64>) {
    handler(faults, path, probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace);
    for key in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        check::not_negative(faults, &path.child(key), &probe[key]);
    }
    let own_grace = &probe["terminationGracePeriodSeconds"];
    let grace_path = path.child("terminationGracePeriodSeconds");
    if set(own_grace) && number(own_grace) <= 0 {
        faults.push(Error::invalid(&grace_path, number(own_grace), "must be greater than 0"));
    }
    if name == "readinessProbe" {
        if set(own_grace) {
            faults.push(Error::invalid(
                &grace_path,
                number(own_grace),
                "must not be set for readinessProbes",
            ));
        }
    } else if number(&probe["successThreshold"]) != 1 {
        let threshold = number(&probe["successThreshold"]);
        faults.push(Error::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

fn handler(faults: &mut Faults, path: &Path, handler: &Value, kinds: &[&str], grace: Option<i64>) {
    let mut seen = 0;
    for kind in kinds.iter().filter(|kind| set(&handler[**kind])) {
        let at = path.child(kind);
        seen += 1;
        if seen > 1 {
            faults.push(Error::forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        let action = &handler[*kind];
        match *kind {
            "exec" if items(&action["command"]).is_empty() => {
                faults.push(Error::required(&at.child("command"), ""));
            }
            "httpGet" => http_get(faults, &at, action),
            "tcpSocket" => check::port_number_or_name(faults, &at.child("port"), &action["port"]),
            "grpc" => check::port_number(faults, &at.child("port"), number(&action["port"])),
            "sleep" => sleep(faults, &at, number(&action["seconds"]), grace),
            _ => {}
        }
    }
    if seen == 0 {
        faults.push(Error::required(path, "must specify a handler type"));
    }
}

fn sleep(faults: &mut Faults, path: &Path, seconds: i64, grace: Option<i64>) {
    if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        faults.push(Error::invalid(path, seconds, detail));
    }
}

fn http_get(faults: &mut Faults, path: &Path, action: &Value) {
    check::required(faults, &path.child("path"), &action["path"]);
    check::port_number_or_name(faults, &path.child("port"), &action["port"]);
    if !["HTTP", "HTTPS"].contains(&text(&action["scheme"])) {
        faults.push(Error::not_supported(&path.child("scheme"), text(&action["scheme"]), &["HTTP", "HTTPS"]));
    }
    for header in items(&action["httpHeaders"]) {
        let name = text(&header["name"]);
        invalid_each(faults, &path.child("httpHeaders"), name, check::http_header_name(name));
    }
}

/// With the host's network a container cannot have another port than the host's.
pub fn host_network_ports(faults: &mut Faults, path: &Path, scope: &Scope) {
    if !truthy(&scope.spec["hostNetwork"]) {
        return;
    }
    for (i, container) in items(&scope.spec["containers"]).iter().enumerate() {
        for (p, port) in items(&container["ports"]).iter().enumerate() {
            let (host, own) = (number(&port["hostPort"]), number(&port["containerPort"]));
            if (scope.is_pod || host != 0) && host != own {
                let at = path.child("containers").index(i).child("ports").index(p).child("hostPort");
                faults.push(Error::invalid(
                    &at,
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}
