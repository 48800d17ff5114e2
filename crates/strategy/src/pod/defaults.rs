//! What a pod and a pod template get when the client leaves it out. Templates get less: a default
//! that only a pod needs would show up as a difference in every workload.

use amphipod_api::quantity::Quantity;
use serde_json::{Map, Value, json};

use super::resources::{aggregate, is_huge_page, quantity};
use crate::addresses::keep_in_step;
use crate::json::{
    at, copy, default, default_number, default_text, each, fields, is_empty, put, remove, set, text, truthy,
    with, within,
};

/// Files of a volume: rw-r--r--.
const FILE_MODE: i64 = 0o644;
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;
const NANOS_PER_MILLI: i128 = 1_000_000;

/// Defaults of a Pod object.
pub fn pod(object: &mut Value) {
    within(object, "spec", |spec| {
        pod_spec(spec);
        default(spec, "enableServiceLinks", true);
        for list in ["containers", "initContainers"] {
            each(spec, list, |container| within(container, "resources", limits_to_requests));
        }
        with(spec, "resources", canonical);
        pod_resources(spec);
        if truthy(&spec["hostNetwork"]) {
            for list in ["containers", "initContainers"] {
                each(spec, list, |container| each(container, "ports", host_port));
            }
        }
    });
    within(object, "status", |status| keep_in_step(status, "podIP", "podIPs", Some("ip")));
}

/// Amounts for the whole pod, where some are given: huge pages follow what the containers may use,
/// requests what the containers ask for or else the pod's limits.
fn pod_resources(spec: &mut Value) {
    let given = |spec: &Value, kind: &str| !is_empty(&spec["resources"][kind]);
    if given(spec, "limits") || given(spec, "requests") {
        for (name, sum) in aggregate(spec, "limits") {
            if is_huge_page(&name) {
                within(&mut spec["resources"], "limits", |l| default(l, &name, sum.to_string()));
            }
        }
    }
    if given(spec, "limits") {
        for (name, sum) in aggregate(spec, "requests") {
            if ["cpu", "memory"].contains(&name.as_str()) {
                within(&mut spec["resources"], "requests", |r| default(r, &name, sum.to_string()));
            }
        }
        let limits = spec["resources"]["limits"].clone();
        for (name, limit) in fields(&limits) {
            if ["cpu", "memory"].contains(&name) || is_huge_page(name) {
                within(&mut spec["resources"], "requests", |r| default(r, name, limit.clone()));
            }
        }
    }
}

/// Defaults of a `PodTemplateSpec`.
pub fn template(template: &mut Value) {
    within(template, "metadata", |_| {});
    within(template, "spec", pod_spec);
}

fn limits_to_requests(resources: &mut Value) {
    let limits = resources["limits"].clone();
    for (name, limit) in fields(&limits) {
        within(resources, "requests", |requests| default(requests, name, limit.clone()));
    }
}

fn pod_spec(spec: &mut Value) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default(spec, "securityContext", Map::new());
    default(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    // The two names of one field answer alike.
    if text(&spec["serviceAccountName"]).is_empty() && !text(&spec["serviceAccount"]).is_empty() {
        let name = spec["serviceAccount"].clone();
        put(spec, "serviceAccountName", name);
    }
    let names = json!({"serviceAccount": spec["serviceAccountName"]});
    copy(spec, "serviceAccount", &names);
    for flag in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[flag] == false {
            remove(spec, flag);
        }
    }
    each(spec, "volumes", volume);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list, container);
    }
    with(spec, "overhead", canonical_list);
}

fn host_port(port: &mut Value) {
    if is_empty(&port["hostPort"]) {
        let number = port["containerPort"].clone();
        put(port, "hostPort", number);
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(text(&container["image"]));
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", Map::new());
    with(container, "resources", canonical);
    each(container, "ports", |port| default_text(port, "protocol", "TCP"));
    each(container, "env", |env| {
        with(env, "valueFrom", |from| {
            with(from, "fieldRef", |field| default_text(field, "apiVersion", "v1"));
            with(from, "resourceFieldRef", |field| default(field, "divisor", "0"));
            with(from, "fileKeyRef", |file| default(file, "optional", false));
        });
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        with(container, name, probe);
    }
    with(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            with(lifecycle, hook, |handler| with(handler, "httpGet", http_get));
        }
    });
}

fn probe(probe: &mut Value) {
    default_number(probe, "timeoutSeconds", 1);
    default_number(probe, "periodSeconds", 10);
    default_number(probe, "successThreshold", 1);
    default_number(probe, "failureThreshold", 3);
    with(probe, "httpGet", http_get);
    with(probe, "grpc", |grpc| default(grpc, "service", ""));
}

fn http_get(action: &mut Value) {
    default_text(action, "path", "/");
    default_text(action, "scheme", "HTTP");
}

/// An image without a tag or with `latest` may have changed since it was pulled.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, ""), |(name, digest)| (name, digest));
    // A colon before a slash is a registry's port.
    let tag = match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "",
    };
    if tag == "latest" || (tag.is_empty() && digest.is_empty()) { "Always" } else { "IfNotPresent" }
}

/// Writes all quantities of `limits` and `requests` the way the server answers them.
fn canonical(resources: &mut Value) {
    with(resources, "limits", canonical_list);
    with(resources, "requests", canonical_list);
}
/// Amounts finer than a thousandth are rounded up.
pub fn canonical_list(list: &mut Value) {
    for value in list.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(quantity) = quantity(value).filter(|q| q.nanos() % NANOS_PER_MILLI != 0) {
            *value = Quantity::from_milli(quantity.milli(), quantity.format()).to_string().into();
        }
        canonical_quantity(value);
    }
}
pub fn canonical_quantity(value: &mut Value) {
    let written = match &*value {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => return,
    };
    if let Ok(quantity) = Quantity::parse(&written) {
        *value = quantity.to_string().into();
    }
}

fn volume(volume: &mut Value) {
    let has_source = fields(volume).any(|(key, value)| key != "name" && set(value));
    if !has_source {
        put(volume, "emptyDir", Map::new());
    }
    with(volume, "emptyDir", |source| {
        if let Some(limit) = source.get_mut("sizeLimit") {
            canonical_quantity(limit);
        }
    });
    for source in ["secret", "configMap", "projected"] {
        with(volume, source, |source| default(source, "defaultMode", FILE_MODE));
    }
    with(volume, "downwardAPI", |source| {
        default(source, "defaultMode", FILE_MODE);
        each(source, "items", downward_file);
    });
    with(volume, "projected", |projected| {
        each(projected, "sources", |source| {
            with(source, "serviceAccountToken", |token| {
                default(token, "expirationSeconds", TOKEN_EXPIRATION_SECONDS);
            });
            with(source, "downwardAPI", |downward| each(downward, "items", downward_file));
        });
    });
    with(volume, "hostPath", |source| default(source, "type", ""));
    with(volume, "iscsi", |source| default_text(source, "iscsiInterface", "default"));
    with(volume, "rbd", |source| {
        default_text(source, "pool", "rbd");
        default_text(source, "user", "admin");
        default_text(source, "keyring", "/etc/ceph/keyring");
    });
    with(volume, "azureDisk", |source| {
        default(source, "cachingMode", "ReadWrite");
        default(source, "kind", "Shared");
        default(source, "fsType", "ext4");
        default(source, "readOnly", false);
    });
    with(volume, "scaleIO", |source| {
        default_text(source, "storageMode", "ThinProvisioned");
        default_text(source, "fsType", "xfs");
    });
    let policy = pull_policy(text(at(volume, &["image", "reference"])));
    with(volume, "image", |source| default_text(source, "pullPolicy", policy));
    with(volume, "ephemeral", |source| {
        with(source, "volumeClaimTemplate", |template| {
            within(template, "metadata", |_| {});
            with(template, "spec", |spec| {
                default(spec, "volumeMode", "Filesystem");
                with(spec, "resources", canonical);
            });
        });
    });
}

fn downward_file(file: &mut Value) {
    with(file, "fieldRef", |field| default_text(field, "apiVersion", "v1"));
    with(file, "resourceFieldRef", |field| default(field, "divisor", "0"));
}

/// The claim spec's defaults, shared with volume claims themselves.
pub fn claim_spec(spec: &mut Value) {
    default(spec, "volumeMode", "Filesystem");
    within(spec, "resources", canonical);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:2", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_small_pod_comes_out_whole() {
        let mut object = json!({"spec": {"containers": [{"name": "c", "image": "x:1",
            "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}, "ports": [{"containerPort": 80}]}]}});
        pod(&mut object);
        let once = object.clone();
        pod(&mut object);
        assert_eq!(object, once, "defaulting is idempotent");
        assert_eq!(
            object["spec"],
            json!({
                "containers": [{
                    "name": "c", "image": "x:1", "imagePullPolicy": "IfNotPresent",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30
            })
        );
    }
}
