//! Pods: the strategy, put together from defaults, the shared spec checks and the update rules.

mod annotations;
mod containers;
pub mod defaults;
pub mod dropped;
mod env;
mod probe;
mod projected;
mod resize;
pub mod resources;
pub mod scheduling;
mod security;
pub mod spec;
mod status;
pub mod tolerated;
mod update;
pub mod volume_source;
mod volumes;
pub mod warnings;
mod windows;

#[cfg(test)]
mod tests;

use amphipod_api::field::{Error, Path};
use serde_json::{Map, Value, json};

use crate::check::Faults;
use crate::contract::{Context, Graceful, Strategy, Warnings};
use crate::json::{copy, int, items, number, put, remove, same, set, text, with};
use crate::metadata::{self, NameRule};

/// On pods the kubelet runs from a file: the API object only mirrors them.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Where a pod keeps its containers, in the order in which they start.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Where its status tells of them.
const STATUS_LISTS: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];

/// Calls `f` with each container of a pod spec and the path it stands at.
fn visit<'a>(spec: &'a Value, path: &Path, mut f: impl FnMut(&'a Value, Path)) {
    for list in CONTAINER_LISTS {
        for (i, container) in items(&spec[list]).iter().enumerate() {
            f(container, path.child(list).index(i));
        }
    }
}

pub struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        defaults::pod(object);
    }

    fn prepare_create(&self, _context: &Context, object: &mut Value) {
        self.default(object);
        let class = resources::qos_class(&object["spec"]);
        let mut status = json!({"phase": "Pending", "qosClass": class});
        if !items(&object["spec"]["schedulingGates"]).is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null, "lastTransitionTime": null
            }]);
        }
        put(object, "status", status);
        if object["metadata"].is_object() {
            put(&mut object["metadata"], "generation", 1);
        }
        with(object, "spec", |spec| dropped::from_spec(spec, &Value::Null));
        annotations::fill_apparmor(object);
        scheduling::merge_label_keys(object);
    }

    fn prepare_update(&self, context: &Context, object: &mut Value, old: &Value) {
        metadata::carry_over(object, old);
        match context.subresource {
            "status" => {
                copy(object, "spec", old);
                if !set(&object["status"]) {
                    put(object, "status", Map::new());
                }
                // Who owns a pod is not for the kubelet to say.
                copy(&mut object["metadata"], "ownerReferences", &old["metadata"]);
                if !set(&old["metadata"]["deletionTimestamp"]) {
                    remove(&mut object["metadata"], "deletionTimestamp");
                }
                if text(&object["status"]["qosClass"]).is_empty() {
                    copy(&mut object["status"], "qosClass", &old["status"]);
                }
                status::keep_observed_generations(&mut object["status"], &old["status"]);
                dropped::from_status(&mut object["status"], &old["status"]);
            }
            "ephemeralcontainers" => {
                let containers = object["spec"]["ephemeralContainers"].clone();
                copy(object, "spec", old);
                if set(&containers) {
                    put(&mut object["spec"], "ephemeralContainers", containers);
                } else {
                    remove(&mut object["spec"], "ephemeralContainers");
                }
                keep_metadata(object, old);
            }
            "resize" => {
                if resize::prepare(object, old) {
                    keep_metadata(object, old);
                }
            }
            // The server itself writes node name and condition.
            "binding" => return,
            _ => copy(object, "status", old),
        }
        with(object, "spec", |spec| dropped::from_spec(spec, &old["spec"]));
        let before = number(&old["metadata"]["generation"]);
        let raised = before + i64::from(!same(&object["spec"], &old["spec"]));
        if raised > 0 {
            put(&mut object["metadata"], "generation", raised);
        }
    }

    fn validate(&self, context: &Context, object: &Value) -> Faults {
        let mut faults = metadata::validate(object, context.resource.namespaced, NameRule::Subdomain);
        faults.extend(metadata::known_finalizers(object));
        let (at, spec) = (Path::new("metadata").child("annotations"), &object["spec"]);
        annotations::check(&mut faults, &at, &object["metadata"], spec);
        validate_spec(&mut faults, object);
        let path = Path::new("spec");
        if !items(&spec["ephemeralContainers"]).is_empty() {
            faults.push(Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
        }
        if !text(&spec["nodeName"]).is_empty() && !items(&spec["schedulingGates"]).is_empty() {
            let text = "cannot be set until all schedulingGates have been cleared";
            faults.push(Error::forbidden(&path.child("nodeName"), text));
        }
        annotations::agree_with_fields(&mut faults, &path, &object["metadata"], spec);
        faults
    }

    fn validate_update(&self, context: &Context, object: &Value, old: &Value) -> Faults {
        let mut faults = metadata::validate_update(object, old);
        faults.extend(metadata::known_finalizers(object));
        let at = Path::new("metadata").child("annotations");
        if context.subresource == "status" {
            annotations::check_update(&mut faults, &at, object, old);
            status::change(&mut faults, object, old);
            return faults;
        }
        validate_spec(&mut faults, object);
        annotations::check_update(&mut faults, &at, object, old);
        tolerated::forgive(&mut faults, || {
            let mut before = Faults::new();
            validate_spec(&mut before, old);
            annotations::check(&mut before, &at, &old["metadata"], &old["spec"]);
            before
        });
        match context.subresource {
            "ephemeralcontainers" => update::ephemeral_change(&mut faults, object, old),
            "resize" => resize::check(&mut faults, object, old),
            // The binding subresource writes the node's name, nothing else may.
            "binding" => {}
            _ => update::spec_change(&mut faults, object, old),
        }
        faults
    }

    /// Pods are seldom changed by hand: what was said at creation is not said again.
    fn warnings(&self, context: &Context, object: &Value, old: Option<&Value>) -> Warnings {
        if context.subresource == "status" {
            return status::warnings(&object["status"]);
        }
        if !context.subresource.is_empty() || old.is_some() {
            return Warnings::new();
        }
        let mut texts = warnings::for_name(object, "the Pod's hostname");
        texts.extend(warnings::for_template(&Path::default(), object));
        texts
    }

    fn graceful(&self, object: &Value, requested: Option<i64>) -> Graceful {
        let spec = &object["spec"];
        let mut seconds = requested.or(int(&spec["terminationGracePeriodSeconds"])).unwrap_or(30);
        let phase = text(&object["status"]["phase"]);
        if text(&spec["nodeName"]).is_empty() || phase == "Failed" || phase == "Succeeded" {
            seconds = 0;
        }
        // A negative period means the shortest.
        if seconds < 0 {
            seconds = 1;
        }
        if seconds == 0 { Graceful::No } else { Graceful::Seconds(seconds) }
    }
}

/// A subresource that changes one part of a pod leaves its labels and the like alone.
fn keep_metadata(object: &mut Value, old: &Value) {
    let mut metadata = old["metadata"].clone();
    for key in ["resourceVersion", "managedFields"] {
        copy(&mut metadata, key, &object["metadata"]);
    }
    put(object, "metadata", metadata);
    copy(object, "status", old);
}

fn validate_spec(faults: &mut Faults, object: &Value) {
    let path = Path::new("spec");
    let spec = &object["spec"];
    let owner = volume_source::Owner {
        pod_name: text(&object["metadata"]["name"]),
        is_pod: true,
        is_mirror: annotations::is_mirror(object),
    };
    spec::validate(faults, &path, spec, owner);
    if text(&spec["serviceAccountName"]).is_empty() {
        for (v, volume) in items(&spec["volumes"]).iter().enumerate() {
            for (s, source) in items(&volume["projected"]["sources"]).iter().enumerate() {
                if set(&source["serviceAccountToken"]) {
                    let at = path.child("volumes").index(v).child("projected").child("sources").index(s);
                    let text = "must not be specified when serviceAccountName is not set";
                    faults.push(Error::forbidden(&at.child("serviceAccountToken"), text));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, container) in items(&spec[list]).iter().enumerate() {
            containers::image_whitespace(faults, &path.child(list).index(i), container);
        }
    }
}
