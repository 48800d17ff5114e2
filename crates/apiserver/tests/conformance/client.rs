//! A client such as client-go's typed ones: objects are values, and the wire is JSON or protobuf.
//! Every sequence of calls runs over both, against a server of its own.

use std::sync::Arc;
use std::time::Duration;

use amphipod_api::{object, protobuf, resource};
use amphipod_apiserver::{ApiServer, Config, UserInfo};
use amphipod_store::EmbeddedStore;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::LocalBoxStream;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower::ServiceExt;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const DEADLINE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

/// What is there, or the `Status` that says why not.
pub type Outcome = Result<Value, Value>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Json,
    Protobuf,
}

#[derive(Clone)]
pub struct Cluster {
    api: Arc<ApiServer>,
    user: UserInfo,
    wire: Wire,
}

/// The namespace every cluster begins with, and in which pods can be created.
pub const NAMESPACE: &str = "conformance";

/// Runs the steps twice, over each wire, each time against a new server.
pub async fn over_both_wires<F: AsyncFn(Cluster)>(steps: F) {
    for wire in [Wire::Json, Wire::Protobuf] {
        let cluster = Cluster::start(wire, Config::default()).await;
        steps(cluster.clone()).await;
        cluster.api.close();
    }
}

/// A server that forgets old revisions as soon as it may.
pub async fn forgetful() -> Cluster {
    let config = Config { compaction_interval: Duration::from_millis(50), ..Config::default() };
    Cluster::start(Wire::Json, config).await
}

impl Cluster {
    async fn start(wire: Wire, config: Config) -> Cluster {
        let store = Arc::new(EmbeddedStore::memory().expect("a store"));
        // A documentation address: loopback is no valid endpoint.
        let config = Config { advertise_address: [192, 0, 2, 1].into(), ..config };
        let api = ApiServer::start(config, store).await.expect("a server");
        let user = UserInfo::new("admin", &["system:masters", "system:authenticated"]);
        let cluster = Cluster { api, user, wire };
        cluster.create_namespace(NAMESPACE).await;
        cluster
    }

    /// With the account its pods run as, which a controller creates elsewhere.
    pub async fn create_namespace(&self, name: &str) -> Value {
        let made = self.all("v1", "namespaces").create(&named(name)).await.unwrap();
        self.of("v1", "serviceaccounts", name).create(&named("default")).await.unwrap();
        made
    }

    pub fn impersonating(&self, name: &str, groups: &[&str]) -> Cluster {
        Cluster { user: UserInfo::new(name, groups), ..self.clone() }
    }

    /// The objects of a namespace.
    pub fn of(&self, api_version: &str, plural: &str, namespace: &str) -> Objects {
        self.objects(api_version, plural, Some(namespace))
    }
    /// The objects of the cluster, or of all namespaces.
    pub fn all(&self, api_version: &str, plural: &str) -> Objects {
        self.objects(api_version, plural, None)
    }
    fn objects(&self, api_version: &str, plural: &str, namespace: Option<&str>) -> Objects {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let row = resource::find(group, version, plural).expect("a resource that is served");
        let root = if group.is_empty() { "/api" } else { "/apis" };
        let place = namespace.map(|n| format!("/namespaces/{n}")).unwrap_or_default();
        Objects {
            cluster: self.clone(),
            path: format!("{root}/{api_version}{place}/{plural}"),
            api_version: api_version.to_owned(),
            kind: row.kind.to_string(),
        }
    }

    async fn raw(&self, request: Request<Vec<u8>>) -> Response<amphipod_apiserver::body::Body> {
        let service = self.api.local_service(self.user.clone());
        service.oneshot(request.map(|b| Full::new(Bytes::from(b)))).await.expect("never fails")
    }

    /// The code and the JSON of the answer.
    pub async fn json(&self, method: &str, path: &str, accept: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("accept", accept);
        let request = request.header("content-type", "application/json");
        let answer = self.raw(request.body(body.as_bytes().to_vec()).expect("a request")).await;
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.expect("a whole answer").to_bytes();
        let value = serde_json::from_slice(&bytes);
        (code, value.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&bytes))))
    }
    /// The code and the headers of the answer to a GET.
    pub async fn head(&self, path: &str) -> (u16, HeaderMap) {
        let request = Request::builder().uri(path).body(Vec::new()).expect("a request");
        let (parts, body) = self.raw(request).await.into_parts();
        body.collect().await.expect("a whole answer");
        (parts.status.as_u16(), parts.headers)
    }
    pub async fn metrics(&self) -> String {
        let request = Request::builder().uri("/metrics").body(Vec::new()).expect("a request");
        let bytes = self.raw(request).await.into_body().collect().await.expect("a whole answer").to_bytes();
        String::from_utf8_lossy(&bytes).into_owned()
    }
    /// A request that is served until it is aborted: its body never ends.
    pub fn endless(&self, path: &str) -> JoinHandle<u16> {
        let begun = futures::stream::once(async { Ok::<_, std::io::Error>(Frame::data(Bytes::from("{"))) });
        let body = StreamBody::new(begun.chain(futures::stream::pending()));
        let request = Request::post(path).header("content-type", "application/json");
        let (request, service) =
            (request.body(body).expect("a request"), self.api.local_service(self.user.clone()));
        tokio::spawn(async move { service.oneshot(request).await.expect("never fails").status().as_u16() })
    }
    /// Writes that are served, and that wait.
    pub fn writes(&self) -> (usize, usize) {
        let [_, (_, served, waiting)] = self.api.flow_control.load();
        (served, waiting)
    }
    pub async fn get(&self, path: &str) -> Value {
        let (code, value) = self.json("GET", path, "application/json", "").await;
        assert_eq!(code, 200, "{path}: {value}");
        value
    }
}

/// One kind's objects in one place.
pub struct Objects {
    cluster: Cluster,
    path: String,
    api_version: String,
    kind: String,
}

pub enum Patch {
    Merge(Value),
    Strategic(Value),
    Json(Value),
    /// By this field manager, without force.
    Apply(&'static str, Value),
}

impl Objects {
    fn encode(&self, kind: &str, object: &Value) -> Vec<u8> {
        let mut object = object.clone();
        object["apiVersion"] = self.api_version.as_str().into();
        object["kind"] = kind.into();
        match self.cluster.wire {
            Wire::Json => object.to_string().into_bytes(),
            Wire::Protobuf => protobuf::encode(&object).expect("a document with a protobuf form"),
        }
    }

    async fn call(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Outcome {
        let accept = match self.cluster.wire {
            Wire::Json => "application/json".to_owned(),
            Wire::Protobuf => format!("{PROTOBUF},application/json"),
        };
        let request = Request::builder().method(method).uri(path).header("accept", accept);
        let request = request.header("content-type", content_type).body(body).expect("a request");
        let answer = self.cluster.raw(request).await;
        let good = answer.status().is_success();
        let bytes = answer.into_body().collect().await.expect("a whole answer").to_bytes();
        // A refusal may come as JSON to any client; what was asked for may not.
        let enveloped = protobuf::is_enveloped(&bytes);
        assert!(!good || enveloped == (self.cluster.wire == Wire::Protobuf), "{method} {path}");
        let value = if enveloped {
            protobuf::decode(&bytes).expect("a document")
        } else {
            serde_json::from_slice(&bytes).expect("JSON")
        };
        if good { Ok(value) } else { Err(value) }
    }

    async fn write(&self, method: &str, path: &str, kind: &str, object: &Value) -> Outcome {
        let content_type = match self.cluster.wire {
            Wire::Json => "application/json",
            Wire::Protobuf => PROTOBUF,
        };
        self.call(method, path, content_type, self.encode(kind, object)).await
    }

    fn item(&self, name: &str, subresource: &str) -> String {
        let slash = if subresource.is_empty() { "" } else { "/" };
        format!("{}/{name}{slash}{subresource}", self.path)
    }

    pub async fn create(&self, object: &Value) -> Outcome {
        self.write("POST", &self.path, &self.kind, object).await
    }
    /// Creates an object of another kind below one of these, such as a token.
    pub async fn create_below(&self, name: &str, sub: &str, types: (&str, &str), object: &Value) -> Outcome {
        let kind = Objects {
            cluster: self.cluster.clone(),
            path: self.path.clone(),
            api_version: types.0.into(),
            kind: types.1.into(),
        };
        kind.write("POST", &self.item(name, sub), types.1, object).await
    }
    pub async fn get(&self, name: &str) -> Outcome {
        self.get_sub(name, "").await
    }
    pub async fn get_sub(&self, name: &str, subresource: &str) -> Outcome {
        self.call("GET", &self.item(name, subresource), "application/json", Vec::new()).await
    }
    pub async fn update(&self, object: &Value) -> Outcome {
        self.update_sub("", object).await
    }
    pub async fn update_sub(&self, subresource: &str, object: &Value) -> Outcome {
        let path = self.item(object::name(object), subresource);
        self.write("PUT", &path, &self.kind, object).await
    }
    /// Reads, changes and writes until nobody was faster.
    pub async fn change(&self, name: &str, change: impl Fn(&mut Value)) -> Outcome {
        self.change_sub(name, "", change).await
    }
    pub async fn change_sub(&self, name: &str, subresource: &str, change: impl Fn(&mut Value)) -> Outcome {
        loop {
            let mut object = self.get(name).await?;
            change(&mut object);
            match self.update_sub(subresource, &object).await {
                Err(status) if status["reason"] == "Conflict" => {}
                outcome => return outcome,
            }
        }
    }
    pub async fn patch(&self, name: &str, patch: &Patch) -> Outcome {
        self.patch_sub(name, "", patch).await
    }
    pub async fn patch_sub(&self, name: &str, subresource: &str, patch: &Patch) -> Outcome {
        let path = self.item(name, subresource);
        let (path, content_type, body) = match patch {
            Patch::Merge(body) => (path, "application/merge-patch+json", body.clone()),
            Patch::Strategic(body) => (path, "application/strategic-merge-patch+json", body.clone()),
            Patch::Json(body) => (path, "application/json-patch+json", body.clone()),
            Patch::Apply(manager, body) => {
                let mut body = body.clone();
                body["apiVersion"] = self.api_version.as_str().into();
                body["kind"] = self.kind.as_str().into();
                body["metadata"]["name"] = name.into();
                (format!("{path}?fieldManager={manager}"), "application/apply-patch+yaml", body)
            }
        };
        self.call("PATCH", &path, content_type, body.to_string().into_bytes()).await
    }
    pub async fn delete(&self, name: &str) -> Outcome {
        self.delete_with(name, &json!({})).await
    }
    pub async fn delete_with(&self, name: &str, options: &Value) -> Outcome {
        self.write("DELETE", &self.item(name, ""), "DeleteOptions", options).await
    }
    pub async fn delete_collection(&self, selection: &str) -> Outcome {
        let path = format!("{}?{}", self.path, escape(selection));
        self.write("DELETE", &path, "DeleteOptions", &json!({})).await
    }

    /// `labelSelector=a=b&limit=3` and what else a list understands.
    pub async fn list_whole(&self, selection: &str) -> Outcome {
        let path = format!("{}?{}", self.path, escape(selection));
        self.call("GET", &path, "application/json", Vec::new()).await
    }
    pub async fn list(&self, selection: &str) -> Vec<Value> {
        items(&self.list_whole(selection).await.unwrap())
    }

    pub async fn watch(&self, selection: &str) -> Watch {
        let accept = match self.cluster.wire {
            Wire::Json => "application/json",
            Wire::Protobuf => PROTOBUF,
        };
        let path = format!("{}?watch=true&{}", self.path, escape(selection));
        let request = Request::builder().uri(path).header("accept", accept);
        let answer = self.cluster.raw(request.body(Vec::new()).expect("a request")).await;
        assert_eq!(answer.status(), 200);
        let chunks =
            answer.into_body().into_data_stream().map(|c| c.expect("an unbroken answer")).boxed_local();
        Watch { chunks, buffer: Vec::new(), wire: self.cluster.wire }
    }

    /// The object is gone, or is on its way.
    pub async fn assert_leaving(&self, name: &str) {
        match self.get(name).await {
            Ok(object) => assert!(object["metadata"]["deletionTimestamp"].is_string(), "{object}"),
            Err(status) => assert_eq!(status["code"], 404, "{status}"),
        }
    }
}

pub struct Watch {
    chunks: LocalBoxStream<'static, Bytes>,
    buffer: Vec<u8>,
    wire: Wire,
}

impl Watch {
    /// Type and object of the next event.
    pub async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some(event) = self.take() {
                return event;
            }
            let chunk = tokio::time::timeout(DEADLINE, self.chunks.next()).await.expect("an event in time");
            self.buffer.extend_from_slice(&chunk.expect("the watch goes on"));
        }
    }

    fn take(&mut self) -> Option<(String, Value)> {
        if self.wire == Wire::Json {
            let end = self.buffer.iter().position(|b| *b == b'\n')?;
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let mut event: Value = serde_json::from_slice(&line).expect("an event");
            return Some((event["type"].as_str().expect("a type").to_owned(), event["object"].take()));
        }
        let length = u32::from_be_bytes(self.buffer.get(..4)?.try_into().expect("four bytes")) as usize;
        if self.buffer.len() < length + 4 {
            return None;
        }
        let frame: Vec<u8> = self.buffer.drain(..length + 4).skip(4).collect();
        let (kind, object) = (field(&frame, 1), field(field(&frame, 2), 1));
        let kind = String::from_utf8(kind.to_vec()).expect("a type");
        Some((kind, protobuf::decode(object).expect("an object")))
    }

    /// Passes over events until one is of this type and its object fits.
    pub async fn until(&mut self, wanted: &str, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (kind, object) = self.next().await;
            if kind == wanted && fits(&object) {
                return object;
            }
        }
    }
}

/// A field of a message whose fields all are made of bytes and have small numbers.
fn field(mut message: &[u8], number: u8) -> &[u8] {
    while let [tag, rest @ ..] = message {
        assert_eq!(tag & 7, 2, "made of bytes");
        let end = rest.iter().position(|b| b & 0x80 == 0).expect("a length");
        let length = rest[..=end].iter().rev().fold(0, |sum, b| sum << 7 | usize::from(b & 0x7f));
        let (value, after) = rest[end + 1..].split_at(length);
        if tag >> 3 == number {
            return value;
        }
        message = after;
    }
    &[]
}

/// What a query may not hold as it is; `&` and the first `=` of each part separate.
fn escape(selection: &str) -> String {
    let part = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        format!("{key}={}", value.replace('=', "%3D").replace(',', "%2C").replace(' ', "%20"))
    };
    selection.split('&').map(part).collect::<Vec<_>>().join("&")
}

/// Waits until `probe` gives something.
pub async fn eventually<T>(what: &str, probe: impl AsyncFn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Checks the code of a refusal and gives its message.
pub fn refused(outcome: Outcome, code: u16) -> String {
    let status = outcome.expect_err("a refusal");
    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)), "{status}");
    status["message"].as_str().unwrap_or_default().to_owned()
}

pub fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}
pub fn named(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}
pub fn name(object: &Value) -> String {
    object::name(object).to_owned()
}
pub fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("no resourceVersion in {object}"))
}

/// A pod that asks for nothing.
pub fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "agnhost:2"}]}})
}
