//! The node's own object: registered, kept true, kept alive.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Api, Error};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Node, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::context::Context;
use crate::events::{self, Notice};

pub mod lease;
pub mod machine;
pub mod status;

use status::Observed;

/// How often the node looks at itself.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// While it is not ready it looks more often: readiness should show at once.
const CHECK_UNREADY: Duration = Duration::from_millis(300);
/// An unchanged status is written this often all the same.
const REPORT_EVERY: SignedDuration = SignedDuration::from_secs(300);
/// A runtime silent for longer is taken for dead.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(30);
const REGISTER_RETRY: Duration = Duration::from_millis(200);
const MAX_REGISTER_RETRY: Duration = Duration::from_secs(7);

/// Registers the node (or finds it registered); repeats until it succeeds.
pub async fn register(context: &Context, cancel: &CancellationToken) -> Option<Node> {
    let mut retry = REGISTER_RETRY;
    loop {
        match try_register(context).await {
            Ok(node) => return Some(node),
            Err(error) => {
                warn!(%error, "the node could not be registered, trying again");
                tokio::select! {
                    () = cancel.cancelled() => return None,
                    () = tokio::time::sleep(retry) => {}
                }
                retry = (retry * 2).min(MAX_REGISTER_RETRY);
            }
        }
    }
}

async fn try_register(context: &Context) -> Result<Node, Error> {
    let config = &context.config;
    let api = Api::<Node>::all(context.client.clone());
    let observed = observe(context).await;
    let now = Timestamp::now();
    let mut labels = status::default_labels(&config.node_name);
    labels.extend(config.node_labels.clone());
    let Some(mut found) = api.get_opt(&config.node_name).await? else {
        if !config.register_node {
            return Err(Error::Transport(
                "the node object does not exist and registration is off".to_owned(),
            ));
        }
        let mut node = Node {
            spec: Some(NodeSpec {
                taints: Some(config.register_taints.clone()).filter(|t| !t.is_empty()),
                ..NodeSpec::default()
            }),
            status: Some(status::node_status(&NodeStatus::default(), &context.machine, &observed, now)),
            ..Node::default()
        };
        node.metadata.name = Some(config.node_name.clone());
        node.metadata.labels = Some(labels);
        info!(node = config.node_name, "registering the node");
        let created = api.create(&node).await?;
        tell_changes(context, &NodeStatus::default(), &node.status.unwrap_or_default());
        return Ok(created);
    };
    if status::keep_labels(&mut found, &labels) {
        found = api.update(&found).await?;
    }
    let old = found.status.take().unwrap_or_default();
    let new = status::node_status(&old, &context.machine, &observed, now);
    found.status = Some(new.clone());
    let updated = api.update_status(&found).await?;
    tell_changes(context, &old, &new);
    Ok(updated)
}

/// Keeps the status true until cancelled.
pub async fn keep_status(context: Arc<Context>, cancel: CancellationToken) {
    let mut written: Option<(NodeStatus, Timestamp)> = None;
    loop {
        let observed = observe(&context).await;
        let ready = observed.not_ready.is_empty();
        if let Err(error) = report(&context, &observed, &mut written).await {
            debug!(%error, "the node's status could not be written");
        }
        let pause = if ready { CHECK_EVERY } else { CHECK_UNREADY };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn report(
    context: &Context,
    observed: &Observed,
    written: &mut Option<(NodeStatus, Timestamp)>,
) -> Result<(), Error> {
    let api = Api::<Node>::all(context.client.clone());
    let name = &context.config.node_name;
    let now = Timestamp::now();
    let current = match context.node.get(name) {
        Some(node) => (*node).clone(),
        None => api.get(name).await?,
    };
    let old = current.status.clone().unwrap_or_default();
    let new = status::node_status(&old, &context.machine, observed, now);
    let fresh = written.as_ref().is_some_and(|(_, at)| now.duration_since(*at) < REPORT_EVERY);
    if fresh && status::same_but_heartbeat(&old, &new) {
        return Ok(());
    }
    tell_changes(context, &old, &new);
    let mut node = current;
    node.status = Some(new.clone());
    match api.update_status(&node).await {
        Ok(_) => {}
        Err(error) if error.is_conflict() => {
            // Someone else wrote meanwhile; take theirs and put ours on it.
            let mut latest = api.get(name).await?;
            let base = latest.status.clone().unwrap_or_default();
            latest.status = Some(status::node_status(&base, &context.machine, observed, now));
            api.update_status(&latest).await?;
        }
        Err(error) => return Err(error),
    }
    *written = Some((new, now));
    Ok(())
}

/// Events for what turned since the status was last written.
fn tell_changes(context: &Context, old: &NodeStatus, new: &NodeStatus) {
    for notice in changes(&context.config.node_name, old, new) {
        context.node_event(notice);
    }
}

fn changes(name: &str, old: &NodeStatus, new: &NodeStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    let boot_id = |status: &NodeStatus| status.node_info.clone().unwrap_or_default().boot_id;
    if !boot_id(old).is_empty() && boot_id(old) != boot_id(new) {
        notices.push(events::rebooted(name, &boot_id(new)));
    }
    let state = |status: &NodeStatus, kind: &str| {
        status.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status == "True")
    };
    let reasons = [
        ("Ready", "NodeReady", "NodeNotReady"),
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
    ];
    for (kind, on, off) in reasons {
        let (before, after) = (state(old, kind), state(new, kind));
        // A node that was never ready has not become so.
        let first = kind == "Ready" && before.is_none();
        if after.is_some() && before != after && !first {
            notices.push(events::node_is_now(name, if after == Some(true) { on } else { off }));
        }
    }
    notices
}

async fn observe(context: &Context) -> Observed {
    let config = &context.config;
    let disk = machine::disk(&config.root_dir).unwrap_or_default();
    let available = machine::meminfo("MemAvailable") * 1024;
    let pid_pressure = pids_low();
    let mut not_ready = Vec::new();
    let mut runtime_handlers = Vec::new();
    match context.runtime.status().await {
        Ok(answer) => {
            context.runtime_health.seen();
            let mut network = None;
            for condition in answer.status.unwrap_or_default().conditions.iter().filter(|c| !c.status) {
                let (kind, reason, message) = (&condition.r#type, &condition.reason, &condition.message);
                let text = format!("{kind}=false reason:{reason} message:{message}");
                if kind == "NetworkReady" {
                    let text = format!("container runtime network not ready: {text}");
                    network = Some(text.clone());
                    not_ready.push(text);
                } else {
                    not_ready.push(format!("container runtime not ready: {text}"));
                }
            }
            context.runtime_health.set_network_problem(network);
            runtime_handlers = answer.runtime_handlers.into_iter().map(handler).collect();
        }
        Err(error) => {
            if context.runtime_health.age().is_none_or(|age| age > RUNTIME_PATIENCE) {
                not_ready.push(format!("container runtime is down: {error}"));
            }
        }
    }
    let images = context.images.list().await.map(status::images).unwrap_or_default();
    Observed {
        memory_pressure: available < machine::MEMORY_AVAILABLE_BYTES,
        disk_pressure: disk.is_low(),
        pid_pressure,
        not_ready,
        images,
        addresses: vec![
            ("InternalIP".to_owned(), config.node_ip.to_string()),
            ("Hostname".to_owned(), config.node_name.clone()),
        ],
        kubelet_port: config.listen.map(|l| i32::from(l.port())),
        runtime_handlers,
    }
}

fn handler(handler: amphipod_cri::v1::RuntimeHandler) -> NodeRuntimeHandler {
    let features = handler.features.unwrap_or_default();
    NodeRuntimeHandler {
        name: Some(handler.name),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    }
}

/// Fewer than a tenth of all process ids left.
fn pids_low() -> bool {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limits = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")];
    let Some(max) = limits.into_iter().flatten().min() else { return false };
    let loadavg = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = loadavg.split_whitespace().nth(3).and_then(|f| f.split('/').nth(1)?.parse::<u64>().ok());
    running.is_some_and(|running| running > max / 10 * 9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSystemInfo};

    #[test]
    fn what_turned_is_told() {
        let status = |boot: &str, conditions: &[(&str, &str)]| NodeStatus {
            node_info: Some(NodeSystemInfo { boot_id: boot.into(), ..NodeSystemInfo::default() }),
            conditions: Some(
                conditions
                    .iter()
                    .map(|(kind, status)| NodeCondition {
                        type_: (*kind).into(),
                        status: (*status).into(),
                        ..NodeCondition::default()
                    })
                    .collect(),
            ),
            ..NodeStatus::default()
        };
        let fine = [("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")];
        let ready = |state| [&fine[..], &[("Ready", state)]].concat();
        let told = |old: &NodeStatus, new: &NodeStatus| -> Vec<String> {
            changes("n", old, new).into_iter().map(|n| n.reason.into_owned()).collect()
        };
        let first = status("b", &ready("True"));
        assert_eq!(
            told(&NodeStatus::default(), &first),
            ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]
        );
        assert_eq!(told(&first, &first), [""; 0]);
        assert_eq!(told(&first, &status("c", &ready("False"))), ["Rebooted", "NodeNotReady"]);
        let bad = [
            ("MemoryPressure", "True"),
            ("DiskPressure", "True"),
            ("PIDPressure", "True"),
            ("Ready", "True"),
        ];
        assert_eq!(
            told(&first, &status("b", &bad)),
            ["NodeHasInsufficientMemory", "NodeHasDiskPressure", "NodeHasInsufficientPID"]
        );
        assert_eq!(told(&status("b", &ready("False")), &first), ["NodeReady"]);
    }
}
