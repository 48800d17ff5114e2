//! Volumes of a pod and the containers' mounts of them.

use std::collections::{HashMap, HashSet};

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::volume_source;
use crate::check::{self, Faults, invalid_each};
use crate::json::{items, set, text, truthy};

/// The pod's volumes that are well enough formed to be mounted.
pub struct Volumes<'a> {
    known: HashMap<&'a str, &'a Value>,
}

impl<'a> Volumes<'a> {
    pub fn check(faults: &mut Faults, path: &Path, spec: &'a Value, owner: volume_source::Owner) -> Self {
        let mut known = HashMap::new();
        for (i, volume) in items(&spec["volumes"]).iter().enumerate() {
            let at = path.index(i);
            let name = text(&volume["name"]);
            let mut own = Faults::new();
            volume_source::check(&mut own, &at, volume, owner);
            if name.is_empty() {
                own.push(Error::required(&at.child("name"), ""));
            } else {
                invalid_each(&mut own, &at.child("name"), name, check::dns1123_label(name));
            }
            if known.contains_key(name) {
                own.push(Error::duplicate(&at.child("name"), name));
            }
            if own.is_empty() {
                known.insert(name, volume);
            }
            faults.extend(own);
        }
        claims_of_ephemeral_volumes(faults, path, spec, owner.pod_name);
        Volumes { known }
    }

    fn find(&self, name: &str) -> Option<&'a Value> {
        self.known.get(name).copied()
    }

    pub fn mounts(&self, faults: &mut Faults, path: &Path, container: &Value) {
        let devices = texts_of(&container["volumeDevices"], "name");
        let device_paths = texts_of(&container["volumeDevices"], "devicePath");
        let mut points = HashSet::new();
        for (i, mount) in items(&container["volumeMounts"]).iter().enumerate() {
            let at = path.index(i);
            let (name, point) = (text(&mount["name"]), text(&mount["mountPath"]));
            check::required(faults, &at.child("name"), &mount["name"]);
            if self.find(name).is_none() {
                faults.push(Error::not_found(&at.child("name"), name));
            }
            check::required(faults, &at.child("mountPath"), &mount["mountPath"]);
            if !points.insert(point) {
                faults.push(Error::invalid(&at.child("mountPath"), point, "must be unique"));
            }
            if devices.contains(name) {
                faults.push(Error::invalid(
                    &at.child("name"),
                    name,
                    "must not already exist in volumeDevices",
                ));
            }
            if device_paths.contains(point) {
                let detail = "must not already exist as a path in volumeDevices";
                faults.push(Error::invalid(&at.child("mountPath"), point, detail));
            }
            sub_paths(faults, path, &at, mount);
            propagation(faults, path, mount, container);
        }
    }

    pub fn devices(&self, faults: &mut Faults, path: &Path, container: &Value) {
        let mounts = texts_of(&container["volumeMounts"], "name");
        let mount_paths = texts_of(&container["volumeMounts"], "mountPath");
        let (mut names, mut paths) = (HashSet::new(), HashSet::new());
        for (i, device) in items(&container["volumeDevices"]).iter().enumerate() {
            let at = path.index(i);
            let (name, target) = (text(&device["name"]), text(&device["devicePath"]));
            check::required(faults, &at.child("name"), &device["name"]);
            if names.contains(name) {
                faults.push(Error::invalid(&at.child("name"), name, "must be unique"));
            }
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
            if paths.contains(target) {
                faults.push(Error::invalid(&at.child("devicePath"), target, "must be unique"));
            }
            if target.split('/').any(|part| part == "..") {
                let detail = "can not contain backsteps ('..')";
                faults.push(Error::invalid(&at.child("devicePath"), target, detail));
            } else {
                paths.insert(target);
            }
            if mounts.contains(name) {
                faults.push(Error::invalid(
                    &at.child("name"),
                    name,
                    "must not already exist in volumeMounts",
                ));
            }
            if mount_paths.contains(target) {
                let detail = "must not already exist as a path in volumeMounts";
                faults.push(Error::invalid(&at.child("devicePath"), target, detail));
            }
            if !name.is_empty() {
                names.insert(name);
            }
        }
    }
}

fn texts_of<'a>(list: &'a Value, key: &str) -> HashSet<&'a str> {
    items(list).iter().map(|item| text(&item[key])).collect()
}

/// `list` is the path upstream reports relative paths at, without the index.
fn sub_paths(faults: &mut Faults, list: &Path, at: &Path, mount: &Value) {
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

/// A pod cannot at once name a claim and have it made.
fn claims_of_ephemeral_volumes(faults: &mut Faults, path: &Path, spec: &Value, pod_name: &str) {
    if pod_name.is_empty() {
        return;
    }
    let volumes = items(&spec["volumes"]);
    let made: HashSet<String> = volumes
        .iter()
        .filter(|volume| set(&volume["ephemeral"]))
        .map(|volume| format!("{pod_name}-{}", text(&volume["name"])))
        .collect();
    for (i, volume) in volumes.iter().enumerate() {
        let claim = text(&volume["persistentVolumeClaim"]["claimName"]);
        if made.contains(claim) {
            let at = path.index(i).child("persistentVolumeClaim").child("claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            faults.push(Error::invalid(&at, claim, detail));
        }
    }
}
