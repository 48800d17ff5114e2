//! Objects about devices at random: few names, so that they meet.

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};

use crate::devices::MAX_CONSUMERS;
use crate::expressions::EXPRESSIONS;
use crate::random::{NAMESPACES, Random};
use crate::volumes::ZONE;

const CLASSES: [&str; 4] = ["any", "gpu", "fast", "rare"];
const DRIVERS: [&str; 2] = ["gpu.com", "nic.com"];

fn from<T: Resource>(object: Value) -> T {
    T::decode(object.to_string().as_bytes()).expect("an object")
}

impl Random {
    fn selectors(&mut self) -> Value {
        let count = self.below(3).saturating_sub(1);
        let any = |random: &mut Random| EXPRESSIONS[random.below(EXPRESSIONS.len() as u64) as usize].text;
        (0..count).map(|_| json!({"cel": {"expression": any(self)}})).collect::<Vec<_>>().into()
    }
    fn configs(&mut self, rarity: u64) -> Vec<Value> {
        let opaque = |n: u64| json!({"opaque": {"driver": "gpu.com", "parameters": {"n": n}}});
        (0..2).filter(|_| self.one_in(rarity)).collect::<Vec<u64>>().into_iter().map(opaque).collect()
    }
    pub fn device_class(&mut self, name: &str) -> DeviceClass {
        let selectors = match name {
            "any" => json!([]),
            "gpu" => json!([{"cel": {"expression": EXPRESSIONS[1].text}}]),
            _ => self.selectors(),
        };
        from(json!({"metadata": {"name": name}, "spec": {"selectors": selectors, "config": self.configs(3)}}))
    }
    pub fn device_class_name(&mut self) -> &'static str {
        CLASSES[self.below(CLASSES.len() as u64) as usize]
    }
    fn wanted_class(&mut self) -> &'static str {
        if self.one_in(30) { "rare" } else { CLASSES[self.below(3) as usize] }
    }

    pub fn slice(&mut self) -> ResourceSlice {
        let index = self.below(10);
        let driver = self.one_of(&DRIVERS);
        let several = self.one_in(4);
        let pool = json!({"name": format!("p{}", self.below(2)), "generation": 1 + self.below(8) / 7,
            "resourceSliceCount": if several { 2 } else { 1 }});
        let devices: Vec<Value> =
            (0..1 + self.below(3)).map(|place| self.device(index, place, driver)).collect();
        let mut spec = json!({"driver": driver, "pool": pool, "devices": devices});
        match self.below(6) {
            0..=2 => spec["nodeName"] = self.node_name().into(),
            3 | 4 => spec["allNodes"] = true.into(),
            _ => {
                let disk = json!({"key": "disk", "operator": "In", "values": [self.one_of(&["ssd", "hdd"])]});
                let zone = json!({"key": ZONE, "operator": "NotIn", "values": ["z3"]});
                let both = if self.one_in(2) { json!([disk, zone]) } else { json!([zone]) };
                spec["nodeSelector"] = json!({"nodeSelectorTerms": [{"matchExpressions": both}]});
            }
        }
        from(json!({"metadata": {"name": format!("s{index}")}, "spec": spec}))
    }
    fn device(&mut self, slice: u64, place: u64, driver: &str) -> Value {
        let name = if self.one_in(30) { "d".to_owned() } else { format!("d{slice}-{place}") };
        let mut attributes = json!({});
        let own = |random: &mut Random, id: &str| match driver == "gpu.com" && random.one_in(2) {
            true => id.to_owned(),
            false => format!("gpu.com/{id}"),
        };
        if !self.one_in(4) {
            attributes[own(self, "model")] = json!({"string": self.one_of(&["a", "b", "c"])});
        }
        if self.one_in(2) {
            attributes[own(self, "cores")] = json!({"int": self.below(8)});
        }
        if self.one_in(3) {
            attributes[own(self, "version")] = json!({"version": self.one_of(&["1.2.0", "1.9.0", "1.10.0"])});
        }
        if self.one_in(2) {
            attributes["dra.example/numa"] = json!({"int": self.below(2)});
        }
        let memory = json!({"value": self.one_of(&["4Gi", "8Gi", "16Gi"])});
        let capacity = json!({own(self, "memory"): memory});
        json!({"name": name, "attributes": attributes, "capacity": capacity})
    }
    fn node_name(&mut self) -> String {
        format!("n{}", self.below(20))
    }

    fn way(&mut self) -> Value {
        let mut way = json!({"deviceClassName": self.wanted_class(), "selectors": self.selectors()});
        match self.below(12) {
            0 => way["allocationMode"] = "All".into(),
            1 => {
                way["allocationMode"] = "ExactCount".into();
                way["count"] = 2.into();
            }
            _ => {}
        }
        way
    }
    fn device_request(&mut self, name: &str) -> Value {
        if self.one_in(3) {
            let mut alternatives = Vec::new();
            for index in 0..2 + self.below(2) {
                let mut way = self.way();
                way["name"] = format!("a{index}").into();
                alternatives.push(way);
            }
            return json!({"name": name, "firstAvailable": alternatives});
        }
        let mut exact = self.way();
        if self.one_in(3) {
            exact["adminAccess"] = true.into();
        }
        json!({"name": name, "exactly": exact})
    }
    /// `uid`: its own; `owner`: of the pod it was made for.
    pub fn device_claim(
        &mut self,
        namespace: &str,
        name: &str,
        uid: &str,
        owner: Option<&str>,
    ) -> ResourceClaim {
        let names = if self.one_in(2) { &["r"][..] } else { &["r", "s"] };
        let requests: Vec<Value> = names.iter().map(|name| self.device_request(name)).collect();
        let mut constraints = Vec::new();
        if self.one_in(4) {
            let attribute = self.one_of(&["gpu.com/model", "dra.example/numa", "gpu.com/version"]);
            let mut constraint = json!({"matchAttribute": attribute});
            if self.one_in(2) {
                constraint["requests"] = json!([self.one_of(&["r", "r/a0"])]);
            }
            constraints.push(constraint);
        }
        let mut config = self.configs(3);
        if let Some(first) = config.first_mut()
            && self.one_in(2)
        {
            first["requests"] = json!([self.one_of(&["r", "r/a1"])]);
        }
        let mut meta = json!({"name": name, "namespace": namespace, "uid": uid});
        if let Some(owner) = owner {
            let owner =
                json!({"apiVersion": "v1", "kind": "Pod", "name": owner, "uid": owner, "controller": true});
            meta["ownerReferences"] = json!([owner]);
        }
        let devices = json!({"requests": requests, "constraints": constraints, "config": config});
        from(json!({"metadata": meta, "spec": {"devices": devices}}))
    }
    /// A claim's status as somebody else left it. `known`: devices and pods that may be named in it.
    pub fn device_claim_status(&mut self, slices: &[&ResourceSlice], pods: &[String]) -> Value {
        if self.one_in(2) {
            return json!({});
        }
        let mut results = Vec::new();
        for slice in slices {
            if !self.one_in(4) {
                continue;
            }
            for device in slice.spec.devices.iter().flatten().take(1) {
                let mut result = json!({"request": "r", "driver": slice.spec.driver, "pool": slice.spec.pool.name, "device": device.name});
                if self.one_in(5) {
                    result["adminAccess"] = true.into();
                }
                results.push(result);
            }
        }
        let mut allocation = json!({"devices": {"results": results}});
        let requirement = match self.below(3) {
            0 => None,
            1 => Some(
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [self.node_name()]}]}),
            ),
            _ => Some(json!({"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["z1", "z2"]}]})),
        };
        if let Some(term) = requirement {
            allocation["nodeSelector"] = json!({"nodeSelectorTerms": [term]});
        }
        let consumer = |name: String| json!({"resource": "pods", "name": name, "uid": name});
        let full = self.one_in(6);
        let others = if full { MAX_CONSUMERS as u64 - 1 } else { self.below(3).saturating_sub(1) };
        let mut consumers: Vec<Value> = (0..others).map(|index| consumer(format!("other-{index}"))).collect();
        if full || self.one_in(3) {
            consumers.push(consumer(self.pick(pods).unwrap_or_else(|| "another".to_owned())));
        }
        json!({"allocation": allocation, "reservedFor": consumers})
    }

    /// One of few kinds, so that what is remembered of pods alike is asked for.
    pub fn plain_pod(&mut self, name: &str) -> Pod {
        let meta = json!({"name": name, "namespace": self.one_of(&NAMESPACES), "uid": name});
        let (priority, container) = (if self.one_in(4) { 5 } else { 0 }, json!({"name": "c", "image": "i1"}));
        from(json!({"metadata": meta, "spec": {"containers": [container], "priority": priority}}))
    }
    /// Gives the pod claims by name, and one made for it, or about to be. Whether that is there.
    pub fn put_device_claims(&mut self, pod: &mut Pod) -> bool {
        let rarity = if self.about_devices { 6 } else { 1 };
        if self.below(6) >= rarity {
            return false;
        }
        let mut names: Vec<u64> = (0..1 + self.below(2)).map(|_| self.below(4)).collect();
        names.dedup();
        let mut claims: Vec<Value> = names
            .iter()
            .map(|index| json!({"name": format!("c{index}"), "resourceClaimName": format!("k{index}")}))
            .collect();
        let made = self.one_in(3);
        if made {
            claims.truncate(1);
            claims.push(json!({"name": "own", "resourceClaimTemplateName": "t"}));
            let own = format!("{}-own", pod.metadata.name.as_deref().expect("a name"));
            let status = match self.below(8) {
                0 => json!([]),
                1 => json!([{"name": "own"}]),
                _ => json!([{"name": "own", "resourceClaimName": own}]),
            };
            let statuses = serde_json::from_value(status).expect("statuses");
            pod.status.get_or_insert_default().resource_claim_statuses = Some(statuses);
        }
        let claims = serde_json::from_value(claims.into()).expect("claims");
        pod.spec.get_or_insert_default().resource_claims = Some(claims);
        made
    }
}
