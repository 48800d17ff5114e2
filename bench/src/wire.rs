//! The load's connections: HTTP/2 over TLS, a few of them shared by all clients, with the windows
//! Go's client asks for, since most clients of a cluster are that one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Outcome;

pub const JSON: &str = "application/json";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// As many as the figures of the original were taken with.
const CONNECTIONS: usize = 4;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// Streams one connection carries; further requests wait for one to end.
const STREAMS: usize = 1000;

/// A server as the load reaches it; cheap to clone.
#[derive(Clone)]
pub struct Wire {
    connections: Arc<Vec<SendRequest<Full<Bytes>>>>,
    next: Arc<AtomicUsize>,
    authority: Arc<str>,
}

/// What differs between requests.
pub struct Call<'a> {
    pub method: Method,
    pub path: &'a str,
    pub accept: &'a str,
    pub content_type: &'a str,
    pub body: Bytes,
}

impl<'a> Call<'a> {
    pub fn get(path: &'a str) -> Self {
        Call { method: Method::GET, path, accept: JSON, content_type: JSON, body: Bytes::new() }
    }
    pub fn post(path: &'a str, body: &Value) -> Self {
        Call { method: Method::POST, body: body.to_string().into(), ..Call::get(path) }
    }
    pub fn delete(path: &'a str) -> Self {
        Call { method: Method::DELETE, ..Call::get(path) }
    }
}

impl Wire {
    /// Enough connections for the load of one figure.
    pub async fn connect(kubeconfig: &Path) -> Outcome<Self> {
        Wire::with_streams(kubeconfig, CONNECTIONS * STREAMS).await
    }

    /// At least as many connections as that many open streams need.
    pub async fn with_streams(kubeconfig: &Path, streams: usize) -> Outcome<Self> {
        let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        let uri: Uri = config.cluster_url.clone();
        let host = uri.host().ok_or("the server's address has no host")?.to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let mut tls = config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(tls));
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS.max(streams.div_ceil(STREAMS)) {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(ServerName::try_from(host.clone())?, stream).await?;
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .handshake(TokioIo::new(stream))
                .await?;
            tokio::spawn(connection);
            connections.push(sender);
        }
        let authority = format!("{host}:{port}").into();
        Ok(Wire { connections: Arc::new(connections), next: Arc::default(), authority })
    }

    /// Sends a request; an answer that is no success is an error with its text.
    pub async fn send(&self, call: Call<'_>) -> Outcome<Response<Incoming>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let what = format!("{} {}", call.method, call.path);
        let request = Request::builder()
            .method(call.method)
            .uri(format!("https://{}{}", self.authority, call.path))
            .header("accept", call.accept)
            .header("content-type", call.content_type)
            .body(Full::new(call.body))?;
        let mut sender = self.connections[at].clone();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status();
        let text = response.into_body().collect().await?.to_bytes();
        Err(format!("{what}: {code}: {}", String::from_utf8_lossy(&text)).into())
    }

    /// The whole answer.
    pub async fn call(&self, call: Call<'_>) -> Outcome<Bytes> {
        Ok(self.send(call).await?.into_body().collect().await?.to_bytes())
    }

    /// Reads the whole answer and keeps none of it; its size.
    pub async fn drain(&self, call: Call<'_>) -> Outcome<usize> {
        let mut body = self.send(call).await?.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }
}
