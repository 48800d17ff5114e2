//! Pods of hollow nodes: which are there, what is imagined of them, and the writes their plans ask for.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::events::reference;
use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{
    Api, CachedPod, Change, DeleteParams, Error, EventRecorder, Informer, Patch, Resource,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use serde_json::json;
use tracing::debug;

use super::addresses::Addresses;
use super::chance::Chance;
use super::config::node_ip;
use super::imagined::{Life, Probes, readiness_probes, with_probes};
use super::life::{Plan, Told, View, plan};
use super::nodes::Nodes;
use crate::pod::status::is_terminal;
use crate::worker::post::status_patch;

const BY_NODE: &str = "node";

pub struct Pods {
    nodes: Arc<Nodes>,
    cache: Informer<CachedPod>,
    queue: WorkQueue,
    /// Of pods that something is to come for, by key.
    lives: Mutex<HashMap<String, Life>>,
    addresses: Mutex<Addresses>,
    /// Where events are wanted.
    recorder: Option<EventRecorder>,
}

/// Has every change of a pod looked at.
pub fn follow(pods: &Arc<Pods>) {
    let own = pods.clone();
    pods.cache.on_change(move |change| {
        let pod = change.object();
        if own.node_of(pod).is_none() {
            return;
        }
        if let Some(ip) = pod_ip(pod) {
            let mut addresses = own.addresses.lock();
            match change {
                Change::Deleted(_) => addresses.release(ip, pod.uid()),
                // Also news of what was written for a life that was forgotten meanwhile.
                _ => addresses.keep(ip, pod.uid()),
            }
        }
        own.queue.add(&pod.key());
    });
}

fn node_name(pod: &CachedPod) -> &str {
    pod.node_name.as_deref().unwrap_or("")
}

fn has_own_address(pod: &CachedPod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true))
}

/// The address a pod holds of its own.
fn pod_ip(pod: &CachedPod) -> Option<Ipv4Addr> {
    pod.own.pod_ip.as_ref()?.parse().ok().filter(|_| has_own_address(pod))
}

impl Pods {
    pub fn new(nodes: Arc<Nodes>, cache: Informer<CachedPod>, recorder: Option<EventRecorder>) -> Self {
        if nodes.config.groups.iter().any(|group| group.outages.is_some()) {
            cache.add_index(BY_NODE, |pod| vec![node_name(pod).to_owned()]);
        }
        let addresses = Mutex::new(Addresses::new(nodes.config.pod_cidr));
        let lives = Mutex::default();
        Pods { nodes, cache, queue: WorkQueue::new(), lives, addresses, recorder }
    }

    pub fn stop(&self) {
        self.queue.close();
    }

    /// The node is heard of again: so are its pods.
    pub fn look_again(&self, node: &str) {
        for pod in self.cache.by_index(BY_NODE, node) {
            self.queue.add(&pod.key());
        }
    }

    fn node_of(&self, pod: &CachedPod) -> Option<usize> {
        self.nodes.fleet.index_of(node_name(pod))
    }

    pub async fn work(self: Arc<Self>) {
        while let Some(key) = self.queue.next().await {
            match self.step(&key).await {
                Ok(due) => {
                    self.queue.forget(&key);
                    if let Some(due) = due {
                        let wait = Duration::try_from(due.duration_since(Timestamp::now()));
                        self.queue.add_after(&key, wait.unwrap_or_default());
                    }
                }
                Err(error) => {
                    debug!(%error, key, "a hollow pod");
                    self.queue.add_rate_limited(&key);
                }
            }
            self.queue.done(&key);
        }
    }

    /// Brings one pod a step further; when to come back, if ever.
    async fn step(&self, key: &str) -> Result<Option<Timestamp>, Error> {
        let pod = self.cache.get(key);
        let probes = match pod.as_deref() {
            Some(pod) => self.probes(key, pod).await?,
            None => Probes::new(),
        };
        match self.advance(key, pod.as_deref(), probes) {
            Some((pod, index, plan)) => self.carry_out(&pod, index, plan).await,
            None => Ok(None),
        }
    }

    /// The readiness probes of a pod that nothing is imagined of yet, where they matter: caches leave
    /// them out.
    async fn probes(&self, key: &str, pod: &CachedPod) -> Result<Probes, Error> {
        let is_over = pod.status.as_deref().is_some_and(is_terminal);
        let Some(index) = self.node_of(pod).filter(|_| !is_over) else { return Ok(Probes::new()) };
        let is_known = || self.lives.lock().get(key).is_some_and(|life| life.uid == pod.uid());
        if self.nodes.group(index).behaviour.readiness.is_none() || is_known() {
            return Ok(Probes::new());
        }
        let api = Api::<Pod>::namespaced(self.nodes.client_of(index)?, pod.namespace());
        let whole = api.get_opt(pod.name()).await?.filter(|whole| whole.uid() == pod.uid());
        Ok(whole.as_ref().map(readiness_probes).unwrap_or_default())
    }

    /// What is to be written of a pod of the node with this index, if anything can be. `probes`: of a
    /// pod that nothing is imagined of yet.
    fn advance(&self, key: &str, pod: Option<&CachedPod>, probes: Probes) -> Option<(Pod, usize, Plan)> {
        // The queue has each key worked on by one worker at a time.
        let mut life = self.lives.lock().remove(key);
        self.forget(life.take_if(|life| pod.is_none_or(|pod| pod.uid() != life.uid)), pod);
        let pod = pod?;
        let index = self.node_of(pod)?;
        let is_over = pod.status.as_deref().is_some_and(is_terminal);
        if is_over && pod.metadata.deletion_timestamp.is_none() {
            self.forget(life, Some(pod));
            return None;
        }
        let now = Timestamp::now();
        let probes = life.as_ref().map_or(&probes, |life| &life.probes).clone();
        let whole = with_probes(pod.to_pod(), &probes);
        let mut life = life.unwrap_or_else(|| {
            let life = Life::of(&whole, self.address(pod, is_over), now);
            Life { probes, ..life }
        });
        if self.nodes.is_silent(index) {
            self.lives.lock().insert(key.to_owned(), life);
            return None;
        }
        let view = View {
            pod: &whole,
            behaviour: &self.nodes.group(index).behaviour,
            chance: Chance::new(self.nodes.config.seed, key),
            host_ip: &node_ip(index).to_string(),
            tell: self.recorder.is_some(),
            now,
        };
        let plan = plan(&view, &mut life);
        if plan.is_settled() && !life.is_let_go {
            self.forget(Some(life), Some(pod));
        } else {
            self.lives.lock().insert(key.to_owned(), life);
        }
        Some((whole, index, plan))
    }

    /// Every life that is not kept ends here. An address that the pod's status tells is held until the pod
    /// is gone; any other is free again.
    fn forget(&self, life: Option<Life>, pod: Option<&CachedPod>) {
        let Some(Life { uid, ip: Some(ip), .. }) = life else { return };
        if !pod.is_some_and(|pod| pod.uid() == uid && pod_ip(pod) == Some(ip)) {
            self.addresses.lock().release(ip, &uid);
        }
    }

    fn address(&self, pod: &CachedPod, is_over: bool) -> Option<Ipv4Addr> {
        let needed = has_own_address(pod) && !is_over;
        pod_ip(pod).or_else(|| needed.then(|| self.addresses.lock().take(pod.uid())))
    }

    async fn carry_out(&self, pod: &Pod, index: usize, plan: Plan) -> Result<Option<Timestamp>, Error> {
        self.tell(pod, index, plan.told);
        if let Some(status) = &plan.status {
            self.write(pod, index, status).await?;
        }
        if plan.delete {
            self.delete(pod, index).await?;
            if let Some(life) = self.lives.lock().get_mut(&pod.key()) {
                life.is_let_go = true;
            }
        }
        Ok(plan.due)
    }

    fn tell(&self, pod: &Pod, index: usize, told: Vec<Told>) {
        let Some(recorder) = self.recorder.as_ref().filter(|_| !told.is_empty()) else { return };
        let recorder = recorder.with_host(&self.nodes.name(index));
        for Told { field_path, notice } in told {
            let about = k8s_openapi::api::core::v1::ObjectReference { field_path, ..reference(pod) };
            recorder.record(about, notice.kind, &notice.reason, notice.message);
        }
    }

    async fn write(&self, pod: &Pod, index: usize, status: &PodStatus) -> Result<(), Error> {
        let api = Api::<Pod>::of(self.nodes.client_of(index)?, pod);
        // Nothing that a hollow pod once said goes away, so no field has to be cleared.
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status_patch(status, None)});
        match api.send_status(pod.name(), &Patch::Strategic(patch)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete(&self, pod: &Pod, index: usize) -> Result<(), Error> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            uid: Some(pod.uid().to_owned()),
            ..DeleteParams::default()
        };
        let api = Api::<Pod>::of(self.nodes.client_of(index)?, pod);
        match api.delete(pod.name(), &params).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use amphipod_client::SharedInformers;
    use serde_json::Value;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::hollow::parse;
    use crate::testing::unknowing_api;

    /// Of one node whose pods start after an hour.
    fn pods() -> Pods {
        let config = "nodes: [{count: 1, latencies: {start: 1h}}]";
        let config = parse(config, 0, "10.244.0.0/24".parse().unwrap()).unwrap();
        let client = unknowing_api();
        let informers = SharedInformers::new(client.clone(), CancellationToken::new());
        let (registered, _) = tokio::sync::oneshot::channel();
        let nodes = Arc::new(Nodes::new(config, client, informers.get(), registered));
        Pods::new(nodes, informers.get(), None)
    }

    fn pod(metadata: Value, status: &Value) -> CachedPod {
        let mut whole = json!({"name": "p", "namespace": "ns", "uid": "u"});
        whole.as_object_mut().unwrap().extend(metadata.as_object().cloned().unwrap());
        let spec = json!({"nodeName": "hollow-0", "containers": [{"name": "a", "image": "x"}]});
        let pod = json!({"metadata": whole, "spec": spec, "status": status});
        CachedPod::decode(pod.to_string().as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn an_address_is_held_by_a_life_or_a_status() {
        let first = Ipv4Addr::new(10, 244, 0, 2);
        let ended = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        let failed = json!({"phase": "Failed"});
        let told = json!({"phase": "Failed", "podIP": first.to_string()});
        for (what, next, is_held) in [
            ("it waits", Some(pod(json!({}), &Value::Null)), true),
            ("it failed before it was told", Some(pod(json!({}), &failed)), false),
            ("it failed", Some(pod(json!({}), &told)), true),
            ("it failed and ends", Some(pod(ended.clone(), &failed)), false),
            ("it failed and ends, told", Some(pod(ended, &told)), true),
            ("it is gone", None, false),
            ("it is another", Some(pod(json!({"uid": "v"}), &Value::Null)), false),
        ] {
            let pods = pods();
            assert!(pods.advance("ns/p", Some(&pod(json!({}), &Value::Null)), Probes::new()).is_some());
            assert!(pods.addresses.lock().is_held_by(first, "u"));
            pods.advance("ns/p", next.as_ref(), Probes::new());
            assert_eq!(pods.addresses.lock().is_held_by(first, "u"), is_held, "{what}");
        }
    }
}
