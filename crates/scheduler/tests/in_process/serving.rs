//! Health and metrics of a scheduler, asked for over HTTPS as a monitoring system does.

use amphipod_apiserver::Config as ServerConfig;
use amphipod_apiserver::seams::UserInfo;
use amphipod_client::Client;
use amphipod_scheduler::serving::{Serving, serve};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::{Cluster, eventually, unscheduled_on};

/// A CA, and the certificate of somebody of it with its key.
fn certificates(name: &str, group: &str) -> (String, Value) {
    let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap().pem();
    let user = json!({"client-certificate-data": STANDARD.encode(leaf), "client-key-data": STANDARD.encode(key.serialize_pem())});
    (pem, user)
}

async fn get(port: u16, user: &Value, path: &str) -> Result<String, String> {
    let server = json!({"server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true});
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": server}], "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let client = Client::to_server(&kubeconfig).await.unwrap();
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let answer = client.request(request).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(answer.to_vec()).unwrap())
}

async fn token(cluster: &Cluster) -> Value {
    let path = "/api/v1/namespaces/ns/serviceaccounts/default/token";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(body.to_string().into_bytes()).unwrap();
    let answer = cluster.client.request(request).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    json!({"token": answer["status"]["token"]})
}

#[tokio::test]
async fn health_is_for_all_and_metrics_for_those_who_may_see_them() {
    let (authority, admin) = certificates("root", "system:masters");
    let server = ServerConfig { client_ca_pem: Some(authority), ..ServerConfig::default() };
    let cluster = unscheduled_on(server).await;
    let metrics = cluster.schedule(amphipod_scheduler::Config::default());
    let user = UserInfo::new("system:kube-scheduler", &["system:authenticated"]);
    let client = Client::local(cluster.server.local_service(user));
    let serving = Serving {
        address: "127.0.0.1:0".parse().unwrap(),
        certificate: None,
        client_ca: None,
        open_paths: vec!["/healthz".to_owned(), "livez".to_owned(), "/ready*".to_owned()],
    };
    let address = serve(serving, client, metrics, cluster.cancel.clone()).await.unwrap();
    let port = address.port();
    let nobody = json!({});
    assert_eq!(get(port, &nobody, "/healthz").await.unwrap(), "ok");
    assert_eq!(get(port, &nobody, "/livez?verbose").await.unwrap(), "[+]ping ok\nlivez check passed\n");
    let ready = || async { get(port, &json!({}), "/readyz").await.ok() };
    assert_eq!(eventually("it is ready", ready).await, "ok");
    let refused = get(port, &nobody, "/metrics").await.unwrap_err();
    assert!(
        refused.contains("forbidden: User \"system:anonymous\" cannot get path \"/metrics\""),
        "{refused}"
    );
    let refused = get(port, &json!({"token": "made-up"}), "/healthz").await.unwrap_err();
    assert!(refused.contains("Unauthorized"), "{refused}");
    let collector = token(&cluster).await;
    let refused = get(port, &collector, "/ready-or-not").await.unwrap_err();
    assert!(refused.contains("404"), "open, and nothing there: {refused}");
    let rules = json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
    cluster.create::<ClusterRole>("", json!({"metadata": {"name": "see"}, "rules": rules})).await;
    let subject = json!({"kind": "ServiceAccount", "namespace": "ns", "name": "default"});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "see"});
    let binding = json!({"metadata": {"name": "see"}, "subjects": [subject], "roleRef": role});
    cluster.create::<ClusterRoleBinding>("", binding).await;
    let seen = || async { get(port, &collector, "/metrics").await.ok() };
    let seen = eventually("the role is known", seen).await;
    assert!(seen.contains("scheduler_pending_pods"), "{seen}");
    // The API server names the CA of client certificates.
    assert!(get(port, &admin, "/metrics").await.unwrap().contains("scheduler_pending_pods"));
}
