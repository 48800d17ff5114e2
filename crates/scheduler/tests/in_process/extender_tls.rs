//! Extenders over TLS: who is believed, and as whom they are spoken to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use amphipod_client::CachedPod;
use amphipod_scheduler::extender::Extenders;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};

use super::extender::Server;
use amphipod_scheduler::Config;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

struct Leaf {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Authority { issuer: Issuer::new(params, key), certificate }
    }
    fn leaf(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        Leaf { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }
    fn pem(&self) -> String {
        self.certificate.pem()
    }
}

/// A server known by this certificate; with an authority, to clients of that only.
fn tls(own: &Leaf, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = match clients {
        None => builder.unwrap().with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.unwrap().with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
    builder.with_single_cert(vec![own.certificate.der().clone()], key).unwrap()
}

/// Whether an extender that is configured so is spoken to; if not, what is told.
async fn spoken_to(server: &Server, settings: &Value) -> Result<(), String> {
    let mut extender =
        json!({"urlPrefix": format!("{}/api", server.url), "filterVerb": "filter", "nodeCacheCapable": true});
    extender.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let file = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "extenders": [extender]});
    let config = Config::parse(file.to_string().as_bytes()).unwrap();
    let extenders = Extenders::connect(&config.extenders).await.map_err(|error| error.to_string())?;
    let pod = CachedPod::default();
    let extender = extenders.interested(&pod).next().unwrap();
    let filtered = extender.filter(&json!({}), &BTreeMap::from([("n", Value::Null)])).await?;
    assert_eq!(filtered.nodes, ["n"]);
    Ok(())
}

fn written(directory: &Path, name: &str, contents: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, contents).unwrap();
    path.display().to_string()
}

async fn check(server: &Server, cases: Vec<(&str, Value, Option<&str>)>) {
    server.answer("filter", json!({"NodeNames": ["n"]}));
    for (what, settings, refused) in cases {
        match (spoken_to(server, &settings).await, refused) {
            (Ok(()), None) => {}
            (Err(told), Some(why)) => assert!(told.contains(why), "{what}: {told}"),
            (outcome, _) => panic!("{what}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn the_extenders_certificate_is_checked_as_configured() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = authority.leaf("devices.example", ExtendedKeyUsagePurpose::ServerAuth);
    let server = Server::start_with(Some(tls(&own, None))).await;
    let data = STANDARD.encode(authority.pem());
    let file = written(directory.path(), "ca.crt", &authority.pem());
    let foreign = STANDARD.encode(stranger.pem());
    let https = |tls: Value| json!({"enableHTTPS": true, "tlsConfig": tls});
    let name = "devices.example";
    let cases = vec![
        ("nothing is said of a CA", json!({"enableHTTPS": true}), None),
        ("by data", https(json!({"caData": data, "serverName": name})), None),
        ("by a file", https(json!({"caFile": file, "serverName": name})), None),
        ("of another CA", https(json!({"caData": foreign, "serverName": name})), Some("certificate")),
        (
            "of another name",
            https(json!({"caData": data, "serverName": "other.example"})),
            Some("certificate"),
        ),
        ("by its address, which it does not name", https(json!({"caData": data})), Some("certificate")),
        ("unchecked", json!({"tlsConfig": {"insecure": true}}), None),
        (
            "checked and not",
            https(json!({"caData": data, "insecure": true})),
            Some("specifying a root certificates file with the insecure flag is not allowed"),
        ),
    ];
    check(&server, cases).await;
}

#[tokio::test]
async fn an_extender_may_know_its_clients() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = authority.leaf("devices.example", ExtendedKeyUsagePurpose::ServerAuth);
    let server = Server::start_with(Some(tls(&own, Some(&authority)))).await;
    let client = authority.leaf("system:kube-scheduler", ExtendedKeyUsagePurpose::ClientAuth);
    let foreign = stranger.leaf("system:kube-scheduler", ExtendedKeyUsagePurpose::ClientAuth);
    let ca = STANDARD.encode(authority.pem());
    let as_whom = |more: Value| {
        let mut tls = json!({"caData": ca, "serverName": "devices.example"});
        tls.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"enableHTTPS": true, "tlsConfig": tls})
    };
    let data = |leaf: &Leaf| {
        let (cert, key) =
            (STANDARD.encode(leaf.certificate.pem()), STANDARD.encode(leaf.key.serialize_pem()));
        json!({"certData": cert, "keyData": key})
    };
    let files = json!({
        "certFile": written(directory.path(), "tls.crt", &client.certificate.pem()),
        "keyFile": written(directory.path(), "tls.key", &client.key.serialize_pem()),
    });
    let cases = vec![
        ("nobody", as_whom(json!({})), Some("Post \"https://")),
        ("a client of another CA", as_whom(data(&foreign)), Some("Post \"https://")),
        ("a client, by data", as_whom(data(&client)), None),
        ("a client, by files", as_whom(files), None),
    ];
    check(&server, cases).await;
    assert_eq!(server.asked(), ["filter", "filter"], "of those that were refused nothing was heard");
}
