//! DaemonSet: one pod on each node.

use amphipod_api::field::{Error, Path};
use amphipod_api::selector::LabelSelector;
use serde_json::Value;

use crate::check::{self, Faults};
use crate::json::{default, default_text, put, same, set, text, within};
use crate::kind::{Kind, SPEC_AND_STATUS};
use crate::pod::{defaults as pod_defaults, spec as pod_spec};
use crate::workload;

/// Where the API keeps the number of the template since the field for it went away.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub static DAEMON_SET: Kind = Kind {
    default: defaults,
    create: |_, object| {
        number_template(object, 1);
        workload::drop_fields(object, &Value::Null);
    },
    update: |context, object, old| {
        workload::drop_fields(object, old);
        if context.subresource.is_empty() {
            let moved = !same(&object["spec"]["template"], &old["spec"]["template"]);
            number_template(object, template_generation(old) + i64::from(moved));
        }
    },
    validate: daemon_set,
    revalidate: Some(|new, old| {
        let mut faults = workload::selector_fixed(new, old);
        faults.extend(workload::forgiven(daemon_set, new, old));
        faults
    }),
    validate_status: |new, old| {
        let mut faults = Faults::new();
        for key in STATUS_COUNTS {
            check::not_negative(&mut faults, &Path::new("status").child(key), &new["status"][key]);
        }
        workload::collisions(&mut faults, new, old);
        faults
    },
    warn: workload::template_warnings,
    ..SPEC_AND_STATUS
};

const STATUS_COUNTS: [&str; 9] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

fn template_generation(object: &Value) -> i64 {
    text(&object["metadata"]["annotations"][TEMPLATE_GENERATION]).parse().unwrap_or(0)
}

fn number_template(object: &mut Value, least: i64) {
    within(object, "metadata", |metadata| {
        within(metadata, "annotations", |annotations| {
            put(annotations, TEMPLATE_GENERATION, least.max(1).to_string());
        });
    });
}

fn defaults(object: &mut Value) {
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

fn daemon_set(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let selector = &spec["selector"];
    check::label_selector(&mut faults, &path.child("selector"), selector);
    if LabelSelector::from_object(selector).is_ok() {
        workload::template_is_selected(&mut faults, &path, spec);
    }
    if set(selector) && check::selector_is_empty(selector) {
        let detail = "empty selector is invalid for daemonset";
        faults.push(Error::invalid(&path.child("selector"), selector.clone(), detail));
    }
    let template_path = path.child("template");
    pod_spec::template(&mut faults, &template_path, &spec["template"]);
    workload::always_restarts(&mut faults, &template_path, &spec["template"], "DaemonSet");
    check::not_negative(&mut faults, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    update_strategy(&mut faults, &path.child("updateStrategy"), &spec["updateStrategy"]);
    check::not_negative(&mut faults, &path.child("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
    faults
}

fn update_strategy(faults: &mut Faults, path: &Path, strategy: &Value) {
    match text(&strategy["type"]) {
        "OnDelete" => {}
        "RollingUpdate" => rolling_update(faults, &path.child("rollingUpdate"), &strategy["rollingUpdate"]),
        _ => faults.push(workload::unknown_strategy(path, strategy, &["RollingUpdate", "OnDelete"])),
    }
}

/// Exactly one of the two ways to roll.
fn rolling_update(faults: &mut Faults, path: &Path, rolling: &Value) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let (unavailable_path, surge_path) = (path.child("maxUnavailable"), path.child("maxSurge"));
    check::count_or_percent(faults, &unavailable_path, unavailable);
    check::count_or_percent(faults, &surge_path, surge);
    workload::not_over_100(faults, &unavailable_path, unavailable);
    workload::not_over_100(faults, &surge_path, surge);
    match (workload::share(unavailable) != 0, workload::share(surge) != 0) {
        (true, true) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            faults.push(Error::invalid(&surge_path, surge.clone(), detail));
        }
        (false, false) => {
            faults.push(Error::required(&unavailable_path, "cannot be 0 when maxSurge is 0"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Resource, creates, merged, stored, updated, updates};

    const DAEMON_SETS: Resource = ("apps", "v1", "daemonsets");

    fn object() -> Value {
        json!({"metadata": {"name": "d", "namespace": "n", "uid": "u"}, "spec": {"selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn faults() {
        creates(
            DAEMON_SETS,
            &object(),
            &[
                (
                    json!({"spec": {"selector": null}}),
                    &[
                        "spec.template.metadata.labels: Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`",
                    ],
                ),
                (
                    json!({"spec": {"selector": {"matchLabels": null}}}),
                    &["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
                ),
                (
                    json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}}),
                    &[
                        "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
                    ],
                ),
                (
                    json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}}),
                    &[
                        "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                    ],
                ),
                (
                    json!({"spec": {"updateStrategy": {"type": "x"}}}),
                    &[
                        "spec.updateStrategy: Unsupported value: {\"Type\":\"x\",\"RollingUpdate\":null}: supported values: \"RollingUpdate\", \"OnDelete\"",
                    ],
                ),
                (
                    json!({"spec": {"template": {"spec": {"activeDeadlineSeconds": 1}}}}),
                    &[
                        "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn templates_are_numbered() {
        let old = stored(DAEMON_SETS, &object());
        let number = |object: &Value| object["metadata"]["annotations"][TEMPLATE_GENERATION].clone();
        assert_eq!(number(&old), "1");
        let (same, _) =
            updated(DAEMON_SETS, "", &old, &merged(&old, &json!({"metadata": {"annotations": null}})));
        assert_eq!(number(&same), "1");
        let template = json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}});
        let (moved, _) = updated(DAEMON_SETS, "", &old, &merged(&old, &template));
        assert_eq!((number(&moved), &moved["metadata"]["generation"]), ("2".into(), &json!(2)));
        updates(
            DAEMON_SETS,
            "status",
            &old,
            &[(
                json!({"status": {"numberReady": -1}}),
                &["status.numberReady: Invalid value: -1: must be greater than or equal to 0"],
            )],
        );
    }
}
