//! From a request that may go on to the code that answers it.

use std::sync::Arc;

use amphipod_api::protobuf;
use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::negotiate::{self, Accepted, Form, Offer, Shape};
use super::path::{Query, Target};
use super::pipeline::{Incoming, Warnings};
use crate::body::{self, Body};
use crate::bootstrap;
use crate::cache::Standing;
use crate::config::version;
use crate::context::Context;
use crate::discovery::AGGREGATED;
use crate::health::{self, Check};
use crate::metrics::Scrape;
use crate::registry::{create, delete, list, patch, update, view, watch};
use crate::server::ApiServer;
use crate::subresources;

/// Subresources that lead to another server.
const CONNECTIONS: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

/// Kinds of the core group that clients are told to leave, whatever they do with them.
const DEPRECATED: [(&str, &str); 2] = [
    ("componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
    ("endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
];

fn deprecation(resource: &Resource) -> Option<&'static str> {
    let known = DEPRECATED.iter().find(|(plural, _)| resource.group.is_empty() && resource.plural == *plural);
    known.map(|(_, text)| *text)
}

/// Answers a request for a resource.
pub async fn resource(
    server: Arc<ApiServer>,
    incoming: Incoming,
    target: Target,
) -> Result<Response<Body>, Status> {
    let Incoming { request, mut attributes, query, resource, seat, .. } = incoming;
    // What authorization saw as a name taken from a selector is none here.
    if attributes.name != target.name {
        Arc::make_mut(&mut attributes).name.clone_from(&target.name);
    }
    let resource = resource.ok_or_else(Status::no_such_path)?;
    check_place(&resource, &target)?;
    check_verb(&resource, &target)?;
    let (parts, body) = request.into_parts();
    let accepted = accepted(&resource, &target, &parts.headers)?.prettied(&query, &parts.headers);
    let headers = parts.headers.clone();
    let cx = Context::new(attributes, resource, target, query, headers, accepted, server.now());
    let cx = Arc::new(cx.seated(seat));
    if let Some(text) = deprecation(&cx.resource) {
        cx.warn(text);
        server.metrics.access.deprecated(&cx.resource, cx.subresource());
    }
    check_options(&cx)?;
    let outcome = if cx.subresource().is_empty() {
        main(server, cx.clone(), body).await
    } else {
        subresources::handle(&server, &cx, Request::from_parts(parts, body)).await
    };
    let mut answer = outcome.or_else(|status| {
        // Warnings are told with refusals too.
        Ok::<_, Status>(view::status_response(cx.accepted, &status))
    })?;
    answer.extensions_mut().insert(Warnings(cx.take_warnings()));
    Ok(answer)
}

/// Options are refused before anyone looks at the body.
fn check_options(cx: &Context) -> Result<(), Status> {
    if CONNECTIONS.contains(&cx.subresource()) {
        return match cx.query.contains("dryRun") {
            true => Err(Status::bad_request("dryRun is not supported")),
            false => Ok(()),
        };
    }
    if cx.accepted.form == Form::Table {
        view::check_include(cx)?;
    }
    match cx.attributes.verb.as_str() {
        "create" | "update" | "patch" => cx.check_write_options(),
        _ => Ok(()),
    }
}

async fn main(server: Arc<ApiServer>, cx: Arc<Context>, body: Body) -> Result<Response<Body>, Status> {
    if cx.resource.storage.is_none() {
        return subresources::storageless(&server, &cx, body::read(body).await?).await;
    }
    match cx.attributes.verb.as_str() {
        "get" => list::get(&server, &cx).await,
        "list" => list::list(&server, cx).await,
        "watch" => watch::watch(&server, cx).await,
        "create" => create::create(&server, &cx, body::read(body).await?).await,
        "update" => update::update(&server, &cx, body::read(body).await?).await,
        "patch" => patch::patch(&server, &cx, body::read(body).await?).await,
        "delete" => delete::delete(&server, &cx, body::read(body).await?).await,
        _ => delete::delete_collection(server, cx, body::read(body).await?).await,
    }
}

/// A cluster's object has no namespace, a namespace's has one.
fn check_place(resource: &Resource, target: &Target) -> Result<(), Status> {
    let of_namespace_itself = resource.group.is_empty() && resource.plural == "namespaces";
    if !resource.namespaced && !target.namespace.is_empty() && !of_namespace_itself {
        return Err(Status::no_such_path());
    }
    if resource.namespaced && target.namespace.is_empty() {
        if !target.name.is_empty() {
            return Err(Status::no_such_path());
        }
        if !matches!(target.attributes_verb.as_str(), "list" | "watch") {
            return Err(Status::method_not_allowed());
        }
    }
    Ok(())
}

fn check_verb(resource: &Resource, target: &Target) -> Result<(), Status> {
    let verb = target.attributes_verb.as_str();
    if target.subresource.is_empty() {
        // A create is of the collection, an update or patch of one object.
        let misplaced = match verb {
            "create" => !target.name.is_empty(),
            "update" | "patch" => target.name.is_empty(),
            _ => false,
        };
        return if resource.has_verb(verb) && !misplaced {
            Ok(())
        } else {
            Err(Status::method_not_allowed())
        };
    }
    let sub = resource.subresource(&target.subresource).ok_or_else(Status::no_such_path)?;
    // What a proxied server is asked is its own business.
    if target.subresource == "proxy" {
        return Ok(());
    }
    if sub.verbs.iter().any(|v| v == verb) { Ok(()) } else { Err(Status::method_not_allowed()) }
}

fn accepted(resource: &Resource, target: &Target, headers: &HeaderMap) -> Result<Accepted, Status> {
    match target.subresource.as_str() {
        // These answer with bytes of their own.
        "log" | "exec" | "attach" | "portforward" | "proxy" => return Ok(Accepted::default()),
        _ => {}
    }
    let sub = resource.subresource(&target.subresource);
    let (version, kind) = match sub {
        Some(sub) if !sub.version.is_empty() && !sub.kind.is_empty() => {
            let version = if sub.group.is_empty() {
                sub.version.to_string()
            } else {
                format!("{}/{}", sub.group, sub.version)
            };
            (version, sub.kind.to_string())
        }
        _ => (resource.api_version(), resource.kind.to_string()),
    };
    let transforms = kind == "Scale" || kind == resource.kind && resource.has_verb("list");
    let shape = match target.attributes_verb.as_str() {
        "list" | "deletecollection" => Shape::List,
        "watch" => Shape::Stream,
        _ => Shape::Single,
    };
    let offer = Offer { transforms, protobuf: protobuf::supports(&version, &kind), shape };
    negotiate::accept(headers, offer, || {
        let package = resource.group.split('.').next().filter(|p| !p.is_empty()).unwrap_or("core");
        format!("*{package}.{kind}{}", if shape == Shape::List { "List" } else { "" })
    })
}

/// Everything that is not a resource.
pub async fn other(server: &ApiServer, incoming: Incoming) -> Result<Response<Body>, Status> {
    let Incoming { request, query, .. } = incoming;
    let path = request.uri().path();
    if !matches!(request.method(), &http::Method::GET | &http::Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let trimmed = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    match trimmed {
        "/version" => Ok(indented_answer(&version_of(server))),
        "/metrics" => metrics(server).await,
        "/.well-known/openid-configuration" => Ok(json_answer(&server.policy.tokens.openid_configuration())),
        "/openid/v1/jwks" => Ok(jwks(server)),
        "" | "/" => Ok(indented_answer(&json!({"paths": paths(server)}))),
        _ if trimmed.starts_with("/debug/") => super::debug::answer(server, trimmed, &query).await,
        _ if trimmed.starts_with("/openapi/") => {
            super::openapi::answer(server, trimmed, &query, request.headers())
        }
        _ if health::parse(trimmed).is_some() => healthy(server, trimmed, &query).await,
        _ => discovery(server, trimmed, request.headers()),
    }
}

fn json_answer(value: &Value) -> Response<Body> {
    view::response(StatusCode::OK, "application/json", body::full(value.to_string()))
}

/// What people read with `kubectl get --raw` comes indented.
fn indented_answer(value: &Value) -> Response<Body> {
    view::response(StatusCode::OK, "application/json", body::full(format!("{value:#}")))
}

fn jwks(server: &ApiServer) -> Response<Body> {
    let text = server.policy.tokens.jwks().to_string();
    view::response(StatusCode::OK, "application/jwk-set+json", body::full(text))
}

fn paths(server: &ApiServer) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
        "/api",
        "/apis",
    ]
    .map(str::to_owned)
    .into();
    for resource in server.catalog.load().resources() {
        let path = if resource.group.is_empty() {
            format!("/api/{}", resource.version)
        } else {
            format!("/apis/{}/{}", resource.group, resource.version)
        };
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

fn version_of(server: &ApiServer) -> Value {
    let version = &server.config.version;
    let (major, minor) = version.numbers();
    json!({
        "major": major, "minor": minor,
        "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": minor,
        "gitVersion": version.git_version, "gitCommit": version.git_commit, "gitTreeState": version::TREE_STATE,
        "buildDate": version.build_date, "goVersion": version::GO_VERSION, "compiler": version::COMPILER,
        "platform": platform(),
    })
}

/// As Go names operating system and architecture.
pub fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// Group and resource of everything that is stored, and how its cache stands. What is shown by several
/// resources is counted once, by the first.
fn collections(server: &ApiServer) -> Vec<(String, String, Standing)> {
    let catalog = server.catalog.load();
    let standings = server.cache.standings().into_iter();
    let named = standings.filter_map(|(prefix, standing)| {
        let stores = |r: &&Arc<Resource>| r.storage.as_ref().is_some_and(|s| s.prefix == prefix);
        let shown = catalog.resources().iter().find(stores)?;
        Some((shown.group.to_string(), shown.plural.to_string(), standing))
    });
    named.collect()
}

async fn metrics(server: &ApiServer) -> Result<Response<Body>, Status> {
    server.flow_control.show();
    let scrape = Scrape {
        collections: collections(server),
        store_bytes: server.cache.store().size_bytes().await.unwrap_or(0),
        load: server.flow_control.load(),
    };
    let text = server.metrics.render(&scrape);
    Ok(view::response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body::full(text)))
}

async fn healthy(server: &ApiServer, path: &str, query: &Query) -> Result<Response<Body>, Status> {
    let (endpoint, only) = health::parse(path).ok_or_else(Status::no_such_path)?;
    let store = server.cache.store().revision().await.err().map(|e| e.to_string());
    let mut checks = vec![Check::new("ping", None), Check::new("log", None), Check::new("etcd", store)];
    if endpoint == "readyz" {
        checks.push(Check::new("informer-sync", server.cache.fresh().await.err().map(|s| s.message)));
    }
    checks.extend(bootstrap::CHECKS.iter().map(|name| Check::new(name, None)));
    if endpoint == "readyz" {
        let closing = server.shutdown.is_cancelled().then(|| "shutting down".to_owned());
        checks.push(Check::new("shutdown", closing));
    }
    let (code, text) = health::answer(endpoint, only, query, &checks).ok_or_else(Status::no_such_path)?;
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok(view::response(code, "text/plain; charset=utf-8", body::full(text)))
}

/// Discovery documents, in the aggregated form where the client asks for it first.
fn discovery(server: &ApiServer, path: &str, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let aggregated = matches!(path, "/api" | "/apis") && wants_aggregated(headers);
    let document = server.catalog.load().discovery(path, aggregated).ok_or_else(Status::no_such_path)?;
    let mut answer = if aggregated {
        // Caches take the headers of a 304 over: its type must be the document's.
        let (code, content) = if matches_etag(headers, &document.etag) {
            (StatusCode::NOT_MODIFIED, body::empty())
        } else {
            (StatusCode::OK, body::full(document.bytes))
        };
        let mut answer = view::response(code, AGGREGATED, content);
        set_etag(&mut answer, &document.etag);
        answer
    } else {
        let offer = Offer { protobuf: true, ..Offer::default() };
        let accepted = negotiate::accept(headers, offer, String::new)?;
        let value: Value = serde_json::from_slice(&document.bytes).map_err(Status::internal)?;
        let bytes = view::encoded(accepted, &value)?;
        view::response(StatusCode::OK, accepted.encoding.media_type(), body::full(bytes))
    };
    answer.headers_mut().insert(http::header::VARY, http::HeaderValue::from_static("Accept"));
    Ok(answer)
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let names = ["as", "g", "v"];
    let wanted = ["APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2"].map(Some);
    // The first clause that either form answers decides.
    let decisive = negotiate::clauses(headers).into_iter().find_map(|clause| {
        let given = names.map(|name| clause.param(name));
        let plain = given == [None; 3];
        (plain || (clause.media_type == "application/json" && given == wanted)).then_some(!plain)
    });
    decisive.unwrap_or(false)
}

pub fn matches_etag(headers: &HeaderMap, etag: &str) -> bool {
    let given = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("");
    given.split(',').any(|one| one.trim().trim_start_matches("W/") == etag)
}

pub fn set_etag(answer: &mut Response<Body>, etag: &str) {
    if let Ok(value) = etag.parse() {
        answer.headers_mut().insert(ETAG, value);
    }
}
