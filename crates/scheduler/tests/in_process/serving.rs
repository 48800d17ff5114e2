//! What a scheduler tells of itself, asked for over HTTPS as a monitoring system and a maintainer do.

use amphipod_apiserver::Config as ServerConfig;
use amphipod_apiserver::seams::UserInfo;
use amphipod_client::leader::Watchdog;
use amphipod_client::{Client, Patch};
use amphipod_scheduler::serving::component;
use amphipod_scheduler::{Config, Metrics};
use amphipod_serving::{Serving, tell};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::{Cluster, GLANCE, eventually, unscheduled_on};

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
    bytes(port, user, path).await.map(|bytes| String::from_utf8(bytes).unwrap())
}

async fn bytes(port: u16, user: &Value, path: &str) -> Result<Vec<u8>, String> {
    let server = json!({"server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true});
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": server}], "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let client = Client::to_server(&kubeconfig).await.unwrap();
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    client.request(request).await.map(|answer| answer.to_vec()).map_err(|error| error.to_string())
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

/// At which port.
async fn served(cluster: &Cluster, metrics: Metrics) -> u16 {
    let user = UserInfo::new("system:kube-scheduler", &["system:authenticated"]);
    let client = Client::local(cluster.server.local_service(user));
    let serving = Serving {
        address: "127.0.0.1:0".parse().unwrap(),
        certificate: None,
        client_ca: None,
        client_ca_checked_every: GLANCE,
        open_paths: vec!["/healthz".to_owned(), "livez".to_owned(), "/ready*".to_owned()],
    };
    let component = component(&Config::default(), &metrics, Some(Watchdog::default()));
    tell(serving, client, component, cluster.cancel.clone()).await.unwrap().port()
}

#[tokio::test]
async fn health_is_for_all_and_metrics_for_those_who_may_see_them() {
    let (authority, admin) = certificates("root", "system:masters");
    let server = ServerConfig { client_ca_pem: Some(authority), ..ServerConfig::default() };
    let cluster = unscheduled_on(server).await;
    let metrics = cluster.schedule(Config::default());
    let port = served(&cluster, metrics).await;
    let nobody = json!({});
    assert_eq!(get(port, &nobody, "/healthz").await.unwrap(), "ok");
    assert_eq!(get(port, &nobody, "/livez?verbose").await.unwrap(), "[+]ping ok\nlivez check passed\n");
    let ready = || async { get(port, &json!({}), "/readyz?verbose").await.ok() };
    assert_eq!(
        eventually("it is ready", ready).await,
        "[+]ping ok\n[+]leaderElection ok\n[+]sched-handler-sync ok\nreadyz check passed\n"
    );
    assert!(get(port, &nobody, "/healthz?verbose").await.unwrap().contains("[+]leaderElection ok"));
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
    assert!(seen.contains("scheduler_pending_pods") && !seen.contains("# EOF"), "{seen}");
    assert!(
        seen.contains("# TYPE scheduler_preemption_attempts_total counter"),
        "as Prometheus knows it: {seen}"
    );
    // The API server names the CA of client certificates.
    assert!(get(port, &admin, "/metrics").await.unwrap().contains("scheduler_pending_pods"));
}

#[tokio::test]
async fn the_maintainer_sees_its_configuration_and_its_time() {
    let (authority, admin) = certificates("root", "system:masters");
    let server = ServerConfig { client_ca_pem: Some(authority), ..ServerConfig::default() };
    let cluster = unscheduled_on(server).await;
    let port = served(&cluster, Metrics::default()).await;
    let shown = get(port, &admin, "/configz").await.unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let shown = &shown["componentconfig"];
    assert_eq!(shown["LeaderElection"]["LeaseDuration"], "15s");
    assert_eq!(shown["Profiles"][0]["SchedulerName"], "default-scheduler");
    let refused = get(port, &json!({}), "/configz").await.unwrap_err();
    assert!(refused.contains("forbidden"), "{refused}");
    let refused = get(port, &admin, "/debug/pprof/profile?seconds=301").await.unwrap_err();
    assert!(refused.contains("a profile takes 300 seconds at most"), "{refused}");
    let profile = bytes(port, &admin, "/debug/pprof/profile?seconds=1").await.unwrap();
    assert!(profile.starts_with(&[0x1f, 0x8b]), "gzip");
    let index = get(port, &admin, "/").await.unwrap();
    assert!(index.contains("/debug/pprof/profile") && index.contains("/configz"), "{index}");
}

#[tokio::test]
async fn a_new_authority_is_believed_without_a_restart() {
    let (first, old) = certificates("root", "system:masters");
    let (second, new) = certificates("root", "system:masters");
    let server = ServerConfig { client_ca_pem: Some(first), ..ServerConfig::default() };
    let cluster = unscheduled_on(server).await;
    let port = served(&cluster, Metrics::default()).await;
    get(port, &old, "/configz").await.unwrap();
    get(port, &new, "/configz").await.unwrap_err();
    let named = Patch::Merge(json!({"data": {"client-ca-file": second}}));
    let maps = cluster.api::<ConfigMap>("kube-system");
    maps.patch("extension-apiserver-authentication", &named).await.unwrap();
    let believed = || async { get(port, &new, "/configz").await.ok() };
    eventually("the new one is believed", believed).await;
    get(port, &old, "/configz").await.unwrap_err();
}
