//! The node's HTTPS API: logs, exec, attach, port-forward, stats. Only for those the API server
//! vouches for.

#![allow(clippy::result_large_err)] // an answer in place of a value is a handler's way out

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use amphipod_client::Resource;

use crate::Error;
use crate::context::Context;
use crate::error::IoContext;
use crate::pod::state::RuntimeState;
use crate::pods::Pods;

pub mod auth;
pub mod logs;
pub mod metrics;
mod stats;
mod streams;
mod tls;

use auth::{Authorizer, User};
use streams::Wish;

/// Connections served at once; the API server needs few.
const MAX_CONNECTIONS: usize = 1024;

pub type Body = BoxBody<Bytes, Infallible>;
pub type Answer = Response<Body>;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

pub fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert("content-type", plain);
    response
}

fn json(value: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(full(value));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

pub struct Server {
    context: Arc<Context>,
    pods: Arc<Pods>,
    authorizer: Authorizer,
}

/// Binds at once (a taken port is an error), serves until cancelled.
pub async fn start(
    context: Arc<Context>,
    pods: Arc<Pods>,
    address: SocketAddr,
    cancel: CancellationToken,
) -> Result<SocketAddr, Error> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::config(&context.config)?));
    let listener = TcpListener::bind(address).await.context(|| format!("listen on {address}"))?;
    let bound = listener.local_addr().context(|| "the listener's address".to_owned())?;
    let authorizer = Authorizer::new(context.client.clone(), &context.config.node_name);
    let server = Arc::new(Server { context, pods, authorizer });
    tokio::spawn(accept(server, listener, acceptor, cancel));
    Ok(bound)
}

async fn accept(
    server: Arc<Server>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    cancel: CancellationToken,
) {
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (server, acceptor, cancel) = (server.clone(), acceptor.clone(), cancel.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let _ = stream.set_nodelay(true); // only a speed-up
            tokio::select! {
                () = cancel.cancelled() => {}
                () = serve(server, stream, acceptor) => {}
            }
        });
    }
}

async fn serve(server: Arc<Server>, stream: tokio::net::TcpStream, acceptor: TlsAcceptor) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, "TLS handshake"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    let user = certificate.and_then(|der| auth::from_certificate(&der));
    let service = hyper::service::service_fn(move |request| {
        let (server, user) = (server.clone(), user.clone());
        async move { Ok::<_, Infallible>(server.handle(user, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        debug!(%error, "a connection ended");
    }
}

/// Decoded pairs of a query string, in order.
fn query_of(request: &Request<Incoming>) -> Vec<(String, String)> {
    let query = request.uri().query().unwrap_or("");
    let pairs = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    });
    pairs.collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Server {
    async fn handle(&self, certificate: Option<User>, request: Request<Incoming>) -> Answer {
        let user = match certificate {
            Some(user) => Some(user),
            None => self.bearer(&request).await,
        };
        let Some(user) = user else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
        if !self.authorizer.allows(&user, request.method(), request.uri().path()).await {
            let subresource = auth::subresources(request.uri().path())[0];
            let message = format!(
                "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{subresource}])",
                user.name,
                request.method().as_str().to_lowercase()
            );
            return text(StatusCode::FORBIDDEN, message);
        }
        self.route(request).await
    }

    async fn bearer(&self, request: &Request<Incoming>) -> Option<User> {
        let header = request.headers().get("authorization")?.to_str().ok()?;
        self.authorizer.token(header.strip_prefix("Bearer ")?.trim()).await
    }

    async fn route(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        match parts.as_slice() {
            ["healthz", ..] => text(StatusCode::OK, "ok"),
            ["metrics"] => {
                let (known, running) = self.pods.counts();
                self.context.metrics.pods(known, running);
                text(StatusCode::OK, self.context.metrics.text())
            }
            ["metrics", "resource"] => match stats::resource_metrics(&self.context).await {
                Ok(metrics) => text(StatusCode::OK, metrics),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            ["pods"] => json(pod_list(&self.pods.list())),
            ["runningpods"] => self.running_pods().await,
            ["configz"] => json(self.configz()),
            ["stats", "summary"] => match stats::summary(&self.context).await {
                Ok(summary) => json(summary.to_string()),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            ["containerLogs", namespace, pod, container] => {
                self.logs(namespace, pod, container, &query_of(&request)).await
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                self.exec(namespace, pod, container, request).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.attach(namespace, pod, container, request).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.port_forward(namespace, pod, request).await
            }
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
                if request.method() == Method::POST =>
            {
                self.run(namespace, pod, container, &query_of(&request)).await
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    fn configz(&self) -> String {
        let config = &self.context.config;
        let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
        serde_json::json!({"kubeletconfig": {
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "clusterDNS": dns, "clusterDomain": config.cluster_domain, "maxPods": config.max_pods,
            "cgroupDriver": "cgroupfs", "containerRuntimeEndpoint": config.cri_endpoint,
            "staticPodPath": config.manifest_dir, "podLogsDir": config.pod_logs_dir,
            "imageGCHighThresholdPercent": config.image_gc_high_percent,
            "imageGCLowThresholdPercent": config.image_gc_low_percent,
        }})
        .to_string()
    }

    async fn running_pods(&self) -> Answer {
        let all = match self.context.runtime.all_pods().await {
            Ok(all) => all,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        let pods = self.pods.list();
        let running = pods.into_iter().filter(|p| all.keys().any(|key| key.uid == p.uid()));
        json(pod_list(&running.collect::<Vec<_>>()))
    }

    fn find(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Answer> {
        let missing =
            || text(StatusCode::NOT_FOUND, format!("pod {:?} does not exist", format!("{name}_{namespace}")));
        self.pods.find(namespace, name).ok_or_else(missing)
    }

    async fn state(&self, pod: &Pod) -> Result<RuntimeState, Answer> {
        let state = self.context.runtime.pod_state(pod.uid(), &RuntimeState::default()).await;
        state.map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }

    async fn logs(&self, namespace: &str, name: &str, container: &str, query: &[(String, String)]) -> Answer {
        self.try_logs(namespace, name, container, query).await.unwrap_or_else(|answer| answer)
    }

    async fn try_logs(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        query: &[(String, String)],
    ) -> Result<Answer, Answer> {
        let bad = |message: String| text(StatusCode::BAD_REQUEST, message);
        let options = logs::Options::parse(query, Timestamp::now()).map_err(&bad)?;
        let pod = self.find(namespace, name)?;
        if crate::pod::find_container(&pod, container).is_none() {
            let message =
                format!("container {container:?} not found in pod {:?}", format!("{name}_{namespace}"));
            return Err(text(StatusCode::NOT_FOUND, message));
        }
        let state = self.state(&pod).await?;
        let record = if options.previous {
            let id = self.previous_id(&pod, container);
            let found = state.containers.iter().find(|c| Some(&c.id) == id.as_ref());
            found.ok_or_else(|| {
                bad(format!("previous terminated container {container:?} in pod {name:?} not found"))
            })?
        } else {
            let found = state.latest(container);
            found.ok_or_else(|| bad(self.waiting_text(&pod, container)))?
        };
        let (runtime, uid, id) = (self.context.runtime.clone(), pod.uid().to_owned(), record.id.clone());
        let alive: logs::Alive = Box::new(move || {
            let (runtime, uid, id) = (runtime.clone(), uid.clone(), id.clone());
            Box::pin(async move {
                let state = runtime.pod_state(&uid, &RuntimeState::default()).await;
                state.is_ok_and(|s| s.containers.iter().any(|c| c.id == id && !c.is_over()))
            })
        });
        let pieces = logs::stream(record.log_path.clone().into(), options, alive).map_err(|error| {
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("failed to try resolving symlinks in path {:?}: {error}", record.log_path),
            )
        })?;
        let frames = tokio_stream::wrappers::ReceiverStream::new(pieces).map(|piece| Ok(Frame::data(piece)));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    fn container_status(&self, pod: &Pod, container: &str) -> Option<ContainerStatus> {
        let status =
            self.pods.list().into_iter().find(|p| p.uid() == pod.uid()).and_then(|p| p.status.clone())?;
        let lists =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten().find(|c| c.name == container)
    }

    /// The instance that `lastState` tells of: also the newest one, while it waits to start again.
    fn previous_id(&self, pod: &Pod, container: &str) -> Option<String> {
        let last = self.container_status(pod, container)?.last_state?.terminated?.container_id?;
        Some(last.split_once("://")?.1.to_owned())
    }

    fn waiting_text(&self, pod: &Pod, container: &str) -> String {
        let found = self.container_status(pod, container);
        let waiting = found.and_then(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone());
        let reason = waiting.unwrap_or_else(|| "ContainerCreating".to_owned());
        let name = pod.name();
        match reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                format!(
                    "container {container:?} in pod {name:?} is waiting to start: trying and failing to pull image"
                )
            }
            _ => format!("container {container:?} in pod {name:?} is waiting to start: {reason}"),
        }
    }

    async fn running_id(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
    ) -> Result<(String, Arc<Pod>), Answer> {
        let pod = self.find(namespace, name)?;
        let state = self.state(&pod).await?;
        let running = state.latest(container).filter(|r| r.is_running()).map(|r| r.id.clone());
        let missing = || text(StatusCode::NOT_FOUND, format!("container not found ({container:?})"));
        Ok((running.ok_or_else(missing)?, pod))
    }

    async fn exec(&self, namespace: &str, name: &str, container: &str, request: Request<Incoming>) -> Answer {
        match self.running_id(namespace, name, container).await {
            Ok((container_id, _)) => {
                let query = query_of(&request);
                streams::proxy(&self.context.runtime, Wish::Exec { container_id, query }, request).await
            }
            Err(answer) => answer,
        }
    }

    async fn attach(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        request: Request<Incoming>,
    ) -> Answer {
        match self.running_id(namespace, name, container).await {
            Ok((container_id, pod)) => {
                let query = query_of(&request);
                let tty = crate::pod::find_container(&pod, container)
                    .is_some_and(|c| c.container.tty == Some(true));
                streams::proxy(&self.context.runtime, Wish::Attach { container_id, query, tty }, request)
                    .await
            }
            Err(answer) => answer,
        }
    }

    async fn port_forward(&self, namespace: &str, name: &str, request: Request<Incoming>) -> Answer {
        let pod = match self.find(namespace, name) {
            Ok(pod) => pod,
            Err(answer) => return answer,
        };
        let state = match self.state(&pod).await {
            Ok(state) => state,
            Err(answer) => return answer,
        };
        let Some(sandbox) = state.ready_sandbox() else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("pod not found ({:?})", format!("{name}_{namespace}")),
            );
        };
        let wish = Wish::PortForward { sandbox_id: sandbox.id.clone(), query: query_of(&request) };
        streams::proxy(&self.context.runtime, wish, request).await
    }

    /// Runs a command to its end and answers with its output.
    async fn run(&self, namespace: &str, name: &str, container: &str, query: &[(String, String)]) -> Answer {
        let (id, _) = match self.running_id(namespace, name, container).await {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let written = query.iter().filter(|(k, _)| k == "cmd" || k == "command").map(|(_, v)| v.as_str());
        let words: Vec<String> = written.flat_map(str::split_whitespace).map(str::to_owned).collect();
        match self.context.runtime.exec_sync(&id, words, std::time::Duration::ZERO).await {
            Ok(output) if output.exit_code == 0 => Response::new(full(output.output)),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.output).into_owned();
                let message = format!("command terminated with exit code {}: {said}", output.exit_code);
                text(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

/// A `v1.PodList`, put together from encoded pods.
fn pod_list(pods: &[Arc<Pod>]) -> Vec<u8> {
    let mut list = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (index, pod) in pods.iter().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        list.extend(pod.encode());
    }
    list.extend(b"]}");
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_lists() {
        assert_eq!(decoded("a%20b+c%2"), "a b c%2");
        let list: serde_json::Value =
            serde_json::from_slice(&pod_list(&[Arc::default(), Arc::default()])).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
    }
}
