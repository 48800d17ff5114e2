use std::sync::Arc;

use amphipod_apiserver::{ApiServer, Config};
use amphipod_store::EmbeddedStore;
use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::{MAPS, PODS, Server, config_map, pod, server};

#[tokio::test]
async fn a_watch_sees_everything_in_order() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let list = server.get(MAPS).await.expect(200);
    let from = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut live = server.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(live.brief().await, "ADDED a");
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "2"}})).await.expect(200);
    server.post(MAPS, &config_map("b")).await.expect(201);
    let last = server.get(&format!("{MAPS}/a")).await.expect(200);
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    let mut resumed = server.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    for watch in [&mut live, &mut resumed] {
        assert_eq!(watch.brief().await, "MODIFIED a");
        assert_eq!(watch.brief().await, "ADDED b");
        let gone = watch.next().await.unwrap();
        assert_eq!(
            (gone["type"].as_str(), gone["object"]["data"]["k"].as_str()),
            (Some("DELETED"), Some("2"))
        );
        let version = |value: &serde_json::Value| {
            value["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
        };
        assert!(version(&gone["object"]) > version(&last));
    }
}

#[tokio::test]
async fn selectors_turn_changes_into_coming_and_going() {
    let server = server().await;
    server.post(PODS, &pod("a")).await.expect(201);
    let mut watch = server.watch(&format!("{PODS}?watch=1&labelSelector=app%3Da&resourceVersion=0")).await;
    let mut node = server.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn").await;
    assert_eq!(watch.brief().await, "ADDED a");
    server.merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"app": "b"}}})).await.expect(200);
    let gone = watch.next().await.unwrap();
    assert_eq!(
        (gone["type"].as_str(), gone["object"]["metadata"]["labels"]["app"].as_str()),
        (Some("DELETED"), Some("a"))
    );
    server.merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"app": "a"}}})).await.expect(200);
    assert_eq!(watch.brief().await, "ADDED a");
    let binding =
        json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "a"}, "target": {"name": "n"}});
    server.post(&format!("{PODS}/a/binding"), &binding).await.expect(201);
    assert_eq!(node.brief().await, "ADDED a");
}

#[tokio::test]
async fn watch_lists_end_with_a_marked_bookmark() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("{MAPS}?{query}&timeoutSeconds=1")).await;
    assert_eq!(watch.brief().await, "ADDED a");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    while watch.next().await.is_some() {}
    server.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.refused(422, "Invalid");
}

#[tokio::test]
async fn too_old_revisions_are_told_in_the_stream() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    server.api.cache.compact(server.api.cache.applied()).await.unwrap();
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion=2")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_i64()), (Some("ERROR"), Some(410)));
    let said = event["object"]["message"].as_str().unwrap();
    assert!(said.starts_with("too old resource version: 2 ("), "{said}");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn tables_are_watched_too() {
    let server = server().await;
    server.post(PODS, &pod("a")).await.expect(201);
    let request = http::Request::builder()
        .uri(format!("{PODS}?watch=1&timeoutSeconds=1"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let answer = server.send(request.body(Vec::new()).unwrap()).await;
    let first: serde_json::Value =
        serde_json::from_slice(answer.bytes.split(|b| *b == b'\n').next().unwrap()).unwrap();
    assert_eq!(
        (first["object"]["kind"].as_str(), first["object"]["rows"][0]["cells"][0].as_str()),
        (Some("Table"), Some("a"))
    );
}

/// The revisions of the events in each chunk of a watch that lasts a second.
async fn revisions_by_chunk(server: &Server, path: &str) -> Vec<Vec<String>> {
    let request =
        http::Request::builder().uri(format!("{path}&timeoutSeconds=1")).body(Vec::new()).expect("a request");
    let mut chunks = server.raw(request).await.into_body().into_data_stream();
    let mut found = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.expect("an unbroken answer");
        let lines = chunk.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let revision = |line: &[u8]| {
            let event: Value = serde_json::from_slice(line).expect("an event");
            event["object"]["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
        };
        found.push(lines.map(revision).collect());
    }
    found
}

#[tokio::test]
async fn no_chunk_ends_within_a_revision() {
    let config = Config {
        service_cidrs: ["10.0.0.0/16", "fd00::/112"].map(|c| c.parse().unwrap()).into(),
        ..Config::default()
    };
    let store = Arc::new(EmbeddedStore::memory().unwrap());
    let server = Server::of(ApiServer::start(config, store).await.unwrap()).await;
    let mut starts = Vec::new();
    // Two addresses each, and more than a chunk of them; one has a single address, so that chunks end
    // after even and odd numbers of events, by where a watch starts.
    for number in 0..150 {
        let policy = if number == 8 { "SingleStack" } else { "RequireDualStack" };
        let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": format!("s{number}")},
            "spec": {"ipFamilyPolicy": policy, "ports": [{"port": 80}]}});
        let made = server.post("/api/v1/namespaces/default/services", &service).await.expect(201);
        starts.push(made["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
    }
    let watches = starts.iter().take(16).map(|start| {
        let server = &server;
        let path = format!("/apis/networking.k8s.io/v1/ipaddresses?watch=1&resourceVersion={start}");
        async move { revisions_by_chunk(server, &path).await }
    });
    for chunks in futures::future::join_all(watches).await {
        assert!(chunks.len() > 1, "{chunks:?}");
        for pair in chunks.windows(2) {
            assert_ne!(pair[0].last(), pair[1].first());
        }
    }
}
