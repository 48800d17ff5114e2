//! What happens to devices and claims: drivers publish, others allocate and give back, and what was decided
//! about a pod's claims is shown or comes to nothing.

use amphipod_client::Resource;
use amphipod_scheduler::Snapshot;
use amphipod_scheduler::devices::ClaimWork;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};

use crate::oracle;
use crate::random::{NAMESPACES, Random};
use crate::world::World;

impl World {
    pub fn set_up_devices(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let changes = if random.about_devices { 200 } else { 10 };
        for _ in 0..changes {
            self.change_devices(random, snapshot);
        }
    }
    pub fn change_devices(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        match random.below(12) {
            0 => self.change_class(random, snapshot),
            1..=4 => self.change_slice(random, snapshot),
            5 | 6 => self.change_claim_status(random, snapshot),
            7 | 8 => {
                let (namespace, index) = (random.one_of(&NAMESPACES), random.below(4));
                self.replace_claim(random, snapshot, namespace, &format!("k{index}"), None);
            }
            9 if random.one_in(4) => self.remove_claim(random, snapshot),
            _ => self.settle_pending(random, snapshot),
        }
    }

    fn change_class(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let name = random.device_class_name();
        let Snapshot { catalogue, devices, .. } = snapshot;
        if random.one_in(if name == "rare" { 2 } else { 20 }) {
            self.devices.classes.remove(name);
            return devices.remove_class(&catalogue.symbols, name);
        }
        let class = random.device_class(name);
        devices.set_class(&mut catalogue.symbols, &class);
        self.devices.classes.insert(name.to_owned(), class);
    }
    fn change_slice(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let slice = random.slice();
        let Snapshot { catalogue, devices, .. } = snapshot;
        if random.one_in(8) {
            self.devices.slices.remove(slice.name());
            return devices.remove_slice(&catalogue.symbols, slice.name());
        }
        devices.set_slice(&mut catalogue.symbols, &slice);
        self.devices.slices.insert(slice.name().to_owned(), slice);
    }
    fn change_claim_status(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let Some(key) = random.pick_key(&self.devices.claims) else { return };
        let slices: Vec<_> = self.devices.slices.values().collect();
        let pods: Vec<String> =
            self.nominated.keys().map(|key| key.split_once('/').expect("a key").1.to_owned()).collect();
        let status = random.device_claim_status(&slices, &pods);
        let mut claim = self.devices.claims[&key].clone();
        claim.status = Some(serde_json::from_value(status).expect("a status"));
        if random.one_in(60) {
            let time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
            claim.metadata.deletion_timestamp = Some(time);
        }
        self.set_claim(snapshot, claim);
    }
    /// Another claim under the name, if there was one.
    fn replace_claim(
        &mut self,
        random: &mut Random,
        snapshot: &mut Snapshot,
        namespace: &str,
        name: &str,
        owner: Option<&str>,
    ) {
        self.made += 1;
        let claim = random.device_claim(namespace, name, &format!("claim-{}", self.made), owner);
        self.set_claim(snapshot, claim);
    }
    fn remove_claim(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let Some(key) = random.pick_key(&self.devices.claims) else { return };
        self.devices.claims.remove(&key);
        self.devices.pending.remove(&key);
        let Snapshot { catalogue, devices, .. } = snapshot;
        devices.remove_claim(&catalogue.symbols, &key);
    }
    fn set_claim(&mut self, snapshot: &mut Snapshot, claim: ResourceClaim) {
        let Snapshot { catalogue, devices, .. } = snapshot;
        devices.set_claim(&mut catalogue.symbols, &claim);
        if claim.status.as_ref().is_some_and(|status| status.allocation.is_some()) {
            self.devices.pending.remove(&claim.key());
        }
        self.devices.claims.insert(claim.key(), claim);
    }

    /// A pod's own claim, which was made for it or, by mistake, for another.
    pub fn make_claims(&mut self, random: &mut Random, snapshot: &mut Snapshot, pod: &Pod) {
        let name = pod.metadata.name.as_deref().expect("a name");
        let owner = if random.one_in(10) { "another" } else { name };
        if !random.one_in(10) {
            let namespace = oracle::namespace(pod);
            self.replace_claim(random, snapshot, namespace, &format!("{name}-own"), Some(owner));
        }
    }
    /// What was decided about a pod's claims: it is shown at once, or later, or never.
    pub fn follow_works(
        &mut self,
        random: &mut Random,
        snapshot: &mut Snapshot,
        pod: &Pod,
        works: Vec<ClaimWork>,
    ) {
        let uid = pod.metadata.uid.clone().expect("a uid");
        for work in works {
            let key = work.claim.clone();
            if work.allocation.is_none() {
                self.consume(snapshot, &key, &uid, None);
                continue;
            }
            self.devices.pending.insert(key.clone(), (work, uid.clone()));
            if random.one_in(2) {
                self.show(snapshot, &key);
            }
        }
    }
    fn show(&mut self, snapshot: &mut Snapshot, key: &str) {
        let Some((work, uid)) = self.devices.pending.get(key).cloned() else { return };
        self.consume(snapshot, key, &uid, work.allocation);
    }
    fn consume(&mut self, snapshot: &mut Snapshot, key: &str, uid: &str, allocation: Option<Value>) {
        let mut claim = self.devices.claims[key].clone();
        let mut status = json!(claim.status.clone().unwrap_or_default());
        let mut consumers = status["reservedFor"].as_array().cloned().unwrap_or_default();
        consumers.push(json!({"resource": "pods", "name": uid, "uid": uid}));
        status["reservedFor"] = consumers.into();
        if let Some(allocation) = allocation {
            status["allocation"] = allocation;
        }
        claim.status = Some(serde_json::from_value(status).expect("a status"));
        self.set_claim(snapshot, claim);
    }
    fn settle_pending(&mut self, random: &mut Random, snapshot: &mut Snapshot) {
        let Some(key) = random.pick_key(&self.devices.pending) else { return };
        if random.one_in(2) {
            return self.show(snapshot, &key);
        }
        if let Some((work, _)) = self.devices.pending.remove(&key) {
            snapshot.release_devices(&[work]);
        }
    }
    pub fn deallocate(&mut self, snapshot: &mut Snapshot, key: &str) {
        let mut claim = self.devices.claims[key].clone();
        claim.status = None;
        self.set_claim(snapshot, claim);
    }
}
