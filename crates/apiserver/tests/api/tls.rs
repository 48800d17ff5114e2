//! The network side: handshakes, client certificates, both HTTP versions.

use std::net::TcpListener;
use std::sync::Arc;

use amphipod_apiserver::body::Body;
use amphipod_apiserver::config::KeyPair;
use amphipod_apiserver::{ApiServer, Config, serve};
use amphipod_store::EmbeddedStore;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair as Key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_util::sync::CancellationToken;

use crate::metrics::{sample, scrape};
use crate::support::Server;

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, Key>,
}

pub fn authority() -> Authority {
    let key = Key::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test-ca");
    let pem = params.self_signed(&key).expect("a CA").pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

impl Authority {
    pub fn issue(&self, name: &str, organization: &str, usage: ExtendedKeyUsagePurpose) -> KeyPair {
        let key = Key::generate().expect("a key");
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("params");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        KeyPair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

/// A server and the TLS server of its one node, `n`.
pub struct Setup {
    pub server: Server,
    pub authority: Authority,
    pub stop: CancellationToken,
    /// Of the node's server.
    pub port: u16,
}

/// A server whose node `n` answers with this.
pub async fn in_front_of<H, F>(handler: H) -> Setup
where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let authority = authority();
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let serving = authority.issue("node", "system:nodes", ExtendedKeyUsagePurpose::ServerAuth);
    let tls = serve::tls_config(&serving, Some(&authority.pem)).expect("TLS");
    tokio::spawn(serve::serve(listener, tls, handler, || {}, stop.clone()));
    let config = Config {
        serving: Some(authority.issue("kube-apiserver", "", ExtendedKeyUsagePurpose::ServerAuth)),
        client_ca_pem: Some(authority.pem.clone()),
        kubelet_ca_pem: Some(authority.pem.clone()),
        kubelet_client: Some(authority.issue("apiserver", "masters", ExtendedKeyUsagePurpose::ClientAuth)),
        ..Config::default()
    };
    let store = Arc::new(EmbeddedStore::memory().expect("a store"));
    let server = Server::of(ApiServer::start(config, store).await.expect("a server")).await;
    let node = serde_json::json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    server.post("/api/v1/nodes", &node).await.expect(201);
    Setup { server, authority, stop, port }
}

type TlsStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

pub async fn connect(
    address: std::net::SocketAddr,
    ca: &str,
    client: Option<&KeyPair>,
    h2: bool,
) -> Result<TlsStream, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("CA")).expect("CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain =
                vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).expect("certificate")];
            let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).expect("key");
            builder.with_client_auth_cert(chain, key).expect("client certificate")
        }
    };
    config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").expect("name");
    connector.connect(name, stream).await.map_err(|e| e.to_string())
}

async fn get(
    address: std::net::SocketAddr,
    ca: &str,
    client: Option<&KeyPair>,
    h2: bool,
    path: &str,
) -> Result<u16, String> {
    send(address, ca, client, h2, Request::builder().uri(format!("https://localhost{path}")), Bytes::new())
        .await
}

async fn send(
    address: std::net::SocketAddr,
    ca: &str,
    client: Option<&KeyPair>,
    h2: bool,
    request: http::request::Builder,
    body: Bytes,
) -> Result<u16, String> {
    let stream = TokioIo::new(connect(address, ca, client, h2).await?);
    let request = request.header("host", "localhost").body(Full::new(body)).expect("request");
    let answer = if h2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let answer = answer.map_err(|e| e.to_string())?;
    let code = answer.status().as_u16();
    answer.into_body().collect().await.map_err(|e| e.to_string())?;
    Ok(code)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_say_who_asks() {
    let ours = authority();
    let foreign = authority();
    let config = Config {
        serving: Some(ours.issue("kube-apiserver", "", ExtendedKeyUsagePurpose::ServerAuth)),
        client_ca_pem: Some(ours.pem.clone()),
        ..Config::default()
    };
    let store = Arc::new(EmbeddedStore::memory().expect("a store"));
    let api = ApiServer::start(config, store).await.expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (api, stop) = (api.clone(), stop.clone());
        async move { api.serve(listener, stop).await }
    });
    let admin = ours.issue("admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let user = ours.issue("jane", "people", ExtendedKeyUsagePurpose::ClientAuth);
    let stranger = foreign.issue("admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let ca = ours.pem.as_str();
    for h2 in [false, true] {
        assert_eq!(get(address, ca, Some(&admin), h2, "/api/v1/nodes").await, Ok(200));
        assert_eq!(get(address, ca, Some(&user), h2, "/api/v1/nodes").await, Ok(403));
        assert_eq!(get(address, ca, Some(&user), h2, "/api").await, Ok(200));
        assert_eq!(get(address, ca, None, h2, "/api").await, Ok(403));
        assert_eq!(get(address, ca, None, h2, "/readyz").await, Ok(200));
        assert!(get(address, ca, Some(&stranger), h2, "/api").await.is_err());
        // Refusals reach a client that is still sending.
        let large = Bytes::from(vec![b' '; 6 << 20]);
        let post = |path: &str| Request::builder().method("POST").uri(format!("https://localhost{path}"));
        let maps = "/api/v1/namespaces/default/configmaps";
        assert_eq!(send(address, ca, Some(&admin), h2, post(maps), large.clone()).await, Ok(413));
        assert_eq!(send(address, ca, Some(&user), h2, post(maps), large).await, Ok(403));
    }
    counted(&Server::of(api.clone()).await).await;
    stop.cancel();
    serving.await.expect("no panic").expect("served to the end");
    api.close();
}

/// The strangers are counted once the server has done with them, which clients may see earlier.
async fn counted(server: &Server) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let mut text = String::new();
    while sample(&text, "apiserver_tls_handshake_errors_total", &[]) != Some(2.0) {
        assert!(tokio::time::Instant::now() < deadline, "{text}");
        text = scrape(server).await;
        tokio::task::yield_now().await;
    }
    let shown = "apiserver_client_certificate_expiration_seconds_count";
    assert!(sample(&text, shown, &[]) >= Some(10.0), "{text}");
}
