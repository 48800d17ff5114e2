//! Fields of features that are off at this API level. They are taken out of what clients send, as
//! long as the stored object does not already use them.

use serde_json::Value;

use super::{CONTAINER_LISTS, STATUS_LISTS};
use crate::json::{each, fields, is_empty, items, remove, set, with};

/// The spec of a pod or template; `old` is null at creation.
pub fn from_spec(spec: &mut Value, old: &Value) {
    if !set(&old["workloadRef"]) {
        remove(spec, "workloadRef");
    }
    for source in ["clusterTrustBundle", "podCertificate"] {
        if !projects(old, source) {
            each(spec, "volumes", |volume| {
                with(volume, "projected", |projected| each(projected, "sources", |s| remove(s, source)));
            });
        }
    }
    if !stops_by_signal(old) {
        for list in CONTAINER_LISTS {
            each(spec, list, |container| {
                if !set(&container["lifecycle"]["stopSignal"]) {
                    return;
                }
                with(container, "lifecycle", |lifecycle| remove(lifecycle, "stopSignal"));
                if is_empty(&container["lifecycle"]) {
                    remove(container, "lifecycle");
                }
            });
        }
    }
}

fn projects(spec: &Value, source: &str) -> bool {
    items(&spec["volumes"])
        .iter()
        .flat_map(|volume| items(&volume["projected"]["sources"]))
        .any(|projection| set(&projection[source]))
}

fn stops_by_signal(spec: &Value) -> bool {
    CONTAINER_LISTS.iter().flat_map(|list| items(&spec[*list])).any(|c| set(&c["lifecycle"]["stopSignal"]))
}

pub fn from_template(template: &mut Value, old: &Value) {
    with(template, "spec", |spec| from_spec(spec, &old["spec"]));
}

/// The status of a pod.
pub fn from_status(status: &mut Value, old: &Value) {
    let amounts = ["resources", "allocatedResources"];
    if amounts.iter().all(|key| !set(&old[*key])) {
        amounts.iter().for_each(|key| remove(status, key));
    }
    if !set(&old["extendedResourceClaimStatus"]) {
        remove(status, "extendedResourceClaimStatus");
    }
    for list in STATUS_LISTS {
        if items(&status[list]).iter().any(|s| fields(s).any(|(key, _)| key == "allocatedResourcesStatus")) {
            each(status, list, |container| remove(container, "allocatedResourcesStatus"));
        }
    }
}
