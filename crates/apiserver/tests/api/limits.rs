//! What one client can ask of the server, and what is left for the others while it does.

use std::sync::Arc;

use amphipod_apiserver::{ApiServer, Config};
use amphipod_store::EmbeddedStore;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{MAPS, Server, endless, large_maps, server, until, with_jane};
use crate::tls::{authority, connect};

#[tokio::test]
async fn requests_end_in_time() {
    let server = with_jane().await;
    let slow = endless(&server.api, "jane", &format!("{MAPS}?timeout=50ms")).await;
    let status = slow.json();
    assert_eq!((&status["details"], slow.headers.get("retry-after")), (&json!({}), None));
    assert_eq!(
        slow.refused(504, "Timeout"),
        "Timeout: request did not complete within requested timeout - context deadline exceeded"
    );
    let text = server.get(&format!("{MAPS}?timeout=5")).await.refused(400, "BadRequest");
    assert_eq!(text, "invalid timeout specified in the request URL - time: missing unit in duration \"5\"");
    // A watch has a time of its own.
    server.watch(&format!("{MAPS}?watch=1&timeout=nonsense")).await;
    server.get(&format!("{MAPS}?timeout=32s")).await.expect(200);
}

/// Waits until so many reads are being served.
async fn until_reads(api: &ApiServer, number: usize) {
    until("so many reads", || api.flow_control.load()[0].1 == number).await;
}

#[tokio::test]
async fn a_list_keeps_its_seat_until_it_is_written() {
    let server = with_jane().await;
    large_maps(&server).await;
    let request = Request::builder().uri(MAPS).body(Vec::new()).expect("a request");
    let list = server.raw(request).await;
    until_reads(&server.api, 1).await;
    let text = server.get("/metrics").await;
    let text = String::from_utf8_lossy(&text.bytes).into_owned();
    // The list and the question itself.
    let line = "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 2";
    assert!(text.contains(line), "{text}");
    let whole = list.into_body().collect().await.expect("a whole answer").to_bytes();
    serde_json::from_slice::<serde_json::Value>(&whole).expect("a list");
    until_reads(&server.api, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lets_nothing_through_loses_its_seat_in_time() {
    let authority = authority();
    let config = Config {
        serving: Some(authority.issue("kube-apiserver", "", ExtendedKeyUsagePurpose::ServerAuth)),
        client_ca_pem: Some(authority.pem.clone()),
        ..Config::default()
    };
    let store = Arc::new(EmbeddedStore::memory().expect("a store"));
    let server = Server::of(ApiServer::start(config, store).await.expect("a server")).await;
    large_maps(&server).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let (api, stopped) = (server.api.clone(), stop.clone());
    tokio::spawn(async move { api.serve(listener, stopped).await });
    let admin = authority.issue("admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let stream = connect(address, &authority.pem, Some(&admin), true).await.expect("connected");
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .expect("http");
    tokio::spawn(connection);
    let request = Request::get(format!("https://localhost{MAPS}?timeout=3s"));
    let request = request.body(http_body_util::Empty::<Bytes>::new()).expect("a request");
    let list = sender.send_request(request).await.expect("the head of an answer");
    assert_eq!((list.status().as_u16(), server.api.flow_control.load()[0].1), (200, 1));
    until_reads(&server.api, 0).await;
    drop(list);
    stop.cancel();
}

#[tokio::test]
async fn bombs_are_refused() {
    let server = server().await;
    let aliases: String =
        (1..20).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1)).collect();
    let bombs = [
        ("application/json", format!("{{\"data\":{}", "{\"a\":".repeat(100_000)), 400),
        ("application/json", format!("{{\"data\":{}", "[".repeat(1_000_000)), 400),
        ("application/yaml", format!("data: {}", "[".repeat(1_000_000)), 400),
        ("application/yaml", format!("a0: &a0 [x, x, x, x]\n{aliases}"), 400),
        ("application/yaml", "- ".repeat(1_000_000), 400),
        ("application/json", format!("{{\"data\":\"{}\"}}", "x".repeat(3 << 20)), 413),
    ];
    for (media_type, body, code) in bombs {
        let answer = server.with("POST", MAPS, media_type, &body).await;
        assert_eq!(answer.code, code, "{media_type} {}", &body[..20]);
        if code == 413 {
            let text = answer.refused(413, "RequestEntityTooLarge");
            assert_eq!(text, "Request entity too large: limit is 3145728");
        } else {
            assert!(answer.bytes.len() < 2000, "a refusal does not repeat the bomb");
        }
    }
    let mut deep = Vec::new();
    for _ in 0..50_000 {
        // Field 1 (metadata) around what is there, as far as lengths of two bytes go.
        let length = deep.len().min(16_000);
        deep.truncate(length);
        let mut outer = vec![0x0a, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8];
        outer.append(&mut deep);
        deep = outer;
    }
    let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
    body.extend([(deep.len() & 0x7f) as u8 | 0x80, (deep.len() >> 7) as u8]);
    body.extend(&deep);
    let request = Request::builder().method("POST").uri(MAPS);
    let request = request.header("content-type", "application/vnd.kubernetes.protobuf");
    assert_eq!(server.send(request.body(body).unwrap()).await.code, 400);
}
