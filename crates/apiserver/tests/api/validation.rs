//! Bodies: what is read as what, and what is refused in which words.

use serde_json::json;

use crate::support::{MAPS, config_map, server};

const YAML: &str = "application/yaml";
const JSON: &str = "application/json";

#[tokio::test]
async fn bodies_that_are_no_objects() {
    let server = server().await;
    let unrecognized = "the object provided is unrecognized (must be of type ConfigMap): ";
    let json_error = format!("{unrecognized}couldn't get version/kind; json parse error: ");
    let table = [
        (JSON, "", 400, format!("{json_error}unexpected end of JSON input (<empty>)")),
        (JSON, "{", 400, format!("{json_error}unexpected end of JSON input ({{)")),
        (JSON, "{\"a\":1,}", 400,
            format!("{json_error}invalid character '}}' looking for beginning of object key string ({{\"a\":1,}})")),
        (JSON, "null", 422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required".to_owned()),
        (YAML, "", 422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required".to_owned()),
        (JSON, "{\"kind\":\"Secret\",\"apiVersion\":\"v1\"}", 400,
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): \
             unknown conversion".to_owned()),
        (JSON, "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v2\"}", 400,
            "the API version in the data (v2) does not match the expected API version (v1)".to_owned()),
        (JSON, "{\"metadata\":{\"name\":\"a\",\"namespace\":\"other\"}}", 400,
            "the namespace of the provided object does not match the namespace sent on the request".to_owned()),
        (JSON, "{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"5\"}}", 500,
            "resourceVersion should not be set on objects to be created".to_owned()),
        ("application/merge-patch+json", "{}", 415,
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf".to_owned()),
        ("application/cbor", "x", 415,
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf".to_owned()),
    ];
    for (media_type, body, code, message) in table {
        let status = server.with("POST", MAPS, media_type, body).await.expect(code);
        assert_eq!(status["message"], message, "{media_type} {body}");
    }
    let yaml = server.with("POST", MAPS, YAML, "a: [").await.expect(400);
    let text = yaml["message"].as_str().unwrap();
    let why = "error converting YAML to JSON: yaml: line 1: did not find expected node content (613a205b)";
    assert_eq!(text, format!("{unrecognized}{why}"));
}

#[tokio::test]
async fn fields_nobody_knows_and_fields_said_twice() {
    let server = server().await;
    let json = r#"{"metadata":{"name":"a","labels":{"x":"1","x":"2"}},"data":{},"nope":1,"immutable":false,"immutable":false}"#;
    let yaml = "metadata:\n  name: a\nnope: 1\nimmutable: false\nimmutable: false\n";
    let json_faults =
        ["duplicate field \"metadata.labels.x\"", "unknown field \"nope\"", "duplicate field \"immutable\""];
    let yaml_faults = ["line 5: key \"immutable\" already set in map", "unknown field \"nope\""];
    for (media_type, body, faults) in [(JSON, json, &json_faults[..]), (YAML, yaml, &yaml_faults[..])] {
        let strict = server.with("POST", &format!("{MAPS}?fieldValidation=Strict"), media_type, body).await;
        let text = strict.refused(400, "BadRequest");
        assert!(text.starts_with(
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: "
        ));
        assert!(faults.iter().all(|fault| text.contains(fault)), "{text}");
        let warned = server.with("POST", &format!("{MAPS}?dryRun=All"), media_type, body).await;
        let warnings: Vec<&str> =
            warned.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
        let wanted: Vec<String> =
            faults.iter().map(|f| format!("299 - \"{}\"", f.replace('"', "\\\""))).collect();
        assert_eq!((warned.code, warnings), (201, wanted.iter().map(String::as_str).collect()));
        let ignored =
            server.with("POST", &format!("{MAPS}?dryRun=All&fieldValidation=Ignore"), media_type, body).await;
        assert_eq!((ignored.code, ignored.headers.get("warning")), (201, None));
    }
}

#[tokio::test]
async fn objects_the_store_would_not_take() {
    let server = server().await;
    let mut map = config_map("a");
    map["metadata"]["annotations"] = json!({});
    map["data"] = json!({"a": "x".repeat(900 << 10)});
    server.post(MAPS, &map).await.expect(201);
    // An event's message is bound by nothing else.
    let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"namespace": "default"}, "message": "m".repeat(1700 << 10)});
    let status = server.post("/api/v1/namespaces/default/events", &event).await.expect(500);
    assert_eq!(status["message"], "etcdserver: request is too large");
}

#[tokio::test]
async fn updates_name_their_object() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let path = format!("{MAPS}/a");
    let put = |body: serde_json::Value| {
        let (server, path) = (&server, &path);
        async move { server.put(path, &body).await.refused(400, "BadRequest") }
    };
    assert_eq!(
        put(json!({"metadata": {}})).await,
        "the name of the object (a based on URL) was undeterminable: name must be provided"
    );
    assert_eq!(
        put(json!({"metadata": {"name": "a", "namespace": "b"}})).await,
        "the namespace of the object (b) does not match the namespace on the request (default)"
    );
    // Unconditional where the kind allows it; where it does not, it says so.
    server.put(&path, &config_map("a")).await.expect(200);
    let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "l"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    server.put(&format!("{leases}/l"), &lease).await.expect(201);
    let text = server.put(&format!("{leases}/l"), &lease).await.refused(422, "Invalid");
    assert_eq!(
        text,
        "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
}

#[tokio::test]
async fn admin_access_to_devices_needs_a_marked_namespace() {
    let server = server().await;
    let group = "/apis/resource.k8s.io/v1/namespaces";
    for (name, mark) in [("marked", "true"), ("unmarked", "True")] {
        let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name,
            "labels": {"resource.kubernetes.io/admin-access": mark}}});
        server.post("/api/v1/namespaces", &namespace).await.expect(201);
    }
    let request = |admin: bool| json!({"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "c", "adminAccess": admin}}]}});
    let object = |kind: &str, spec: serde_json::Value| json!({"kind": kind, "apiVersion": "resource.k8s.io/v1", "metadata": {"name": "x"}, "spec": spec});
    let why = "Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` \
               label on the containing namespace";
    for (plural, object) in [
        ("resourceclaims", object("ResourceClaim", request(true))),
        ("resourceclaimtemplates", object("ResourceClaimTemplate", json!({"spec": request(true)}))),
    ] {
        let text = server.post(&format!("{group}/unmarked/{plural}"), &object).await.refused(422, "Invalid");
        assert!(text.ends_with(&format!("spec.devices.requests[0].adminAccess: {why}")), "{text}");
        server.post(&format!("{group}/marked/{plural}"), &object).await.expect(201);
    }
    let status = json!({"status": {"allocation": {"devices": {"results": [
        {"request": "a", "driver": "d.example.com", "pool": "p", "device": "v", "adminAccess": true}]}}}});
    let claim = format!("{group}/unmarked/resourceclaims");
    server.post(&claim, &object("ResourceClaim", request(false))).await.expect(201);
    let text = server.merge(&format!("{claim}/x/status"), &status).await.refused(422, "Invalid");
    assert!(text.ends_with(&format!("status.allocation.devices.results[0].adminAccess: {why}")), "{text}");
    let marked = format!("{group}/marked/resourceclaims/x");
    server.merge(&format!("{marked}/status"), &status).await.expect(200);
    // What has it keeps it.
    let unmark = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": null}}});
    server.merge("/api/v1/namespaces/marked", &unmark).await.expect(200);
    let consumer = json!({"status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}});
    server.merge(&format!("{marked}/status"), &consumer).await.expect(200);
    server.merge(&marked, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
}
