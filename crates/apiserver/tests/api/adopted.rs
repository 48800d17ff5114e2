//! A store that kube-apiserver filled before: protobuf in its envelope, JSON without a
//! resourceVersion, and versions that are served no longer.

use std::sync::Arc;

use amphipod_api::resource::{Resource, builtin};
use amphipod_api::{object, protobuf};
use amphipod_apiserver::{ApiServer, Config};
use amphipod_store::{EmbeddedStore, Op, Range, Store, Txn};
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use prost::Message;
use serde_json::{Value, json};

use crate::support::{MAPS, Server};

async fn put(store: &dyn Store, key: &str, value: impl Into<bytes::Bytes>) -> u64 {
    let op = Op::Put { key: key.to_owned(), value: value.into(), stamp: None, lease: None };
    store.txn(Txn { compare: vec![], then: vec![op] }).await.expect("the write is taken").revision
}

async fn serve(store: Arc<dyn Store>) -> Server {
    let config = Config { advertise_address: [192, 0, 2, 1].into(), ..Config::default() };
    Server::of(ApiServer::start(config, store).await.expect("a server")).await
}

/// Bytes made by another implementation than ours.
fn enveloped(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let type_meta = TypeMeta { api_version: Some(api_version.to_owned()), kind: Some(kind.to_owned()) };
    let unknown =
        Unknown { type_meta: Some(type_meta), raw: Some(message.encode_to_vec()), ..Unknown::default() };
    [b"k8s\0".as_slice(), &unknown.encode_to_vec()].concat()
}

fn meta(name: &str) -> k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        uid: Some(format!("uid-of-{name}")),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_another_encoder_wrote_is_listed_read_updated_and_watched() {
    use k8s_pb::api::autoscaling::v1::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec};
    use k8s_pb::api::core::v1::ConfigMap;
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::memory().unwrap());
    let map = |name: &str, value: &str| ConfigMap {
        metadata: Some(meta(name)),
        data: [("k".to_owned(), value.to_owned())].into(),
        ..ConfigMap::default()
    };
    let key = "/registry/configmaps/default/old";
    let written = put(&*store, key, enveloped("v1", "ConfigMap", &map("old", "from upstream"))).await;
    let scaler = HorizontalPodAutoscaler {
        metadata: Some(meta("old")),
        spec: Some(HorizontalPodAutoscalerSpec {
            max_replicas: Some(3),
            target_cpu_utilization_percentage: Some(70),
            ..HorizontalPodAutoscalerSpec::default()
        }),
        ..HorizontalPodAutoscaler::default()
    };
    let scaler = enveloped("autoscaling/v1", "HorizontalPodAutoscaler", &scaler);
    put(&*store, "/registry/horizontalpodautoscalers/default/old", scaler).await;
    put(&*store, "/registry/configmaps/default/json", r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"json","namespace":"default","uid":"u","creationTimestamp":"2020-01-01T00:00:00Z"}}"#).await;

    let server = serve(store.clone()).await;
    let list = server.get(MAPS).await.expect(200);
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(object::name).collect();
    assert_eq!(names, ["json", "old"]);
    let mut old = server.get(&format!("{MAPS}/old")).await.expect(200);
    assert_eq!((&old["data"]["k"], &old["metadata"]["uid"]), (&json!("from upstream"), &json!("uid-of-old")));
    assert_eq!(old["metadata"]["resourceVersion"], written.to_string());
    let scalers = "horizontalpodautoscalers/old";
    let two = server.get(&format!("/apis/autoscaling/v2/namespaces/default/{scalers}")).await.expect(200);
    assert_eq!(two["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    let one = server.get(&format!("/apis/autoscaling/v1/namespaces/default/{scalers}")).await.expect(200);
    assert_eq!(one["spec"]["targetCPUUtilizationPercentage"], 70);

    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion=0")).await;
    assert_eq!(watch.brief().await, "ADDED json");
    assert_eq!(watch.brief().await, "ADDED old");
    old["data"]["k"] = "from here".into();
    let updated = server.put(&format!("{MAPS}/old"), &old).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]), (&json!("MODIFIED"), &updated));
    let stored = store.range(Range::key(key)).await.unwrap().items.remove(0).value;
    assert_eq!(serde_json::from_slice::<Value>(&stored.contiguous()).unwrap(), updated, "rewritten as JSON");
    // Both servers write during a move: the event is read, and so is what a lost race finds.
    put(&*store, key, enveloped("v1", "ConfigMap", &map("old", "again"))).await;
    assert_eq!(watch.next().await.unwrap()["object"]["data"]["k"], "again");
    let patched = server.merge(&format!("{MAPS}/old"), &json!({"data": {"l": "m"}})).await.expect(200);
    assert_eq!(patched["data"], json!({"k": "again", "l": "m"}));
}

fn path(resource: &Resource) -> String {
    let root =
        if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let scope = if resource.namespaced { "/namespaces/default" } else { "" };
    format!("{root}/{}{scope}/{}", resource.version, resource.plural)
}

#[tokio::test]
async fn every_built_in_kind_is_read_from_its_envelope() {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::memory().unwrap());
    let stored: Vec<_> = builtin().iter().filter(|resource| resource.storage.is_some()).collect();
    assert!(stored.len() > 50, "{}", stored.len());
    for resource in &stored {
        let storage = resource.storage.as_ref().unwrap();
        let mut value = json!({"apiVersion": &*storage.api_version, "kind": &*resource.kind,
            "metadata": {"name": "adopted", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z"}});
        let mut key = format!("/registry/{}/adopted", storage.prefix);
        if resource.namespaced {
            value["metadata"]["namespace"] = "default".into();
            key = format!("/registry/{}/default/adopted", storage.prefix);
        }
        put(&*store, &key, protobuf::encode(&value).unwrap()).await;
    }
    let server = serve(store.clone()).await;
    for resource in &stored {
        let path = path(resource);
        let got = server.get(&format!("{path}/adopted")).await;
        assert_eq!(got.code, 200, "{path}: {}", String::from_utf8_lossy(&got.bytes));
        let got = got.json();
        assert_eq!(
            (object::kind(&got), object::api_version(&got)),
            (&*resource.kind, &*resource.api_version())
        );
        assert_eq!(got["metadata"]["uid"], "u", "{path}");
        let list = server.get(&path).await.expect(200);
        assert!(
            list["items"].as_array().unwrap().iter().any(|item| object::name(item) == "adopted"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_neither_missing_nor_deleted() {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::memory().unwrap());
    let server = serve(store.clone()).await;
    for name in ["damaged", "whole"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        server.post(MAPS, &map).await.expect(201);
    }
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion=0")).await;
    assert_eq!(watch.brief().await, "ADDED damaged");
    assert_eq!(watch.brief().await, "ADDED whole");
    let key = "/registry/configmaps/default/damaged";
    put(&*store, key, "no object").await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    let list = server.get(MAPS).await.expect(200);
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(object::name).collect();
    assert_eq!(names, ["whole"]);
    let why = server.get(&format!("{MAPS}/damaged")).await.refused(500, "InternalError");
    assert!(why.contains(key), "{why}");
    server
        .merge(&format!("{MAPS}/damaged"), &json!({"data": {"k": "v"}}))
        .await
        .refused(500, "InternalError");
    // So it is after a start, too.
    let again = serve(store.clone()).await;
    again.get(&format!("{MAPS}/damaged")).await.refused(500, "InternalError");
}

#[tokio::test]
async fn encrypted_objects_are_refused_by_name() {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::memory().unwrap());
    let key = "/registry/secrets/default/token";
    put(&*store, key, &b"k8s:enc:secretbox:v1:main:\x01\x02\xff"[..]).await;
    let error = ApiServer::start(Config::default(), store).await.map(drop).unwrap_err().to_string();
    assert!(error.contains(key) && error.contains("k8s:enc:secretbox:v1:main"), "{error}");
}
