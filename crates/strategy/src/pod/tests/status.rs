use serde_json::{Value, json};

use super::{pod, spec};
use crate::testing::{PODS, context, merged, stored, strategy, updated, updates};

fn status(patch: Value) -> Value {
    json!({"status": patch})
}

#[test]
fn addresses_that_will_be_refused_some_day() {
    let old = stored(PODS, &pod());
    let new = merged(
        &old,
        &status(json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "FD00::1"}], "hostIPs": [{"ip": "010.0.0.1"}]})),
    );
    let warned = |subresource: &str| -> Vec<String> {
        strategy(PODS).warnings(&context(PODS, subresource), &new, Some(&old)).into_iter().collect()
    };
    assert_eq!(
        warned("status"),
        [
            "status.podIPs[1].ip: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
            "status.hostIPs[0].ip: non-standard IP address \"010.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\"",
        ]
    );
    assert_eq!(warned("resize"), [""; 0]);
}

#[test]
fn what_a_status_may_say() {
    let old = stored(
        PODS,
        &merged(&pod(), &spec(json!({"resourceClaims": [{"name": "r", "resourceClaimName": "x"}]}))),
    );
    updates(
        PODS,
        "status",
        &old,
        &[
            (
                status(
                    json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "1.1.1.1", "hostIPs": [{"ip": "1.1.1.1"}]}),
                ),
                &[],
            ),
            (
                status(
                    json!({"conditions": [{"type": "a b"}, {"type": "Ready", "observedGeneration": -1}], "observedGeneration": -1, "qosClass": "Guaranteed", "nominatedNodeName": "A"}),
                ),
                &[
                    "status.conditions[0].Type: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "status.conditions[1].observedGeneration: Invalid value: -1: must be a non-negative integer",
                    "status.nominatedNodeName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "status.observedGeneration: Invalid value: -1: must be a non-negative integer",
                    "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
                ],
            ),
            (
                status(json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}], "hostIPs": [{"ip": "x"}]})),
                &[
                    "status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.1\"}]: may specify no more than one IP for each IP family",
                    "status.hostIPs[0].ip: Invalid value: \"x\": must be equal to `hostIP`",
                    "status.hostIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                status(json!({"resourceClaimStatuses": [{"name": "r"}, {"name": "r"}, {"name": "z"}],
                    "containerStatuses": [{"name": "c", "user": {"linux": {"uid": -1, "gid": 0, "supplementalGroups": [-1]}}}]})),
                &[
                    "status.resourceClaimStatuses[1].name: Duplicate value: \"r\"",
                    "status.resourceClaimStatuses[2].name: Invalid value: \"z\": must match the name of an entry in `spec.resourceClaims`",
                    "status.containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                    "status.containerStatuses[0].user.linux.supplementalGroups[0]: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                ],
            ),
        ],
    );
}

#[test]
fn a_bound_pod_is_nominated_for_no_other_node() {
    let mut old = stored(PODS, &merged(&pod(), &spec(json!({"nodeName": "n"}))));
    let nominated = status(json!({"nominatedNodeName": "m"}));
    let refused =
        "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node";
    updates(PODS, "status", &old, &[(nominated.clone(), &[refused])]);
    old["status"]["nominatedNodeName"] = "m".into();
    updates(PODS, "status", &old, &[(nominated, &[])]);
}

#[test]
fn the_spec_and_observed_generations_stay() {
    let mut old = stored(PODS, &pod());
    old["status"]["observedGeneration"] = 3.into();
    old["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "observedGeneration": 3}]);
    let new = json!({"metadata": old["metadata"], "spec": {"nodeName": "x"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
            "resources": {}, "containerStatuses": [{"name": "c", "allocatedResourcesStatus": []}]}});
    let (new, faults) = updated(PODS, "status", &old, &new);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(
        new["status"],
        json!({"phase": "Running", "qosClass": "BestEffort", "observedGeneration": 3,
            "conditions": [{"type": "Ready", "status": "False", "observedGeneration": 3}], "containerStatuses": [{"name": "c"}]})
    );
}

#[test]
fn ended_containers_stay_ended() {
    let ended = |code: i64| json!([{"name": "c", "state": {"terminated": {"exitCode": code}}}]);
    let running = status(json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]}));
    let refused: &[&str] =
        &["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"];
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    for (pod_policy, own, code, expected) in [
        ("Always", json!({}), 0, &[][..]),
        ("OnFailure", json!({}), 1, &[]),
        ("OnFailure", json!({}), 0, refused),
        ("Never", json!({}), 1, refused),
        ("Never", json!({"restartPolicy": "OnFailure"}), 1, &[]),
        ("Always", json!({"restartPolicy": "Never"}), 1, refused),
        ("Never", json!({"restartPolicy": "Never", "restartPolicyRules": rules}), 42, &[]),
        ("Never", json!({"restartPolicy": "Never", "restartPolicyRules": rules}), 43, refused),
    ] {
        let container = merged(&json!({"name": "c", "image": "i"}), &own);
        let object = merged(&pod(), &spec(json!({"restartPolicy": pod_policy, "containers": [container]})));
        let old = merged(&stored(PODS, &object), &status(json!({"containerStatuses": ended(code)})));
        updates(PODS, "status", &old, &[(running.clone(), expected)]);
    }
}

#[test]
fn addresses_stay_in_step() {
    let old = stored(PODS, &pod());
    let of = |old: &Value, patch: Value| {
        let (new, faults) = updated(PODS, "status", old, &merged(old, &status(patch)));
        assert_eq!(faults, [""; 0]);
        new
    };
    let first = of(&old, json!({"podIP": "10.0.0.1"}));
    assert_eq!(first["status"]["podIPs"], json!([{"ip": "10.0.0.1"}]));
    let both = of(&old, json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}));
    assert_eq!(both["status"]["podIP"], "10.0.0.1");
    let moved = of(&both, json!({"podIP": "10.0.0.2"}));
    assert_eq!(moved["status"]["podIPs"], json!([{"ip": "10.0.0.2"}]));
}
