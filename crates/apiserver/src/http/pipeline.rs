//! The way of every request: bounds, identity, authorization, the handler, and what is added to
//! each answer. A panic is a 500, a timeout a 504, too many at once a 429.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use futures::FutureExt;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, VARY, WARNING,
};
use http::{Request, Response};
use http_body::Body as _;
use tracing::{Instrument, debug_span, error};
use uuid::Uuid;

use super::limits::{Kind, TimeLimit};
use super::negotiate::Accepted;
use super::path::{self, Query, Target};
use super::{debug, handlers, limits, negotiate};
use crate::authn::{self, impersonation};
use crate::authz;
use crate::body::{self, Body, GZIP_THRESHOLD_BYTES};
use crate::flow_control::{Asked, Schema, Seat};
use crate::metrics::{Observed, RequestMeter};
use crate::registry::render::ExpectedSize;
use crate::registry::{patch, view};
use crate::seams::{Attributes, Credentials, Decision, UserInfo};
use crate::serve::ConnectedPeer;
use crate::server::ApiServer;
use crate::stall::Patience;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Warnings of the handler, on their way to the headers.
#[derive(Clone, Debug, Default)]
pub struct Warnings(pub Vec<String>);

/// Subresources whose answers last as long as the client likes.
const LONG_RUNNING: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

/// One request as far as it is known before anyone has looked at it closely.
pub struct Incoming {
    pub request: Request<Body>,
    pub attributes: Arc<Attributes>,
    pub target: Option<Target>,
    pub query: Query,
    /// What the path names, if that is served here.
    pub resource: Option<Arc<Resource>>,
    /// A watch's, until it has begun.
    pub seat: Option<Seat>,
}

impl Incoming {
    fn asked(&self) -> Asked<'_> {
        Asked { attributes: &self.attributes, query: &self.query, resource: self.resource.as_deref() }
    }
}

/// Answers a request; never fails.
pub async fn handle(server: Arc<ApiServer>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let audit_id = audit_id(&request);
    let takes_gzip = takes_gzip(&request);
    let accepted = negotiate::for_status(&request);
    let (attributes, target, query) = understand(&request);
    let (verb, path) = (attributes.verb.clone(), attributes.path.clone());
    let known = target.as_ref().and_then(|t| server.catalog.load().find(&t.group, &t.version, &t.resource));
    let is_long_running = is_long_running(&attributes);
    let meter = server.metrics.request(&Observed {
        attributes: &attributes,
        resource: known.as_deref(),
        is_apply: is_apply(&request),
        is_dry_run: query.all("dryRun").any(|value| value == "All"),
        is_long_running,
    });
    let attributes = Arc::new(attributes);
    let incoming = Incoming { request, attributes, target, query, resource: known, seat: None };
    let span = debug_span!("request", audit_id);
    // Boxed, as below: large futures are copied by everything that wraps them.
    let work =
        Box::pin(bounded(server.clone(), incoming, accepted, is_long_running, &meter)).instrument(span);
    let answer = AssertUnwindSafe(work).catch_unwind().await;
    let mut answer = answer.unwrap_or_else(|_| {
        error!(%verb, %path, audit_id, "a handler panicked");
        let text = "This request caused apiserver to panic. Look in the logs for details.";
        view::status_response(accepted, &Status::internal(text))
    });
    finish(&mut answer, &audit_id);
    tracing::debug!(%verb, %path, audit_id, code = answer.status().as_u16(), took = ?started.elapsed(), "answered");
    // Watches trickle, and what another server answers is its own: ranges, tags, codings.
    meter.answered(if takes_gzip && !is_long_running { compressed(answer) } else { answer })
}

fn is_long_running(attributes: &Attributes) -> bool {
    attributes.verb == "watch"
        || (!attributes.resource_request && debug::is_long_running(&attributes.path))
        || (attributes.resource_request && LONG_RUNNING.contains(&attributes.subresource.as_str()))
}

fn is_apply(request: &Request<Body>) -> bool {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    patch::kind_of(media_type) == Some(patch::Kind::Apply)
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

/// Lists and other large answers are compressed.
fn compressed(mut answer: Response<Body>) -> Response<Body> {
    if answer.headers().contains_key(CONTENT_ENCODING) {
        return answer;
    }
    let streamed = answer.extensions().get::<ExpectedSize>().map_or(0, |size| size.0);
    let size = answer.body().size_hint().exact().and_then(|n| usize::try_from(n).ok()).unwrap_or(streamed);
    if size < GZIP_THRESHOLD_BYTES {
        return answer;
    }
    answer.headers_mut().remove(CONTENT_LENGTH);
    answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
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

async fn bounded(
    server: Arc<ApiServer>,
    incoming: Incoming,
    accepted: Accepted,
    is_long_running: bool,
    meter: &RequestMeter,
) -> Response<Body> {
    let mut schema = None;
    let outcome = if is_long_running {
        long_running(&server, incoming, &mut schema, meter).await
    } else {
        let kind = Kind::of(&incoming.attributes.verb);
        match TimeLimit::parse(&incoming.query, kind, server.config.request_timeout) {
            Ok(limit) => in_time(&server, incoming, limit, &mut schema, meter).await,
            Err(status) => Err(status),
        }
    };
    let mut answer = outcome.unwrap_or_else(|status| view::status_response(accepted, &status));
    if let Some(schema) = schema {
        schema.mark(&mut answer);
    }
    answer
}

/// A request that is answered within its time limit.
async fn in_time(
    server: &Arc<ApiServer>,
    mut incoming: Incoming,
    limit: TimeLimit,
    schema: &mut Option<Arc<Schema>>,
    meter: &RequestMeter,
) -> Result<Response<Body>, Status> {
    let deadline = tokio::time::Instant::now() + limit.duration;
    let work = async {
        identify(server, &mut incoming).await?;
        let seat = match enter(server, incoming.asked(), limit.duration, schema, meter).await {
            Ok(seat) => seat,
            Err(sent_away) => return Ok(sent_away),
        };
        authorize(server, &incoming.attributes).await?;
        let answer = answer(server, incoming).await?;
        let (parts, content) = answer.into_parts();
        // What is still to be written has what is left of the time, and keeps its seat that long.
        Ok(Response::from_parts(parts, body::ahead(content, deadline, seat).await))
    };
    tokio::time::timeout_at(deadline, Box::pin(work)).await.unwrap_or_else(|_| {
        meter.terminated(504);
        Err(limit.exceeded())
    })
}

/// Passes flow control; the error is the answer to one that is sent away.
async fn enter(
    server: &ApiServer,
    asked: Asked<'_>,
    limit: Duration,
    schema: &mut Option<Arc<Schema>>,
    meter: &RequestMeter,
) -> Result<Option<Seat>, Response<Body>> {
    let schema = schema.insert(server.flow_control.classify(asked.attributes));
    let entered = server.flow_control.enter(schema, asked, &server.cache, limit).await;
    entered.map_err(|_| {
        meter.terminated(429);
        limits::too_many(schema.level.retry_after())
    })
}

/// Who asks.
async fn identify(server: &ApiServer, incoming: &mut Incoming) -> Result<(), Status> {
    Arc::make_mut(&mut incoming.attributes).user = authenticate(server, &mut incoming.request).await?;
    name_from_selector(incoming);
    Ok(())
}

/// A watch, or an answer that people may pause: whoever may have that may let their connection stand
/// still until it is over. Only watches need a seat, and only to begin.
async fn long_running(
    server: &Arc<ApiServer>,
    mut incoming: Incoming,
    schema: &mut Option<Arc<Schema>>,
    meter: &RequestMeter,
) -> Result<Response<Body>, Status> {
    identify(server, &mut incoming).await?;
    if incoming.attributes.verb == "watch" {
        return watch(server, incoming, schema, meter).await;
    }
    authorize(server, &incoming.attributes).await?;
    let extensions = incoming.request.extensions_mut();
    let granted = extensions.get::<Patience>().map(Patience::grant);
    // Upgraded streams outlast their answer.
    granted.clone().map(|granted| extensions.insert(granted));
    let answer = answer(server, incoming).await?;
    Ok(answer.map(|content| body::holding(content, granted)))
}

async fn watch(
    server: &Arc<ApiServer>,
    mut incoming: Incoming,
    schema: &mut Option<Arc<Schema>>,
    meter: &RequestMeter,
) -> Result<Response<Body>, Status> {
    match enter(server, incoming.asked(), server.config.request_timeout, schema, meter).await {
        Ok(seat) => incoming.seat = seat,
        Err(sent_away) => return Ok(sent_away),
    }
    authorize(server, &incoming.attributes).await?;
    let watching = server.flow_control.watching(&incoming.asked());
    let answer = answer(server, incoming).await?;
    Ok(answer.map(|content| body::holding(content, watching)))
}

async fn answer(server: &Arc<ApiServer>, mut incoming: Incoming) -> Result<Response<Body>, Status> {
    match incoming.target.take() {
        Some(target) => handlers::resource(server.clone(), incoming, target).await,
        None => handlers::other(server, incoming).await,
    }
}

async fn authenticate(server: &ApiServer, request: &mut Request<Body>) -> Result<UserInfo, Status> {
    let in_process = request.extensions_mut().remove::<UserInfo>();
    let peer = request.extensions().get::<ConnectedPeer>().cloned();
    let credentials = Credentials {
        headers: request.headers(),
        peer: peer.as_ref().map(|p| p.0.as_ref()),
        in_process: in_process.as_ref(),
    };
    let started = Instant::now();
    let outcome = server.policy.authenticator.authenticate(&credentials).await;
    let access = &server.metrics.access;
    access.authenticated(outcome.as_ref().ok().map(|user| user.name.as_str()), started.elapsed());
    if let (Some(peer), None) = (&peer, in_process.as_ref()) {
        access.shown(peer.0.not_after - authn::now_seconds());
    }
    let user = outcome?;
    let user = impersonation::apply(server.policy.authorizer.as_ref(), user, request.headers()).await?;
    authn::conceal(request.headers_mut());
    Ok(user)
}

/// A list or watch of one named object may be allowed by that name.
fn name_from_selector(incoming: &mut Incoming) {
    let attributes = Arc::make_mut(&mut incoming.attributes);
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

/// Whether this may be done by who asks.
pub(crate) async fn authorize(server: &ApiServer, attributes: &Attributes) -> Result<(), Status> {
    let started = Instant::now();
    let decision = server.policy.authorizer.authorize(attributes).await;
    server.metrics.access.authorized(&decision, started.elapsed());
    match decision {
        Decision::Allow { .. } => Ok(()),
        Decision::NoOpinion { reason } | Decision::Deny { reason } => {
            Err(authz::forbidden(attributes, &reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use amphipod_store::EmbeddedStore;
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn only_who_may_have_a_stream_may_stand_still_and_only_as_long() {
        let store = Arc::new(EmbeddedStore::memory().expect("a store"));
        let server = ApiServer::start(Config::default(), store).await.expect("a server");
        let patience = Patience::default();
        let ask = |user: UserInfo, method: &str, path: &str, content: serde_json::Value| {
            let request = Request::builder().method(method).uri(path).extension(patience.clone());
            let request = request.header(CONTENT_TYPE, "application/json").extension(user);
            handle(server.clone(), request.body(body::full(content.to_string())).expect("a request"))
        };
        let admin = || UserInfo::new("admin", &[authz::MASTERS]);
        let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}});
        assert_eq!(ask(admin(), "POST", "/api/v1/nodes", node).await.status(), 201);
        let proxy = "/api/v1/nodes/n/proxy";
        let refused = ask(UserInfo::new("jane", &[]), "GET", proxy, json!({})).await;
        assert_eq!((refused.status().as_u16(), patience.is_granted()), (403, false));
        let watch = ask(admin(), "GET", "/api/v1/nodes?watch=1", json!({})).await;
        assert_eq!((watch.status().as_u16(), patience.is_granted()), (200, false));
        let moved = ask(admin(), "GET", proxy, json!({})).await;
        assert_eq!((moved.status().as_u16(), patience.is_granted()), (301, true));
        drop(moved);
        assert!(!patience.is_granted());
    }
}
