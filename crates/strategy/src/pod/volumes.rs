//! Volumes of a pod and the containers' mounts of them.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use super::containers::{PULL_POLICIES, field_ref, resource_field_ref};
use super::resources::quantity;
use crate::check::{self, Faults, invalid_each};
use crate::json::{fields, int, items, number, set, text, truthy};

const MODE_TEXT: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MODE_MAX: i64 = 0o777;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// The texts that must not be empty, by kind of source.
const REQUIRED_TEXTS: [(&str, &[&str]); 14] = [
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("gitRepo", &["repository"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["image"]),
    ("cinder", &["volumeID"]),
    ("azureFile", &["secretName", "shareName"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("flexVolume", &["driver"]),
    ("vsphereVolume", &["volumePath"]),
    ("portworxVolume", &["volumeID"]),
    ("persistentVolumeClaim", &["claimName"]),
];

/// The pod's volumes that are well enough formed to be mounted.
pub struct Volumes<'a> {
    known: Vec<&'a Value>,
}

impl<'a> Volumes<'a> {
    pub fn check(faults: &mut Faults, path: &Path, spec: &'a Value, pod_name: &str) -> Self {
        let mut known: Vec<&Value> = Vec::new();
        for (i, volume) in items(&spec["volumes"]).iter().enumerate() {
            let at = path.index(i);
            let name = text(&volume["name"]);
            let mut own = Faults::new();
            source(&mut own, &at, volume, pod_name);
            if name.is_empty() {
                own.push(Error::required(&at.child("name"), ""));
            } else {
                invalid_each(&mut own, &at.child("name"), name, check::dns1123_label(name));
                if known.iter().any(|v| text(&v["name"]) == name) {
                    own.push(Error::duplicate(&at.child("name"), name));
                }
            }
            if own.is_empty() {
                known.push(volume);
            }
            faults.extend(own);
        }
        Volumes { known }
    }

    fn find(&self, name: &str) -> Option<&'a Value> {
        self.known.iter().find(|v| text(&v["name"]) == name).copied()
    }

    pub fn mounts(&self, faults: &mut Faults, path: &Path, container: &Value) {
        let devices = items(&container["volumeDevices"]);
        let mut points: Vec<&str> = Vec::new();
        for (i, mount) in items(&container["volumeMounts"]).iter().enumerate() {
            let at = path.index(i);
            let (name, point) = (text(&mount["name"]), text(&mount["mountPath"]));
            check::required(faults, &at.child("name"), &mount["name"]);
            let volume = self.find(name);
            if volume.is_none() {
                faults.push(Error::not_found(&at.child("name"), name));
            }
            check::required(faults, &at.child("mountPath"), &mount["mountPath"]);
            if points.contains(&point) {
                faults.push(Error::invalid(&at.child("mountPath"), point, "must be unique"));
            }
            points.push(point);
            if devices.iter().any(|d| text(&d["name"]) == name) {
                faults.push(Error::invalid(
                    &at.child("name"),
                    name,
                    "must not already exist in volumeDevices",
                ));
            }
            if devices.iter().any(|d| text(&d["devicePath"]) == point) {
                let detail = "must not already exist as a path in volumeDevices";
                faults.push(Error::invalid(&at.child("mountPath"), point, detail));
            }
            sub_paths(faults, path, &at, mount, volume);
            propagation(faults, path, mount, container);
        }
    }

    pub fn devices(&self, faults: &mut Faults, path: &Path, container: &Value) {
        let mounts = items(&container["volumeMounts"]);
        let (mut names, mut paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        for (i, device) in items(&container["volumeDevices"]).iter().enumerate() {
            let at = path.index(i);
            let (name, target) = (text(&device["name"]), text(&device["devicePath"]));
            check::required(faults, &at.child("name"), &device["name"]);
            if names.contains(&name) {
                faults.push(Error::invalid(&at.child("name"), name, "must be unique"));
            }
            names.push(name);
            match self.find(name) {
                None => faults.push(Error::not_found(&at.child("name"), name)),
                Some(v) if set(&v["persistentVolumeClaim"]) || set(&v["ephemeral"]) => {}
                Some(_) => faults.push(Error::invalid(
                    &at.child("name"),
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                )),
            }
            check::required(faults, &at.child("devicePath"), &device["devicePath"]);
            if paths.contains(&target) {
                faults.push(Error::invalid(&at.child("devicePath"), target, "must be unique"));
            }
            paths.push(target);
            if target.split('/').any(|part| part == "..") {
                let detail = "can not contain backsteps ('..')";
                faults.push(Error::invalid(&at.child("devicePath"), target, detail));
            }
            if mounts.iter().any(|m| text(&m["name"]) == name) {
                faults.push(Error::invalid(
                    &at.child("name"),
                    name,
                    "must not already exist in volumeMounts",
                ));
            }
            if mounts.iter().any(|m| text(&m["mountPath"]) == target) {
                let detail = "must not already exist as a path in volumeMounts";
                faults.push(Error::invalid(&at.child("devicePath"), target, detail));
            }
        }
    }
}

/// `list` is the path upstream reports relative paths at, without the index.
fn sub_paths(faults: &mut Faults, list: &Path, at: &Path, mount: &Value, volume: Option<&Value>) {
    let (plain, expression) = (text(&mount["subPath"]), text(&mount["subPathExpr"]));
    if !plain.is_empty() {
        check::local_descending_path(faults, &list.child("subPath"), plain);
    }
    if !expression.is_empty() {
        if !plain.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            faults.push(Error::invalid(&at.child("subPathExpr"), expression, detail));
        }
        check::local_descending_path(faults, &list.child("subPathExpr"), expression);
    }
    if volume.is_some_and(|v| set(&v["image"])) && !expression.is_empty() {
        let detail = "not allowed in image volume sources";
        faults.push(Error::invalid(&at.child("subPathExpr"), expression, detail));
    }
}

fn propagation(faults: &mut Faults, list: &Path, mount: &Value, container: &Value) {
    let mode = &mount["mountPropagation"];
    let at = list.child("mountPropagation");
    check::optional_one_of(faults, &at, mode, &["Bidirectional", "HostToContainer", "None"]);
    if text(mode) == "Bidirectional" && !truthy(&container["securityContext"]["privileged"]) {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        faults.push(Error::forbidden(&at, detail));
    }
    let recursive = &mount["recursiveReadOnly"];
    let at = list.child("recursiveReadOnly");
    check::optional_one_of(faults, &at, recursive, &["Disabled", "Enabled", "IfPossible"]);
    if ["Enabled", "IfPossible"].contains(&text(recursive)) {
        if !truthy(&mount["readOnly"]) {
            faults.push(Error::forbidden(&at, "may only be specified when readOnly is true"));
        }
        if set(mode) && text(mode) != "None" {
            let detail = "may only be specified when mountPropagation is None or not specified";
            faults.push(Error::forbidden(&at, detail));
        }
    }
}

fn source(faults: &mut Faults, path: &Path, volume: &Value, pod_name: &str) {
    let mut count = 0;
    for (kind, source) in fields(volume).filter(|(key, value)| *key != "name" && set(value)) {
        count += 1;
        let at = path.child(kind);
        if count > 1 {
            faults.push(Error::forbidden(&at, "may not specify more than 1 volume type"));
            continue;
        }
        if let Some((_, names)) = REQUIRED_TEXTS.iter().find(|(name, _)| *name == kind) {
            for name in *names {
                check::required(faults, &at.child(name), &source[*name]);
            }
        }
        match kind {
            "emptyDir" => empty_dir(faults, &at, source),
            "hostPath" => host_path(faults, &at, source),
            "secret" => {
                check::required(faults, &at.child("secretName"), &source["secretName"]);
                mode(faults, &at.child("defaultMode"), &source["defaultMode"]);
                key_paths(faults, &at.child("items"), &source["items"]);
            }
            "configMap" => {
                check::required(faults, &at.child("name"), &source["name"]);
                mode(faults, &at.child("defaultMode"), &source["defaultMode"]);
                key_paths(faults, &at.child("items"), &source["items"]);
            }
            "downwardAPI" => {
                mode(faults, &at.child("defaultMode"), &source["defaultMode"]);
                items(&source["items"]).iter().for_each(|file| downward_file(faults, &at, file));
            }
            "projected" => projected(faults, &at, source),
            "nfs" if !text(&source["path"]).starts_with('/') => {
                let value = text(&source["path"]);
                faults.push(Error::invalid(&at.child("path"), value, "must be an absolute path"));
            }
            "iscsi" => iscsi(faults, &at, source),
            "csi" => csi(faults, &at, source),
            "ephemeral" => ephemeral(faults, &at, source, pod_name, text(&volume["name"])),
            "image" => {
                if text(&source["reference"]).is_empty() {
                    faults.push(Error::required(&at.child("reference"), ""));
                }
                check::one_of(faults, &at.child("pullPolicy"), &source["pullPolicy"], &PULL_POLICIES);
            }
            _ => {}
        }
    }
    if count == 0 {
        faults.push(Error::required(path, "must specify a volume type"));
    }
}

fn empty_dir(faults: &mut Faults, path: &Path, source: &Value) {
    let limit = &source["sizeLimit"];
    if quantity(limit).is_some_and(|q| q.is_negative()) {
        faults.push(Error::forbidden(
            &path.child("sizeLimit"),
            "SizeLimit field must be a valid resource quantity",
        ));
    }
}

fn host_path(faults: &mut Faults, path: &Path, source: &Value) {
    if check::required(faults, &path.child("path"), &source["path"]) {
        check::no_backsteps(faults, &path.child("path"), text(&source["path"]));
        check::optional_one_of(faults, &path.child("type"), &source["type"], &HOST_PATH_TYPES);
    }
}

fn iscsi(faults: &mut Faults, path: &Path, source: &Value) {
    let iqn = text(&source["iqn"]);
    if !iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|p| iqn.starts_with(p)) {
        let detail = "must be valid format starting with iqn, eui, or naa";
        faults.push(Error::invalid(&path.child("iqn"), iqn, detail));
    }
    let lun = number(&source["lun"]);
    if !(0..=255).contains(&lun) {
        faults.push(Error::invalid(&path.child("lun"), lun, inclusive_range_text(0, 255)));
    }
    let chap = truthy(&source["chapAuthDiscovery"]) || truthy(&source["chapAuthSession"]);
    if chap && !set(&source["secretRef"]) {
        faults.push(Error::required(&path.child("secretRef"), ""));
    }
}

fn csi(faults: &mut Faults, path: &Path, source: &Value) {
    let driver = text(&source["driver"]);
    if check::required(faults, &path.child("driver"), &source["driver"]) {
        if driver.len() > 63 {
            faults.push(Error::too_long(&path.child("driver"), 63));
        }
        let lower = driver.to_lowercase();
        invalid_each(faults, &path.child("driver"), driver, check::dns1123_subdomain(&lower));
    }
    if set(&source["nodePublishSecretRef"]) {
        let at = path.child("nodePublishSecretRef").child("name");
        check::required(faults, &at, &source["nodePublishSecretRef"]["name"]);
    }
}

fn ephemeral(faults: &mut Faults, path: &Path, source: &Value, pod_name: &str, volume: &str) {
    let at = path.child("volumeClaimTemplate");
    if set(&source["volumeClaimTemplate"]) {
        crate::storage::claim_spec(faults, &at.child("spec"), &source["volumeClaimTemplate"]["spec"]);
    } else {
        faults.push(Error::required(&at, ""));
    }
    if !pod_name.is_empty() && !volume.is_empty() {
        let claim = format!("{pod_name}-{volume}");
        for message in check::dns1123_subdomain(&claim) {
            let detail = format!("PVC name \"{claim}\": {message}");
            faults.push(Error::invalid(&path.child("name"), volume, detail));
        }
    }
}

fn mode(faults: &mut Faults, path: &Path, value: &Value) {
    if let Some(mode) = int(value).filter(|mode| !(0..=MODE_MAX).contains(mode)) {
        faults.push(Error::invalid(path, mode, MODE_TEXT));
    }
}

fn key_paths(faults: &mut Faults, path: &Path, list: &Value) {
    for (i, item) in items(list).iter().enumerate() {
        let at = path.index(i);
        check::required(faults, &at.child("key"), &item["key"]);
        check::required(faults, &at.child("path"), &item["path"]);
        check::local_path(faults, &at.child("path"), text(&item["path"]));
        mode(faults, &at.child("mode"), &item["mode"]);
    }
}

fn downward_file(faults: &mut Faults, path: &Path, file: &Value) {
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

fn projected(faults: &mut Faults, path: &Path, volume: &Value) {
    mode(faults, &path.child("defaultMode"), &volume["defaultMode"]);
    let mut taken: Vec<String> = Vec::new();
    for (i, source) in items(&volume["sources"]).iter().enumerate() {
        let at = path.child("sources").index(i);
        let kinds: Vec<(&str, &Value)> = fields(source).filter(|(_, value)| set(value)).collect();
        for (kind, projection) in &kinds {
            projection_source(faults, path, &at.child(kind), kind, projection);
            let files: Vec<&str> = match *kind {
                "clusterTrustBundle" | "serviceAccountToken" => vec![text(&projection["path"])],
                _ => items(&projection["items"]).iter().map(|item| text(&item["path"])).collect(),
            };
            for file in files.into_iter().filter(|file| !file.is_empty()) {
                if *kind != "serviceAccountToken" && taken.iter().any(|t| t == file) {
                    let shown = match *kind {
                        "secret" | "configMap" => text(&projection["name"]),
                        _ => file,
                    };
                    faults.push(Error::invalid(path, shown, "conflicting duplicate paths"));
                } else if *kind != "serviceAccountToken" {
                    taken.push(file.to_owned());
                }
            }
        }
        if kinds.len() > 1 {
            faults.push(Error::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn projection_source(faults: &mut Faults, volume: &Path, path: &Path, kind: &str, source: &Value) {
    match kind {
        "secret" | "configMap" => {
            check::required(faults, &path.child("name"), &source["name"]);
            key_paths(faults, &path.child("items"), &source["items"]);
        }
        "downwardAPI" => items(&source["items"]).iter().for_each(|file| downward_file(faults, path, file)),
        "serviceAccountToken" => {
            let seconds = number(&source["expirationSeconds"]);
            let at = path.child("expirationSeconds");
            if seconds < TOKEN_SECONDS_MIN {
                let detail = "may not specify a duration less than 10 minutes";
                faults.push(Error::invalid(&at, seconds, detail));
            }
            if seconds > TOKEN_SECONDS_MAX {
                let detail = "may not specify a duration larger than 2^32 seconds";
                faults.push(Error::invalid(&at, seconds, detail));
            }
            if check::required(faults, &volume.child("path"), &source["path"]) {
                check::local_path(faults, &volume.child("path"), text(&source["path"]));
            }
        }
        "clusterTrustBundle" => {
            match (set(&source["name"]), set(&source["signerName"])) {
                (true, true) => {
                    let detail = "only one of name and signerName may be used";
                    faults.push(Error::invalid(path, source.clone(), detail));
                }
                (false, false) => {
                    faults.push(Error::required(path, "either name or signerName must be specified"));
                }
                _ => {}
            }
            check::required(faults, &path.child("path"), &source["path"]);
            check::local_path(faults, &path.child("path"), text(&source["path"]));
        }
        _ => {}
    }
}
