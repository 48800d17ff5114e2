//! A budget's status: how many healthy pods there are, must be, and may go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::intstr::IntOrString;
use amphipod_client::{CachedPod, Resource};
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr;

use crate::{meta, pods};

/// An eviction that was granted but not followed by a deletion in this time has not happened.
const DISRUPTION_SECONDS: i64 = 120;

pub struct View<'a> {
    /// The pods the budget selects.
    pub pods: &'a [Arc<CachedPod>],
    /// What the pods' controllers want in sum; an error text where one cannot be asked.
    pub scale: Result<i32, String>,
}

pub struct Plan {
    pub status: PodDisruptionBudgetStatus,
    pub again: Option<Duration>,
}

fn scaled(value: &intstr::IntOrString, total: i32) -> i32 {
    let value = match value {
        intstr::IntOrString::Int(n) => return *n,
        intstr::IntOrString::String(text) => IntOrString::Text(text.clone()),
    };
    i32::try_from(value.scaled(i64::from(total), true).unwrap_or(0)).unwrap_or(i32::MAX)
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}

/// Whether the controllers' sizes matter: a plain minimum only needs the pods there are.
pub fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.clone().unwrap_or_default();
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(intstr::IntOrString::String(_)))
}

/// Expected pods and how many of them must be healthy.
fn expectations(budget: &PodDisruptionBudget, view: &View) -> Result<(i32, i32), String> {
    let Some(spec) = &budget.spec else { return Ok((0, 0)) };
    if let Some(max_unavailable) = &spec.max_unavailable {
        let expected = view.scale.clone()?;
        return Ok((expected, (expected - scaled(max_unavailable, expected)).max(0)));
    }
    match &spec.min_available {
        Some(intstr::IntOrString::Int(minimum)) => Ok((count(view.pods.len()), *minimum)),
        Some(percent) => {
            let expected = view.scale.clone()?;
            Ok((expected, scaled(percent, expected)))
        }
        None => Ok((count(view.pods.len()), 0)),
    }
}

/// Granted evictions still under way: the pod is there, not yet terminating, the time not over.
fn under_way(
    budget: &PodDisruptionBudget,
    pods: &[Arc<CachedPod>],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let told = budget.status.as_ref().and_then(|s| s.disrupted_pods.clone()).unwrap_or_default();
    let fresh = |name: &String, since: &Time| {
        let waiting = pods.iter().any(|pod| pod.name() == name && !pod.is_terminating());
        waiting && meta::plus_seconds(since.0, DISRUPTION_SECONDS) > now
    };
    told.into_iter().filter(|(name, since)| fresh(name, since)).collect()
}

pub fn reconcile(view: &View, budget: &PodDisruptionBudget, now: Timestamp) -> Plan {
    let disrupted = under_way(budget, view.pods, now);
    let ends = disrupted.values().map(|since| meta::plus_seconds(since.0, DISRUPTION_SECONDS + 1));
    let again = ends.min().map(|end| meta::until(end, now));
    let mut status = budget.status.clone().unwrap_or_default();
    status.observed_generation = budget.metadata.generation;
    match expectations(budget, view) {
        Ok((expected, desired)) => {
            let healthy = view.pods.iter().filter(|pod| {
                pods::is_ready(pod) && !pod.is_terminating() && !disrupted.contains_key(pod.name())
            });
            let healthy = count(healthy.count());
            status.current_healthy = healthy;
            status.desired_healthy = desired;
            status.expected_pods = expected;
            status.disruptions_allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
            status.disrupted_pods = (!disrupted.is_empty()).then_some(disrupted);
            let (allowed, reason) = if status.disruptions_allowed > 0 {
                ("True", "SufficientPods")
            } else {
                ("False", "InsufficientPods")
            };
            set_condition(&mut status, allowed, reason, "", budget, now);
        }
        Err(why) => {
            // Without numbers nothing may be disrupted.
            status.disruptions_allowed = 0;
            set_condition(&mut status, "False", "SyncFailed", &why, budget, now);
        }
    }
    Plan { status, again }
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    allowed: &str,
    reason: &str,
    message: &str,
    budget: &PodDisruptionBudget,
    now: Timestamp,
) {
    let mut wanted = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: allowed.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: Time(now),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|c| c.type_ == wanted.type_) {
        None => conditions.push(wanted),
        Some(current) => {
            if current.status == wanted.status {
                wanted.last_transition_time = current.last_transition_time.clone();
            }
            *current = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod, set_ready};
    use serde_json::json;

    #[test]
    fn allowed_disruptions() {
        let members: Vec<Arc<CachedPod>> = (0..5)
            .map(|i| {
                let mut pod = pod("ns", &format!("p{i}"), "Running");
                set_ready(&mut pod, (i < 4).then(|| at(1)));
                Arc::new(pod)
            })
            .collect();
        // spec -> (expected, desired, allowed)
        let cases = [
            (json!({"minAvailable": 3}), (5, 3, 1)),
            (json!({"minAvailable": "50%"}), (7, 4, 0)),
            (json!({"maxUnavailable": 3}), (7, 4, 0)),
            (json!({"maxUnavailable": "60%"}), (7, 2, 2)),
        ];
        for (spec, expected) in cases {
            let budget: PodDisruptionBudget =
                object(json!({"metadata": {"name": "b", "generation": 2}, "spec": spec}));
            let plan = reconcile(&View { pods: &members, scale: Ok(7) }, &budget, at(50));
            let s = &plan.status;
            assert_eq!((s.expected_pods, s.desired_healthy, s.disruptions_allowed), expected, "{spec}");
            assert_eq!((s.current_healthy, s.observed_generation), (4, Some(2)));
        }
    }

    #[test]
    fn granted_evictions_count_until_they_lapse() {
        let mut member = pod("ns", "p", "Running");
        set_ready(&mut member, Some(at(1)));
        let members = [Arc::new(member)];
        let budget: PodDisruptionBudget = object(json!({"spec": {"minAvailable": 0}, "status": {
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
            "disruptedPods": {"p": at(100).to_string(), "gone": at(100).to_string()}}}));
        let view = View { pods: &members, scale: Ok(1) };
        let plan = reconcile(&view, &budget, at(150));
        assert_eq!(plan.status.current_healthy, 0);
        assert_eq!(plan.status.disrupted_pods.unwrap().len(), 1);
        assert_eq!(plan.again.unwrap().as_secs(), 71);
        let plan = reconcile(&view, &budget, at(220));
        assert_eq!((plan.status.current_healthy, plan.status.disrupted_pods), (1, None));
    }
}
