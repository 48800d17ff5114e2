//! `eviction`: a delete that asks the pod's disruption budget first.

mod budget;

use amphipod_api::codec::Expected;
use amphipod_api::field::go_quote;
use amphipod_api::object;
use amphipod_api::resource::Resource;
use amphipod_api::selector::LabelSelector;
use amphipod_api::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use budget::{spares, spend, unsettled};

use super::bind::set_condition;
use super::created;
use crate::body::Body;
use crate::cache::within;
use crate::context::Context;
use crate::registry::delete::delete_one;
use crate::registry::delete_options::DeleteOptions;
use crate::registry::{Existing, Lost, admit, existing, key, object_key, put, validate_admission, view};
use crate::seams::Operation;
use crate::server::ApiServer;

/// How often an eviction begins anew after someone else wrote the pod or its budget, as upstream.
const ATTEMPTS: usize = 20;
/// When to ask again where what decides is about to change.
const RETRY_SECONDS: u32 = 10;
/// What older clients call their evictions; they say the same.
const OLDER: &str = "policy/v1beta1";

pub fn decode(cx: &Context, content: Bytes) -> Result<Value, Status> {
    let expected = Expected::builtin("policy", "v1", "Eviction");
    let is_older = content.windows(OLDER.len()).any(|text| text == OLDER.as_bytes());
    match created(cx, content.clone(), expected) {
        Err(_) if is_older => created(cx, content, Expected { version: "v1beta1", ..expected }),
        other => other,
    }
}

pub async fn evict(server: &ApiServer, cx: &Context, eviction: Value) -> Result<Response<Body>, Status> {
    if object::name(&eviction) != cx.name() {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = delete_options(cx, eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
    let eviction = admit(server, cx, Operation::Create, eviction, None, options.dry_run).await?;
    validate_admission(server, cx, Operation::Create, eviction, None, options.dry_run).await?;
    for _ in 0..ATTEMPTS {
        match attempt(server, cx, &options).await {
            // It was decided about the pod as it was read: the one there is now is looked at.
            Err(Refused::Changed) => {}
            Err(Refused::For(status)) => return Err(*status),
            Ok(()) => return success(cx),
        }
    }
    Err(Status::modified("", "pods", cx.name()))
}

/// What the eviction says of the delete. It and the request may both ask for a dry run, in the same words.
fn delete_options(cx: &Context, said: &Value) -> Result<DeleteOptions, Status> {
    let asked: Vec<&str> = cx.query.all("dryRun").filter(|text| !text.is_empty()).collect();
    let within = said["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let within: Vec<&str> = within.collect();
    let is_dry_run = cx.dry_run()?;
    if !asked.is_empty() && !within.is_empty() && asked != within {
        let (asked, within) = (asked.join(" "), within.join(" "));
        let why = format!("Non-matching dry-run options in request and content: [{asked}] and [{within}]");
        return Err(Status::failure(500, "", why));
    }
    let mut options = DeleteOptions::from_value(said)?;
    options.dry_run |= is_dry_run;
    Ok(options)
}

fn success(cx: &Context) -> Result<Response<Body>, Status> {
    let mut status = Status::success();
    status.code = 201;
    let value = serde_json::to_value(status).map_err(Status::internal)?;
    view::value_response(cx, StatusCode::CREATED, &value)
}

enum Refused {
    /// The pod is not any more what was decided on, or is another.
    Changed,
    For(Box<Status>),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Refused::For(Box::new(status))
    }
}

async fn attempt(server: &ApiServer, cx: &Context, options: &DeleteOptions) -> Result<(), Refused> {
    let found = existing(server, &cx.resource, &key(cx)).await?.ok_or_else(|| cx.not_found())?;
    let pod = found.value(&cx.resource)?;
    let (as_read, budget) = match standing(&pod) {
        Standing::Over => (false, None),
        Standing::Pending => (true, None),
        Standing::Counts => match ask_budget(server, cx, &pod, options).await? {
            Asked::Unguarded | Asked::Spent => (false, None),
            Asked::Spared(name) => (true, Some(name)),
        },
    };
    let pinned = as_read && options.resource_version.is_none();
    // A budget that spares the pod as it was read says nothing of another.
    let refused = |status: Status| match &budget {
        Some(name) if pinned => Refused::from(unsettled(name)),
        _ => Refused::from(status),
    };
    options.check_preconditions(&cx.resource, &pod).map_err(refused)?;
    let mut options = options.clone();
    // Whatever was decided holds for this pod and for none that takes its name.
    let is_any = options.uid.is_none() && options.resource_version.is_none();
    options.uid.get_or_insert_with(|| object::uid(&pod).to_owned());
    if pinned {
        options.resource_version = Some(object::resource_version(&pod).to_owned());
    }
    let status = match remove(server, cx, found, options).await {
        Err(status) if status.code == 409 => status,
        other => return other.map_err(Refused::from),
    };
    // What was spent on a pod is not spent on it again, only on another that has its name now.
    let anew = if pinned { budget.is_none() } else { is_any && is_gone(server, cx, &pod).await? };
    Err(if anew { Refused::Changed } else { refused(status) })
}

/// Whether the pod is no more, though another may have its name.
async fn is_gone(server: &ApiServer, cx: &Context, pod: &Value) -> Result<bool, Status> {
    let Some(found) = existing(server, &cx.resource, &key(cx)).await? else { return Ok(true) };
    Ok(object::uid(&found.value(&cx.resource)?) != object::uid(pod))
}

/// Says why the pod goes, then deletes it.
async fn remove(
    server: &ApiServer,
    cx: &Context,
    found: Existing,
    mut options: DeleteOptions,
) -> Result<(), Status> {
    if !options.dry_run {
        let marked = mark_disrupted(server, cx, found, &options).await?;
        // The precondition was met by what the mark was made on.
        if options.resource_version.is_some() {
            options.resource_version = Some(marked.revision.to_string());
        }
    }
    delete_one(server, cx, cx.namespace(), cx.name(), &options).await.map(drop)
}

/// What a pod is to its budgets.
enum Standing {
    /// It ends or has ended, whatever happens.
    Over,
    /// Not healthy yet, which may change before it is deleted.
    Pending,
    Counts,
}

fn standing(pod: &Value) -> Standing {
    match object::text(pod, "/status/phase") {
        _ if object::deletion_timestamp(pod).is_some() => Standing::Over,
        "Succeeded" | "Failed" => Standing::Over,
        "Pending" => Standing::Pending,
        _ => Standing::Counts,
    }
}

/// What a pod's budget said.
enum Asked {
    Unguarded,
    Spent,
    /// The budget of this name does not count the pod while it is not ready.
    Spared(String),
}

async fn ask_budget(
    server: &ApiServer,
    cx: &Context,
    pod: &Value,
    options: &DeleteOptions,
) -> Result<Asked, Status> {
    let budgets =
        server.catalog.load().stored("policy", "poddisruptionbudgets").ok_or_else(Status::no_such_path)?;
    let mut matching = guarding(server, cx, &budgets, pod).await?;
    let Some((name, first)) = matching.pop() else { return Ok(Asked::Unguarded) };
    if !matching.is_empty() {
        return Err(Status::failure(
            500,
            "",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    if spares(&first.value(&budgets)?, pod) {
        return Ok(Asked::Spared(name));
    }
    let key = object_key(&budgets, cx.namespace(), &name);
    let mut stored = Some(first);
    for _ in 0..ATTEMPTS {
        let gone = || Status::not_found("policy", "poddisruptionbudgets", &name);
        let current = stored.take().ok_or_else(gone)?;
        let next = spend(current.value(&budgets)?, object::name(pod), &cx.now_text)?;
        // Nothing is spent on a pod that is not the one meant.
        options.check_preconditions(&cx.resource, pod)?;
        if options.dry_run {
            return Ok(Asked::Spent);
        }
        match put(server, &budgets, &key, next, current.revision).await {
            Ok(_) => return Ok(Asked::Spent),
            Err(Lost::Failed(status)) => return Err(*status),
            Err(Lost::Race(now)) => stored = now,
        }
    }
    let text = format!("couldn't update PodDisruptionBudget {} due to conflicts", go_quote(&name));
    Err(Status::timeout(text, RETRY_SECONDS))
}

/// The budgets that select the pod.
async fn guarding(
    server: &ApiServer,
    cx: &Context,
    budgets: &Resource,
    pod: &Value,
) -> Result<Vec<(String, Existing)>, Status> {
    let collection = server.cache.collection(budgets).await?;
    let mut matching = Vec::new();
    let scope = format!("{}{}/", collection.prefix, cx.namespace());
    for entry in within(&collection.snapshot(), &scope, &scope) {
        let budget = view::served(budgets, &entry.text.contiguous())?;
        // One that cannot be read selects nothing.
        let Ok(selector) = LabelSelector::from_object(&budget["spec"]["selector"]) else { continue };
        if selector.matches_object(pod) {
            let stored = Existing { text: entry.text.clone(), revision: entry.revision };
            matching.push((object::name(&budget).to_owned(), stored));
        }
    }
    Ok(matching)
}

/// Says why the pod goes before it goes.
async fn mark_disrupted(
    server: &ApiServer,
    cx: &Context,
    found: Existing,
    options: &DeleteOptions,
) -> Result<Existing, Status> {
    let key = key(cx);
    let mut stored = Some(found);
    for _ in 0..ATTEMPTS {
        let current = stored.take().ok_or_else(|| cx.not_found())?;
        let mut pod = current.value(&cx.resource)?;
        options.check_preconditions(&cx.resource, &pod)?;
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting"});
        set_condition(&mut pod, condition, &cx.now_text);
        match put(server, &cx.resource, &key, pod, current.revision).await {
            Ok(marked) => return Ok(marked),
            Err(Lost::Failed(status)) => return Err(*status),
            Err(Lost::Race(now)) => stored = now,
        }
    }
    Err(Status::modified("", "pods", cx.name()))
}

#[cfg(test)]
mod tests;
