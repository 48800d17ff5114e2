//! What schedulers and drivers report on a claim.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::claim::{LIST_MAX, RequestNames, configuration};
use super::{each_of, label, opaque, pool_name, set_of};
use crate::addresses::interface_address;
use crate::check::{self, Faults};
use crate::conditions;
use crate::domains::driver_name;
use crate::json::{each, items, remove, same, set, text, with};
use crate::pod::scheduling::node_selector;

const CONSUMERS_MAX: usize = 256;
const CONDITIONS_MAX: usize = 8;
const ADDRESSES_MAX: usize = 16;
const INTERFACE_BYTES_MAX: usize = 256;
const HARDWARE_BYTES_MAX: usize = 128;

pub fn without_features(status: &mut Value) {
    with(status, "allocation", |allocation| {
        remove(allocation, "allocationTimestamp");
        with(allocation, "devices", |devices| {
            each(devices, "results", |result| {
                for key in [
                    "tolerations",
                    "bindingConditions",
                    "bindingFailureConditions",
                    "shareID",
                    "consumedCapacity",
                ] {
                    remove(result, key);
                }
            });
        });
    });
    each(status, "devices", |device| remove(device, "shareID"));
}

pub fn change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    let (status, before) = (&new["status"], &old["status"]);
    let reserved = path.child("reservedFor");
    set_of(
        &mut faults,
        &reserved,
        &status["reservedFor"],
        CONSUMERS_MAX,
        |c| &c["uid"],
        |faults, at, consumer| {
            for key in ["resource", "name", "uid"] {
                check::required(faults, &at.child(key), &consumer[key]);
            }
        },
    );
    let results = items(&status["allocation"]["devices"]["results"]);
    let devices = items(&status["devices"]);
    let allocated: HashSet<_> = results.iter().map(id).collect();
    for (i, device) in devices.iter().enumerate() {
        let at = path.child("devices").index(i);
        reported(&mut faults, &at, device, &allocated);
    }
    let mut seen = HashSet::new();
    for (i, device) in devices.iter().enumerate() {
        if !seen.insert(id(device)) {
            faults.push(Error::duplicate(&path.child("devices").index(i), shown(device)));
        }
    }
    consumers(&mut faults, &reserved, new, old);
    let (allocation, at) = (&status["allocation"], path.child("allocation"));
    if set(allocation) && set(&before["allocation"]) {
        if !same(allocation, &before["allocation"]) {
            faults.push(Error::invalid(&at, allocation.clone(), check::IMMUTABLE));
        }
    } else if set(allocation) {
        self::allocation(&mut faults, &at, allocation, &RequestNames::of(&new["spec"]["devices"]));
    }
    faults
}

fn consumers(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    let now = items(&new["status"]["reservedFor"]);
    if now.is_empty() {
        return;
    }
    if !set(&new["status"]["allocation"]) {
        let detail = "may not be specified when `allocated` is not set";
        faults.push(Error::forbidden(path, detail));
        return;
    }
    let before = items(&old["status"]["reservedFor"]);
    if set(&new["metadata"]["deletionTimestamp"]) && now.iter().any(|consumer| !before.contains(consumer)) {
        let detail =
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        faults.push(Error::forbidden(path, detail));
    }
}

fn id(device: &Value) -> [&str; 3] {
    ["driver", "pool", "device"].map(|key| text(&device[key]))
}

fn shown(device: &Value) -> Value {
    id(device).join("/").into()
}

fn reported(faults: &mut Faults, path: &Path, device: &Value, allocated: &HashSet<[&str; 3]>) {
    driver_name(faults, &path.child("driver"), text(&device["driver"]));
    pool_name(faults, &path.child("pool"), text(&device["pool"]));
    label(faults, &path.child("device"), text(&device["device"]));
    if !allocated.contains(&id(device)) {
        let detail = "must be an allocated device in the claim";
        faults.push(Error::invalid(path, shown(device), detail));
    }
    let count = items(&device["conditions"]).len();
    if count > CONDITIONS_MAX {
        faults.push(Error::too_many(&path.child("conditions"), count, CONDITIONS_MAX));
    }
    conditions::check(faults, &path.child("conditions"), &device["conditions"]);
    if set(&device["data"]) {
        opaque(faults, &path.child("data"), &device["data"]);
    }
    let (network, at) = (&device["networkData"], path.child("networkData"));
    for (key, max) in [("interfaceName", INTERFACE_BYTES_MAX), ("hardwareAddress", HARDWARE_BYTES_MAX)] {
        if text(&network[key]).len() > max {
            faults.push(Error::too_long(&at.child(key), max));
        }
    }
    let check = |faults: &mut Faults, at: &Path, ip: &Value| interface_address(faults, at, text(ip));
    set_of(faults, &at.child("ips"), &network["ips"], ADDRESSES_MAX, |ip| ip, check);
}

fn allocation(faults: &mut Faults, path: &Path, allocation: &Value, names: &RequestNames) {
    let (devices, at) = (&allocation["devices"], path.child("devices"));
    each_of(faults, &at.child("results"), &devices["results"], LIST_MAX, |faults, at, result| {
        names.check(faults, &at.child("request"), text(&result["request"]));
        driver_name(faults, &at.child("driver"), text(&result["driver"]));
        pool_name(faults, &at.child("pool"), text(&result["pool"]));
        label(faults, &at.child("device"), text(&result["device"]));
    });
    // Those of the class and those of the claim.
    each_of(faults, &at.child("config"), &devices["config"], 2 * LIST_MAX, |faults, at, config| {
        let sources = ["FromClaim", "FromClass"];
        check::one_of(faults, &at.child("source"), &config["source"], &sources);
        names.check_all(faults, &at.child("requests"), &config["requests"]);
        configuration(faults, at, config);
    });
    if set(&allocation["nodeSelector"]) {
        node_selector(faults, &path.child("nodeSelector"), &allocation["nodeSelector"]);
    }
}
