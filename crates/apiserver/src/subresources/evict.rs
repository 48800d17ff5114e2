//! `eviction`: a delete that asks the pod's disruption budget first.

use amphipod_api::field::go_quote;
use amphipod_api::object::{self, child_mut};
use amphipod_api::selector::LabelSelector;
use amphipod_api::status::{Cause, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::bind::set_condition;
use crate::body::Body;
use crate::cache::within;
use crate::context::Context;
use crate::registry::delete::delete_one;
use crate::registry::delete_options::DeleteOptions;
use crate::registry::{Existing, Lost, admit, existing, key, object_key, put, validate_admission, view};
use crate::seams::Operation;
use crate::server::ApiServer;

const ATTEMPTS: usize = 10;
/// Pods a budget remembers as being disrupted, as upstream.
const MAX_DISRUPTED_PODS: usize = 2000;
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

pub async fn evict(server: &ApiServer, cx: &Context, eviction: Value) -> Result<Response<Body>, Status> {
    let named = object::name(&eviction);
    if named != cx.name() {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let empty = json!({});
    let mut options = DeleteOptions::from_value(cx, eviction.get("deleteOptions").unwrap_or(&empty))?;
    options.dry_run |= cx.dry_run()?;
    let eviction = admit(server, cx, Operation::Create, eviction, None, options.dry_run).await?;
    validate_admission(server, cx, Operation::Create, eviction, None, options.dry_run).await?;
    let found = existing(server, &cx.resource, &key(cx)).await?.ok_or_else(|| cx.not_found())?;
    let pod = found.value(&cx.resource)?;
    options.check_preconditions(&cx.resource, &pod)?;
    if !needs_no_budget(&pod) {
        ask_budget(server, cx, &pod, options.dry_run).await?;
    }
    if !options.dry_run {
        mark_disrupted(server, cx, found).await?;
    }
    options.resource_version = None;
    delete_one(server, cx, cx.namespace(), cx.name(), &options).await?;
    let mut status = Status::success();
    status.code = 201;
    let value = serde_json::to_value(status).map_err(Status::internal)?;
    view::value_response(cx, StatusCode::CREATED, &value)
}

/// Pods that do not count as healthy in any budget.
fn needs_no_budget(pod: &Value) -> bool {
    matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending")
        || object::deletion_timestamp(pod).is_some()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

async fn ask_budget(server: &ApiServer, cx: &Context, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let budgets =
        server.catalog.load().stored("policy", "poddisruptionbudgets").ok_or_else(Status::no_such_path)?;
    let collection = server.cache.collection(&budgets).await?;
    let mut matching = Vec::new();
    let scope = format!("{}{}/", collection.prefix, cx.namespace());
    for entry in within(&collection.snapshot(), &scope, &scope) {
        let budget = view::served(&budgets, &entry.bytes)?;
        // One that cannot be read selects nothing.
        let Ok(selector) = LabelSelector::from_object(&budget["spec"]["selector"]) else { continue };
        if selector.matches_object(pod) {
            matching.push((object::name(&budget).to_owned(), entry.clone()));
        }
    }
    let (name, entry) = match matching.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Status::failure(
                500,
                "",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let key = object_key(&budgets, cx.namespace(), name);
    let mut stored = Some(Existing { bytes: entry.bytes.clone(), revision: entry.revision });
    for _ in 0..ATTEMPTS {
        let Some(current) = stored.take() else { return Ok(()) };
        let Some(next) = spend(current.value(&budgets)?, pod, &cx.now_text)? else { return Ok(()) };
        if dry_run {
            return Ok(());
        }
        match put(server, &budgets, &key, next, current.revision).await {
            Ok(_) => return Ok(()),
            Err(Lost::Failed(status)) => return Err(*status),
            Err(Lost::Race(now)) => stored = now,
        }
    }
    let text = format!("couldn't update PodDisruptionBudget {} due to conflicts", go_quote(name));
    Err(Status::timeout(text, 10))
}

/// The budget with this disruption spent; `None` where it need not be asked.
fn spend(mut budget: Value, pod: &Value, now: &str) -> Result<Option<Value>, Status> {
    let name = object::name(&budget).to_owned();
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (allowed, healthy, desired) = (
        number("/status/disruptionsAllowed"),
        number("/status/currentHealthy"),
        number("/status/desiredHealthy"),
    );
    if !is_ready(pod) {
        let always = object::text(&budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
        if always || (healthy >= desired && desired > 0) {
            return Ok(None);
        }
    }
    let refuse = |message: String, retry: u32| {
        let mut status = Status::failure(429, "TooManyRequests", REFUSAL);
        if retry > 0 {
            status = status.with_retry_after(retry);
        }
        Err(status.with_cause(Cause { reason: "DisruptionBudget".into(), message, field: String::new() }))
    };
    // Upstream names the resource in the singular here.
    let forbid = |why: &str| Err(Status::forbidden("policy", "poddisruptionbudget", &name, why));
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return refuse(format!("The disruption budget {name} is still being processed by the server."), 10);
    }
    if allowed < 0 {
        return forbid("pdb disruptions allowed is negative");
    }
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, |m| m.len());
    if disrupted > MAX_DISRUPTED_PODS {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return forbid(why);
    }
    if allowed == 0 {
        return refuse(
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"),
            0,
        );
    }
    let status = child_mut(&mut budget, "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    let map = status.entry("disruptedPods").or_insert_with(|| json!({}));
    map[object::name(pod)] = now.into();
    Ok(Some(budget))
}

/// Says why the pod goes before it goes.
async fn mark_disrupted(server: &ApiServer, cx: &Context, found: Existing) -> Result<(), Status> {
    let key = key(cx);
    let mut stored = Some(found);
    for _ in 0..ATTEMPTS {
        let Some(current) = stored.take() else { return Ok(()) };
        let mut pod = current.value(&cx.resource)?;
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting"});
        set_condition(&mut pod, condition, &cx.now_text);
        match put(server, &cx.resource, &key, pod, current.revision).await {
            Ok(_) => return Ok(()),
            Err(Lost::Failed(status)) => return Err(*status),
            Err(Lost::Race(now)) => stored = now,
        }
    }
    Err(Status::modified("", "pods", cx.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_spent_and_defended() {
        let pod = json!({"metadata": {"name": "p"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let budget = |allowed: i64| {
            json!({"metadata": {"name": "b", "generation": 1}, "spec": {},
            "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 2}})
        };
        let spent = spend(budget(1), &pod, "now").expect("allowed").expect("asked");
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert_eq!(spent["status"]["disruptedPods"]["p"], "now");
        let refused = spend(budget(0), &pod, "now").expect_err("refused");
        let cause = &refused.details.as_ref().expect("details").causes[0];
        assert_eq!((refused.code, cause.reason.as_str()), (429, "DisruptionBudget"));
        assert_eq!(cause.message, "The disruption budget b needs 2 healthy pods and has 2 currently");
        let unready = json!({"metadata": {"name": "p"}});
        assert_eq!(spend(budget(0), &unready, "now").expect("not asked"), None);
    }
}
