//! A bystander who follows every event and keeps the books: who was bound how often, and what each node
//! was given. What it finds wrong stays written down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use amphipod_api::quantity::Quantity;
use amphipod_client::{Change, Informer, ListParams, Resource, SharedInformers};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::{Cluster, eventually};

#[derive(Default)]
struct Account {
    /// How often each pod was bound, by uid.
    bound: BTreeMap<String, usize>,
    /// Where each pod is, and the millicores it asks for.
    placed: BTreeMap<String, (String, i64)>,
    wrong: Vec<String>,
}

#[derive(Clone)]
pub struct Books {
    account: Arc<Mutex<Account>>,
    nodes: Informer<Node>,
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn millicores(pod: &Pod) -> i64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let asked = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref()?.get("cpu"));
    asked.map(|cpu| Quantity::parse(&cpu.0).unwrap().milli()).sum()
}

fn allocatable(node: &Node) -> i64 {
    let cpu = &node.status.as_ref().unwrap().allocatable.as_ref().unwrap()["cpu"];
    Quantity::parse(&cpu.0).unwrap().milli()
}

impl Books {
    /// Opened when the nodes are there.
    pub async fn open(cluster: &Cluster) -> Self {
        let informers = SharedInformers::new(cluster.client.clone(), cluster.cancel.clone());
        let books = Books { account: Arc::default(), nodes: informers.get() };
        books.nodes.synced().await;
        let writer = books.clone();
        informers.get::<Pod>().on_change(move |change| writer.enter(change));
        books
    }
    fn enter(&self, change: &Change<Pod>) {
        let mut account = self.account.lock().unwrap();
        let (pod, uid) = (change.object(), change.object().uid().to_owned());
        match change {
            Change::Deleted(_) => {
                account.placed.remove(&uid);
            }
            Change::Updated { old, new } if node_of(old) == node_of(new) => {}
            _ => {
                if let Some(node) = node_of(pod) {
                    *account.bound.entry(uid.clone()).or_default() += 1;
                    account.placed.insert(uid, (node.to_owned(), millicores(pod)));
                    let room = allocatable(&self.nodes.get(node).unwrap());
                    account.check(node, room);
                } else if let Change::Updated { .. } = change {
                    account.wrong.push(format!("{} lost its node", pod.name()));
                }
            }
        }
    }
    pub fn bound(&self) -> usize {
        self.account.lock().unwrap().bound.len()
    }
    pub fn placed(&self) -> usize {
        self.account.lock().unwrap().placed.len()
    }
    /// Closes the books: they agree with what the API shows, and nothing was ever wrong. Then every node
    /// is gone over once more.
    pub async fn close(&self, cluster: &Cluster) {
        let (_, nodes) = cluster.api::<Node>("").list(&ListParams::default()).await.unwrap();
        let agree = || async {
            let (_, pods) = cluster.api::<Pod>("ns").list(&ListParams::default()).await.unwrap();
            let there = pods.iter().filter_map(|pod| Some((pod.uid().to_owned(), node_of(pod)?.to_owned())));
            let account = self.account.lock().unwrap();
            let known = account.placed.iter().map(|(uid, (node, _))| (uid.clone(), node.clone()));
            (there.collect::<BTreeSet<_>>() == known.collect()).then_some(())
        };
        eventually("the books agree with the API", agree).await;
        let mut account = self.account.lock().unwrap();
        for node in &nodes {
            account.check(node.name(), allocatable(node));
        }
        let again = account.bound.iter().filter(|(_, times)| **times != 1);
        let again: Vec<_> = again.map(|(uid, times)| format!("{uid} was bound {times} times")).collect();
        account.wrong.extend(again);
        assert_eq!(account.wrong, [] as [String; 0]);
    }
}

impl Account {
    fn check(&mut self, node: &str, room: i64) {
        let here = self.placed.values().filter(|(on, _)| on == node);
        let sum: i64 = here.map(|(_, millicores)| millicores).sum();
        if sum > room {
            self.wrong.push(format!("{sum}m of {room}m on {node}"));
        }
    }
}
