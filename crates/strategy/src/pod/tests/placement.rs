use serde_json::json;

use super::{pod, spec};
use crate::testing::{PODS, creates, merged, stored};

const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

#[test]
fn affinity() {
    let term = |term: serde_json::Value| json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let at = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]";
    creates(
        PODS,
        &pod(),
        &[
            (
                spec(json!({"affinity": {"nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["a b"]}, {"key": "a", "operator": "Gt", "values": []}],
                         "matchFields": [{"key": "metadata.uid", "operator": "Exists"}]}]},
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "preference": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["a b"]}]}}]}}})),
                &[
                    &format!(
                        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values[0]: Invalid value: \"a b\": {LABEL_VALUE}"
                    ),
                    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
                    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].operator: Invalid value: \"Exists\": not a valid selector operator",
                    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key",
                    "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
                ],
            ),
            (
                spec(term(json!({"matchLabelKeys": ["k"], "topologyKey": ""}))),
                &[
                    &format!(
                        "{at}.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"
                    ),
                    &format!("{at}.topologyKey: Required value: can not be empty"),
                    &format!("{at}.topologyKey: Invalid value: \"\": name part must be non-empty"),
                    &format!(
                        "{at}.topologyKey: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                    ),
                ],
            ),
            (
                spec(term(
                    json!({"matchLabelKeys": ["k"], "mismatchLabelKeys": ["k"], "labelSelector": {}, "topologyKey": "t"}),
                )),
                &[&format!(
                    "{at}.matchLabelKeys[0]: Invalid value: \"k\": exists in both matchLabelKeys and mismatchLabelKeys"
                )],
            ),
        ],
    );
}

#[test]
fn keys_of_labels_join_their_selectors() {
    let object = merged(
        &pod(),
        &json!({"metadata": {"labels": {"k": "v"}}, "spec": {
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"mismatchLabelKeys": ["k"], "labelSelector": {}, "topologyKey": "t"}}]}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "t", "whenUnsatisfiable": "DoNotSchedule",
                "matchLabelKeys": ["k", "none"], "labelSelector": {"matchLabels": {"a": "b"}}}]}}),
    );
    let object = stored(PODS, &object);
    let key = |operator: &str| json!([{"key": "k", "operator": operator, "values": ["v"]}]);
    let terms =
        &object["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(terms[0]["podAffinityTerm"]["labelSelector"]["matchExpressions"], key("NotIn"));
    let spread = &object["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["labelSelector"], json!({"matchLabels": {"a": "b"}, "matchExpressions": key("In")}));
}

#[test]
fn spreading_and_tolerations() {
    let constraint = json!({"maxSkew": 0, "topologyKey": "t", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 0, "labelSelector": {},
        "nodeTaintsPolicy": "Maybe"});
    creates(
        PODS,
        &pod(),
        &[
            (
                spec(
                    json!({"topologySpreadConstraints": [constraint, {"maxSkew": 1, "topologyKey": "t", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}]}),
                ),
                &[
                    "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                    "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{t, ScheduleAnyway}\"",
                    "spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero",
                    "spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
                    "spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: \"Maybe\": supported values: \"Honor\", \"Ignore\"",
                ],
            ),
            (
                spec(json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]})),
                &[
                    "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
                ],
            ),
            (
                spec(json!({"tolerations": [{"operator": "Equal", "tolerationSeconds": 1},
                    {"key": "a", "operator": "Lt", "value": "1", "effect": "Never"}]})),
                &[
                    "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                    "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                    "spec.tolerations[1].operator: Unsupported value: \"Lt\": supported values: \"Equal\", \"Exists\", \"Lt\", \"Gt\"",
                    "spec.tolerations[1].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                ],
            ),
            (
                spec(json!({"schedulingGates": [{"name": "a"}, {"name": "a"}], "nodeName": "n"})),
                &[
                    "spec.schedulingGates[1]: Duplicate value: \"a\"",
                    "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
                ],
            ),
        ],
    );
}

#[test]
fn names_and_networks() {
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    creates(
        PODS,
        &pod(),
        &[
            (
                spec(json!({"dnsPolicy": "None"})),
                &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
            ),
            (
                spec(
                    json!({"dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "x"], "searches": ["_a.b", ".", "A"], "options": [{}]}}),
                ),
                &[
                    "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"2.2.2.2\",\"3.3.3.3\",\"x\"]: must not have more than 3 nameservers",
                    "spec.dnsConfig.nameservers[3]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    "spec.dnsConfig.searches[2]: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "spec.dnsConfig.options[0]: Required value: must not be empty",
                ],
            ),
            (
                spec(json!({"hostNetwork": true, "hostnameOverride": "h", "setHostnameAsFQDN": true})),
                &[
                    "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
                    "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
                ],
            ),
            (
                spec(
                    json!({"hostname": "A", "subdomain": "b.c", "activeDeadlineSeconds": 0, "restartPolicy": "Once", "preemptionPolicy": "Now"}),
                ),
                &[
                    "spec.restartPolicy: Unsupported value: \"Once\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                    "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
                    &format!("spec.hostname: Invalid value: \"A\": {label}"),
                    "spec.subdomain: Invalid value: \"b.c\": must not contain dots",
                    "spec.preemptionPolicy: Unsupported value: \"Now\": supported values: \"PreemptLowerPriority\", \"Never\"",
                ],
            ),
            (
                spec(
                    json!({"hostAliases": [{"ip": "1.2.3", "hostnames": ["a"]}, {"ip": "010.0.0.1"}], "overhead": {"gpu": "1"}}),
                ),
                &[
                    "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    "spec.overhead.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                    "spec.overhead.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                ],
            ),
        ],
    );
}
