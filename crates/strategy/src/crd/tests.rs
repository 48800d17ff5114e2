use serde_json::{Value, json};

use crate::testing::named::{created, merge, patched, stored, updated};

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

fn definition(spec: Value) -> Value {
    let base = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}}});
    let version = json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]);
    let mut object = merge(base, json!({"spec": spec}));
    if object["spec"]["versions"].is_null() {
        object["spec"]["versions"] = version;
    }
    object
}

fn version(patch: Value) -> Value {
    let base = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}});
    json!({"versions": [merge(base, patch)]})
}

fn schema(schema: Value) -> Value {
    version(json!({"schema": {"openAPIV3Schema": schema}}))
}

fn check(spec: Value, expected: &[&str]) {
    assert_eq!(created(GROUP, PLURAL, definition(spec.clone())), expected, "{spec}");
}

#[test]
fn names_and_versions() {
    check(json!({}), &[]);
    check(
        json!({"group": "example", "scope": "X"}),
        &[
            "metadata.name: Invalid value: \"widgets.example.com\": must be spec.names.plural+\".\"+spec.group",
            "spec.group: Invalid value: \"example\": should be a domain with at least one dot",
            "spec.scope: Unsupported value: \"X\": supported values: \"Cluster\", \"Namespaced\"",
        ],
    );
    let label = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    check(
        json!({"names": {"kind": "1W", "listKind": "1W", "singular": "w", "shortNames": ["W"]}}),
        &[
            &format!(
                "spec.names.kind: Invalid value: \"1W\": may have mixed case, but should otherwise match: {label}"
            ),
            &format!(
                "spec.names.listKind: Invalid value: \"1W\": may have mixed case, but should otherwise match: {label}"
            ),
            &format!("spec.names.shortNames[0]: Invalid value: \"W\": {label}"),
            "spec.names.listKind: Invalid value: \"1W\": kind and listKind may not be the same",
        ],
    );
    let two = json!({"versions": [{"name": "v1", "storage": true}, {"name": "v1", "storage": true}]});
    let faults = created(GROUP, PLURAL, definition(two));
    assert_eq!(
        faults[..2],
        [
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
            "spec.versions[1].schema.openAPIV3Schema: Required value: schemas are required",
        ]
    );
    assert!(faults[2].ends_with("must contain unique version names"), "{faults:?}");
    assert!(faults[3].ends_with("must have exactly one version marked as storage version"), "{faults:?}");
    check(
        version(json!({"deprecationWarning": "old"})),
        &[
            "spec.versions[0].deprecationWarning: Invalid value: \"old\": can only be set for deprecated versions",
        ],
    );
}

#[test]
fn structure() {
    let at = "spec.validation.openAPIV3Schema";
    for (root, expected) in [
        (json!({"type": null}), vec!["type: Required value: must not be empty at the root"]),
        (json!({"type": "string"}), vec!["type: Invalid value: \"string\": must be object at the root"]),
        (
            json!({"type": "object", "properties": {"spec": {}, "list": {"type": "array"}, "bag": {"type": "array", "items": {}}}}),
            vec![
                "properties[bag].items.type: Required value: must not be empty for specified array items",
                "properties[list].items: Required value: must be specified",
                "properties[spec].type: Required value: must not be empty for specified object fields",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "anyOf": [{"type": "string", "description": "d"}]}}}),
            vec![
                "properties[a].anyOf[0].description: Forbidden: must be empty to be structural",
                "properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
            ],
        ),
        (
            json!({"type": "object", "not": {"properties": {"b": {"pattern": "x"}}}}),
            vec![
                "properties[b]: Required value: because it is defined in spec.validation.openAPIV3Schema.not.properties[b]",
            ],
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            vec![
                "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        ),
        (
            json!({"type": "object", "properties": {"p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "e": {"type": "object", "x-kubernetes-embedded-resource": true}}}),
            vec![
                "properties[e].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
            ],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|text| format!("{at}.{text}")).collect();
        assert_eq!(created(GROUP, PLURAL, definition(schema(root.clone()))), expected, "{root}");
    }
}

/// Faults of one property's schema.
fn check_property(property: &Value, expected: &[&str]) {
    let at = "spec.validation.openAPIV3Schema.properties[a]";
    let expected: Vec<String> = expected.iter().map(|text| format!("{at}.{text}")).collect();
    let root = json!({"type": "object", "properties": {"a": property}});
    assert_eq!(created(GROUP, PLURAL, definition(schema(root.clone()))), expected, "{root}");
}

#[test]
fn keywords() {
    for (property, expected) in [
        (
            json!({"type": "text"}),
            vec![
                "type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        ),
        (
            json!({"type": "object", "$ref": "#/x", "definitions": {"b": {}}}),
            vec![
                "definitions: Forbidden: definitions is not supported",
                "$ref: Forbidden: $ref is not supported",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            vec![
                "uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        ),
        (
            json!({"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            vec!["additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"],
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
            vec!["x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined"],
        ),
    ] {
        check_property(&property, &expected);
    }
}

#[test]
fn lists_and_rules() {
    for (property, expected) in [
        (
            json!({"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "z"]}),
            vec![
                "x-kubernetes-list-map-keys: Invalid value: [\"k\",\"z\"]: entries must all be names of item properties",
                "items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "bag"}),
            vec![
                "x-kubernetes-list-type: Unsupported value: \"bag\": supported values: \"atomic\", \"set\", \"map\"",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "object", "x-kubernetes-map-type": "granular"}, "x-kubernetes-list-type": "set"}),
            vec![
                "items.x-kubernetes-map-type: Invalid value: \"null\": must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"}),
            vec![
                "items.x-kubernetes-map-type: Invalid value: \"null\": must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": " "}, {"rule": "a\nb"}, {"rule": "a", "reason": "X"},
                {"rule": "a", "message": " ", "fieldPath": " "}, {"rule": "a", "message": "b\nc", "fieldPath": "\n"}]}),
            vec![
                "x-kubernetes-validations[0].rule: Required value: rule is not specified",
                "x-kubernetes-validations[1].message: Required value: message must be specified if rule contains line breaks",
                "x-kubernetes-validations[2].reason: Unsupported value: \"X\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
                "x-kubernetes-validations[3].message: Invalid value: \" \": must be non-empty if specified",
                "x-kubernetes-validations[3].fieldPath: Invalid value: \" \": must be non-empty if specified",
                "x-kubernetes-validations[3].fieldPath: Invalid value: \" \": must be a valid path",
                "x-kubernetes-validations[4].message: Invalid value: \"b\\nc\": must not contain line breaks",
                "x-kubernetes-validations[4].fieldPath: Invalid value: \"\\n\": must be non-empty if specified",
                "x-kubernetes-validations[4].fieldPath: Invalid value: \"\\n\": must not contain line breaks",
                "x-kubernetes-validations[4].fieldPath: Invalid value: \"\\n\": must be a valid path",
            ],
        ),
    ] {
        check_property(&property, &expected);
    }
}

#[test]
fn columns_scale_and_selectable_fields() {
    check(
        version(
            json!({"additionalPrinterColumns": [{"type": "text", "format": "name", "jsonPath": "spec"}]}),
        ),
        &[
            "spec.additionalPrinterColumns[0].name: Required value",
            "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
            "spec.additionalPrinterColumns[0].format: Invalid value: \"name\": must be one of byte,date,date-time,double,float,int32,int64,password",
            "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"spec\": must be a simple json path starting with .",
        ],
    );
    check(
        version(
            json!({"subresources": {"scale": {"specReplicasPath": ".status.a", "labelSelectorPath": ".x"}}}),
        ),
        &[
            "spec.subresources.scale.specReplicasPath: Invalid value: \".status.a\": should be a json path under .spec",
            "spec.subresources.scale.statusReplicasPath: Required value",
            "spec.subresources.scale.labelSelectorPath: Invalid value: \".x\": should be a json path under either .spec or .status",
        ],
    );
    let fields = json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}, "m": {"type": "object"}}}}}},
        "selectableFields": [{"jsonPath": ".spec.a"}, {"jsonPath": ".spec['a']"}, {"jsonPath": ".spec.m"}, {"jsonPath": ".spec.z"}, {}]});
    check(
        version(fields),
        &[
            "spec.selectableFields[1].jsonPath: Duplicate value: \".spec['a']\"",
            "spec.selectableFields[2].jsonPath: Invalid value: \".spec.m\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            "spec.selectableFields[3].jsonPath: Invalid value: \".spec.z\": is an invalid path: does not refer to a valid field",
            "spec.selectableFields[4].jsonPath: Required value",
        ],
    );
    let logical = json!({"subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"oneOf": [{"required": ["a"]}]}}});
    let faults = created(GROUP, PLURAL, definition(version(logical)));
    assert!(faults[0].contains("only [Description Type Format") && faults.len() == 1, "{faults:?}");
}

#[test]
fn conversion_and_approval() {
    check(
        json!({"conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v2"]}}}),
        &[
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.conversionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ],
    );
    check(
        json!({"conversion": {"webhook": {"clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]}}}),
        &[
            "spec.conversion.webhookClientConfig: Forbidden: should not be set when strategy is not set to Webhook",
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
        ],
    );
    let own = |annotation: Value| {
        let metadata = json!({"metadata": {"name": "widgets.x.k8s.io", "annotations": {"api-approved.kubernetes.io": annotation}}});
        merge(definition(json!({"group": "x.k8s.io"})), metadata)
    };
    let at = "metadata.annotations[api-approved.kubernetes.io]";
    assert_eq!(
        created(GROUP, PLURAL, own(Value::Null)),
        [format!(
            "{at}: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"
        )]
    );
    for good in ["https://github.com/kubernetes/kubernetes/pull/1", "unapproved, testing"] {
        assert_eq!(created(GROUP, PLURAL, own(good.into())), [""; 0]);
    }
    assert_eq!(created(GROUP, PLURAL, own("yes".into())).len(), 1);
}

#[test]
fn what_was_accepted_before_is_not_asked_for_again() {
    let protected = merge(
        definition(json!({"group": "x.k8s.io", "preserveUnknownFields": true})),
        json!({"metadata": {"name": "widgets.x.k8s.io"}}),
    );
    let old = stored(GROUP, PLURAL, protected);
    let change = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(patched(GROUP, PLURAL, "", &old, change.clone()).1, [""; 0]);
    let other = merge(
        old,
        json!({"metadata": {"annotations": {"api-approved.kubernetes.io": "unapproved"}}, "spec": {"preserveUnknownFields": false}}),
    );
    assert_eq!(patched(GROUP, PLURAL, "", &other, change).1, [""; 0]);
    let back = json!({"metadata": {"annotations": null}, "spec": {"preserveUnknownFields": true}});
    let (_, faults) = patched(GROUP, PLURAL, "", &other, back);
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn updates() {
    let established = json!({"status": {"conditions": [{"type": "Established", "status": "True"}]}});
    let old = merge(stored(GROUP, PLURAL, definition(json!({}))), established);
    let (_, faults) = patched(
        GROUP,
        PLURAL,
        "",
        &old,
        json!({"spec": {"group": "a", "scope": "Cluster", "names": {"kind": "Gadget"}}}),
    );
    assert_eq!(
        faults,
        [
            "spec.group: Invalid value: \"a\": should be a domain with at least one dot",
            "spec.scope: Invalid value: \"Cluster\": field is immutable",
            "spec.names.kind: Invalid value: \"Gadget\": field is immutable",
            "spec.group: Invalid value: \"a\": field is immutable",
        ]
    );
    let renamed = json!({"spec": {"versions": [{"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let faults = updated(GROUP, PLURAL, definition(json!({})), renamed);
    assert_eq!(
        faults,
        [
            "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions"
        ]
    );
    let both = json!({"spec": {"versions": [
        {"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
        {"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let (object, faults) = patched(GROUP, PLURAL, "", &old, both);
    assert_eq!((&object["status"]["storedVersions"], faults), (&json!(["v1", "v2"]), vec![]));
}
