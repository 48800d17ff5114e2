//! What a disruption budget says to the eviction of a pod. Pure.

use amphipod_api::object::{self, child_mut};
use amphipod_api::status::{Cause, Status};
use serde_json::{Value, json};

use super::super::bind::put_condition;
use super::RETRY_SECONDS;

/// Pods a budget remembers as being disrupted, as upstream.
const MAX_DISRUPTED_PODS: usize = 2000;
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether taking away a pod that is not ready disrupts nothing the budget guards.
pub fn spares(budget: &Value, pod: &Value) -> bool {
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
pub fn unsettled(name: &str) -> Status {
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
pub fn spend(mut budget: Value, pod: &str, now: &str) -> Result<Value, Status> {
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
        // The budget's own condition turns with the last disruption it allowed.
        let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
            "message": "", "lastTransitionTime": now, "observedGeneration": observed});
        put_condition(status.entry("conditions").or_insert_with(|| json!([])), condition);
    }
    let map = status.entry("disruptedPods").or_insert_with(|| json!({}));
    map[pod] = now.into();
    Ok(budget)
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
