//! Which of a deployment's ReplicaSets is the new one, what its annotations say, and its hash.

use std::collections::BTreeMap;

use amphipod_client::{Resource, Writable};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::meta;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that are a deployment's own affair.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// The history annotation is cut to this many characters.
const HISTORY_CHARACTERS: usize = 2000;

pub fn replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}
pub fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}
pub fn revision(rs: &ReplicaSet) -> i64 {
    meta::annotation(&rs.metadata, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}
pub fn annotated_count(rs: &ReplicaSet, annotation: &str) -> Option<i32> {
    meta::annotation(&rs.metadata, annotation)?.parse().ok()
}

fn without_hash(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    normalise(&mut template);
    template
}

/// Absent and empty mean the same in metadata; make them equal.
fn normalise(template: &mut PodTemplateSpec) {
    let meta = template.metadata.get_or_insert_default();
    meta.labels = meta.labels.take().filter(|l| !l.is_empty());
    meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
    meta.creation_timestamp = None;
}

/// Whether this ReplicaSet runs the deployment's template.
pub fn has_template(rs: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    without_hash(rs.spec.as_ref().and_then(|s| s.template.as_ref())) == without_hash(Some(template))
}

/// A stable hash of the template, spelled in the alphabet of generated names. Twins that clash with
/// a foreign object of that name are told apart by the collision count.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let as_pod = Pod {
        metadata: template.metadata.clone().unwrap_or_default(),
        spec: template.spec.clone(),
        status: None,
    };
    let mut hash = fnv1a(0x811c_9dc5, &as_pod.encode());
    if let Some(collisions) = collisions {
        hash = fnv1a(hash, &collisions.to_le_bytes());
    }
    amphipod_api::names::safe_encode(&hash.to_string())
}

fn fnv1a(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The ReplicaSet for the deployment's template, with no replicas yet.
pub fn build(deployment: &Deployment, hash: &str) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_with(BTreeMap::new);
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    let labels = labels.clone();
    let mut selector: LabelSelector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.to_owned());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![meta::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Brings the new ReplicaSet's annotations up to date: the deployment's own, and its revision.
pub fn annotate_new(deployment: &Deployment, rs: &mut ReplicaSet, new_revision: i64) {
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            meta::annotate(&mut rs.metadata, key, value);
        }
    }
    let Some(text) = meta::annotation(&rs.metadata, REVISION).map(str::to_owned) else {
        meta::annotate(&mut rs.metadata, REVISION, &new_revision.to_string());
        return;
    };
    // A revision that is no number is left alone: someone else's.
    let Ok(old_revision) = text.parse::<i64>() else { return };
    if old_revision < new_revision {
        meta::annotate(&mut rs.metadata, REVISION, &new_revision.to_string());
        remember_revision(rs, &text);
    }
}

fn remember_revision(rs: &mut ReplicaSet, old: &str) {
    let history = meta::annotation(&rs.metadata, REVISION_HISTORY).unwrap_or("");
    let mut revisions: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).collect();
    revisions.push(old);
    while revisions.len() > 1 && revisions.join(",").len() > HISTORY_CHARACTERS {
        revisions.remove(0);
    }
    let history = revisions.join(",");
    meta::annotate(&mut rs.metadata, REVISION_HISTORY, &history);
}

/// Notes the sizes that proportional scaling starts from.
pub fn annotate_sizes(rs: &mut ReplicaSet, desired: i32, max: i32) {
    meta::annotate(&mut rs.metadata, DESIRED_REPLICAS, &desired.to_string());
    meta::annotate(&mut rs.metadata, MAX_REPLICAS, &max.to_string());
}
