//! What many objects say alike of who owns their fields is kept once, and nobody can tell from outside.

use amphipod_api::protobuf;
use amphipod_store::{Range, Text};
use serde_json::{Value, json};

use crate::support::{MAPS, PODS, Server, config_map, server};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

async fn stored(server: &Server, prefix: &str) -> Vec<Text> {
    let read = server.api.cache.store().range(Range::prefix(prefix)).await.expect("a read");
    read.items.into_iter().map(|item| item.value).collect()
}

/// Bytes of the object's text, and without its managedFields.
fn lengths(text: &Text) -> (usize, usize) {
    let whole = String::from_utf8(text.contiguous().into_owned()).expect("text");
    let mut value: Value = serde_json::from_str(&whole).expect("JSON");
    value["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    (whole.len(), value.to_string().len())
}

/// By how many hundredths managedFields make the text greater: as text, and in memory beside `other`.
fn growth(text: &Text, other: &Text) -> (usize, usize) {
    let (with, without) = lengths(text);
    let percent = |bytes: usize| (bytes * 100).div_ceil(without) - 100;
    (percent(with), percent(text.held_bytes(Some(other))))
}

fn template() -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": 8080}, "periodSeconds": 10});
    json!({"metadata": {"labels": {"app": "web", "tier": "front"}},
        "spec": {"containers": [{"name": "web", "image": "registry.example/web:1.4.2",
            "ports": [{"containerPort": 8080, "name": "http"}],
            "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "DATABASE_HOST", "value": "db.prod"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "livenessProbe": probe("/healthz"), "readinessProbe": probe("/ready"),
            "volumeMounts": [{"name": "config", "mountPath": "/etc/web", "readOnly": true}]}],
            "volumes": [{"name": "config", "configMap": {"name": "web"}}]}})
}

/// As its ReplicaSet makes it, the scheduler binds it and its kubelet first tells of it.
async fn run_pod(server: &Server, number: usize) {
    let name = format!("web-6d4cf56db6-{number:05}");
    let mut pod = template();
    pod["metadata"]["name"] = name.as_str().into();
    pod["metadata"]["labels"]["pod-template-hash"] = "6d4cf56db6".into();
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "name": "web-6d4cf56db6", "uid": "0c8a7f5e-5b0c-4a3e-9a55-0d8a4f0d8f11", "controller": true,
        "blockOwnerDeletion": true}]);
    server.post(&format!("{PODS}?fieldManager=kube-controller-manager"), &pod).await.expect(201);
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "node-1"}});
    server.post(&format!("{PODS}/{name}/binding?fieldManager=kube-scheduler"), &binding).await.expect(201);
    let now = "2026-01-02T03:04:05Z";
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions = conditions.map(
        |kind| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now}),
    );
    let (address, host) = (format!("10.42.0.{number}"), "192.0.2.7");
    let status = json!({"status": {"phase": "Running", "conditions": conditions, "startTime": now,
        "hostIP": host, "hostIPs": [{"ip": host}], "podIP": address, "podIPs": [{"ip": address}],
        "containerStatuses": [{"name": "web", "image": "registry.example/web:1.4.2", "ready": true,
            "imageID": "registry.example/web@sha256:0123456789abcdef", "restartCount": 0, "started": true,
            "containerID": format!("containerd://{number:064}"), "state": {"running": {"startedAt": now}}}]}});
    let path = format!("{PODS}/{name}/status?fieldManager=kubelet");
    let patch = "application/strategic-merge-patch+json";
    server.with("PATCH", &path, patch, &status.to_string()).await.expect(200);
}

#[tokio::test]
async fn pods_of_one_template_share_who_owns_their_fields() {
    let server = server().await;
    for number in 10..14 {
        run_pod(&server, number).await;
    }
    let texts = stored(&server, "/registry/pods/").await;
    let (first, others) = texts.split_first().expect("pods");
    for other in others {
        let (as_text, in_memory) = growth(other, first);
        println!("a pod: {:?} bytes, grown by {as_text} %, by {in_memory} % in memory", lengths(other));
        assert!(as_text > 50 && in_memory < 25, "{as_text} % {in_memory} %");
        let shared = other.held_bytes(None) - other.held_bytes(Some(first));
        assert!(shared > 1500, "{shared} bytes are the first one's");
    }
}

#[tokio::test]
async fn managed_fields_do_not_double_a_deployment() {
    let server = server().await;
    for name in ["one", "two"] {
        let deployment = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"replicas": 3,
            "selector": {"matchLabels": {"app": "web"}}, "template": template()}});
        server.post(&format!("{DEPLOYMENTS}?fieldManager=kubectl-create"), &deployment).await.expect(201);
        let now = "2026-01-02T03:04:05Z";
        let condition = |kind: &str, reason: &str| {
            json!({"type": kind, "status": "True", "reason": reason, "message": format!("{name} does well"),
                "lastUpdateTime": now, "lastTransitionTime": now})
        };
        let status = json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1"}},
            "status": {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3,
                "availableReplicas": 3, "conditions": [condition("Available", "MinimumReplicasAvailable"),
                    condition("Progressing", "NewReplicaSetAvailable")]}});
        let path = format!("{DEPLOYMENTS}/{name}/status?fieldManager=kube-controller-manager");
        server.merge(&path, &status).await.expect(200);
    }
    let texts = stored(&server, "/registry/deployments/").await;
    let (as_text, in_memory) = growth(&texts[0], &texts[1]);
    println!(
        "a Deployment: {:?} bytes, grown by {as_text} %, by {in_memory} % in memory",
        lengths(&texts[0])
    );
    assert!(as_text > 100 && in_memory < 30, "{as_text} % {in_memory} %");
}

/// A map of whose text about half says who owns it.
fn owned_map(name: &str, keys: usize) -> Value {
    let mut map = config_map(name);
    for key in 0..keys {
        map["data"][format!("a-key-with-a-long-name-{key:05}")] = "a value with some length".into();
    }
    map
}

/// The text with another revision.
fn restamped(text: &str, event: &Value) -> String {
    let revision = event["object"]["metadata"]["resourceVersion"].as_str().expect("a version");
    let (before, rest) = text.split_once("\"resourceVersion\":\"").expect("a stamp");
    let (_, after) = rest.split_once('"').expect("the stamp's end");
    format!("{before}\"resourceVersion\":\"{revision}\"{after}")
}

#[tokio::test]
async fn answers_are_byte_for_byte_what_was_stored() {
    let server = server().await;
    // Small enough to be copied into a chunk of many events, and too large for that.
    for (name, keys) in [("small", 20), ("large", 2000)] {
        server.post(MAPS, &owned_map(name, keys)).await.expect(201);
        let texts = stored(&server, &format!("/registry/configmaps/default/{name}")).await;
        assert!(texts[0].chunks().count() > 1, "it has a shared piece");
        let text = String::from_utf8(texts[0].contiguous().into_owned()).expect("text");
        let path = format!("{MAPS}/{name}");
        assert_eq!(server.get(&path).await.bytes, text);

        let one = format!("fieldSelector=metadata.name%3D{name}");
        let list = server.get(&format!("{MAPS}?{one}")).await;
        let item = text.strip_prefix(r#"{"kind":"ConfigMap","apiVersion":"v1","#).expect("its type first");
        assert!(list.bytes.ends_with(format!("\"items\":[{{{item}]}}").as_bytes()));

        let mut watch = server.watch(&format!("{MAPS}?watch=1&{one}")).await;
        let mut partial = server.watch_as(&format!("{MAPS}?watch=1&{one}"), PARTIAL).await;
        assert_eq!(watch.line().await, format!("{{\"type\":\"ADDED\",\"object\":{text}}}"));
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(partial.next().await.expect("an event")["object"]["metadata"], value["metadata"]);
        let metadata = server.get_as(&path, PARTIAL).await.expect(200);
        assert_eq!(metadata["metadata"], value["metadata"]);
        let encoded = server.get_as(&path, "application/vnd.kubernetes.protobuf").await;
        assert_eq!(protobuf::decode(&encoded.bytes).expect("protobuf"), value);

        server.delete(&path).await.expect(200);
        let line = watch.line().await;
        let event: Value = serde_json::from_str(&line).expect("an event");
        assert_ne!(event["object"]["metadata"]["resourceVersion"], value["metadata"]["resourceVersion"]);
        assert_eq!(line, format!("{{\"type\":\"DELETED\",\"object\":{}}}", restamped(&text, &event)));
        let gone = partial.next().await.expect("an event");
        assert_eq!(gone["object"]["metadata"], event["object"]["metadata"]);
    }
}
