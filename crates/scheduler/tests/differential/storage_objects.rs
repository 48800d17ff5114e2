//! Storage objects at random: few names, so that they meet.

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use serde_json::{Value, json};

use crate::random::{NAMESPACES, Random};
use crate::volumes::{DRIVER, MIGRATED, PLUGIN, SUCCESSOR, ZONE};

const CLASSES: [&str; 3] = ["late", "hand", "soon"];

fn from<T: Resource>(object: Value) -> T {
    T::decode(object.to_string().as_bytes()).expect("an object")
}

/// A volume's driver is the same whenever it is CSI's, so that who attaches it is no other.
fn driver_of(volume: u64) -> &'static str {
    if volume < 6 { DRIVER } else { SUCCESSOR }
}

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
        let classes = if self.about_storage {
            &["late", "hand"][..]
        } else {
            &["late", "late", "hand", "hand", "soon"]
        };
        let mut annotations = json!({});
        let mut spec = json!({"storageClassName": self.one_of(classes),
            "accessModes": [self.one_of(&["ReadWriteOnce", "ReadWriteOnce", "ReadOnlyMany", "ReadWriteOncePod"])],
            "resources": {"requests": {"storage": format!("{}Gi", 1 + self.below(4))}}});
        let kinds = if self.about_storage { 9 } else { 6 };
        match self.below(kinds) {
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
        let handle = format!("h{}", self.below(8));
        match self.below(4) {
            0 | 1 => {
                spec["csi"] = json!({"driver": driver_of(index), "volumeHandle": handle});
            }
            2 => spec["awsElasticBlockStore"] = json!({"volumeID": handle}),
            _ => {}
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
        let drivers = [DRIVER, SUCCESSOR]
            .map(|driver| json!({"name": driver, "nodeID": name, "allocatable": {"count": self.below(4)}}));
        let migrated =
            self.one_of(&["", "kubernetes.io/gce-pd", PLUGIN, "kubernetes.io/cinder,kubernetes.io/aws-ebs"]);
        let meta = json!({"name": name, "annotations": {MIGRATED: migrated}});
        from(json!({"metadata": meta, "spec": {"drivers": drivers}}))
    }
    pub fn attachment(&mut self) -> VolumeAttachment {
        let index = self.below(9);
        let source = json!({"persistentVolumeName": format!("v{index}")});
        let spec = json!({"attacher": driver_of(index), "nodeName": format!("n{}", self.below(20)), "source": source});
        from(json!({"metadata": {"name": format!("a{}", self.below(9))}, "spec": spec}))
    }
    /// Whether the driver says how much room it has.
    pub fn driver(&mut self) -> CSIDriver {
        from(json!({"metadata": {"name": DRIVER}, "spec": {"storageCapacity": !self.one_in(4)}}))
    }
    pub fn capacity(&mut self) -> CSIStorageCapacity {
        let name = format!("r{}", self.below(2));
        let mut capacity = json!({"metadata": {"name": name, "namespace": "ns"},
            "storageClassName": self.one_of(&["late", "late", "late", "hand"]), "capacity": format!("{}Gi", self.below(4))});
        if self.one_in(4) {
            capacity["maximumVolumeSize"] = format!("{}Gi", 1 + self.below(3)).into();
        }
        if !self.one_in(8) {
            capacity["nodeTopology"] = match self.below(3) {
                0 => json!({}),
                1 => json!({"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["hdd"]}]}),
                _ => json!({"matchLabels": {ZONE: self.one_of(&["z1", "z2", "z3"])}}),
            };
        }
        from(capacity)
    }
}
