//! The scale of every workload: what is read, what a write may say, and in which words it is refused.

use serde_json::{Value, json};

use crate::support::{Server, server};

const WORKLOADS: [(&str, &str, &str); 4] = [
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "ReplicaSet", "replicasets"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("v1", "ReplicationController", "replicationcontrollers"),
];

fn collection(version: &str, plural: &str) -> String {
    let root = if version.contains('/') { "apis" } else { "api" };
    format!("/{root}/{version}/namespaces/default/{plural}")
}

async fn made(server: &Server, version: &str, kind: &str, plural: &str) -> (String, Value) {
    let labels = json!({"app": "w"});
    let selector =
        if kind == "ReplicationController" { labels.clone() } else { json!({"matchLabels": labels}) };
    let object = json!({"kind": kind, "apiVersion": version, "metadata": {"name": "w"}, "spec": {
        "replicas": 2, "selector": selector,
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    let path = collection(version, plural);
    let made = server.post(&path, &object).await.expect(201);
    (format!("{path}/w"), made)
}

#[tokio::test]
async fn every_workload_has_one() {
    let server = server().await;
    for (version, kind, plural) in WORKLOADS {
        let (path, made) = made(&server, version, kind, plural).await;
        let scale = server.get(&format!("{path}/scale")).await.expect(200);
        let metadata = &made["metadata"];
        assert_eq!(
            scale,
            json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {
                "name": "w", "namespace": "default", "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
                "spec": {"replicas": 2}, "status": {"replicas": 0, "selector": "app=w"}}),
            "{kind}"
        );
        let mut wanted = scale.clone();
        wanted["spec"]["replicas"] = 3.into();
        wanted["status"]["replicas"] = 9.into();
        let after = server.put(&format!("{path}/scale?fieldManager=me"), &wanted).await.expect(200);
        assert_eq!((&after["spec"]["replicas"], &after["status"]["replicas"]), (&json!(3), &json!(0)));
        let stored = server.get(&path).await.expect(200);
        assert_eq!((&stored["metadata"]["generation"], &stored["spec"]["replicas"]), (&json!(2), &json!(3)));
        let managers = stored["metadata"]["managedFields"].as_array().expect("managers");
        let own = managers.iter().find(|m| m["manager"] == "me").expect("its manager");
        assert_eq!(
            (&own["subresource"], &own["apiVersion"], &own["fieldsV1"]),
            (&json!("scale"), &json!(version), &json!({"f:spec": {"f:replicas": {}}})),
            "{kind}"
        );
        // Nothing changes, so nothing is written.
        let again =
            server.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 3}})).await.expect(200);
        assert_eq!(again["metadata"]["resourceVersion"], stored["metadata"]["resourceVersion"]);
    }
}

#[tokio::test]
async fn what_a_scale_may_not_say() {
    let server = server().await;
    let (path, made) = made(&server, "apps/v1", "Deployment", "deployments").await;
    let path = format!("{path}/scale");
    let scale = |metadata: Value, replicas: i64| json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {"replicas": replicas}});
    let named = json!({"name": "w"});
    let cases = [
        (
            json!({}),
            400,
            "BadRequest",
            "the name of the object (w based on URL) was undeterminable: name must be provided",
        ),
        (
            json!({"name": "x"}),
            400,
            "BadRequest",
            "the name of the object (x) does not match the name on the URL (w)",
        ),
        (
            json!({"name": "w", "namespace": "x"}),
            400,
            "BadRequest",
            "the namespace of the object (x) does not match the namespace on the request (default)",
        ),
        (
            json!({"name": "w", "resourceVersion": "1"}),
            409,
            "Conflict",
            "Operation cannot be fulfilled on deployments.apps \"w\": the object has been modified; please apply your changes to the latest version and try again",
        ),
    ];
    for (metadata, code, reason, text) in cases {
        assert_eq!(server.put(&path, &scale(metadata, 1)).await.refused(code, reason), text);
    }
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let text = server.put(&path, &scale(json!({"name": "w", "uid": "u"}), 1)).await.refused(409, "Conflict");
    assert!(text.starts_with(
        "Operation cannot be fulfilled on deployments.apps \"w\": StorageError: invalid object"
    ));
    let other = json!({"metadata": {"uid": "u"}, "spec": {"replicas": 1}});
    assert_eq!(
        server.merge(&path, &other).await.refused(409, "Conflict"),
        format!(
            "Operation cannot be fulfilled on deployments/scale.apps \"w\": Precondition failed: \
             UID in precondition: u, UID in object meta: {uid}"
        )
    );
    let negative = "Scale.autoscaling \"w\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!(server.put(&path, &scale(named.clone(), -1)).await.refused(422, "Invalid"), negative);
    let patch = json!({"spec": {"replicas": -1}});
    assert_eq!(server.merge(&path, &patch).await.refused(422, "Invalid"), negative);
    let mut unknown = scale(named.clone(), 1);
    unknown["spec"]["x"] = 1.into();
    let answer = server.put(&path, &unknown).await;
    assert_eq!(answer.headers["warning"], "299 - \"unknown field \\\"spec.x\\\"\"");
    answer.expect(200);
    // Without replicas it is scaled to none: the field is a plain number.
    let none = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": named});
    assert_eq!(server.put(&path, &none).await.expect(200)["spec"], json!({}));
    for method in ["GET", "PUT"] {
        let missing = path.replace("/w/", "/none/");
        let body = scale(json!({"name": "none"}), 1).to_string();
        let text = server.with(method, &missing, "application/json", &body).await.refused(404, "NotFound");
        assert_eq!(text, "deployments.apps \"none\" not found");
    }
}
