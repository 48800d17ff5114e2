//! `eviction`: a delete that asks the pod's disruption budget first.

use amphipod_api::codec::Expected;
use amphipod_api::field::go_quote;
use amphipod_api::object::{self, child_mut};
use amphipod_api::resource::Resource;
use amphipod_api::selector::LabelSelector;
use amphipod_api::status::{Cause, Status};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

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
/// Pods a budget remembers as being disrupted, as upstream.
const MAX_DISRUPTED_PODS: usize = 2000;
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// When to ask again where the budget's own numbers are about to change.
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
    let empty = json!({});
    let mut options = DeleteOptions::from_value(cx, eviction.get("deleteOptions").unwrap_or(&empty))?;
    options.dry_run |= cx.dry_run()?;
    let eviction = admit(server, cx, Operation::Create, eviction, None, options.dry_run).await?;
    validate_admission(server, cx, Operation::Create, eviction, None, options.dry_run).await?;
    for _ in 0..ATTEMPTS {
        match attempt(server, cx, &options).await {
            // Only the pod as it was read needed no budget: it is looked at again.
            Err(Refused::Changed) => {}
            Err(Refused::For(status)) => return Err(*status),
            Ok(()) => return success(cx),
        }
    }
    Err(Status::modified("", "pods", cx.name()))
}

fn success(cx: &Context) -> Result<Response<Body>, Status> {
    let mut status = Status::success();
    status.code = 201;
    let value = serde_json::to_value(status).map_err(Status::internal)?;
    view::value_response(cx, StatusCode::CREATED, &value)
}

enum Refused {
    /// The pod is not any more what was decided on.
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
    options.check_preconditions(&cx.resource, &pod)?;
    let mut options = options.clone();
    let pinned = as_read && options.resource_version.is_none();
    if pinned {
        options.resource_version = Some(object::resource_version(&pod).to_owned());
    }
    match remove(server, cx, found, options).await {
        Err(status) if pinned && status.code == 409 => match budget {
            Some(name) => Err(unsettled(&name).into()),
            None => Err(Refused::Changed),
        },
        other => other.map_err(Refused::from),
    }
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

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
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
        let budget = view::served(budgets, &entry.bytes)?;
        // One that cannot be read selects nothing.
        let Ok(selector) = LabelSelector::from_object(&budget["spec"]["selector"]) else { continue };
        if selector.matches_object(pod) {
            let stored = Existing { bytes: entry.bytes.clone(), revision: entry.revision };
            matching.push((object::name(&budget).to_owned(), stored));
        }
    }
    Ok(matching)
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether taking away a pod that is not ready disrupts nothing the budget guards.
fn spares(budget: &Value, pod: &Value) -> bool {
    if is_ready(pod) {
        return false;
    }
    let (healthy, desired) =
        (number(budget, "/status/currentHealthy"), number(budget, "/status/desiredHealthy"));
    object::text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || (healthy >= desired && desired > 0)
}

fn refusal(message: String) -> Status {
    let cause = Cause { reason: "DisruptionBudget".into(), message, field: String::new() };
    Status::failure(429, "TooManyRequests", REFUSAL).with_cause(cause)
}

/// The budget's status is behind what is to be decided.
fn unsettled(name: &str) -> Status {
    refusal(format!("The disruption budget {name} is still being processed by the server."))
        .with_retry_after(RETRY_SECONDS)
}

/// Why a budget allows no disruption.
fn exhausted(budget: &Value) -> Status {
    let name = object::name(budget);
    let (healthy, desired) =
        (number(budget, "/status/currentHealthy"), number(budget, "/status/desiredHealthy"));
    let conditions = budget.pointer("/status/conditions").and_then(Value::as_array);
    let told = conditions.into_iter().flatten().find(|c| c["type"] == "DisruptionAllowed");
    let told = told.filter(|c| c["status"] == "False").map(|c| (&c["reason"], &c["message"]));
    let told = told.and_then(|(reason, message)| Some((reason.as_str().unwrap_or(""), message.as_str()?)));
    let barred = format!("The disruption budget {name} does not allow evicting pods currently");
    refusal(match told.filter(|(_, message)| !message.is_empty()) {
        // Its numbers are not to be trusted.
        Some(("SyncFailed", message)) => format!("{barred} because it failed sync: {message}"),
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        Some((reason, message)) => format!("{barred} ({reason}): {message}"),
        None => barred,
    })
}

/// The budget with the disruption of this pod spent.
fn spend(mut budget: Value, pod: &str, now: &str) -> Result<Value, Status> {
    let name = object::name(&budget).to_owned();
    // Upstream names the resource in the singular here.
    let forbid = |why: &str| Err(Status::forbidden("policy", "poddisruptionbudget", &name, why));
    if number(&budget, "/status/observedGeneration") < number(&budget, "/metadata/generation") {
        return Err(unsettled(&name));
    }
    let allowed = number(&budget, "/status/disruptionsAllowed");
    if allowed < 0 {
        return forbid("pdb disruptions allowed is negative");
    }
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, |m| m.len());
    if disrupted > MAX_DISRUPTED_PODS {
        return forbid("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(exhausted(&budget));
    }
    let observed = budget["status"]["observedGeneration"].clone();
    let status = child_mut(&mut budget, "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    if allowed == 1 {
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        say_insufficient(conditions, observed, now);
    }
    let map = status.entry("disruptedPods").or_insert_with(|| json!({}));
    map[pod] = now.into();
    Ok(budget)
}

/// The budget's own condition turns with the last disruption it allowed.
fn say_insufficient(conditions: &mut Value, observed: Value, now: &str) {
    let Value::Array(list) = conditions else { return };
    let mut condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
        "message": "", "lastTransitionTime": now, "observedGeneration": observed});
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(before) => {
            if before["status"] == condition["status"] {
                condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
            }
            *before = condition;
        }
        None => list.push(condition),
    }
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
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {}, "status": status})
    }

    #[test]
    fn budgets_are_spent() {
        let status = json!({"observedGeneration": 1, "disruptionsAllowed": 2});
        let spent = spend(budget(status), "p", "now").expect("allowed");
        assert_eq!(
            spent["status"],
            json!({"observedGeneration": 1, "disruptionsAllowed": 1, "disruptedPods": {"p": "now"}})
        );
        let spent = spend(spent, "q", "later").expect("allowed");
        assert_eq!(spent["status"]["disruptedPods"], json!({"p": "now", "q": "later"}));
        assert_eq!(
            spent["status"]["conditions"],
            json!([{"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
                "lastTransitionTime": "later", "observedGeneration": 1}])
        );
    }

    #[test]
    fn budgets_are_defended() {
        let refusals = [
            (
                json!({"observedGeneration": 0, "disruptionsAllowed": 1}),
                429,
                "still being processed by the server.",
            ),
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": -1}),
                403,
                "disruptions allowed is negative",
            ),
            (
                json!({"observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 2}),
                429,
                "The disruption budget b needs 2 healthy pods and has 2 currently",
            ),
            (
                json!({"observedGeneration": 1, "currentHealthy": 3, "desiredHealthy": 2}),
                429,
                "The disruption budget b does not allow evicting pods currently",
            ),
            (
                json!({"observedGeneration": 1, "currentHealthy": 3, "desiredHealthy": 2, "conditions":
                    [{"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "m"}]}),
                429,
                "The disruption budget b does not allow evicting pods currently (InsufficientPods): m",
            ),
            (
                json!({"observedGeneration": 1, "conditions":
                    [{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "m"}]}),
                429,
                "The disruption budget b does not allow evicting pods currently because it failed sync: m",
            ),
        ];
        for (status, code, text) in refusals {
            let refused = spend(budget(status.clone()), "p", "now").expect_err("refused");
            assert_eq!(refused.code, code, "{status}");
            let causes = refused.details.as_ref().map(|d| d.causes.as_slice()).unwrap_or_default();
            let told = causes.first().map_or(refused.message.as_str(), |cause| cause.message.as_str());
            assert!(told.ends_with(text), "{told}");
        }
        let many: serde_json::Map<_, _> =
            (0..=MAX_DISRUPTED_PODS).map(|i| (i.to_string(), "now".into())).collect();
        let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "disruptedPods": many});
        assert_eq!(spend(budget(status), "p", "now").map_err(|s| s.code), Err(403));
    }

    #[test]
    fn pods_that_are_not_ready_may_be_spared() {
        let unready = json!({"metadata": {"name": "p"}});
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let healthy = budget(json!({"currentHealthy": 2, "desiredHealthy": 2}));
        assert!(spares(&healthy, &unready));
        assert!(!spares(&healthy, &ready));
        let mut short = budget(json!({"currentHealthy": 1, "desiredHealthy": 2}));
        assert!(!spares(&short, &unready));
        assert!(!spares(&budget(json!({})), &unready), "one that wants none says nothing");
        short["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert!(spares(&short, &unready));
        assert!(!spares(&short, &ready));
    }
}
