//! A node and what it is filled with.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::amounts::{Amounts, PODS};
use crate::labels::Labels;
use crate::pod::{Catalogue, Disk, HostPort, PodInfo, Taint, effect};
use crate::storage::Attachment;
use crate::symbols::Symbol;

/// The index of a node in the snapshot; given to another node when the first is gone.
pub type Slot = u32;

/// What is said of the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub labels: Labels,
    pub taints: Box<[Taint]>,
    pub unschedulable: bool,
    pub allocatable: Amounts,
    pub pod_slots: i64,
    /// With their sizes in bytes.
    pub images: Box<[(Symbol, i64)]>,
}

impl Shape {
    pub fn parse(catalogue: &mut Catalogue, node: &Node) -> Self {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        let amounts = catalogue.resources.from_wire(allocatable).rounded();
        let slots = allocatable.and_then(|a| amphipod_api::quantity::Quantity::parse(&a.get(PODS)?.0).ok());
        let symbols = &mut catalogue.symbols;
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let taints = taints.iter().map(|taint| Taint {
            key: symbols.intern(&taint.key),
            value: symbols.intern(taint.value.as_deref().unwrap_or("")),
            effect: effect(&taint.effect),
        });
        let taints = taints.collect();
        let mut images = Vec::new();
        for image in node.status.iter().flat_map(|s| s.images.iter().flatten()) {
            let size = image.size_bytes.unwrap_or(0);
            images.extend(image.names.iter().flatten().map(|name| (symbols.intern(name), size)));
        }
        images.sort_unstable();
        images.dedup_by_key(|(name, _)| *name);
        Shape {
            labels: Labels::parse(symbols, node.metadata.labels.as_ref()),
            taints,
            unschedulable: node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: amounts,
            pod_slots: slots.map_or(0, |quantity| quantity.units()),
            images: images.into(),
        }
    }
}

/// What pods take of a node. Small, so that a trial without some of them is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    pub pods: i64,
    pub requested: Amounts,
    /// CPU and memory as scores count them.
    pub nonzero: [i64; 2],
    /// With how many pods have each.
    pub ports: Vec<(HostPort, u32)>,
    /// Likewise.
    pub mounts: Vec<(Mount, u32)>,
}

/// What pods mount that matters to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// `namespace/name`
    Claim(Symbol),
    Disk(Disk),
    /// A disk the pod names itself that a driver attaches.
    Inline(Attachment),
}

impl Fill {
    pub fn add(&mut self, pod: &PodInfo) {
        let spec = &pod.template.spec;
        self.pods += 1;
        self.requested.add(&spec.requests);
        self.nonzero = [0, 1].map(|i| self.nonzero[i].wrapping_add(spec.nonzero[i]));
        spec.ports.iter().for_each(|port| count(&mut self.ports, port));
        mounts(pod).for_each(|mount| count(&mut self.mounts, &mount));
    }
    pub fn remove(&mut self, pod: &PodInfo) {
        let spec = &pod.template.spec;
        self.pods -= 1;
        self.requested.subtract(&spec.requests);
        self.nonzero = [0, 1].map(|i| self.nonzero[i].wrapping_sub(spec.nonzero[i]));
        spec.ports.iter().for_each(|port| uncount(&mut self.ports, port));
        mounts(pod).for_each(|mount| uncount(&mut self.mounts, &mount));
    }
    /// How many pods mount a claim.
    pub fn users(&self, claim: Symbol) -> usize {
        let mount = self.mounts.iter().find(|(mount, _)| *mount == Mount::Claim(claim));
        mount.map_or(0, |(_, users)| *users as usize)
    }
}

fn mounts(pod: &PodInfo) -> impl Iterator<Item = Mount> + '_ {
    pod.volumes.iter().flat_map(|volumes| {
        let claims = volumes.claims.iter().map(|claim| Mount::Claim(claim.key));
        let disks = volumes.disks.iter().cloned().map(Mount::Disk);
        claims.chain(disks).chain(volumes.inline.iter().copied().map(Mount::Inline))
    })
}

fn count<T: Clone + PartialEq>(counts: &mut Vec<(T, u32)>, thing: &T) {
    match counts.iter_mut().find(|(known, _)| known == thing) {
        Some((_, users)) => *users += 1,
        None => counts.push((thing.clone(), 1)),
    }
}

fn uncount<T: PartialEq>(counts: &mut Vec<(T, u32)>, thing: &T) {
    if let Some(index) = counts.iter().position(|(known, _)| known == thing) {
        counts[index].1 -= 1;
        if counts[index].1 == 0 {
            counts.swap_remove(index);
        }
    }
}

#[derive(Debug, Default)]
pub struct NodeInfo {
    pub name: Symbol,
    /// `None` while only pods of the node are known.
    pub shape: Option<Shape>,
    pub fill: Fill,
    pub pods: Vec<Arc<PodInfo>>,
    /// Pods that wait for room that is being made for them here.
    pub nominated: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.fill.add(&pod);
        self.pods.push(pod);
    }
    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<PodInfo>> {
        let index = self.pods.iter().position(|pod| &*pod.key == key)?;
        let pod = self.pods.swap_remove(index);
        self.fill.remove(&pod);
        Some(pod)
    }
    pub(crate) fn is_vacant(&self) -> bool {
        self.shape.is_none() && self.pods.is_empty() && self.nominated.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::ResourceId;
    use amphipod_client::Resource;
    use serde_json::{Value, json};

    fn pod(catalogue: &mut Catalogue, name: &str, container: Value) -> Arc<PodInfo> {
        let metadata = json!({"name": name, "namespace": "ns"});
        let pod = json!({"metadata": metadata, "spec": {"containers": [container]}}).to_string();
        Arc::new(catalogue.pod(&amphipod_client::CachedPod::decode(pod.as_bytes()).unwrap()))
    }

    #[test]
    fn a_pod_that_asks_for_more_than_there_is_leaves_no_trace() {
        let mut catalogue = Catalogue::default();
        let mut asking = |name: &str, memory: &str| {
            let requests = json!({"cpu": memory, "memory": memory});
            pod(&mut catalogue, name, json!({"name": "c", "resources": {"requests": requests}}))
        };
        let mut node = NodeInfo::default();
        node.add(asking("small", "1Gi"));
        let before = node.fill.clone();
        let huge = i64::MAX.to_string();
        for round in 0..100 {
            node.add(asking(&format!("huge-{round}"), &huge));
            let (used, [_, scored]) = (node.fill.requested.get(ResourceId::MEMORY), node.fill.nonzero);
            assert!(used > 1 << 40 && scored > 1 << 40, "{used} {scored} after {round}");
        }
        (0..100).for_each(|round| drop(node.remove(&format!("ns/huge-{round}"))));
        assert_eq!(node.fill, before);
        assert_eq!(node.fill.requested.get(ResourceId::MEMORY), 1 << 30);
    }

    #[test]
    fn what_is_added_can_be_taken_out() {
        let mut catalogue = Catalogue::default();
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "1", "x.io/y": "2"}},
            "ports": [{"containerPort": 80, "hostPort": 80}]});
        let pod = pod(&mut catalogue, "a", container);
        let mut node = NodeInfo::default();
        node.add(pod.clone());
        node.add(pod.clone());
        assert_eq!((node.fill.pods, node.fill.ports.len(), node.fill.ports[0].1), (2, 1, 2));
        node.remove(&pod.key);
        node.remove(&pod.key);
        assert_eq!(node.fill, Fill::default());
        assert!(node.is_vacant() && node.remove(&pod.key).is_none());
    }
}
