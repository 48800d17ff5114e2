//! Where the bytes of a persistent volume are.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{self, Faults};
use crate::domains::driver_name;
use crate::json::{set, text};
use crate::pod::volume_source;

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

/// `spec` is the volume's, at `path`; `name` is empty for the copy a VolumeAttachment carries.
pub fn source(faults: &mut Faults, path: &Path, kind: &str, spec: &Value, name: &str) {
    let (at, source) = (path.child(volume_source::shown(kind)), &spec[kind]);
    volume_source::of_kind(faults, &at, kind, source);
    match kind {
        "iscsi" => {
            let portal = text(&source["targetPortal"]);
            volume_source::iscsi_length(faults, &at.child("targetportal"), name, source, Some(portal));
            volume_source::iscsi(faults, &at, source, true);
        }
        "local" => {
            check::required(faults, &at.child("path"), &source["path"]);
            check::no_backsteps(faults, &at.child("path"), text(&source["path"]));
        }
        "cinder" | "storageos" if set(&source["secretRef"]) => {
            let at = at.child("secretRef").child("namespace");
            check::required(faults, &at, &source["secretRef"]["namespace"]);
        }
        "azureFile" if set(&source["secretNamespace"]) => {
            check::required(faults, &at.child("secretNamespace"), &source["secretNamespace"]);
        }
        "glusterfs" if set(&source["endpointsNamespace"]) => {
            endpoints_namespace(faults, &at.child("endpointsNamespace"), text(&source["endpointsNamespace"]));
        }
        "csi" => csi(faults, &at, source),
        _ => {}
    }
}

fn endpoints_namespace(faults: &mut Faults, path: &Path, namespace: &str) {
    if namespace.is_empty() {
        let detail = "if the endpointnamespace is set, it must be a valid namespace name";
        faults.push(Error::invalid(path, namespace, detail));
    } else {
        check::invalid_each(faults, path, namespace, check::dns1123_label(namespace));
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
