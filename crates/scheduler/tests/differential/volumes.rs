//! The slow scheduler's view of volumes: claims, volumes, classes, room, limits and what is attached,
//! straight from API objects.

use std::collections::{BTreeMap, BTreeSet};

use amphipod_scheduler::Snapshot;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::oracle::{self, Verdict, refuse};

pub const DRIVER: &str = "csi.example.com";
/// A plugin that some nodes have given up, for this driver with zones of its own.
pub const PLUGIN: &str = "kubernetes.io/aws-ebs";
pub const SUCCESSOR: &str = "ebs.csi.aws.com";
pub const SUCCESSORS_ZONE: &str = "topology.ebs.csi.aws.com/zone";
pub const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
pub const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Default)]
pub struct Storage {
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    pub volumes: BTreeMap<String, PersistentVolume>,
    pub classes: BTreeMap<String, StorageClass>,
    pub limits: BTreeMap<String, CSINode>,
    pub drivers: BTreeMap<String, CSIDriver>,
    pub capacities: BTreeMap<String, CSIStorageCapacity>,
    pub attachments: BTreeMap<String, VolumeAttachment>,
}

impl Storage {
    pub fn tell(&self, snapshot: &mut Snapshot) {
        let Snapshot { catalogue, storage, .. } = snapshot;
        let symbols = &mut catalogue.symbols;
        for class in self.classes.values() {
            storage.set_class(symbols, class);
        }
        for node in self.limits.values() {
            storage.set_limits(symbols, node);
        }
        for volume in self.volumes.values() {
            storage.set_volume(symbols, volume);
        }
        for claim in self.claims.values() {
            storage.set_claim(symbols, claim);
        }
        for driver in self.drivers.values() {
            storage.set_driver(symbols, driver);
        }
        for capacity in self.capacities.values() {
            storage.set_capacity(symbols, capacity);
        }
        for attachment in self.attachments.values() {
            storage.set_attachment(symbols, attachment);
        }
    }
}

fn claims(pod: &Pod) -> Vec<String> {
    let volumes = oracle::spec(pod).volumes.iter().flatten();
    let names = volumes.filter_map(|volume| Some(&volume.persistent_volume_claim.as_ref()?.claim_name));
    names.map(|name| format!("{}/{name}", oracle::namespace(pod))).collect()
}
fn annotation<'a>(claim: &'a PersistentVolumeClaim, name: &str) -> Option<&'a String> {
    claim.metadata.annotations.as_ref()?.get(name)
}
fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(claim, "pv.kubernetes.io/bind-completed").is_some()
}
fn volume_name(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim.spec.as_ref()?.volume_name.as_ref()
}
fn gigabytes(amounts: Option<&BTreeMap<String, Quantity>>) -> u64 {
    in_gigabytes(&amounts.expect("amounts")["storage"])
}
fn in_gigabytes(amount: &Quantity) -> u64 {
    amount.0.strip_suffix("Gi").expect("gigabytes").parse().expect("a number")
}

impl Storage {
    fn waits(&self, claim: &PersistentVolumeClaim) -> bool {
        let name = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_ref()).expect("a class");
        self.classes[name].volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
    }
    /// Why no node at all will do.
    pub fn before(&self, pod: &Pod) -> Option<String> {
        let keys = claims(pod);
        let name = |key: &String| key.split_once('/').expect("a key").1.to_owned();
        if let Some(key) = keys.iter().find(|key| !self.claims.contains_key(*key)) {
            return Some(format!("persistentvolumeclaim \"{}\" not found", name(key)));
        }
        let found: Vec<&PersistentVolumeClaim> = keys.iter().map(|key| &self.claims[key]).collect();
        if let Some(index) = found.iter().position(|c| c.metadata.deletion_timestamp.is_some()) {
            return Some(format!("persistentvolumeclaim \"{}\" is being deleted", name(&keys[index])));
        }
        if found.iter().any(|c| !is_bound(c) && (volume_name(c).is_some() || !self.waits(c))) {
            return Some("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let missing = |c: &&PersistentVolumeClaim| {
            volume_name(c).filter(|name| !self.volumes.contains_key(*name)).cloned()
        };
        found.iter().find_map(missing).map(|name| format!("persistentvolume \"{name}\" not found"))
    }

    pub fn filter(&self, all: &[Pod], placed: &[Pod], pod: &Pod, node: &Node) -> Verdict {
        let wanted = claims(pod);
        let uses = |key: &String, pods: &[Pod]| pods.iter().any(|p| claims(p).contains(key));
        let exclusive = |key: &&String| {
            let modes = self.claims[*key].spec.as_ref().and_then(|s| s.access_modes.clone());
            modes.is_some_and(|modes| modes.contains(&"ReadWriteOncePod".to_owned()))
        };
        if wanted.iter().filter(exclusive).any(|key| uses(key, all) && uses(key, placed)) {
            return refuse(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
                true,
            );
        }
        self.limit(placed, pod, node)?;
        self.bind(pod, node)?;
        self.zones(pod, node)
    }

    fn has_given_up(&self, node: &Node) -> bool {
        let annotations = self.limits.get(oracle::name(node)).and_then(|n| n.metadata.annotations.as_ref());
        annotations.is_some_and(|known| known[MIGRATED].split(',').any(|plugin| plugin == PLUGIN))
    }
    /// The driver of a volume on a node, and what it is to it.
    fn of_driver(&self, volume: &PersistentVolume, node: &Node) -> Option<(String, String)> {
        let spec = volume.spec.as_ref()?;
        let old = spec.aws_elastic_block_store.as_ref().filter(|_| self.has_given_up(node));
        let csi = spec.csi.as_ref().map(|csi| (csi.driver.clone(), csi.volume_handle.clone()));
        csi.or(old.map(|disk| (SUCCESSOR.to_owned(), disk.volume_id.clone())))
    }
    /// The same of a claim.
    fn attached(&self, key: &String, node: &Node) -> Option<(String, String)> {
        let claim = self.claims.get(key)?;
        match volume_name(claim).and_then(|name| self.volumes.get(name)) {
            Some(volume) => self.of_driver(volume, node),
            None => {
                let class = &self.classes[claim.spec.as_ref()?.storage_class_name.as_ref()?];
                (class.provisioner == DRIVER).then(|| (DRIVER.to_owned(), format!("of {key}")))
            }
        }
    }
    fn limit(&self, placed: &[Pod], pod: &Pod, node: &Node) -> Verdict {
        let Some(limits) = self.limits.get(oracle::name(node)) else { return Ok(()) };
        let here = placed.iter().filter(|p| oracle::is_on(p, node)).flat_map(claims);
        let mut there: BTreeSet<(String, String)> =
            here.filter_map(|key| self.attached(&key, node)).collect();
        for attachment in self.attachments.values().filter(|a| a.spec.node_name == oracle::name(node)) {
            let volume = attachment.spec.source.persistent_volume_name.as_ref();
            let volume = volume.and_then(|name| self.volumes.get(name));
            let handle = volume.and_then(|v| Some(v.spec.as_ref()?.csi.as_ref()?.volume_handle.clone()));
            there.extend(handle.map(|handle| (attachment.spec.attacher.clone(), handle)));
        }
        let wanted = claims(pod);
        let wanted: BTreeSet<(String, String)> =
            wanted.iter().filter_map(|key| self.attached(key, node)).collect();
        let full = limits.spec.drivers.iter().any(|driver| {
            let of_driver = |(name, _): &&(String, String)| *name == driver.name;
            let new = wanted.difference(&there).filter(of_driver).count();
            let count = driver.allocatable.as_ref().and_then(|a| a.count).expect("a limit");
            new > 0 && there.iter().filter(of_driver).count() + new > count as usize
        });
        match full {
            true => refuse("node(s) exceed max volume count", true),
            false => Ok(()),
        }
    }

    fn bind(&self, pod: &Pod, node: &Node) -> Verdict {
        let mut keys = claims(pod);
        keys.dedup();
        let (bound, mut waiting): (Vec<_>, Vec<_>) =
            keys.iter().map(|key| (key, &self.claims[key])).partition(|(_, claim)| is_bound(claim));
        let mut reasons = Vec::new();
        if bound.iter().any(|(_, c)| !self.is_near(&self.volumes[volume_name(c).expect("it is bound")], node))
        {
            reasons.push("node(s) didn't match PersistentVolume's node affinity".to_owned());
        }
        waiting.sort_by_key(|(_, claim)| size(claim));
        reasons.extend(self.missing(&waiting, node).map(str::to_owned));
        if reasons.is_empty() { Ok(()) } else { Err((reasons, false)) }
    }
    /// What the first of the claims lacks that gets no volume. Those that were decided about before come
    /// first.
    fn missing(&self, waiting: &[(&String, &PersistentVolumeClaim)], node: &Node) -> Option<&'static str> {
        let none = Some("node(s) didn't find available persistent volumes to bind");
        let selected =
            |c: &PersistentVolumeClaim| annotation(c, "volume.kubernetes.io/selected-node").cloned();
        let (mut to_make, others): (Vec<_>, Vec<_>) =
            waiting.iter().partition(|(_, claim)| selected(claim).is_some());
        if to_make.iter().any(|(_, c)| selected(c).is_some_and(|name| name != oracle::name(node))) {
            return none;
        }
        let mut taken: Vec<&String> = Vec::new();
        for (key, claim) in others {
            match self.find(key, claim, node, &taken) {
                Some(volume) => taken.push(volume),
                None => to_make.push((key, claim)),
            }
        }
        to_make.iter().find_map(|(_, claim)| {
            let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
            let allowed = class == Some("late") && matches!(oracle::label(node, ZONE), Some("z1" | "z2"));
            match (allowed, self.has_room(claim, node)) {
                (false, _) => none,
                (true, false) => Some("node(s) did not have enough free storage"),
                (true, true) => None,
            }
        })
    }
    fn has_room(&self, claim: &PersistentVolumeClaim, node: &Node) -> bool {
        let measured = self.drivers.get(DRIVER).is_some_and(|d| d.spec.storage_capacity == Some(true));
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_ref());
        let enough = |capacity: &CSIStorageCapacity| {
            let limit = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
            Some(&capacity.storage_class_name) == class
                && limit.is_some_and(|limit| in_gigabytes(limit) >= size(claim))
                && capacity.node_topology.is_some()
                && oracle::selects(capacity.node_topology.as_ref(), &labels)
        };
        !measured || self.capacities.values().any(enough)
    }
    /// Whether a node reaches a bound volume. The successor's zones take the place of those the volume
    /// names, or that its labels name.
    fn is_near(&self, volume: &PersistentVolume, node: &Node) -> bool {
        let mut volume = volume.clone();
        let spec = volume.spec.as_mut().expect("a specification");
        if spec.aws_elastic_block_store.is_none() || !self.has_given_up(node) {
            return reached(&volume, node);
        }
        let terms = spec.node_affinity.as_mut().and_then(|a| a.required.as_mut());
        let terms = terms.map(|terms| &mut terms.node_selector_terms);
        let all = terms.into_iter().flatten().flat_map(|term| term.match_expressions.iter_mut().flatten());
        let mut named = false;
        for requirement in all.filter(|requirement| requirement.key == ZONE) {
            requirement.key = SUCCESSORS_ZONE.to_owned();
            named = true;
        }
        let zones = volume.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE));
        let here = oracle::label(node, SUCCESSORS_ZONE);
        let by_label = zones.is_none_or(|zones| zones.split("__").any(|zone| Some(zone) == here));
        reached(&volume, node) && (named || by_label)
    }
    fn find(
        &self,
        key: &String,
        claim: &PersistentVolumeClaim,
        node: &Node,
        taken: &[&String],
    ) -> Option<&String> {
        let wish = claim.spec.as_ref()?;
        let suits = |volume: &PersistentVolume| {
            let spec = volume.spec.as_ref().expect("a specification");
            spec.storage_class_name == wish.storage_class_name
                && gigabytes(spec.capacity.as_ref()) >= size(claim)
        };
        let owner = |volume: &PersistentVolume| {
            let claim = volume.spec.as_ref()?.claim_ref.clone()?;
            Some(format!("{}/{}", claim.namespace?, claim.name?))
        };
        let mut kept = self.volumes.iter().filter(|(_, v)| owner(v).as_ref() == Some(key) && suits(v));
        if kept.clone().count() > 0 {
            return kept.find(|(_, v)| reached(v, node)).map(|(name, _)| name);
        }
        let free = |volume: &PersistentVolume| {
            let available = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available");
            let labels = volume.metadata.labels.clone().unwrap_or_default();
            let selected = wish.selector.as_ref().is_none_or(|s| oracle::selects(Some(s), &labels));
            owner(volume).is_none() && available && selected && suits(volume) && reached(volume, node)
        };
        let found = self.volumes.iter().filter(|(name, volume)| !taken.contains(name) && free(volume));
        found
            .min_by_key(|(_, v)| gigabytes(v.spec.as_ref().and_then(|s| s.capacity.as_ref())))
            .map(|(name, _)| name)
    }

    fn zones(&self, pod: &Pod, node: &Node) -> Verdict {
        let Some(here) = oracle::label(node, ZONE) else { return Ok(()) };
        let volumes =
            claims(pod).into_iter().filter_map(|key| self.volumes.get(volume_name(&self.claims[&key])?));
        let mut zones = volumes.filter_map(|volume| volume.metadata.labels.clone()?.remove(ZONE));
        match zones.all(|zones| zones.split("__").any(|zone| zone == here)) {
            true => Ok(()),
            false => refuse("node(s) had no available volume zone", false),
        }
    }
}

fn size(claim: &PersistentVolumeClaim) -> u64 {
    gigabytes(claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()))
}
fn reached(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    affinity.is_none_or(|terms| terms.node_selector_terms.iter().any(|t| oracle::term_selects(t, node)))
}
