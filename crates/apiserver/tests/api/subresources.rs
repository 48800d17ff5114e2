//! Evictions and bindings: what is done, and what is refused in which words.

use serde_json::{Value, json};

use crate::support::{Answer, PODS, Server, pod, server};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

async fn running(server: &Server, name: &str) {
    let mut object = pod(name);
    object["metadata"]["labels"] = json!({"app": "web"});
    server.post(PODS, &object).await.expect(201);
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    server.merge(&format!("{PODS}/{name}/status"), &status).await.expect(200);
}

async fn budget(server: &Server, name: &str, status: &Value) {
    let object = json!({"kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": name},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    server.post(BUDGETS, &object).await.expect(201);
    server.merge(&format!("{BUDGETS}/{name}/status"), &json!({"status": status})).await.expect(200);
}

async fn evict(server: &Server, name: &str, options: &Value) -> Answer {
    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1",
        "metadata": {"name": name, "namespace": "default"}, "deleteOptions": options});
    server.post(&format!("{PODS}/{name}/eviction"), &eviction).await
}

#[tokio::test]
async fn budgets_are_asked() {
    let server = server().await;
    running(&server, "a").await;
    budget(
        &server,
        "b",
        &json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 2,
        "desiredHealthy": 2, "expectedPods": 2}),
    )
    .await;
    let refused = evict(&server, "a", &json!({})).await;
    assert_eq!(refused.headers.get("retry-after"), None);
    let status = refused.json();
    assert_eq!(
        status["details"],
        json!({"causes": [{"reason": "DisruptionBudget",
        "message": "The disruption budget b needs 2 healthy pods and has 2 currently"}]})
    );
    assert_eq!(refused.refused(429, "TooManyRequests"), REFUSAL);
    let behind = json!({"status": {"observedGeneration": 0, "disruptionsAllowed": 1}});
    server.merge(&format!("{BUDGETS}/b/status"), &behind).await.expect(200);
    let refused = evict(&server, "a", &json!({})).await;
    assert_eq!(refused.headers["retry-after"], "10");
    let status = refused.json();
    assert_eq!(
        status["details"]["causes"][0]["message"],
        "The disruption budget b is still being processed by the server."
    );
    assert_eq!(refused.refused(429, "TooManyRequests"), REFUSAL);
    let ready = json!({"status": {"observedGeneration": 1}});
    server.merge(&format!("{BUDGETS}/b/status"), &ready).await.expect(200);
    // A dry run spends nothing and removes nothing, nor do options that no delete takes.
    evict(&server, "a", &json!({"dryRun": ["All"]})).await.expect(201);
    for (options, fault) in [
        (json!({"dryRun": ["Some"]}), "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""),
        (
            json!({"propagationPolicy": "Some"}),
            "propagationPolicy: Unsupported value: \"Some\": supported values: \"Foreground\", \"Background\", \
             \"Orphan\", \"nil\"",
        ),
    ] {
        let text = evict(&server, "a", &options).await.refused(422, "Invalid");
        assert_eq!(text, format!("DeleteOptions.meta.k8s.io \"\" is invalid: {fault}"));
    }
    let left = server.get(&format!("{BUDGETS}/b")).await.expect(200);
    assert_eq!(left["status"]["disruptionsAllowed"], 1);
    let done = evict(&server, "a", &json!({"gracePeriodSeconds": 0})).await.expect(201);
    assert_eq!((&done["status"], &done["code"]), (&json!("Success"), &json!(201)));
    let left = server.get(&format!("{BUDGETS}/b")).await.expect(200);
    assert_eq!(
        (&left["status"]["disruptionsAllowed"], left["status"]["disruptedPods"]["a"].is_string()),
        (&json!(0), true)
    );
    assert_eq!(left["status"]["conditions"][0]["reason"], "InsufficientPods");
    server.get(&format!("{PODS}/a")).await.refused(404, "NotFound");
}

#[tokio::test]
async fn evictions_that_cannot_be() {
    let server = server().await;
    running(&server, "a").await;
    for name in ["b", "c"] {
        budget(
            &server,
            name,
            &json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
            "desiredHealthy": 1, "expectedPods": 2}),
        )
        .await;
    }
    let status = evict(&server, "a", &json!({})).await.expect(500);
    assert_eq!(
        status["message"],
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
    let other = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "x"}});
    let text = server.post(&format!("{PODS}/a/eviction"), &other).await.refused(400, "BadRequest");
    assert_eq!(text, "name in URL does not match name in Eviction object");
    evict(&server, "none", &json!({})).await.refused(404, "NotFound");
    let mut elsewhere = other;
    elsewhere["metadata"] = json!({"name": "a", "namespace": "x"});
    let text = server.post(&format!("{PODS}/a/eviction"), &elsewhere).await.refused(400, "BadRequest");
    assert_eq!(text, "the namespace of the provided object does not match the namespace sent on the request");
    elsewhere["metadata"] = json!({"name": "a"});
    elsewhere["deleteOptions"] = json!({"dryRun": ["All", "All"]});
    let status = server.post(&format!("{PODS}/a/eviction?dryRun=All"), &elsewhere).await.expect(500);
    assert_eq!(
        (status.get("reason"), status["message"].as_str()),
        (None, Some("Non-matching dry-run options in request and content: [All] and [All All]"))
    );
}

#[tokio::test]
async fn pods_no_budget_counts_go_as_they_were_read() {
    let server = server().await;
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 2,
        "expectedPods": 3});
    budget(&server, "b", &status).await;
    for (name, phase) in [("pending", "Pending"), ("failed", "Failed"), ("unready", "Running")] {
        running(&server, name).await;
        let conditions = json!([{"type": "Ready", "status": "False"}]);
        let status = json!({"status": {"phase": phase, "conditions": conditions}});
        let now = server.merge(&format!("{PODS}/{name}/status"), &status).await.expect(200);
        // Preconditions that do not hold are told, whether or not a budget is asked.
        let old = json!({"preconditions": {"resourceVersion": "1"}});
        let text = evict(&server, name, &old).await.refused(409, "Conflict");
        let version = now["metadata"]["resourceVersion"].as_str().unwrap();
        assert_eq!(
            text,
            format!(
                "Operation cannot be fulfilled on Pod \"{name}\": the ResourceVersion in the precondition (1) does not \
                 match the ResourceVersion in record ({version}). The object might have been modified"
            )
        );
        // Nor does a budget spare another pod than the one it was asked about.
        let answer = evict(&server, name, &json!({"preconditions": {"uid": "other"}})).await;
        let expected = if name == "unready" { (429, "TooManyRequests") } else { (409, "Conflict") };
        answer.refused(expected.0, expected.1);
        let exact = json!({"preconditions": {"resourceVersion": version}, "gracePeriodSeconds": 0});
        evict(&server, name, &exact).await.expect(201);
        server.get(&format!("{PODS}/{name}")).await.refused(404, "NotFound");
    }
    let left = server.get(&format!("{BUDGETS}/b")).await.expect(200);
    assert_eq!(left["status"].get("disruptedPods"), None);
}

#[tokio::test]
async fn older_clients_evict_too() {
    let server = server().await;
    running(&server, "a").await;
    let mut eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1beta1", "metadata": {"name": "a"}});
    server.post(&format!("{PODS}/a/eviction"), &eviction).await.expect(201);
    eviction["apiVersion"] = "policy/v2".into();
    let text = server.post(&format!("{PODS}/a/eviction"), &eviction).await.refused(400, "BadRequest");
    assert_eq!(
        text,
        "the API version in the data (policy/v2) does not match the expected API version (policy/v1)"
    );
}

#[tokio::test]
async fn bindings_of_a_namespace() {
    let server = server().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let path = "/api/v1/namespaces/default/bindings";
    let bind = |metadata: Value| json!({"kind": "Binding", "apiVersion": "v1", "metadata": metadata, "target": {"name": "n"}});
    let text = server.post(path, &bind(json!({}))).await.refused(400, "BadRequest");
    assert_eq!(text, "Name parameter required.");
    server.post(path, &bind(json!({"name": "none"}))).await.refused(404, "NotFound");
    // A uid is not asked for here.
    server.post(path, &bind(json!({"name": "p", "uid": "u"}))).await.expect(201);
    assert_eq!(server.get(&format!("{PODS}/p")).await.expect(200)["spec"]["nodeName"], "n");
}

#[tokio::test]
async fn bindings_are_for_one_pod_once() {
    let server = server().await;
    let made = server.post(PODS, &pod("p")).await.expect(201);
    let bind = |metadata: Value, target: Value| {
        let server = &server;
        let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": metadata, "target": target});
        async move { server.post(&format!("{PODS}/p/binding"), &binding).await }
    };
    let key = "/registry/pods/default/p";
    let storage = format!(
        "Operation cannot be fulfilled on pods \"p\": StorageError: invalid object, Code: 4, Key: {key}, \
        ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: "
    );
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let text = bind(json!({"name": "p", "uid": "u"}), json!({"name": "n"})).await.refused(409, "Conflict");
    assert_eq!(text, format!("{storage}UID in precondition: u, UID in object meta: {uid}"));
    let text = bind(json!({"name": "p", "resourceVersion": "1"}), json!({"name": "n"}))
        .await
        .refused(409, "Conflict");
    assert!(text.starts_with(&format!(
        "{storage}ResourceVersion in precondition: 1, ResourceVersion in object meta: "
    )));
    let status = bind(json!({"name": "p"}), json!({"kind": "Pod"})).await.expect(500);
    assert_eq!(
        status["message"],
        "[target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\", target.name: Required value]"
    );
    let text = bind(json!({}), json!({"name": "n"})).await.refused(400, "BadRequest");
    assert_eq!(text, "name in URL does not match name in Binding object");
    let elsewhere = json!({"name": "p", "namespace": "x"});
    let text = bind(elsewhere, json!({"name": "n"})).await.refused(400, "BadRequest");
    assert_eq!(text, "the namespace of the provided object does not match the namespace sent on the request");
    bind(json!({"name": "p"}), json!({"kind": "Node", "name": "n"})).await.expect(201);
    let text =
        bind(json!({"name": "p"}), json!({"kind": "Node", "name": "m"})).await.refused(409, "Conflict");
    assert_eq!(
        text,
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
    );
    // The same words where a whole object names another incarnation.
    let mut other = server.get(&format!("{PODS}/p")).await.expect(200);
    other["metadata"]["uid"] = "u".into();
    let text = server.put(&format!("{PODS}/p"), &other).await.refused(409, "Conflict");
    assert_eq!(text, format!("{storage}UID in precondition: u, UID in object meta: {uid}"));
}

#[tokio::test]
async fn pods_are_told_where_their_node_is() {
    let server = server().await;
    let (region, zone) = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone");
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n", "labels": {region: "r", zone: "z", "a": "b"}}});
    server.post("/api/v1/nodes", &node).await.expect(201);
    let mut wrong = pod("p");
    wrong["metadata"]["labels"][zone] = "elsewhere".into();
    server.post(PODS, &wrong).await.expect(201);
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p", "labels": {"c": "d"}},
        "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    let bound = server.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["metadata"]["labels"], json!({"app": "p", region: "r", zone: "z", "c": "d"}));
    let mut placed = pod("q");
    placed["spec"]["nodeName"] = "n".into();
    let placed = server.post(PODS, &placed).await.expect(201);
    assert_eq!(placed["metadata"]["labels"], json!({"app": "q", region: "r", zone: "z"}));
    let mut lost = pod("l");
    lost["spec"]["nodeName"] = "none".into();
    let lost = server.post(PODS, &lost).await.expect(201);
    assert_eq!(lost["metadata"]["labels"], json!({"app": "l"}));
}
