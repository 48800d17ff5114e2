//! The events a node tells, all of them in one place: types, reasons and words are kubelet's own,
//! which scripts and people match on.

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::json;

use crate::error::Error;
use crate::pod::resize::Refusal;
use crate::pod::spec;
use crate::pod::status::Verdict;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub kind: &'static str,
    pub reason: Cow<'static, str>,
    pub message: String,
}

fn normal(reason: &'static str, message: impl Into<String>) -> Notice {
    Notice { kind: "Normal", reason: Cow::Borrowed(reason), message: message.into() }
}
fn warning(reason: &'static str, message: impl Into<String>) -> Notice {
    Notice { kind: "Warning", reason: Cow::Borrowed(reason), message: message.into() }
}

// Images.

pub fn pulling(image: &str) -> Notice {
    normal("Pulling", format!("Pulling image {image:?}"))
}
/// `asked` counts from when the pull was asked for, `began` from when it had its turn.
pub fn pulled(image: &str, began: Duration, asked: Duration, bytes: u64) -> Notice {
    normal(
        "Pulled",
        format!(
            "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {bytes} bytes.",
            go_duration(began),
            go_duration(asked)
        ),
    )
}
pub fn image_present(image: &str) -> Notice {
    let text = "already present on machine and can be accessed by the pod";
    normal("Pulled", format!("Container image {image:?} {text}"))
}
pub fn pull_failed(image: &str, error: &str) -> Notice {
    warning("Failed", format!("Failed to pull image {image:?}: {error}"))
}
pub fn pull_backs_off(image: &str) -> Notice {
    normal("BackOff", format!("Back-off pulling image {image:?}"))
}
pub fn never_pulled(image: &str) -> Notice {
    warning(
        "ErrImageNeverPull",
        format!("Container image {image:?} is not present with pull policy of Never"),
    )
}
pub fn image_name_invalid(image: &str, why: &str) -> Notice {
    warning("InspectFailed", format!("Failed to apply default image tag {image:?}: {why}"))
}
pub fn image_not_inspected(image: &str, error: &Error) -> Notice {
    warning("InspectFailed", format!("Failed to inspect image {image:?}: {}", error.with_code()))
}

// Containers.

pub fn created() -> Notice {
    normal("Created", "Container created")
}
pub fn started() -> Notice {
    normal("Started", "Container started")
}
/// `why`: an error, or a reason such as `ErrImagePull`.
pub fn start_failed(why: impl std::fmt::Display) -> Notice {
    warning("Failed", format!("Error: {why}"))
}
pub fn restart_backs_off(container: &str, pod: &str) -> Notice {
    warning("BackOff", format!("Back-off restarting failed container {container} in pod {pod}"))
}
pub fn killing(why: impl Into<String>) -> Notice {
    normal("Killing", why)
}
pub fn post_start_failed() -> Notice {
    warning("FailedPostStartHook", "PostStartHook failed")
}
pub fn pre_stop_failed() -> Notice {
    warning("FailedPreStopHook", "PreStopHook failed")
}
pub fn probe_failed(probe: &str, output: &str) -> Notice {
    warning("Unhealthy", format!("{probe} probe failed: {output}"))
}
pub fn probe_errored(probe: &str, error: &str) -> Notice {
    warning("Unhealthy", format!("{probe} probe errored and resulted in failure state: {error}"))
}
pub fn probe_warned(probe: &str, text: &str) -> Notice {
    warning("ProbeWarning", format!("{probe} probe warning: {text}"))
}

// Pods.

pub fn refused(verdict: &Verdict) -> Notice {
    Notice { kind: "Warning", reason: Cow::Owned(verdict.reason.clone()), message: verdict.message.clone() }
}
pub fn deadline_exceeded() -> Notice {
    normal("DeadlineExceeded", crate::pod::status::deadline_exceeded().message)
}
pub fn no_directories(error: &Error) -> Notice {
    warning("Failed", format!("error making pod data directories: {error}"))
}
pub fn no_cgroup(error: &Error) -> Notice {
    warning("FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"))
}
pub fn network_not_ready(why: &str) -> Notice {
    warning("NetworkNotReady", format!("network is not ready: {why}"))
}
pub fn mount_failed(volume: &str, error: &Error) -> Notice {
    warning("FailedMount", format!("MountVolume.SetUp failed for volume {volume:?} : {error}"))
}
pub fn sandbox_changed() -> Notice {
    normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
}
pub fn sandbox_failed(error: &Error) -> Notice {
    warning("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {}", error.with_code()))
}
pub fn pull_secrets_missing(names: &[&str]) -> Notice {
    warning(
        "FailedToRetrieveImagePullSecret",
        format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            names.join(", ")
        ),
    )
}
/// `what` of the pod: `KillContainer` of a container's name, `KillPodSandbox` of the pod's uid.
pub fn kill_failed(what: &str, name: &str, error: &Error) -> Notice {
    let text = error.with_code();
    warning(
        "FailedKillPod",
        format!("error killing pod: failed to {what:?} for {name:?} with {what}Error: {text:?}"),
    )
}
pub fn resize_started(pod: &Pod) -> Notice {
    normal("ResizeStarted", resources("Pod resize started", pod, pod.metadata.generation, None))
}
pub fn resize_completed(pod: &Pod, generation: Option<i64>) -> Notice {
    normal("ResizeCompleted", resources("Pod resize completed", pod, generation, None))
}
pub fn resize_error(pod: &Pod, error: &str) -> Notice {
    warning("ResizeError", resources("Pod resize error", pod, pod.metadata.generation, Some(error)))
}
pub fn resize_pending(pod: &Pod, refusal: &Refusal) -> Notice {
    let (reason, prefix) = match refusal {
        Refusal::Deferred(_) => ("ResizeDeferred", "Pod resize Deferred"),
        Refusal::Infeasible(_) => ("ResizeInfeasible", "Pod resize Infeasible"),
    };
    warning(reason, resources(prefix, pod, pod.metadata.generation, Some(refusal.message())))
}

/// A prefix and the pod's resources as JSON, in the order kubelet writes it.
fn resources(prefix: &str, pod: &Pod, generation: Option<i64>, error: Option<&str>) -> String {
    let list = |name: &str, containers: &[Container]| {
        let all: Vec<String> = containers.iter().map(container_resources).collect();
        (!all.is_empty()).then(|| format!("\"{name}\":[{}]", all.join(",")))
    };
    let init = list("initContainers", spec(pod).init_containers.as_deref().unwrap_or_default());
    let app = list("containers", &spec(pod).containers);
    let generation = format!("\"generation\":{}", generation.unwrap_or_default());
    let error = error.map(|text| format!("\"error\":{}", json!(text)));
    let parts: Vec<String> = [init, app, Some(generation), error].into_iter().flatten().collect();
    format!("{prefix}: {{{}}}", parts.join(","))
}

fn container_resources(container: &Container) -> String {
    let resources = json!(container.resources.clone().unwrap_or_default());
    format!("{{\"name\":{},\"resources\":{resources}}}", json!(container.name))
}

// The node.

pub fn starting() -> Notice {
    normal("Starting", "Starting kubelet.")
}
/// `NodeReady`, `NodeHasSufficientMemory`, ...
pub fn node_is_now(node: &str, reason: &'static str) -> Notice {
    normal(reason, format!("Node {node} status is now: {reason}"))
}
pub fn rebooted(node: &str, boot_id: &str) -> Notice {
    warning("Rebooted", format!("Node {node} has been rebooted, boot id: {boot_id}"))
}
pub fn invalid_disk_capacity(bytes: u64) -> Notice {
    warning("InvalidDiskCapacity", format!("invalid capacity {bytes} on image filesystem"))
}
pub fn disk_not_freed(wanted: u64, found: u64) -> Notice {
    warning(
        "FreeDiskSpaceFailed",
        format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {found} bytes eligible to free."
        ),
    )
}

/// A duration as Go prints it, to the millisecond: `1.5s`, `250ms`, `2m3s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    if minutes == 0 { seconds } else { format!("{minutes}m{seconds}") }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
