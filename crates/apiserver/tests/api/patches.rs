//! The three patch formats, end to end: outcomes, codes and words.

use serde_json::{Value, json};

use crate::support::{Answer, MAPS, PODS, Server, config_map, pod, server};

async fn patch(server: &Server, path: &str, form: &str, body: &Value) -> Answer {
    server.with("PATCH", path, &format!("application/{form}-patch+json"), &body.to_string()).await
}

fn causes(answer: Answer) -> (u16, String) {
    let status = answer.json();
    let cause = status["details"]["causes"][0]["message"].as_str().unwrap_or_default().to_owned();
    (answer.code, cause)
}

#[tokio::test]
async fn json_patches_are_refused_as_a_whole() {
    let server = server().await;
    server.post(MAPS, &config_map("m")).await.expect(201);
    let path = format!("{MAPS}/m");
    let half =
        json!([{"op": "add", "path": "/data/x", "value": "1"}, {"op": "remove", "path": "/data/none"}]);
    let (code, cause) = causes(patch(&server, &path, "json", &half).await);
    let text =
        "error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value";
    assert_eq!((code, cause.as_str()), (422, text));
    let failed = json!([{"op": "test", "path": "/data/k", "value": "no"}]);
    let (code, cause) = causes(patch(&server, &path, "json", &failed).await);
    assert_eq!((code, cause.as_str()), (422, "testing value /data/k failed: test failed"));
    assert_eq!(server.get(&path).await.expect(200)["data"], json!({"k": "v"}));

    let refused = patch(&server, &path, "json", &json!({"op": "add"})).await.refused(400, "BadRequest");
    assert_eq!(
        refused,
        "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
    );
    let many = json!(vec![json!({"op": "test", "path": "/data/k", "value": "v"}); 10_001]);
    let refused = patch(&server, &path, "json", &many).await.refused(413, "RequestEntityTooLarge");
    assert!(
        refused.contains("The allowed maximum operations in a JSON patch is 10000, got 10001"),
        "{refused}"
    );
    let strange = json!([{"op": "add", "path": "/data/y", "value": "1", "extra": 1}]);
    let answer = patch(&server, &path, "json", &strange).await;
    assert_eq!(answer.headers["warning"], "299 - \"json patch unknown field \\\"[0].extra\\\"\"");
    let moved = json!([{"op": "replace", "path": "/metadata/name", "value": "n"}]);
    let refused = patch(&server, &path, "json", &moved).await.refused(400, "BadRequest");
    assert_eq!(refused, "the name of the object (n) does not match the name on the URL (m)");
    let lost = json!([{"op": "remove", "path": "/metadata/name"}]);
    let refused = patch(&server, &path, "json", &lost).await.refused(400, "BadRequest");
    assert_eq!(refused, "the name of the object (m based on URL) was undeterminable: name must be provided");
}

#[tokio::test]
async fn outcomes_must_fit_their_type() {
    let server = server().await;
    server.post(MAPS, &config_map("m")).await.expect(201);
    let path = format!("{MAPS}/m");
    let wrong = json!({"data": {"k": 1}});
    let refused = patch(&server, &path, "merge", &wrong).await.refused(422, "Invalid");
    assert!(refused.starts_with(" \"\" is invalid: patch: Invalid value: \"{\\\""), "{refused}");
    assert!(refused.contains("cannot unmarshal number"), "{refused}");
    let refused = patch(&server, &path, "strategic-merge", &wrong).await.refused(422, "Invalid");
    assert!(
        refused.starts_with(" \"\" is invalid: patch: Invalid value: \"map[data:map[k:1]]\": "),
        "{refused}"
    );
    let strict = format!("{path}?fieldValidation=Strict");
    let unknown = json!({"dat": {"k": "1"}});
    let refused = patch(&server, &strict, "merge", &unknown).await.refused(422, "Invalid");
    assert!(refused.ends_with("strict decoding error: unknown field \"dat\""), "{refused}");
    let twice = r#"{"data": {"k": "1", "k": "2"}}"#;
    let answer = server.with("PATCH", &path, "application/merge-patch+json", twice).await;
    assert_eq!(answer.headers["warning"], "299 - \"duplicate field \\\"data.k\\\"\"");
    assert_eq!(answer.expect(200)["data"]["k"], "2");
    let refused = patch(&server, &path, "merge", &json!([1])).await.refused(400, "BadRequest");
    assert_eq!(
        refused,
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
    patch(&server, &path, "merge", &json!({"kind": "Secret"})).await.refused(422, "Invalid");
}

#[tokio::test]
async fn strategic_faults() {
    let server = server().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let path = format!("{PODS}/p");
    let strategic = async |body: Value| patch(&server, &path, "strategic-merge", &body).await;
    let message = strategic(json!({"spec": {"containers": [{"image": "y"}]}})).await.expect(500);
    assert_eq!(message["message"], "map: map[image:y] does not contain declared merge key: name");
    strategic(json!({"spec": {"$retainKeys": 1}})).await.refused(400, "BadRequest");
    let mixed = strategic(json!({"spec": {"containers": ["c"]}})).await.expect(500);
    let text = mixed["message"].as_str().expect("a message");
    assert!(text.starts_with("list element types are not identical: [[map["), "{text}");
    let finalizers = strategic(json!({"metadata": {"finalizers": ["a.b/c", "d.e/f"]}})).await.expect(200);
    assert_eq!(finalizers["metadata"]["finalizers"], json!(["a.b/c", "d.e/f"]));
    let fewer = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a.b/c"],
        "$setElementOrder/finalizers": ["d.e/f"]}});
    let fewer = strategic(fewer).await.expect(200);
    assert_eq!(fewer["metadata"]["finalizers"], json!(["d.e/f"]));
}

#[tokio::test]
async fn null_is_a_patch_of_its_form() {
    let server = server().await;
    let before = server.post(MAPS, &config_map("a")).await.expect(201);
    let path = format!("{MAPS}/a?fieldManager=m");
    // No operation, and a map without fields.
    for form in ["json-patch+json", "strategic-merge-patch+json"] {
        let after = server.with("PATCH", &path, &format!("application/{form}"), "null").await.expect(200);
        assert_eq!(after["data"], before["data"], "{form}");
    }
    let version = "Incorrect version specified in apply patch. Specified patch version: , expected: v1";
    for (form, body, why) in [
        ("merge-patch+json", "null", "Invalid JSON Patch"),
        ("apply-patch+yaml", "null", version),
        ("apply-patch+yaml", "", version),
    ] {
        let answer = server.with("PATCH", &path, &format!("application/{form}"), body).await;
        assert_eq!(answer.refused(400, "BadRequest"), why, "{form} {body:?}");
    }
}

#[tokio::test]
async fn patches_with_conditions() {
    let server = server().await;
    let created = server.post(MAPS, &config_map("m")).await.expect(201);
    let path = format!("{MAPS}/m");
    let version = created["metadata"]["resourceVersion"].as_str().expect("a version");
    for form in ["merge", "strategic-merge"] {
        let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"a": "b"}});
        let refused = patch(&server, &path, form, &stale).await.refused(409, "Conflict");
        assert!(refused.contains("the object has been modified"), "{refused}");
    }
    let fresh = json!({"metadata": {"resourceVersion": version}, "data": {"a": "b"}});
    let patched = patch(&server, &path, "merge", &fresh).await.expect(200);
    let same = patch(&server, &path, "merge", &json!({"data": {"a": "b"}})).await.expect(200);
    assert_eq!(same, patched);
    let dry = patch(&server, &format!("{path}?dryRun=All"), "merge", &json!({"data": {"a": "c"}}))
        .await
        .expect(200);
    assert_eq!(dry["data"]["a"], "c");
    assert_eq!(server.get(&path).await.expect(200), patched);
    let uid = json!({"metadata": {"uid": "other"}});
    patch(&server, &path, "merge", &uid).await.refused(409, "Conflict");
    for form in ["json", "merge", "strategic-merge"] {
        let body = if form == "json" { json!([]) } else { json!({}) };
        let refused = patch(&server, &format!("{MAPS}/none"), form, &body).await.refused(404, "NotFound");
        assert_eq!(refused, "configmaps \"none\" not found");
    }
    let immutable = json!({"immutable": true});
    patch(&server, &path, "merge", &immutable).await.expect(200);
    let refused = patch(&server, &path, "merge", &json!({"data": {"a": "d"}})).await.refused(422, "Invalid");
    assert!(refused.contains("field is immutable when `immutable` is set"), "{refused}");
}

#[tokio::test]
async fn racing_patches_all_arrive() {
    let server = server().await;
    server.post(MAPS, &config_map("m")).await.expect(201);
    let path = format!("{MAPS}/m");
    let writers = (0..8).map(|i| {
        let (server, path) = (&server, &path);
        async move { patch(server, path, "merge", &json!({"data": {format!("w{i}"): "1"}})).await.expect(200) }
    });
    futures::future::join_all(writers).await;
    let data = server.get(&path).await.expect(200);
    assert_eq!(data["data"].as_object().map(serde_json::Map::len), Some(9));
}

#[tokio::test]
async fn subresources_are_patched() {
    let server = server().await;
    server.post(PODS, &pod("p")).await.expect(201);
    let path = format!("{PODS}/p");
    let status = json!({"status": {"phase": "Running", "message": "m"}, "metadata": {"ownerReferences": []}});
    let after = patch(&server, &format!("{path}/status"), "strategic-merge", &status).await.expect(200);
    assert_eq!(after["status"]["phase"], "Running");
    let ephemeral = json!({"spec": {"ephemeralContainers": [
        {"name": "debug", "image": "b", "targetContainerName": "c"}]}});
    let after = patch(&server, &format!("{path}/ephemeralcontainers"), "strategic-merge", &ephemeral)
        .await
        .expect(200);
    assert_eq!(after["spec"]["ephemeralContainers"][0]["name"], "debug");
    let entries = after["metadata"]["managedFields"].as_array().expect("entries").clone();
    let debug = entries.iter().find(|e| e["subresource"] == "ephemeralcontainers").expect("an entry");
    let owned: Vec<&String> = debug["fieldsV1"]["f:spec"].as_object().expect("fields").keys().collect();
    assert_eq!(owned, ["f:ephemeralContainers"]);
    let resize = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}});
    let answer = patch(&server, &format!("{path}/resize"), "strategic-merge", &resize).await;
    assert!([200, 422].contains(&answer.code), "{}", answer.json());
}
