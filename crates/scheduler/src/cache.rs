//! The scheduler's view of the cluster: nodes with what runs on them, kept current by difference.
//! A pod just decided is assumed on its node at once, so that the next decision counts it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::{Namespace, Node, Taint};

use crate::pod::PodState;
use crate::resources::{PODS, Resources};
use crate::selectors::Labels;

/// A node and the pods that count on it.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    pub name: String,
    /// Absent while only pods of the node are known.
    pub node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub requested: Resources,
    pub scored: Resources,
    pub pods: BTreeMap<String, Arc<PodState>>,
    /// How many pods have which priority: most nodes have none below a given one.
    priorities: BTreeMap<i32, usize>,
}

impl NodeState {
    pub fn labels(&self) -> Option<&Labels> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }
    pub fn taints(&self) -> &[Taint] {
        let spec = self.node.as_ref().and_then(|n| n.spec.as_ref());
        spec.and_then(|s| s.taints.as_deref()).unwrap_or_default()
    }
    pub fn is_unschedulable(&self) -> bool {
        let spec = self.node.as_ref().and_then(|n| n.spec.as_ref());
        spec.and_then(|s| s.unschedulable).unwrap_or(false)
    }
    pub fn pod_slots(&self) -> i64 {
        self.allocatable.get(PODS)
    }
    /// The pods that matter less than `priority`.
    pub fn pods_below(&self, priority: i32) -> Vec<Arc<PodState>> {
        if self.priorities.first_key_value().is_none_or(|(lowest, _)| *lowest >= priority) {
            return Vec::new();
        }
        self.pods.values().filter(|pod| pod.priority() < priority).cloned().collect()
    }
    /// This node as it would be without some of its pods.
    pub fn without(&self, pods: &[Arc<PodState>]) -> NodeState {
        let mut node = self.clone();
        for pod in pods {
            node.remove(&pod.key);
        }
        node
    }
    fn add(&mut self, pod: Arc<PodState>) {
        *self.priorities.entry(pod.priority()).or_insert(0) += 1;
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.pods.insert(pod.key.clone(), pod);
    }
    fn remove(&mut self, key: &str) {
        if let Some(pod) = self.pods.remove(key) {
            self.requested.subtract(&pod.requests);
            self.scored.subtract(&pod.scored);
            if let Some(count) = self.priorities.get_mut(&pod.priority()) {
                *count -= 1;
                if *count == 0 {
                    self.priorities.remove(&pod.priority());
                }
            }
        }
    }
}

/// Everything a decision may look at.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeState>,
    /// Where each counted pod is.
    placed: HashMap<String, String>,
    namespaces: HashMap<String, Labels>,
}

impl Snapshot {
    /// Nodes that exist, in name order.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.values().filter(|state| state.node.is_some())
    }
    pub fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name).filter(|state| state.node.is_some())
    }
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }
    pub fn set_namespace(&mut self, namespace: &Namespace) {
        self.namespaces
            .insert(namespace.name().to_owned(), namespace.metadata.labels.clone().unwrap_or_default());
    }
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.name().to_owned();
        let state = self.nodes.entry(name.clone()).or_default();
        let status = node.status.as_ref();
        let amounts = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        state.allocatable = Resources::from_wire(amounts);
        state.name = name;
        state.node = Some(node);
    }
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
        }
        self.drop_if_empty(name);
    }
    /// Counts a pod on its node (or no longer, when it has none or is finished).
    pub fn set_pod(&mut self, pod: &Arc<CachedPod>) {
        let state = PodState::new(pod.clone());
        match state.node_name().map(str::to_owned).filter(|_| !state.is_finished()) {
            Some(node) => self.place(Arc::new(state), &node),
            None => self.remove_pod(&state.key),
        }
    }
    /// Counts a pod on a node before the API says so.
    pub fn place(&mut self, pod: Arc<PodState>, node: &str) {
        self.remove_pod(&pod.key.clone());
        self.placed.insert(pod.key.clone(), node.to_owned());
        let state = self.nodes.entry(node.to_owned()).or_default();
        state.name = node.to_owned();
        state.add(pod);
    }
    pub fn remove_pod(&mut self, key: &str) {
        if let Some(node) = self.placed.remove(key) {
            if let Some(state) = self.nodes.get_mut(&node) {
                state.remove(key);
            }
            self.drop_if_empty(&node);
        }
    }
    /// What a counted pod takes of its node.
    pub fn requests_of(&self, key: &str) -> Option<Resources> {
        let node = self.nodes.get(self.placed.get(key)?)?;
        node.pods.get(key).map(|pod| pod.requests.clone())
    }
    fn drop_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|s| s.node.is_none() && s.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;
    use crate::resources::CPU;
    use serde_json::json;

    #[test]
    fn placed_pods_count_until_removed() {
        let mut snapshot = Snapshot::default();
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "pods": "10"}}});
        snapshot.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        let request = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]});
        let state = Arc::new(pod("a", request));
        snapshot.place(state.clone(), "n");
        snapshot.place(state.clone(), "n");
        assert_eq!(snapshot.node("n").unwrap().requested.get(CPU), 500);
        assert_eq!(snapshot.node("n").unwrap().pods_below(1).len(), 1);
        assert!(snapshot.node("n").unwrap().pods_below(0).is_empty());
        let emptied = snapshot.node("n").unwrap().without(std::slice::from_ref(&state));
        assert_eq!((emptied.requested.get(CPU), emptied.pods_below(1).len()), (0, 0));
        snapshot.remove_node("n");
        assert!(snapshot.node("n").is_none());
        snapshot.remove_pod(&state.key);
        assert!(snapshot.requests_of(&state.key).is_none());
        assert!(snapshot.nodes.is_empty());
    }
}
