//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::{Map, Value};

use super::{FAILURE_POLICIES, MATCH_POLICIES, rules};
use crate::check::{self, Faults};
use crate::domains::{fully_qualified_name, webhook_client};
use crate::json::{default, default_number, default_text, each, int, items, same, set, text, with};
use crate::kind::{Kind, PLAIN};

const REVIEW_VERSIONS: &str = "v1, v1beta1";
const SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const ALL_SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const SELECTORS: [&str; 2] = ["namespaceSelector", "objectSelector"];

pub static WEBHOOKS: Kind = Kind {
    short_finalizers: true,
    unconditional_update: false,
    generation: true,
    default: |object| {
        // Only the mutating kind calls hooks again.
        let mutating = object["kind"] == "MutatingWebhookConfiguration";
        each(object, "webhooks", |webhook| {
            default_text(webhook, "failurePolicy", "Fail");
            default_text(webhook, "matchPolicy", "Equivalent");
            default(webhook, "namespaceSelector", Map::new());
            default(webhook, "objectSelector", Map::new());
            default(webhook, "timeoutSeconds", 10);
            if mutating {
                default_text(webhook, "reinvocationPolicy", "Never");
            }
            with(webhook, "clientConfig", |client| {
                with(client, "service", |service| default_number(service, "port", 443));
            });
            each(webhook, "rules", |rule| default_text(rule, "scope", "*"));
        });
    },
    validate: |object| webhooks(object, &Demands::of_new()),
    revalidate: Some(|new, old| webhooks(new, &Demands::beside(new, old))),
    ..PLAIN
};

/// What is asked of hooks. Configurations that were accepted when less was asked may go on so.
struct Demands {
    no_side_effects: bool,
    known_versions: bool,
    unique_names: bool,
    conditions: bool,
    selectors: bool,
}

impl Demands {
    fn of_new() -> Self {
        Demands {
            no_side_effects: true,
            known_versions: true,
            unique_names: true,
            conditions: true,
            selectors: true,
        }
    }

    fn beside(new: &Value, old: &Value) -> Self {
        let (now, then) = (items(&new["webhooks"]), items(&old["webhooks"]));
        let harmless = |hook: &Value| SIDE_EFFECTS.contains(&text(&hook["sideEffects"]));
        let known = |hook: &Value| {
            let versions = items(&hook["admissionReviewVersions"]);
            versions.is_empty() || versions.iter().any(known_version)
        };
        let names: HashSet<&str> = then.iter().map(|hook| text(&hook["name"])).collect();
        let same_conditions = now.len() == then.len()
            && now
                .iter()
                .zip(then)
                .all(|(now, then)| same(&now["matchConditions"], &then["matchConditions"]));
        let mut selectors = Faults::new();
        for (hook, key) in then.iter().flat_map(|hook| SELECTORS.map(|key| (hook, key))) {
            check::label_selector(&mut selectors, &Path::new(key), &hook[key]);
        }
        Demands {
            no_side_effects: then.iter().all(harmless),
            known_versions: then.iter().all(known),
            unique_names: names.len() == then.len(),
            conditions: !same_conditions,
            selectors: selectors.is_empty(),
        }
    }
}

fn webhooks(object: &Value, demands: &Demands) -> Faults {
    let mut faults = Faults::new();
    let mut names = HashSet::new();
    for (i, hook) in items(&object["webhooks"]).iter().enumerate() {
        let (at, name) = (Path::new("webhooks").index(i), text(&hook["name"]));
        webhook(&mut faults, &at, hook, demands);
        let versions = &hook["admissionReviewVersions"];
        review_versions(&mut faults, &at.child("admissionReviewVersions"), versions, demands);
        if demands.unique_names && !name.is_empty() && !names.insert(name) {
            faults.push(Error::duplicate(&at.child("name"), name));
        }
    }
    faults
}

fn webhook(faults: &mut Faults, path: &Path, hook: &Value, demands: &Demands) {
    fully_qualified_name(faults, &path.child("name"), text(&hook["name"]));
    for (i, rule) in items(&hook["rules"]).iter().enumerate() {
        rules::rule(faults, &path.child("rules").index(i), rule);
    }
    check::optional_one_of(faults, &path.child("failurePolicy"), &hook["failurePolicy"], &FAILURE_POLICIES);
    check::optional_one_of(faults, &path.child("matchPolicy"), &hook["matchPolicy"], &MATCH_POLICIES);
    let at = path.child("sideEffects");
    let classes = if demands.no_side_effects { &SIDE_EFFECTS[..] } else { &ALL_SIDE_EFFECTS[..] };
    if set(&hook["sideEffects"]) {
        check::optional_one_of(faults, &at, &hook["sideEffects"], classes);
    } else {
        faults.push(Error::required(&at, format!("must specify one of {}", classes.join(", "))));
    }
    if let Some(seconds) = int(&hook["timeoutSeconds"]).filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        faults.push(Error::invalid(&path.child("timeoutSeconds"), seconds, detail));
    }
    for key in SELECTORS.iter().filter(|_| demands.selectors) {
        check::label_selector(faults, &path.child(key), &hook[*key]);
    }
    let policies = ["IfNeeded", "Never"];
    let at = path.child("reinvocationPolicy");
    check::optional_one_of(faults, &at, &hook["reinvocationPolicy"], &policies);
    webhook_client(faults, &path.child("clientConfig"), &hook["clientConfig"]);
    if demands.conditions {
        rules::conditions(faults, &path.child("matchConditions"), &hook["matchConditions"]);
    }
}

fn known_version(version: &Value) -> bool {
    ["v1", "v1beta1"].contains(&text(version))
}

fn review_versions(faults: &mut Faults, path: &Path, value: &Value, demands: &Demands) {
    let list = items(value);
    if list.is_empty() {
        faults.push(Error::required(path, format!("must specify one of {REVIEW_VERSIONS}")));
        return;
    }
    let mut seen = HashSet::new();
    for (i, version) in list.iter().enumerate() {
        let (at, name) = (path.index(i), text(version));
        if !seen.insert(version) {
            faults.push(Error::invalid(&at, name, "duplicate version"));
        } else {
            check::invalid_each(faults, &at, name, check::dns1035_label(name));
        }
    }
    if demands.known_versions && !list.iter().any(known_version) {
        let detail = format!("must include at least one of {REVIEW_VERSIONS}");
        faults.push(Error::invalid(path, value.clone(), detail));
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge, patched};
    use serde_json::{Value, json};

    fn hook(patch: Value) -> Value {
        let base = json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://a"}});
        json!({"webhooks": [merge(base, patch)]})
    }

    #[test]
    fn faults() {
        for (patch, expected) in [
            (json!({}), vec![]),
            (
                json!({"name": "a.b", "sideEffects": null, "timeoutSeconds": 31, "clientConfig": {"url": null}, "admissionReviewVersions": ["v2", "v2"], "failurePolicy": "X"}),
                vec![
                    "name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                    "failurePolicy: Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
                    "sideEffects: Required value: must specify one of None, NoneOnDryRun",
                    "timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                    "clientConfig: Required value: exactly one of url or service is required",
                    "admissionReviewVersions[1]: Invalid value: \"v2\": duplicate version",
                    "admissionReviewVersions: Invalid value: [\"v2\",\"v2\"]: must include at least one of v1, v1beta1",
                ],
            ),
            (
                json!({"rules": [{"operations": ["*", "X"], "apiGroups": [], "apiVersions": [""], "resources": ["pods/*", "pods/log", "*", "a"], "scope": "Y"}]}),
                vec![
                    "rules[0].operations: Invalid value: [\"*\",\"X\"]: if '*' is present, must not specify other operations",
                    "rules[0].operations[1]: Unsupported value: \"X\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
                    "rules[0].apiGroups: Required value",
                    "rules[0].apiVersions[0]: Required value",
                    "rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
                    "rules[0].resources: Invalid value: [\"pods/*\",\"pods/log\",\"*\",\"a\"]: if '*' is present, must not specify other resources without subresources",
                    "rules[0].scope: Unsupported value: \"Y\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
                ],
            ),
            (
                json!({"matchConditions": [{"expression": " "}, {"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}]}),
                vec![
                    "matchConditions[0].expression: Required value",
                    "matchConditions[0].name: Required value",
                    "matchConditions[2].name: Duplicate value: \"a\"",
                ],
            ),
        ] {
            let expected: Vec<String> = expected.iter().map(|text| format!("webhooks[0].{text}")).collect();
            for plural in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
                assert_eq!(
                    created("admissionregistration.k8s.io", plural, hook(patch.clone())),
                    expected,
                    "{patch}"
                );
            }
        }
    }

    /// Hooks of a time when less was asked keep what they have, and lose it with the first good one.
    #[test]
    fn what_was_accepted_once_is_kept() {
        let group = "admissionregistration.k8s.io";
        for plural in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
            let metadata = json!({"metadata": {"name": "n", "uid": "u"}});
            let old = merge(
                metadata,
                hook(json!({"sideEffects": "Some", "admissionReviewVersions": ["v2"],
                    "objectSelector": {"matchLabels": {"a": "-"}}, "matchConditions": [{"name": "a"}]})),
            );
            let twice = json!([old["webhooks"][0], old["webhooks"][0]]);
            let old = merge(old, json!({"webhooks": twice}));
            let faults = |patch: Value| patched(group, plural, "", &old, patch).1;
            assert_eq!(faults(json!({"metadata": {"labels": {"a": "b"}}})), [""; 0]);
            let other = |key: &str, value: Value| {
                let mut hooks = old["webhooks"].clone();
                hooks[0][key] = value;
                faults(json!({"webhooks": hooks}))
            };
            assert_eq!(
                other("sideEffects", json!("X")),
                [
                    "webhooks[0].sideEffects: Unsupported value: \"X\": supported values: \"None\", \"NoneOnDryRun\", \"Some\", \"Unknown\""
                ]
            );
            assert_eq!(
                other("matchConditions", json!([{"name": "a", "expression": "true"}])),
                ["webhooks[1].matchConditions[0].expression: Required value"]
            );
            let good = merge(json!({"metadata": {"name": "n", "uid": "u"}}), hook(json!({})));
            let worse = patched(group, plural, "", &good, json!({"webhooks": old["webhooks"]})).1;
            assert_eq!(worse.len(), 9, "{worse:?}");
        }
    }
}
