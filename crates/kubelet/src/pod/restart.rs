//! May a container that is not running be started (again)?

use k8s_openapi::api::core::v1::{Container, Pod};

use super::state::{ContainerRecord, Run};
use super::{ContainerSpec, Kind, restart_policy};

/// Upstream's `ShouldContainerBeRestarted`: `record` is the newest instance, if any.
pub fn should_start(pod: &Pod, spec: &ContainerSpec, record: Option<&ContainerRecord>) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(record) = record else { return true };
    match record.run {
        Run::Running => false,
        Run::Created | Run::Unknown => true,
        Run::Exited if record.replaced => true,
        Run::Exited => restarts_after(pod, spec.kind, &spec.container, record.exit_code),
    }
}

/// What the policies say about an instance that ended with `exit_code`.
pub fn restarts_after(pod: &Pod, kind: Kind, container: &Container, exit_code: i32) -> bool {
    match kind {
        Kind::Sidecar => true,
        Kind::Ephemeral => false,
        Kind::Init => exit_code != 0 && effective(pod, container, exit_code) != "Never",
        Kind::App => match effective(pod, container, exit_code) {
            "Never" => false,
            "OnFailure" => exit_code != 0,
            _ => true,
        },
    }
}

/// A container's own rules, then its own policy, then the pod's.
fn effective<'a>(pod: &'a Pod, container: &'a Container, exit_code: i32) -> &'a str {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(exit_codes) = &rule.exit_codes else { continue };
        let listed = exit_codes.values.iter().flatten().any(|code| *code == exit_code);
        if listed == (exit_codes.operator == "In") && rule.action == "Restart" {
            return "Always";
        }
    }
    container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod))
}

#[cfg(test)]
mod tests {
    use super::super::app_containers;
    use super::super::state::testing::{exited, record};
    use super::super::testing::pod;
    use super::*;
    use serde_json::json;

    #[test]
    fn policies() {
        let cases = [
            ("Always", None, true),
            ("Always", Some(exited("a", 0, 0)), true),
            ("OnFailure", Some(exited("a", 0, 0)), false),
            ("OnFailure", Some(exited("a", 0, 1)), true),
            ("Never", Some(exited("a", 0, 1)), false),
            ("Never", None, true),
            ("Always", Some(record("a", 0, Run::Running)), false),
            ("OnFailure", Some(ContainerRecord { replaced: true, ..exited("a", 0, 0) }), true),
            ("Never", Some(record("a", 0, Run::Created)), true),
        ];
        for (policy, record, expected) in cases {
            let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
            let spec = app_containers(&pod).next().unwrap();
            assert_eq!(should_start(&pod, &spec, record.as_ref()), expected, "{policy} {record:?}");
        }
    }

    #[test]
    fn rules_of_one_container_win() {
        let pod = pod(
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}),
        );
        let spec = app_containers(&pod).next().unwrap();
        assert!(restarts_after(&pod, Kind::App, &spec.container, 42));
        assert!(!restarts_after(&pod, Kind::App, &spec.container, 1));
    }
}
