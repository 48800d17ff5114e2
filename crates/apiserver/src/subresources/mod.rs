//! What hangs below an object, and the kinds that are only answered, never stored.

pub mod bind;
pub mod connect;
pub mod evict;
pub mod proxy;
pub mod scale;
pub mod scheduling_review;
pub mod stream;

use amphipod_api::codec::{self, Expected};
use amphipod_api::field::{Error as FieldError, Path};
use amphipod_api::object;
use amphipod_api::scheduling_review::PLURAL;
use amphipod_api::status::Status;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::context::Context;
use crate::http::negotiate::Form;
use crate::registry::{admit, create, list, patch, update, validate_admission, view};
use crate::seams::Operation;
use crate::server::ApiServer;

/// Answers a request for a subresource the row declares.
pub async fn handle(
    server: &ApiServer,
    cx: &Context,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    match cx.subresource() {
        "scale" => scale::handle(server, cx, body::read(request.into_body()).await?).await,
        "binding" => {
            let expected = Expected::builtin("", "v1", "Binding");
            let binding = created(cx, body::read(request.into_body()).await?, expected)?;
            bind::bind(server, cx, cx.name(), binding).await
        }
        "eviction" => {
            let content = body::read(request.into_body()).await?;
            evict::evict(server, cx, evict::decode(cx, content)?).await
        }
        "token" => token(server, cx, body::read(request.into_body()).await?).await,
        "log" | "exec" | "attach" | "portforward" => stream::handle(server, cx, request).await,
        "proxy" => proxy::passage::handle(server, cx, request).await,
        // The object itself, another part of which may be written here.
        _ => match cx.attributes.verb.as_str() {
            "get" => list::get(server, cx).await,
            "patch" => patch::patch(server, cx, body::read(request.into_body()).await?).await,
            _ => update::update(server, cx, body::read(request.into_body()).await?).await,
        },
    }
}

/// A body of another kind than the resource's.
pub fn decode(cx: &Context, content: Bytes, expected: Expected<'_>) -> Result<Value, Status> {
    let decoded = codec::decode(&content, cx.content_type(), expected, cx.field_validation()?)?;
    for warning in decoded.warnings {
        cx.warn(warning);
    }
    Ok(decoded.value)
}

/// What is created below an object: it is of the object's namespace, whether it says so or not.
pub fn created(cx: &Context, content: Bytes, expected: Expected<'_>) -> Result<Value, Status> {
    let mut value = decode(cx, content, expected)?;
    create::check_namespace(cx, &value)?;
    object::metadata_mut(&mut value).insert("namespace".into(), cx.namespace().into());
    Ok(value)
}

/// A token for a service account, as far as what is asked agrees with the account there is.
async fn token(server: &ApiServer, cx: &Context, content: Bytes) -> Result<Response<Body>, Status> {
    const GROUP: &str = "authentication.k8s.io";
    let request = created(cx, content, Expected::builtin(GROUP, "v1", "TokenRequest"))?;
    let dry_run = cx.dry_run()?;
    let request = admit(server, cx, Operation::Create, request, None, dry_run).await?;
    let named = object::name(&request);
    if !named.is_empty() && named != cx.name() {
        let path = Path::new("metadata").child("name");
        let fault = FieldError::invalid(&path, named, "must match the service account name if specified");
        return Err(Status::invalid(GROUP, "TokenRequest", cx.name(), &[fault]));
    }
    let account = server.lookup("", "serviceaccounts", cx.namespace(), cx.name()).await?;
    let account = account.ok_or_else(|| cx.not_found())?;
    let tokens = &server.policy.tokens;
    let request = tokens.prepare(&account, request)?;
    let request = validate_admission(server, cx, Operation::Create, request, None, dry_run).await?;
    let issued = tokens.issue(&account, request).await?;
    view::value_response(cx, StatusCode::CREATED, &issued)
}

/// Kinds without storage: reviews, bindings, component statuses.
pub async fn storageless(server: &ApiServer, cx: &Context, content: Bytes) -> Result<Response<Body>, Status> {
    match (cx.resource.plural.as_ref(), cx.attributes.verb.as_str()) {
        ("componentstatuses", verb) => component_statuses(cx, verb),
        ("bindings", _) => {
            let mut binding = created(cx, content, Expected::builtin("", "v1", "Binding"))?;
            // Of the two ways to bind, this one takes no uid.
            object::metadata_mut(&mut binding).remove("uid");
            let name = object::name(&binding).to_owned();
            bind::bind(server, cx, &name, binding).await
        }
        _ => {
            let decoded = codec::decode(&content, cx.content_type(), cx.expected(), cx.field_validation()?)?;
            let object = decoded.value;
            let object = admit(server, cx, Operation::Create, object, None, false).await?;
            let object = validate_admission(server, cx, Operation::Create, object, None, false).await?;
            let answer = if cx.resource.plural == PLURAL {
                scheduling_review::answer(server, cx, object).await?
            } else {
                server.policy.reviews.review(&cx.attributes, &cx.resource, object).await?
            };
            view::value_response(cx, StatusCode::CREATED, &answer)
        }
    }
}

/// All parts run in this process: that it answers says they are there.
fn component_statuses(cx: &Context, verb: &str) -> Result<Response<Body>, Status> {
    let item = |name: &str| {
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
    };
    let names = ["controller-manager", "scheduler", "etcd-0"];
    if verb == "get" {
        let name = names.iter().find(|n| **n == cx.name()).ok_or_else(|| cx.not_found())?;
        return view::object_response(cx, StatusCode::OK, item(name));
    }
    let items: Vec<Value> = names.iter().map(|n| item(n)).collect();
    if cx.accepted.form == Form::Table {
        let rows = items.into_iter().map(|item| view::row(cx, item)).collect();
        return view::value_response(
            cx,
            StatusCode::OK,
            &table(&json!({}), view::columns(&cx.resource), rows),
        );
    }
    let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items});
    view::value_response(cx, StatusCode::OK, &list)
}

/// `metav1.Table` of what is not stored as it is served.
fn table(metadata: &Value, columns: Value, rows: Vec<Value>) -> Value {
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows})
}
