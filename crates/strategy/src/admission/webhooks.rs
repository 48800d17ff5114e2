//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::{Map, Value};

use super::{FAILURE_POLICIES, MATCH_POLICIES, rules};
use crate::check::{self, Faults};
use crate::domains::{fully_qualified_name, webhook_client};
use crate::json::{default, default_number, default_text, each, int, items, set, text, with};
use crate::kind::{Kind, PLAIN};

const REVIEW_VERSIONS: &str = "v1, v1beta1";
const SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];

pub static WEBHOOKS: Kind = Kind {
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
    validate: |object| {
        let mut faults = Faults::new();
        let hooks = items(&object["webhooks"]);
        let mut names = HashSet::new();
        for (i, hook) in hooks.iter().enumerate() {
            let (at, name) = (Path::new("webhooks").index(i), text(&hook["name"]));
            webhook(&mut faults, &at, hook);
            review_versions(
                &mut faults,
                &at.child("admissionReviewVersions"),
                &hook["admissionReviewVersions"],
            );
            if !name.is_empty() && !names.insert(name) {
                faults.push(Error::duplicate(&at.child("name"), name));
            }
        }
        faults
    },
    ..PLAIN
};

fn webhook(faults: &mut Faults, path: &Path, hook: &Value) {
    fully_qualified_name(faults, &path.child("name"), text(&hook["name"]));
    for (i, rule) in items(&hook["rules"]).iter().enumerate() {
        rules::rule(faults, &path.child("rules").index(i), rule);
    }
    check::optional_one_of(faults, &path.child("failurePolicy"), &hook["failurePolicy"], &FAILURE_POLICIES);
    check::optional_one_of(faults, &path.child("matchPolicy"), &hook["matchPolicy"], &MATCH_POLICIES);
    let at = path.child("sideEffects");
    if set(&hook["sideEffects"]) {
        check::optional_one_of(faults, &at, &hook["sideEffects"], &SIDE_EFFECTS);
    } else {
        faults.push(Error::required(&at, format!("must specify one of {}", SIDE_EFFECTS.join(", "))));
    }
    if let Some(seconds) = int(&hook["timeoutSeconds"]).filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        faults.push(Error::invalid(&path.child("timeoutSeconds"), seconds, detail));
    }
    for key in ["namespaceSelector", "objectSelector"] {
        check::label_selector(faults, &path.child(key), &hook[key]);
    }
    let policies = ["IfNeeded", "Never"];
    let at = path.child("reinvocationPolicy");
    check::optional_one_of(faults, &at, &hook["reinvocationPolicy"], &policies);
    webhook_client(faults, &path.child("clientConfig"), &hook["clientConfig"]);
    rules::conditions(faults, &path.child("matchConditions"), &hook["matchConditions"]);
}

fn review_versions(faults: &mut Faults, path: &Path, value: &Value) {
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
    if !list.iter().any(|version| ["v1", "v1beta1"].contains(&text(version))) {
        let detail = format!("must include at least one of {REVIEW_VERSIONS}");
        faults.push(Error::invalid(path, value.clone(), detail));
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge};
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
}
