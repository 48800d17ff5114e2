//! Random nodes and pods from a seed: small numbers of values, so that things meet.

use std::collections::BTreeMap;

use crate::volumes::SUCCESSORS_ZONE;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Map, Value, json};

pub const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
const KEYS: [&str; 4] = ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack", "disk"];

/// Runs of which one is about storage and one about devices: where much else is in the way, they seldom
/// decide anything.
const SUBJECTS: u64 = 4;

/// SplitMix64.
pub struct Random {
    state: u64,
    pub about_storage: bool,
    pub about_devices: bool,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x2545_F491_4F6C_DD1D);
        Random { state, about_storage: seed % SUBJECTS == 2, about_devices: seed % SUBJECTS == 3 }
    }
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
    pub fn pick(&mut self, choices: &[String]) -> Option<String> {
        (!choices.is_empty()).then(|| choices[self.below(choices.len() as u64) as usize].clone())
    }
    pub fn pick_key<T>(&mut self, map: &BTreeMap<String, T>) -> Option<String> {
        let keys: Vec<String> = map.keys().cloned().collect();
        self.pick(&keys)
    }
    pub fn label(&mut self, key: &str) -> String {
        let values: &[&str] = if key == "tier" { &["x", "y"] } else { &["a", "b", "c"] };
        self.one_of(values).to_owned()
    }

    pub fn node(&mut self, name: &str) -> Node {
        let mut labels = Map::new();
        if !self.one_in(8) {
            labels.insert(KEYS[0].into(), if self.one_in(10) { "shared" } else { name }.into());
        }
        if !self.one_in(6) {
            let zone = self.one_of(&["z1", "z2", "z3"]);
            labels.insert(KEYS[1].into(), zone.into());
            if self.one_in(2) {
                labels.insert(SUCCESSORS_ZONE.into(), zone.into());
            }
        }
        if !self.one_in(6) {
            labels.insert(KEYS[2].into(), format!("r{}", self.below(6)).into());
        }
        labels.insert(KEYS[3].into(), self.one_of(&["ssd", "hdd"]).into());
        labels.insert("cores".into(), self.below(8).to_string().into());
        let allocatable = json!({"cpu": format!("{}m", 500 + self.below(8) * 500), "memory": format!("{}Mi", 512 + self.below(8) * 512),
            "pods": (2 + self.below(8)).to_string(), "example.com/gpu": self.below(3).to_string()});
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        let taints: Vec<Value> = (0..self.below(8).saturating_sub(5))
            .map(|_| json!({"key": self.one_of(&["k1", "k2"]), "value": self.one_of(&["v1", "v2"]), "effect": self.one_of(&effects)}))
            .collect();
        let images: Vec<Value> = ["i1:latest", "i2:latest", "reg:5000/i3:v1"]
            .into_iter()
            .filter(|_| self.one_in(3))
            .map(|image| json!({"names": [image], "sizeBytes": image.len() * 40_000_000}))
            .collect();
        let bars = !self.about_devices || self.one_in(6);
        let node = json!({"metadata": {"name": name, "labels": labels},
            "spec": {"unschedulable": bars && self.one_in(12), "taints": if bars { taints } else { Vec::new() }},
            "status": {"allocatable": allocatable, "images": images}});
        serde_json::from_value(node).expect("a node")
    }

    pub fn pod(&mut self, name: &str) -> Pod {
        if self.about_devices && !self.one_in(8) {
            return self.plain_pod(name);
        }
        let mut labels = Map::new();
        for key in ["app", "tier"] {
            if !self.one_in(4) {
                labels.insert(key.into(), self.label(key).into());
            }
        }
        let mut spec = json!({"containers": (0..1 + self.below(2)).map(|i| self.container(&format!("c{i}"))).collect::<Vec<_>>(),
            "priority": self.below(3) * 5, "affinity": {}});
        if self.one_in(8) {
            let mut init = self.container("init");
            if self.one_in(2) {
                init["restartPolicy"] = "Always".into();
            }
            spec["initContainers"] = json!([init]);
        }
        if self.one_in(12) {
            spec["overhead"] = json!({"cpu": "50m"});
        }
        if self.one_in(12) {
            spec["resources"] = json!({"requests": {"cpu": format!("{}m", self.below(2000))}});
        }
        if self.one_in(10) {
            spec["preemptionPolicy"] = "Never".into();
        }
        if self.about_storage || !self.about_devices && self.one_in(4) {
            let volume = |claim: u64| json!({"name": format!("v{claim}"), "persistentVolumeClaim": {"claimName": format!("c{claim}")}});
            let claims: Vec<Value> = (0..1 + self.below(2)).map(|_| volume(self.below(4))).collect();
            spec["volumes"] = claims.into();
        }
        spec["tolerations"] = (0..self.below(3)).map(|_| self.toleration()).collect::<Vec<_>>().into();
        if !self.about_storage && !self.about_devices {
            self.put_node_rules(&mut spec);
            self.put_pod_rules(&mut spec);
        }
        let namespace = self.one_of(&NAMESPACES);
        let mut meta = json!({"name": name, "namespace": namespace, "uid": name, "labels": labels});
        if self.one_in(3) {
            let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("rs{}", self.below(3)), "uid": "u", "controller": true});
            meta["ownerReferences"] = json!([owner]);
        }
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a pod")
    }

    fn container(&mut self, name: &str) -> Value {
        let mut requests = Map::new();
        if !self.one_in(4) {
            requests.insert("cpu".into(), format!("{}m", self.below(8) * 125).into());
        }
        if !self.one_in(4) {
            requests.insert("memory".into(), format!("{}Mi", self.below(8) * 64).into());
        }
        if self.one_in(10) {
            requests.insert("example.com/gpu".into(), "1".into());
        }
        let mut container = json!({"name": name, "image": self.one_of(&["i1", "i2", "reg:5000/i3:v1", "other"]), "resources": {"requests": requests}});
        if self.one_in(6) {
            let port = json!({"containerPort": 80, "hostPort": 80 + self.below(2), "protocol": self.one_of(&["TCP", "UDP"]),
                "hostIP": self.one_of(&["", "0.0.0.0", "10.0.0.1", "10.0.0.2"])});
            container["ports"] = json!([port]);
        }
        container
    }

    fn toleration(&mut self) -> Value {
        let key = self.one_of(&["k1", "k2", "", "node.kubernetes.io/unschedulable"]);
        let effect = self.one_of(&["", "NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if key.is_empty() || self.one_in(2) {
            return json!({"key": key, "operator": "Exists", "effect": effect});
        }
        json!({"key": key, "operator": "Equal", "value": self.one_of(&["v1", "v2", ""]), "effect": effect})
    }

    fn node_expression(&mut self) -> Value {
        match self.below(5) {
            0 => {
                json!({"key": "cores", "operator": self.one_of(&["Gt", "Lt"]), "values": [self.below(8).to_string()]})
            }
            1 => json!({"key": self.one_of(&KEYS), "operator": self.one_of(&["Exists", "DoesNotExist"])}),
            2 => json!({"key": KEYS[1], "operator": self.one_of(&["In", "NotIn"]), "values": ["z1", "z2"]}),
            _ => {
                json!({"key": "disk", "operator": self.one_of(&["In", "NotIn"]), "values": [self.one_of(&["ssd", "hdd"])]})
            }
        }
    }
    fn node_term(&mut self) -> Value {
        let mut term = json!({});
        if !self.one_in(8) {
            term["matchExpressions"] =
                (0..1 + self.below(2)).map(|_| self.node_expression()).collect::<Vec<_>>().into();
        }
        if self.one_in(6) {
            let name = format!("n{}", self.below(20));
            term["matchFields"] = json!([{"key": "metadata.name", "operator": self.one_of(&["In", "NotIn"]), "values": [name]}]);
        }
        term
    }
    fn put_node_rules(&mut self, spec: &mut Value) {
        if self.one_in(8) {
            spec["nodeSelector"] = json!({"disk": self.one_of(&["ssd", "hdd"])});
        }
        let mut affinity = json!({});
        if self.one_in(5) {
            let terms: Vec<Value> = (0..1 + self.below(2)).map(|_| self.node_term()).collect();
            affinity["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": terms});
        }
        if self.one_in(4) {
            let preferred: Vec<Value> = (0..1 + self.below(3))
                .map(|_| json!({"weight": 1 + self.below(100), "preference": self.node_term()}))
                .collect();
            affinity["preferredDuringSchedulingIgnoredDuringExecution"] = preferred.into();
        }
        spec["affinity"]["nodeAffinity"] = affinity;
    }

    fn selector(&mut self) -> Value {
        match self.below(6) {
            0 => json!({}),
            1 => {
                json!({"matchExpressions": [{"key": "tier", "operator": self.one_of(&["Exists", "DoesNotExist"])}]})
            }
            2 => {
                json!({"matchExpressions": [{"key": "app", "operator": self.one_of(&["In", "NotIn"]), "values": ["a", "b"]}]})
            }
            3 => json!({"matchLabels": {"tier": self.label("tier")}}),
            _ => json!({"matchLabels": {"app": self.label("app")}}),
        }
    }
    fn pod_term(&mut self) -> Value {
        let mut term = json!({"topologyKey": self.one_of(&KEYS[..3]), "labelSelector": self.selector()});
        if self.one_in(4) {
            term["namespaces"] = json!([self.one_of(&NAMESPACES)]);
        }
        if self.one_in(4) {
            term["namespaceSelector"] =
                if self.one_in(3) { json!({}) } else { json!({"matchLabels": {"team": self.label("app")}}) };
        }
        if self.one_in(6) {
            term["matchLabelKeys"] = json!(["tier"]);
        } else if self.one_in(6) {
            term["mismatchLabelKeys"] = json!(["tier"]);
        }
        term
    }
    fn put_pod_rules(&mut self, spec: &mut Value) {
        for (kind, rarity) in [("podAffinity", 6), ("podAntiAffinity", 6)] {
            let mut rules = json!({});
            if self.one_in(rarity) {
                let terms: Vec<Value> = (0..1 + self.below(2)).map(|_| self.pod_term()).collect();
                rules["requiredDuringSchedulingIgnoredDuringExecution"] = terms.into();
            }
            if self.one_in(rarity) {
                let terms: Vec<Value> = (0..1 + self.below(2))
                    .map(|_| json!({"weight": 1 + self.below(100), "podAffinityTerm": self.pod_term()}))
                    .collect();
                rules["preferredDuringSchedulingIgnoredDuringExecution"] = terms.into();
            }
            spec["affinity"][kind] = rules;
        }
        if self.one_in(3) {
            let constraints: Vec<Value> = (0..1 + self.below(2)).map(|_| self.constraint()).collect();
            spec["topologySpreadConstraints"] = constraints.into();
        }
    }
    fn constraint(&mut self) -> Value {
        let unsatisfiable = self.one_of(&["DoNotSchedule", "ScheduleAnyway"]);
        let mut constraint = json!({"maxSkew": 1 + self.below(2), "topologyKey": self.one_of(&KEYS[..3]),
            "whenUnsatisfiable": unsatisfiable, "labelSelector": self.selector()});
        if self.one_in(4) {
            constraint["minDomains"] = (1 + self.below(4)).into();
        }
        if self.one_in(3) {
            constraint["nodeAffinityPolicy"] = self.one_of(&["Honor", "Ignore"]).into();
        }
        if self.one_in(3) {
            constraint["nodeTaintsPolicy"] = self.one_of(&["Honor", "Ignore"]).into();
        }
        if self.one_in(4) {
            constraint["matchLabelKeys"] = json!(["tier"]);
        }
        constraint
    }
}
