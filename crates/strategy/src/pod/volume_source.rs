//! What a volume is made of: one check for each kind of source a pod may name.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use super::containers::PULL_POLICIES;
use super::env::{field_ref, resource_field_ref};
use super::projected;
use super::resources::quantity;
use crate::check::{self, Faults, invalid_each};
use crate::domains::driver_name;
use crate::json::{fields, int, is_empty, items, number, set, text, truthy};

const MODE_TEXT: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MODE_MAX: i64 = 0o777;
const ISCSI_PORTAL_MAX: usize = 64;
const VALID: &str = "must be valid format";
const VALID_START: &str = "must be valid format starting with iqn, eui, or naa";
const QUOBYTE_TENANT_MAX: usize = 64;
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// All kinds of source in the API's order: the first of several is the one that counts.
const KINDS: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
/// Fields that must not be empty, by kind of source.
const REQUIRED: [(&str, &[&str]); 19] = [
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
];

/// Whose volumes are checked.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// Empty for templates, whose pods have no names yet.
    pub pod_name: &'a str,
    pub is_pod: bool,
    /// The picture of a static pod.
    pub is_mirror: bool,
}

pub fn check(faults: &mut Faults, path: &Path, volume: &Value, owner: Owner) {
    let mut count = 0;
    for kind in KINDS.iter().filter(|kind| set(&volume[**kind])) {
        count += 1;
        let (at, source) = (path.child(shown(kind)), &volume[*kind]);
        if count > 1 {
            let at = path.child(shown_beside_another(kind));
            faults.push(Error::forbidden(&at, "may not specify more than 1 volume type"));
            continue;
        }
        of_kind(faults, &at, kind, source);
        match *kind {
            "iscsi" => {
                iscsi(faults, &at, source, false);
                iscsi_length(faults, &path.child("name"), text(&volume["name"]), source, None);
            }
            "csi" => csi(faults, &at, source),
            "ephemeral" => ephemeral(faults, path, volume, owner.pod_name),
            "image" => image(faults, &at, source, owner.is_pod),
            _ => {}
        }
    }
    if count == 0 {
        faults.push(Error::required(path, "must specify a volume type"));
    }
}

/// The name a source has in the paths of its faults: Kubernetes misspells some.
pub fn shown(kind: &str) -> &str {
    if kind == "gcePersistentDisk" { "persistentDisk" } else { kind }
}
pub fn shown_beside_another(kind: &str) -> &str {
    match kind {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        kind => kind,
    }
}

/// What a kind of source needs in a pod and in a persistent volume alike.
pub fn of_kind(faults: &mut Faults, path: &Path, kind: &str, source: &Value) {
    let needed = REQUIRED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, names)| *names);
    for name in needed.iter().filter(|name| is_empty(&source[**name])) {
        faults.push(Error::required(&path.child(name), ""));
    }
    match kind {
        "emptyDir" if quantity(&source["sizeLimit"]).is_some_and(|q| q.is_negative()) => {
            let detail = "SizeLimit field must be a valid resource quantity";
            faults.push(Error::forbidden(&path.child("sizeLimit"), detail));
        }
        "hostPath" => {
            if check::required(faults, &path.child("path"), &source["path"]) {
                check::no_backsteps(faults, &path.child("path"), text(&source["path"]));
                check::optional_one_of(faults, &path.child("type"), &source["type"], &HOST_PATH_TYPES);
            }
        }
        "gitRepo" => {
            check::local_descending_path(faults, &path.child("directory"), text(&source["directory"]));
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => partition(faults, path, source),
        "secret" | "configMap" => {
            mode(faults, &path.child("defaultMode"), &source["defaultMode"]);
            key_paths(faults, &path.child("items"), &source["items"]);
        }
        "nfs" if !text(&source["path"]).starts_with('/') => {
            let value = text(&source["path"]);
            faults.push(Error::invalid(&path.child("path"), value, "must be an absolute path"));
        }
        "downwardAPI" => {
            mode(faults, &path.child("defaultMode"), &source["defaultMode"]);
            items(&source["items"]).iter().for_each(|file| downward_file(faults, path, file));
        }
        "projected" => projected::check(faults, path, source),
        _ => vendor_rules(faults, path, kind, source),
    }
}

/// Sources of one vendor each.
fn vendor_rules(faults: &mut Faults, path: &Path, kind: &str, source: &Value) {
    match kind {
        "fc" => fibre_channel(faults, path, source),
        "flocker" => flocker(faults, path, source),
        "quobyte" => quobyte(faults, path, source),
        "storageos" => storage_os(faults, path, source),
        "azureDisk" => azure_disk(faults, path, source),
        "flexVolume" => flex_options(faults, path, source),
        "cinder" => secret_name(faults, path, source),
        _ => {}
    }
}

fn partition(faults: &mut Faults, path: &Path, source: &Value) {
    let partition = number(&source["partition"]);
    if !(0..=255).contains(&partition) {
        faults.push(Error::invalid(&path.child("partition"), partition, inclusive_range_text(1, 255)));
    }
}

fn secret_name(faults: &mut Faults, path: &Path, source: &Value) {
    if set(&source["secretRef"]) {
        check::required(faults, &path.child("secretRef").child("name"), &source["secretRef"]["name"]);
    }
}

/// A persistent volume has another word for a name of no known kind, and its secret needs a name.
pub fn iscsi(faults: &mut Faults, path: &Path, source: &Value, persistent: bool) {
    let strange = if persistent { VALID } else { VALID_START };
    let fit = |faults: &mut Faults, at: &Path, name: &str| {
        if !["iqn", "eui", "naa"].iter().any(|start| name.starts_with(start)) {
            faults.push(Error::invalid(at, name, strange));
        } else if !iscsi_name(name) {
            faults.push(Error::invalid(at, name, VALID));
        }
    };
    if check::required(faults, &path.child("iqn"), &source["iqn"]) {
        fit(faults, &path.child("iqn"), text(&source["iqn"]));
    }
    let lun = number(&source["lun"]);
    if !(0..=255).contains(&lun) {
        faults.push(Error::invalid(&path.child("lun"), lun, inclusive_range_text(0, 255)));
    }
    let chap = truthy(&source["chapAuthDiscovery"]) || truthy(&source["chapAuthSession"]);
    if chap && !set(&source["secretRef"]) {
        faults.push(Error::required(&path.child("secretRef"), ""));
    }
    if persistent {
        secret_name(faults, path, source);
    }
    if set(&source["initiatorName"]) {
        fit(faults, &path.child("initiatorname"), text(&source["initiatorName"]));
    }
}

/// With an initiator of its own the volume's name counts too. `shown` stands for the name.
pub fn iscsi_length(faults: &mut Faults, at: &Path, name: &str, source: &Value, shown: Option<&str>) {
    let length = name.len() + 1 + text(&source["targetPortal"]).len();
    if set(&source["initiatorName"]) && length > ISCSI_PORTAL_MAX {
        let detail = format!(
            "Total length of <volume name>:<iscsi.targetPortal> must be under {ISCSI_PORTAL_MAX} characters if iscsi.initiatorName is specified."
        );
        faults.push(Error::invalid(at, shown.unwrap_or(name), detail));
    }
}

/// `iqn.2001-04.com.example:disk`, `eui.` with 16 or `naa.` with 32 letters and digits.
fn iscsi_name(name: &str) -> bool {
    let coded =
        |rest: &str, length: usize| rest.len() == length && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(rest) = name.strip_prefix("eui.") {
        return coded(rest, 16);
    }
    if let Some(rest) = name.strip_prefix("naa.") {
        return coded(rest, 32);
    }
    let Some((date, rest)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let Some((authority, unique)) = rest.split_once(':') else { return false };
    let dated = date.len() == 7
        && date.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
    let named = !authority.is_empty()
        && authority.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    dated && named && !unique.is_empty() && !unique.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n'])
}

fn fibre_channel(faults: &mut Faults, path: &Path, source: &Value) {
    let (targets, ids) = (items(&source["targetWWNs"]), items(&source["wwids"]));
    let at = path.child("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        faults.push(Error::required(&at, "must specify either targetWWNs or wwids, but not both"));
    }
    if !targets.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        faults.push(Error::invalid(&at, source["targetWWNs"].clone(), detail));
    }
    if targets.is_empty() {
        return;
    }
    match int(&source["lun"]) {
        None => {
            let detail = "lun is required if targetWWNs is specified";
            faults.push(Error::required(&path.child("lun"), detail));
        }
        Some(lun) if !(0..=255).contains(&lun) => {
            faults.push(Error::invalid(&path.child("lun"), lun, inclusive_range_text(0, 255)));
        }
        Some(_) => {}
    }
}

fn flocker(faults: &mut Faults, path: &Path, source: &Value) {
    let (name, uuid) = (text(&source["datasetName"]), text(&source["datasetUUID"]));
    if name.is_empty() && uuid.is_empty() {
        faults.push(Error::required(path, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        faults.push(Error::invalid(path, "resource", detail));
    }
    if name.contains('/') {
        faults.push(Error::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(faults: &mut Faults, path: &Path, source: &Value) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(&source["registry"]);
    let at = path.child("registry");
    if registry.is_empty() {
        faults.push(Error::required(&at, PAIRS));
    } else if text(&source["tenant"]).len() > QUOBYTE_TENANT_MAX {
        let detail = format!("must be a UUID and may not exceed a length of {QUOBYTE_TENANT_MAX} characters");
        faults.push(Error::required(&path.child("tenant"), detail));
    } else {
        for _ in registry.split(',').filter(|pair| !pair.contains(':')) {
            // Each shows the whole registry.
            if faults.is_full() {
                break;
            }
            faults.push(Error::invalid(&at, registry, PAIRS));
        }
    }
    check::required(faults, &path.child("volume"), &source["volume"]);
}

fn storage_os(faults: &mut Faults, path: &Path, source: &Value) {
    let (name, namespace) = (text(&source["volumeName"]), text(&source["volumeNamespace"]));
    if check::required(faults, &path.child("volumeName"), &source["volumeName"]) {
        invalid_each(faults, &path.child("volumeName"), name, check::dns1123_label(name));
    }
    if !namespace.is_empty() {
        invalid_each(faults, &path.child("volumeNamespace"), namespace, check::dns1123_label(namespace));
    }
    secret_name(faults, path, source);
}

fn azure_disk(faults: &mut Faults, path: &Path, source: &Value) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let caching = ["None", "ReadOnly", "ReadWrite"];
    check::optional_one_of(faults, &path.child("cachingMode"), &source["cachingMode"], &caching);
    let kinds = ["Dedicated", "Managed", "Shared"];
    check::optional_one_of(faults, &path.child("kind"), &source["kind"], &kinds);
    if !set(&source["kind"]) {
        return;
    }
    let uri = text(&source["diskURI"]);
    let (prefix, shape) =
        if source["kind"] == "Managed" { ("/subscriptions/", MANAGED) } else { ("https://", BLOB) };
    if !uri.starts_with(prefix) {
        faults.push(Error::not_supported(&path.child("diskURI"), uri, &[shape]));
    }
}

fn flex_options(faults: &mut Faults, path: &Path, source: &Value) {
    for (key, _) in fields(&source["options"]) {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let dotted = format!(".{}", namespace.to_lowercase());
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            faults.push(Error::invalid(&path.child("options").key(key), key, detail));
        }
    }
}

fn csi(faults: &mut Faults, path: &Path, source: &Value) {
    driver_name(faults, &path.child("driver"), text(&source["driver"]));
    if set(&source["nodePublishSecretRef"]) {
        let name = text(&source["nodePublishSecretRef"]["name"]);
        let at = path.child("nodePublishSecretRef").child("name");
        if check::required(faults, &at, &source["nodePublishSecretRef"]["name"]) {
            invalid_each(faults, &path.child("name"), name, check::dns1123_subdomain(name));
        }
    }
}

fn ephemeral(faults: &mut Faults, path: &Path, volume: &Value, pod_name: &str) {
    let template = &volume["ephemeral"]["volumeClaimTemplate"];
    let at = path.child("ephemeral").child("volumeClaimTemplate");
    if set(template) {
        let metadata_path = at.child("metadata");
        let metadata = &template["metadata"];
        crate::metadata::annotations(faults, &metadata_path.child("annotations"), &metadata["annotations"]);
        check::labels(faults, &metadata_path.child("labels"), &metadata["labels"]);
        for (key, value) in fields(metadata) {
            if !["annotations", "labels"].contains(&key) && !is_empty(value) {
                faults.push(Error::forbidden(&metadata_path.child(key), "cannot be set"));
            }
        }
        crate::storage::claim_spec(faults, &at.child("spec"), &template["spec"]);
    } else {
        faults.push(Error::required(&at, ""));
    }
    let name = text(&volume["name"]);
    if !pod_name.is_empty() && !name.is_empty() {
        let claim = format!("{pod_name}-{name}");
        for message in check::dns1123_subdomain(&claim) {
            let detail = format!("PVC name \"{claim}\": {message}");
            faults.push(Error::invalid(&path.child("name"), name, detail));
        }
    }
}

/// A template may leave the image open for its pods.
fn image(faults: &mut Faults, path: &Path, source: &Value, is_pod: bool) {
    if is_pod {
        check::required(faults, &path.child("reference"), &source["reference"]);
    }
    check::one_of(faults, &path.child("pullPolicy"), &source["pullPolicy"], &PULL_POLICIES);
}

pub fn mode(faults: &mut Faults, path: &Path, value: &Value) {
    if let Some(mode) = int(value).filter(|mode| !(0..=MODE_MAX).contains(mode)) {
        faults.push(Error::invalid(path, mode, MODE_TEXT));
    }
}

fn key_paths(faults: &mut Faults, path: &Path, list: &Value) {
    for (i, item) in items(list).iter().enumerate() {
        key_path(faults, &path.index(i), item);
    }
}

pub fn key_path(faults: &mut Faults, path: &Path, item: &Value) {
    check::required(faults, &path.child("key"), &item["key"]);
    check::required(faults, &path.child("path"), &item["path"]);
    check::local_path(faults, &path.child("path"), text(&item["path"]));
    mode(faults, &path.child("mode"), &item["mode"]);
}

pub fn downward_file(faults: &mut Faults, path: &Path, file: &Value) {
    check::required(faults, &path.child("path"), &file["path"]);
    check::local_path(faults, &path.child("path"), text(&file["path"]));
    match (set(&file["fieldRef"]), set(&file["resourceFieldRef"])) {
        (true, both) => {
            field_ref(faults, &path.child("fieldRef"), &file["fieldRef"], &FILE_FIELDS);
            if both {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                faults.push(Error::invalid(path, "resource", detail));
            }
        }
        (false, true) => {
            resource_field_ref(faults, &path.child("resourceFieldRef"), &file["resourceFieldRef"], true);
        }
        (false, false) => {
            faults.push(Error::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    mode(faults, &path.child("mode"), &file["mode"]);
}
