//! The node's HTTPS API: logs, exec, attach, port-forward, stats. Only for those the API server
//! vouches for.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::{Bytes, Incoming};
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use amphipod_client::Writable;

use crate::context::Context;
use crate::error::IoContext;
use crate::pods::Pods;
use crate::{Config, Error};

pub mod auth;
mod handlers;
pub mod logs;
pub mod metrics;
mod stats;
mod streams;

pub use amphipod_serving::{Answer, Body, full, text};
use amphipod_serving::{Handler, Trust, User, bearer};
use auth::Authorizer;

fn json(value: impl Into<Bytes>) -> Answer {
    amphipod_serving::json(StatusCode::OK, value)
}

pub struct Server {
    context: Arc<Context>,
    pods: Arc<Pods>,
    authorizer: Authorizer,
}

/// Takes the port to serve at, if any; a taken one is an error. The configuration says which it is where
/// any was asked for: the node's status tells it.
pub async fn bind(config: &mut Config) -> Result<Option<TcpListener>, Error> {
    let Some(address) = &mut config.listen else { return Ok(None) };
    let listener = TcpListener::bind(*address).await.context(|| format!("listen on {address}"))?;
    *address = listener.local_addr().context(|| "the listener's address".to_owned())?;
    Ok(Some(listener))
}

/// Serves until cancelled.
pub fn start(
    context: Arc<Context>,
    pods: Arc<Pods>,
    listener: TcpListener,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let tls = tls(&context.config)?;
    let authorizer = Authorizer::new(context.client.clone(), &context.config.node_name);
    let server = Arc::new(Server { context, pods, authorizer });
    let handler: Handler = Arc::new(move |user, request| {
        let server = server.clone();
        Box::pin(async move { server.handle(user, request).await })
    });
    tokio::spawn(amphipod_serving::serve(listener, tls, cancel, handler));
    Ok(())
}

fn tls(config: &Config) -> Result<rustls::ServerConfig, Error> {
    let names = vec![config.node_name.clone(), config.node_ip.to_string(), "localhost".to_owned()];
    let certificate = config.serving_cert.as_ref().map(|(certificate, key)| (&**certificate, &**key));
    let trust = config.client_ca.clone().map_or(Trust::Nobody, Trust::File);
    amphipod_serving::config(names, certificate, &trust).map_err(Into::into)
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
        self.authorizer.token(bearer(request)?).await
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
