//! Nodes without containers: thousands of them in one process, each with an honest Lease and
//! status, whose pods become Running and Ready, run to completion, or end, in the order and with
//! the writes a real kubelet would make. For tests of everything that is not the node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::quantity::Quantity;
use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{
    Api, CachedPod, Change, Client, DeleteParams, Error, Informer, Patch, Resource, SharedInformers,
};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeSystemInfo, Pod, PodStatus};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::node::lease;
use crate::node::machine::{KUBELET_VERSION, Machine, architecture};
use crate::node::status::{Observed, default_labels, node_status};
use crate::pod::resources::Amounts;
use crate::worker::post::status_patch;

mod status;

/// Writes under way at once, over all nodes.
const WORKERS: usize = 64;
/// Heartbeats under way at once. Few when all is well; when the API is slow, they must not wait for
/// one another until their nodes are given up.
const BEATS: usize = 64;
const LEASE_EVERY: Duration = Duration::from_secs(10);
/// A node's whole status is written this often.
const STATUS_EVERY: Duration = Duration::from_secs(300);
/// Pods told apart by their last address byte are the smallest useful block of addresses.
const FIRST_POD_IP: u32 = 2;
/// Runs a pod to completion after this many milliseconds instead of keeping it running.
pub const COMPLETE_AFTER: &str = "hollow.amphipod.io/complete-after-ms";

#[derive(Clone, Debug)]
pub struct Config {
    pub count: u32,
    /// Nodes are called `<prefix><number>`.
    pub name_prefix: String,
    /// Resource names and amounts of each node.
    pub capacity: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// From assigned to Running and Ready.
    pub start_latency: Duration,
    /// From deletion (or the end of the grace period, if sooner) to gone.
    pub stop_latency: Duration,
    /// Where pod addresses come from.
    pub pod_cidr: IpNet,
}

const NAME_PREFIX: &str = "hollow-";

/// The name of a node under the default prefix.
pub fn node_name(index: u32) -> String {
    format!("{NAME_PREFIX}{index}")
}

impl Config {
    pub fn new(count: u32, pod_cidr: IpNet) -> Self {
        let capacity = [("cpu", "32"), ("memory", "256Gi"), ("ephemeral-storage", "100Gi"), ("pods", "110")];
        Config {
            count,
            name_prefix: NAME_PREFIX.to_owned(),
            capacity: capacity.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            labels: BTreeMap::new(),
            start_latency: Duration::from_millis(20),
            stop_latency: Duration::from_millis(20),
            pod_cidr,
        }
    }

    fn node_name(&self, index: u32) -> String {
        format!("{}{index}", self.name_prefix)
    }
}

/// Addresses handed out in turn, each to one pod at a time while there are enough.
struct Addresses {
    base: u32,
    size: u32,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    next: u32,
    by_uid: HashMap<String, u32>,
    taken: HashSet<u32>,
}

impl Addresses {
    fn new(range: IpNet) -> Self {
        // Services of hollow pods need no real addresses: an IPv6 range maps to a test range.
        let (base, prefix) = match range {
            IpNet::V4(net) => (net.network(), net.prefix_len()),
            IpNet::V6(_) => (Ipv4Addr::new(10, 128, 0, 0), 9),
        };
        let size = 1_u32.checked_shl(32 - u32::from(prefix.min(30))).unwrap_or(u32::MAX);
        Addresses {
            base: base.into(),
            size,
            used: Mutex::new(Used { next: FIRST_POD_IP, ..Used::default() }),
        }
    }
    fn of(&self, uid: &str) -> Ipv4Addr {
        let mut used = self.used.lock();
        if let Some(offset) = used.by_uid.get(uid) {
            return Ipv4Addr::from(self.base.wrapping_add(*offset));
        }
        let mut offset = used.next % self.size;
        while used.taken.len() < self.size as usize && used.taken.contains(&offset) {
            offset = (offset + 1) % self.size;
        }
        used.next = (offset + 1) % self.size;
        used.taken.insert(offset);
        used.by_uid.insert(uid.to_owned(), offset);
        Ipv4Addr::from(self.base.wrapping_add(offset))
    }
    fn release(&self, uid: &str) {
        let mut used = self.used.lock();
        if let Some(offset) = used.by_uid.remove(uid) {
            used.taken.remove(&offset);
        }
    }
}

struct Shared {
    config: Config,
    client: Client,
    machine: Machine,
    addresses: Addresses,
    pods: Informer<CachedPod>,
    queue: WorkQueue,
    began: Instant,
    beating: Semaphore,
    /// When a pod was first seen here, by uid.
    seen: Mutex<HashMap<String, Timestamp>>,
}

/// Runs the nodes until cancelled. Their objects stay in the API.
pub async fn run(
    config: Config,
    client: Client,
    informers: SharedInformers,
    cancel: CancellationToken,
) -> Result<(), crate::Error> {
    let shared = Arc::new(Shared {
        machine: machine(&config),
        addresses: Addresses::new(config.pod_cidr),
        pods: informers.get::<CachedPod>(),
        queue: WorkQueue::new(),
        began: Instant::now(),
        beating: Semaphore::new(BEATS),
        seen: Mutex::default(),
        client,
        config,
    });
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..shared.config.count {
        let (shared, cancel) = (shared.clone(), cancel.clone());
        tasks.spawn(async move {
            cancel.run_until_cancelled(heartbeats(shared, index)).await;
        });
    }
    follow_pods(&shared);
    for _ in 0..WORKERS {
        tasks.spawn(work(shared.clone()));
    }
    cancel.cancelled().await;
    shared.queue.close();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn machine(config: &Config) -> Machine {
    let capacity: Amounts =
        config.capacity.iter().filter_map(|(k, v)| Some((k.clone(), Quantity::parse(v).ok()?))).collect();
    let info = NodeSystemInfo {
        architecture: architecture().to_owned(),
        container_runtime_version: "hollow://1".to_owned(),
        kernel_version: "0".to_owned(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        operating_system: "linux".to_owned(),
        os_image: "Amphipod hollow node".to_owned(),
        ..NodeSystemInfo::default()
    };
    let memory_bytes = capacity.get("memory").map_or(0, |q| q.units());
    Machine { memory_bytes, allocatable: capacity.clone(), capacity, info }
}

/// One node's life in the API: registers it, then renews its lease and reports its status. Nodes
/// take turns over the interval, and none waits for another's answer.
async fn heartbeats(shared: Arc<Shared>, index: u32) {
    let mut known = Known::default();
    beat(&shared, index, &mut known, true).await;
    let turn = LEASE_EVERY.mul_f64(f64::from(index) / f64::from(shared.config.count.max(1)));
    let mut due = tokio::time::interval_at(shared.began + LEASE_EVERY + turn, LEASE_EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let rounds_per_status = STATUS_EVERY.as_secs() / LEASE_EVERY.as_secs();
    let mut round = u64::from(index);
    loop {
        due.tick().await;
        round += 1;
        beat(&shared, index, &mut known, round % rounds_per_status == 0).await;
    }
}

async fn beat(shared: &Shared, index: u32, known: &mut Known, with_status: bool) {
    // Nobody closes it.
    let _turn = shared.beating.acquire().await;
    let with_status = with_status || known.uid.is_none();
    heartbeat(shared, index, known, with_status).await;
}

/// What was last heard of a node.
#[derive(Default)]
struct Known {
    lease: Option<Lease>,
    uid: Option<String>,
}

async fn heartbeat(shared: &Shared, index: u32, known: &mut Known, with_status: bool) {
    if with_status {
        match report(shared, index).await {
            Ok(node) => known.uid = node.metadata.uid,
            Err(error) => debug!(%error, index, "a hollow node could not be reported"),
        }
    }
    let name = shared.config.node_name(index);
    match lease::renew(&shared.client, &name, known.uid.as_deref(), known.lease.take()).await {
        Ok(lease) => known.lease = Some(lease),
        Err(error) => debug!(%error, name, "a hollow node's lease"),
    }
}

/// From the range kept for benchmarks (RFC 2544): no machine has these addresses, so nothing that
/// is meant for a simulated node ever reaches a real one.
fn node_ip(index: u32) -> String {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + index % (1 << 17)).to_string()
}

async fn report(shared: &Shared, index: u32) -> Result<Node, Error> {
    let api = Api::<Node>::all(shared.client.clone());
    let name = shared.config.node_name(index);
    let observed = Observed {
        addresses: vec![("InternalIP".to_owned(), node_ip(index)), ("Hostname".to_owned(), name.clone())],
        ..Observed::default()
    };
    let found = api.get_opt(&name).await?;
    let mut node = found.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    node.status = Some(node_status(&status, &shared.machine, &observed, Timestamp::now()));
    if found.is_some() {
        return api.update_status(&node).await;
    }
    let mut labels = default_labels(&name);
    labels.extend(shared.config.labels.clone());
    node.metadata.labels = Some(labels);
    node.metadata.name = Some(name);
    api.create(&node).await
}

/// The number in a hollow node's name, if it is one of ours.
fn index_of(config: &Config, node: &str) -> Option<u32> {
    node.strip_prefix(&config.name_prefix)?.parse().ok().filter(|index| *index < config.count)
}

fn follow_pods(shared: &Arc<Shared>) {
    let own = shared.clone();
    shared.pods.on_change(move |change| {
        let pod = change.object();
        let node = pod.node_name.as_deref().unwrap_or("");
        if index_of(&own.config, node).is_none() {
            return;
        }
        if matches!(change, Change::Deleted(_)) {
            own.addresses.release(pod.uid());
            own.seen.lock().remove(pod.uid());
        } else {
            own.queue.add(&pod.key());
        }
    });
}

async fn work(shared: Arc<Shared>) {
    while let Some(key) = shared.queue.next().await {
        match step(&shared, &key).await {
            Ok(Some(again)) => {
                shared.queue.forget(&key);
                shared.queue.add_after(&key, again);
            }
            Ok(None) => shared.queue.forget(&key),
            Err(error) => {
                debug!(%error, key, "a hollow pod");
                shared.queue.add_rate_limited(&key);
            }
        }
        shared.queue.done(&key);
    }
}

/// Brings one pod a step further; the time to come back, if any.
async fn step(shared: &Shared, key: &str) -> Result<Option<Duration>, Error> {
    let Some(pod) = shared.pods.get(key) else { return Ok(None) };
    let node = pod.node_name.as_deref().unwrap_or("");
    let Some(index) = index_of(&shared.config, node) else { return Ok(None) };
    let pod = pod.to_pod();
    let now = Timestamp::now();
    let seen = *shared.seen.lock().entry(pod.uid().to_owned()).or_insert(now);
    let timing =
        status::Timing { start: shared.config.start_latency, stop: shared.config.stop_latency, seen, now };
    match status::next(&pod, &timing) {
        status::Step::Wait(delay) => return Ok(Some(delay)),
        status::Step::Rest => return Ok(None),
        status::Step::Delete => {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                uid: Some(pod.uid().to_owned()),
                ..DeleteParams::default()
            };
            let api = Api::<Pod>::of(shared.client.clone(), &pod);
            match api.delete(pod.name(), &params).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        status::Step::Write(run) => {
            let ip = shared.addresses.of(pod.uid()).to_string();
            let new = status::status(&pod, run, &ip, &node_ip(index), now);
            write(shared, &pod, &new).await?;
        }
    }
    Ok(None)
}

async fn write(shared: &Shared, pod: &Pod, new: &PodStatus) -> Result<(), Error> {
    let api = Api::<Pod>::of(shared.client.clone(), pod);
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status_patch(new, None)}));
    match api.patch_status(pod.name(), &patch).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_with_their_pods() {
        let addresses = Addresses::new("10.128.0.0/30".parse().unwrap());
        assert_eq!(addresses.of("a"), Ipv4Addr::new(10, 128, 0, 2));
        assert_eq!(addresses.of("b"), Ipv4Addr::new(10, 128, 0, 3));
        assert_eq!(addresses.of("a"), Ipv4Addr::new(10, 128, 0, 2));
        addresses.release("a");
        assert_eq!(addresses.of("c"), Ipv4Addr::new(10, 128, 0, 0));
        assert_eq!(addresses.of("d"), Ipv4Addr::new(10, 128, 0, 1));
        assert_eq!(addresses.of("a"), Ipv4Addr::new(10, 128, 0, 2));
    }

    #[test]
    fn only_own_nodes() {
        let config = Config::new(10, "10.244.0.0/16".parse().unwrap());
        let cases = [("hollow-9", Some(9)), ("hollow-10", None), ("other-1", None), ("hollow-x", None)];
        for (name, expected) in cases {
            assert_eq!(index_of(&config, name), expected);
        }
    }
}
