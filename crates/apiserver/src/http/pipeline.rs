//! The way of every request: bounds, identity, authorization, the handler, and what is added to
//! each answer. A panic is a 500, a timeout a 504, too many at once a 429.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use amphipod_api::status::Status;
use futures::FutureExt;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue, VARY, WARNING,
};
use http::{Request, Response};
use http_body::Body as _;
use tracing::{debug, error};
use uuid::Uuid;

use super::negotiate::Accepted;
use super::path::{self, Query, Target};
use super::{handlers, negotiate};
use crate::authn::impersonation;
use crate::authz;
use crate::body::{self, Body, GZIP_THRESHOLD_BYTES};
use crate::metrics::Finished;
use crate::registry::list::ExpectedSize;
use crate::registry::view;
use crate::seams::{Attributes, Credentials, Decision, UserInfo};
use crate::serve::PeerCertificate;
use crate::server::ApiServer;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Warnings of the handler, on their way to the headers.
#[derive(Clone, Debug, Default)]
pub struct Warnings(pub Vec<String>);

/// Subresources whose answers last as long as the client likes.
const LONG_RUNNING: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

/// One request as far as it is known before anyone has looked at it closely.
pub struct Incoming {
    pub request: Request<Body>,
    pub attributes: Attributes,
    pub target: Option<Target>,
    pub query: Query,
}

/// Answers a request; never fails.
pub async fn handle(server: Arc<ApiServer>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let audit_id = audit_id(&request);
    let takes_gzip = takes_gzip(&request);
    let accepted = negotiate::accept(request.headers(), true, false).unwrap_or_default();
    let (attributes, target, query) = understand(&request);
    let (verb, path) = (attributes.verb.clone(), attributes.path.clone());
    let known = target.as_ref().and_then(|t| server.catalog.load().find(&t.group, &t.version, &t.resource));
    let labels = (attributes.subresource.clone(), known);
    let incoming = Incoming { request, attributes, target, query };
    let answer = AssertUnwindSafe(bounded(server.clone(), incoming, accepted)).catch_unwind().await;
    let mut answer = answer.unwrap_or_else(|_| {
        error!(%verb, %path, "a handler panicked");
        let text = "This request caused apiserver to panic. Look in the logs for details.";
        view::status_response(accepted, &Status::internal(text))
    });
    finish(&mut answer, &audit_id);
    debug!(%verb, %path, code = answer.status().as_u16(), took = ?started.elapsed(), "answered");
    let resource = labels.1.as_deref();
    server.metrics.finished(&Finished {
        verb: &verb,
        group: resource.map_or("", |r| &r.group),
        version: resource.map_or("", |r| &r.version),
        resource: resource.map_or("", |r| &r.plural),
        subresource: if resource.is_some_and(|r| r.subresource(&labels.0).is_some()) {
            &labels.0
        } else {
            ""
        },
        code: answer.status().as_u16(),
        took: started.elapsed(),
    });
    if takes_gzip { compressed(answer, &verb) } else { answer }
}

fn audit_id<B>(request: &Request<B>) -> String {
    let given = request.headers().get(AUDIT_ID).and_then(|v| v.to_str().ok());
    given
        .filter(|id| !id.is_empty() && id.len() <= 64)
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

fn takes_gzip<B>(request: &Request<B>) -> bool {
    let header = request.headers().get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    header.split(',').any(|part| part.split(';').next().unwrap_or("").trim() == "gzip")
}

fn finish(answer: &mut Response<Body>, audit_id: &str) {
    let warnings = answer.extensions_mut().remove::<Warnings>().unwrap_or_default();
    let headers = answer.headers_mut();
    for text in warnings.0 {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append(WARNING, value);
        }
    }
    if let Ok(value) = HeaderValue::from_str(audit_id) {
        headers.insert(AUDIT_ID, value);
    }
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
}

/// Lists and other large answers are compressed; watches, which trickle, are not.
fn compressed(mut answer: Response<Body>, verb: &str) -> Response<Body> {
    if verb == "watch" || answer.headers().contains_key(CONTENT_ENCODING) || answer.status() == 101 {
        return answer;
    }
    let streamed = answer.extensions().get::<ExpectedSize>().map_or(0, |size| size.0);
    let size = answer.body().size_hint().exact().and_then(|n| usize::try_from(n).ok()).unwrap_or(streamed);
    if size < GZIP_THRESHOLD_BYTES {
        return answer;
    }
    answer.headers_mut().remove(CONTENT_LENGTH);
    answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    answer.map(body::gzip)
}

fn understand(request: &Request<Body>) -> (Attributes, Option<Target>, Query) {
    let query = Query::parse(request.uri().query());
    let path = request.uri().path();
    let target = path::resolve(request.method(), path, query.flag("watch"));
    let attributes = match &target {
        Some(target) => target.attributes(path),
        None => Attributes {
            verb: request.method().as_str().to_lowercase(),
            path: path.to_owned(),
            ..Attributes::default()
        },
    };
    (attributes, target, query)
}

async fn bounded(server: Arc<ApiServer>, incoming: Incoming, accepted: Accepted) -> Response<Body> {
    let attributes = &incoming.attributes;
    let long_running = attributes.verb == "watch"
        || (attributes.resource_request && LONG_RUNNING.contains(&attributes.subresource.as_str()));
    let outcome = if long_running {
        answer(server.clone(), incoming).await
    } else {
        let Ok(_permit) = server.inflight.try_acquire() else {
            let status = Status::too_many_requests("Too many requests, please try again later.", 1);
            return view::status_response(accepted, &status);
        };
        server.metrics.inflight(1);
        let outcome =
            tokio::time::timeout(server.config.request_timeout, answer(server.clone(), incoming)).await;
        server.metrics.inflight(-1);
        outcome.unwrap_or_else(|_| {
            Err(Status::timeout("request did not complete within the allotted timeout", 0))
        })
    };
    outcome.unwrap_or_else(|status| view::status_response(accepted, &status))
}

/// Who asks, whether they may, and the answer.
async fn answer(server: Arc<ApiServer>, mut incoming: Incoming) -> Result<Response<Body>, Status> {
    incoming.attributes.user = authenticate(&server, &mut incoming.request).await?;
    name_from_selector(&mut incoming);
    authorize(&server, &incoming.attributes).await?;
    match incoming.target.take() {
        Some(target) => handlers::resource(server, incoming, target).await,
        None => handlers::other(&server, incoming).await,
    }
}

async fn authenticate(server: &ApiServer, request: &mut Request<Body>) -> Result<UserInfo, Status> {
    let in_process = request.extensions_mut().remove::<UserInfo>();
    let peer = request.extensions().get::<PeerCertificate>().cloned();
    let credentials = Credentials {
        headers: request.headers(),
        peer_certificate: peer.as_ref().map(|p| p.0.as_ref()),
        in_process: in_process.as_ref(),
    };
    let user = server.policy.authenticator.authenticate(&credentials).await?;
    let user = impersonation::apply(server.policy.authorizer.as_ref(), user, request.headers()).await?;
    let headers = request.headers_mut();
    headers.remove(http::header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    Ok(user)
}

/// A list or watch of one named object may be allowed by that name.
fn name_from_selector(incoming: &mut Incoming) {
    let attributes = &mut incoming.attributes;
    if !matches!(attributes.verb.as_str(), "list" | "watch" | "deletecollection")
        || !attributes.name.is_empty()
    {
        return;
    }
    let selector = incoming.query.text("fieldSelector");
    if let Ok(selector) = amphipod_api::selector::FieldSelector::parse(selector)
        && let Some(name) = selector.required("metadata.name")
    {
        attributes.name = name.to_owned();
    }
}

async fn authorize(server: &ApiServer, attributes: &Attributes) -> Result<(), Status> {
    match server.policy.authorizer.authorize(attributes).await {
        Decision::Allow { .. } => Ok(()),
        Decision::NoOpinion { reason } | Decision::Deny { reason } => {
            Err(authz::forbidden(attributes, &reason))
        }
    }
}
