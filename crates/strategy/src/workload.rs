//! The controllers that keep pods running: Deployment, ReplicaSet, ReplicationController,
//! DaemonSet, StatefulSet, and PodTemplate and ControllerRevision beside them.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{self, Faults};
use crate::contract::Context;
use crate::json::{
    at, copy, default, default_text, each, fields, is_empty, number, put, same, set, text, within,
};
use crate::kind::{Kind, PLAIN, SPEC_AND_STATUS};
use crate::metadata::NameRule;
use crate::pod::{defaults as pod_defaults, spec as pod_spec, warnings as pod_warnings};

pub static DEPLOYMENT: Kind = Kind {
    default: deployment_defaults,
    update: keep_labels_on_status,
    validate: deployment,
    validate_change: selector_fixed,
    validate_status: replica_status,
    warn: template_warnings,
    ..SPEC_AND_STATUS
};
pub static REPLICA_SET: Kind = Kind {
    default: replica_set_defaults,
    update: keep_labels_on_status,
    validate: replica_set,
    validate_change: selector_fixed,
    validate_status: replica_status,
    warn: template_warnings,
    ..SPEC_AND_STATUS
};
pub static REPLICATION_CONTROLLER: Kind = Kind {
    default: replication_controller_defaults,
    validate: replication_controller,
    validate_status: replica_status,
    warn: template_warnings,
    orphans: true,
    ..SPEC_AND_STATUS
};
pub static DAEMON_SET: Kind = Kind {
    default: daemon_set_defaults,
    update: daemon_set_update,
    validate: daemon_set,
    validate_change: selector_fixed,
    warn: template_warnings,
    ..SPEC_AND_STATUS
};
pub static STATEFUL_SET: Kind = Kind {
    name: NameRule::Label,
    default: stateful_set_defaults,
    validate: stateful_set,
    validate_change: stateful_set_change,
    warn: template_warnings,
    ..SPEC_AND_STATUS
};
pub static POD_TEMPLATE: Kind = Kind {
    generation: true,
    default: |object| within(object, "template", pod_defaults::template),
    validate: |object| {
        let mut faults = Faults::new();
        pod_spec::template(&mut faults, &Path::new("template"), &object["template"]);
        faults
    },
    ..PLAIN
};
pub static CONTROLLER_REVISION: Kind = Kind {
    validate: |object| {
        let mut faults = Faults::new();
        check::not_negative(&mut faults, &Path::new("revision"), &object["revision"]);
        if !set(&object["data"]) {
            faults.push(Error::required(&Path::new("data"), "data is mandatory"));
        }
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        check::immutable(&mut faults, &Path::new("data"), &new["data"], &old["data"]);
        faults
    },
    ..PLAIN
};

/// A status write of these does not change labels either.
fn keep_labels_on_status(context: &Context, object: &mut Value, old: &Value) {
    if context.subresource == "status" {
        copy(&mut object["metadata"], "labels", &old["metadata"]);
    }
}

fn template_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let path = Path::new("spec").child("template");
    let old = old.map(|old| at(old, &["spec", "template"]));
    pod_warnings::for_template(&path, at(object, &["spec", "template"]), old)
}

fn deployment_defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        within(spec, "template", pod_defaults::template);
        default(spec, "replicas", 1);
        within(spec, "strategy", |strategy| {
            default_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                within(strategy, "rollingUpdate", |rolling| {
                    default(rolling, "maxUnavailable", "25%");
                    default(rolling, "maxSurge", "25%");
                });
            }
        });
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
    });
    within(object, "status", |_| {});
}

fn replica_set_defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        within(spec, "template", pod_defaults::template);
        default(spec, "replicas", 1);
    });
    within(object, "status", |status| default(status, "replicas", 0));
}

fn replication_controller_defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        if set(&spec["template"]) {
            within(spec, "template", pod_defaults::template);
        }
        default(spec, "replicas", 1);
        let labels = at(spec, &["template", "metadata", "labels"]).clone();
        if is_empty(&spec["selector"]) && !is_empty(&labels) {
            put(spec, "selector", labels);
        }
    });
    let labels = at(object, &["spec", "template", "metadata", "labels"]).clone();
    if is_empty(at(object, &["metadata", "labels"])) && !is_empty(&labels) && object["metadata"].is_object() {
        put(&mut object["metadata"], "labels", labels);
    }
    within(object, "status", |status| default(status, "replicas", 0));
}

fn daemon_set_defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        within(spec, "template", pod_defaults::template);
        within(spec, "updateStrategy", |strategy| {
            default_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                within(strategy, "rollingUpdate", |rolling| {
                    default(rolling, "maxUnavailable", 1);
                    default(rolling, "maxSurge", 0);
                });
            }
        });
        default(spec, "revisionHistoryLimit", 10);
    });
    within(object, "status", |status| {
        for key in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
            default(status, key, 0);
        }
    });
}

fn stateful_set_defaults(object: &mut Value) {
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

/// Selector present, not empty, matching the template; the template itself.
fn selected_template(faults: &mut Faults, path: &Path, spec: &Value, what: &str) {
    let selector = &spec["selector"];
    let selector_path = path.child("selector");
    if set(selector) {
        check::label_selector(faults, &selector_path, selector);
        if check::selector_is_empty(selector) {
            let detail = format!("empty selector is invalid for {what}");
            faults.push(Error::invalid(&selector_path, selector.clone(), detail));
        }
    } else {
        faults.push(Error::required(&selector_path, ""));
    }
    let template_path = path.child("template");
    let labels = at(spec, &["template", "metadata", "labels"]);
    if set(selector) && !check::selector_is_empty(selector) && !check::selector_matches(selector, labels) {
        let detail = "`selector` does not match template `labels`";
        let shown = if set(labels) { labels.clone() } else { Value::Null };
        faults.push(Error::invalid(&template_path.child("metadata").child("labels"), shown, detail));
    }
    pod_spec::template(faults, &template_path, &spec["template"]);
    always_restarts(faults, &template_path, &spec["template"]);
}

fn always_restarts(faults: &mut Faults, path: &Path, template: &Value) {
    let spec_path = path.child("spec");
    let policy = at(template, &["spec", "restartPolicy"]);
    if text(policy) != "Always" {
        faults.push(Error::not_supported(&spec_path.child("restartPolicy"), text(policy), &["Always"]));
    }
    if set(at(template, &["spec", "activeDeadlineSeconds"])) {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        faults.push(Error::forbidden(&spec_path.child("activeDeadlineSeconds"), detail));
    }
}

fn deployment(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    check::not_negative(&mut faults, &path.child("replicas"), &spec["replicas"]);
    selected_template(&mut faults, &path, spec, "deployment");
    deployment_strategy(&mut faults, &path.child("strategy"), &spec["strategy"]);
    check::not_negative(&mut faults, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    check::not_negative(&mut faults, &path.child("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
    if set(&spec["progressDeadlineSeconds"]) {
        let seconds = number(&spec["progressDeadlineSeconds"]);
        let at = path.child("progressDeadlineSeconds");
        check::not_negative(&mut faults, &at, &spec["progressDeadlineSeconds"]);
        if seconds <= number(&spec["minReadySeconds"]) {
            faults.push(Error::invalid(&at, seconds, "must be greater than minReadySeconds"));
        }
    }
    faults
}

fn deployment_strategy(faults: &mut Faults, path: &Path, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    let at = path.child("rollingUpdate");
    match text(&strategy["type"]) {
        "Recreate" => {
            if set(rolling) {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                faults.push(Error::forbidden(&at, detail));
            }
        }
        "RollingUpdate" => rolling_update(faults, &at, rolling),
        other => {
            faults.push(Error::not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]));
        }
    }
}

fn rolling_update(faults: &mut Faults, path: &Path, rolling: &Value) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let unavailable_path = path.child("maxUnavailable");
    check::count_or_percent(faults, &unavailable_path, unavailable);
    check::count_or_percent(faults, &path.child("maxSurge"), surge);
    let amount = |value: &Value| check::percent(value).unwrap_or(number(value));
    if amount(unavailable) == 0 && amount(surge) == 0 {
        let detail = "may not be 0 when `maxSurge` is 0";
        faults.push(Error::invalid(&unavailable_path, unavailable.clone(), detail));
    }
    not_over_100(faults, &unavailable_path, unavailable);
}

fn not_over_100(faults: &mut Faults, path: &Path, value: &Value) {
    if check::percent(value).is_some_and(|percent| percent > 100) {
        faults.push(Error::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

fn selector_fixed(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec").child("selector");
    check::immutable(&mut faults, &path, &new["spec"]["selector"], &old["spec"]["selector"]);
    faults
}

fn replica_status(new: &Value, _old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    let status = &new["status"];
    let counts = [
        "replicas",
        "updatedReplicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "observedGeneration",
    ];
    for key in counts {
        check::not_negative(&mut faults, &path.child(key), &status[key]);
    }
    let replicas = number(&status["replicas"]);
    for key in ["updatedReplicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if number(&status[key]) > replicas {
            let value = number(&status[key]);
            faults.push(Error::invalid(&path.child(key), value, "cannot be greater than status.replicas"));
        }
    }
    if number(&status["availableReplicas"]) > number(&status["readyReplicas"]) {
        let value = number(&status["availableReplicas"]);
        let detail = "cannot be greater than readyReplicas";
        faults.push(Error::invalid(&path.child("availableReplicas"), value, detail));
    }
    faults
}

fn replica_set(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    check::not_negative(&mut faults, &path.child("replicas"), &spec["replicas"]);
    check::not_negative(&mut faults, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    selected_template(&mut faults, &path, spec, "deployment");
    faults
}

fn replication_controller(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    check::not_negative(&mut faults, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    if is_empty(&spec["selector"]) {
        faults.push(Error::required(&path.child("selector"), ""));
    }
    check::not_negative(&mut faults, &path.child("replicas"), &spec["replicas"]);
    let template_path = path.child("template");
    if !set(&spec["template"]) {
        faults.push(Error::required(&template_path, ""));
        return faults;
    }
    let labels = at(spec, &["template", "metadata", "labels"]);
    let matches = fields(&spec["selector"]).all(|(key, value)| labels[key] == *value);
    if !is_empty(&spec["selector"]) && !matches {
        let detail = "`selector` does not match template `labels`";
        faults.push(Error::invalid(&template_path.child("metadata").child("labels"), labels.clone(), detail));
    }
    pod_spec::template(&mut faults, &template_path, &spec["template"]);
    always_restarts(&mut faults, &template_path, &spec["template"]);
    faults
}

fn daemon_set_update(context: &Context, object: &mut Value, old: &Value) {
    if context.subresource == "status" {
        return;
    }
    // The server's own counter: it moves with the template.
    let before = number(&old["spec"]["templateGeneration"]);
    if before > 0 {
        let moved = i64::from(!same(&object["spec"]["template"], &old["spec"]["template"]));
        within(object, "spec", |spec| put(spec, "templateGeneration", before + moved));
    }
}

fn daemon_set(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    selected_template(&mut faults, &path, spec, "daemonset");
    check::not_negative(&mut faults, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    match text(&strategy["type"]) {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = &strategy["rollingUpdate"];
            let at = at.child("rollingUpdate");
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            for (key, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
                check::count_or_percent(&mut faults, &at.child(key), value);
                not_over_100(&mut faults, &at.child(key), value);
            }
            let amount = |value: &Value| check::percent(value).unwrap_or(number(value));
            match (amount(unavailable) > 0, amount(surge) > 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    faults.push(Error::invalid(&at.child("maxSurge"), surge.clone(), detail));
                }
                (false, false) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    faults.push(Error::invalid(&at.child("maxUnavailable"), unavailable.clone(), detail));
                }
                _ => {}
            }
        }
        other => {
            faults.push(Error::not_supported(&at.child("type"), other, &["OnDelete", "RollingUpdate"]));
        }
    }
    check::not_negative(&mut faults, &path.child("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
    faults
}

fn stateful_set(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    check::one_of(
        &mut faults,
        &path.child("podManagementPolicy"),
        &spec["podManagementPolicy"],
        &["OrderedReady", "Parallel"],
    );
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    check::one_of(&mut faults, &at.child("type"), &strategy["type"], &["OnDelete", "RollingUpdate"]);
    if strategy["type"] == "RollingUpdate" {
        let at = at.child("rollingUpdate");
        check::not_negative(&mut faults, &at.child("partition"), &strategy["rollingUpdate"]["partition"]);
        let unavailable = &strategy["rollingUpdate"]["maxUnavailable"];
        if set(unavailable) {
            check::count_or_percent(&mut faults, &at.child("maxUnavailable"), unavailable);
            if check::percent(unavailable).unwrap_or(number(unavailable)) == 0 {
                faults.push(Error::invalid(&at.child("maxUnavailable"), unavailable.clone(), "cannot be 0"));
            }
            not_over_100(&mut faults, &at.child("maxUnavailable"), unavailable);
        }
    }
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for key in ["whenDeleted", "whenScaled"] {
        let at = path.child("persistentVolumeClaimRetentionPolicy").child(key);
        check::one_of(&mut faults, &at, &retention[key], &["Delete", "Retain"]);
    }
    for key in ["replicas", "minReadySeconds"] {
        check::not_negative(&mut faults, &path.child(key), &spec[key]);
    }
    check::not_negative(&mut faults, &path.child("ordinals").child("start"), &spec["ordinals"]["start"]);
    let service = text(&spec["serviceName"]);
    if !service.is_empty() {
        let at = path.child("serviceName");
        check::invalid_each(&mut faults, &at, service, check::dns1123_subdomain(service));
    }
    selected_template(&mut faults, &path, spec, "statefulset");
    faults
}

fn stateful_set_change(new: &Value, old: &Value) -> Faults {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let mut munged = new["spec"].clone();
    for key in MUTABLE {
        copy(&mut munged, key, &old["spec"]);
    }
    let mut faults = Faults::new();
    if !same(&munged, &old["spec"]) {
        let text = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                    'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                    'minReadySeconds' are forbidden";
        faults.push(Error::forbidden(&Path::new("spec"), text));
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(faults: &Faults) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    fn deployment_object() -> Value {
        let mut object = json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        deployment_defaults(&mut object);
        object
    }

    #[test]
    fn a_good_deployment_passes() {
        let object = deployment_object();
        assert_eq!(texts(&deployment(&object)), Vec::<String>::new());
        assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        assert!(object["spec"]["template"]["spec"].get("enableServiceLinks").is_none());
    }

    #[test]
    fn faults_of_a_deployment() {
        let mut object = deployment_object();
        object["spec"]["template"]["metadata"]["labels"]["app"] = "x".into();
        object["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
        assert_eq!(
            texts(&deployment(&object)),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ]
        );
    }

    #[test]
    fn the_selector_is_fixed() {
        let old = deployment_object();
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"]["x"] = "y".into();
        assert_eq!(
            texts(&selector_fixed(&new, &old)),
            [
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"d\",\"x\":\"y\"}}: field is immutable"
            ]
        );
    }
}
