//! Carrying out starts: volumes, sandbox, image, container, hook, one after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use amphipod_client::{Api, Resource};
use amphipod_cri::v1 as cri;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::node::v1::RuntimeClass;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{hooks, kill};
use crate::Error;
use crate::context::Context;
use crate::error::IoContext;
use crate::events;
use crate::pod::status::Waiting;
use crate::pod::sync::Action;
use crate::pod::{ContainerSpec, find_container, resources, spec};
use crate::runtime::images::Failure;
use crate::spec::downward::Addresses;
use crate::spec::env::{self, EnvView, Environment, Sources};
use crate::spec::{container, dns, hosts, labels, sandbox, security};
use crate::volumes::{self, Mounted};

/// When a container that could not be created is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// What a run of starts did.
#[derive(Default)]
pub struct Done {
    pub mounted: Option<Arc<Mounted>>,
    /// Per container: nothing, or why it does not run and when to try again.
    pub outcomes: BTreeMap<String, Option<(Waiting, Timestamp)>>,
    /// Volumes or sandbox could not be made.
    pub failed: bool,
}

pub struct Job {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub actions: Vec<Action>,
    pub mounted: Option<Arc<Mounted>>,
    /// Id and addresses of the sandbox containers go into.
    pub sandbox: Option<(String, u32, Vec<String>)>,
    /// Ids of running containers by name: targets of ephemeral ones.
    pub running: BTreeMap<String, String>,
    pub cancel: CancellationToken,
}

impl Job {
    /// `started` is called after every container, so that its state shows at once.
    pub async fn run(mut self, started: impl Fn() + Send + Sync) -> Done {
        let mut done = Done::default();
        if let Err(()) = self.prepare().await {
            done.failed = true;
            return done;
        }
        done.mounted = self.mounted.clone();
        for action in std::mem::take(&mut self.actions) {
            if self.cancel.is_cancelled() {
                break;
            }
            match action {
                Action::StopSandbox { id } => self.stop_sandbox(&id).await,
                Action::CreateSandbox { attempt } => {
                    done.failed = self.create_sandbox(attempt).await.is_err()
                }
                Action::Start { name, restart_count, .. } => {
                    let outcome = self.start(&name, restart_count).await;
                    done.outcomes.insert(name, outcome.err());
                    started();
                }
                Action::BackOff { .. } | Action::Stop { .. } => {}
            }
        }
        done
    }

    fn pod_dir(&self) -> PathBuf {
        self.context.config.pod_dir(self.pod.uid())
    }

    fn addresses(&self) -> Addresses {
        let host_ips = self.context.host_ips();
        let ips = self.sandbox.as_ref().map(|(_, _, ips)| ips.clone()).unwrap_or_default();
        let pod_ips = if crate::pod::is_host_network(&self.pod) { host_ips.clone() } else { ips };
        Addresses { pod_ips, host_ips }
    }

    /// Folders, cgroup and volumes; once per worker.
    async fn prepare(&mut self) -> Result<(), ()> {
        if self.mounted.is_some() {
            return Ok(());
        }
        let (context, pod) = (&self.context, &self.pod);
        let network = context.runtime_health.network_problem();
        if let Some(why) = network.filter(|_| !crate::pod::is_host_network(pod)) {
            context.event(pod, events::network_not_ready(&why));
            return Err(());
        }
        if let Err(error) = self.make_dirs() {
            context.event(pod, events::no_directories(&error));
            return Err(());
        }
        let (qos, limits) = (resources::qos_class(pod), resources::pod_cgroup(pod));
        if let Err(error) = context.cgroups.create(pod.uid(), qos, &limits) {
            context.event(pod, events::no_cgroup(&error));
            return Err(());
        }
        let addresses = self.addresses();
        // A sandbox is made after the volumes: where there is one, an earlier kubelet made both.
        let set_up = volumes::set_up(context, pod, &addresses, self.sandbox.is_some());
        let outcome = tokio::select! {
            () = self.cancel.cancelled() => return Err(()),
            outcome = set_up => outcome,
        };
        match outcome {
            Ok(mounted) => {
                self.mounted = Some(Arc::new(mounted));
                Ok(())
            }
            Err(failure) => {
                context.event(pod, events::mount_failed(&failure.volume, &failure.error));
                Err(())
            }
        }
    }

    fn make_dirs(&self) -> Result<(), Error> {
        let pod = &self.pod;
        let logs = self.context.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid());
        for dir in [self.pod_dir().join("volumes"), self.pod_dir().join("containers"), logs] {
            std::fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
        }
        Ok(())
    }

    fn sandbox_config(&self, attempt: u32) -> cri::PodSandboxConfig {
        let (config, pod) = (&self.context.config, &self.pod);
        let host = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let cluster = dns::Cluster { dns: &config.cluster_dns, domain: &config.cluster_domain, host: &host };
        let host_network = crate::pod::is_host_network(pod);
        let hostname = if host_network {
            config.node_name.clone()
        } else {
            hosts::host_name(pod, &config.cluster_domain).kernel
        };
        sandbox::sandbox_config(sandbox::SandboxView {
            pod,
            attempt,
            hostname,
            dns: dns::dns_config(pod, &cluster),
            log_directory: &config.pod_log_dir(pod.namespace(), pod.name(), pod.uid()),
            cgroup_parent: self.context.cgroups.parent(pod.uid(), resources::qos_class(pod)),
        })
    }

    async fn stop_sandbox(&self, id: &str) {
        self.context.event(&self.pod, events::sandbox_changed());
        if let Err(error) = self.context.runtime.stop_sandbox(id).await {
            debug!(%error, id, "stopping a stale sandbox");
        }
    }

    async fn create_sandbox(&self, attempt: u32) -> Result<(), ()> {
        let created = match self.runtime_handler().await {
            Ok(handler) => self.context.runtime.run_sandbox(self.sandbox_config(attempt), &handler).await,
            Err(error) => Err(error),
        };
        created.map(|_| ()).map_err(|error| {
            self.context.event(&self.pod, events::sandbox_failed(&error));
        })
    }

    /// The runtime's name for the pod's RuntimeClass; empty for the default one.
    async fn runtime_handler(&self) -> Result<String, Error> {
        let Some(name) = spec(&self.pod).runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        Ok(Api::<RuntimeClass>::all(self.context.client.clone()).get(name).await?.handler)
    }

    async fn start(&self, name: &str, restart_count: u32) -> Result<(), (Waiting, Timestamp)> {
        let pod = self.pod.clone();
        let Some(spec) = find_container(&pod, name) else { return Ok(()) };
        let fail = |reason: &str, error: &dyn std::fmt::Display| {
            let waiting = Waiting { reason: reason.to_owned(), message: error.to_string() };
            (waiting, Timestamp::now() + RETRY)
        };
        let failed_event =
            |error: &Error| self.context.container_event(&pod, &spec, events::start_failed(error));
        let Some((sandbox, attempt, _)) = self.sandbox.clone() else { return Ok(()) };
        let sandbox_config = self.sandbox_config(attempt);
        let image = self.image(&spec, &sandbox_config).await?;
        let config = self.container_config(&spec, restart_count, &image).await.map_err(|error| {
            failed_event(&error);
            fail("CreateContainerConfigError", &error)
        })?;
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        let created = self.context.runtime.create_container(&sandbox, config, sandbox_config).await;
        let id = created.map_err(|error| {
            failed_event(&error);
            fail("CreateContainerError", &error)
        })?;
        self.context.container_event(&pod, &spec, events::created());
        self.context.runtime.start_container(&id).await.map_err(|error| {
            failed_event(&error);
            fail("RunContainerError", &error)
        })?;
        self.context.container_event(&pod, &spec, events::started());
        self.context.metrics.container_started();
        self.post_start(&spec, &id).await.map_err(|error| fail("PostStartHookError", &error))
    }

    async fn image(
        &self,
        spec: &ContainerSpec<'_>,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<crate::runtime::images::Present, (Waiting, Timestamp)> {
        let secrets = self.pull_secrets().await;
        let report = |notice| self.context.container_event(&self.pod, spec, notice);
        let ensure = self.context.images.ensure(self.pod.uid(), &spec.container, &secrets, sandbox, &report);
        let outcome = tokio::select! {
            () = self.cancel.cancelled() => return Err((Waiting::default(), Timestamp::now() + RETRY)),
            outcome = ensure => outcome,
        };
        outcome.map_err(|Failure { waiting, retry }| {
            self.context.container_event(&self.pod, spec, events::start_failed(&waiting.reason));
            (waiting, retry.unwrap_or(Timestamp::now() + RETRY))
        })
    }

    async fn pull_secrets(&self) -> Vec<Secret> {
        let mut secrets = Vec::new();
        let mut missing: Vec<&str> = Vec::new();
        for reference in spec(&self.pod).image_pull_secrets.iter().flatten() {
            let api = Api::<Secret>::namespaced(self.context.client.clone(), self.pod.namespace());
            match api.get(&reference.name).await {
                Ok(secret) => secrets.push(secret),
                Err(error) => {
                    debug!(%error, "a pull secret");
                    missing.push(&reference.name);
                }
            }
        }
        if !missing.is_empty() {
            self.context.event(&self.pod, events::pull_secrets_missing(&missing));
        }
        secrets
    }

    async fn container_config(
        &self,
        spec: &ContainerSpec<'_>,
        restart_count: u32,
        image: &crate::runtime::images::Present,
    ) -> Result<cri::ContainerConfig, Error> {
        let environment = self.environment(spec).await?;
        let mut mounts = self.kubelet_mounts(spec)?;
        if let Some(mounted) = &self.mounted {
            mounts.extend(volumes::container_mounts(
                &self.pod_dir(),
                &spec.container,
                mounted,
                &environment,
            )?);
        }
        let target = security::target_container(&self.pod, spec.name()).and_then(|t| self.running.get(&t));
        container::container_config(container::ContainerView {
            pod: &self.pod,
            container: &spec.container,
            restart_count,
            environment: &environment,
            mounts,
            image_ref: &image.reference,
            image_user: &image.user,
            node_memory_bytes: self.context.machine.memory_bytes,
            target: target.map(String::as_str),
        })
    }

    async fn environment(&self, spec: &ContainerSpec<'_>) -> Result<Environment, Error> {
        let (namespace, objects) = (self.pod.namespace(), &self.context.objects);
        let needs = env::needs(&spec.container);
        let mut sources = Sources::default();
        for name in needs.config_maps {
            if let Some(found) = objects.config_map(namespace, &name).await? {
                sources.config_maps.insert(name, found);
            }
        }
        for name in needs.secrets {
            if let Some(found) = objects.secret(namespace, &name).await? {
                sources.secrets.insert(name, found);
            }
        }
        env::environment(&EnvView {
            pod: &self.pod,
            container: &spec.container,
            sources: &sources,
            services: &self.context.services_for(&self.pod),
            addresses: &self.addresses(),
            allocatable: &self.context.machine.allocatable,
        })
    }

    /// The hosts file and the file for last words, where the container does not bring its own.
    fn kubelet_mounts(&self, spec: &ContainerSpec<'_>) -> Result<Vec<cri::Mount>, Error> {
        let container = &spec.container;
        let own = |path: &str| container.volume_mounts.iter().flatten().any(|m| m.mount_path == path);
        let mut mounts = Vec::new();
        if !own("/etc/hosts") {
            let path = self.pod_dir().join("etc-hosts");
            let name = hosts::host_name(&self.pod, &self.context.config.cluster_domain);
            let host_file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            let text = hosts::hosts_file(&self.pod, &self.addresses().pod_ips, &name, &host_file);
            std::fs::write(&path, text).context(|| format!("write {}", path.display()))?;
            mounts.push(mount("/etc/hosts", &path));
        }
        let termination =
            container.termination_message_path.as_deref().unwrap_or(labels::DEFAULT_TERMINATION_PATH);
        if !termination.is_empty() && !own(termination) {
            let dir = self.pod_dir().join("containers").join(spec.name());
            std::fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
            let path = dir.join(format!("{:08x}", rand::random::<u32>()));
            std::fs::write(&path, "").context(|| format!("write {}", path.display()))?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666); // any user may leave a message
            std::fs::set_permissions(&path, mode).context(|| format!("chmod {}", path.display()))?;
            mounts.push(mount(termination, &path));
        }
        Ok(mounts)
    }

    async fn post_start(&self, spec: &ContainerSpec<'_>, id: &str) -> Result<(), String> {
        let hook = spec.container.lifecycle.as_ref().and_then(|l| l.post_start.clone());
        let Some(hook) = hook else { return Ok(()) };
        let ip = self.context.pod_ip(&self.pod, &self.addresses().pod_ips);
        let run = hooks::run(&self.context, id, &spec.container, &ip, &hook);
        let outcome = tokio::select! {
            () = self.cancel.cancelled() => return Ok(()),
            outcome = run => outcome,
        };
        if let Err(error) = &outcome {
            debug!(%error, container = spec.name(), "postStart hook");
            self.context.container_event(&self.pod, spec, events::post_start_failed());
            kill::failed_start(&self.context, &self.pod, spec, id).await;
        }
        outcome
    }
}

fn mount(container_path: &str, host_path: &std::path::Path) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Default::default()
    }
}
