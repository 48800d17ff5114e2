//! Zeros that say something: a change to one is a change.

use serde_json::{Value, json};

use super::named::{patched, stored, updated};

fn workload(spec: Value) -> Value {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": super::merged(
        &json!({"containers": [{"name": "c", "image": "i"}]}), &spec)});
    json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}})
}

#[test]
fn raise_the_generation() {
    let old = stored("apps", "deployments", workload(json!({})));
    for change in [
        json!({"nodeSelector": {"gpu": ""}}),
        json!({"securityContext": {"runAsUser": 0}}),
        json!({"containers": [{"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false}}]}),
    ] {
        let (new, faults) = patched("apps", "deployments", "", &old, workload(change.clone()));
        assert_eq!(faults, [""; 0]);
        assert_eq!(new["metadata"]["generation"], 2, "{change}");
    }
}

#[test]
fn are_refused_where_nothing_may_change() {
    let pod = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}});
    for (group, plural, object, change) in [
        ("", "pods", pod.clone(), json!({"spec": {"securityContext": {"runAsUser": 0}}})),
        ("", "pods", pod, json!({"spec": {"nodeSelector": {"gpu": ""}}})),
        ("", "configmaps", json!({"immutable": true, "data": {}}), json!({"data": {"key": ""}})),
        ("", "secrets", json!({"immutable": true}), json!({"data": {"key": ""}})),
        (
            "apps",
            "deployments",
            workload(json!({})),
            json!({"spec": {"selector": {"matchLabels": {"canary": ""}},
                "template": {"metadata": {"labels": {"canary": ""}}}}}),
        ),
        ("", "persistentvolumeclaims", claim, json!({"spec": {"storageClassName": null}})),
    ] {
        let faults = updated(group, plural, object, change.clone());
        assert_eq!(faults.len(), 1, "{plural} {change}: {faults:?}");
    }
}
