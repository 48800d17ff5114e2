//! Security contexts of pods and containers.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use super::windows;
use crate::check::{self, Faults};
use crate::json::{int, items, set, text, truthy};

const MAX_ID: i64 = i32::MAX as i64;
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// Mounting with a label instead of relabelling waits for a feature that is off at this API level.
const SELINUX_CHANGES: [&str; 1] = ["Recursive"];
const SYSCTL_MAX: usize = 253;
const SYSCTL_REGEX: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
/// PATH_MAX without the final zero.
const APPARMOR_PROFILE_MAX: usize = 4095;

fn id(faults: &mut Faults, path: &Path, value: &Value) {
    if let Some(id) = int(value).filter(|id| !(0..=MAX_ID).contains(id)) {
        faults.push(Error::invalid(path, id, inclusive_range_text(0, MAX_ID)));
    }
}

/// A container's context the way faults show it: as the internal type.
fn as_shown(context: &Value) -> String {
    let part = |key: &str, names: &[(&'static str, &str)]| match &context[key] {
        Value::Null => "null".to_owned(),
        part => {
            let names: Vec<_> = names.iter().map(|(name, key)| (*name, part[*key].clone())).collect();
            check::as_shown(&names)
        }
    };
    let plain = |key: &str| context[key].to_string();
    let profile = [("Type", "type"), ("LocalhostProfile", "localhostProfile")];
    let labels = match &context["seLinuxOptions"] {
        Value::Null => "null".to_owned(),
        labels => {
            let names = [("User", "user"), ("Role", "role"), ("Type", "type"), ("Level", "level")];
            check::as_shown(&names.map(|(name, key)| (name, Value::from(text(&labels[key])))))
        }
    };
    let windows = [
        ("GMSACredentialSpecName", "gmsaCredentialSpecName"),
        ("GMSACredentialSpec", "gmsaCredentialSpec"),
        ("RunAsUserName", "runAsUserName"),
        ("HostProcess", "hostProcess"),
    ];
    check::as_shown(&[
        ("Capabilities", part("capabilities", &[("Add", "add"), ("Drop", "drop")])),
        ("Privileged", plain("privileged")),
        ("SELinuxOptions", labels),
        ("WindowsOptions", part("windowsOptions", &windows)),
        ("RunAsUser", plain("runAsUser")),
        ("RunAsGroup", plain("runAsGroup")),
        ("RunAsNonRoot", plain("runAsNonRoot")),
        ("ReadOnlyRootFilesystem", plain("readOnlyRootFilesystem")),
        ("AllowPrivilegeEscalation", plain("allowPrivilegeEscalation")),
        ("ProcMount", plain("procMount")),
        ("SeccompProfile", part("seccompProfile", &profile)),
        ("AppArmorProfile", part("appArmorProfile", &profile)),
    ])
}

pub fn container(faults: &mut Faults, path: &Path, context: &Value, host_users: bool) {
    if !set(context) {
        return;
    }
    for key in ["runAsUser", "runAsGroup"] {
        id(faults, &path.child(key), &context[key]);
    }
    let proc_mount = &context["procMount"];
    check::optional_one_of(faults, &path.child("procMount"), proc_mount, &["Default", "Unmasked"]);
    if host_users && text(proc_mount) == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        faults.push(Error::invalid(&path.child("procMount"), text(proc_mount), detail));
    }
    seccomp(faults, &path.child("seccompProfile"), &context["seccompProfile"]);
    if context["allowPrivilegeEscalation"] == false {
        if truthy(&context["privileged"]) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            let fault = Error::invalid(path, Value::Null, detail);
            faults.push(check::shown_text(fault, &as_shown(context)));
        }
        if items(&context["capabilities"]["add"]).iter().any(|c| text(c) == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            let fault = Error::invalid(path, Value::Null, detail);
            faults.push(check::shown_text(fault, &as_shown(context)));
        }
    }
    windows::options(faults, &path.child("windowsOptions"), &context["windowsOptions"]);
    apparmor(faults, &path.child("appArmorProfile"), &context["appArmorProfile"]);
}

pub fn pod(faults: &mut Faults, path: &Path, spec: &Value) {
    let context = &spec["securityContext"];
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(faults, &path.child(key), &context[key]);
    }
    for (i, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        id(faults, &path.child("supplementalGroups").index(i), group);
    }
    if truthy(&spec["shareProcessNamespace"]) && truthy(&spec["hostPID"]) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.push(Error::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    sysctls(faults, &path.child("sysctls"), spec);
    let changes = ["Always", "OnRootMismatch"];
    check::optional_one_of(
        faults,
        &path.child("fsGroupChangePolicy"),
        &context["fsGroupChangePolicy"],
        &changes,
    );
    seccomp(faults, &path.child("seccompProfile"), &context["seccompProfile"]);
    windows::options(faults, &path.child("windowsOptions"), &context["windowsOptions"]);
    apparmor(faults, &path.child("appArmorProfile"), &context["appArmorProfile"]);
    check::optional_one_of(
        faults,
        &path.child("supplementalGroupsPolicy"),
        &context["supplementalGroupsPolicy"],
        &["Merge", "Strict"],
    );
    check::optional_one_of(
        faults,
        &path.child("seLinuxChangePolicy"),
        &context["seLinuxChangePolicy"],
        &SELINUX_CHANGES,
    );
}

pub fn host_users(faults: &mut Faults, path: &Path, spec: &Value) {
    if spec["hostUsers"] != false {
        return;
    }
    for (flag, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if truthy(&spec[flag]) {
            faults.push(Error::forbidden(&path.child(shown), "when `hostUsers` is false"));
        }
    }
    super::visit(spec, path, |container, at| {
        if !items(&container["volumeDevices"]).is_empty() {
            faults.push(Error::forbidden(&at.child("volumeDevices"), "when `hostUsers` is false"));
        }
    });
}

fn seccomp(faults: &mut Faults, path: &Path, profile: &Value) {
    if !set(profile) {
        return;
    }
    match text(&profile["type"]) {
        "" => {
            faults.push(Error::required(&path.child("type"), "type is required when seccompProfile is set"))
        }
        kind if PROFILE_TYPES.contains(&kind) => {}
        kind => faults.push(Error::not_supported(&path.child("type"), kind, &PROFILE_TYPES)),
    }
    let (at, file) = (path.child("localhostProfile"), &profile["localhostProfile"]);
    match (text(&profile["type"]) == "Localhost", set(file)) {
        (true, false) => faults.push(Error::required(&at, "must be set when seccomp type is Localhost")),
        (true, true) => check::local_descending_path(faults, &at, text(file)),
        (false, true) => {
            let fault = Error::invalid(&at, Value::Null, "can only be set when seccomp type is Localhost");
            let shown = [("Type", profile["type"].clone()), ("LocalhostProfile", file.clone())];
            faults.push(check::shown_as(fault, &shown));
        }
        (false, false) => {}
    }
}

/// Whether the profile could stand in a security context.
pub fn apparmor_fits(profile: &Value) -> bool {
    let mut faults = Faults::new();
    apparmor(&mut faults, &Path::default(), profile);
    faults.is_empty()
}

fn apparmor(faults: &mut Faults, path: &Path, profile: &Value) {
    if !set(profile) {
        return;
    }
    let (at, file) = (path.child("localhostProfile"), &profile["localhostProfile"]);
    match text(&profile["type"]) {
        "Localhost" => {
            let name = text(file);
            if name.is_empty() {
                faults.push(Error::required(&at, "must be set when AppArmor type is Localhost"));
            } else if name.trim() != name {
                faults.push(Error::invalid(&at, name, "must not be padded with whitespace"));
            }
            if name.len() > APPARMOR_PROFILE_MAX {
                faults.push(Error::too_long(&at, APPARMOR_PROFILE_MAX));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if set(file) {
                faults.push(Error::invalid(
                    &at,
                    text(file),
                    "can only be set when AppArmor type is Localhost",
                ));
            }
        }
        "" => {
            faults.push(Error::required(&path.child("type"), "type is required when appArmorProfile is set"))
        }
        kind => faults.push(Error::not_supported(&path.child("type"), kind, &PROFILE_TYPES)),
    }
}

fn sysctl_name_fits(name: &str) -> bool {
    let part = |p: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(p.bytes().next())
            && edge(p.bytes().last())
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(part)
}

fn sysctls(faults: &mut Faults, path: &Path, spec: &Value) {
    let mut seen = HashSet::new();
    for (i, sysctl) in items(&spec["securityContext"]["sysctls"]).iter().enumerate() {
        let at = path.index(i).child("name");
        let name = text(&sysctl["name"]);
        let is_new = seen.insert(name);
        if name.is_empty() {
            faults.push(Error::required(&at, ""));
        } else if !sysctl_name_fits(name) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL_REGEX}");
            faults.push(Error::invalid(&at, name, detail));
        } else if !is_new {
            faults.push(Error::duplicate(&at, name));
        }
        let dotted = name.replace('/', ".");
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
        let is_ipc = dotted == "kernel.sem" || ipc.iter().any(|p| dotted.starts_with(p));
        if truthy(&spec["hostNetwork"]) && dotted.starts_with("net.") {
            faults.push(Error::invalid(&at, name, "may not be specified when 'hostNetwork' is true"));
        } else if truthy(&spec["hostIPC"]) && is_ipc {
            faults.push(Error::invalid(&at, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}
