//! The nodes' own objects: registered once, leases renewed and statuses reported in turn, silent while
//! an outage lasts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, Client, Error, Informer, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::debug;
use uuid::Uuid;

use super::chance::{Chance, Draw, hashed};
use super::config::{Config, Fleet, Group, Outages, Place, node_ip};
use crate::node::lease;
use crate::node::machine::Machine;
use crate::node::status::{Observed, keep_labels, node_status};

const LEASE_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// A node's whole status is written this often, every so many leases.
const STATUS_EVERY: SignedDuration = SignedDuration::from_secs(300);
const LEASES_PER_STATUS: usize = 30;
/// Between attempts of a node whose write failed.
const RETRY: SignedDuration = SignedDuration::from_secs(1);

pub struct Nodes {
    pub config: Config,
    pub fleet: Fleet,
    machines: Vec<Machine>,
    /// May act as any node, and does for all that is written.
    client: Client,
    cache: Informer<Node>,
    queue: WorkQueue,
    pulses: Vec<Mutex<Pulse>>,
    began: Mutex<Timestamp>,
    unregistered: AtomicUsize,
    registered: Mutex<Option<oneshot::Sender<()>>>,
}

/// What is remembered of a node.
#[derive(Default)]
struct Pulse {
    lease: Option<Box<Lease>>,
    /// When its status is due; `None` until it is registered.
    status_at: Option<Timestamp>,
    /// When it falls silent, or is heard of again.
    turns_at: Option<Timestamp>,
    is_silent: bool,
    outages: u32,
}

impl Pulse {
    /// Moves through outages up to `now`; true at the moment it is heard of again.
    fn turn(&mut self, outages: &Outages, chance: Chance, now: Timestamp) -> bool {
        let Some(at) = self.turns_at else {
            self.turns_at = Some(now + signed(chance.within(outages.after, Draw::OutageAfter, self.outages)));
            return false;
        };
        if now < at {
            return false;
        }
        self.is_silent = !self.is_silent;
        let next = if self.is_silent {
            chance.within(outages.duration, Draw::OutageDuration, self.outages)
        } else {
            self.outages += 1;
            chance.within(outages.after, Draw::OutageAfter, self.outages)
        };
        self.turns_at = Some(now + signed(next));
        !self.is_silent
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// When a node's turn is, after `now`: the nodes divide the interval among them.
fn next_turn(index: usize, count: usize, began: Timestamp, now: Timestamp) -> Timestamp {
    let interval = LEASE_EVERY.as_nanos();
    let share = interval * index as i128 / count.max(1) as i128;
    let rounds = (now.duration_since(began).as_nanos() - share).div_euclid(interval) + 1;
    began + SignedDuration::from_nanos_i128(share + rounds * interval)
}

impl Nodes {
    pub fn new(
        config: Config,
        client: Client,
        cache: Informer<Node>,
        registered: oneshot::Sender<()>,
    ) -> Self {
        let fleet = config.fleet();
        Nodes {
            machines: config.groups.iter().map(Group::machine).collect(),
            pulses: fleet.nodes.iter().map(|_| Mutex::default()).collect(),
            unregistered: AtomicUsize::new(fleet.nodes.len()),
            registered: Mutex::new(Some(registered)),
            began: Mutex::new(Timestamp::UNIX_EPOCH),
            queue: WorkQueue::new(),
            config,
            fleet,
            client,
            cache,
        }
    }

    pub fn start(&self, now: Timestamp) {
        *self.began.lock() = now;
        for index in 0..self.fleet.nodes.len() {
            self.queue.add(&self.name(index));
        }
    }
    pub fn stop(&self) {
        self.queue.close();
    }
    pub fn group(&self, index: usize) -> &Group {
        &self.config.groups[self.fleet.nodes[index].group]
    }
    pub fn name(&self, index: usize) -> String {
        self.group(index).node_name(self.fleet.nodes[index].number)
    }
    /// Acting as the node: what a kubelet may do is for the API server to say.
    pub fn client_of(&self, index: usize) -> Result<Client, Error> {
        self.client.acting_as(&format!("system:node:{}", self.name(index)), &["system:nodes"])
    }
    pub fn is_silent(&self, index: usize) -> bool {
        self.pulses[index].lock().is_silent
    }

    /// Beats until stopped; `back` hears of nodes that an outage is over for.
    pub async fn work(&self, back: impl Fn(&str)) {
        while let Some(name) = self.queue.next().await {
            if let Some(index) = self.fleet.index_of(&name) {
                let due = self.step(index, &name, &back).await;
                let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
                self.queue.add_after(&name, wait);
            }
            self.queue.done(&name);
        }
    }

    /// One look at a node; when the next is due.
    async fn step(&self, index: usize, name: &str, back: impl Fn(&str)) -> Timestamp {
        let now = Timestamp::now();
        if let Some(silent_until) = self.turn(index, name, now, &back) {
            return silent_until;
        }
        let mut lease = self.pulses[index].lock().lease.take();
        let outcome = self.beat(index, name, &mut lease, now).await;
        self.pulses[index].lock().lease = lease;
        if let Err(error) = outcome {
            debug!(%error, name, "a hollow node could not be heard of");
            return now + RETRY;
        }
        self.turn(index, name, now, &back);
        let next = next_turn(index, self.fleet.nodes.len(), *self.began.lock(), now);
        self.pulses[index].lock().turns_at.map_or(next, |turn| next.min(turn))
    }

    /// Moves a registered node through its outages; until when it is silent, if it is.
    fn turn(&self, index: usize, name: &str, now: Timestamp, back: impl Fn(&str)) -> Option<Timestamp> {
        let outages = self.group(index).outages.as_ref()?;
        let mut pulse = self.pulses[index].lock();
        pulse.status_at?;
        let is_back = pulse.turn(outages, Chance::new(self.config.seed, name), now);
        if is_back {
            pulse.status_at = Some(now);
        }
        let silent_until = pulse.turns_at.filter(|_| pulse.is_silent);
        drop(pulse);
        if is_back {
            back(name);
        }
        silent_until
    }

    async fn beat(
        &self,
        index: usize,
        name: &str,
        lease: &mut Option<Box<Lease>>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let status_at = self.pulses[index].lock().status_at;
        let known = self.cache.get(name);
        if status_at.is_some() && known.is_none() {
            return Ok(()); // deleted: as with a kubelet, the node stays away
        }
        let mut uid = known.as_ref().map(|node| node.uid().to_owned());
        if status_at.is_none_or(|at| at <= now) {
            let node = self.report(index, name, known.as_deref(), now).await?;
            uid = node.metadata.uid;
        }
        let last = lease.take().map(|lease| *lease);
        let mut renewed = lease::renew(&self.client_of(index)?, name, uid.as_deref(), last).await?;
        renewed.metadata.managed_fields = None; // half of its bytes, and nothing that a write needs
        *lease = Some(Box::new(renewed));
        self.reported(index, status_at, now);
        Ok(())
    }

    fn reported(&self, index: usize, status_at: Option<Timestamp>, now: Timestamp) {
        let next = match status_at {
            Some(at) if now < at => at,
            Some(_) => now + STATUS_EVERY,
            None => {
                if self.unregistered.fetch_sub(1, Ordering::Relaxed) == 1
                    && let Some(registered) = self.registered.lock().take()
                {
                    // Whoever asked may have stopped waiting.
                    let _ = registered.send(());
                }
                // All are registered at once; from then on they take turns.
                now + LEASE_EVERY * i32::try_from(index % LEASES_PER_STATUS + 1).unwrap_or(1)
            }
        };
        self.pulses[index].lock().status_at = Some(next);
    }

    /// Registers the node, or writes its status over what is known of it.
    async fn report(
        &self,
        index: usize,
        name: &str,
        known: Option<&Node>,
        now: Timestamp,
    ) -> Result<Node, Error> {
        let api = Api::<Node>::all(self.client_of(index)?);
        let Some(known) = known else {
            let node = self.with_status(index, name, self.fresh(index, name), now);
            return match api.create(&node).await {
                Err(error) if error.is_already_exists() => {
                    let found = api.get(name).await?;
                    api.update_status(&self.with_status(index, name, found, now)).await
                }
                other => other,
            };
        };
        let mut node = known.clone();
        let is_first = self.pulses[index].lock().status_at.is_none();
        if is_first && keep_labels(&mut node, &self.group(index).labels_of(self.fleet.nodes[index].number)) {
            node = api.update(&node).await?;
        }
        match api.update_status(&self.with_status(index, name, node, now)).await {
            Err(error) if error.is_conflict() => {
                let newer = api.get(name).await?;
                api.update_status(&self.with_status(index, name, newer, now)).await
            }
            other => other,
        }
    }

    /// The object a node registers with.
    fn fresh(&self, index: usize, name: &str) -> Node {
        let Place { number, .. } = self.fleet.nodes[index];
        let group = self.group(index);
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.metadata.labels = Some(group.labels_of(number));
        node.metadata.annotations = Some(group.annotations.clone()).filter(|a| !a.is_empty());
        let taints = Some(group.taints.clone()).filter(|t| !t.is_empty());
        node.spec = Some(NodeSpec { taints, ..NodeSpec::default() });
        node
    }

    fn with_status(&self, index: usize, name: &str, mut node: Node, now: Timestamp) -> Node {
        let observed = Observed {
            addresses: vec![
                ("InternalIP".to_owned(), node_ip(index).to_string()),
                ("Hostname".to_owned(), name.to_owned()),
            ],
            ..Observed::default()
        };
        let old = node.status.take().unwrap_or_default();
        let mut status = node_status(&old, &self.machines[self.fleet.nodes[index].group], &observed, now);
        if let Some(info) = &mut status.node_info {
            info.machine_id = identity(name, "machine").simple().to_string();
            info.system_uuid = identity(name, "system").to_string();
            info.boot_id = identity(name, "boot").to_string();
        }
        node.status = Some(status);
        node
    }
}

/// Each node has ids of its own, the same in every run.
fn identity(name: &str, what: &str) -> Uuid {
    Uuid::from_u64_pair(hashed((name, what, 0)), hashed((name, what, 1)))
}

#[cfg(test)]
mod tests {
    use amphipod_client::SharedInformers;
    use bytes::Bytes;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::hollow::chance::Span;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[tokio::test]
    async fn what_a_node_writes_it_writes_as_itself() {
        let (told, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let client = Client::local(tower::service_fn(move |request: http::Request<_>| {
            let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
            let who = (header("impersonate-user"), header("impersonate-group"));
            told.send((format!("{} {}", request.method(), request.uri().path()), who)).unwrap();
            let answer = http::Response::builder().status(404).body(http_body_util::Empty::<Bytes>::new());
            async { Ok::<_, std::convert::Infallible>(answer.unwrap()) }
        }));
        let config = crate::hollow::parse("nodes: [{count: 2}]", 0, "10.0.0.0/8".parse().unwrap()).unwrap();
        let informers = SharedInformers::new(crate::testing::unknowing_api(), CancellationToken::new());
        let nodes = Nodes::new(config, client, informers.get(), oneshot::channel().0);
        nodes.report(1, "hollow-1", None, at(0)).await.unwrap_err();
        lease::renew(&nodes.client_of(1).unwrap(), "hollow-1", None, Some(Lease::default()))
            .await
            .unwrap_err();
        let who = || ("system:node:hollow-1".to_owned(), "system:nodes".to_owned());
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        for what in ["POST /api/v1/nodes", &format!("POST {leases}")] {
            assert_eq!(asked.try_recv().unwrap(), (what.to_owned(), who()));
        }
    }

    #[test]
    fn nodes_divide_the_interval() {
        let seconds = |index, now| next_turn(index, 5, at(0), at(now)).as_second() - at(0).as_second();
        for (index, now, expected) in
            [(0, 0, 10), (1, 0, 2), (4, 0, 8), (4, 7, 8), (4, 8, 18), (0, 10, 20), (3, 100, 106), (3, -3, 6)]
        {
            assert_eq!(seconds(index, now), expected, "node {index} at {now}");
        }
    }

    #[test]
    fn outages_begin_and_end() {
        let span = |seconds| Span::fixed(Duration::from_secs(seconds));
        let outages = Outages { after: span(100), duration: span(30) };
        let mut pulse = Pulse::default();
        let mut told = Vec::new();
        for now in 0..300 {
            let before = pulse.is_silent;
            let back = pulse.turn(&outages, Chance::new(0, "n"), at(now));
            if before != pulse.is_silent {
                told.push((now, pulse.is_silent, back));
            }
        }
        assert_eq!(told, [(100, true, false), (130, false, true), (230, true, false), (260, false, true)]);
    }

    #[test]
    fn ids_are_each_nodes_own() {
        assert_eq!(identity("a", "boot"), identity("a", "boot"));
        assert_ne!(identity("a", "boot"), identity("b", "boot"));
        assert_ne!(identity("a", "boot"), identity("a", "system"));
    }
}
