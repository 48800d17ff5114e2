//! One server and what tests say to it.

use std::sync::Arc;

use amphipod_apiserver::{ApiServer, Config, UserInfo};
use amphipod_store::EmbeddedStore;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tower::ServiceExt;

pub struct Server {
    pub api: Arc<ApiServer>,
    user: UserInfo,
}

pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }
    /// Checks the code and gives the content.
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }
    /// Checks a refusal and gives its message.
    pub fn refused(self, code: u16, reason: &str) -> String {
        let status = self.expect(code);
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["reason"].as_str().unwrap_or_default(), reason, "{status}");
        assert_eq!(status["code"], code);
        status["message"].as_str().unwrap_or_default().to_owned()
    }
}

pub async fn server() -> Server {
    let store = Arc::new(EmbeddedStore::memory().expect("a store"));
    let config = Config { advertise_address: [192, 0, 2, 1].into(), ..Config::default() };
    let api = ApiServer::start(config, store).await.expect("a server");
    Server::of(api).await
}

impl Server {
    /// An administrator's view; makes sure that pods can be created.
    pub async fn of(api: Arc<ApiServer>) -> Server {
        let server =
            Server { api, user: UserInfo::new("admin", &["system:masters", "system:authenticated"]) };
        let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}});
        server.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
        server
    }

    pub fn as_user(&self, name: &str, groups: &[&str]) -> Server {
        Server { api: self.api.clone(), user: UserInfo::new(name, groups) }
    }

    pub async fn raw(&self, request: Request<Vec<u8>>) -> Response<amphipod_apiserver::body::Body> {
        let service = self.api.local_service(self.user.clone());
        service.oneshot(request.map(|b| Full::new(Bytes::from(b)))).await.expect("never fails")
    }

    pub async fn send(&self, request: Request<Vec<u8>>) -> Answer {
        let (parts, body) = self.raw(request).await.into_parts();
        let bytes = body.collect().await.expect("a whole answer").to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub async fn with(&self, method: &str, path: &str, content_type: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        self.send(request.body(body.as_bytes().to_vec()).expect("a request")).await
    }
    pub async fn get(&self, path: &str) -> Answer {
        self.with("GET", path, "application/json", "").await
    }
    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request = Request::builder().uri(path).header("accept", accept);
        self.send(request.body(Vec::new()).expect("a request")).await
    }
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.with("POST", path, "application/json", &body.to_string()).await
    }
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.with("PUT", path, "application/json", &body.to_string()).await
    }
    pub async fn delete(&self, path: &str) -> Answer {
        self.with("DELETE", path, "application/json", "").await
    }
    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.with("PATCH", path, "application/merge-patch+json", &body.to_string()).await
    }

    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }
    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let request = Request::builder().uri(path).header("accept", accept);
        let answer = self.raw(request.body(Vec::new()).expect("a request")).await;
        assert_eq!(answer.status(), 200);
        let chunks =
            answer.into_body().into_data_stream().map(|c| c.expect("an unbroken answer")).boxed_local();
        Watch { chunks, buffer: Vec::new() }
    }
}

pub struct Watch {
    chunks: futures::stream::LocalBoxStream<'static, Bytes>,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        let line = self.next_line().await?;
        Some(serde_json::from_str(&line).expect("an event"))
    }
    /// The next event as it was sent.
    pub async fn line(&mut self) -> String {
        self.next_line().await.expect("an event")
    }
    async fn next_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line).expect("text").trim_end().to_owned());
            }
            let wait = std::time::Duration::from_secs(60);
            let chunk = tokio::time::timeout(wait, self.chunks.next()).await.expect("an event in time");
            self.buffer.extend_from_slice(&chunk?);
        }
    }
    /// `TYPE name` of the next event.
    pub async fn brief(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("");
        format!("{} {name}", event["type"].as_str().unwrap_or(""))
    }
}

pub fn config_map(name: &str) -> Value {
    serde_json::json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"k": "v"}})
}

pub fn pod(name: &str) -> Value {
    serde_json::json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server, and the right of a user jane to do everything.
pub async fn with_jane() -> Server {
    let server = server().await;
    let binding = json!({"metadata": {"name": "jane"}, "subjects": [{"kind": "User", "name": "jane",
        "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.expect(201);
    server
}

/// Waits for what will be so.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    let wait = std::time::Duration::from_secs(60);
    assert!(tokio::time::timeout(wait, reached).await.is_ok(), "{what}");
}

/// Sends a request whose body never ends.
pub async fn endless(api: &Arc<ApiServer>, user: &str, path: &str) -> Answer {
    endless_from(api, user, path, || ()).await
}

/// The same, and calls `begun` when it is served: when its body is first asked for.
pub async fn endless_from(
    api: &Arc<ApiServer>,
    user: &str,
    path: &str,
    begun: impl FnOnce() + Send + 'static,
) -> Answer {
    let frames = futures::stream::once(async {
        begun();
        Ok::<_, std::io::Error>(Frame::data(Bytes::from("{")))
    });
    let body = StreamBody::new(frames.chain(futures::stream::pending()));
    let request = Request::builder().method("POST").uri(path).header("content-type", "application/json");
    let service = api.local_service(UserInfo::new(user, &["system:authenticated"]));
    let answer: Response<_> =
        service.oneshot(request.body(body).expect("a request")).await.expect("never fails");
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.expect("a whole answer").to_bytes();
    Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
}

/// More than the server makes ahead of who takes it.
pub async fn large_maps(server: &Server) {
    for name in ["a", "b", "c", "d"] {
        let mut map = config_map(name);
        map["data"]["k"] = "x".repeat(100 << 10).into();
        server.post(MAPS, &map).await.expect(201);
    }
}
