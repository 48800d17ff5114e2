//! The decisions about one pod, as plain functions over its spec and what the runtime shows:
//! nothing here waits, reads a clock or talks to anyone.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, Probe};

pub mod admission;
pub mod backoff;
pub mod conditions;
pub mod phase;
pub mod resize;
pub mod resources;
pub mod restart;
pub mod state;
pub mod status;
pub mod sync;

/// Where a container stands in the pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: started in order, kept running.
    Sidecar,
    App,
    Ephemeral,
}

/// One container of the spec, whatever list it stands in.
#[derive(Clone, Debug)]
pub struct ContainerSpec<'a> {
    pub kind: Kind,
    pub container: Cow<'a, Container>,
}

impl ContainerSpec<'_> {
    pub fn name(&self) -> &str {
        &self.container.name
    }
    /// `spec.containers{web}`, as events name the part they are about.
    pub fn field_path(&self) -> String {
        let list = match self.kind {
            Kind::Init | Kind::Sidecar => "initContainers",
            Kind::App => "containers",
            Kind::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.container.name)
    }
    pub fn into_owned(self) -> ContainerSpec<'static> {
        ContainerSpec { kind: self.kind, container: Cow::Owned(self.container.into_owned()) }
    }
}

static EMPTY_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY_SPEC)
}

/// Every container, in the order init, app, ephemeral.
pub fn containers(pod: &Pod) -> impl Iterator<Item = ContainerSpec<'_>> {
    let spec = spec(pod);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    init_containers(pod)
        .chain(app_containers(pod))
        .chain(ephemeral.map(|c| ContainerSpec { kind: Kind::Ephemeral, container: Cow::Owned(plain(c)) }))
}

pub fn init_containers(pod: &Pod) -> impl Iterator<Item = ContainerSpec<'_>> {
    spec(pod).init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        let kind = if sidecar { Kind::Sidecar } else { Kind::Init };
        ContainerSpec { kind, container: Cow::Borrowed(container) }
    })
}

pub fn app_containers(pod: &Pod) -> impl Iterator<Item = ContainerSpec<'_>> {
    spec(pod).containers.iter().map(|c| ContainerSpec { kind: Kind::App, container: Cow::Borrowed(c) })
}

pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<ContainerSpec<'a>> {
    containers(pod).find(|c| c.container.name == name)
}

fn plain(ephemeral: &EphemeralContainer) -> Container {
    let c = ephemeral.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        name: c.name,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
        ..Container::default()
    }
}

/// Changes when the container must be made anew: its name and image, as upstream.
pub fn container_hash(container: &Container) -> u64 {
    let mut hasher = Fnv::default();
    container.name.hash(&mut hasher);
    container.image.hash(&mut hasher);
    hasher.finish()
}

/// FNV-1a: stable across builds and restarts, unlike the standard library's hasher.
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// `name_namespace(uid)`, as log lines and messages name a pod.
pub fn display(pod: &Pod) -> String {
    format!("{}_{}({})", pod.name(), pod.namespace(), pod.uid())
}

/// How long containers have between TERM and KILL.
pub fn grace_period_seconds(pod: &Pod) -> i64 {
    let deletion = pod.metadata.deletion_timestamp.as_ref().and(pod.metadata.deletion_grace_period_seconds);
    deletion.or(spec(pod).termination_grace_period_seconds).unwrap_or(30).max(1)
}

pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// From the manifest folder, not from the API.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|source| source != "api")
}

/// The API's shadow of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

/// Which probe of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use serde_json::{Value, json};

    /// A node that can give `allocatable` and holds `others`.
    pub fn node<'a>(
        allocatable: &'a resources::Amounts,
        labels: &'a std::collections::BTreeMap<String, String>,
        others: &'a [std::sync::Arc<Pod>],
    ) -> admission::NodeView<'a> {
        admission::NodeView { name: "n", allocatable, labels, others, allowed_unsafe_sysctls: &[] }
    }
    /// A pod with uid `u1` from the given spec.
    pub fn pod(spec: Value) -> Pod {
        with_meta(json!({"name": "p", "namespace": "ns", "uid": "u1"}), spec)
    }
    pub fn with_meta(metadata: Value, spec: Value) -> Pod {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        Pod::decode(object.to_string().as_bytes()).unwrap()
    }
}
