//! Pods as shared caches hold them. They come in masses, and whole they take 27 KB each as a typed
//! struct, most of it what only their kubelet reads or what a thousand pods of one template say alike.
//! Here the first is left out and the second is kept once. That what is left cannot be written back
//! is the type's doing: it has no encoding.

mod incoming;
mod own;

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};

use crate::interner::Interner;
use crate::{Error, Resource, Writable};
use incoming::{IncomingPod, IncomingPods};
use own::Own;

/// Specs of cached pods, one for each template.
static SPECS: LazyLock<Interner<PodSpec>> = LazyLock::new(Interner::default);
/// Statuses without what each pod has of its own: those of a template that do well have one.
static STATUSES: LazyLock<Interner<PodStatus>> = LazyLock::new(Interner::default);

/// What scheduling, ownership, quotas, endpoints and disruption look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CachedPod {
    pub metadata: ObjectMeta,
    /// The one part of a spec that differs among the pods of a template: the spec has it no more.
    pub node_name: Option<Box<str>>,
    pub spec: Option<Arc<PodSpec>>,
    /// Without what is in `own`.
    pub status: Option<Arc<PodStatus>>,
    /// The parts of the status that differ among the pods of a template.
    pub own: Own,
}

impl CachedPod {
    /// The pod as far as it is kept, for what can only look at whole ones.
    pub fn to_pod(&self) -> Pod {
        let spec = self.spec.as_ref().map(|spec| PodSpec {
            node_name: self.node_name.as_deref().map(str::to_owned),
            ..PodSpec::clone(spec)
        });
        let status = self.status.as_ref().map(|status| {
            let mut whole = PodStatus::clone(status);
            self.own.put_back(&mut whole);
            whole
        });
        Pod { metadata: self.metadata.clone(), spec, status }
    }

    /// The condition of a type, if the pod has it.
    pub fn condition(&self, kind: &str) -> Option<Condition<'_>> {
        let (index, told) =
            self.status.as_ref()?.conditions.iter().flatten().enumerate().find(|(_, c)| c.type_ == kind)?;
        Some(Condition {
            status: &told.status,
            reason: told.reason.as_deref(),
            message: told.message.as_deref(),
            since: self.own.condition_since(index),
        })
    }
}

/// What a condition says of a pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition<'a> {
    pub status: &'a str,
    pub reason: Option<&'a str>,
    pub message: Option<&'a str>,
    /// When it last turned.
    pub since: Option<Timestamp>,
}

impl Condition<'_> {
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// As it comes to a cache.
impl From<Pod> for CachedPod {
    fn from(pod: Pod) -> Self {
        CachedPod::decode(&pod.encode())
            .expect("a pod that is held was decoded or can be: all it has is typed")
    }
}

/// What is kept of a pod whose unwanted parts were skipped.
fn kept(mut pod: Pod) -> CachedPod {
    let node_name = pod.spec.as_mut().and_then(|spec| spec.node_name.take());
    if let Some(spec) = pod.spec.as_mut().filter(|_| node_name.is_some()) {
        settle(spec);
    }
    let mut own = Own::default();
    if let Some(status) = &mut pod.status {
        cut_status(status, pod.spec.as_ref());
        own = Own::take(status);
    }
    CachedPod {
        metadata: pod.metadata,
        node_name: node_name.map(String::into_boxed_str),
        spec: pod.spec.map(|spec| shared(&SPECS, &spec)),
        status: pod.status.map(|status| shared(&STATUSES, &status)),
        own,
    }
}

impl k8s_openapi::Resource for CachedPod {
    const API_VERSION: &'static str = Pod::API_VERSION;
    const GROUP: &'static str = Pod::GROUP;
    const KIND: &'static str = Pod::KIND;
    const VERSION: &'static str = Pod::VERSION;
    const URL_PATH_SEGMENT: &'static str = Pod::URL_PATH_SEGMENT;
    type Scope = <Pod as k8s_openapi::Resource>::Scope;
}

impl k8s_openapi::Metadata for CachedPod {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Resource for CachedPod {
    const NAMESPACED: bool = Pod::NAMESPACED;

    fn decode(json: &[u8]) -> Result<Self, Error> {
        let pod = serde_json::from_slice(json).and_then(IncomingPod::read);
        pod.map(kept).map_err(undecodable)
    }
    fn decode_list(json: &[u8]) -> Result<(ListMeta, Vec<Self>), Error> {
        let IncomingPods { metadata, items } = serde_json::from_slice(json).map_err(undecodable)?;
        let pods = items.into_iter().map(|pod| pod.read().map(kept).map_err(undecodable));
        Ok((metadata, pods.collect::<Result<_, _>>()?))
    }
}

fn undecodable(source: serde_json::Error) -> Error {
    Error::Decode { what: <Pod as k8s_openapi::Resource>::KIND, source }
}

fn shared<T: Clone + PartialEq + serde::Serialize>(all: &Interner<T>, value: &T) -> Arc<T> {
    all.share(value, &serde_json::to_vec(value).unwrap_or_default())
}

/// What the pod asked of nodes was settled with its own; a daemon's pods differ in nothing else.
fn settle(spec: &mut PodSpec) {
    spec.node_selector = None;
    spec.topology_spread_constraints = None;
    if let Some(affinity) = &mut spec.affinity {
        affinity.node_affinity = None;
    }
}

fn cut_status(status: &mut PodStatus, spec: Option<&PodSpec>) {
    let all = [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for status in all.into_iter().flatten().flatten() {
        status.volume_mounts = None;
        status.user = None;
        let mut containers = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        if let Some(container) = containers.find(|container| container.name == status.name) {
            cut_resources(status, container.resources.as_ref());
        }
    }
}

/// Leaves out resources that are as asked for; who reads them takes the largest of all. Those allocated
/// count only beside those in use, so either both go or, as while a resize is under way, both stay.
pub fn cut_resources(status: &mut ContainerStatus, asked: Option<&ResourceRequirements>) {
    let requests = asked.and_then(|asked| asked.requests.as_ref());
    if status.resources.as_ref() == asked && status.allocated_resources.as_ref() == requests {
        status.resources = None;
        status.allocated_resources = None;
    }
}

#[cfg(test)]
mod tests {
    use amphipod_api::schema::{self, Field, Message, Scalar, Shape, Special};
    use serde_json::{Value, json};

    use super::*;

    fn cached(pod: &Value) -> CachedPod {
        CachedPod::decode(pod.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_pod_keeps_what_decisions_need() {
        let resources = json!({"requests": {"cpu": "1"}});
        let pod = cached(&json!({
            "metadata": {"name": "a", "labels": {"app": "a"}},
            "spec": {
                "nodeName": "n",
                "nodeSelector": {"zone": "a"},
                "affinity": {"nodeAffinity": {}, "podAffinity": {}},
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}],
                    "resources": resources, "ports": [{"containerPort": 80, "name": "http"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/d"}],
                    "readinessProbe": {"tcpSocket": {"port": 80}}}],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "kube-api-access", "projected": {"sources": []}}],
            },
            "status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
                "restartCount": 0, "volumeMounts": [{"name": "data", "mountPath": "/d"}],
                "resources": resources, "allocatedResources": resources["requests"]}]},
        }));
        assert_eq!(
            serde_json::to_value(pod.to_pod()).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "a", "labels": {"app": "a"}},
                "spec": {
                    "nodeName": "n",
                    "affinity": {"podAffinity": {}},
                    "containers": [{"name": "c", "image": "i", "resources": resources,
                        "ports": [{"containerPort": 80, "name": "http"}]}],
                    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}],
                },
                "status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
                    "restartCount": 0}]},
            })
        );
    }

    /// With every field its type has.
    fn sample(message: &Message) -> Value {
        let one = |field: &Field| match (field.scalar, field.message()) {
            (_, Some(message)) => sample(message),
            (Scalar::Bool, _) => json!(true),
            (Scalar::Text | Scalar::Bytes, _) => json!(""),
            _ => json!(1),
        };
        let shaped = |field: &Field| match field.shape {
            Shape::Single => one(field),
            Shape::List => json!([one(field)]),
            Shape::Map => json!({"key": one(field)}),
        };
        match message.special {
            Special::Time | Special::MicroTime => json!("2026-01-01T00:00:00Z"),
            Special::IntOrString | Special::Quantity => json!("1"),
            Special::FieldsV1 => json!({"f:metadata": {}}),
            _ => {
                let members = message.fields.iter().flat_map(|field| match (field.inline, shaped(field)) {
                    (true, Value::Object(members)) => members.into_iter().collect::<Vec<_>>(),
                    (_, value) => vec![(field.name.to_owned(), value)],
                });
                members.collect()
            }
        }
    }

    /// Takes members out of each object that a path leads to; lists are gone into.
    fn without(value: &mut Value, path: &[&str], members: &[&str]) {
        match (value, path) {
            (Value::Array(items), _) => items.iter_mut().for_each(|item| without(item, path, members)),
            (Value::Object(map), []) => map.retain(|member, _| !members.contains(&member.as_str())),
            (value, [first, rest @ ..]) => without(&mut value[*first], rest, members),
            _ => panic!("no object"),
        }
    }

    #[test]
    fn of_everything_a_pod_may_say_this_is_left_out_and_nothing_else() {
        let mut whole = sample(schema::of("v1", "Pod").expect("a kind"));
        let volume = whole["spec"]["volumes"][0].as_object().expect("a volume").clone();
        let of_each_source = volume.into_iter().filter(|(source, _)| source != "name");
        whole["spec"]["volumes"] =
            of_each_source.map(|(source, value)| json!({"name": source, source: value})).collect();
        let pod: Pod = serde_json::from_value(whole).expect("a pod");
        let mut expected = serde_json::to_value(&pod).expect("a value");
        without(&mut expected, &["metadata"], &["managedFields"]);
        let of_spec =
            ["ephemeralContainers", "securityContext", "dnsConfig", "hostAliases", "imagePullSecrets"];
        without(&mut expected, &["spec"], &of_spec);
        // It has a node.
        without(&mut expected, &["spec"], &["nodeSelector", "topologySpreadConstraints"]);
        without(&mut expected, &["spec", "affinity"], &["nodeAffinity"]);
        let run = [
            "args",
            "command",
            "env",
            "envFrom",
            "lifecycle",
            "securityContext",
            "volumeDevices",
            "volumeMounts",
        ];
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
        for containers in ["containers", "initContainers"] {
            without(&mut expected, &["spec", containers], &[&run[..], &probes].concat());
        }
        let made_there = ["configMap", "downwardAPI", "emptyDir", "hostPath", "image", "projected", "secret"]
            .map(Value::from);
        let volumes = expected["spec"]["volumes"].as_array_mut().expect("volumes");
        assert!(made_there.iter().all(|name| volumes.iter().any(|volume| volume["name"] == *name)));
        volumes.retain(|volume| !made_there.contains(&volume["name"]));
        for statuses in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
            // All containers have one name, and the resources that are asked for.
            let alike = ["resources", "allocatedResources"];
            without(&mut expected, &["status", statuses], &[&["volumeMounts", "user"][..], &alike].concat());
        }
        let list = json!({"metadata": {"resourceVersion": "7"}, "items": [pod.clone()]});
        let (metadata, pods) = CachedPod::decode_list(list.to_string().as_bytes()).expect("a list");
        assert_eq!(
            (metadata.resource_version.as_deref(), &pods[..]),
            (Some("7"), &[CachedPod::from(pod)][..])
        );
        assert_eq!(serde_json::to_value(pods[0].to_pod()).expect("a value"), expected);
    }

    #[test]
    fn resources_stay_whole_while_they_are_not_as_asked_for() {
        let one = json!({"requests": {"cpu": "1"}});
        let two = json!({"requests": {"cpu": "2"}});
        // Asked for more and, after it was allocated, for less again; then the other way round.
        for (resources, allocated) in [(&one, &two), (&two, &one), (&two, &two)] {
            let status = json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "resources": resources, "allocatedResources": allocated["requests"]});
            let spec = json!({"containers": [{"name": "c", "resources": one}]});
            let pod = cached(&json!({"spec": spec, "status": {"containerStatuses": [status]}}));
            assert_eq!(serde_json::to_value(&*pod.status.unwrap()).unwrap()["containerStatuses"][0], status);
        }
    }

    #[test]
    fn a_pod_without_a_node_keeps_what_it_asks_of_nodes() {
        let spec = json!({"containers": [], "nodeSelector": {"zone": "a"}, "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": []});
        let pod = cached(&json!({"metadata": {}, "spec": spec}));
        assert_eq!(serde_json::to_value(&*pod.spec.unwrap()).unwrap(), spec);
    }

    #[test]
    fn pods_of_one_template_share_it() {
        let pod = |name: &str, node: &str, image: &str| {
            let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": image}]});
            cached(&json!({"metadata": {"name": name}, "spec": spec})).spec.unwrap()
        };
        let (one, two, other) = (pod("a", "x", "i"), pod("b", "y", "i"), pod("c", "x", "j"));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
    }
}
