//! In which form and encoding answers come, and what is said where there is none.

use std::io::Read;

use amphipod_api::protobuf;
use http::Request;
use serde_json::{Value, json};

use crate::support::{Answer, MAPS, PODS, Server, config_map, pod, server};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PLAIN: &str = "only the following media types are accepted: application/json, application/yaml, \
                     application/vnd.kubernetes.protobuf";
const STREAMS: &str = "only the following media types are accepted: application/json;stream=watch, \
                       application/vnd.kubernetes.protobuf;stream=watch";

fn content_type(answer: &Answer) -> &str {
    answer.headers["content-type"].to_str().expect("text")
}

async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request =
        headers.iter().fold(Request::builder().uri(path), |r, (name, value)| r.header(*name, *value));
    server.send(request.body(Vec::new()).expect("a request")).await
}

#[tokio::test]
async fn what_cannot_be_accepted() {
    let server = server().await;
    server.post(PODS, &pod("a")).await.expect(201);
    let one = format!("{PODS}/a");
    let (watch, deployments) = (format!("{PODS}?watch=1"), "/apis/apps/v1/deployments".to_owned());
    let meta = |kind: &str| format!("application/json;as={kind};v=v1;g=meta.k8s.io");
    let table = [
        (PODS, "text/html".to_owned(), PLAIN),
        (PODS, "application/cbor".to_owned(), PLAIN),
        (PODS, "application/json;as=Table;v=v2;g=meta.k8s.io".to_owned(), PLAIN),
        (PODS, format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io"), PLAIN),
        (PODS, "application/json;as=Nothing;v=v1;g=meta.k8s.io".to_owned(), PLAIN),
        (PODS, "application/json;stream=lines".to_owned(), PLAIN),
        (&watch, "application/yaml".to_owned(), STREAMS),
        (
            PODS,
            meta("PartialObjectMetadata"),
            "you requested PartialObjectMetadata, but the requested object is a list (*core.PodList)",
        ),
        (
            &deployments,
            meta("PartialObjectMetadata"),
            "you requested PartialObjectMetadata, but the requested object is a list (*apps.DeploymentList)",
        ),
        (
            &one,
            meta("PartialObjectMetadataList"),
            "you requested PartialObjectMetadataList, but the requested object is not a list (*core.Pod)",
        ),
    ];
    for (path, accept, message) in table {
        let answer = server.get_as(path, &accept).await;
        // A refusal itself is written as was asked, where it can be.
        let status = read(&answer);
        assert_eq!((answer.code, &status["reason"]), (406, &json!("NotAcceptable")), "{path} {accept}");
        assert_eq!(status["message"], message, "{path} {accept}");
    }
    let text = get(&server, &format!("{PODS}?includeObject=All"), &[("accept", &meta("Table"))]).await;
    assert_eq!(
        text.refused(400, "BadRequest"),
        "Unable to convert to Table as requested: includeObject: Invalid \
        value: \"All\": must be 'Metadata', 'Object', 'None', or empty"
    );
}

#[tokio::test]
async fn the_best_clause_is_taken() {
    let server = server().await;
    server.post(PODS, &pod("a")).await.expect(201);
    let partial = |media: &str, version: &str| {
        format!("{media};as=PartialObjectMetadataList;v={version};g=meta.k8s.io")
    };
    // (Accept, content type, kind, apiVersion)
    let table = [
        ("".to_owned(), "application/json", "PodList", "v1"),
        ("*/*".to_owned(), "application/json", "PodList", "v1"),
        ("*/*, application/yaml".to_owned(), "application/yaml", "PodList", "v1"),
        ("application/cbor, application/json".to_owned(), "application/json", "PodList", "v1"),
        ("application/json;q=0.5, application/yaml;q=0.8".to_owned(), "application/yaml", "PodList", "v1"),
        (format!("{PROTOBUF},application/json"), PROTOBUF, "PodList", "v1"),
        (
            format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,application/json"),
            "application/json",
            "PodList",
            "v1",
        ),
        (
            "application/yaml;as=Table;v=v1;g=meta.k8s.io".to_owned(),
            "application/yaml",
            "Table",
            "meta.k8s.io/v1",
        ),
        (
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io".to_owned(),
            "application/json",
            "Table",
            "meta.k8s.io/v1beta1",
        ),
        (
            partial("application/json", "v1"),
            "application/json",
            "PartialObjectMetadataList",
            "meta.k8s.io/v1",
        ),
        (
            partial("application/json", "v1beta1"),
            "application/json",
            "PartialObjectMetadataList",
            "meta.k8s.io/v1beta1",
        ),
        (partial(PROTOBUF, "v1"), PROTOBUF, "PartialObjectMetadataList", "meta.k8s.io/v1"),
        (partial("*/*", "v1"), "application/json", "PartialObjectMetadataList", "meta.k8s.io/v1"),
    ];
    for (accept, media_type, kind, api_version) in table {
        let answer = server.get_as(PODS, &accept).await;
        assert_eq!((answer.code, content_type(&answer)), (200, media_type), "{accept}");
        let value = read(&answer);
        assert_eq!((&value["kind"], &value["apiVersion"]), (&json!(kind), &json!(api_version)), "{accept}");
        assert!(value["metadata"]["resourceVersion"].is_string(), "{accept}");
        let items = if kind == "Table" { "rows" } else { "items" };
        assert_eq!(value[items].as_array().map(Vec::len), Some(1), "{accept}");
    }
}

/// Refusals from before the handler, too, come in the encoding that was asked for; where none is
/// possible they come in JSON.
#[tokio::test]
async fn refusals_are_negotiated() {
    let server = server().await;
    let nobody = server.as_user("nobody", &["system:authenticated"]);
    let pod = format!("{PODS}/missing");
    let badly_timed = format!("{PODS}?timeout=soon");
    for (who, path, code, reason) in [
        (&nobody, PODS, 403, "Forbidden"),
        (&server, pod.as_str(), 404, "NotFound"),
        (&server, badly_timed.as_str(), 400, "BadRequest"),
    ] {
        for (accept, media_type) in [
            (PROTOBUF, PROTOBUF),
            ("application/yaml", "application/yaml"),
            ("application/vnd.kubernetes.protobuf, application/json", PROTOBUF),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                "application/json",
            ),
        ] {
            let answer = who.get_as(path, accept).await;
            assert_eq!((answer.code, content_type(&answer)), (code, media_type), "{path} {accept}");
            let status = read(&answer);
            assert_eq!((&status["kind"], &status["reason"]), (&json!("Status"), &json!(reason)), "{accept}");
        }
    }
}

fn read(answer: &Answer) -> Value {
    match content_type(answer) {
        PROTOBUF => protobuf::decode(&answer.bytes).expect("protobuf"),
        "application/yaml" => amphipod_api::codec::parse_document(&answer.bytes, true).expect("YAML"),
        _ => answer.json(),
    }
}

/// Every encoding and layout says the same.
#[tokio::test]
async fn lists_are_the_same_in_every_encoding() {
    let server = server().await;
    for count in [0, 1, 5] {
        if count > 0 {
            let mut map = config_map(&format!("m{count}"));
            map["data"] =
                json!({"text": "a\nb: |\n  c\n\n\"d\"\n", "empty": "", "big": "x".repeat(200 << 10)});
            server.post(MAPS, &map).await.expect(201);
        }
        for path in [MAPS.to_owned(), format!("{MAPS}?limit=1")] {
            let plain = server.get(&path).await.expect(200);
            for accept in ["application/yaml", PROTOBUF, "application/json;pretty=1"] {
                let mut other = read(&server.get_as(&path, accept).await);
                if count == 0 && accept == PROTOBUF {
                    // An empty list is not written there.
                    other["items"] = json!([]);
                }
                assert_eq!(without_token(other), without_token(plain.clone()), "{accept} {path}");
            }
        }
    }
    let pretty = server.get(&format!("{MAPS}?pretty=true")).await.bytes;
    let text = String::from_utf8(pretty.to_vec()).unwrap();
    assert!(text.starts_with("{\n  \"kind\": \"ConfigMapList\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"resourceVersion\""));
    assert!(text.ends_with("    }\n  ]\n}"), "{}", &text[text.len() - 40..]);
    let curl = get(&server, &format!("{MAPS}/m1"), &[("user-agent", "curl/8.5.0")]).await;
    assert!(curl.bytes.starts_with(b"{\n  \""));
    let curl = get(&server, &format!("{MAPS}/m1?pretty=false"), &[("user-agent", "curl/8.5.0")]).await;
    assert!(curl.bytes.starts_with(b"{\"kind\""));
}

fn without_token(mut list: Value) -> Value {
    list["metadata"].as_object_mut().expect("metadata").remove("continue");
    list
}

/// More than is kept of a protobuf list's first round.
#[tokio::test]
async fn protobuf_lists_longer_than_is_kept() {
    let server = server().await;
    for n in 0..10 {
        let mut map = config_map(&format!("m{n}"));
        map["data"]["text"] = "0123456789abcdef".repeat(40 << 10).into();
        server.post(MAPS, &map).await.expect(201);
    }
    let list = protobuf::decode(&server.get_as(MAPS, PROTOBUF).await.bytes).unwrap();
    assert_eq!(list, server.get(MAPS).await.expect(200));
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_take_it() {
    let server = server().await;
    let mut map = config_map("big");
    map["data"]["text"] = "0123456789".repeat(20_000).into();
    server.post(MAPS, &map).await.expect(201);
    server.post(MAPS, &config_map("small")).await.expect(201);
    let gzip = ("accept-encoding", "gzip, deflate");
    for (path, accept, wanted) in [
        ("/big", "application/json", true),
        ("", "application/json", true),
        ("", "application/yaml", true),
        ("", PROTOBUF, true),
        ("/small", "application/json", false),
        ("?watch=1&timeoutSeconds=1", "application/json", false),
    ] {
        let path = format!("{MAPS}{path}");
        let plain = get(&server, &path, &[("accept", accept)]).await;
        let answer = get(&server, &path, &[("accept", accept), gzip]).await;
        assert_eq!(answer.headers.contains_key("content-encoding"), wanted, "{path} {accept}");
        if wanted {
            let mut whole = Vec::new();
            flate2::read::GzDecoder::new(&answer.bytes[..]).read_to_end(&mut whole).unwrap();
            assert!(whole == plain.bytes && answer.headers["vary"] == "Accept-Encoding", "{path} {accept}");
        }
    }
}

/// The revision before an object's first.
fn version_before(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok());
    version.expect("a revision") - 1
}

#[tokio::test]
async fn metadata_is_watched_in_both_encodings() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let partial = "as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let whole = server.get(&format!("{MAPS}/a")).await.expect(200);
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    let since = format!("{path}&resourceVersion={}", version_before(&whole));
    let lines = server.get_as(&since, &format!("application/json;{partial}")).await;
    let events: Vec<Value> = lines
        .bytes
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let kinds: Vec<&Value> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["ADDED", "DELETED"]);
    assert_eq!(
        events[0]["object"],
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": whole["metadata"]})
    );
    let gone = &events[1]["object"]["metadata"];
    assert_eq!(gone["uid"], whole["metadata"]["uid"]);
    assert_ne!(gone["resourceVersion"], whole["metadata"]["resourceVersion"], "that of the deletion");
    server.post(MAPS, &config_map("a")).await.expect(201);
    let frames = server.get_as(&path, &format!("{PROTOBUF};{partial}")).await;
    assert_eq!(content_type(&frames), "application/vnd.kubernetes.protobuf;stream=watch");
    let at = frames.bytes.windows(4).position(|w| w == protobuf::MAGIC).unwrap();
    let text = String::from_utf8_lossy(&frames.bytes[at..]);
    assert!(text.contains("PartialObjectMetadata") && !text.contains("ConfigMap"));
}

#[tokio::test]
async fn discovery_in_both_forms() {
    let server = server().await;
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    for (path, plain) in [("/api", "APIVersions"), ("/apis", "APIGroupList")] {
        for (accept, kind) in [
            (format!("{v2},{beta},application/json"), "APIGroupDiscoveryList"),
            (format!("{beta},{v2},application/json"), "APIGroupDiscoveryList"),
            (format!("{beta},application/json"), plain),
            (format!("application/json,{v2}"), plain),
            ("".to_owned(), plain),
            (PROTOBUF.to_owned(), plain),
        ] {
            let answer = server.get_as(path, &accept).await;
            assert_eq!((answer.code, answer.headers["vary"].to_str().unwrap()), (200, "Accept"));
            assert_eq!(read(&answer)["kind"], kind, "{path} {accept}");
        }
        let first = server.get_as(path, v2).await;
        assert_eq!(
            content_type(&first),
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        );
        let etag = first.headers["etag"].to_str().unwrap().to_owned();
        let again = get(&server, path, &[("accept", v2), ("if-none-match", &etag)]).await;
        assert_eq!(
            (again.code, again.bytes.len(), again.headers["etag"].to_str().unwrap()),
            (304, 0, etag.as_str())
        );
        let other = get(&server, path, &[("accept", v2), ("if-none-match", "\"x\"")]).await;
        assert_eq!(other.code, 200);
    }
    for (path, kind) in
        [("/apis/apps", "APIGroup"), ("/apis/apps/v1", "APIResourceList"), ("/api/v1", "APIResourceList")]
    {
        assert_eq!(read(&server.get_as(path, PROTOBUF).await)["kind"], kind, "{path}");
    }
}

#[tokio::test]
async fn openapi_is_kept_by_its_hash() {
    let server = server().await;
    for path in ["/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"] {
        let first = server.get(path).await;
        let etag = first.headers["etag"].to_str().unwrap().to_owned();
        let again = get(&server, path, &[("if-none-match", &etag)]).await;
        assert_eq!((first.code, again.code, again.bytes.len()), (200, 304, 0), "{path}");
    }
    let packed = get(&server, "/openapi/v2", &[("accept-encoding", "gzip")]).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let vary: Vec<_> = packed.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["Accept", "Accept-Encoding"]);
    let index = server.get("/openapi/v3").await.expect(200);
    let relative = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = server.get(relative).await;
    assert_eq!(
        (document.code, document.headers["cache-control"].to_str().unwrap()),
        (200, "public, immutable")
    );
    let wrong = get(&server, "/openapi/v3/apis/apps/v1?hash=OLD", &[]).await;
    assert_eq!(wrong.code, 301);
    assert_eq!(wrong.headers["location"], relative);
}
