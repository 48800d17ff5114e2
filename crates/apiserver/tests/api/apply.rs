//! Server-side apply: who owns what, end to end.

use serde_json::{Value, json};

use crate::support::{Answer, MAPS, PODS, Server, pod, server};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn apply(server: &Server, path: &str, manager: &str, body: &Value) -> Answer {
    let sign = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{sign}fieldManager={manager}");
    server.with("PATCH", &path, "application/apply-patch+yaml", &body.to_string()).await
}

fn deployment(spec: Value) -> Value {
    json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"}, "spec": spec})
}

fn full(replicas: u32) -> Value {
    let labels = json!({"app": "d"});
    deployment(json!({"replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}))
}

/// `manager operation subresource` of every entry.
/// By name: the server orders them by the second they wrote in, which a test may straddle.
fn managers(object: &Value) -> Vec<String> {
    let text = |e: &Value, k: &str| e[k].as_str().unwrap_or("").to_owned();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let shown =
        |e: &Value| format!("{} {} {}", text(e, "manager"), text(e, "operation"), text(e, "subresource"));
    let mut all: Vec<String> = entries.iter().map(|e| shown(e).trim().to_owned()).collect();
    all.sort_unstable();
    all
}

fn fields<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().expect("entries");
    &entries.iter().find(|e| e["manager"] == manager).unwrap_or_else(|| panic!("{manager}"))["fieldsV1"]
}

#[tokio::test]
async fn conflicts_carry_their_causes() {
    let server = server().await;
    let path = format!("{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply");
    server.post(&path, &full(1)).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let refused = apply(&server, &path, "me", &deployment(json!({"replicas": 3}))).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let cause = json!({"reason": "FieldManagerConflict", "field": ".spec.replicas",
        "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"});
    assert_eq!(refused["details"]["causes"], json!([cause]));
    let two = deployment(
        json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "y"}]}}}),
    );
    let refused = apply(&server, &path, "me", &two).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );
    let forced = apply(&server, &format!("{path}?force=true"), "me", &two).await.expect(200);
    assert_eq!(forced["spec"]["replicas"], 3);
    assert!(fields(&forced, "kubectl-client-side-apply")["f:spec"].get("f:replicas").is_none());
}

#[tokio::test]
async fn what_is_no_longer_applied_goes_unless_another_owns_it() {
    let server = server().await;
    let map = |data: Value| json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": data});
    let path = format!("{MAPS}/m");
    apply(&server, &path, "one", &map(json!({"a": "1", "b": "2"}))).await.expect(201);
    let shared = apply(&server, &path, "two", &map(json!({"b": "2"}))).await.expect(200);
    assert_eq!(managers(&shared), ["one Apply", "two Apply"]);
    let entry = &shared["metadata"]["managedFields"][0];
    assert!(entry.get("time").is_none(), "sharing changed nothing: {entry}");
    let left = apply(&server, &path, "one", &map(json!({}))).await.expect(200);
    assert_eq!(left["data"], json!({"b": "2"}));
    let gone = apply(&server, &path, "two", &map(json!({}))).await.expect(200);
    assert!(gone.get("data").is_none(), "{gone}");
}

#[tokio::test]
async fn subresources_have_owners_of_their_own() {
    let server = server().await;
    let path = format!("{DEPLOYMENTS}/d");
    apply(&server, &path, "me", &full(1)).await.expect(201);
    let status = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d", "labels": {"x": "y"}},
        "spec": {"replicas": 9}, "status": {"replicas": 1}});
    let after = apply(&server, &format!("{path}/status"), "controller", &status).await.expect(200);
    assert_eq!(managers(&after), ["controller Apply status", "me Apply"]);
    assert_eq!(fields(&after, "controller"), &json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(after["spec"]["replicas"], 1);

    let scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d"}, "spec": {"replicas": 4}});
    let scale_path = format!("{path}/scale");
    let refused = apply(&server, &scale_path, "scaler", &scale).await.refused(409, "Conflict");
    assert_eq!(refused, "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas");
    let forced = apply(&server, &format!("{scale_path}?force=true"), "scaler", &scale).await.expect(200);
    assert_eq!((forced["kind"].as_str(), forced["spec"]["replicas"].as_i64()), (Some("Scale"), Some(4)));
    let mut put = server.get(&scale_path).await.expect(200);
    put["spec"]["replicas"] = 5.into();
    server.put(&format!("{scale_path}?fieldManager=hpa"), &put).await.expect(200);
    let stored = server.get(&path).await.expect(200);
    assert_eq!(fields(&stored, "hpa"), &json!({"f:spec": {"f:replicas": {}}}));
    assert!(managers(&stored).contains(&"hpa Update scale".to_owned()), "{:?}", managers(&stored));
    assert!(!managers(&stored).contains(&"scaler Apply scale".to_owned()));
}

#[tokio::test]
async fn admission_and_allocation_own_nothing() {
    let server = server().await;
    let created = server.post(&format!("{PODS}?fieldManager=maker"), &pod("p")).await.expect(201);
    let owned = fields(&created, "maker");
    assert_eq!(owned["f:metadata"], json!({"f:labels": {".": {}, "f:app": {}}}));
    assert!(owned["f:spec"].get("f:serviceAccountName").is_none(), "{owned}");
    assert!(owned["f:spec"].get("f:volumes").is_none() && owned["f:spec"].get(".").is_none(), "{owned}");
    let container = &owned["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"];
    assert_eq!(container["f:resources"], json!({}));
    assert!(container.get(".").is_some() && container.get("f:image").is_some(), "{container}");
    let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let service =
        server.post("/api/v1/namespaces/default/services?fieldManager=maker", &service).await.expect(201);
    let owned = &fields(&service, "maker")["f:spec"];
    assert!(owned.get("f:clusterIP").is_none() && owned.get("f:ports").is_some(), "{owned}");
    assert_eq!(owned["f:selector"], json!({}));
}

#[tokio::test]
async fn managed_fields_can_be_forgotten_but_not_applied() {
    let server = server().await;
    server.post(&format!("{MAPS}?fieldManager=maker"), &crate::support::config_map("m")).await.expect(201);
    let path = format!("{MAPS}/m");
    let same = server.merge(&path, &json!({"data": {"k": "v"}})).await.expect(200);
    assert_eq!(managers(&same), ["maker Update"]);
    for (i, empty) in [json!([]), json!([{}])].into_iter().enumerate() {
        let reset = server.merge(&path, &json!({"metadata": {"managedFields": empty}})).await.expect(200);
        assert_eq!(managers(&reset), Vec::<String>::new(), "{reset}");
        let mut config =
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": {}});
        config["data"] = json!({"k": "w"});
        let refused = apply(&server, &path, "me", &config).await.refused(409, "Conflict");
        assert_eq!(
            refused,
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.k"
        );
        config["data"] = json!({format!("n{i}"): "1"});
        let applied = apply(&server, &path, "me", &config).await.expect(200);
        assert_eq!(managers(&applied), ["before-first-apply Update", "me Apply"]);
        config["metadata"]["managedFields"] = json!([{"manager": "x"}]);
        let refused = apply(&server, &path, "me", &config).await.refused(400, "BadRequest");
        assert_eq!(refused, "metadata.managedFields must be nil");
    }
}

#[tokio::test]
async fn options_of_apply() {
    let server = server().await;
    let path = format!("{MAPS}/m");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  k: v\n";
    let refused =
        server.with("PATCH", &path, "application/apply-patch+yaml", yaml).await.refused(422, "Invalid");
    assert_eq!(
        refused,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let forced = format!("{path}?force=true");
    let refused = server.merge(&forced, &json!({})).await.refused(422, "Invalid");
    assert!(refused.ends_with("force: Forbidden: may not be specified for non-apply patch"), "{refused}");
    let dry = format!("{path}?fieldManager=me&dryRun=All");
    server.with("PATCH", &dry, "application/apply-patch+yaml", yaml).await.expect(201);
    server.get(&path).await.refused(404, "NotFound");
    let wrong = json!({"kind": "ConfigMap", "apiVersion": "v2", "metadata": {"name": "m"}});
    let refused = apply(&server, &path, "me", &wrong).await.refused(400, "BadRequest");
    assert_eq!(
        refused,
        "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1"
    );
    let strange =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "dta": {"a": "b"}});
    let refused = apply(&server, &path, "me", &strange).await.expect(500);
    assert_eq!(
        refused["message"],
        "failed to create typed patch object (default/m; /v1, Kind=ConfigMap): .dta: field not declared in schema"
    );
    let nameless = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"k": "v"}});
    assert_eq!(
        apply(&server, &path, "me", &nameless).await.refused(400, "BadRequest"),
        "the name of the object (m based on URL) was undeterminable: name must be provided"
    );
    let uid = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m", "uid": "u"}});
    apply(&server, &path, "me", &uid).await.refused(409, "Conflict");
    let created =
        server.with("PATCH", &format!("{path}?fieldManager=me"), "application/apply-patch+yaml", yaml).await;
    let created = created.expect(201);
    let applied = apply(&server, &path, "me", &nameless).await.expect(200);
    assert_eq!(applied["metadata"]["name"], "m", "what is there has its name");
    let stale =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m", "resourceVersion": "1"}});
    apply(&server, &path, "me", &stale).await.refused(409, "Conflict");
    let agent = http::Request::builder().method("PATCH").uri(&path).header("user-agent", "curl/8.1");
    let agent = agent.header("content-type", "application/merge-patch+json");
    let patched =
        server.send(agent.body(br#"{"data":{"z":"1"}}"#.to_vec()).expect("a request")).await.expect(200);
    assert!(managers(&patched).contains(&"curl Update".to_owned()));
    assert_ne!(created["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn versions_of_a_kind_share_ownership() {
    let server = server().await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let v1 = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 5, "targetCPUUtilizationPercentage": 60}});
    let base = |v: &str| format!("/apis/autoscaling/{v}/namespaces/default/horizontalpodautoscalers/h");
    apply(&server, &base("v1"), "one", &v1).await.expect(201);
    let v2 = |average: u32| {
        let metric = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": average}}});
        json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": {"name": "h"},
            "spec": {"metrics": [metric]}})
    };
    apply(&server, &base("v2"), "two", &v2(60)).await.expect(200);
    let refused = apply(&server, &base("v2"), "two", &v2(70)).await.refused(409, "Conflict");
    assert_eq!(
        refused,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.targetCPUUtilizationPercentage"
    );
    let forced = apply(&server, &format!("{}?force=true", base("v2")), "two", &v2(70)).await.expect(200);
    assert!(fields(&forced, "one")["f:spec"].get("f:targetCPUUtilizationPercentage").is_none());
    // The same manager moves to the other version: what it applied there is its own here.
    let moved = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 6}});
    let after = apply(&server, &base("v2"), "one", &moved).await.expect(200);
    assert_eq!((after["spec"]["maxReplicas"].as_i64(), managers(&after).len()), (Some(6), 2));
}

#[tokio::test]
async fn moving_from_client_side_apply() {
    let server = server().await;
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let config = full(1);
    let mut created = config.clone();
    created["metadata"]["annotations"] = json!({annotation: format!("{config}\n")});
    server.post(&format!("{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply"), &created).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    apply(&server, &path, "other", &full(2)).await.refused(409, "Conflict");
    let applied = apply(&server, &path, "kubectl", &full(2)).await.expect(200);
    assert_eq!(applied["spec"]["replicas"], 2);
    let text = applied["metadata"]["annotations"][annotation].as_str().expect("an annotation");
    let last: Value = serde_json::from_str(text).expect("a document");
    assert_eq!((last["spec"]["replicas"].as_i64(), text.ends_with('\n')), (Some(2), true));
    // A field someone changed since is a conflict again.
    server.merge(&format!("{path}?fieldManager=hand"), &json!({"spec": {"replicas": 7}})).await.expect(200);
    let refused = apply(&server, &path, "kubectl", &full(2)).await.refused(409, "Conflict");
    assert!(refused.contains("conflict with \"hand\" using apps/v1: .spec.replicas"), "{refused}");
}

#[tokio::test]
async fn managers_are_rewritten_as_kubectl_migrates_them() {
    let server = server().await;
    let path = format!("{DEPLOYMENTS}/d");
    let created = server
        .post(&format!("{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply"), &full(1))
        .await
        .expect(201);
    let mut entries = created["metadata"]["managedFields"].clone();
    entries[0]["manager"] = "kubectl".into();
    entries[0]["operation"] = "Apply".into();
    let migration = |version: &Value| {
        json!([{"op": "replace", "path": "/metadata/managedFields", "value": entries},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version}])
    };
    let form = "application/json-patch+json";
    let stale = migration(&json!("1")).to_string();
    server.with("PATCH", &path, form, &stale).await.refused(409, "Conflict");
    let body = migration(&created["metadata"]["resourceVersion"]).to_string();
    let migrated = server.with("PATCH", &path, form, &body).await.expect(200);
    assert_eq!(managers(&migrated), ["kubectl Apply"]);
    // What is left out of the next apply goes, for it is kubectl's now.
    let mut fewer = full(1);
    fewer["metadata"]["labels"] = json!({"new": "1"});
    fewer["spec"].as_object_mut().expect("a spec").remove("replicas");
    let applied = apply(&server, &path, "kubectl", &fewer).await.expect(200);
    assert_eq!(managers(&applied), ["kubectl Apply"]);
    assert!(fields(&applied, "kubectl")["f:spec"].get("f:replicas").is_none());
}

#[tokio::test]
async fn unreadable_managed_fields_do_not_come_in() {
    let server = server().await;
    server.post(&format!("{MAPS}?fieldManager=maker"), &crate::support::config_map("m")).await.expect(201);
    let path = format!("{MAPS}/m?fieldManager=hand");
    let strange = json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"x:y": {}}}]);
    let after = server.merge(&path, &json!({"metadata": {"managedFields": strange}})).await.expect(200);
    assert_eq!(managers(&after), ["maker Update"]);
}
