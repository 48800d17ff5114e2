//! The controllers that keep pods running: Deployment, ReplicaSet, ReplicationController, and
//! PodTemplate and ControllerRevision beside them; what DaemonSet and StatefulSet share with them.

use amphipod_api::field::{Error, Path};
use amphipod_api::selector::LabelSelector;
use serde_json::Value;

use crate::check::{self, Faults};
use crate::contract::Warnings;
use crate::json::{at, copy, default, default_text, fields, is_empty, number, put, set, text, with, within};
use crate::kind::{Kind, PLAIN, SPEC_AND_STATUS};
use crate::pod::{defaults as pod_defaults, dropped, spec as pod_spec, tolerated, warnings as pod_warnings};

const MISMATCH: &str = "`selector` does not match template `labels`";

pub static DEPLOYMENT: Kind = Kind {
    annotations_count: true,
    default: deployment_defaults,
    create: |_, object| drop_fields(object, &Value::Null),
    update: |context, object, old| {
        // A status write changes no labels either.
        if context.subresource == "status" {
            copy(&mut object["metadata"], "labels", &old["metadata"]);
        }
        drop_fields(object, old);
    },
    validate: deployment,
    revalidate: Some(|new, old| {
        let mut faults = forgiven(deployment, new, old);
        faults.extend(selector_fixed(new, old));
        faults
    }),
    validate_status: |new, old| {
        let mut faults = Faults::new();
        replica_status(&mut faults, &new["status"], &DEPLOYMENT_COUNTS);
        collisions(&mut faults, new, old);
        faults
    },
    warn: named_template_warnings,
    ..SPEC_AND_STATUS
};
pub static REPLICA_SET: Kind = Kind {
    default: replica_set_defaults,
    create: |_, object| drop_fields(object, &Value::Null),
    update: |_, object, old| drop_fields(object, old),
    validate: replica_set,
    revalidate: Some(|new, old| {
        let mut faults = forgiven(replica_set, new, old);
        faults.extend(selector_fixed(new, old));
        faults
    }),
    validate_status: |new, _| {
        let mut faults = Faults::new();
        replica_status(&mut faults, &new["status"], &REPLICA_SET_COUNTS);
        faults
    },
    warn: named_template_warnings,
    ..SPEC_AND_STATUS
};
pub static REPLICATION_CONTROLLER: Kind = Kind {
    default: replication_controller_defaults,
    create: |_, object| drop_fields(object, &Value::Null),
    update: |_, object, old| drop_fields(object, old),
    validate: replication_controller,
    revalidate: Some(|new, old| forgiven(replication_controller, new, old)),
    validate_status: |new, _| {
        let mut faults = Faults::new();
        replica_status(&mut faults, &new["status"], &REPLICA_SET_COUNTS);
        faults
    },
    warn: named_template_warnings,
    orphans: true,
    ..SPEC_AND_STATUS
};
pub static POD_TEMPLATE: Kind = Kind {
    generation: true,
    default: |object| within(object, "template", pod_defaults::template),
    create: |_, object| with(object, "template", |t| dropped::from_template(t, &Value::Null)),
    update: |_, object, old| with(object, "template", |t| dropped::from_template(t, &old["template"])),
    validate: pod_template,
    revalidate: Some(|new, old| forgiven(pod_template, new, old)),
    warn: |object, _| pod_warnings::for_template(&Path::new("template"), &object["template"]),
    ..PLAIN
};
pub static CONTROLLER_REVISION: Kind = Kind {
    validate: |object| {
        let mut faults = Faults::new();
        check::not_negative(&mut faults, &Path::new("revision"), &object["revision"]);
        let path = Path::new("data");
        match &object["data"] {
            Value::Null => faults.push(Error::required(&path, "data is mandatory")),
            Value::Object(_) => {}
            _ => faults.push(Error::required(&path, "data must be a valid JSON object")),
        }
        faults
    },
    revalidate: Some(|new, old| {
        let mut faults = Faults::new();
        check::not_negative(&mut faults, &Path::new("revision"), &new["revision"]);
        check::immutable(&mut faults, &Path::new("data"), &new["data"], &old["data"]);
        faults
    }),
    ..PLAIN
};

const DEPLOYMENT_COUNTS: [&str; 8] = [
    "observedGeneration",
    "replicas",
    "updatedReplicas",
    "readyReplicas",
    "availableReplicas",
    "unavailableReplicas",
    "terminatingReplicas",
    "collisionCount",
];
const REPLICA_SET_COUNTS: [&str; 6] = [
    "replicas",
    "fullyLabeledReplicas",
    "readyReplicas",
    "availableReplicas",
    "observedGeneration",
    "terminatingReplicas",
];

/// Takes fields of features that are off out of `spec.template`.
pub fn drop_fields(object: &mut Value, old: &Value) {
    let old = at(old, &["spec", "template"]);
    with(object, "spec", |spec| with(spec, "template", |template| dropped::from_template(template, old)));
}

/// The faults of `new` without those that the old object has the like of.
pub fn forgiven(judge: fn(&Value) -> Faults, new: &Value, old: &Value) -> Faults {
    let mut faults = judge(new);
    tolerated::forgive(&mut faults, || judge(old));
    faults
}

/// Hints about `spec.template`, unless the update left the spec as it was.
pub fn template_warnings(object: &Value, old: Option<&Value>) -> Warnings {
    let generation = |object: &Value| number(&object["metadata"]["generation"]);
    if old.is_some_and(|old| generation(old) == generation(object)) {
        return Warnings::new();
    }
    pod_warnings::for_template(&Path::new("spec").child("template"), at(object, &["spec", "template"]))
}

fn named_template_warnings(object: &Value, old: Option<&Value>) -> Warnings {
    let mut texts = Warnings::new();
    if old.is_none() {
        texts = pod_warnings::for_name(object, "Pod names and hostnames");
    }
    texts.extend(template_warnings(object, old));
    texts
}

fn pod_template(object: &Value) -> Faults {
    let mut faults = Faults::new();
    pod_spec::template(&mut faults, &Path::new("template"), &object["template"]);
    faults
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

/// A selector that is there and selects something; false where it cannot even be read, which
/// `unreadable` says.
pub fn selector(faults: &mut Faults, path: &Path, spec: &Value, what: &str, unreadable: &str) -> bool {
    let selector = &spec["selector"];
    let at = path.child("selector");
    if set(selector) {
        check::label_selector(faults, &at, selector);
        if check::selector_is_empty(selector) {
            let detail = format!("empty selector is invalid for {what}");
            faults.push(Error::invalid(&at, selector.clone(), detail));
        }
    } else {
        faults.push(Error::required(&at, ""));
    }
    let readable = LabelSelector::from_object(selector).is_ok();
    if !readable {
        faults.push(Error::invalid(&at, selector.clone(), unreadable));
    }
    readable
}

/// The template must carry the labels its owner looks for. No selector at all finds nothing.
pub fn template_is_selected(faults: &mut Faults, path: &Path, spec: &Value) {
    let selector = &spec["selector"];
    let labels = at(spec, &["template", "metadata", "labels"]);
    let selects_all = set(selector) && check::selector_is_empty(selector);
    if !selects_all && !check::selector_matches(selector, labels) {
        let at = path.child("template").child("metadata").child("labels");
        faults.push(Error::invalid(&at, labels.clone(), MISMATCH));
    }
}

/// Pods that are replaced when they end must not end of themselves.
pub fn always_restarts(faults: &mut Faults, path: &Path, template: &Value, kind: &str) {
    let spec_path = path.child("spec");
    let policy = at(template, &["spec", "restartPolicy"]);
    if text(policy) != "Always" {
        faults.push(Error::not_supported(&spec_path.child("restartPolicy"), text(policy), &["Always"]));
    }
    if set(at(template, &["spec", "activeDeadlineSeconds"])) {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        faults.push(Error::forbidden(&spec_path.child("activeDeadlineSeconds"), detail));
    }
}

/// Selector and template of a Deployment or ReplicaSet, whose texts do not tell them apart.
fn selected_template(faults: &mut Faults, path: &Path, spec: &Value) {
    if !selector(faults, path, spec, "deployment", "invalid label selector") {
        return;
    }
    template_is_selected(faults, path, spec);
    let template_path = path.child("template");
    pod_spec::template(faults, &template_path, &spec["template"]);
    always_restarts(faults, &template_path, &spec["template"], "ReplicaSet");
}

fn deployment(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    check::not_negative(&mut faults, &path.child("replicas"), &spec["replicas"]);
    selected_template(&mut faults, &path, spec);
    deployment_strategy(&mut faults, &path.child("strategy"), &spec["strategy"]);
    for key in ["minReadySeconds", "revisionHistoryLimit"] {
        check::not_negative(&mut faults, &path.child(key), &spec[key]);
    }
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

/// The refusal of a strategy of an unknown type; it shows the whole strategy.
pub fn unknown_strategy(path: &Path, strategy: &Value, known: &[&str]) -> Error {
    let fault = Error::not_supported(path, text(&strategy["type"]), known);
    let rolling = match &strategy["rollingUpdate"] {
        Value::Null => "null".to_owned(),
        rolling => {
            let limit = |key: &str| match &rolling[key] {
                Value::Null => Value::from(0),
                set => set.clone(),
            };
            check::as_shown(&[("MaxUnavailable", limit("maxUnavailable")), ("MaxSurge", limit("maxSurge"))])
        }
    };
    let shown = [("Type", strategy["type"].to_string()), ("RollingUpdate", rolling)];
    check::shown_text(fault, &check::as_shown(&shown))
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
        _ => faults.push(unknown_strategy(path, strategy, &["Recreate", "RollingUpdate"])),
    }
}

fn rolling_update(faults: &mut Faults, path: &Path, rolling: &Value) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let unavailable_path = path.child("maxUnavailable");
    check::count_or_percent(faults, &unavailable_path, unavailable);
    check::count_or_percent(faults, &path.child("maxSurge"), surge);
    if share(unavailable) == 0 && share(surge) == 0 {
        let detail = "may not be 0 when `maxSurge` is 0";
        faults.push(Error::invalid(&unavailable_path, unavailable.clone(), detail));
    }
    not_over_100(faults, &unavailable_path, unavailable);
}

/// The number of a count or of a percentage.
pub fn share(value: &Value) -> i64 {
    check::percent(value).unwrap_or_else(|| text(value).parse().unwrap_or(number(value)))
}

pub fn not_over_100(faults: &mut Faults, path: &Path, value: &Value) {
    if check::percent(value).is_some_and(|percent| percent > 100) {
        faults.push(Error::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

pub fn selector_fixed(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec").child("selector");
    check::immutable(&mut faults, &path, &new["spec"]["selector"], &old["spec"]["selector"]);
    faults
}

/// Counts of replicas: none negative, none above all, no more available than ready.
fn replica_status(faults: &mut Faults, status: &Value, counts: &[&str]) {
    let path = Path::new("status");
    for key in counts {
        check::not_negative(faults, &path.child(key), &status[*key]);
    }
    let parts = ["updatedReplicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    for key in parts.iter().filter(|key| counts.contains(key)) {
        not_above_replicas(faults, &path, status, key);
    }
    if number(&status["availableReplicas"]) > number(&status["readyReplicas"]) {
        let value = number(&status["availableReplicas"]);
        let detail = "cannot be greater than readyReplicas";
        faults.push(Error::invalid(&path.child("availableReplicas"), value, detail));
    }
}

pub fn not_above_replicas(faults: &mut Faults, path: &Path, status: &Value, key: &str) {
    if number(&status[key]) > number(&status["replicas"]) {
        let value = number(&status[key]);
        faults.push(Error::invalid(&path.child(key), value, "cannot be greater than status.replicas"));
    }
}

/// Names that were taken stay counted.
pub fn collisions(faults: &mut Faults, new: &Value, old: &Value) {
    let (now, then) = (&new["status"]["collisionCount"], &old["status"]["collisionCount"]);
    if set(then) && number(now) < number(then) || (set(then) && !set(now)) {
        let at = Path::new("status").child("collisionCount");
        faults.push(Error::invalid(&at, number(now), "cannot be decremented"));
    }
}

fn replica_set(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    for key in ["replicas", "minReadySeconds"] {
        check::not_negative(&mut faults, &path.child(key), &spec[key]);
    }
    selected_template(&mut faults, &path, spec);
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
    if fields(&spec["selector"]).any(|(key, value)| labels[key] != *value) {
        let at = template_path.child("metadata").child("labels");
        faults.push(Error::invalid(&at, labels.clone(), MISMATCH));
    }
    pod_spec::template(&mut faults, &template_path, &spec["template"]);
    always_restarts(&mut faults, &template_path, &spec["template"], "ReplicationController");
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{
        Resource, context, created, creates, merged, stored, strategy, updated, updates, warnings,
    };

    const DEPLOYMENTS: Resource = ("apps", "v1", "deployments");
    const REPLICA_SETS: Resource = ("apps", "v1", "replicasets");
    const REPLICATION_CONTROLLERS: Resource = ("", "v1", "replicationcontrollers");
    const REVISIONS: Resource = ("apps", "v1", "controllerrevisions");

    fn deployment_object() -> Value {
        json!({"metadata": {"name": "d", "namespace": "n", "uid": "u"}, "spec": {"selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn a_good_deployment_is_filled() {
        let object = stored(DEPLOYMENTS, &deployment_object());
        assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        assert!(object["spec"]["template"]["spec"].get("enableServiceLinks").is_none());
        let host_network = json!({"spec": {"template": {"spec": {"hostNetwork": true,
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}});
        let object = stored(DEPLOYMENTS, &merged(&deployment_object(), &host_network));
        let port = &object["spec"]["template"]["spec"]["containers"][0]["ports"][0];
        assert_eq!(*port, json!({"containerPort": 80, "protocol": "TCP"}));
    }

    #[test]
    fn an_unknown_strategy_is_shown_whole() {
        creates(
            DEPLOYMENTS,
            &deployment_object(),
            &[(
                json!({"spec": {"strategy": {"type": "Slow", "rollingUpdate": {"maxSurge": 1}}}}),
                &[
                    "spec.strategy: Unsupported value: {\"Type\":\"Slow\",\"RollingUpdate\":{\"MaxUnavailable\":0,\"MaxSurge\":1}}: supported values: \"Recreate\", \"RollingUpdate\"",
                ],
            )],
        );
    }

    #[test]
    fn faults_of_a_deployment() {
        creates(
            DEPLOYMENTS,
            &deployment_object(),
            &[
                (
                    json!({"spec": {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {"restartPolicy": "Never", "activeDeadlineSeconds": 5}}}}),
                    &[
                        "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
                        "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                        "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
                    ],
                ),
                (
                    json!({"spec": {"selector": null}}),
                    &[
                        "spec.selector: Required value",
                        "spec.template.metadata.labels: Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`",
                    ],
                ),
                (
                    json!({"spec": {"selector": {"matchLabels": null}}}),
                    &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
                ),
                (
                    json!({"spec": {"replicas": -1, "minReadySeconds": 700, "revisionHistoryLimit": -1}}),
                    &[
                        "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                        "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                        "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
                    ],
                ),
                (
                    json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": {}}}}),
                    &[
                        "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                    ],
                ),
                (
                    json!({"spec": {"strategy": {"type": "Slow"}}}),
                    &[
                        "spec.strategy: Unsupported value: {\"Type\":\"Slow\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
                    ],
                ),
                (
                    json!({"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": "0%", "maxSurge": 0}}}}),
                    &[
                        "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
                    ],
                ),
                (
                    json!({"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": "101%", "maxSurge": "x"}}}}),
                    &[
                        "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                        "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                    ],
                ),
                (
                    json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "e", "image": "i"}]}}}}),
                    &[
                        "spec.template.spec.containers[0].image: Required value",
                        "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn updates_of_a_deployment() {
        let old = stored(DEPLOYMENTS, &deployment_object());
        let selector = json!({"spec": {"selector": {"matchLabels": {"x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}});
        updates(
            DEPLOYMENTS,
            "",
            &old,
            &[
                (json!({}), &[]),
                (json!({"spec": {"replicas": 3}}), &[]),
                (
                    selector,
                    &[
                        "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"d\",\"x\":\"y\"}}: field is immutable",
                    ],
                ),
            ],
        );
        updates(
            DEPLOYMENTS,
            "status",
            &merged(&old, &json!({"status": {"collisionCount": 2}})),
            &[
                (json!({"status": {"replicas": 2, "readyReplicas": 1, "availableReplicas": 1}}), &[]),
                (
                    json!({"status": {"replicas": 1, "updatedReplicas": 2, "readyReplicas": -1, "availableReplicas": 1, "collisionCount": 1}}),
                    &[
                        "status.readyReplicas: Invalid value: -1: must be greater than or equal to 0",
                        "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
                        "status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
                        "status.collisionCount: Invalid value: 1: cannot be decremented",
                    ],
                ),
            ],
        );
        let annotated = merged(&old, &json!({"metadata": {"annotations": {"a": "b"}}}));
        assert_eq!(updated(DEPLOYMENTS, "", &old, &annotated).0["metadata"]["generation"], 2);
        let status = json!({"metadata": {"labels": {"not": "taken"}}, "spec": {"replicas": 9}});
        let (new, _) = updated(DEPLOYMENTS, "status", &old, &merged(&old, &status));
        assert_eq!(new, old, "a status write leaves labels and spec alone");
    }

    #[test]
    fn hints_carry_the_path_of_the_template() {
        let object = merged(
            &deployment_object(),
            &json!({"metadata": {"name": "d.e"},
            "spec": {"template": {"spec": {"nodeSelector": {"beta.kubernetes.io/arch": "x"}}}}}),
        );
        let hint = "spec.template.spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; use \"kubernetes.io/arch\" instead";
        assert_eq!(
            warnings(DEPLOYMENTS, &object),
            [
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                hint,
            ]
        );
        let old = stored(DEPLOYMENTS, &object);
        let hints = |new: &Value| strategy(DEPLOYMENTS).warnings(&context(DEPLOYMENTS, ""), new, Some(&old));
        assert_eq!(*hints(&old), Vec::<String>::new());
        assert_eq!(*hints(&merged(&old, &json!({"metadata": {"generation": 2}}))), [hint]);
    }

    #[test]
    fn what_a_template_was_accepted_with_may_stay() {
        let mut old = stored(DEPLOYMENTS, &deployment_object());
        old["spec"]["template"]["metadata"]["annotations"] =
            json!({"controller.kubernetes.io/pod-deletion-cost": "x"});
        updates(DEPLOYMENTS, "", &old, &[(json!({"spec": {"replicas": 2}}), &[])]);
        let (_, faults) = created(DEPLOYMENTS, &old);
        assert_eq!(
            faults,
            [
                "spec.template.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"x\": must be a 32bit integer"
            ]
        );
    }

    #[test]
    fn other_owners_of_pods() {
        creates(
            REPLICA_SETS,
            &deployment_object(),
            &[(
                json!({"spec": {"minReadySeconds": -1, "selector": {"matchLabels": {"app": "z"}}}}),
                &[
                    "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`",
                ],
            )],
        );
        let controller = merged(&deployment_object(), &json!({"spec": {"selector": null}}));
        assert_eq!(stored(REPLICATION_CONTROLLERS, &controller)["spec"]["selector"], json!({"app": "d"}));
        creates(
            REPLICATION_CONTROLLERS,
            &controller,
            &[
                (
                    json!({"spec": {"template": null}}),
                    &["spec.selector: Required value", "spec.template: Required value"],
                ),
                (
                    json!({"spec": {"selector": {"a": "b"}, "template": {"spec": {"activeDeadlineSeconds": 1}}}}),
                    &[
                        "spec.template.metadata.labels: Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`",
                        "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported",
                    ],
                ),
            ],
        );
        let revision = json!({"metadata": {"name": "r", "namespace": "n"}, "revision": 1, "data": {"a": 1}});
        creates(
            REVISIONS,
            &revision,
            &[
                (json!({}), &[]),
                (
                    json!({"revision": -1, "data": null}),
                    &[
                        "revision: Invalid value: -1: must be greater than or equal to 0",
                        "data: Required value: data is mandatory",
                    ],
                ),
            ],
        );
        updates(
            REVISIONS,
            "",
            &revision,
            &[
                (json!({"revision": 2}), &[]),
                (json!({"data": {"a": 2}}), &["data: Invalid value: {\"a\":2}: field is immutable"]),
            ],
        );
    }
}
