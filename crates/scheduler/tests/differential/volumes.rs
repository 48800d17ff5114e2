//! The slow scheduler's view of volumes: claims, volumes, classes and limits, straight from API objects.

use std::collections::{BTreeMap, BTreeSet};

use amphipod_client::Resource;
use amphipod_scheduler::Snapshot;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use serde_json::{Value, json};

use crate::oracle::{self, Verdict, refuse};
use crate::random::{NAMESPACES, Random};

pub const DRIVER: &str = "csi.example.com";
const CLASSES: [&str; 3] = ["late", "hand", "soon"];
const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Default)]
pub struct Storage {
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    pub volumes: BTreeMap<String, PersistentVolume>,
    pub classes: BTreeMap<String, StorageClass>,
    pub limits: BTreeMap<String, CSINode>,
}

fn from<T: Resource>(object: Value) -> T {
    T::decode(object.to_string().as_bytes()).expect("an object")
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
    }
}

// What there is, at random.
impl Random {
    pub fn classes(&mut self) -> Vec<StorageClass> {
        let class = |name: &str| {
            let (provisioner, mode) = match name {
                "late" => (DRIVER, "WaitForFirstConsumer"),
                "hand" => ("kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
                _ => (DRIVER, "Immediate"),
            };
            let mut class =
                json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
            if name == "late" {
                let zones = json!([{"matchLabelExpressions": [{"key": ZONE, "values": ["z1", "z2"]}]}]);
                class["allowedTopologies"] = zones;
            }
            from(class)
        };
        CLASSES.map(class).into()
    }
    pub fn claim(&mut self) -> PersistentVolumeClaim {
        let name = format!("c{}", self.below(4));
        let mut annotations = json!({});
        let mut spec = json!({"storageClassName": self.one_of(&["late", "late", "hand", "hand", "soon"]),
            "accessModes": [self.one_of(&["ReadWriteOnce", "ReadWriteOnce", "ReadOnlyMany", "ReadWriteOncePod"])],
            "resources": {"requests": {"storage": format!("{}Gi", 1 + self.below(4))}}});
        match self.below(6) {
            0..=2 => {
                spec["volumeName"] = format!("v{}", self.below(9)).into();
                if !self.one_in(8) {
                    annotations["pv.kubernetes.io/bind-completed"] = "yes".into();
                }
            }
            3 => {
                annotations["volume.kubernetes.io/selected-node"] = format!("n{}", self.below(20)).into();
            }
            4 => spec["selector"] = json!({"matchLabels": {"tier": self.label("tier")}}),
            _ => {}
        }
        let mut meta = json!({"name": name, "namespace": self.one_of(&NAMESPACES), "uid": name, "annotations": annotations});
        if self.one_in(12) {
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        from(json!({"metadata": meta, "spec": spec}))
    }
    /// Each is of another size, so that no two are equally good.
    pub fn volume(&mut self) -> PersistentVolume {
        let index = self.below(9);
        let mut labels = json!({"tier": self.label("tier")});
        if self.one_in(4) {
            labels[ZONE] = self.one_of(&["z1", "z1__z2", "z3"]).into();
        }
        let mut spec = json!({"storageClassName": self.one_of(&["late", "hand"]), "capacity": {"storage": format!("{}Gi", index + 1)},
            "accessModes": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteOncePod"]});
        if self.one_in(2) {
            spec["csi"] = json!({"driver": DRIVER, "volumeHandle": format!("h{}", self.below(8))});
        }
        if !self.one_in(4) {
            let terms: Vec<Value> = (0..1 + self.below(2)).map(|_| self.zone_term()).collect();
            spec["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": terms}});
        }
        if self.one_in(4) {
            spec["claimRef"] =
                json!({"namespace": self.one_of(&NAMESPACES), "name": format!("c{}", self.below(4))});
        }
        let status = json!({"phase": self.one_of(&["Available", "Available", "Available", "Released"])});
        from(
            json!({"metadata": {"name": format!("v{index}"), "labels": labels}, "spec": spec, "status": status}),
        )
    }
    fn zone_term(&mut self) -> Value {
        let zones = json!(["z1", self.one_of(&["z2", "z3"])]);
        let expression = match self.below(3) {
            0 => json!({"key": ZONE, "operator": "NotIn", "values": zones}),
            1 => json!({"key": "disk", "operator": "In", "values": [self.one_of(&["ssd", "hdd"])]}),
            _ => json!({"key": ZONE, "operator": "In", "values": zones}),
        };
        json!({"matchExpressions": [expression]})
    }
    pub fn limits(&mut self) -> CSINode {
        let name = format!("n{}", self.below(20));
        let driver = json!({"name": DRIVER, "nodeID": name, "allocatable": {"count": self.below(4)}});
        from(json!({"metadata": {"name": name}, "spec": {"drivers": [driver]}}))
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
fn gigabytes(
    amounts: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> u64 {
    let text = &amounts.expect("amounts")["storage"].0;
    text.strip_suffix("Gi").expect("gigabytes").parse().expect("a number")
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

    /// What a claim is to its driver.
    fn attached(&self, key: &String) -> Option<String> {
        let claim = self.claims.get(key)?;
        match volume_name(claim).and_then(|name| self.volumes.get(name)) {
            Some(volume) => Some(format!("handle {}", volume.spec.as_ref()?.csi.as_ref()?.volume_handle)),
            None => {
                let class = &self.classes[claim.spec.as_ref()?.storage_class_name.as_ref()?];
                (class.provisioner == DRIVER).then(|| format!("claim {key}"))
            }
        }
    }
    fn limit(&self, placed: &[Pod], pod: &Pod, node: &Node) -> Verdict {
        let limits = self.limits.get(oracle::name(node));
        let count = limits.and_then(|l| l.spec.drivers[0].allocatable.as_ref()?.count);
        let Some(count) = count else { return Ok(()) };
        let here = placed.iter().filter(|p| oracle::is_on(p, node)).flat_map(claims);
        let there: BTreeSet<String> = here.filter_map(|key| self.attached(&key)).collect();
        let wanted: BTreeSet<String> = claims(pod).iter().filter_map(|key| self.attached(key)).collect();
        let new = wanted.difference(&there).count();
        if new > 0 && there.len() + new > count as usize {
            return refuse("node(s) exceed max volume count", true);
        }
        Ok(())
    }

    fn bind(&self, pod: &Pod, node: &Node) -> Verdict {
        let mut keys = claims(pod);
        keys.dedup();
        let (bound, mut waiting): (Vec<_>, Vec<_>) =
            keys.iter().map(|key| (key, &self.claims[key])).partition(|(_, claim)| is_bound(claim));
        let mut reasons = Vec::new();
        if bound.iter().any(|(_, c)| !reached(&self.volumes[volume_name(c).expect("it is bound")], node)) {
            reasons.push("node(s) didn't match PersistentVolume's node affinity".to_owned());
        }
        waiting.sort_by_key(|(_, claim)| size(claim));
        if !self.find_all(&waiting, node) {
            reasons.push("node(s) didn't find available persistent volumes to bind".to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err((reasons, false)) }
    }
    fn find_all(&self, waiting: &[(&String, &PersistentVolumeClaim)], node: &Node) -> bool {
        let selected =
            |c: &PersistentVolumeClaim| annotation(c, "volume.kubernetes.io/selected-node").cloned();
        if waiting.iter().any(|(_, c)| selected(c).is_some_and(|name| name != oracle::name(node))) {
            return false;
        }
        let mut taken: Vec<&String> = Vec::new();
        waiting.iter().all(|(key, claim)| {
            let found = if selected(claim).is_some() { None } else { self.find(key, claim, node, &taken) };
            taken.extend(found);
            let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
            let made = class == Some("late") && matches!(oracle::label(node, ZONE), Some("z1" | "z2"));
            found.is_some() || made
        })
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
