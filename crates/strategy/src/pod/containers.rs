//! Containers of all three sorts: what they have in common and where they differ.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::volumes::Volumes;
use super::{env, probe, resources, security};
use crate::check::{self, Faults, invalid_each};
use crate::json::{is_empty, items, number, set, text, truthy};

pub const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const RESIZABLE: [&str; 2] = ["cpu", "memory"];
const RESIZE_POLICIES: [&str; 2] = ["NotRequired", "RestartContainer"];
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
/// What an ephemeral container may not have, in the order of the API's struct.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
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
    let mut names = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        common(faults, &at, container, scope);
        unique_name(faults, &at, container, &names);
        names.insert(text(&container["name"]));
        probe::running_parts(faults, &at, container, scope.spec);
        restart_rules(faults, &at, container);
    }
    host_port_conflicts(faults, path, containers.iter().enumerate());
}

pub fn init(faults: &mut Faults, path: &Path, scope: &Scope) {
    let mut names: HashSet<&str> =
        items(&scope.spec["containers"]).iter().map(|c| text(&c["name"])).collect();
    for (i, container) in items(&scope.spec["initContainers"]).iter().enumerate() {
        let at = path.index(i);
        common(faults, &at, container, scope);
        init_restart_rules(faults, &at, container);
        unique_name(faults, &at, container, &names);
        if !text(&container["name"]).is_empty() {
            names.insert(text(&container["name"]));
        }
        host_port_conflicts(faults, path, std::iter::once((i, container)));
        if resources::is_sidecar(container) {
            probe::running_parts(faults, &at, container, scope.spec);
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if set(&container[name]) {
                let detail = "may not be set for init containers without restartPolicy=Always";
                faults.push(Error::forbidden(&at.child(name), detail));
            }
        }
    }
}

/// Rules need a policy of the container's own, and a sidecar's leaves them nothing to decide.
fn init_restart_rules(faults: &mut Faults, path: &Path, container: &Value) {
    let ruled = !items(&container["restartPolicyRules"]).is_empty();
    match &container["restartPolicy"] {
        Value::Null if ruled => {
            let detail = "must specify restartPolicy when restart rules are used";
            faults.push(Error::required(&path.child("restartPolicy"), detail));
        }
        Value::Null => {}
        policy if policy == "Always" && ruled => {
            let detail = "restartPolicyRules are not allowed for init containers with restart policy Always";
            faults.push(Error::forbidden(&path.child("restartPolicyRules"), detail));
        }
        _ => restart_rules(faults, path, container),
    }
}

fn restart_rules(faults: &mut Faults, path: &Path, container: &Value) {
    let (policy, rules) = (&container["restartPolicy"], items(&container["restartPolicyRules"]));
    let at = path.child("restartPolicy");
    if !set(policy) {
        if rules.is_empty() {
            return;
        }
        faults.push(Error::required(&at, "must specify restartPolicy when restart rules are used"));
    }
    check::optional_one_of(faults, &at, policy, &RESTART_POLICIES);
    let rules_path = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        faults.push(Error::too_long(&rules_path, RESTART_RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = rules_path.index(i);
        if text(&rule["action"]) != "Restart" {
            faults.push(Error::not_supported(&at.child("action"), text(&rule["action"]), &["Restart"]));
        }
        let codes = &rule["exitCodes"];
        let at = at.child("exitCodes");
        if !set(codes) {
            faults.push(Error::required(&at, "must be specified"));
            continue;
        }
        let operator = text(&codes["operator"]);
        if !["In", "NotIn"].contains(&operator) {
            faults.push(Error::not_supported(&at.child("operator"), operator, &["In", "NotIn"]));
        }
        if items(&codes["values"]).len() > EXIT_CODES_MAX {
            faults.push(Error::too_long(&at.child("values"), EXIT_CODES_MAX));
        }
    }
}

pub fn ephemeral(faults: &mut Faults, path: &Path, scope: &Scope) {
    const REFUSED: &str = "cannot be set for an Ephemeral Container";
    let others: HashSet<&str> = items(&scope.spec["containers"])
        .iter()
        .chain(items(&scope.spec["initContainers"]))
        .map(|c| text(&c["name"]))
        .collect();
    let mut names = others.clone();
    for (i, container) in items(&scope.spec["ephemeralContainers"]).iter().enumerate() {
        let at = path.index(i);
        common(faults, &at, container, scope);
        image_whitespace(faults, &at, container);
        unique_name(faults, &at, container, &names);
        names.insert(text(&container["name"]));
        let target = text(&container["targetContainerName"]);
        if !target.is_empty() && !others.contains(target) {
            faults.push(Error::not_found(&at.child("targetContainerName"), target));
        }
        for key in NOT_EPHEMERAL {
            let value = &container[key];
            // An empty resources object is what defaulting leaves behind.
            let given = if key == "resources" { !is_empty(value) } else { set(value) && *value != *"" };
            if given && !value.as_array().is_some_and(Vec::is_empty) {
                faults.push(Error::forbidden(&at.child(key), REFUSED));
            }
        }
        for (m, mount) in items(&container["volumeMounts"]).iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if !text(&mount[key]).is_empty() {
                    faults.push(Error::forbidden(&at.child("volumeMounts").index(m).child(key), REFUSED));
                }
            }
        }
    }
}

fn unique_name(faults: &mut Faults, path: &Path, container: &Value, names: &HashSet<&str>) {
    let name = text(&container["name"]);
    if names.contains(name) {
        faults.push(Error::duplicate(&path.child("name"), name));
    }
}

pub fn image_whitespace(faults: &mut Faults, path: &Path, container: &Value) {
    let image = text(&container["image"]);
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        faults.push(Error::invalid(&path.child("image"), image, detail));
    }
}

fn common(faults: &mut Faults, path: &Path, container: &Value, scope: &Scope) {
    let name = text(&container["name"]);
    if check::required(faults, &path.child("name"), &container["name"]) {
        invalid_each(faults, &path.child("name"), name, check::dns1123_label(name));
    }
    check::required(faults, &path.child("image"), &container["image"]);
    let messages = path.child("terminationMessagePolicy");
    check::one_of(faults, &messages, &container["terminationMessagePolicy"], &MESSAGE_POLICIES);
    ports(faults, &path.child("ports"), &container["ports"]);
    env::variables(faults, &path.child("env"), &container["env"]);
    env::env_from(faults, &path.child("envFrom"), &container["envFrom"]);
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
    let mut seen = HashSet::new();
    for (i, policy) in items(policies).iter().enumerate() {
        let name = text(&policy["resourceName"]);
        if !seen.insert(name) {
            faults.push(Error::duplicate(&path.index(i), name));
        }
        check::one_of(faults, path, &policy["resourceName"], &RESIZABLE);
        check::one_of(faults, path, &policy["restartPolicy"], &RESIZE_POLICIES);
        if text(&scope.spec["restartPolicy"]) == "Never" && text(&policy["restartPolicy"]) != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            faults.push(Error::invalid(path, text(&policy["restartPolicy"]), detail));
        }
    }
}

fn ports(faults: &mut Faults, path: &Path, ports: &Value) {
    let mut names = HashSet::new();
    for (i, port) in items(ports).iter().enumerate() {
        let at = path.index(i);
        let name = text(&port["name"]);
        if !name.is_empty() {
            let texts = check::port_name(name);
            if !texts.is_empty() {
                invalid_each(faults, &at.child("name"), name, texts);
            } else if !names.insert(name) {
                faults.push(Error::duplicate(&at.child("name"), name));
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
    let mut taken = HashSet::new();
    for (i, container) in containers {
        for (p, port) in items(&container["ports"]).iter().enumerate() {
            let host_port = number(&port["hostPort"]);
            if host_port == 0 {
                continue;
            }
            let (protocol, host_ip) = (text(&port["protocol"]), text(&port["hostIP"]));
            if !taken.insert((protocol, host_ip, host_port)) {
                let at = path.index(i).child("ports").index(p).child("hostPort");
                faults.push(Error::duplicate(&at, format!("{protocol}/{host_ip}/{host_port}")));
            }
        }
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
                let detail = "must match `containerPort` when `hostNetwork` is true";
                faults.push(Error::invalid(&at, host, detail));
            }
        }
    }
}
