//! Keeps the kernel's rules equal to the API's Services and EndpointSlices.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Client, Informer, ListParams, SharedInformers};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node as ApiNode, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::desired::desired;
use super::diff::diff;
use super::layout::Layout;
use super::stale::{concerns_udp, stale};
use super::{Node, Ruleset};
use crate::Error;
use crate::netlink::Socket;
use crate::nft::table_exists;

/// Changes that arrive within this time after an update are taken together. The first one is
/// applied at once: an endpoint that goes away must not get another request.
const SETTLE: Duration = Duration::from_millis(10);
/// How often to look whether somebody flushed the rules.
const VERIFY: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Debug)]
pub struct ProxyConfig {
    pub node_name: String,
    pub table: String,
    pub pod_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    /// The bridge of this node's pods, where they hang on one.
    pub bridge: Option<String>,
}

/// The kernel's side: what it holds, and how to change it.
struct Dataplane {
    layout: Layout,
    socket: Socket,
    conntrack: Socket,
    /// The last successful update.
    applied: Ruleset,
    /// Whether the kernel still holds that; not so before the first update and after a failed one.
    is_intact: bool,
}

impl Dataplane {
    fn open(config: &ProxyConfig) -> Result<Self, Error> {
        let layout = Layout {
            table: config.table.clone(),
            pod_cidr: config.pod_cidr,
            service_cidr: config.service_cidr,
            bridge: config.bridge.clone(),
        };
        let (socket, conntrack) = (Socket::netfilter()?, Socket::netfilter()?);
        Ok(Dataplane { layout, socket, conntrack, applied: Ruleset::default(), is_intact: false })
    }

    fn update(&mut self, wanted: Ruleset) -> Result<(), Error> {
        let changes = diff(&self.applied, &wanted);
        let was_intact = std::mem::take(&mut self.is_intact);
        let difference = was_intact.then(|| self.layout.apply(&mut self.socket, &changes));
        match difference {
            Some(Ok(())) => debug!(changes = changes.len(), "service rules updated"),
            other => {
                if let Some(Err(error)) = other {
                    warn!(%error, "service rules are not what they were, writing them anew");
                }
                self.layout.replace(&mut self.socket, &wanted)?;
                debug!(entries = wanted.entries.len(), "service rules written");
            }
        }
        if !was_intact || concerns_udp(&changes) {
            self.forget_stale_flows(&wanted)?;
        }
        self.applied = wanted;
        self.is_intact = true;
        Ok(())
    }

    fn forget_stale_flows(&mut self, wanted: &Ruleset) -> Result<(), Error> {
        let flows = self.conntrack.udp_flows()?;
        for flow in stale(&self.applied, wanted, &flows) {
            debug!(to = %flow.original.destination, was = %flow.reply.source, "forgetting a UDP flow");
            self.conntrack.forget_flow(&flow)?;
        }
        Ok(())
    }

    /// Makes the next update write everything where the table is gone.
    fn verify(&mut self) -> Result<bool, Error> {
        let is_there = table_exists(&mut self.socket, &self.layout.table)?;
        if !is_there {
            self.is_intact = false;
        }
        Ok(is_there)
    }
}

/// Runs until cancelled. The rules stay when it ends: pods keep reaching services while the process
/// restarts.
pub async fn run_proxy(
    _client: Client,
    informers: SharedInformers,
    config: ProxyConfig,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let services = informers.get::<Service>();
    let slices = informers.get::<EndpointSlice>();
    let nodes = informers.get_selected::<ApiNode>(ListParams {
        field_selector: Some(format!("metadata.name={}", config.node_name)),
        ..Default::default()
    });
    let changed = Arc::new(Notify::new());
    notify_on_change(&services, &changed);
    notify_on_change(&slices, &changed);
    let ready = async { tokio::join!(services.synced(), slices.synced(), nodes.synced()) };
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        _ = ready => {}
    }
    let mut dataplane = Dataplane::open(&config)?;
    let mut verify = tokio::time::interval(VERIFY);
    verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
    info!(table = config.table, "service proxy started");
    loop {
        let zone = nodes.get(&config.node_name).and_then(|node| zone_of(&node));
        let node = Node { name: config.node_name.clone(), zone };
        let (service_list, slice_list) = (services.list(), slices.list());
        let (used, outcome) = in_background(dataplane, move |dataplane| {
            dataplane.update(desired(&service_list, &slice_list, &node))
        })
        .await?;
        dataplane = used;
        let pause = if let Err(error) = outcome {
            warn!(%error, "service rules could not be updated, trying again");
            changed.notify_one();
            RETRY
        } else {
            SETTLE
        };
        if !sleep(pause, &cancel).await {
            return Ok(());
        }
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = changed.notified() => break,
                _ = verify.tick() => {
                    let (used, outcome) = in_background(dataplane, Dataplane::verify).await?;
                    dataplane = used;
                    if !outcome.unwrap_or(false) {
                        warn!("the service rules were gone, writing them anew");
                        break;
                    }
                }
            }
        }
    }
}

/// Kernel calls of large rulesets take a while: they run beside the async workers.
async fn in_background<T: Send + 'static>(
    mut dataplane: Dataplane,
    work: impl FnOnce(&mut Dataplane) -> Result<T, Error> + Send + 'static,
) -> Result<(Dataplane, Result<T, Error>), Error> {
    let task = tokio::task::spawn_blocking(move || {
        let outcome = work(&mut dataplane);
        (dataplane, outcome)
    });
    task.await.map_err(|error| Error::Invalid(format!("the service proxy's worker failed: {error}")))
}

/// False when cancelled meanwhile.
async fn sleep(pause: Duration, cancel: &CancellationToken) -> bool {
    tokio::select! {
        () = cancel.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

fn notify_on_change<T: amphipod_client::Resource>(informer: &Informer<T>, changed: &Arc<Notify>) {
    let changed = changed.clone();
    informer.on_change(move |_| changed.notify_one());
}

fn zone_of(node: &ApiNode) -> Option<String> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned()
}
