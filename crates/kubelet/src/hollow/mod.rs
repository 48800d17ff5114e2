//! Nodes without containers: thousands of them in one process, each with an honest Lease and
//! status, whose pods become Running and Ready, run to completion, fail by chance, or end, in the
//! order and with the writes a real kubelet would make. For tests of everything that is not the node.
//!
//! No node and no pod has a task: what is due is in two queues, heartbeats in one and pods in the
//! other, each emptied by a fixed number of workers.

use std::sync::Arc;

use amphipod_client::{CachedPod, Client, EventRecorder, SharedInformers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod addresses;
mod chance;
mod config;
mod file;
mod imagined;
mod life;
mod nodes;
mod pods;

pub use config::Config;
pub use file::{from_flags, parse};

/// Writes of pods under way at once, over all nodes.
const POD_WORKERS: usize = 64;
/// Heartbeats under way at once. Few when all is well; when the API is slow, they must not wait for
/// one another until their nodes are given up.
const NODE_WORKERS: usize = 64;

/// Runs the nodes until cancelled; their objects stay in the API. `registered` hears when all of them
/// have told that they are ready. `client` may act as each of them, and tells their events.
pub async fn run(
    config: Config,
    client: Client,
    informers: SharedInformers,
    registered: oneshot::Sender<()>,
    cancel: CancellationToken,
) -> Result<(), crate::Error> {
    let recorder = config.events.then(|| EventRecorder::new(client.clone(), "kubelet", None));
    let (node_cache, pod_cache) = (informers.get::<Node>(), informers.get::<CachedPod>());
    let nodes = Arc::new(nodes::Nodes::new(config, client, node_cache.clone(), registered));
    let pods = Arc::new(pods::Pods::new(nodes.clone(), pod_cache.clone(), recorder));
    // Addresses that pods have are known before any is given out.
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = async { node_cache.synced().await; pod_cache.synced().await } => {}
    }
    pods::follow(&pods);
    nodes.start(Timestamp::now());
    let mut tasks = JoinSet::new();
    for _ in 0..NODE_WORKERS {
        let (nodes, pods) = (nodes.clone(), pods.clone());
        tasks.spawn(async move { nodes.work(|node| pods.look_again(node)).await });
    }
    for _ in 0..POD_WORKERS {
        tasks.spawn(pods.clone().work());
    }
    cancel.cancelled().await;
    nodes.stop();
    pods.stop();
    while tasks.join_next().await.is_some() {}
    Ok(())
}
