//! StatefulSet: numbered pods that keep their names and volumes.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults};
use crate::contract::Warnings;
use crate::json::{copy, default, default_text, each, int, items, number, put, same, set, text, within};
use crate::kind::{Kind, SPEC_AND_STATUS};
use crate::metadata::NameRule;
use crate::pod::{defaults as pod_defaults, spec as pod_spec, warnings as pod_warnings};
use crate::workload;

const IMMUTABLE_TEXT: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
     'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const STATUS_COUNTS: [&str; 7] = [
    "replicas",
    "readyReplicas",
    "currentReplicas",
    "updatedReplicas",
    "availableReplicas",
    "observedGeneration",
    "collisionCount",
];

pub static STATEFUL_SET: Kind = Kind {
    name: NameRule::Label,
    default: defaults,
    create: |_, object| workload::drop_fields(object, &Value::Null),
    update: |_, object, old| workload::drop_fields(object, old),
    validate: |object| spec_faults(object, true),
    revalidate: Some(change),
    validate_status: status,
    warn: warnings,
    ..SPEC_AND_STATUS
};

fn defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        within(spec, "template", pod_defaults::template);
        default_text(spec, "podManagementPolicy", "OrderedReady");
        default(spec, "serviceName", "");
        within(spec, "updateStrategy", |strategy| {
            default_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                within(strategy, "rollingUpdate", |rolling| {
                    default(rolling, "partition", 0);
                    default(rolling, "maxUnavailable", 1);
                });
            }
        });
        within(spec, "persistentVolumeClaimRetentionPolicy", |policy| {
            default_text(policy, "whenDeleted", "Retain");
            default_text(policy, "whenScaled", "Retain");
        });
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        each(spec, "volumeClaimTemplates", |claim| {
            put(claim, "apiVersion", "v1");
            put(claim, "kind", "PersistentVolumeClaim");
            within(claim, "metadata", |_| {});
            within(claim, "spec", pod_defaults::claim_spec);
            within(claim, "status", |status| default_text(status, "phase", "Pending"));
        });
    });
    within(object, "status", |status| {
        default(status, "replicas", 0);
        default(status, "availableReplicas", 0);
    });
}

/// Older objects may have a service's name and claim templates that new ones may not.
fn spec_faults(object: &Value, creating: bool) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let at = path.child("podManagementPolicy");
    match text(&spec["podManagementPolicy"]) {
        "" => faults.push(Error::required(&at, "")),
        "OrderedReady" | "Parallel" => {}
        other => faults.push(Error::invalid(&at, other, "must be 'OrderedReady' or 'Parallel'")),
    }
    update_strategy(&mut faults, &path.child("updateStrategy"), &spec["updateStrategy"]);
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for key in ["whenDeleted", "whenScaled"] {
        let at = path.child("persistentVolumeClaimRetentionPolicy").child(key);
        check::optional_one_of(&mut faults, &at, &retention[key], &["Retain", "Delete"]);
    }
    if creating {
        claim_templates(&mut faults, &path.child("volumeClaimTemplates"), spec);
    }
    for key in ["replicas", "minReadySeconds"] {
        check::not_negative(&mut faults, &path.child(key), &spec[key]);
    }
    check::not_negative(&mut faults, &path.child("ordinals").child("start"), &spec["ordinals"]["start"]);
    let service = text(&spec["serviceName"]);
    if creating && !service.is_empty() {
        let at = path.child("serviceName");
        check::invalid_each(&mut faults, &at, service, check::dns1123_label(service));
    }
    let template_path = path.child("template");
    if workload::selector(&mut faults, &path, spec, "statefulset", "") {
        workload::template_is_selected(&mut faults, &path, spec);
        pod_spec::template(&mut faults, &template_path, &numbered_template(spec));
    }
    workload::always_restarts(&mut faults, &template_path, &spec["template"], "StatefulSet");
    faults
}

fn claim_templates(faults: &mut Faults, path: &Path, spec: &Value) {
    for (i, claim) in items(&spec["volumeClaimTemplates"]).iter().enumerate() {
        crate::storage::claim_spec(faults, &path.index(i).child("spec"), &claim["spec"]);
    }
}

/// The template as its pods will have it: names of their own, the claims among the volumes.
fn numbered_template(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims = items(&spec["volumeClaimTemplates"]);
    within(&mut template, "spec", |pod| {
        for key in ["hostname", "subdomain"] {
            crate::json::remove(pod, key);
        }
        if claims.is_empty() {
            return;
        }
        let names: Vec<&str> = claims.iter().map(|claim| text(&claim["metadata"]["name"])).collect();
        let known: HashSet<&str> = names.iter().copied().collect();
        let mut volumes: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
            .collect();
        let own = items(&pod["volumes"]).iter();
        let others = own.filter(|volume| !known.contains(text(&volume["name"])));
        volumes.extend(others.cloned());
        put(pod, "volumes", volumes);
    });
    template
}

fn update_strategy(faults: &mut Faults, path: &Path, strategy: &Value) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "" => faults.push(Error::required(path, "")),
        "OnDelete" => {
            if set(rolling) {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                let fault = Error::invalid(&at, Value::Null, detail);
                faults.push(check::shown_text(fault, &rolling_as_shown(rolling)));
            }
        }
        "RollingUpdate" => {
            check::not_negative(faults, &at.child("partition"), &rolling["partition"]);
            let (unavailable, at) = (&rolling["maxUnavailable"], at.child("maxUnavailable"));
            if set(unavailable) {
                check::count_or_percent(faults, &at, unavailable);
                if workload::share(unavailable) == 0 {
                    faults.push(Error::invalid(&at, unavailable.clone(), "cannot be 0"));
                }
                workload::not_over_100(faults, &at, unavailable);
            }
        }
        kind => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            let fault = Error::invalid(path, Value::Null, detail);
            let rolling = if set(rolling) { rolling_as_shown(rolling) } else { "null".to_owned() };
            let shown = [("Type", Value::from(kind).to_string()), ("RollingUpdate", rolling)];
            faults.push(check::shown_text(fault, &check::as_shown(&shown)));
        }
    }
}

fn rolling_as_shown(rolling: &Value) -> String {
    let partition = number(&rolling["partition"]).into();
    check::as_shown(&[("Partition", &partition), ("MaxUnavailable", &rolling["maxUnavailable"])])
}

fn change(new: &Value, old: &Value) -> Faults {
    let mut faults = spec_faults(new, false);
    if !faults.is_empty() && !spec_faults(old, false).is_empty() {
        // What was stored with a bad template may be changed without mending it.
        faults.retain(|fault| !fault.field.starts_with("spec.template."));
    }
    let mut munged = new["spec"].clone();
    for key in MUTABLE {
        copy(&mut munged, key, &old["spec"]);
    }
    if !same(&munged, &old["spec"]) {
        faults.push(Error::forbidden(&Path::new("spec"), IMMUTABLE_TEXT));
    }
    faults
}

fn status(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    let status = &new["status"];
    for key in STATUS_COUNTS {
        check::not_negative(&mut faults, &path.child(key), &status[key]);
    }
    for key in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        workload::not_above_replicas(&mut faults, &path, status, key);
    }
    if number(&status["availableReplicas"]) > number(&status["readyReplicas"]) {
        let value = number(&status["availableReplicas"]);
        let detail = "cannot be greater than status.readyReplicas";
        faults.push(Error::invalid(&path.child("availableReplicas"), value, detail));
    }
    workload::collisions(&mut faults, new, old);
    faults
}

fn warnings(object: &Value, old: Option<&Value>) -> Warnings {
    let mut texts = workload::template_warnings(object, old);
    let path = Path::new("spec");
    for (i, claim) in items(&object["spec"]["volumeClaimTemplates"]).iter().enumerate() {
        let at = path.child("volumeClaimTemplates").index(i);
        // Only an update names the part.
        let at = if old.is_some() { at.child("Spec") } else { at };
        pod_warnings::claim_spec(&mut texts, &at, &claim["spec"]);
    }
    if int(&object["spec"]["revisionHistoryLimit"]).is_some_and(|limit| limit < 0) {
        texts.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .to_owned(),
        );
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Resource, creates, merged, stored, updates, warnings as hints};

    const STATEFUL_SETS: Resource = ("apps", "v1", "statefulsets");

    fn object() -> Value {
        json!({"metadata": {"name": "s", "namespace": "n", "uid": "u"}, "spec": {"serviceName": "s", "selector": {"matchLabels": {"app": "s"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"metadata": {"labels": {"app": "s"}}, "spec": {
                "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}}}})
    }

    #[test]
    fn faults() {
        creates(
            STATEFUL_SETS,
            &object(),
            &[
                (json!({}), &[]),
                (
                    json!({"metadata": {"name": "a.b"}, "spec": {"podManagementPolicy": "x", "serviceName": "a.b", "ordinals": {"start": -1}}}),
                    &[
                        "metadata.name: Invalid value: \"a.b\": must not contain dots",
                        "spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'",
                        "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
                        "spec.serviceName: Invalid value: \"a.b\": must not contain dots",
                    ],
                ),
                (
                    json!({"spec": {"updateStrategy": {"type": "X", "rollingUpdate": {"maxUnavailable": 1}}}}),
                    &[
                        "spec.updateStrategy: Invalid value: {\"Type\":\"X\",\"RollingUpdate\":{\"Partition\":0,\"MaxUnavailable\":1}}: must be 'RollingUpdate' or 'OnDelete'",
                    ],
                ),
                (
                    json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}}),
                    &[
                        "spec.updateStrategy.rollingUpdate: Invalid value: {\"Partition\":1,\"MaxUnavailable\":null}: only allowed for updateStrategy 'RollingUpdate'",
                    ],
                ),
                (
                    json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": -1, "maxUnavailable": 0}}, "persistentVolumeClaimRetentionPolicy": {"whenScaled": "x"}}}),
                    &[
                        "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
                        "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
                        "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"x\": supported values: \"Retain\", \"Delete\"",
                    ],
                ),
                (
                    json!({"spec": {"volumeClaimTemplates": []}}),
                    &["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""],
                ),
                (
                    json!({"spec": {"replicas": -1, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]}}),
                    &[
                        "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
                        "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                    ],
                ),
                (json!({"spec": {"template": {"spec": {"hostname": "A", "subdomain": "B"}}}}), &[]),
            ],
        );
    }

    #[test]
    fn what_may_change() {
        let old = stored(STATEFUL_SETS, &object());
        updates(
            STATEFUL_SETS,
            "",
            &old,
            &[
                (
                    json!({"spec": {"replicas": 3, "minReadySeconds": 1, "revisionHistoryLimit": 2, "ordinals": {"start": 1}}}),
                    &[],
                ),
                (json!({"spec": {"serviceName": "A"}}), &[&format!("spec: Forbidden: {IMMUTABLE_TEXT}")]),
            ],
        );
        updates(
            STATEFUL_SETS,
            "status",
            &old,
            &[(
                json!({"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}}),
                &[
                    "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                    "status.availableReplicas: Invalid value: 3: cannot be greater than status.readyReplicas",
                ],
            )],
        );
        let mut bad = old;
        bad["spec"]["template"]["spec"]["containers"][0]["image"] = "".into();
        bad["spec"]["volumeClaimTemplates"][0]["spec"]["accessModes"] = json!([]);
        updates(STATEFUL_SETS, "", &bad, &[(json!({"spec": {"replicas": 0}}), &[])]);
        assert_eq!(
            hints(STATEFUL_SETS, &merged(&object(), &json!({"spec": {"revisionHistoryLimit": -1}}))),
            [
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
            ]
        );
        let mut fraction = object();
        let claim = &mut fraction["spec"]["volumeClaimTemplates"][0]["spec"];
        claim["resources"]["requests"]["storage"] = "100m".into();
        let text =
            "resources.requests[storage]: fractional byte value \"100m\" is invalid, must be an integer";
        assert_eq!(hints(STATEFUL_SETS, &fraction), [format!("spec.volumeClaimTemplates[0].{text}")]);
        assert_eq!(
            warnings(&fraction, Some(&fraction)).into_iter().collect::<Vec<_>>(),
            [format!("spec.volumeClaimTemplates[0].Spec.{text}")]
        );
    }
}
