//! Small objects for table tests, and a server whose news come when a test wants them.

mod world;

pub use self::world::{World, eventually};

use amphipod_client::{CachedPod, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub fn named<T: Resource + Default>(namespace: &str, name: &str) -> T {
    let mut object = T::default();
    let meta = object.metadata_mut();
    meta.name = Some(name.to_owned());
    meta.namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
    meta.uid = Some(format!("{name}-uid"));
    meta.resource_version = Some("1".to_owned());
    object
}

pub fn pod(namespace: &str, name: &str, phase: &str) -> CachedPod {
    let mut pod: CachedPod = named(namespace, name);
    pod.status = Some(PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() }.into());
    pod
}

pub fn set_ready(pod: &mut CachedPod, since: Option<Timestamp>) {
    let mut whole = pod.to_pod();
    let status = whole.status.get_or_insert_default();
    status.conditions = Some(vec![PodCondition {
        type_: "Ready".to_owned(),
        status: if since.is_some() { "True" } else { "False" }.to_owned(),
        last_transition_time: since.map(Time),
        ..PodCondition::default()
    }]);
    // Pods of tests may have a node without a spec.
    *pod = CachedPod { node_name: pod.node_name.take(), ..whole.into() };
}

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Decodes YAML-free JSON into a typed object, for tests that read better that way.
pub fn object<T: Resource>(json: serde_json::Value) -> T {
    T::decode(json.to_string().as_bytes()).unwrap()
}
