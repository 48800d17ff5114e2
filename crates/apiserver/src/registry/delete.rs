//! DELETE of one object or of a selection of them.

use std::sync::Arc;

use amphipod_api::object;
use amphipod_api::status::{Details, Status};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use tokio::task::{JoinError, JoinSet};

use super::delete_options::{DeleteOptions, Plan, Propagation, plan};
use super::options::{self, ListOptions};
use super::{
    Existing, Lost, existing, list, object_key, put, remove, render, unwritten, validate_admission, view,
};
use crate::body::Body;
use crate::context::Context;
use crate::seams::Operation;
use crate::server::ApiServer;
use crate::services;

/// How often a delete is tried again after someone else wrote the object.
const ATTEMPTS: usize = 20;
/// Objects of one deletecollection deleted at once.
const PARALLEL_DELETES: usize = 16;

/// The end of a delete.
pub struct Deleted {
    pub last: Existing,
    pub gone: bool,
}

pub async fn delete(server: &ApiServer, cx: &Context, body: Bytes) -> Result<Response<Body>, Status> {
    let options = DeleteOptions::parse(cx, &body)?;
    let deleted = delete_one(server, cx, cx.namespace(), cx.name(), &options).await?;
    let waiting =
        !deleted.gone && (options.cascading || options.propagation == Some(Propagation::Foreground));
    let code = if waiting { StatusCode::ACCEPTED } else { StatusCode::OK };
    let plural = cx.resource.plural.as_ref();
    if !deleted.gone || cx.resource.delete_answers_object() {
        return view::stored_response(cx, code, &deleted.last.text);
    }
    let value = deleted.last.value(&cx.resource)?;
    let mut status = Status::success();
    status.details = Some(Details {
        name: cx.name().into(),
        group: cx.resource.group.to_string(),
        kind: plural.into(),
        uid: object::uid(&value).into(),
        ..Details::default()
    });
    let value = serde_json::to_value(&status).map_err(Status::internal)?;
    view::value_response(cx, code, &value)
}

/// Deletes one object as far as its grace period and finalizers allow.
pub async fn delete_one(
    server: &ApiServer,
    cx: &Context,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let key = object_key(&cx.resource, namespace, name);
    let not_found = || Status::not_found(&cx.resource.group, &cx.resource.plural, name);
    let mut current = existing(server, &cx.resource, &key).await?;
    for _ in 0..ATTEMPTS {
        let stored = current.take().ok_or_else(not_found)?;
        let old = stored.value(&cx.resource)?;
        options.check_preconditions(&cx.resource, &old)?;
        super::admit(server, cx, Operation::Delete, Value::Null, Some(&old), options.dry_run).await?;
        validate_admission(server, cx, Operation::Delete, Value::Null, Some(&old), options.dry_run).await?;
        match execute(server, cx, &key, stored, &old, options).await {
            Ok(deleted) => return Ok(deleted),
            Err(Lost::Failed(status)) => return Err(*status),
            Err(Lost::Race(now)) => current = now,
        }
    }
    Err(Status::modified(&cx.resource.group, &cx.resource.plural, name))
}

async fn execute(
    server: &ApiServer,
    cx: &Context,
    key: &str,
    stored: Existing,
    old: &Value,
    options: &DeleteOptions,
) -> Result<Deleted, Lost> {
    match plan(cx.strategy(), old, options, cx.now) {
        Plan::Leave => Ok(Deleted { last: stored, gone: false }),
        Plan::Mark(new) if options.dry_run => {
            let text = unwritten(&cx.resource, new, stored.revision)?;
            Ok(Deleted { last: Existing { text, revision: stored.revision }, gone: false })
        }
        Plan::Mark(new) => {
            let last = put(server, &cx.resource, key, new, stored.revision).await?;
            Ok(Deleted { last, gone: false })
        }
        Plan::Remove => {
            if !options.dry_run {
                let beside = services::release(server, &cx.resource, old).await?;
                remove(server, &cx.resource, key, stored.revision, beside).await?;
            }
            Ok(Deleted { last: stored, gone: true })
        }
    }
}

pub async fn delete_collection(
    server: Arc<ApiServer>,
    cx: Arc<Context>,
    body: Bytes,
) -> Result<Response<Body>, Status> {
    let options = Arc::new(DeleteOptions::parse(&cx, &body)?);
    let collection = server.cache.collection(&cx.resource).await?;
    let selector = options::selector(&cx, &collection)?;
    let which = ListOptions::parse(&cx)?;
    let page = list::page(&server, &collection, cx.namespace(), &selector, &which).await?;
    // Dropped with the request: what has not begun by then is not deleted.
    let mut running = JoinSet::new();
    for entry in &page.entries {
        let path = entry.path(&collection.prefix).to_owned();
        running.spawn(delete_if_there(server.clone(), cx.clone(), path, options.clone()));
        if running.len() >= PARALLEL_DELETES {
            finished(running.join_next().await)?;
        }
    }
    while !running.is_empty() {
        finished(running.join_next().await)?;
    }
    render::respond(cx, page).await
}

fn finished(outcome: Option<Result<Result<(), Status>, JoinError>>) -> Result<(), Status> {
    match outcome {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => Err(Status::internal(error)),
        None => Ok(()),
    }
}

/// `path` is `[<namespace>/]<name>`.
async fn delete_if_there(
    server: Arc<ApiServer>,
    cx: Arc<Context>,
    path: String,
    options: Arc<DeleteOptions>,
) -> Result<(), Status> {
    let (namespace, name) = match path.split_once('/') {
        Some(parts) if cx.resource.namespaced => parts,
        _ => ("", path.as_str()),
    };
    match delete_one(&server, &cx, namespace, name, &options).await {
        Err(status) if !status.has_reason("NotFound") => Err(status),
        _ => Ok(()),
    }
}
