//! TokenRequests: what may be asked, what a token is bound to, and the words of refusals.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{Answer, PODS, Server, pod, server};

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

async fn ask(server: &Server, metadata: Value, spec: Value) -> Answer {
    let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": metadata, "spec": spec});
    server.post(&format!("{ACCOUNT}/token"), &request).await
}

fn claims(answer: &Value) -> Value {
    let token = answer["status"]["token"].as_str().expect("a token");
    let part = token.split('.').nth(1).expect("claims");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

fn bound(kind: &str, name: &str, uid: &str) -> Value {
    json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}})
}

#[tokio::test]
async fn what_is_asked_is_completed() {
    let server = server().await;
    let account = server.get(ACCOUNT).await.expect(200);
    let answer = ask(&server, json!({"labels": {"a": "b"}}), json!({})).await.expect(201);
    let metadata = &answer["metadata"];
    assert_eq!(
        (&metadata["name"], &metadata["namespace"], &metadata["uid"], &metadata["labels"]),
        (&json!("default"), &json!("default"), &account["metadata"]["uid"], &json!({"a": "b"}))
    );
    assert!(metadata["creationTimestamp"].is_string());
    assert_eq!(
        (&answer["spec"]["expirationSeconds"], &answer["spec"]["boundObjectRef"]),
        (&json!(3600), &Value::Null)
    );
    let claims = claims(&answer);
    assert_eq!(claims["aud"], answer["spec"]["audiences"]);
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    let lifetime = claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat");
    assert_eq!(lifetime, 3600);
}

#[tokio::test]
async fn what_may_not_be_asked() {
    let server = server().await;
    let account = server.get(ACCOUNT).await.expect(200);
    let uid = account["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let invalid = |what: &str| {
        format!(
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {what}"
        )
    };
    let cases = [
        (json!({}), json!({"expirationSeconds": 599}), 422, "Invalid", invalid("599: may not specify a duration less than 10 minutes")),
        (
            json!({}),
            json!({"expirationSeconds": 4_294_967_297_i64}),
            422,
            "Invalid",
            invalid("4294967297: may not specify a duration larger than 2^32 seconds"),
        ),
        (
            json!({"name": "x"}),
            json!({}),
            422,
            "Invalid",
            "TokenRequest.authentication.k8s.io \"default\" is invalid: metadata.name: Invalid value: \"x\": must match the service account name if specified".to_owned(),
        ),
        (
            json!({"namespace": "x"}),
            json!({}),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request".to_owned(),
        ),
        (
            json!({"uid": "u"}),
            json!({}),
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on TokenRequest.authentication.k8s.io \"default\": the UID in the token request (u) does not match the UID of the service account ({uid})"),
        ),
        (json!({}), bound("ConfigMap", "a", ""), 400, "BadRequest", "cannot bind token to object of type /v1, Kind=ConfigMap".to_owned()),
        (json!({}), bound("Pod", "none", ""), 404, "NotFound", "pods \"none\" not found".to_owned()),
        (json!({}), bound("Secret", "none", ""), 404, "NotFound", "secrets \"none\" not found".to_owned()),
        (json!({}), bound("Node", "none", ""), 404, "NotFound", "nodes \"none\" not found".to_owned()),
    ];
    for (metadata, spec, code, reason, text) in cases {
        let shown = spec.to_string();
        assert_eq!(ask(&server, metadata, spec).await.refused(code, reason), text, "{shown}");
    }
    ask(&server, json!({}), json!({"expirationSeconds": 4_294_967_296_i64})).await.expect(201);
    let text = server.post("/api/v1/namespaces/default/serviceaccounts/none/token", &json!({})).await;
    assert_eq!(text.refused(404, "NotFound"), "serviceaccounts \"none\" not found");
}

#[tokio::test]
async fn tokens_are_bound_to_what_is_there() {
    let server = server().await;
    let mut object = pod("p");
    object["spec"]["nodeName"] = "gone".into();
    let made = server.post(PODS, &object).await.expect(201);
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let text = ask(&server, json!({}), bound("Pod", "p", "u")).await.refused(409, "Conflict");
    assert_eq!(
        text,
        "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (u) does not match the UID in record. The object might have been deleted and then recreated"
    );
    let answer = ask(&server, json!({}), bound("Pod", "p", uid)).await.expect(201);
    let kubernetes = &claims(&answer)["kubernetes.io"];
    assert_eq!(kubernetes["pod"], json!({"name": "p", "uid": uid}));
    assert_eq!(kubernetes["node"], json!({"name": "gone"}), "a node that is gone is still named");
    let mut long = bound("Pod", "p", uid);
    long["expirationSeconds"] = 3607.into();
    let answer = ask(&server, json!({}), long).await.expect(201);
    let claims = claims(&answer);
    let issued = claims["iat"].as_i64().expect("iat");
    assert_eq!(claims["exp"].as_i64().map(|at| at - issued), Some(365 * 24 * 3600));
    assert_eq!(claims["kubernetes.io"]["warnafter"].as_i64().map(|at| at - issued), Some(3607));
    assert_eq!(answer["spec"]["expirationSeconds"], 3607);
    let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "other"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let request = json!({"spec": bound("Pod", "p", "")});
    let text = server.post("/api/v1/namespaces/default/serviceaccounts/other/token", &request).await;
    assert_eq!(
        text.refused(400, "BadRequest"),
        "cannot bind token for serviceaccount \"other\" to pod running with different serviceaccount name."
    );
}

#[tokio::test]
async fn nodes_ask_for_what_their_pods_name() {
    let server = server().await;
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}});
    server.post("/api/v1/nodes", &node).await.expect(201);
    let driver = json!({"kind": "CSIDriver", "apiVersion": "storage.k8s.io/v1", "metadata": {"name": "d.io"},
        "spec": {"tokenRequests": [{"audience": "driver"}], "volumeLifecycleModes": ["Ephemeral"]}});
    server.post("/apis/storage.k8s.io/v1/csidrivers", &driver).await.expect(201);
    let mut object = pod("p");
    object["spec"]["nodeName"] = "n".into();
    object["spec"]["volumes"] = json!([
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
        {"name": "d", "csi": {"driver": "d.io"}}]);
    let made = server.post(PODS, &object).await.expect(201);
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let kubelet = server.as_user("system:node:n", &["system:nodes", "system:authenticated"]);
    let asked = |audiences: &[&str]| {
        let mut spec = bound("Pod", "p", uid);
        spec["audiences"] = json!(audiences);
        spec
    };
    // Nothing is asked for: the account's own token is mounted into every pod.
    for audiences in [vec![], vec!["vault"], vec!["driver"]] {
        ask(&kubelet, json!({}), asked(&audiences)).await.expect(201);
    }
    let refused =
        async |audiences: &[&str]| ask(&kubelet, json!({}), asked(audiences)).await.refused(403, "Forbidden");
    assert_eq!(
        refused(&["registry"]).await,
        "serviceaccounts \"default\" is forbidden: audience \"registry\" not found in pod spec volume, system:node:n is not authorized to request tokens for this audience"
    );
    let several = refused(&["vault", "driver"]).await;
    assert_eq!(several, "serviceaccounts \"default\" is forbidden: node may only request 0 or 1 audiences");
    let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "a"},
        "rules": [{"apiGroups": [""], "resources": ["registry"], "verbs": ["request-serviceaccounts-token-audience"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    server.post(&format!("{rbac}/clusterroles"), &role).await.expect(201);
    let binding = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "a"},
        "subjects": [{"kind": "Group", "name": "system:nodes"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "a"}});
    server.post(&format!("{rbac}/clusterrolebindings"), &binding).await.expect(201);
    ask(&kubelet, json!({}), asked(&["registry"])).await.expect(201);
}
