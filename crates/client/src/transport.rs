//! The connection under every call: a `kube::Client`, over TLS (a kubeconfig) or straight into an
//! API server in the same process. Callers cannot tell which.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use kube::client::Body;
use tower::{BoxError, Service, ServiceExt};

use amphipod_api::status::Status;

use crate::{Error, Metrics};

/// The largest answer read into memory at once; lists beyond are paged by the callers.
const MAX_ANSWER_BYTES: usize = 512 << 20;
const GROUP: &str = "impersonate-group";

#[derive(Clone)]
pub struct Client {
    transport: Transport,
    metrics: Option<Metrics>,
    /// What each request says of who makes it: the name of the client, and as whom it acts where that is
    /// somebody else.
    headers: Option<Arc<HeaderMap>>,
}

#[derive(Clone)]
enum Transport {
    Remote(kube::Client),
    /// Without the queue that `kube::Client` puts before every service: a request is begun by whoever
    /// makes it, not by a task that must be woken first.
    Local(Arc<Call>),
}

/// What an answer says, however it got here.
struct Content(UnsyncBoxBody<Bytes, BoxError>);

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

type Answer = Response<Content>;
type Call = dyn Fn(Request<Body>) -> BoxFuture<'static, Result<Answer, BoxError>> + Send + Sync;

impl Transport {
    fn send(&self, request: Request<Body>) -> BoxFuture<'static, Result<Answer, Error>> {
        match self {
            Transport::Remote(client) => {
                let client = client.clone();
                Box::pin(async move { Ok(boxed(client.send(request).await?)) })
            }
            Transport::Local(call) => {
                let answer = call(request);
                Box::pin(async { answer.await.map_err(|e| Error::Transport(e.to_string())) })
            }
        }
    }
}

fn boxed<B>(answer: Response<B>) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    answer.map(|body| Content(body.map_err(Into::into).boxed_unsync()))
}

impl Client {
    pub fn new(client: kube::Client) -> Self {
        Client { transport: Transport::Remote(client), metrics: None, headers: None }
    }

    /// A client whose transport is a function call: `service` is the API server's own, with the
    /// caller's identity already attached. Each call goes to a clone, so what calls share is behind an `Arc`.
    pub fn local<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let call = move |request| {
            let answer = service.clone().oneshot(request);
            let answer = async { answer.await.map(boxed).map_err(Into::into) };
            Box::pin(answer) as BoxFuture<'static, Result<Answer, BoxError>>
        };
        Client { transport: Transport::Local(Arc::new(call)), metrics: None, headers: None }
    }

    /// Connects over HTTPS with the credentials of the file's current context.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self, Error> {
        Self::connect(path, None).await
    }

    /// The same, acting as another user throughout; the credentials must allow to impersonate it.
    pub async fn impersonating(path: &Path, user: &str) -> Result<Self, Error> {
        Self::connect(path, Some(user.to_owned())).await
    }

    async fn connect(path: &Path, user: Option<String>) -> Result<Self, Error> {
        let fail = |why: String| Error::Kubeconfig { path: path.display().to_string(), why };
        let file = kube::config::Kubeconfig::read_from(path).map_err(|e| fail(e.to_string()))?;
        Self::of(file, user).await.map_err(fail)
    }

    /// Connects to another server than the API server, described as a kubeconfig describes one.
    pub async fn to_server(kubeconfig: &serde_json::Value) -> Result<Self, Error> {
        let fail = |why: String| Error::Kubeconfig { path: "a server's settings".to_owned(), why };
        let file = serde::Deserialize::deserialize(kubeconfig).map_err(|e| fail(e.to_string()))?;
        Self::of(file, None).await.map_err(fail)
    }

    async fn of(file: kube::config::Kubeconfig, user: Option<String>) -> Result<Self, String> {
        let options = kube::config::KubeConfigOptions::default();
        let mut config =
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|e| e.to_string())?;
        // Watches live for minutes without a byte; a read timeout would cut them.
        config.read_timeout = None;
        config.auth_info.impersonate = user.or(config.auth_info.impersonate);
        let inner = kube::Client::try_from(config).map_err(|e| e.to_string())?;
        Ok(Client::new(inner))
    }

    /// The same connection, acting as another user, which the own one must be allowed to.
    pub fn acting_as(&self, user: &str, groups: &[&str]) -> Result<Self, Error> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(http::Error::from);
        if user.is_empty() {
            // To the server that is no wish to act as another: it would be oneself.
            return Err(Error::Api(Box::new(Status::bad_request("there is no name to act as"))));
        }
        let mut headers = self.headers.as_deref().cloned().unwrap_or_default();
        headers.remove(GROUP);
        headers.insert("impersonate-user", value(user)?);
        for group in groups {
            headers.append(GROUP, value(group)?);
        }
        Ok(Client { headers: Some(Arc::new(headers)), ..self.clone() })
    }
    /// The same with a name, by which the server notes who owns the fields it writes.
    pub fn called(self, component: &str) -> Self {
        let (version, os, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
        let agent = format!("{component}/{version} ({os}/{arch}) amphipod");
        // A name that no header can hold is told to nobody.
        let Ok(agent) = HeaderValue::try_from(agent) else { return self };
        let mut headers = self.headers.as_deref().cloned().unwrap_or_default();
        headers.insert(USER_AGENT, agent);
        Client { headers: Some(Arc::new(headers)), ..self }
    }
    /// The same, counted by `metrics`.
    pub fn counted(self, metrics: &Metrics) -> Self {
        Client { metrics: Some(metrics.clone()), ..self }
    }
    /// Whom those who work with this client tell of their queues.
    pub fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_ref()
    }

    /// For what only `kube` does: streams to and from processes.
    pub fn kube(&self) -> kube::Client {
        match (&self.transport, &self.headers) {
            (Transport::Remote(client), None) => client.clone(),
            _ => {
                let client = self.clone();
                kube::Client::new(tower::service_fn(move |request| client.begin(request)), "default")
            }
        }
    }

    fn begin(&self, mut request: Request<Body>) -> BoxFuture<'static, Result<Answer, Error>> {
        if let Some(own) = &self.headers {
            let headers = request.headers_mut();
            for name in own.keys() {
                headers.remove(name);
            }
            for (name, value) in own.iter() {
                headers.append(name, value.clone());
            }
        }
        self.transport.send(request)
    }

    /// Sends a request and reads the whole answer; a failure status becomes `Error::Api`.
    pub async fn request(&self, request: Request<Vec<u8>>) -> Result<Bytes, Error> {
        let response = self.send(request).await?;
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        body.collect().await.map(|c| c.to_bytes()).map_err(|e| Error::Transport(e.to_string()))
    }

    /// Sends a request and hands the answer's body over as it arrives.
    pub async fn stream(
        &self,
        request: Request<Vec<u8>>,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>, Error> {
        let response = self.send(request).await?;
        let frames = response.into_body().into_data_stream();
        Ok(frames.map(|frame| frame.map_err(|e| Error::Transport(e.to_string()))))
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Answer, Error> {
        let requests = self.metrics.as_ref().and_then(|metrics| metrics.requests(request.method()));
        let started = Instant::now();
        let sent = self.begin(request.map(Body::from)).await;
        if let Some(requests) = requests {
            let code = sent.as_ref().ok().map(|answer| answer.status().as_u16());
            requests.ended(code, started.elapsed());
        }
        let response = sent?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status();
        let body = http_body_util::Limited::new(response.into_body(), 4 << 20);
        let bytes = body.collect().await.map_err(|e| Error::Transport(e.to_string()))?.to_bytes();
        let status = serde_json::from_slice::<Status>(&bytes)
            .ok()
            .filter(|s| s.kind == "Status" && s.code != 0)
            .unwrap_or_else(|| {
                let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                let text = if text.is_empty() { code.to_string() } else { text };
                Status::failure(code.as_u16(), "", text)
            });
        Err(Error::Api(Box::new(status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_acted_as_is_told_with_each_request() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let told: Vec<_> =
                request.headers().iter().map(|(name, value)| format!("{name:?}: {value:?}")).collect();
            Ok::<_, BoxError>(Response::new(http_body_util::Full::new(Bytes::from(told.join(", ")))))
        });
        let client = Client::local(service);
        let told = async |client: &Client| {
            let request = Request::get("/").body(Vec::new()).expect("a request");
            String::from_utf8(client.request(request).await.expect("an answer").to_vec()).expect("text")
        };
        let node = client.acting_as("system:node:n", &["system:nodes", "g"]).expect("a client");
        let expected = "\"impersonate-user\": \"system:node:n\", \"impersonate-group\": \"system:nodes\", \
                        \"impersonate-group\": \"g\"";
        assert_eq!(told(&node).await, expected);
        assert_eq!(told(&client).await, "");
        let named = client.clone().called("kubelet");
        let other =
            named.acting_as("system:node:n", &["system:nodes"]).and_then(|n| n.acting_as("a", &["g"]));
        let told = told(&other.expect("a client")).await;
        assert!(told.starts_with("\"user-agent\": \"kubelet/"), "{told}");
        assert!(told.ends_with(r#", "impersonate-user": "a", "impersonate-group": "g""#), "{told}");
        assert!(client.acting_as("a\nb", &[]).is_err() && client.acting_as("", &["g"]).is_err());
    }

    #[tokio::test]
    async fn requests_are_counted_by_what_they_are_answered() {
        let metrics = Metrics::default();
        let service = tower::service_fn(|request: Request<Body>| async move {
            let code = request.uri().path().trim_start_matches('/').parse::<u16>().map_err(|_| "no code")?;
            let answer = Response::builder().status(code).body(http_body_util::Full::new(Bytes::new()));
            Ok::<_, BoxError>(answer?)
        });
        let client = Client::local(service).counted(&metrics);
        let ask = async |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).body(Vec::new()).expect("a request");
            client.request(request).await.is_ok()
        };
        assert!(ask("GET", "/200").await && ask("GET", "/200").await);
        assert!(!ask("PATCH", "/409").await && !ask("GET", "/nothing").await);
        let text = metrics.render();
        for line in [
            "rest_client_requests_total{code=\"200\",method=\"GET\",host=\"in-process\"} 2",
            "rest_client_requests_total{code=\"<error>\",method=\"GET\",host=\"in-process\"} 1",
            "rest_client_requests_total{code=\"409\",method=\"PATCH\",host=\"in-process\"} 1",
            "rest_client_request_duration_seconds_count{verb=\"GET\",host=\"in-process\"} 3",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
        assert!(!text.contains("DELETE"), "{text}");
    }
}
