//! What the parameters of reads and writes may say, and in which words they are refused.

use serde_json::json;

use crate::support::{MAPS, PODS, Server, config_map, pod, server};

/// (method, what follows the collection's path, code, reason, message)
type Refusal<'a> = (&'a str, &'a str, u16, &'a str, &'a str);

async fn refuses(server: &Server, body: &str, table: &[Refusal<'_>]) {
    for (method, rest, code, reason, message) in table {
        let rest = rest.replace("LONG", &"m".repeat(129));
        let answer = server.with(method, &format!("{MAPS}{rest}"), "application/json", body).await;
        assert_eq!(answer.refused(*code, reason), *message, "{method} {rest}");
    }
}

const READS: &[Refusal<'_>] = &[
    (
        "GET",
        "/a?resourceVersion=abc",
        500,
        "",
        "resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax",
    ),
    (
        "GET",
        "?watch=1&resourceVersion=abc",
        500,
        "",
        "resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax",
    ),
    (
        "GET",
        "?resourceVersion=abc",
        400,
        "BadRequest",
        "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax",
    ),
    (
        "DELETE",
        "?resourceVersion=abc",
        400,
        "BadRequest",
        "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax",
    ),
    (
        "GET",
        "?resourceVersion=%2B5",
        400,
        "BadRequest",
        "invalid resource version: resourceVersion: Invalid value: \"+5\": strconv.ParseUint: parsing \"+5\": invalid syntax",
    ),
    (
        "GET",
        "?resourceVersion=99999999999999999999",
        400,
        "BadRequest",
        "invalid resource version: resourceVersion: Invalid value: \"99999999999999999999\": strconv.ParseUint: \
             parsing \"99999999999999999999\": value out of range",
    ),
    (
        "GET",
        "?resourceVersionMatch=Exact",
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden unless resourceVersion is provided",
    ),
    (
        "DELETE",
        "?resourceVersionMatch=Exact",
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden unless resourceVersion is provided",
    ),
    (
        "GET",
        "?resourceVersionMatch=Exact&resourceVersion=0",
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" \
             is forbidden for resourceVersion \"0\"",
    ),
    (
        "GET",
        "?resourceVersionMatch=Newer&continue=x",
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden unless resourceVersion is provided, resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden when continue is provided, resourceVersionMatch: Unsupported value: \"Newer\": supported \
             values: \"Exact\", \"NotOlderThan\", \"\"]",
    ),
    (
        "GET",
        "?sendInitialEvents=true",
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
    ),
    (
        "GET",
        "?watch=1&sendInitialEvents=true",
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires \
             setting resourceVersionMatch to NotOlderThan",
    ),
    (
        "GET",
        "?watch=1&resourceVersionMatch=NotOlderThan",
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden for watch unless sendInitialEvents is provided",
    ),
    (
        "GET",
        "?watch=1&sendInitialEvents=false&resourceVersionMatch=Exact",
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: sendInitialEvents requires \
             setting resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \"Exact\": \
             supported values: \"NotOlderThan\"]",
    ),
    (
        "GET",
        "?continue=x",
        400,
        "BadRequest",
        "invalid continue token: continue key is not valid: illegal base64 data at input byte 0",
    ),
    // {"v":"meta.k8s.io/v1","rv":0,"start":"a"}, then rv 1 with no start, then with "../a".
    (
        "GET",
        "?continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0",
        400,
        "BadRequest",
        "invalid continue token: continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
    ),
    (
        "GET",
        "?continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIifQ",
        400,
        "BadRequest",
        "invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)",
    ),
    (
        "GET",
        "?continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9hIn0",
        400,
        "BadRequest",
        "invalid continue token: continue key is not valid: ../a",
    ),
    (
        "GET",
        "?fieldSelector=spec.x%3Da",
        400,
        "BadRequest",
        "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
    ),
    (
        "GET",
        "/a?watch=1&fieldSelector=metadata.name%3Db",
        400,
        "BadRequest",
        "fieldSelector metadata.name doesn't match requested name",
    ),
];

#[tokio::test]
async fn reads_are_refused_in_upstreams_words() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    refuses(&server, "", READS).await;
}

const WRITES: &[Refusal<'_>] = &[
    (
        "POST",
        "?dryRun=all",
        422,
        "Invalid",
        "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"all\"]: supported values: \"All\"",
    ),
    (
        "PUT",
        "/a?dryRun=All&dryRun=x",
        422,
        "Invalid",
        "UpdateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"All\",\"x\"]: supported values: \"All\"",
    ),
    (
        "POST",
        "?fieldValidation=x",
        422,
        "Invalid",
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"x\": supported values: \
             \"\", \"Ignore\", \"Strict\", \"Warn\"",
    ),
    (
        "POST",
        "?fieldManager=LONG",
        422,
        "Invalid",
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes",
    ),
    (
        "POST",
        "?fieldManager=a%07b&dryRun=x",
        422,
        "Invalid",
        "CreateOptions.meta.k8s.io \"\" is invalid: [fieldManager: Invalid value: \"a\\x07b\": invalid character \
             U+0007 (at position 1), dryRun: Unsupported value: [\"x\"]: supported values: \"All\"]",
    ),
    (
        "PUT",
        "/a?propagationPolicy=x&fieldValidation=strict",
        422,
        "Invalid",
        "UpdateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"strict\": supported \
             values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
    ),
    ("PUT", "/b", 400, "BadRequest", "the name of the object (a) does not match the name on the URL (b)"),
    ("POST", "", 409, "AlreadyExists", "configmaps \"a\" already exists"),
];

const DELETES: &[Refusal<'_>] = &[
    (
        "DELETE",
        "/a?dryRun=x",
        422,
        "Invalid",
        "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"x\"]: supported values: \"All\"",
    ),
    (
        "DELETE",
        "/a?propagationPolicy=x",
        422,
        "Invalid",
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"x\": supported values: \
             \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
    ),
    (
        "DELETE",
        "/a?propagationPolicy=Orphan&orphanDependents=true",
        422,
        "Invalid",
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Orphan\": orphanDependents \
             and deletionPropagation cannot be both set",
    ),
];

#[tokio::test]
async fn writes_are_refused_in_upstreams_words() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let body = config_map("a").to_string();
    refuses(&server, &body, WRITES).await;
    refuses(&server, "", DELETES).await;
    let text = server
        .with("DELETE", &format!("{MAPS}/a"), "application/json", r#"{"preconditions":{"uid":"u"}}"#)
        .await
        .refused(409, "Conflict");
    assert!(
        text.starts_with(
            "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (u) does not match"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn a_name_beside_a_prefix_that_is_taken() {
    let server = server().await;
    let mut map = config_map("a");
    map["metadata"]["generateName"] = "a-".into();
    server.post(MAPS, &map).await.expect(201);
    for path in [MAPS.to_owned(), format!("{MAPS}?dryRun=All")] {
        let answer = server.post(&path, &map).await;
        assert_eq!(answer.headers["retry-after"], "1");
        let text = "configmaps \"a\" already exists, the server was not able to generate a unique name for the object";
        assert_eq!(answer.refused(409, "AlreadyExists"), text);
    }
    map["metadata"]["name"] = serde_json::Value::Null;
    let names = [server.post(MAPS, &map).await.expect(201), server.post(MAPS, &map).await.expect(201)]
        .map(|made| made["metadata"]["name"].as_str().unwrap().to_owned());
    assert!(names.iter().all(|name| name.starts_with("a-") && name.len() == 7) && names[0] != names[1]);
}

#[tokio::test]
async fn revisions_that_are_not_there_yet_or_no_more() {
    let server = server().await;
    let made = server.post(MAPS, &config_map("a")).await.expect(201);
    let old = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for path in [
        format!("{MAPS}?resourceVersion=1000000&resourceVersionMatch=NotOlderThan"),
        format!("{MAPS}/a?resourceVersion=1000000"),
    ] {
        let answer = server.get(&path).await;
        assert_eq!(answer.headers["retry-after"], "1");
        let status = answer.json();
        assert_eq!(
            status["details"]["causes"][0],
            json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"})
        );
        assert!(
            answer
                .refused(504, "Timeout")
                .starts_with("Timeout: Too large resource version: 1000000, current: ")
        );
    }
    // A watch says it in its stream.
    let query = "watch=1&resourceVersion=1000000&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let event = server.watch(&format!("{MAPS}?{query}")).await.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_i64()), (Some("ERROR"), Some(504)));
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    let exact = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    assert_eq!(server.get(&exact).await.expect(200)["items"][0]["metadata"]["name"], "a");
    let newest = server.api.cache.fresh().await.unwrap();
    server.api.cache.compact(newest).await.unwrap();
    let text = server.get(&exact).await.refused(410, "Expired");
    assert_eq!(text, "The resourceVersion for the provided list is too old.");
}

#[tokio::test]
async fn which_lists_count_what_is_left() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        server.post(PODS, &pod(name)).await.expect(201);
    }
    for (query, remaining) in [
        ("limit=1", Some(2)),
        ("limit=3", None),
        ("limit=1&labelSelector=app", None),
        ("limit=1&fieldSelector=spec.nodeName%3D", None),
        ("limit=1&resourceVersion=0", Some(2)),
    ] {
        let list = server.get(&format!("{PODS}?{query}")).await.expect(200);
        assert_eq!(list["metadata"]["remainingItemCount"].as_i64(), remaining, "{query}");
        assert_eq!(list["metadata"].get("continue").is_some(), query.starts_with("limit=1"), "{query}");
    }
}

#[tokio::test]
async fn bookmarks_come_to_those_who_asked() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    for (query, marked) in [
        ("allowWatchBookmarks=true".to_owned(), true),
        ("allowWatchBookmarks=true&resourceVersion=0".to_owned(), true),
        (format!("allowWatchBookmarks=true&{initial}"), true),
        (initial.to_owned(), false),
        (String::new(), false),
    ] {
        let mut watch = server.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&{query}")).await;
        assert_eq!(watch.brief().await, "ADDED a", "{query}");
        let next = watch.next().await;
        let annotation = next
            .as_ref()
            .map(|e| e["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"].clone());
        assert_eq!(annotation, marked.then(|| json!("true")), "{query}");
    }
    // Without the state nothing is said of what is there.
    let query = "watch=1&timeoutSeconds=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    assert_eq!(server.watch(&format!("{MAPS}?{query}")).await.next().await, None);
}
