use serde_json::json;

use crate::support::{MAPS, PODS, config_map, pod, server};

#[tokio::test]
async fn pages_are_of_one_revision() {
    let server = server().await;
    for n in 0..7 {
        server.post(MAPS, &config_map(&format!("m{n}"))).await.expect(201);
    }
    let first = server.get(&format!("{MAPS}?limit=3")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    assert!(first["items"][0].get("kind").is_none());
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    server.post(MAPS, &config_map("m9")).await.expect(201);
    server.delete(&format!("{MAPS}/m4")).await.expect(200);
    let second = server.get(&format!("{MAPS}?limit=3&continue={token}")).await.expect(200);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let names: Vec<&str> =
        second["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m3", "m4", "m5"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{MAPS}?limit=3&continue={token}")).await.expect(200);
    assert!(third["metadata"].get("continue").is_none());
    assert_eq!(third["items"].as_array().unwrap().len(), 1);

    let revision: u64 = server.api.cache.applied();
    server.api.cache.compact(revision).await.unwrap();
    let expired = server.get(&format!("{MAPS}?limit=3&continue={token}")).await;
    let status = expired.json();
    expired.refused(410, "Expired");
    let exactly = format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", revision - 1);
    let said = server.get(&exactly).await.refused(410, "Expired");
    assert_eq!(said, "The resourceVersion for the provided list is too old.");
    let fresh = status["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MAPS}?limit=3&continue={fresh}")).await.expect(200);
    assert_eq!(rest["items"][1]["metadata"]["name"], "m9");
    server.get(&format!("{MAPS}?continue=x")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn selectors_select_and_revisions_are_kept() {
    let server = server().await;
    for name in ["a", "b"] {
        server.post(PODS, &pod(name)).await.expect(201);
    }
    let list = server.get(&format!("{PODS}?labelSelector=app%3Da")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let list = server.get("/api/v1/pods?fieldSelector=spec.nodeName%3D,metadata.name!%3Da").await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
    server.get(&format!("{PODS}?fieldSelector=spec.nope%3Dx")).await.refused(400, "BadRequest");
    let old = list["metadata"]["resourceVersion"].as_str().unwrap();
    server.delete(&format!("{PODS}/a")).await.expect(200);
    let exact = format!("{PODS}?resourceVersion={old}&resourceVersionMatch=Exact");
    assert_eq!(server.get(&exact).await.expect(200)["items"].as_array().unwrap().len(), 2);
    server.get(&format!("{PODS}?resourceVersionMatch=Exact")).await.refused(422, "Invalid");
    let gone = server.delete(&format!("{PODS}?labelSelector=app%3Db")).await.expect(200);
    assert_eq!(gone["items"].as_array().unwrap().len(), 1);
    assert!(server.get(PODS).await.expect(200)["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn other_forms() {
    let server = server().await;
    server.post(PODS, &pod("a")).await.expect(201);
    let table = server
        .get_as(PODS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .await
        .expect(200);
    assert_eq!(
        (table["kind"].as_str(), table["columnDefinitions"][0]["name"].as_str()),
        (Some("Table"), Some("Name"))
    );
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = server.get_as(PODS, partial).await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["labels"], json!({"app": "a"}));
    assert!(list["items"][0].get("spec").is_none());
    let yaml = server.get_as(&format!("{PODS}/a"), "application/yaml").await;
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("kind: Pod"));
    let protobuf = server.get_as(PODS, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(&protobuf.bytes[..4], b"k8s\0");
}

#[tokio::test]
async fn large_lists_are_compressed_when_asked() {
    let server = server().await;
    for n in 0..3 {
        let mut map = config_map(&format!("big{n}"));
        map["data"]["text"] = "0123456789".repeat(10_000).into();
        server.post(MAPS, &map).await.expect(201);
    }
    let request = http::Request::builder().uri(MAPS).header("accept-encoding", "gzip");
    let answer = server.send(request.body(Vec::new()).unwrap()).await;
    assert_eq!(answer.headers["content-encoding"], "gzip");
    assert!(answer.bytes.len() < 50_000);
    assert_eq!(server.get(MAPS).await.expect(200)["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn protobuf_clients_write_and_watch() {
    let server = server().await;
    let media = "application/vnd.kubernetes.protobuf";
    let mut map = config_map("a");
    map["metadata"]["namespace"] = "default".into();
    let bytes = amphipod_api::protobuf::encode(&map).unwrap();
    let request = http::Request::builder()
        .method("POST")
        .uri(MAPS)
        .header("content-type", media)
        .header("accept", format!("{media},application/json"));
    let made = server.send(request.body(bytes).unwrap()).await;
    assert_eq!((made.code, made.headers["content-type"].to_str().unwrap()), (201, media));
    let value = amphipod_api::protobuf::decode(&made.bytes).unwrap();
    assert_eq!((value["kind"].as_str(), value["data"]["k"].as_str()), (Some("ConfigMap"), Some("v")));
    let missing = server.get_as(&format!("{MAPS}/b"), media).await;
    let status = amphipod_api::protobuf::decode(&missing.bytes).unwrap();
    assert_eq!((missing.code, status["reason"].as_str()), (404, Some("NotFound")));
    let watch = server.get_as(&format!("{MAPS}?watch=1&timeoutSeconds=1"), media).await;
    assert_eq!(watch.headers["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let length = u32::from_be_bytes(watch.bytes[..4].try_into().unwrap()) as usize;
    assert!(length > 0 && watch.bytes.len() >= length + 4);
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[tokio::test]
async fn protobuf_says_what_json_says() {
    let server = server().await;
    for n in 0..5 {
        server.post(PODS, &pod(&format!("p{n}"))).await.expect(201);
    }
    for path in [
        format!("{PODS}/p1"),
        PODS.to_owned(),
        format!("{PODS}?limit=2"),
        format!("{PODS}?labelSelector=app%3Dp3"),
    ] {
        let mut expected = server.get(&path).await.expect(200);
        let answer = server.get_as(&path, PROTOBUF).await;
        assert_eq!((answer.code, answer.headers["content-type"].to_str().unwrap()), (200, PROTOBUF));
        let found = amphipod_api::protobuf::decode(&answer.bytes).expect("a document");
        // Tokens name the moment they were made.
        if expected["metadata"]["continue"].is_string() {
            expected["metadata"]["continue"] = found["metadata"]["continue"].clone();
        }
        assert_eq!(found, expected, "{path}");
    }
}

#[tokio::test]
async fn protobuf_watches_frame_each_event() {
    use http_body_util::BodyExt;
    let server = server().await;
    let watched = format!("{PODS}?watch=1&timeoutSeconds=1");
    server.post(PODS, &pod("a")).await.expect(201);
    let request = http::Request::builder().uri(&watched).header("accept", format!("{PROTOBUF};stream=watch"));
    let answer = server.raw(request.body(Vec::new()).unwrap()).await;
    assert_eq!(answer.headers()["content-type"], format!("{PROTOBUF};stream=watch").as_str());
    server.merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    server.delete(&format!("{PODS}/a?gracePeriodSeconds=0")).await.expect(200);
    let bytes = answer.into_body().collect().await.expect("an end").to_bytes();
    let (mut rest, mut seen) = (&bytes[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (frame, next) = after.split_at(u32::from_be_bytes(*length) as usize);
        // WatchEvent{type = 1, object = 2}: the type is short, the envelope begins with its magic.
        let kind = &frame[2..2 + usize::from(frame[1])];
        let magic = frame.windows(4).position(|w| w == amphipod_api::protobuf::MAGIC).expect("an envelope");
        let object = amphipod_api::protobuf::decode(&frame[magic..]).expect("a document");
        assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("Pod"), &json!("v1")));
        seen.push((String::from_utf8_lossy(kind).into_owned(), object["metadata"]["labels"]["x"].clone()));
        rest = next;
    }
    let event = |kind: &str, label: serde_json::Value| (kind.to_owned(), label);
    assert_eq!(
        seen,
        [event("ADDED", json!(null)), event("MODIFIED", json!("y")), event("DELETED", json!("y"))]
    );
}
