//! Pods, case by case.

mod containers;
mod placement;
mod security;
mod status;
mod update;
mod volumes;
mod warnings;

use serde_json::{Value, json};

use crate::testing::merged;

pub fn pod() -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// A patch that makes the pod's one container what it is with `patch`.
pub fn container(patch: Value) -> Value {
    json!({"spec": {"containers": [merged(&json!({"name": "c", "image": "i"}), &patch)]}})
}

pub fn spec(patch: Value) -> Value {
    json!({"spec": patch})
}
