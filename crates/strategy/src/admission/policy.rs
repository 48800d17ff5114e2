//! Admission policies and their bindings. Expressions are checked for being there, not compiled.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use amphipod_api::names::path_segment_name;
use serde_json::{Map, Value};

use super::{FAILURE_POLICIES, MATCH_POLICIES, rules};
use crate::check::{self, Faults, dns1035_label, invalid_each};
use crate::conditions;
use crate::json::{default, default_text, each, items, set, text, with, within};
use crate::kind::{Kind, PLAIN, SPEC_AND_STATUS};

const ANNOTATIONS_MAX: usize = 20;
const ANNOTATION_EXPRESSION_MAX: usize = 5 * 1024;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

pub static ADMISSION_POLICY: Kind = Kind {
    short_finalizers: true,
    status_keeps_metadata: true,
    unconditional_update: false,
    default: |object| {
        within(object, "spec", |spec| {
            default_text(spec, "failurePolicy", "Fail");
            with(spec, "matchConstraints", match_defaults);
        });
        if object["kind"] != "MutatingAdmissionPolicy" {
            within(object, "status", |_| {});
        }
    },
    validate: policy,
    validate_status: policy_status,
    ..SPEC_AND_STATUS
};
pub static ADMISSION_BINDING: Kind = Kind {
    short_finalizers: true,
    unconditional_update: false,
    generation: true,
    default: |object| {
        within(object, "spec", |spec| {
            with(spec, "matchResources", match_defaults);
            with(spec, "paramRef", |reference| default_text(reference, "parameterNotFoundAction", "Deny"));
        });
    },
    validate: binding,
    ..PLAIN
};

fn match_defaults(resources: &mut Value) {
    default_text(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", Map::new());
    default(resources, "objectSelector", Map::new());
    for list in ["resourceRules", "excludeResourceRules"] {
        each(resources, list, |rule| default_text(rule, "scope", "*"));
    }
}

fn policy_status(new: &Value, _: &Value) -> Faults {
    let mut faults = Faults::new();
    let (path, status) = (Path::new("status"), &new["status"]);
    let at = path.child("typeChecking").child("expressionWarnings");
    for (i, warning) in items(&status["typeChecking"]["expressionWarnings"]).iter().enumerate() {
        check::required(&mut faults, &at.index(i).child("warning"), &warning["warning"]);
        check::required(&mut faults, &at.index(i).child("fieldRef"), &warning["fieldRef"]);
    }
    conditions::check(&mut faults, &path.child("conditions"), &status["conditions"]);
    faults
}

fn policy(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    check::one_of(&mut faults, &path.child("failurePolicy"), &spec["failurePolicy"], &FAILURE_POLICIES);
    if set(&spec["paramKind"]) {
        parameter_kind(&mut faults, &path.child("paramKind"), &spec["paramKind"]);
    }
    let (constraints, at) = (&spec["matchConstraints"], path.child("matchConstraints"));
    if set(constraints) {
        match_resources(&mut faults, &at, constraints);
        if items(&constraints["resourceRules"]).is_empty() {
            faults.push(Error::required(&at.child("resourceRules"), ""));
        }
    } else {
        faults.push(Error::required(&at, ""));
    }
    rules::conditions(&mut faults, &path.child("matchConditions"), &spec["matchConditions"]);
    for (i, variable) in items(&spec["variables"]).iter().enumerate() {
        self::variable(&mut faults, &path.child("variables").index(i), variable);
    }
    if object["kind"] == "MutatingAdmissionPolicy" {
        return faults;
    }
    let (validations, annotations) = (items(&spec["validations"]), items(&spec["auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        for key in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            faults.push(Error::required(&path.child(key), detail));
        }
        return faults;
    }
    for (i, validation) in validations.iter().enumerate() {
        self::validation(&mut faults, &path.child("validations").index(i), validation);
    }
    audit_annotations(&mut faults, &path.child("auditAnnotations"), object);
    faults
}

fn parameter_kind(faults: &mut Faults, path: &Path, kind: &Value) {
    let (version, at) = (text(&kind["apiVersion"]), path.child("apiVersion"));
    let joined = |faults: &mut Faults, value: &str, texts: Vec<String>| {
        if !texts.is_empty() {
            faults.push(Error::invalid(&at, value, texts.join(",")));
        }
    };
    match *version.split('/').collect::<Vec<_>>() {
        [""] => faults.push(Error::required(&at, "")),
        [version] => joined(faults, version, dns1035_label(version)),
        [group, name] => {
            if !group.is_empty() {
                joined(faults, group, check::dns1123_subdomain(group));
            }
            if name.is_empty() {
                faults.push(Error::invalid(&at, version, "version must be specified"));
            } else {
                joined(faults, name, dns1035_label(name));
            }
        }
        _ => faults.push(Error::invalid(&at, version, format!("unexpected GroupVersion string: {version}"))),
    }
    let name = text(&kind["kind"]);
    let texts = dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        faults.push(Error::required(&path.child("kind"), ""));
    } else if !texts.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", texts.join(","));
        faults.push(Error::invalid(&path.child("kind"), name, detail));
    }
}

fn match_resources(faults: &mut Faults, path: &Path, resources: &Value) {
    check::one_of(faults, &path.child("matchPolicy"), &resources["matchPolicy"], &MATCH_POLICIES);
    for key in ["namespaceSelector", "objectSelector"] {
        check::label_selector(faults, &path.child(key), &resources[key]);
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(&resources[list]).iter().enumerate() {
            rules::named_rule(faults, &path.child(list).index(i), rule);
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let reserved = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(first)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !reserved.contains(&name)
}

fn variable(faults: &mut Faults, path: &Path, variable: &Value) {
    let name = text(&variable["name"]);
    if name.trim().is_empty() {
        faults.push(Error::required(&path.child("name"), "name is not specified"));
    } else if !is_identifier(name) {
        faults.push(Error::invalid(&path.child("name"), name, "must be a valid CEL identifier"));
    }
    if text(&variable["expression"]).trim().is_empty() {
        faults.push(Error::required(&path.child("expression"), "expression is not specified"));
    }
}

fn validation(faults: &mut Faults, path: &Path, validation: &Value) {
    if text(&validation["expression"]).trim().is_empty() {
        faults.push(Error::required(&path.child("expression"), "expression is not specified"));
    }
    let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    let (computed, message) = (text(&validation["messageExpression"]), text(&validation["message"]));
    if blank(computed) {
        let detail = "must be non-empty if specified";
        faults.push(Error::invalid(&path.child("messageExpression"), computed, detail));
    }
    let at = path.child("message");
    if blank(message) {
        faults.push(Error::invalid(&at, message, "must be non-empty if specified"));
    } else if message.trim().contains(['\n', '\r']) {
        faults.push(Error::invalid(&at, message, "must not contain line breaks"));
    }
    check::optional_one_of(faults, &path.child("reason"), &validation["reason"], &REASONS);
}

fn audit_annotations(faults: &mut Faults, path: &Path, object: &Value) {
    let (list, name) = (items(&object["spec"]["auditAnnotations"]), text(&object["metadata"]["name"]));
    if list.len() > ANNOTATIONS_MAX {
        let detail = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        faults.push(Error::invalid(path, object["spec"]["auditAnnotations"].clone(), detail));
    }
    let mut seen = HashSet::new();
    for (i, annotation) in list.iter().enumerate() {
        let (at, key) = (path.index(i), text(&annotation["key"]));
        let whole = format!("{name}/{key}");
        invalid_each(faults, &at.child("key"), &whole, check::qualified_name(&whole));
        let expression = text(&annotation["valueExpression"]).trim();
        let value_at = at.child("valueExpression");
        if expression.is_empty() {
            faults.push(Error::required(&value_at, "valueExpression is not specified"));
        } else if expression.len() > ANNOTATION_EXPRESSION_MAX {
            let detail = format!("must not exceed {ANNOTATION_EXPRESSION_MAX} bytes in length");
            faults.push(Error::required(&value_at, detail));
        }
        if !seen.insert(key) {
            faults.push(Error::duplicate(&at.child("key"), key));
        }
    }
}

fn binding(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let policy = text(&spec["policyName"]);
    if policy.is_empty() {
        faults.push(Error::required(&path.child("policyName"), ""));
    } else {
        invalid_each(&mut faults, &path.child("policyName"), policy, check::dns1123_subdomain(policy));
    }
    if set(&spec["paramRef"]) {
        parameter(&mut faults, &path.child("paramRef"), &spec["paramRef"]);
    }
    if set(&spec["matchResources"]) {
        match_resources(&mut faults, &path.child("matchResources"), &spec["matchResources"]);
    }
    if object["kind"] != "MutatingAdmissionPolicyBinding" {
        actions(&mut faults, &path.child("validationActions"), &spec["validationActions"]);
    }
    faults
}

fn parameter(faults: &mut Faults, path: &Path, reference: &Value) {
    let (name, selector) = (text(&reference["name"]), &reference["selector"]);
    let exclusive = "name and selector are mutually exclusive";
    if !name.is_empty() {
        invalid_each(faults, &path.child("name"), name, path_segment_name(name));
        if set(selector) {
            faults.push(Error::forbidden(&path.child("name"), exclusive));
        }
    }
    if set(selector) {
        check::label_selector(faults, &path.child("selector"), selector);
        if !name.is_empty() {
            faults.push(Error::forbidden(&path.child("selector"), exclusive));
        }
    }
    if name.is_empty() && !set(selector) {
        faults.push(Error::required(path, "one of name or selector must be specified"));
    }
    let at = path.child("parameterNotFoundAction");
    check::one_of(faults, &at, &reference["parameterNotFoundAction"], &["Deny", "Allow"]);
}

fn actions(faults: &mut Faults, path: &Path, value: &Value) {
    let list = items(value);
    let mut seen = HashSet::new();
    for (i, action) in list.iter().enumerate() {
        if !ACTIONS.contains(&text(action)) {
            faults.push(Error::not_supported(&path.index(i), text(action), &ACTIONS));
        }
        if !seen.insert(action) {
            faults.push(Error::duplicate(&path.index(i), text(action)));
        }
    }
    let has = |wanted: &str| list.iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        faults.push(Error::invalid(path, value.clone(), detail));
    }
    if list.is_empty() {
        faults.push(Error::required(path, "at least one validation action is required"));
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge, patched, stored};
    use serde_json::{Value, json};

    const GROUP: &str = "admissionregistration.k8s.io";

    fn policy(patch: Value) -> Value {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let base = json!({"spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}});
        merge(base, json!({"spec": patch}))
    }

    #[test]
    fn policies() {
        for (patch, expected) in [
            (json!({}), vec![]),
            (
                json!({"matchConstraints": null, "validations": null, "failurePolicy": "X", "paramKind": {"apiVersion": "a/b/c"}}),
                vec![
                    "spec.failurePolicy: Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
                    "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "spec.paramKind.kind: Required value",
                    "spec.matchConstraints: Required value",
                    "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                    "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
                ],
            ),
            (
                json!({"variables": [{"name": "if"}], "validations": [{"message": "a\nb", "messageExpression": " ", "reason": "X"}],
                    "auditAnnotations": [{"key": "a", "valueExpression": "''"}, {"key": "a"}]}),
                vec![
                    "spec.variables[0].name: Invalid value: \"if\": must be a valid CEL identifier",
                    "spec.variables[0].expression: Required value: expression is not specified",
                    "spec.validations[0].expression: Required value: expression is not specified",
                    "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
                    "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                    "spec.validations[0].reason: Unsupported value: \"X\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
                    "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                    "spec.auditAnnotations[1].key: Duplicate value: \"a\"",
                ],
            ),
        ] {
            assert_eq!(
                created(GROUP, "validatingadmissionpolicies", policy(patch.clone())),
                expected,
                "{patch}"
            );
        }
    }

    #[test]
    fn what_a_status_may_say() {
        let old = stored(GROUP, "validatingadmissionpolicies", policy(json!({})));
        let status = json!({"status": {"typeChecking": {"expressionWarnings": [{}]},
            "conditions": [{"type": "a b", "status": "x", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let (_, faults) = patched(GROUP, "validatingadmissionpolicies", "status", &old, status);
        assert_eq!(
            faults[..2],
            [
                "status.typeChecking.expressionWarnings[0].warning: Required value",
                "status.typeChecking.expressionWarnings[0].fieldRef: Required value",
            ]
        );
        assert!(faults[2].starts_with("status.conditions[0].type: Invalid value: \"a b\""), "{faults:?}");
        assert_eq!(
            faults[3],
            "status.conditions[0].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\""
        );
    }

    #[test]
    fn bindings() {
        for (spec, expected) in [
            (json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"name": "x"}}), vec![]),
            (
                json!({"paramRef": {"parameterNotFoundAction": "X"}}),
                vec![
                    "spec.policyName: Required value",
                    "spec.paramRef: Required value: one of name or selector must be specified",
                    "spec.paramRef.parameterNotFoundAction: Unsupported value: \"X\": supported values: \"Deny\", \"Allow\"",
                    "spec.validationActions: Required value: at least one validation action is required",
                ],
            ),
            (
                json!({"policyName": "p", "validationActions": ["Deny", "Warn", "Warn", "X"]}),
                vec![
                    "spec.validationActions[2]: Duplicate value: \"Warn\"",
                    "spec.validationActions[3]: Unsupported value: \"X\": supported values: \"Audit\", \"Deny\", \"Warn\"",
                    "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Warn\",\"X\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
                ],
            ),
        ] {
            assert_eq!(created(GROUP, "validatingadmissionpolicybindings", json!({"spec": spec})), expected);
        }
    }
}
