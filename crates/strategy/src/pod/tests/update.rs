use serde_json::{Value, json};

use super::{container, pod, spec};
use crate::testing::{PODS, merged, stored, updated, updates};

const OTHER_FIELDS: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";

fn amounts(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}})
}

#[test]
fn what_may_change() {
    let old = stored(
        PODS,
        &merged(&pod(), &spec(json!({"activeDeadlineSeconds": 10, "terminationGracePeriodSeconds": -5}))),
    );
    let container_with =
        |patch: Value| spec(json!({"containers": [merged(&old["spec"]["containers"][0], &patch)]}));
    updates(
        PODS,
        "",
        &old,
        &[
            (json!({}), &[]),
            (container_with(json!({"image": "other:1"})), &[]),
            (
                json!({"metadata": {"labels": {"a": "b"}}, "spec": {"activeDeadlineSeconds": 9, "terminationGracePeriodSeconds": 1,
                "tolerations": [{"key": "a", "operator": "Exists"}]}}),
                &[],
            ),
            (
                spec(json!({"activeDeadlineSeconds": 11})),
                &[
                    "spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value",
                ],
            ),
            (
                spec(json!({"schedulingGates": [{"name": "a"}]})),
                &[
                    "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a'",
                ],
            ),
            (
                spec(json!({"containers": [old["spec"]["containers"][0], {"name": "d", "image": "i"}]})),
                &["spec.containers: Forbidden: pod updates may not add or remove containers"],
            ),
            (
                json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
                &[
                    "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
                    "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
                ],
            ),
        ],
    );
    let (_, faults) = updated(PODS, "", &old, &merged(&old, &container_with(json!({"command": ["x"]}))));
    assert!(faults.len() == 1 && faults[0].starts_with(OTHER_FIELDS), "{faults:?}");
    let (new, _) = updated(PODS, "", &old, &merged(&old, &container_with(json!({"image": "other:1"}))));
    assert_eq!(new["metadata"]["generation"], 2);
}

#[test]
fn gated_pods_narrow() {
    let term = |values: &[&str]| json!({"matchExpressions": values.iter().map(|v| json!({"key": v, "operator": "Exists"})).collect::<Vec<_>>()});
    let affinity = |terms: &[Value]| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let gate = json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}});
    let old = stored(PODS, &merged(&pod(), &spec(merged(&gate, &affinity(&[term(&["a"])])))));
    let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    updates(
        PODS,
        "",
        &old,
        &[
            (spec(json!({"schedulingGates": null, "nodeSelector": {"c": "d"}})), &[]),
            (spec(affinity(&[term(&["a", "b"])])), &[]),
            (
                spec(json!({"nodeSelector": {"a": "x"}})),
                &[
                    "spec.nodeSelector: Invalid value: {\"a\":\"x\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)",
                ],
            ),
            (
                spec(affinity(&[term(&["z"])])),
                &[&format!(
                    "{at}[0]: Invalid value: {}: only additions are allowed (no mutations or deletions)",
                    term(&["z"])
                )],
            ),
            (
                spec(affinity(&[term(&["a"]), term(&["b"])])),
                &[&format!(
                    "{at}: Invalid value: {}: no additions/deletions to non-empty NodeSelectorTerms list are allowed",
                    json!([term(&["a"]), term(&["b"])])
                )],
            ),
        ],
    );
}

#[test]
fn what_was_accepted_once_may_stay() {
    let mut old = stored(PODS, &merged(&pod(), &spec(json!({"hostNetwork": true}))));
    old["spec"]["securityContext"]["sysctls"] = json!([{"name": "net.a", "value": "1"}]);
    updates(PODS, "", &old, &[(json!({"metadata": {"labels": {"a": "b"}}}), &[])]);
}

#[test]
fn ephemeral_containers() {
    let debug = |patch: Value| {
        merged(
            &json!({"name": "d", "image": "i", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}),
            &patch,
        )
    };
    let plain = stored(PODS, &pod());
    let (with, faults) = updated(
        PODS,
        "ephemeralcontainers",
        &plain,
        &merged(
            &plain,
            &json!({"metadata": {"labels": {"not": "taken"}}, "spec": {"nodeName": "x", "ephemeralContainers": [debug(json!({}))]}}),
        ),
    );
    assert_eq!(faults, Vec::<String>::new());
    assert!(with["metadata"].get("labels").is_none() && with["spec"].get("nodeName").is_none());
    assert_eq!(with["metadata"]["generation"], 2);
    updates(
        PODS,
        "ephemeralcontainers",
        &with,
        &[
            (json!({}), &[]),
            (
                spec(json!({"ephemeralContainers": []})),
                &[
                    "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n",
                ],
            ),
        ],
    );
    let changed = merged(&with, &spec(json!({"ephemeralContainers": [debug(json!({"image": "j"}))]})));
    let (_, faults) = updated(PODS, "ephemeralcontainers", &with, &changed);
    assert!(
        faults[0].starts_with(
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be changed\n"
        ),
        "{faults:?}"
    );
    let mirror = merged(&plain, &json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}));
    let (_, faults) = updated(PODS, "ephemeralcontainers", &mirror, &mirror);
    assert_eq!(faults, [": Forbidden: static pods do not support ephemeral containers"]);
}

#[test]
fn resizing_keeps_the_containers() {
    let named = |name: &str| json!({"name": name, "image": "i", "resources": amounts("1", "1Gi")});
    let lists =
        |containers: Value, init: Value| spec(json!({"containers": containers, "initContainers": init}));
    let object = merged(&pod(), &lists(json!([named("a"), named("b")]), json!([named("s")])));
    let old = stored(PODS, &object);
    let moved = |list: &str, i: usize| {
        format!("spec.{list}[{i}].name: Forbidden: {list} may not be renamed or reordered on resize")
    };
    let count = |list: &str| format!("spec.{list}: Forbidden: {list} may not be added or removed on resize");
    let both = json!([named("a"), named("b")]);
    let cases = [
        (
            lists(json!([named("b"), named("a")]), json!([named("s")])),
            vec![moved("containers", 0), moved("containers", 1)],
        ),
        (
            lists(json!([named("a"), named("c")]), json!([named("t")])),
            vec![moved("containers", 1), moved("initContainers", 0)],
        ),
        (lists(json!([named("a")]), json!([named("s")])), vec![count("containers")]),
        (lists(both.clone(), json!([])), vec![count("initContainers")]),
        (lists(both, json!([named("s")])), vec![]),
    ];
    for (patch, expected) in cases {
        assert_eq!(updated(PODS, "resize", &old, &merged(&old, &patch)).1, expected, "{patch}");
    }
}

#[test]
fn resizing_keeps_the_policies() {
    let old = stored(PODS, &merged(&pod(), &container(json!({"resources": amounts("1", "1Gi")}))));
    let policy = |resource: &str| json!({"resourceName": resource, "restartPolicy": "RestartContainer"});
    let changes =
        json!({"resources": amounts("2", "1Gi"), "resizePolicy": [policy("cpu"), policy("memory")]});
    updates(
        PODS,
        "resize",
        &old,
        &[(
            spec(json!({"containers": [merged(&json!({"name": "c"}), &changes)]})),
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        )],
    );
}

#[test]
fn resizing() {
    let init = json!({"name": "s", "image": "i", "restartPolicy": "Always"});
    let object = merged(
        &pod(),
        &merged(
            &container(json!({"resources": amounts("1", "1Gi")})),
            &spec(json!({"initContainers": [init]})),
        ),
    );
    let old = stored(PODS, &object);
    let resized = |resources: Value| spec(json!({"containers": [{"name": "c", "resources": resources}]}));
    updates(
        PODS,
        "resize",
        &old,
        &[
            (json!({}), &[]),
            (resized(amounts("2", "512Mi")), &[]),
            (
                resized(json!({"requests": {"cpu": "1"}})),
                &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
            ),
            (
                resized(
                    json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
                ),
                &[],
            ),
            (
                resized(
                    json!({"requests": {"cpu": "1", "memory": "1Gi", "example.com/x": "1"}, "limits": {"example.com/x": "1"}}),
                ),
                &["spec: Forbidden: only cpu and memory resources are mutable"],
            ),
        ],
    );
    let guaranteed =
        json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
    let old = stored(PODS, &merged(&pod(), &container(json!({"resources": guaranteed}))));
    updates(
        PODS,
        "resize",
        &old,
        &[(
            resized(merged(&guaranteed, &json!({"requests": {"cpu": "500m"}}))),
            &["spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing"],
        )],
    );
    let running =
        merged(&old, &json!({"status": {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}}));
    updates(
        PODS,
        "resize",
        &running,
        &[(json!({}), &["spec: Forbidden: Pod running on node without support for resize"])],
    );
    let pod_level = stored(PODS, &merged(&pod(), &spec(json!({"resources": {"limits": {"cpu": "1"}}}))));
    updates(
        PODS,
        "resize",
        &pod_level,
        &[(
            json!({}),
            &[
                ": Forbidden: resize of pods with pod-level resources is forbidden when InPlacePodLevelResourcesVerticalScalingEnabled feature gate is disabled",
            ],
        )],
    );
}

#[test]
fn containers_with_devices_are_not_resized() {
    let held = json!({"resources": {"claims": [{"name": "r"}], "requests": {"cpu": "1"}}});
    let held = merged(
        &merged(&pod(), &container(held)),
        &spec(json!({"resourceClaims": [{"name": "r", "resourceClaimName": "x"}]})),
    );
    updates(
        PODS,
        "resize",
        &stored(PODS, &held),
        &[(json!({}), &["spec: Forbidden: only cpu and memory resources are mutable"])],
    );
}

#[test]
fn fields_of_features_that_are_off() {
    let patch = json!({"spec": {"workloadRef": {"name": "w"}, "os": {"name": "linux"},
        "containers": [{"name": "c", "image": "i", "lifecycle": {"stopSignal": "SIGHUP"}}]}});
    let object = stored(PODS, &merged(&pod(), &patch));
    assert!(object["spec"].get("workloadRef").is_none());
    assert!(object["spec"]["containers"][0].get("lifecycle").is_none());
    let mut old = object;
    old["spec"]["containers"][0]["lifecycle"] = json!({"stopSignal": "SIGNOT"});
    let (new, faults) = updated(PODS, "", &old, &old);
    assert_eq!(new["spec"]["containers"][0]["lifecycle"]["stopSignal"], "SIGNOT");
    assert!(faults[0].starts_with("spec.containers[0].lifecycle.stopSignal: Unsupported value: \"SIGNOT\": supported values: \"SIGABRT\", "), "{faults:?}");
}
