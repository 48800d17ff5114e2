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

/// Every event there is, made of plain parts.
fn all() -> Vec<Notice> {
    let refused_by_runtime = Error::from(tonic::Status::unavailable("no runtime"));
    let missing = Error::config("configmap \"c\" not found");
    let verdict = Verdict { reason: "OutOfcpu".into(), message: "Node didn't have enough resource".into() };
    let millis = Duration::from_millis;
    vec![
        pulling("x:1"),
        pulled("x:1", millis(1500), millis(62_000), 7),
        image_present("x:1"),
        pull_failed("x:1", "no"),
        pull_backs_off("x:1"),
        never_pulled("x:1"),
        image_name_invalid("X", "why"),
        image_not_inspected("x:1", &refused_by_runtime),
        created(),
        started(),
        start_failed("ErrImagePull"),
        restart_backs_off("a", "p_ns(u)"),
        killing("Stopping container a"),
        killing(Cause::LivenessProbe.message("a")),
        killing(Cause::StartupProbe.message("a")),
        killing(Cause::DefinitionChanged.message("a")),
        killing(Cause::Resized.message("a")),
        post_start_failed(),
        pre_stop_failed(),
        probe_failed("Readiness", "said"),
        probe_errored("Liveness", "lost"),
        probe_warned("Startup", "moved"),
        refused(&verdict),
        deadline_exceeded(),
        no_directories(&missing),
        no_cgroup(&missing),
        network_not_ready("container runtime network not ready: NetworkReady=false"),
        mount_failed("v", &missing),
        sandbox_changed(),
        sandbox_failed(&refused_by_runtime),
        pull_secrets_missing(&["one", "two"]),
        kill_failed("KillPodSandbox", "u1", &refused_by_runtime),
        resize_started(&resized()),
        resize_completed(&resized(), Some(2)),
        resize_error(&resized(), "a \"b\""),
        resize_pending(&resized(), &Refusal::Deferred("Node didn't have enough room".into())),
        resize_pending(&resized(), &Refusal::Infeasible("Node didn't have enough capacity".into())),
        starting(),
        node_is_now("n", "NodeHasSufficientMemory"),
        rebooted("n", "b"),
        invalid_disk_capacity(0),
        disk_not_freed(9, 4),
    ]
}

/// Types, reasons and messages, in the same order.
const TOLD: &str = r#"
Normal Pulling Pulling image "x:1"
Normal Pulled Successfully pulled image "x:1" in 1.5s (1m2s including waiting). Image size: 7 bytes.
Normal Pulled Container image "x:1" already present on machine and can be accessed by the pod
Warning Failed Failed to pull image "x:1": no
Normal BackOff Back-off pulling image "x:1"
Warning ErrImageNeverPull Container image "x:1" is not present with pull policy of Never
Warning InspectFailed Failed to apply default image tag "X": why
Warning InspectFailed Failed to inspect image "x:1": rpc error: code = Unavailable desc = no runtime
Normal Created Container created
Normal Started Container started
Warning Failed Error: ErrImagePull
Warning BackOff Back-off restarting failed container a in pod p_ns(u)
Normal Killing Stopping container a
Normal Killing Container a failed liveness probe, will be restarted
Normal Killing Container a failed startup probe, will be restarted
Normal Killing Container a definition changed, will be restarted
Normal Killing Container a resize requires restart
Warning FailedPostStartHook PostStartHook failed
Warning FailedPreStopHook PreStopHook failed
Warning Unhealthy Readiness probe failed: said
Warning Unhealthy Liveness probe errored and resulted in failure state: lost
Warning ProbeWarning Startup probe warning: moved
Warning OutOfcpu Node didn't have enough resource
Normal DeadlineExceeded Pod was active on the node longer than the specified deadline
Warning Failed error making pod data directories: configmap "c" not found
Warning FailedCreatePodContainer unable to ensure pod container exists: configmap "c" not found
Warning NetworkNotReady network is not ready: container runtime network not ready: NetworkReady=false
Warning FailedMount MountVolume.SetUp failed for volume "v" : configmap "c" not found
Normal SandboxChanged Pod sandbox changed, it will be killed and re-created.
Warning FailedCreatePodSandBox Failed to create pod sandbox: rpc error: code = Unavailable desc = no runtime
Warning FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (one, two); attempting to pull the image may not succeed.
Warning FailedKillPod error killing pod: failed to "KillPodSandbox" for "u1" with KillPodSandboxError: "rpc error: code = Unavailable desc = no runtime"
Normal ResizeStarted Pod resize started: {RESOURCES}
Normal ResizeCompleted Pod resize completed: {RESOURCES}
Warning ResizeError Pod resize error: {RESOURCES,"error":"a \"b\""}
Warning ResizeDeferred Pod resize Deferred: {RESOURCES,"error":"Node didn't have enough room"}
Warning ResizeInfeasible Pod resize Infeasible: {RESOURCES,"error":"Node didn't have enough capacity"}
Normal Starting Starting kubelet.
Normal NodeHasSufficientMemory Node n status is now: NodeHasSufficientMemory
Warning Rebooted Node n has been rebooted, boot id: b
Warning InvalidDiskCapacity invalid capacity 0 on image filesystem
Warning FreeDiskSpaceFailed Failed to garbage collect required amount of images. Attempted to free 9 bytes, but only found 4 bytes eligible to free.
"#;
const RESOURCES: &str = r#""initContainers":[{"name":"i","resources":{}}],"containers":[{"name":"app","resources":{"limits":{"cpu":"6"},"requests":{"cpu":"6","memory":"1Gi"}}}],"generation":2"#;

#[test]
fn every_event_in_kubelets_words() {
    let expected = TOLD.replace("RESOURCES", RESOURCES);
    let told = all().into_iter().map(|n| format!("{} {} {}", n.kind, n.reason, n.message));
    assert_eq!(told.collect::<Vec<_>>(), expected.trim().lines().collect::<Vec<_>>());
}

#[test]
fn durations_as_go_prints_them() {
    for (millis, expected) in [(250, "250ms"), (1500, "1.5s"), (61_000, "1m1s"), (123_405, "2m3.405s")] {
        assert_eq!(go_duration(Duration::from_millis(millis)), expected);
    }
}
