//! The connection under every call: a `kube::Client`, over TLS (a kubeconfig) or straight into an
//! API server in the same process. Callers cannot tell which.

use std::path::Path;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use tower::{BoxError, Service};

use amphipod_api::status::Status;

use crate::Error;

/// The largest answer read into memory at once; lists beyond are paged by the callers.
const MAX_ANSWER_BYTES: usize = 512 << 20;

#[derive(Clone)]
pub struct Client {
    inner: kube::Client,
}

impl Client {
    pub fn new(inner: kube::Client) -> Self {
        Client { inner }
    }

    /// A client whose transport is a function call: `service` is the API server's own, with the
    /// caller's identity already attached.
    pub fn local<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Client::new(kube::Client::new(service, "default"))
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

    pub fn kube(&self) -> &kube::Client {
        &self.inner
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

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, Error> {
        let response = self.inner.send(request.map(Body::from)).await?;
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
