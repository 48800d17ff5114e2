//! A store of JSON objects that speaks as much of the API as a node needs: enough to see the
//! kubelet's writes and to hand it pods.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use amphipod_client::Client;
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::convert::Infallible;
use tokio::sync::broadcast;

type Body = BoxBody<Bytes, Infallible>;

#[derive(Default)]
struct State {
    version: u64,
    /// By resource and `namespace/name`.
    objects: BTreeMap<(String, String), Value>,
    /// Everything that happened: resource, kind of the change, object.
    history: Vec<(String, String, Value)>,
}

impl State {
    fn record(&mut self, resource: &str, kind: &str, object: &Value) {
        self.history.push((resource.to_owned(), kind.to_owned(), object.clone()));
    }
}

#[derive(Clone)]
pub struct MiniApi {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<(String, Value)>,
    open_watches: Arc<Mutex<Vec<String>>>,
}

/// Counts a watch while it is open.
struct OpenWatch {
    what: String,
    all: Arc<Mutex<Vec<String>>>,
}

impl OpenWatch {
    fn new(what: String, all: &Arc<Mutex<Vec<String>>>) -> Self {
        all.lock().push(what.clone());
        OpenWatch { what, all: all.clone() }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        let position = all.iter().position(|what| *what == self.what).unwrap();
        all.swap_remove(position);
    }
}

/// Resource, namespace, name and subresource of a path.
struct Target {
    resource: String,
    namespace: String,
    name: String,
    subresource: String,
}

impl Target {
    fn parse(path: &str) -> Self {
        let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        parts.drain(..if parts[0] == "api" { 2 } else { 3 });
        let namespaced = parts.first() == Some(&"namespaces") && parts.len() > 2;
        let namespace = if namespaced { parts.drain(..2).nth(1).unwrap().to_owned() } else { String::new() };
        let part = |i: usize| parts.get(i).copied().unwrap_or("").to_owned();
        Target { resource: part(0), namespace, name: part(1), subresource: part(2) }
    }
    fn key(&self, name: &str) -> (String, String) {
        (self.resource.clone(), format!("{}/{name}", self.namespace))
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let (Some(target), Some(patch)) = (into.as_object_mut(), patch.as_object()) else {
        *into = patch.clone();
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else if value.is_object() {
            merge(target.entry(key).or_insert(json!({})), value);
        } else if let Some(list) = value.as_array() {
            let kept: Vec<Value> = list.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
            target.insert(key.clone(), kept.into());
        } else {
            target.insert(key.clone(), value.clone());
        }
    }
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    let mut response = answer(&status);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

fn answer(value: &Value) -> Response<Body> {
    Response::new(Full::new(Bytes::from(value.to_string())).boxed())
}

fn selected(object: &Value, query: &str) -> bool {
    let decoded = query.replace("%3D", "=");
    let selector = decoded.split('&').find_map(|p| p.strip_prefix("fieldSelector="));
    selector.is_none_or(|s| {
        let (field, wanted) = s.split_once('=').unwrap();
        object.pointer(&format!("/{}", field.replace('.', "/"))).and_then(Value::as_str) == Some(wanted)
    })
}

impl MiniApi {
    pub fn new() -> Self {
        MiniApi { state: Arc::default(), events: broadcast::channel(1024).0, open_watches: Arc::default() }
    }
    pub fn client(&self) -> Client {
        Client::local(self.clone())
    }
    /// Names by which single objects of the resource are watched now, one for each watch.
    pub fn watched(&self, resource: &str) -> Vec<String> {
        let all = self.open_watches.lock();
        let names = all.iter().filter_map(|w| w.strip_prefix(resource)?.strip_prefix(" metadata.name="));
        names.map(str::to_owned).collect()
    }
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), format!("{namespace}/{name}"));
        self.state.lock().objects.get(&key).cloned()
    }
    pub fn all(&self, resource: &str) -> Vec<Value> {
        let state = self.state.lock();
        state.objects.iter().filter(|((r, _), _)| r == resource).map(|(_, o)| o.clone()).collect()
    }
    /// Changes of a resource's objects, in order.
    pub fn history(&self, resource: &str) -> Vec<(String, Value)> {
        let state = self.state.lock();
        let all = state.history.iter().filter(|(r, ..)| r == resource);
        all.map(|(_, kind, object)| (kind.clone(), object.clone())).collect()
    }
    pub fn put(&self, resource: &str, mut object: Value) -> Value {
        let mut state = self.state.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", state.version).into();
        }
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let name =
            format!("{}/{}", text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let old = state.objects.insert((resource.to_owned(), name), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        state.record(resource, kind, &object);
        let _ = self.events.send((resource.to_owned(), json!({"type": kind, "object": object})));
        object
    }
    pub fn delete(&self, resource: &str, namespace: &str, name: &str, grace: Option<i64>) {
        let Some(mut object) = self.get(resource, namespace, name) else { return };
        if resource == "pods" && grace != Some(0) {
            let grace = grace.unwrap_or(30);
            let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
            object["metadata"]["deletionTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            self.put(resource, object);
            return;
        }
        let mut state = self.state.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.objects.remove(&(resource.to_owned(), format!("{namespace}/{name}")));
        state.record(resource, "DELETED", &object);
        let _ = self.events.send((resource.to_owned(), json!({"type": "DELETED", "object": object})));
    }

    fn read(&self, target: &Target, query: &str) -> Response<Body> {
        if !target.name.is_empty() {
            let found = self.get(&target.resource, &target.namespace, &target.name);
            return found.map_or_else(|| failure(404, "NotFound"), |o| answer(&o));
        }
        if query.contains("watch=true") {
            return self.watch(target, query);
        }
        let items: Vec<Value> =
            self.all(&target.resource).into_iter().filter(|o| selected(o, query)).collect();
        let version = self.state.lock().version;
        answer(
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}, "items": items}),
        )
    }

    fn watch(&self, target: &Target, query: &str) -> Response<Body> {
        let since = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")?.parse::<u64>().ok());
        let receiver = self.events.subscribe();
        let (resource, query) = (target.resource.clone(), query.to_owned());
        // What changed between the list and the subscription.
        let version = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        let missed: Vec<Value> = self
            .all(&resource)
            .into_iter()
            .filter(|o| version(o) > since.unwrap_or(0) && selected(o, &query))
            .map(|o| json!({"type": "MODIFIED", "object": o}))
            .collect();
        let decoded = query.replace("%3D", "=");
        let selector = decoded.split('&').find_map(|p| p.strip_prefix("fieldSelector="));
        let open = OpenWatch::new(format!("{resource} {}", selector.unwrap_or_default()), &self.open_watches);
        let live = tokio_stream::wrappers::BroadcastStream::new(receiver).filter_map(move |event| {
            let _open = &open;
            let (kind, event) = event.unwrap();
            let wanted = kind == resource && selected(&event["object"], &query);
            futures::future::ready(wanted.then_some(event))
        });
        let frames = futures::stream::iter(missed).chain(live);
        let frames = frames.map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }

    fn write(&self, method: &Method, target: &Target, body: &Value) -> Response<Body> {
        if *method == Method::DELETE {
            self.delete(
                &target.resource,
                &target.namespace,
                &target.name,
                body["gracePeriodSeconds"].as_i64(),
            );
            return answer(
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}),
            );
        }
        if target.subresource == "token" {
            return answer(
                &json!({"status": {"token": "a.b.c", "expirationTimestamp": "2199-01-01T00:00:00Z"}}),
            );
        }
        if target.resource == "tokenreviews" {
            let token = body["spec"]["token"].as_str().unwrap_or("");
            let known = ["admin", "guest"].contains(&token);
            return answer(
                &json!({"status": {"authenticated": known, "user": {"username": token, "groups": []}}}),
            );
        }
        if target.resource == "subjectaccessreviews" {
            return answer(&json!({"status": {"allowed": body["spec"]["user"] == "admin"}}));
        }
        if *method == Method::POST {
            let mut object = body.clone();
            if !target.namespace.is_empty() {
                object["metadata"]["namespace"] = target.namespace.clone().into();
            }
            return answer(&self.put(&target.resource, object));
        }
        let Some(mut object) = self.get(&target.resource, &target.namespace, &target.name) else {
            return failure(404, "NotFound");
        };
        if *method == Method::PATCH {
            if body["metadata"]["uid"].is_string() && body["metadata"]["uid"] != object["metadata"]["uid"] {
                return failure(409, "Conflict");
            }
            merge(&mut object, body);
        } else {
            object = body.clone();
        }
        let (_, name) = target.key(&target.name);
        assert_eq!(name, format!("{}/{}", target.namespace, target.name));
        answer(&self.put(&target.resource, object))
    }
}

impl<B> tower::Service<Request<B>> for MiniApi
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap();
            let target = Target::parse(parts.uri.path());
            let query = parts.uri.query().unwrap_or("");
            Ok(if parts.method == Method::GET {
                api.read(&target, query)
            } else {
                api.write(&parts.method, &target, &serde_json::from_slice(&bytes).unwrap_or(Value::Null))
            })
        })
    }
}
