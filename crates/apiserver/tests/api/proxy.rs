//! `proxy` of nodes, pods and services: a node's server of the test's own answers, and addresses
//! that cannot be reached say why.

use std::io::{Read, Write};
use std::net::TcpListener;

use amphipod_apiserver::body::{self, Body};
use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{PODS, pod, server};
use crate::tls::{connect, in_front_of};

const PAGE: &str = "<html><a href=\"/a\">x</a><img src='b.png'></html>";

/// The far end: pages, redirects, an echo.
async fn backend(mut request: Request<Body>) -> Response<Body> {
    let answer = Response::builder();
    let path = request.uri().path().to_owned();
    if path == "/ws" {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.expect("upgraded"));
            stream.write_all(b"hello").await.expect("greeting");
            stream.shutdown().await.expect("the end");
        });
        let answer = answer.status(101).header(CONNECTION, "Upgrade").header(UPGRADE, "websocket");
        return answer.body(body::empty()).expect("answer");
    }
    let answer = match path.as_str() {
        "/part" => {
            let answer =
                answer.status(206).header("etag", "\"1\"").header("content-range", "bytes 0-204799/*");
            answer.header("content-type", "text/plain").header("vary", "Cookie")
        }
        "/page" | "/gzip" => answer.header("content-type", "text/html; charset=utf-8"),
        "/moved" => answer.status(302).header("location", "/b/?c=d"),
        "/own" => answer
            .status(302)
            .header("location", format!("https://{}/own", request.headers()["host"].to_str().expect("text"))),
        _ => answer
            .header("content-type", "application/json")
            .header("connection", "x-hop")
            .header("x-hop", "1"),
    };
    let content = match path.as_str() {
        "/page" => PAGE.into(),
        "/part" => vec![b'x'; 200 << 10],
        "/gzip" => {
            let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            coder.write_all(PAGE.as_bytes()).expect("coded");
            return answer
                .header("content-encoding", "gzip")
                .body(body::full(coder.finish().expect("coded")))
                .expect("answer");
        }
        _ => echo(request).await.to_string().into_bytes(),
    };
    answer.body(body::full(content)).expect("answer")
}

async fn echo(request: Request<Body>) -> Value {
    let headers: serde_json::Map<String, Value> =
        request.headers().iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap_or("").into())).collect();
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let content = request.into_body().collect().await.expect("a body").to_bytes();
    json!({"method": method, "uri": uri, "headers": headers, "body": String::from_utf8_lossy(&content)})
}

const NODE: &str = "/api/v1/nodes/n/proxy";

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_with_all_they_carry() {
    let setup = in_front_of(backend).await;
    let server = &setup.server;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let request = Request::builder().method(method).uri(format!("{NODE}/x//y/?dry=1&a=b%20c"));
        let request = request
            .header("host", "api:6443")
            .header("x-own", "1")
            .header("connection", "x-mine")
            .header("x-mine", "2")
            .header("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.dG9r, chat");
        let answer = server.send(request.body(b"content".to_vec()).expect("a request")).await;
        assert_eq!(answer.headers.get("x-hop"), None, "{method}");
        let echo = answer.expect(200);
        assert_eq!(
            (&echo["method"], &echo["uri"], &echo["body"]),
            (&json!(method), &json!("/x//y/?dry=1&a=b%20c"), &json!("content"))
        );
        let headers = &echo["headers"];
        assert_eq!(
            (&headers["host"], &headers["x-own"], &headers["x-mine"]),
            (&json!("api:6443"), &json!("1"), &Value::Null)
        );
        assert_eq!(headers["x-forwarded-uri"], format!("{NODE}/x//y/"));
        assert_eq!(headers["sec-websocket-protocol"], "chat", "a token is for this server alone");
    }
    let named = server.get(&format!("/api/v1/nodes/https:n:{}/proxy/x", setup.port)).await.expect(200);
    assert_eq!(named["uri"], "/x");
    server.get("/api/v1/nodes/n:1/proxy/x").await.refused(400, "BadRequest");
    let text = server.get(&format!("{NODE}/x?dryRun=All")).await.refused(400, "BadRequest");
    assert_eq!(text, "dryRun is not supported");
    setup.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_lead_back_through_the_proxy() {
    let setup = in_front_of(backend).await;
    let server = &setup.server;
    let bare = server.get(&format!("{NODE}?a=b")).await;
    assert_eq!((bare.code, bare.headers["location"].to_str().unwrap()), (301, "/api/v1/nodes/n/proxy/?a=b"));
    let posted = server.post(NODE, &json!({})).await.expect(200);
    assert_eq!(posted["uri"], "/");
    let wanted = PAGE.replace("\"/a\"", &format!("\"{NODE}/a\""));
    let page = server.get(&format!("{NODE}/page")).await;
    assert_eq!(String::from_utf8_lossy(&page.bytes), wanted);
    assert!(page.headers.get("content-length").is_none_or(|length| length == &wanted.len().to_string()));
    let packed = server.get(&format!("{NODE}/gzip")).await;
    let mut whole = String::new();
    flate2::read::GzDecoder::new(&packed.bytes[..]).read_to_string(&mut whole).unwrap();
    assert_eq!(whole, wanted);
    let moved = server.get(&format!("{NODE}/moved")).await;
    assert_eq!(
        (moved.code, moved.headers["location"].to_str().unwrap()),
        (302, "/api/v1/nodes/n/proxy/b/?c=d")
    );
    let own = Request::builder().uri(format!("{NODE}/own")).header("host", "api:6443");
    let own = server.send(own.body(Vec::new()).unwrap()).await;
    assert_eq!(own.headers["location"], "https://api:6443/api/v1/nodes/n/proxy/own");
    setup.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_says_of_its_bytes_stays_true() {
    let setup = in_front_of(backend).await;
    let request = Request::builder().uri(format!("{NODE}/part")).header("accept-encoding", "gzip");
    let part = setup.server.send(request.body(Vec::new()).expect("a request")).await;
    let header = |name: &str| part.headers.get(name).map(|value| value.to_str().expect("text"));
    assert_eq!((part.code, part.bytes.len()), (206, 200 << 10));
    assert_eq!(
        ["etag", "vary", "content-length", "content-encoding"].map(header),
        [Some("\"1\""), Some("Cookie"), Some("204800"), None]
    );
    setup.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_pass() {
    let setup = in_front_of(backend).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (api, stop) = (setup.server.api.clone(), setup.stop.clone());
    tokio::spawn(async move { api.serve(listener, stop).await });
    let admin = setup.authority.issue("admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    for (path, code) in [("/ws", 101), ("/x", 500)] {
        let stream = connect(address, &setup.authority.pem, Some(&admin), false).await.expect("connected");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("http");
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(format!("{NODE}{path}")).header("host", "localhost");
        let request = request.header(CONNECTION, "Upgrade").header(UPGRADE, "websocket");
        let mut answer =
            sender.send_request(request.body(body::empty()).expect("request")).await.expect("an answer");
        assert_eq!(answer.status(), code, "{path}");
        if code == 101 {
            let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.expect("upgraded"));
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text).await;
            assert_eq!(text, b"hello");
        } else {
            let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
            let status: Value = serde_json::from_slice(&bytes).expect("a status");
            assert_eq!(status["message"], "invalid upgrade response: status code 200");
        }
    }
    setup.stop.cancel();
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let server = server().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let services = "/api/v1/namespaces/default/services";
    for name in ["s", "led"] {
        let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
            "spec": {"ports": [{"name": "web", "port": 80}]}});
        server.post(services, &service).await.expect(201);
    }
    let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "FQDN",
        "metadata": {"name": "led", "labels": {"kubernetes.io/service-name": "led"}},
        "ports": [{"name": "web", "port": 80}], "endpoints": [{"addresses": ["a.example"]}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    server.post(slices, &slice).await.expect(201);
    let local = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    server.post(PODS, &pod("local")).await.expect(201);
    server.merge(&format!("{PODS}/local/status"), &local).await.expect(200);
    let table = [
        (PODS, "p", 400, "address not allowed"),
        (PODS, "local:80", 400, "address not allowed"),
        (PODS, "none", 404, "pods \"none\" not found"),
        (PODS, "ftp:p:80", 400, "invalid pod request \"ftp:p:80\""),
        (PODS, "http::80", 400, "invalid pod request \"http::80\""),
        (services, "led", 400, "address not allowed"),
        (services, "s", 503, "no endpoints available for service \"s\""),
        (services, "s:web", 503, "no endpoints available for service \"s\""),
        (services, "https:s:80", 503, "no endpoints available for service \"s\""),
        (services, "s:81", 503, "no service port 81 found for service \"s\""),
        (services, "s:other", 503, "no endpoints available for service \"s\""),
        (services, "none:80", 404, "services \"none\" not found"),
        (services, "none", 404, "endpoints \"none\" not found"),
        (services, "a:b:c:d", 400, "invalid service request \"a:b:c:d\""),
        ("/api/v1/nodes", "none", 404, "nodes \"none\" not found"),
    ];
    for (collection, name, code, message) in table {
        let status = server.get(&format!("{collection}/{name}/proxy/x")).await.expect(code);
        assert_eq!(status["message"], message, "{name}");
    }
}
