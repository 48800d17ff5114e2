//! APIService: a group version served here or elsewhere.

use amphipod_api::field::{Error, Path, go_quote};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::conditions::STATUSES;
use crate::json::{default_number, items, number, set, text, truthy, with, within};
use crate::kind::{Kind, PLAIN};
use crate::metadata::NameRule;

const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1000;

pub static API_SERVICE: Kind = Kind {
    short_finalizers: true,
    name: NameRule::PathSegment,
    status: true,
    status_keeps_metadata: true,
    unconditional_update: false,
    default: |object| {
        within(object, "spec", |spec| {
            with(spec, "service", |service| default_number(service, "port", 443));
        });
        within(object, "status", |_| {});
    },
    validate,
    validate_status: |new, _| {
        let mut faults = Faults::new();
        let path = Path::new("status").child("conditions");
        for (i, condition) in items(&new["status"]["conditions"]).iter().enumerate() {
            let (at, status) = (path.index(i).child("status"), text(&condition["status"]));
            if !STATUSES.contains(&status) {
                // In upstream's own order.
                faults.push(Error::not_supported(&at, status, &["True", "False", "Unknown"]));
            }
        }
        faults
    },
    ..PLAIN
};

fn validate(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let (group, version, name) =
        (text(&spec["group"]), text(&spec["version"]), text(&object["metadata"]["name"]));
    let wanted = format!("{version}.{group}");
    if name != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {}", go_quote(&wanted));
        faults.push(Error::invalid(&Path::new("metadata").child("name"), name, detail));
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        faults.push(Error::required(&path.child("group"), detail));
    }
    if !group.is_empty() {
        invalid_each(&mut faults, &path.child("group"), group, check::dns1123_subdomain(group));
    }
    invalid_each(&mut faults, &path.child("version"), version, check::dns1035_label(version));
    for (key, max) in
        [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)]
    {
        let priority = number(&spec[key]);
        if !(1..=max).contains(&priority) {
            let detail = format!("must be positive and less than {max}");
            faults.push(Error::invalid(&path.child(key), priority, detail));
        }
    }
    backend(&mut faults, &path, spec);
    faults
}

fn backend(faults: &mut Faults, path: &Path, spec: &Value) {
    let (service, insecure) = (&spec["service"], truthy(&spec["insecureSkipTLSVerify"]));
    let bundle = BASE64.decode(text(&spec["caBundle"])).map_or(0, |bytes| bytes.len());
    if !set(service) {
        if bundle != 0 {
            let detail = "local APIServices may not have a caBundle";
            faults.push(Error::invalid(&path.child("caBundle"), format!("{bundle} bytes"), detail));
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            faults.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, detail));
        }
        return;
    }
    let at = path.child("service");
    for key in ["namespace", "name"] {
        check::required(faults, &at.child(key), &service[key]);
    }
    let port = number(&service["port"]);
    let texts = amphipod_api::names::port_number(port);
    if !texts.is_empty() {
        let detail = format!("port is not valid: {}", texts.join(", "));
        faults.push(Error::invalid(&at.child("port"), port, detail));
    }
    if insecure && bundle != 0 {
        let detail = "may not be true if caBundle is present";
        faults.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, detail));
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, patched, stored};
    use serde_json::json;

    #[test]
    fn conditions_are_true_false_or_unknown() {
        let spec =
            json!({"group": "a.io", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15});
        let object = json!({"metadata": {"name": "v1.a.io"}, "spec": spec});
        let old = stored("apiregistration.k8s.io", "apiservices", object);
        let status = json!({"status": {"conditions": [{"type": "Available", "status": "True"}, {"type": "x", "status": "y"}]}});
        assert_eq!(
            patched("apiregistration.k8s.io", "apiservices", "status", &old, status).1,
            [
                "status.conditions[1].status: Unsupported value: \"y\": supported values: \"True\", \"False\", \"Unknown\""
            ]
        );
    }

    #[test]
    fn services_of_other_servers() {
        let named = |name: &str, spec| json!({"metadata": {"name": name}, "spec": spec});
        for (object, expected) in [
            (
                named(
                    "v1.a.io",
                    json!({"group": "a.io", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15, "service": {"name": "s", "namespace": "d"}}),
                ),
                vec![],
            ),
            (
                named(
                    "x",
                    json!({"version": "v2", "versionPriority": 1001, "insecureSkipTLSVerify": true, "caBundle": "AAAA"}),
                ),
                vec![
                    "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v2.\"",
                    "spec.group: Required value: only v1 may have an empty group and it better be legacy kube",
                    "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                    "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
                    "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
                    "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
                ],
            ),
        ] {
            assert_eq!(created("apiregistration.k8s.io", "apiservices", object), expected);
        }
    }
}
