//! Requests that end at a node: a kubelet of the test's own, spoken to over TLS.

use std::net::TcpListener;

use amphipod_apiserver::body::{self, Body};
use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{PODS, pod};
use crate::tls::{Setup, connect, in_front_of};

/// Answers `/containerLogs` with the request's target, echoes on upgraded connections.
async fn kubelet(mut request: Request<Body>) -> Response<Body> {
    let target = request.uri().to_string();
    if request.headers().contains_key(UPGRADE) {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.expect("upgraded"));
            stream.write_all(target.as_bytes()).await.expect("greeting");
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.expect("a word");
            stream.write_all(&word).await.expect("echo");
            stream.shutdown().await.expect("the end");
        });
        let answer =
            Response::builder().status(101).header(CONNECTION, "Upgrade").header(UPGRADE, "SPDY/3.1");
        return answer.body(body::empty()).expect("answer");
    }
    let code = if target.contains("/broken/") { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    Response::builder().status(code).body(body::full(target)).expect("answer")
}

async fn setup() -> Setup {
    let setup = in_front_of(kubelet).await;
    let server = &setup.server;
    for name in ["p", "broken"] {
        server.post(PODS, &pod(name)).await.expect(201);
    }
    server.get(&format!("{PODS}/p/log")).await;
    for name in ["p", "broken"] {
        let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": name}, "target": {"name": "n"}});
        server.post(&format!("{PODS}/{name}/binding"), &binding).await.expect(201);
    }
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_from_the_node() {
    let setup = setup().await;
    let server = &setup.server;
    let log = server.get(&format!("{PODS}/p/log?tailLines=3&follow=true")).await;
    assert_eq!((log.code, &log.bytes[..]), (200, &b"/containerLogs/default/p/c?follow=true&tailLines=3"[..]));
    server.get(&format!("{PODS}/broken/log")).await.refused(400, "BadRequest");
    server.get(&format!("{PODS}/p/log?container=x")).await.refused(400, "BadRequest");
    server.get(&format!("{PODS}/p/exec?command=sh&stdout=true")).await.refused(400, "BadRequest");
    let node = server.get("/api/v1/nodes/n/proxy/healthz?x=1").await;
    assert_eq!((node.code, &node.bytes[..]), (200, &b"/healthz?x=1"[..]));
    let reader = server.as_user("reader", &["system:authenticated"]);
    reader.get(&format!("{PODS}/p/exec?command=sh&stdout=true")).await.refused(403, "Forbidden");
    setup.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_joins_both_ends() {
    let setup = setup().await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (api, stop) = (setup.server.api.clone(), setup.stop.clone());
    tokio::spawn(async move { api.serve(listener, stop).await });
    let admin = setup.authority.issue("admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let stream = connect(address, &setup.authority.pem, Some(&admin), false).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("http");
    tokio::spawn(connection.with_upgrades());
    let request = Request::post(format!("{PODS}/p/exec?command=ls&command=a%20b&stdout=true"))
        .header("host", "localhost")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .body(body::empty())
        .expect("request");
    let mut answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()[UPGRADE], "SPDY/3.1");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.expect("upgraded"));
    let greeting = "/exec/default/p/c?output=1&command=ls&command=a%20b";
    let mut text = vec![0; greeting.len()];
    stream.read_exact(&mut text).await.expect("greeting");
    assert_eq!(String::from_utf8_lossy(&text), greeting);
    stream.write_all(b"ping").await.expect("written");
    let mut rest = Vec::new();
    // The far end hangs up without ceremony, as processes do.
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"ping");
    setup.stop.cancel();
}
