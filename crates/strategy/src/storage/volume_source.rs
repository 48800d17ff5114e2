//! Where the bytes of a persistent volume are.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use crate::check::{self, Faults};
use crate::domains::driver_name;
use crate::json::{items, number, set, text, truthy};

/// The sources a volume may have one of, in the order they are looked at.
pub const KINDS: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Text fields each source needs.
const REQUIRED: [(&str, &[&str]); 17] = [
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("nfs", &["server", "path"]),
    ("rbd", &["image"]),
    ("quobyte", &["registry", "volume"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
];

pub fn source(faults: &mut Faults, path: &Path, kind: &str, source: &Value) {
    let at = path.child(kind);
    if let Some((_, names)) = REQUIRED.iter().find(|(name, _)| *name == kind) {
        for name in *names {
            check::required(faults, &at.child(name), &source[*name]);
        }
    }
    let route = text(&source["path"]);
    match kind {
        "hostPath" if !route.is_empty() => {
            check::no_backsteps(faults, &at.child("path"), route);
            check::optional_one_of(faults, &at.child("type"), &source["type"], &HOST_PATH_TYPES);
        }
        "local" if !route.is_empty() => check::no_backsteps(faults, &at.child("path"), route),
        "nfs" if !route.starts_with('/') => {
            faults.push(Error::invalid(&at.child("path"), route, "must be an absolute path"));
        }
        "rbd" | "cephfs" if items(&source["monitors"]).is_empty() => {
            faults.push(Error::required(&at.child("monitors"), ""));
        }
        "iscsi" => iscsi(faults, &at, source),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = number(&source["partition"]);
            if !(0..=255).contains(&partition) {
                let detail = inclusive_range_text(0, 255);
                faults.push(Error::invalid(&at.child("partition"), partition, detail));
            }
        }
        "csi" => csi(faults, &at, source),
        _ => {}
    }
}

fn iscsi(faults: &mut Faults, path: &Path, source: &Value) {
    let iqn = text(&source["iqn"]);
    if !iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|prefix| iqn.starts_with(prefix)) {
        let detail = "must be valid format starting with iqn, eui, or naa";
        faults.push(Error::invalid(&path.child("iqn"), iqn, detail));
    }
    let lun = number(&source["lun"]);
    if !(0..=255).contains(&lun) {
        faults.push(Error::invalid(&path.child("lun"), lun, inclusive_range_text(0, 255)));
    }
    if truthy(&source["chapAuthDiscovery"]) || truthy(&source["chapAuthSession"]) {
        match &source["secretRef"] {
            Value::Null => faults.push(Error::required(&path.child("secretRef"), "")),
            secret => {
                check::required(faults, &path.child("secretRef").child("name"), &secret["name"]);
            }
        }
    }
}

const SECRETS: [&str; 5] = [
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodeStageSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
];

fn csi(faults: &mut Faults, path: &Path, source: &Value) {
    driver_name(faults, &path.child("driver"), text(&source["driver"]));
    check::required(faults, &path.child("volumeHandle"), &source["volumeHandle"]);
    for key in SECRETS.iter().filter(|key| set(&source[**key])) {
        for part in ["name", "namespace"] {
            check::required(faults, &path.child(key).child(part), &source[*key][part]);
        }
    }
}
