//! Pods: the strategy, put together from defaults, the shared spec checks and the update rules.

pub mod containers;
pub mod defaults;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod spec;
pub mod update;
pub mod volumes;
pub mod warnings;

use amphipod_api::field::{Error, Path};
use serde_json::{Map, Value, json};

use crate::check::Faults;
use crate::contract::{Context, Graceful, Strategy};
use crate::json::{copy, int, items, number, put, remove, same, set, text};
use crate::metadata::{self, NameRule};

/// On pods the kubelet runs from a file: the API object only mirrors them.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

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
            }
            "ephemeralcontainers" => {
                let containers = object["spec"]["ephemeralContainers"].clone();
                copy(object, "spec", old);
                copy(object, "status", old);
                put(&mut object["spec"], "ephemeralContainers", containers);
            }
            "resize" => {
                prepare_resize(object, old);
                copy(object, "status", old);
            }
            // The server itself writes node name and condition.
            "binding" => return,
            _ => copy(object, "status", old),
        }
        let before = number(&old["metadata"]["generation"]);
        let raised = before + i64::from(!same(&object["spec"], &old["spec"]));
        if raised > 0 {
            put(&mut object["metadata"], "generation", raised);
        }
    }

    fn validate(&self, context: &Context, object: &Value) -> Faults {
        let mut faults = metadata::validate(object, context.resource.namespaced, NameRule::Subdomain);
        faults.extend(metadata::known_finalizers(object));
        validate_spec(&mut faults, object);
        let spec = &object["spec"];
        let path = Path::new("spec");
        if !items(&spec["ephemeralContainers"]).is_empty() {
            faults.push(Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
        }
        if !text(&spec["nodeName"]).is_empty() && !items(&spec["schedulingGates"]).is_empty() {
            let text = "cannot be set until all schedulingGates have been cleared";
            faults.push(Error::forbidden(&path.child("nodeName"), text));
        }
        faults
    }

    fn validate_update(&self, context: &Context, object: &Value, old: &Value) -> Faults {
        let mut faults = metadata::validate_update(object, old);
        faults.extend(metadata::known_finalizers(object));
        if context.subresource == "status" {
            update::status_change(&mut faults, object, old);
            return faults;
        }
        validate_spec(&mut faults, object);
        match context.subresource {
            "ephemeralcontainers" => update::ephemeral_change(&mut faults, object, old),
            "resize" => update::resize(&mut faults, object, old),
            // The binding subresource writes the node's name, nothing else may.
            "binding" => {}
            _ => update::spec_change(&mut faults, object, old),
        }
        faults
    }

    fn warnings(&self, context: &Context, object: &Value, old: Option<&Value>) -> Vec<String> {
        if context.subresource == "status" {
            return Vec::new();
        }
        warnings::for_template(&Path::default(), object, old)
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

/// Only resources and resize policies of the containers are taken from the request.
fn prepare_resize(object: &mut Value, old: &Value) {
    let mut spec = old["spec"].clone();
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let wanted = items(&object["spec"][list]).iter().find(|c| c["name"] == container["name"]);
            if let Some(wanted) = wanted {
                copy(container, "resources", wanted);
                copy(container, "resizePolicy", wanted);
            }
        }
    }
    put(object, "spec", spec);
}

fn validate_spec(faults: &mut Faults, object: &Value) {
    let path = Path::new("spec");
    let spec = &object["spec"];
    spec::validate(faults, &path, spec, text(&object["metadata"]["name"]), true);
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
