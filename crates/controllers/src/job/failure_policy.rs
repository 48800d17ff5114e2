//! `spec.podFailurePolicy`: what a pod's failure means, by exit codes and conditions.

use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyRule};

use crate::pods;

/// The first rule that matches a failed pod, and how the failure is told.
fn matching<'a>(spec: &'a JobSpec, pod: &CachedPod) -> Option<(&'a PodFailurePolicyRule, String)> {
    if pods::phase(pod) != "Failed" {
        return None;
    }
    let rules = &spec.pod_failure_policy.as_ref()?.rules;
    rules.iter().enumerate().find_map(|(index, rule)| {
        let told = match_exit_codes(rule, pod).or_else(|| match_conditions(rule, pod))?;
        Some((rule, format!("{told} matching {} rule at index {index}", rule.action)))
    })
}

fn match_exit_codes(rule: &PodFailurePolicyRule, pod: &CachedPod) -> Option<String> {
    let wanted = rule.on_exit_codes.as_ref()?;
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    containers
        .filter(|container| wanted.container_name.as_ref().is_none_or(|name| *name == container.name))
        .find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            let listed = wanted.values.contains(&code);
            let hit = code != 0 && if wanted.operator == "In" { listed } else { !listed };
            hit.then(|| {
                let (name, namespace, pod) = (&container.name, pod.namespace(), pod.name());
                format!("Container {name} for pod {namespace}/{pod} failed with exit code {code}")
            })
        })
}

fn match_conditions(rule: &PodFailurePolicyRule, pod: &CachedPod) -> Option<String> {
    let hit = rule.on_pod_conditions.iter().flatten().find(|pattern| {
        pod.condition(&pattern.type_).is_some_and(|c| c.status == pattern.status.as_deref().unwrap_or("True"))
    })?;
    Some(format!("Pod {}/{} has condition {}", pod.namespace(), pod.name(), hit.type_))
}

/// Why the policy fails the whole job, if a pod's failure does.
pub fn fail_job_message(spec: &JobSpec, all: &[Arc<CachedPod>]) -> Option<String> {
    spec.pod_failure_policy.as_ref()?;
    all.iter().find_map(|pod| {
        let (rule, told) = matching(spec, pod)?;
        (rule.action == "FailJob").then_some(told)
    })
}

/// Such failures do not count towards the back-off limit.
pub fn is_ignored(spec: &JobSpec, pod: &CachedPod) -> bool {
    spec.pod_failure_policy.is_some() && matching(spec, pod).is_some_and(|(rule, _)| rule.action == "Ignore")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use k8s_openapi::api::batch::v1::Job;
    use serde_json::json;

    #[test]
    fn rules_match_in_order() {
        let job: Job = object(json!({"spec": {"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
        ]}}}));
        let spec = job.spec.unwrap();
        let pod = |code: i32, conditions: serde_json::Value| -> Arc<CachedPod> {
            Arc::new(object(json!({"metadata": {"name": "p", "namespace": "ns"}, "status": {
                "phase": "Failed", "conditions": conditions, "containerStatuses": [{
                    "name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                    "state": {"terminated": {"exitCode": code}}}]}})))
        };
        let disrupted = pod(42, json!([{"type": "DisruptionTarget", "status": "True"}]));
        assert!(is_ignored(&spec, &disrupted));
        assert_eq!(fail_job_message(&spec, &[disrupted, pod(1, json!([]))]), None);
        let expected = "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(fail_job_message(&spec, &[pod(42, json!([]))]).as_deref(), Some(expected));
    }
}
