//! The node agent: turns the pods assigned to a node into running containers and tells the API
//! what became of them. The decisions are plain functions in [`pod`] and [`spec`]; the rest asks
//! the container runtime, mounts, probes and writes.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Client, EventRecorder, ListParams, SharedInformers};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

mod allocation;
mod cgroups;
pub mod config;
mod context;
pub mod error;
mod events;
mod gc;
pub mod hollow;
pub mod node;
mod objects;
pub mod pod;
mod pods;
mod probes;
mod runtime;
mod server;
pub mod spec;
mod static_pods;
#[cfg(test)]
mod testing;
mod volumes;
mod worker;

pub use config::{CgroupConfig, Config};
pub use error::Error;
pub use node::machine::KUBELET_VERSION;

/// Removes the folders pods' cgroups were made in, for taking a node down.
pub fn remove_cgroup_root(config: &CgroupConfig) {
    cgroups::Cgroups::remove_root(config);
}

/// Name and version of the runtime behind `endpoint`.
pub async fn runtime_version(endpoint: &str) -> Result<String, Error> {
    let runtime = Runtime::connect(endpoint).await?;
    Ok(format!("{} {}", runtime.name, runtime.version))
}

/// Stops and removes every pod in the runtime behind `endpoint`, for taking a node down.
pub async fn remove_pods(endpoint: &str) -> Result<(), Error> {
    Runtime::connect(endpoint).await?.remove_all_pods().await
}

use context::Context;
use runtime::Runtime;

/// Between attempts to reach the runtime at the start.
const RUNTIME_RETRY: Duration = Duration::from_millis(100);

/// Runs the node agent until cancelled. Containers go on running after it returns and are taken
/// up again by the next run. Errors only if it cannot begin (a taken port, a bad certificate).
pub async fn run(
    mut config: Config,
    client: Client,
    informers: SharedInformers,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let Some(runtime) = connect(&config, &cancel).await else { return Ok(()) };
    let listener = server::bind(&mut config).await?;
    let context = Arc::new(build(config, client, &informers, runtime));
    info!(node = context.config.node_name, runtime = context.runtime.name, "kubelet starting");
    context.node_event(events::starting());
    let pods = pods::Pods::new(context.clone(), cancel.clone());
    let following = Arc::downgrade(&pods);
    context.objects.on_change(move |uid| {
        if let Some(pods) = following.upgrade() {
            pods.sources_changed(uid);
        }
    });
    if let Some(listener) = listener {
        server::start(context.clone(), pods.clone(), listener, cancel.clone())?;
    }
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(folder) = context.config.manifest_dir.clone() {
        let known = static_pods::start(&context, &pods, &folder);
        tasks.spawn(static_pods::run(context.clone(), pods.clone(), folder, known, cancel.clone()));
    }
    let Some(node) = node::register(&context, &cancel).await else { return Ok(()) };
    tasks.spawn(node::lease::keep(
        context.client.clone(),
        context.config.node_name.clone(),
        node.metadata.uid.clone(),
        cancel.clone(),
    ));
    tasks.spawn(node::keep_status(context.clone(), cancel.clone()));
    let changed = {
        let pods = pods.clone();
        move |uid: &str| pods.runtime_changed(uid)
    };
    let health = context.runtime_health.clone();
    tasks.spawn(runtime::pleg::watch(context.runtime.clone(), health, changed, cancel.clone()));
    // Containers get the variables of services that existed before them: know those first.
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = context.services.synced() => {}
    }
    let selector = format!("spec.nodeName={}", context.config.node_name);
    let informer =
        informers.get_selected::<Pod>(ListParams { field_selector: Some(selector), ..ListParams::default() });
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = informer.synced() => {}
    }
    pods.follow(&informer);
    tasks.spawn(pods.clone().reap_orphans(informer));
    tasks.spawn(gc::images(context.clone(), pods.clone(), cancel.clone()));
    tasks.spawn(gc::logs(context.clone(), pods.clone(), cancel.clone()));
    tasks.spawn(pod_cidr(context.clone(), cancel.clone()));
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn connect(config: &Config, cancel: &CancellationToken) -> Option<Runtime> {
    let mut told = false;
    loop {
        match Runtime::connect(&config.cri_endpoint).await {
            Ok(runtime) => return Some(runtime),
            Err(error) if !told => {
                info!(%error, endpoint = config.cri_endpoint, "waiting for the container runtime");
                told = true;
            }
            Err(error) => debug!(%error, "waiting for the container runtime"),
        }
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = tokio::time::sleep(RUNTIME_RETRY) => {}
        }
    }
}

fn build(config: Config, client: Client, informers: &SharedInformers, runtime: Runtime) -> Context {
    let version = format!("{}://{}", runtime.name, runtime.version);
    let own_node = ListParams {
        field_selector: Some(format!("metadata.name={}", config.node_name)),
        ..ListParams::default()
    };
    Context {
        recorder: EventRecorder::new(client.clone(), "kubelet", Some(&config.node_name)),
        runtime_health: Arc::default(),
        images: runtime::images::Images::new(runtime.clone()),
        objects: objects::Objects::new(&client),
        tokens: volumes::tokens::Tokens::new(client.clone()),
        cgroups: cgroups::Cgroups::new(&config.cgroups),
        services: informers.get::<Service>(),
        node: informers.get_selected::<Node>(own_node),
        machine: node::machine::Machine::inspect(&config, &version),
        metrics: server::metrics::Metrics::default(),
        runtime,
        client,
        config,
    }
}

/// Tells the runtime the addresses its pods may have, once the node has got some.
async fn pod_cidr(context: Arc<Context>, cancel: CancellationToken) {
    let (sender, mut receiver) = tokio::sync::watch::channel(None::<String>);
    context.node.on_change(move |change| {
        let cidr = change.object().spec.as_ref().and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty());
        sender.send_if_modified(|known| {
            let changed = *known != cidr;
            *known = cidr;
            changed
        });
    });
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = receiver.changed() => if changed.is_err() { return },
        }
        let cidr = receiver.borrow_and_update().clone();
        let Some(cidr) = cidr else { continue };
        if let Err(error) = context.runtime.set_pod_cidr(&cidr).await {
            debug!(%error, cidr, "the runtime did not take the pod addresses");
        }
    }
}
