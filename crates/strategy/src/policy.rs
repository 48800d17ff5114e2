//! PriorityClass, PodDisruptionBudget and RuntimeClass.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults};
use crate::conditions;
use crate::json::{default, default_text, fields, items, number, remove, set, text, truthy, with, within};
use crate::kind::{Kind, PLAIN, SPEC_AND_STATUS};
use crate::metadata::NameRule;
use crate::node::old_label;
use crate::pod::defaults::canonical_list;
use crate::pod::{resources, scheduling};
use crate::workload;

const SYSTEM_PRIORITY_MIN: i64 = 2_000_000_000;
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", SYSTEM_PRIORITY_MIN), ("system-node-critical", SYSTEM_PRIORITY_MIN + 1000)];

pub static PRIORITY_CLASS: Kind = Kind {
    generation: true,
    default: |object| {
        default(object, "value", 0);
        default_text(object, "preemptionPolicy", "PreemptLowerPriority");
        if object["globalDefault"] == false {
            remove(object, "globalDefault");
        }
    },
    validate: priority_class,
    revalidate: Some(|new, old| {
        let mut faults = Faults::new();
        if number(&new["value"]) != number(&old["value"]) {
            faults.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let at = Path::new("preemptionPolicy");
        check::immutable(&mut faults, &at, &new["preemptionPolicy"], &old["preemptionPolicy"]);
        faults
    }),
    ..PLAIN
};
pub static RUNTIME_CLASS: Kind = Kind {
    create_on_update: true,
    unconditional_update: false,
    default: |object| with(object, "overhead", |overhead| with(overhead, "podFixed", canonical_list)),
    validate: runtime_class,
    validate_change: |new, old| {
        let mut faults = Faults::new();
        check::immutable_text(&mut faults, &Path::new("handler"), &new["handler"], &old["handler"]);
        faults
    },
    warn: |object, _| {
        let path = Path::new("scheduling").child("nodeSelector");
        fields(&object["scheduling"]["nodeSelector"])
            .filter_map(|(key, _)| old_label(key))
            .map(|hint| format!("{path}: {hint}"))
            .collect()
    },
    ..PLAIN
};
// Nothing but what holds for all objects is asked of a budget's metadata.
pub static POD_DISRUPTION_BUDGET: Kind = Kind {
    name: NameRule::PathSegment,
    short_finalizers: true,
    unconditional_update: false,
    default: |object| {
        within(object, "status", |status| {
            for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                default(status, key, 0);
            }
        });
    },
    validate: disruption_budget,
    validate_status: budget_status,
    ..SPEC_AND_STATUS
};

fn priority_class(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let name = text(&object["metadata"]["name"]);
    let value = number(&object["value"]);
    if name.starts_with("system-") {
        if let Some(why) = not_a_system_class(name, value, truthy(&object["globalDefault"])) {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            );
            faults.push(Error::forbidden(&Path::new("metadata").child("name"), detail));
        }
    } else if value > USER_PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        faults.push(Error::forbidden(&Path::new("value"), detail));
    }
    if set(&object["preemptionPolicy"]) {
        let policies = ["Never", "PreemptLowerPriority"];
        let at = Path::new("preemptionPolicy");
        check::one_of(&mut faults, &at, &object["preemptionPolicy"], &policies);
    }
    faults
}

fn not_a_system_class(name: &str, value: i64, global: bool) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|(class, _)| *class == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, fixed)) if *fixed != value => Some(format!("value of {name} PriorityClass must be {fixed}")),
        Some(_) if global => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

fn runtime_class(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let handler = text(&object["handler"]);
    check::invalid_each(&mut faults, &Path::new("handler"), handler, check::dns1123_label(handler));
    let limits = json!({"limits": object["overhead"]["podFixed"]});
    resources::requirements(&mut faults, &Path::new("overhead"), &limits, &Value::Null, false);
    let path = Path::new("scheduling");
    let (selector, tolerations) =
        (&object["scheduling"]["nodeSelector"], &object["scheduling"]["tolerations"]);
    check::labels(&mut faults, &path.child("nodeSelector"), selector);
    let at = path.child("tolerations");
    // Upstream names the field twice.
    scheduling::tolerations(&mut faults, &at.child("tolerations"), tolerations);
    let mut seen = HashSet::new();
    for (i, toleration) in items(tolerations).iter().enumerate() {
        let kind = scheduling::toleration_kind(toleration);
        if !seen.insert(kind) {
            let [key, operator, value, effect] = kind.map(Value::from);
            let shown = [
                ("Key", key),
                ("Operator", operator),
                ("Value", value),
                ("Effect", effect),
                ("TolerationSeconds", toleration["tolerationSeconds"].clone()),
            ];
            faults.push(check::shown_as(Error::duplicate(&at.index(i), Value::Null), &shown));
        }
    }
    faults
}

fn disruption_budget(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let (least, most) = (&spec["minAvailable"], &spec["maxUnavailable"]);
    if set(least) && set(most) {
        let shown = [
            ("MinAvailable", least.clone()),
            ("Selector", spec["selector"].clone()),
            ("MaxUnavailable", most.clone()),
            ("UnhealthyPodEvictionPolicy", spec["unhealthyPodEvictionPolicy"].clone()),
        ];
        let fault = Error::invalid(&path, Value::Null, "minAvailable and maxUnavailable cannot be both set");
        faults.push(check::shown_as(fault, &shown));
    }
    for (key, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        if set(value) {
            check::count_or_percent(&mut faults, &path.child(key), value);
            workload::not_over_100(&mut faults, &path.child(key), value);
        }
    }
    check::label_selector(&mut faults, &path.child("selector"), &spec["selector"]);
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    let at = path.child("unhealthyPodEvictionPolicy");
    check::optional_one_of(&mut faults, &at, &spec["unhealthyPodEvictionPolicy"], &policies);
    faults
}

fn budget_status(new: &Value, _: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    let status = &new["status"];
    conditions::check(&mut faults, &path.child("conditions"), &status["conditions"]);
    for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        check::not_negative(&mut faults, &path.child(key), &status[key]);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::REASON_TEXT;
    use crate::testing::{Resource, creates, merged, stored, updates};

    const PRIORITY_CLASSES: Resource = ("scheduling.k8s.io", "v1", "priorityclasses");
    const BUDGETS: Resource = ("policy", "v1", "poddisruptionbudgets");
    const RUNTIME_CLASSES: Resource = ("node.k8s.io", "v1", "runtimeclasses");

    #[test]
    fn priorities() {
        let reserved = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: ";
        let class = json!({"metadata": {"name": "mine"}, "value": 1});
        creates(
            PRIORITY_CLASSES,
            &class,
            &[
                (json!({"value": 1_000_000_000}), &[]),
                (
                    json!({"value": 1_000_000_001}),
                    &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
                ),
                (json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}), &[]),
                (
                    json!({"metadata": {"name": "system-node-critical"}}),
                    &[&format!("{reserved}value of system-node-critical PriorityClass must be 2000001000")],
                ),
                (
                    json!({"metadata": {"name": "system-x"}}),
                    &[&format!("{reserved}system-x is not a known system priority class")],
                ),
                (
                    json!({"preemptionPolicy": "x"}),
                    &[
                        "preemptionPolicy: Unsupported value: \"x\": supported values: \"Never\", \"PreemptLowerPriority\"",
                    ],
                ),
            ],
        );
        updates(
            PRIORITY_CLASSES,
            "",
            &stored(PRIORITY_CLASSES, &class),
            &[(
                json!({"value": 2, "preemptionPolicy": "Never", "description": "d"}),
                &[
                    "value: Forbidden: may not be changed in an update.",
                    "preemptionPolicy: Invalid value: \"Never\": field is immutable",
                ],
            )],
        );
    }

    #[test]
    fn budgets() {
        let budget =
            json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"minAvailable": 1, "selector": {}}});
        creates(
            BUDGETS,
            &budget,
            &[
                (json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}), &[]),
                (
                    json!({"spec": {"minAvailable": "101%", "maxUnavailable": -1, "unhealthyPodEvictionPolicy": "x"}}),
                    &[
                        "spec: Invalid value: {\"MinAvailable\":\"101%\",\"Selector\":{},\"MaxUnavailable\":-1,\"UnhealthyPodEvictionPolicy\":\"x\"}: minAvailable and maxUnavailable cannot be both set",
                        "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
                        "spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
                        "spec.unhealthyPodEvictionPolicy: Unsupported value: \"x\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
                    ],
                ),
                (json!({"metadata": {"name": "A_b"}}), &[]),
            ],
        );
        let time = "2026-01-01T00:00:00Z";
        let condition = json!({"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "lastTransitionTime": time});
        updates(
            BUDGETS,
            "status",
            &stored(BUDGETS, &budget),
            &[
                (json!({"status": {"conditions": [condition]}}), &[]),
                (
                    json!({"status": {"expectedPods": -1, "conditions": [condition, {"type": "DisruptionAllowed", "status": "Maybe", "reason": "1"}]}}),
                    &[
                        "status.conditions[1].type: Duplicate value: \"DisruptionAllowed\"",
                        "status.conditions[1].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
                        "status.conditions[1].lastTransitionTime: Required value",
                        &format!("status.conditions[1].reason: Invalid value: \"1\": {REASON_TEXT}"),
                        "status.expectedPods: Invalid value: -1: must be greater than or equal to 0",
                    ],
                ),
                (
                    json!({"status": {"conditions": [merged(&condition, &json!({"reason": ""}))]}}),
                    &["status.conditions[0].reason: Required value"],
                ),
            ],
        );
    }

    #[test]
    fn runtime_classes() {
        let class = json!({"metadata": {"name": "r"}, "handler": "h"});
        let toleration = json!({"key": "a", "operator": "Exists"});
        creates(
            RUNTIME_CLASSES,
            &class,
            &[
                (
                    json!({"overhead": {"podFixed": {"cpu": "1m"}}, "scheduling": {"tolerations": [toleration]}}),
                    &[],
                ),
                (
                    json!({"handler": "a.b", "overhead": {"podFixed": {"cpu": "-1"}}, "scheduling": {"tolerations": [toleration, {"key": "a", "operator": "Exists", "tolerationSeconds": 1}]}}),
                    &[
                        "handler: Invalid value: \"a.b\": must not contain dots",
                        "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                        "scheduling.tolerations.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                        "scheduling.tolerations[1]: Duplicate value: {\"Key\":\"a\",\"Operator\":\"Exists\",\"Value\":\"\",\"Effect\":\"\",\"TolerationSeconds\":1}",
                    ],
                ),
            ],
        );
        updates(
            RUNTIME_CLASSES,
            "",
            &stored(RUNTIME_CLASSES, &class),
            &[
                (json!({"handler": "i"}), &["handler: Invalid value: \"i\": field is immutable"]),
                (
                    json!({"overhead": {"podFixed": {"cpu": "-1"}}, "scheduling": {"nodeSelector": {"a": "-"}}}),
                    &[
                        "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                        "scheduling.nodeSelector: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                    ],
                ),
            ],
        );
    }
}
