//! Objects within the limit of a body whose faults or warnings would fill the memory if each were
//! told in full.

use serde_json::{Value, json};

use super::named::{created, merge, warned};

/// Several times the largest body, and far below the gigabytes that each of these could cost.
const ANSWER_MAX: usize = 4 << 20;
const WARNINGS_MAX: usize = 64 << 10;

fn pod(spec: Value) -> Value {
    merge(json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}), json!({"spec": spec}))
}

fn bytes(texts: &[String]) -> usize {
    texts.iter().map(String::len).sum()
}

#[test]
fn refusals() {
    let names = |n: usize| -> Vec<Value> { (0..n).map(|i| json!({"name": format!("claim-{i}")})).collect() };
    let wanted: Vec<Value> = (0..5000).map(|i| json!({"name": format!("other-{i}")})).collect();
    let claims = pod(json!({"resourceClaims": names(5000),
        "containers": [{"name": "c", "image": "i", "resources": {"claims": wanted}}]}));
    let registry =
        pod(json!({"volumes": [{"name": "v", "quobyte": {"volume": "v", "registry": "a,".repeat(20_000)}}]}));
    let scopes: Vec<String> = (0..20_000).map(|i| format!("scope-{i}")).collect();
    let selector: Vec<Value> =
        scopes.iter().map(|scope| json!({"scopeName": scope, "operator": "Exists"})).collect();
    let quota = json!({"spec": {"hard": {"pods": "1"}, "scopes": scopes}});
    let pods_only: Vec<&str> = vec!["BestEffort"; 20_000];
    let misfit = json!({"spec": {"hard": {"cpu": "1", "memory": "1"}, "scopes": pods_only}});
    let selected = json!({"spec": {"hard": {"cpu": "1"}, "scopeSelector": {"matchExpressions": selector}}});
    let hook = json!({"webhooks": [{"name": "a.b.c", "clientConfig":
        {"service": {"name": "n", "namespace": "n", "port": 443, "path": "/".repeat(50_000)}}}]});
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
    let owned = json!({"metadata": {"ownerReferences": vec![owner; 5000]}});
    for (group, plural, object) in [
        ("", "configmaps", owned),
        ("", "pods", claims),
        ("", "pods", registry),
        ("", "resourcequotas", quota),
        ("", "resourcequotas", misfit),
        ("", "resourcequotas", selected),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations", hook),
    ] {
        let faults = created(group, plural, object);
        let size = bytes(&faults);
        assert!(size < ANSWER_MAX, "{plural}: {size} bytes");
        assert!(
            faults.last().is_some_and(|last| last.contains("were not checked")),
            "{plural}: {}",
            faults.len()
        );
    }
}

#[test]
fn hints() {
    let ports: Vec<Value> = vec![json!({"containerPort": 80, "hostPort": 80}); 3000];
    let variables: Vec<Value> = vec![json!({"name": "A", "value": "x"}); 3000];
    let lists = pod(json!({"containers": [{"name": "c", "image": "i", "ports": ports, "env": variables}]}));
    let long = vec![json!({"name": "A".repeat(WARNINGS_MAX), "value": "x"}); 3];
    let names = pod(json!({"containers": [{"name": "c", "image": "i", "env": long}]}));
    for object in [lists, names] {
        let size = bytes(&warned("", "pods", object));
        assert!(size <= WARNINGS_MAX, "{size} bytes");
    }
}
