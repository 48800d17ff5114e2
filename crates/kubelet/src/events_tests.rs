use super::*;
use crate::pod::sync::Cause;
use crate::pod::testing::with_meta;
use serde_json::json;

fn resized() -> Pod {
    let resources = json!({"requests": {"memory": "1Gi", "cpu": "6"}, "limits": {"cpu": "6"}});
    with_meta(
        json!({"name": "p", "generation": 2}),
        json!({"initContainers": [{"name": "i"}], "containers": [{"name": "app", "resources": resources}]}),
    )
}

/// Type, reason and message of every event there is.
#[test]
fn every_event_in_kubelets_words() {
    let refused_by_runtime = Error::from(tonic::Status::unavailable("no runtime"));
    let missing = Error::config("configmap \"c\" not found");
    let verdict = Verdict {
        reason: "OutOfcpu".into(),
        message: "Node didn't have enough resource: cpu, requested: 2, used: 1, capacity: 2".into(),
    };
    let deferred = Refusal::Deferred("Node didn't have enough room".into());
    let infeasible = Refusal::Infeasible("Node didn't have enough capacity".into());
    let summary = r#"{"initContainers":[{"name":"i","resources":{}}],"containers":[{"name":"app","resources":{"limits":{"cpu":"6"},"requests":{"cpu":"6","memory":"1Gi"}}}],"generation":2"#;
    let summary = |prefix: &str, end: &str| format!("{prefix}: {summary}{end}}}");
    let millis = Duration::from_millis;
    let told: Vec<(Notice, &str, &str, String)> = vec![
        (pulling("x:1"), "Normal", "Pulling", r#"Pulling image "x:1""#.into()),
        (
            pulled("x:1", millis(1500), millis(62_000), 7),
            "Normal",
            "Pulled",
            r#"Successfully pulled image "x:1" in 1.5s (1m2s including waiting). Image size: 7 bytes."#.into(),
        ),
        (
            image_present("x:1"),
            "Normal",
            "Pulled",
            r#"Container image "x:1" already present on machine and can be accessed by the pod"#.into(),
        ),
        (pull_failed("x:1", "no"), "Warning", "Failed", r#"Failed to pull image "x:1": no"#.into()),
        (pull_backs_off("x:1"), "Normal", "BackOff", r#"Back-off pulling image "x:1""#.into()),
        (
            never_pulled("x:1"),
            "Warning",
            "ErrImageNeverPull",
            r#"Container image "x:1" is not present with pull policy of Never"#.into(),
        ),
        (
            image_name_invalid("X", "why"),
            "Warning",
            "InspectFailed",
            r#"Failed to apply default image tag "X": why"#.into(),
        ),
        (
            image_not_inspected("x:1", &refused_by_runtime),
            "Warning",
            "InspectFailed",
            r#"Failed to inspect image "x:1": rpc error: code = Unavailable desc = no runtime"#.into(),
        ),
        (created(), "Normal", "Created", "Container created".into()),
        (started(), "Normal", "Started", "Container started".into()),
        (start_failed("ErrImagePull"), "Warning", "Failed", "Error: ErrImagePull".into()),
        (
            restart_backs_off("a", "p_ns(u)"),
            "Warning",
            "BackOff",
            "Back-off restarting failed container a in pod p_ns(u)".into(),
        ),
        (killing("Stopping container a"), "Normal", "Killing", "Stopping container a".into()),
        (
            killing(Cause::LivenessProbe.message("a")),
            "Normal",
            "Killing",
            "Container a failed liveness probe, will be restarted".into(),
        ),
        (
            killing(Cause::StartupProbe.message("a")),
            "Normal",
            "Killing",
            "Container a failed startup probe, will be restarted".into(),
        ),
        (
            killing(Cause::DefinitionChanged.message("a")),
            "Normal",
            "Killing",
            "Container a definition changed, will be restarted".into(),
        ),
        (
            killing(Cause::Resized.message("a")),
            "Normal",
            "Killing",
            "Container a resize requires restart".into(),
        ),
        (post_start_failed(), "Warning", "FailedPostStartHook", "PostStartHook failed".into()),
        (pre_stop_failed(), "Warning", "FailedPreStopHook", "PreStopHook failed".into()),
        (
            probe_failed("Readiness", "said"),
            "Warning",
            "Unhealthy",
            "Readiness probe failed: said".into(),
        ),
        (
            probe_errored("Liveness", "lost"),
            "Warning",
            "Unhealthy",
            "Liveness probe errored and resulted in failure state: lost".into(),
        ),
        (
            probe_warned("Startup", "moved"),
            "Warning",
            "ProbeWarning",
            "Startup probe warning: moved".into(),
        ),
        (refused(&verdict), "Warning", "OutOfcpu", verdict.message.clone()),
        (deadline_exceeded("late"), "Normal", "DeadlineExceeded", "late".into()),
        (
            no_directories(&missing),
            "Warning",
            "Failed",
            r#"error making pod data directories: configmap "c" not found"#.into(),
        ),
        (
            no_cgroup(&missing),
            "Warning",
            "FailedCreatePodContainer",
            r#"unable to ensure pod container exists: configmap "c" not found"#.into(),
        ),
        (
            network_not_ready("container runtime network not ready: NetworkReady=false"),
            "Warning",
            "NetworkNotReady",
            "network is not ready: container runtime network not ready: NetworkReady=false".into(),
        ),
        (
            mount_failed("v", &missing),
            "Warning",
            "FailedMount",
            r#"MountVolume.SetUp failed for volume "v" : configmap "c" not found"#.into(),
        ),
        (
            sandbox_changed(),
            "Normal",
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.".into(),
        ),
        (
            sandbox_failed(&refused_by_runtime),
            "Warning",
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox: rpc error: code = Unavailable desc = no runtime".into(),
        ),
        (
            pull_secrets_missing(&["one", "two"]),
            "Warning",
            "FailedToRetrieveImagePullSecret",
            "Unable to retrieve some image pull secrets (one, two); attempting to pull the image may not succeed."
                .into(),
        ),
        (
            kill_failed("KillPodSandbox", "u1", &refused_by_runtime),
            "Warning",
            "FailedKillPod",
            r#"error killing pod: failed to "KillPodSandbox" for "u1" with KillPodSandboxError: "rpc error: code = Unavailable desc = no runtime""#
                .into(),
        ),
        (resize_started(&resized()), "Normal", "ResizeStarted", summary("Pod resize started", "")),
        (
            resize_completed(&resized(), Some(2)),
            "Normal",
            "ResizeCompleted",
            summary("Pod resize completed", ""),
        ),
        (
            resize_error(&resized(), "a \"b\""),
            "Warning",
            "ResizeError",
            summary("Pod resize error", r#","error":"a \"b\"""#),
        ),
        (
            resize_pending(&resized(), &deferred),
            "Warning",
            "ResizeDeferred",
            summary("Pod resize Deferred", r#","error":"Node didn't have enough room""#),
        ),
        (
            resize_pending(&resized(), &infeasible),
            "Warning",
            "ResizeInfeasible",
            summary("Pod resize Infeasible", r#","error":"Node didn't have enough capacity""#),
        ),
        (starting(), "Normal", "Starting", "Starting kubelet.".into()),
        (
            node_is_now("n", "NodeHasSufficientMemory"),
            "Normal",
            "NodeHasSufficientMemory",
            "Node n status is now: NodeHasSufficientMemory".into(),
        ),
        (rebooted("n", "b"), "Warning", "Rebooted", "Node n has been rebooted, boot id: b".into()),
        (
            invalid_disk_capacity(0),
            "Warning",
            "InvalidDiskCapacity",
            "invalid capacity 0 on image filesystem".into(),
        ),
        (
            disk_not_freed(9, 4),
            "Warning",
            "FreeDiskSpaceFailed",
            "Failed to garbage collect required amount of images. Attempted to free 9 bytes, but only found 4 bytes eligible to free."
                .into(),
        ),
    ];
    for (notice, kind, reason, message) in told {
        assert_eq!(notice, Notice { kind, reason: reason.into(), message });
    }
}

#[test]
fn durations_as_go_prints_them() {
    for (millis, expected) in [(250, "250ms"), (1500, "1.5s"), (61_000, "1m1s"), (123_405, "2m3.405s")] {
        assert_eq!(go_duration(Duration::from_millis(millis)), expected);
    }
}
