//! The node's HTTPS API over a real connection.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Caller {
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

impl Caller {
    async fn send(&self, token: &str, uri: &str, upgrade: bool) -> Response<Incoming> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().uri(uri).header("host", "node");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if upgrade {
            request = request.header("connection", "Upgrade").header("upgrade", "test");
        }
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
    }
    async fn get(&self, token: &str, uri: &str) -> (StatusCode, String) {
        let response = self.send(token, uri, false).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Switches protocols, tells the path asked for, then gives back what it is sent.
async fn echo() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        assert!(!request.contains("authorization"), "{request}");
        let line = request.lines().next().unwrap();
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n";
        stream.write_all(format!("{answer}{line}\n").as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    });
    url
}

async fn serving_node() -> (Node, Caller) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let node = Node::start_with(|config, dir| {
        let files = (dir.join("tls.crt"), dir.join("tls.key"));
        std::fs::write(&files.0, made.cert.pem()).unwrap();
        std::fs::write(&files.1, made.signing_key.serialize_pem()).unwrap();
        config.serving_cert = Some(files);
        config.listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let told = node.api.get("nodes", "", "n1").unwrap();
    let port = told["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap();
    (node, Caller { port: port.try_into().unwrap(), tls: Arc::new(tls) })
}

#[tokio::test]
async fn only_the_allowed_get_answers() {
    let (node, caller) = serving_node().await;
    node.create("p", json!({"containers": [{"name": "a", "image": "x:1"}]}));
    node.until_pod("ready", "p", is_ready).await;
    let cases = [
        ("", "/pods", StatusCode::UNAUTHORIZED, "Unauthorized"),
        ("stranger", "/pods", StatusCode::UNAUTHORIZED, "Unauthorized"),
        (
            "guest",
            "/pods",
            StatusCode::FORBIDDEN,
            "Forbidden (user=guest, verb=get, resource=nodes, subresource(s)=[pods])",
        ),
        ("admin", "/healthz", StatusCode::OK, "ok"),
        ("admin", "/containerLogs/ns/p/a", StatusCode::OK, "one\ntwo\n"),
        ("admin", "/containerLogs/ns/p/a?tailLines=1", StatusCode::OK, "two\n"),
        (
            "admin",
            "/containerLogs/ns/p/a?previous=true",
            StatusCode::BAD_REQUEST,
            "previous terminated container \"a\" in pod \"p\" not found",
        ),
        ("admin", "/containerLogs/ns/q/a", StatusCode::NOT_FOUND, "pod \"q_ns\" does not exist"),
        ("admin", "/nowhere", StatusCode::NOT_FOUND, "404 page not found"),
    ];
    for (token, uri, status, text) in cases {
        assert_eq!(caller.get(token, uri).await, (status, text.to_owned()), "{token} {uri}");
    }
    let (_, pods) = caller.get("admin", "/pods").await;
    let pods: Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(pods["items"][0]["status"]["phase"], "Running");
    let (_, metrics) = caller.get("admin", "/metrics").await;
    assert!(metrics.contains("kubelet_running_pods 1"), "{metrics}");
}

#[tokio::test]
async fn exec_joins_the_caller_to_the_runtime() {
    let (node, caller) = serving_node().await;
    node.runtime.state.lock().stream = Some(echo().await);
    node.create("p", json!({"containers": [{"name": "a", "image": "x:1"}]}));
    node.until_pod("ready", "p", is_ready).await;
    let uri = "/exec/ns/p/a?command=sh&command=x%20y&input=1&output=1&error=1&tty=1";
    let response = caller.send("admin", uri, true).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let expected = b"GET /exec/sh-x y HTTP/1.1\nping".len() + "%20".len() - 1;
    let mut said = vec![0; expected];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut said));
    read.await.unwrap().unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), "GET /exec/sh-x%20y HTTP/1.1\nping");
}
