use std::sync::Arc;

use amphipod_apiserver::{ApiServer, Config};
use amphipod_store::{EmbeddedStore, Range, Store};
use serde_json::json;

use crate::support::{MAPS, PODS, Server, config_map, pod, server};

#[tokio::test]
async fn an_object_lives_and_dies() {
    let server = server().await;
    let made = server.post(MAPS, &config_map("a")).await.expect(201);
    assert!(!made["metadata"]["uid"].as_str().unwrap().is_empty());
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update");
    let version: u64 = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let text = server.post(MAPS, &config_map("a")).await.refused(409, "AlreadyExists");
    assert_eq!(text, "configmaps \"a\" already exists");

    let path = format!("{MAPS}/a");
    let mut changed = server.get(&path).await.expect(200);
    changed["data"]["k"] = "w".into();
    let updated = server.put(&path, &changed).await.expect(200);
    assert!(updated["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > version);
    let text = server.put(&path, &changed).await.refused(409, "Conflict");
    assert!(
        text.starts_with("Operation cannot be fulfilled on configmaps \"a\": the object has been modified")
    );
    let same = server.put(&path, &updated).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"]);

    let gone = server.delete(&path).await.expect(200);
    assert_eq!(
        (gone["status"].as_str(), gone["details"]["kind"].as_str()),
        (Some("Success"), Some("configmaps"))
    );
    let text = server.get(&path).await.refused(404, "NotFound");
    assert_eq!(text, "configmaps \"a\" not found");
    server.delete(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn refusals_have_their_codes() {
    let server = server().await;
    let mut elsewhere = config_map("a");
    elsewhere["metadata"]["namespace"] = "other".into();
    server.post(MAPS, &elsewhere).await.refused(400, "BadRequest");
    server.with("POST", MAPS, "application/json", "{").await.refused(400, "BadRequest");
    server.with("POST", MAPS, "text/plain", "{}").await.refused(415, "UnsupportedMediaType");
    server.get_as(MAPS, "text/html").await.refused(406, "NotAcceptable");
    server
        .post(MAPS, &json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}}))
        .await
        .refused(422, "Invalid");
    server.post(MAPS, &config_map("A_b")).await.refused(422, "Invalid");
    server.get("/apis/nope/v1/things").await.refused(404, "NotFound");
    server.with("POST", "/api/v1/pods", "application/json", "{}").await.refused(405, "MethodNotAllowed");
    server.post("/api/v1/namespaces/missing/configmaps", &config_map("a")).await.refused(404, "NotFound");
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(4 << 20));
    server.with("POST", MAPS, "application/json", &large).await.refused(413, "RequestEntityTooLarge");
    let nobody = server.as_user("nobody", &["system:authenticated"]);
    let text = nobody.get(MAPS).await.refused(403, "Forbidden");
    assert_eq!(
        text,
        "configmaps is forbidden: User \"nobody\" cannot list resource \"configmaps\" in API group \"\" in the \
         namespace \"default\""
    );
}

#[tokio::test]
async fn methods_that_a_path_does_not_have() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let named = format!("{MAPS}/a");
    let refused = [
        ("POST", named.as_str()),
        ("PUT", MAPS),
        ("PATCH", MAPS),
        ("POST", "/api/v1/configmaps"),
        ("DELETE", "/api/v1/configmaps"),
        ("DELETE", "/api/v1/namespaces"),
        ("OPTIONS", named.as_str()),
        ("POST", "/version"),
    ];
    for (method, path) in refused {
        let status = server.with(method, path, "application/merge-patch+json", "{}").await.expect(405);
        assert_eq!(
            status["message"], "the server does not allow this method on the requested resource",
            "{method} {path}"
        );
        assert_eq!((&status["reason"], &status["details"]), (&json!("MethodNotAllowed"), &json!({})));
    }
}

#[tokio::test]
async fn options_that_are_no_numbers() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let text = "strconv.ParseInt: parsing \"abc\": invalid syntax";
    let path = format!("{MAPS}/a?gracePeriodSeconds=abc");
    assert_eq!(server.delete(&path).await.refused(400, "BadRequest"), text);
    server.get(&format!("{MAPS}/a")).await.expect(200);
    for query in ["limit=abc", "watch=1&timeoutSeconds=abc"] {
        let refusal = server.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(refusal.refused(400, "BadRequest"), text, "{query}");
    }
    // A watch that ends at once, and one whose end no clock reaches.
    assert!(server.get(&format!("{MAPS}?watch=1&resourceVersion=1&timeoutSeconds=-1")).await.code < 500);
    server.watch(&format!("{MAPS}?watch=1&timeoutSeconds=9223372036854775807")).await;
    let text = server.get(&format!("{MAPS}?labelSelector=a%20b")).await.refused(400, "BadRequest");
    assert_eq!(text, "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
}

#[tokio::test]
async fn unknown_fields_warn_or_refuse() {
    let server = server().await;
    let mut object = pod("a");
    object["spec"]["nope"] = 1.into();
    let strict = format!("{PODS}?fieldValidation=Strict");
    let text = server.post(&strict, &object).await.refused(400, "BadRequest");
    assert!(text.contains("strict decoding error: unknown field \"spec.nope\""), "{text}");
    let warned = server.post(PODS, &object).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.nope\\\"\"");
    assert!(warned.expect(201)["spec"].get("nope").is_none());
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_write_nothing() {
    let server = server().await;
    let mut object = config_map("");
    object["metadata"] = json!({"generateName": "g-"});
    let made = server.post(MAPS, &object).await.expect(201);
    assert_eq!(made["metadata"]["name"].as_str().unwrap().len(), 7);
    let path = format!("{MAPS}?dryRun=All");
    let dry = server.post(&path, &config_map("d")).await.expect(201);
    assert!(dry["metadata"].get("resourceVersion").is_none());
    server.get(&format!("{MAPS}/d")).await.refused(404, "NotFound");
}

#[tokio::test]
async fn patches_of_all_four_kinds() {
    let server = server().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let path = format!("{PODS}/p");
    let merged = server.merge(&path, &json!({"metadata": {"labels": {"x": "1"}}})).await.expect(200);
    assert_eq!(merged["metadata"]["labels"], json!({"app": "p", "x": "1"}));
    let document = json!([{"op": "replace", "path": "/metadata/labels/x", "value": "2"}]).to_string();
    let patched = server.with("PATCH", &path, "application/json-patch+json", &document).await.expect(200);
    assert_eq!(patched["metadata"]["labels"]["x"], "2");
    let strategic = json!({"spec": {"containers": [{"name": "c", "image": "y"}]}}).to_string();
    let patched =
        server.with("PATCH", &path, "application/strategic-merge-patch+json", &strategic).await.expect(200);
    assert_eq!(patched["spec"]["containers"][0]["image"], "y");
    assert_eq!(patched["metadata"]["generation"], 2);
    server.with("PATCH", &path, "application/json", "{}").await.refused(415, "UnsupportedMediaType");
    server.merge(&path, &json!({"metadata": {"resourceVersion": "1"}})).await.refused(409, "Conflict");
}

#[tokio::test]
async fn apply_owns_what_it_sets() {
    let server = server().await;
    let apply = async |manager: &str, value: &str, force: bool| {
        let path = format!("{MAPS}/a?fieldManager={manager}&force={force}");
        let document =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: {value}\n");
        server.with("PATCH", &path, "application/apply-patch+yaml", &document).await
    };
    apply("one", "v", false).await.expect(201);
    let again = apply("one", "v", false).await.expect(200);
    let text = apply("two", "w", false).await.refused(409, "Conflict");
    assert!(text.contains("conflict with \"one\": .data.k"), "{text}");
    let forced = apply("two", "w", true).await.expect(200);
    assert_eq!(forced["data"]["k"], "w");
    assert_ne!(again["metadata"]["resourceVersion"], forced["metadata"]["resourceVersion"]);
    let unchanged = apply("two", "w", true).await.expect(200);
    assert_eq!(unchanged["metadata"]["resourceVersion"], forced["metadata"]["resourceVersion"]);
    let path = format!("{MAPS}/a");
    server.with("PATCH", &path, "application/apply-patch+yaml", "{}").await.refused(422, "Invalid");
}

#[tokio::test]
async fn pods_go_gracefully_and_finalizers_hold() {
    let server = server().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let path = format!("{PODS}/p");
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{path}/binding"), &binding).await.expect(201);
    server.post(&format!("{path}/binding"), &binding).await.refused(409, "Conflict");
    let marked = server.delete(&path).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(
        server.get(&path).await.expect(200)["metadata"]["generation"],
        marked["metadata"]["generation"]
    );
    let other = json!({"preconditions": {"uid": "x"}});
    server.with("DELETE", &path, "application/json", &other.to_string()).await.refused(409, "Conflict");
    server.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
    server.get(&path).await.refused(404, "NotFound");

    let mut held = config_map("h");
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    server.post(MAPS, &held).await.expect(201);
    let path = format!("{MAPS}/h");
    let waiting = server.delete(&path).await.expect(200);
    assert!(waiting["metadata"]["deletionTimestamp"].is_string());
    server.merge(&path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    server.get(&path).await.refused(404, "NotFound");

    server.post(MAPS, &config_map("f")).await.expect(201);
    let foreground = server.delete(&format!("{MAPS}/f?propagationPolicy=Foreground")).await.expect(202);
    assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn namespaces_end_through_finalize() {
    let server = server().await;
    let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "t"}});
    server.post("/api/v1/namespaces", &namespace).await.expect(201);
    let mut going = server.delete("/api/v1/namespaces/t").await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    server.post("/api/v1/namespaces/t/configmaps", &config_map("a")).await.refused(403, "Forbidden");
    going["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/t/finalize", &going).await.expect(200);
    server.get("/api/v1/namespaces/t").await.refused(404, "NotFound");
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str| {
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
            "spec": {"type": "NodePort", "selector": {"app": "a"}, "ports": [{"port": 80}]}})
    };
    let a = server.post(path, &service("a")).await.expect(201);
    let b = server.post(path, &service("b")).await.expect(201);
    assert_ne!(a["spec"]["clusterIP"], b["spec"]["clusterIP"]);
    assert_eq!(a["spec"]["clusterIPs"][0], a["spec"]["clusterIP"]);
    let mut taken = service("c");
    taken["spec"]["clusterIP"] = a["spec"]["clusterIP"].clone();
    server.post(path, &taken).await.refused(422, "Invalid");
    server.delete(&format!("{path}/a")).await.expect(200);
    server.post(path, &taken).await.expect(201);
    let kubernetes = server.get(&format!("{path}/kubernetes")).await.expect(200);
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn workloads_scale() {
    let server = server().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "d"});
    let deployment = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    server.post(path, &deployment).await.expect(201);
    let scale_path = format!("{path}/d/scale");
    let mut scale = server.get(&scale_path).await.expect(200);
    assert_eq!((scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()), (Some("Scale"), Some(1)));
    assert_eq!(scale["status"]["selector"], "app=d");
    scale["spec"]["replicas"] = 5.into();
    assert_eq!(server.put(&scale_path, &scale).await.expect(200)["spec"]["replicas"], 5);
    server.put(&scale_path, &scale).await.refused(409, "Conflict");
    server.merge(&scale_path, &json!({"spec": {"replicas": 2}})).await.expect(200);
    let stored = server.get(&format!("{path}/d")).await.expect(200);
    assert_eq!(
        (stored["spec"]["replicas"].as_i64(), stored["metadata"]["generation"].as_i64()),
        (Some(2), Some(3))
    );
    let status = json!({"status": {"replicas": 2}, "spec": {"replicas": 9}});
    let after = server.merge(&format!("{path}/d/status"), &status).await.expect(200);
    assert_eq!(
        (after["spec"]["replicas"].as_i64(), after["status"]["replicas"].as_i64()),
        (Some(2), Some(2))
    );
}

#[tokio::test]
async fn events_are_one_collection_in_two_forms() {
    let server = server().await;
    let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}, "message": "m", "reason": "r",
        "type": "Normal", "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    server.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let other = server.get(&format!("{path}/e")).await.expect(200);
    assert_eq!((other["apiVersion"].as_str(), other["note"].as_str()), (Some("events.k8s.io/v1"), Some("m")));
    let list = server.get(&format!("{path}?fieldSelector=regarding.name%3Dp")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn evictions_and_reviews_answer() {
    let server = server().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"}});
    server.post(&format!("{PODS}/p/eviction"), &eviction).await.expect(201);
    server.get(&format!("{PODS}/p")).await.refused(404, "NotFound");
    let review = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(server.post(path, &review).await.expect(201)["status"]["allowed"], true);
    let table = http::Request::builder().method("POST").uri(path).header("content-type", "application/json");
    let table = table.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    server.send(table.body(review.to_string().into_bytes()).unwrap()).await.refused(406, "NotAcceptable");
    let token = server
        .post(
            "/api/v1/namespaces/default/serviceaccounts/default/token",
            &json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}),
        )
        .await
        .expect(201);
    assert!(token["status"]["token"].is_string());
}

#[tokio::test]
async fn documents_of_the_server() {
    let server = server().await;
    assert_eq!(server.get("/version").await.expect(200)["minor"], "35");
    let groups = server.get("/apis").await;
    assert_eq!(groups.expect(200)["kind"], "APIGroupList");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = server.get_as("/apis/", accept).await;
    assert!(aggregated.headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    let etag = aggregated.headers["etag"].to_str().unwrap().to_owned();
    let again = http::Request::builder().uri("/apis").header("accept", accept).header("if-none-match", etag);
    assert_eq!(server.send(again.body(Vec::new()).unwrap()).await.code, 304);
    assert_eq!(server.get("/readyz").await.bytes, "ok");
    assert!(server.get("/openapi/v3/apis/apps/v1").await.expect(200)["components"].is_object());
    assert!(String::from_utf8_lossy(&server.get("/metrics").await.bytes).contains("apiserver_request_total"));
    let anonymous = server.as_user("system:anonymous", &["system:unauthenticated"]);
    assert_eq!(anonymous.get("/livez").await.code, 200);
    anonymous.get("/apis").await.refused(403, "Forbidden");
}

#[tokio::test]
async fn events_are_written_when_their_lease_ended_early() {
    let store = Arc::new(EmbeddedStore::memory().expect("a store"));
    let server =
        Server::of(ApiServer::start(Config::default(), store.clone()).await.expect("a server")).await;
    let events = "/api/v1/namespaces/default/events";
    let event = |name: &str| {
        json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": name},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}})
    };
    server.post(events, &event("a")).await.expect(201);
    let found = store.range(Range::prefix("/registry/events/")).await.expect("a read");
    let lease = found.items[0].lease.expect("events have a lease");
    store.lease_revoke(lease).await.expect("revoked");
    for name in ["b", "c"] {
        server.post(events, &event(name)).await.expect(201);
    }
    let found = store.range(Range::prefix("/registry/events/")).await.expect("a read");
    let leases: Vec<_> = found.items.iter().map(|item| item.lease).collect();
    assert!(leases.len() == 2 && leases[0].is_some() && leases[0] == leases[1], "{leases:?}");
    assert_ne!(leases[0], Some(lease));
}

/// What `autoscaling/v1` carries in annotations follows the rules of the fields it stands for.
#[tokio::test]
async fn annotations_of_old_autoscalers_are_no_way_around() {
    const PREFIX: &str = "autoscaling.alpha.kubernetes.io";
    let server = server().await;
    let base =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let (old, new) = (base("v1"), format!("{}/h", base("v2")));
    let annotations =
        |key: &str, content: &str| json!({"metadata": {"annotations": {format!("{PREFIX}/{key}"): content}}});
    let conditions = r#"[{"type": "ScalingActive", "status": "True"}]"#;
    let metrics = r#"[{"type": "Resource", "resource": {"name": "memory", "targetAverageValue": "1Gi"}}]"#;

    let mut made = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "h"}, "spec":
        {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 5}});
    made["metadata"]["annotations"] =
        annotations("conditions", conditions)["metadata"]["annotations"].clone();
    server.post(&old, &made).await.expect(201);
    assert!(server.get(&new).await.expect(200)["status"].get("conditions").is_none(), "not at creation");

    let path = format!("{old}/h");
    let status = format!("{path}/status");
    server.merge(&path, &annotations("conditions", conditions)).await.expect(200);
    server.merge(&status, &annotations("metrics", metrics)).await.expect(200);
    let stored = server.get(&new).await.expect(200);
    assert!(stored["status"].get("conditions").is_none(), "not by a write of the whole");
    assert_eq!(stored["spec"]["metrics"][0]["resource"]["name"], "cpu", "not by a write of the status");

    server.merge(&status, &annotations("conditions", conditions)).await.expect(200);
    server.merge(&path, &annotations("metrics", metrics)).await.expect(200);
    let stored = server.get(&new).await.expect(200);
    assert_eq!(stored["status"]["conditions"][0]["type"], "ScalingActive");
    assert_eq!(stored["spec"]["metrics"][1]["resource"]["name"], "memory");
    server.merge(&path, &annotations("metrics", r#"[{"type": 5}]"#)).await.expect(200);
    let stored = server.get(&new).await.expect(200);
    assert_eq!(stored["spec"]["metrics"].as_array().map(Vec::len), Some(1), "what is no metric is none");
}
