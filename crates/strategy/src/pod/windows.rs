//! Security options that only one operating system understands.

use amphipod_api::field::{Error, Path};
use amphipod_api::names;
use serde_json::Value;

use crate::check::{Faults, dns1123_subdomain, invalid_each};
use crate::json::{items, set, text, truthy};

const CREDENTIAL_SPEC_KIB: usize = 64;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;
const NETBIOS_MAX: usize = 15;
const NOT_IN_NETBIOS: &str = "\\/:*?\"<>|";
const NOT_IN_USER: &str = "\"/\\:;|=,+*?<>@[]";
const NOT_WINDOWS: &str = "cannot be set for a windows pod";
const NOT_LINUX: &str = "windows options cannot be set for a linux pod";
/// Linux fields of a container's security context.
const LINUX_CONTAINER: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `windowsOptions` of a pod or container.
pub fn options(faults: &mut Faults, path: &Path, options: &Value) {
    if set(&options["gmsaCredentialSpecName"]) {
        let name = text(&options["gmsaCredentialSpecName"]);
        invalid_each(faults, &path.child("gmsaCredentialSpecName"), name, dns1123_subdomain(name));
    }
    if set(&options["gmsaCredentialSpec"]) {
        let spec = text(&options["gmsaCredentialSpec"]);
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            faults.push(Error::invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > CREDENTIAL_SPEC_KIB * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB} KiB");
            faults.push(Error::invalid(&at, spec, detail));
        }
    }
    if set(&options["runAsUserName"]) {
        let name = text(&options["runAsUserName"]);
        invalid_each(faults, &path.child("runAsUserName"), name, user_name(name));
    }
}

fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    if name.matches('\\').count() > 1 {
        return vec!["runAsUserName cannot contain more than one backslash".to_owned()];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut texts = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_MAX {
            texts.push(format!("runAsUserName's Domain length must be under {DOMAIN_MAX} characters"));
        }
        if !is_netbios(domain) && !is_dns(domain) {
            texts.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        texts.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER_MAX {
        texts.push(format!("runAsUserName's User length must not be longer than {USER_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        texts.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.chars().any(|c| NOT_IN_USER.contains(c)) {
        let text = "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]";
        texts.push(text.to_owned());
    }
    texts
}

fn is_netbios(domain: &str) -> bool {
    !domain.is_empty()
        && domain.chars().count() <= NETBIOS_MAX
        && !domain.starts_with('.')
        && !domain.chars().any(|c| NOT_IN_NETBIOS.contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| names::dns1123_label(&label.to_lowercase()).is_empty())
}

/// Host-process containers come alone and with the host's network.
pub fn host_process(faults: &mut Faults, path: &Path, spec: &Value) {
    let of_pod = spec["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let (mut all, mut host) = (0, 0);
    super::visit(spec, path, |container, at| {
        all += 1;
        let own = container["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let at = at.child("securityContext").child("windowsOptions").child("hostProcess");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            faults.push(Error::invalid(&at, own, detail));
        }
        host += i32::from(own.or(of_pod).unwrap_or(false));
    });
    if host == 0 {
        return;
    }
    if host != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        faults.push(Error::invalid(path, "", detail));
    }
    if !truthy(&spec["hostNetwork"]) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        faults.push(Error::invalid(&path.child("hostNetwork"), false, detail));
    }
}

/// The system the pod says it is for, and fields which that system does not have.
pub fn operating_system(faults: &mut Faults, path: &Path, spec: &Value) {
    if !set(&spec["os"]) {
        return;
    }
    match text(&spec["os"]["name"]) {
        "" => faults.push(Error::required(&path.child("os").child("name"), "")),
        "linux" => linux(faults, path, spec),
        "windows" => windows(faults, path, spec),
        other => faults.push(Error::not_supported(&path.child("os"), other, &["linux", "windows"])),
    }
}

fn linux(faults: &mut Faults, path: &Path, spec: &Value) {
    let at = path.child("securityContext").child("windowsOptions");
    if set(&spec["securityContext"]["windowsOptions"]) {
        faults.push(Error::forbidden(&at, NOT_LINUX));
    }
    super::visit(spec, path, |container, at| {
        if set(&container["securityContext"]["windowsOptions"]) {
            let at = at.child("securityContext").child("windowsOptions");
            faults.push(Error::forbidden(&at, NOT_LINUX));
        }
    });
}

fn windows(faults: &mut Faults, path: &Path, spec: &Value) {
    let context = &spec["securityContext"];
    let context_path = path.child("securityContext");
    let rules: [(bool, Path); 15] = [
        (set(&context["appArmorProfile"]), context_path.child("appArmorProfile")),
        (set(&context["seLinuxOptions"]), context_path.child("seLinuxOptions")),
        (set(&spec["hostUsers"]), path.child("hostUsers")),
        (truthy(&spec["hostPID"]), path.child("hostPID")),
        (truthy(&spec["hostIPC"]), path.child("hostIPC")),
        (set(&context["seccompProfile"]), context_path.child("seccompProfile")),
        (set(&context["fsGroup"]), context_path.child("fsGroup")),
        (set(&context["fsGroupChangePolicy"]), context_path.child("fsGroupChangePolicy")),
        (!items(&context["sysctls"]).is_empty(), context_path.child("sysctls")),
        (set(&spec["shareProcessNamespace"]), path.child("shareProcessNamespace")),
        (set(&context["runAsUser"]), context_path.child("runAsUser")),
        (set(&context["runAsGroup"]), context_path.child("runAsGroup")),
        (set(&context["supplementalGroups"]), context_path.child("supplementalGroups")),
        (set(&context["supplementalGroupsPolicy"]), context_path.child("supplementalGroupsPolicy")),
        (set(&context["seLinuxChangePolicy"]), context_path.child("seLinuxChangePolicy")),
    ];
    faults.extend(rules.iter().filter(|(given, _)| *given).map(|(_, at)| Error::forbidden(at, NOT_WINDOWS)));
    super::visit(spec, path, |container, at| {
        for key in LINUX_CONTAINER {
            if set(&container["securityContext"][key]) {
                faults.push(Error::forbidden(&at.child("securityContext").child(key), NOT_WINDOWS));
            }
        }
    });
}
