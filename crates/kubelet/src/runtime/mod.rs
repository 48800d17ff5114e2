//! The container runtime, over CRI: thin calls, and its answers turned into [`RuntimeState`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use amphipod_cri::v1::image_service_client::ImageServiceClient;
use amphipod_cri::v1::runtime_service_client::RuntimeServiceClient;
use amphipod_cri::v1::{self as cri, ContainerState, NamespaceMode, PodSandboxState};
use jiff::Timestamp;
use tonic::transport::Channel;

use crate::Error;
use crate::pod::state::{ContainerRecord, Run, RuntimeState, Sandbox};
use crate::spec::labels;

pub mod credentials;
pub mod images;
pub mod pleg;
pub mod termination;

/// Short calls; long ones (pulls, stops, execs) bring their own bounds.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// What a stop may take beyond its own grace period.
const STOP_SLACK: Duration = Duration::from_secs(120);
/// Instances of one pod looked at; older ones are collected anyway.
const MAX_INSTANCES: usize = 512;

#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    /// The scheme of container ids and of the node's `containerRuntimeVersion`.
    pub name: String,
    pub version: String,
}

/// Names a pod that the runtime knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What an exec of a probe or hook came to.
pub struct ExecOutput {
    pub output: Vec<u8>,
    pub exit_code: i32,
}

fn key_of(labels: &HashMap<String, String>) -> Option<PodKey> {
    let get = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let uid = labels.get(labels::POD_UID)?.clone();
    Some(PodKey { namespace: get(labels::POD_NAMESPACE), name: get(labels::POD_NAME), uid })
}

fn time(nanos: i64) -> Option<Timestamp> {
    // Zero stands for «not yet».
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

fn by_uid(uid: &str) -> HashMap<String, String> {
    HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())])
}

impl Runtime {
    /// Asks the runtime behind `endpoint` who it is.
    pub async fn connect(endpoint: &str) -> Result<Self, Error> {
        Self::connect_within(endpoint, CALL_TIMEOUT).await
    }

    async fn connect_within(endpoint: &str, patience: Duration) -> Result<Self, Error> {
        let mut runtime = Self::unasked(endpoint);
        let call = request(cri::VersionRequest { version: "0.1.0".into() }, patience);
        let answer = runtime.client().version(call).await?.into_inner();
        (runtime.name, runtime.version) = (answer.runtime_name, answer.runtime_version);
        Ok(runtime)
    }

    /// A runtime whose name is not known yet.
    pub(crate) fn unasked(endpoint: &str) -> Self {
        let channel = amphipod_cri::connect_lazy(endpoint);
        let limit = amphipod_cri::MAX_MESSAGE_BYTES;
        let runtime = RuntimeServiceClient::new(channel.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        let images = ImageServiceClient::new(channel).max_decoding_message_size(limit);
        Runtime { runtime, images, name: String::new(), version: String::new() }
    }

    fn client(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// Conditions `RuntimeReady` and `NetworkReady`, with what is wrong with them.
    pub async fn status(&self) -> Result<cri::StatusResponse, Error> {
        let call = request(cri::StatusRequest { verbose: false }, CALL_TIMEOUT);
        Ok(self.client().status(call).await?.into_inner())
    }

    /// Everything the runtime knows of a pod. Ended instances in `known` are not asked about again.
    pub async fn pod_state(&self, uid: &str, known: &RuntimeState) -> Result<RuntimeState, Error> {
        let (mut a, mut b) = (self.client(), self.client());
        let sandbox_filter = cri::PodSandboxFilter { label_selector: by_uid(uid), ..Default::default() };
        let container_filter = cri::ContainerFilter { label_selector: by_uid(uid), ..Default::default() };
        let (sandboxes, containers) = tokio::try_join!(
            a.list_pod_sandbox(request(
                cri::ListPodSandboxRequest { filter: Some(sandbox_filter) },
                CALL_TIMEOUT
            )),
            b.list_containers(request(
                cri::ListContainersRequest { filter: Some(container_filter) },
                CALL_TIMEOUT
            )),
        )?;
        let mut state = RuntimeState::default();
        for item in sandboxes.into_inner().items {
            state.sandboxes.extend(self.sandbox(item, known).await?);
        }
        for item in containers.into_inner().containers.into_iter().take(MAX_INSTANCES) {
            state.containers.extend(self.container(item, known).await?);
        }
        state.sort();
        Ok(state)
    }

    async fn sandbox(&self, item: cri::PodSandbox, known: &RuntimeState) -> Result<Option<Sandbox>, Error> {
        let ready = item.state == PodSandboxState::SandboxReady as i32;
        if let Some(old) =
            known.sandboxes.iter().find(|s| s.id == item.id && s.ready == ready && !s.ips.is_empty())
        {
            return Ok(Some(old.clone()));
        }
        let call = cri::PodSandboxStatusRequest { pod_sandbox_id: item.id.clone(), verbose: false };
        let status = match self.client().pod_sandbox_status(request(call, CALL_TIMEOUT)).await {
            Ok(answer) => answer.into_inner().status.unwrap_or_default(),
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        let network = status.network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        let ips = std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect();
        let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options).unwrap_or_default();
        Ok(Some(Sandbox {
            id: item.id,
            attempt: item.metadata.map_or(0, |m| m.attempt),
            ready: status.state == PodSandboxState::SandboxReady as i32,
            created_at: item.created_at,
            ips,
            host_network: options.network == NamespaceMode::Node as i32,
        }))
    }

    async fn container(
        &self,
        item: cri::Container,
        known: &RuntimeState,
    ) -> Result<Option<ContainerRecord>, Error> {
        if let Some(old) = known.containers.iter().find(|c| c.id == item.id && c.is_over()) {
            return Ok(Some(old.clone()));
        }
        let call = cri::ContainerStatusRequest { container_id: item.id.clone(), verbose: false };
        match self.client().container_status(request(call, CALL_TIMEOUT)).await {
            Ok(answer) => {
                let status = answer.into_inner().status.unwrap_or_default();
                Ok(Some(record(item.pod_sandbox_id, status)))
            }
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Every pod of ours that the runtime holds, with a fingerprint that changes as it does.
    pub async fn all_pods(&self) -> Result<BTreeMap<PodKey, u64>, Error> {
        use std::hash::{Hash, Hasher};
        let (mut a, mut b) = (self.client(), self.client());
        let (sandboxes, containers) = tokio::try_join!(
            a.list_pod_sandbox(request(cri::ListPodSandboxRequest { filter: None }, CALL_TIMEOUT)),
            b.list_containers(request(cri::ListContainersRequest { filter: None }, CALL_TIMEOUT)),
        )?;
        let mut prints: BTreeMap<PodKey, u64> = BTreeMap::new();
        let mut add = |labels: &HashMap<String, String>, id: &str, state: i32| {
            let Some(key) = key_of(labels) else { return };
            let mut hasher = crate::pod::Fnv::default();
            (id, state).hash(&mut hasher);
            let print = prints.entry(key).or_default();
            *print = print.wrapping_add(hasher.finish());
        };
        for sandbox in sandboxes.into_inner().items {
            add(&sandbox.labels, &sandbox.id, sandbox.state);
        }
        for container in containers.into_inner().containers {
            add(&container.labels, &container.id, container.state);
        }
        Ok(prints)
    }

    /// Stops and removes the pods of kubelets in this runtime, whatever state they are in.
    pub async fn remove_all_pods(&self) -> Result<(), Error> {
        let call = request(cri::ListPodSandboxRequest { filter: None }, CALL_TIMEOUT);
        for sandbox in self.client().list_pod_sandbox(call).await?.into_inner().items {
            if key_of(&sandbox.labels).is_some() {
                self.stop_sandbox(&sandbox.id).await?;
                self.remove_sandbox(&sandbox.id).await?;
            }
        }
        Ok(())
    }

    pub async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<String, Error> {
        let call = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        Ok(self.client().run_pod_sandbox(request(call, CALL_TIMEOUT * 2)).await?.into_inner().pod_sandbox_id)
    }
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let call = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.client().stop_pod_sandbox(request(call, CALL_TIMEOUT)).await)
    }
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let call = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.client().remove_pod_sandbox(request(call, CALL_TIMEOUT)).await)
    }
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String, Error> {
        let call = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self.client().create_container(request(call, CALL_TIMEOUT)).await?.into_inner().container_id)
    }
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let call = cri::StartContainerRequest { container_id: id.to_owned() };
        self.client().start_container(request(call, CALL_TIMEOUT)).await?;
        Ok(())
    }
    pub async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), Error> {
        let call = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
        let patience = Duration::from_secs(grace_seconds.unsigned_abs()) + STOP_SLACK;
        gone_is_fine(self.client().stop_container(request(call, patience)).await)
    }
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let call = cri::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(self.client().remove_container(request(call, CALL_TIMEOUT)).await)
    }
    pub async fn update_resources(&self, id: &str, linux: cri::LinuxContainerResources) -> Result<(), Error> {
        let call = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.client().update_container_resources(request(call, CALL_TIMEOUT)).await?;
        Ok(())
    }
    /// Bytes of memory a container uses, where the runtime tells.
    pub async fn memory_usage(&self, id: &str) -> Option<i64> {
        let call = cri::ContainerStatsRequest { container_id: id.to_owned() };
        let answer = self.client().container_stats(request(call, CALL_TIMEOUT)).await.ok()?;
        let usage = answer.into_inner().stats?.memory?.usage_bytes?.value;
        i64::try_from(usage).ok()
    }
    /// Runs a command to its end; `timeout_seconds` 0 means no bound of the runtime's own.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let call = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: seconds };
        let patience =
            if timeout.is_zero() { Duration::from_secs(24 * 3600) } else { timeout + CALL_TIMEOUT };
        let answer = self.client().exec_sync(request(call, patience)).await?.into_inner();
        let mut output = answer.stdout;
        output.extend_from_slice(&answer.stderr);
        Ok(ExecOutput { output, exit_code: answer.exit_code })
    }
    pub async fn exec_url(&self, call: cri::ExecRequest) -> Result<String, Error> {
        Ok(self.client().exec(request(call, CALL_TIMEOUT)).await?.into_inner().url)
    }
    pub async fn attach_url(&self, call: cri::AttachRequest) -> Result<String, Error> {
        Ok(self.client().attach(request(call, CALL_TIMEOUT)).await?.into_inner().url)
    }
    pub async fn port_forward_url(&self, call: cri::PortForwardRequest) -> Result<String, Error> {
        Ok(self.client().port_forward(request(call, CALL_TIMEOUT)).await?.into_inner().url)
    }
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let call = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.client().reopen_container_log(request(call, CALL_TIMEOUT)).await?;
        Ok(())
    }
    pub async fn sandbox_stats(&self) -> Result<Vec<cri::PodSandboxStats>, Error> {
        let call = cri::ListPodSandboxStatsRequest { filter: None };
        Ok(self.client().list_pod_sandbox_stats(request(call, CALL_TIMEOUT)).await?.into_inner().stats)
    }
    pub async fn events(&self) -> Result<tonic::Streaming<cri::ContainerEventResponse>, Error> {
        Ok(self.client().get_container_events(cri::GetEventsRequest {}).await?.into_inner())
    }
    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), Error> {
        let network_config = Some(cri::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let call =
            cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::RuntimeConfig { network_config }) };
        self.client().update_runtime_config(request(call, CALL_TIMEOUT)).await?;
        Ok(())
    }
}

pub(crate) fn request<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

fn gone_is_fine<T>(answer: Result<T, tonic::Status>) -> Result<(), Error> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(status.into()),
    }
}

fn record(sandbox_id: String, status: cri::ContainerStatus) -> ContainerRecord {
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str);
    let run = match ContainerState::try_from(status.state) {
        Ok(ContainerState::ContainerCreated) => Run::Created,
        Ok(ContainerState::ContainerRunning) => Run::Running,
        Ok(ContainerState::ContainerExited) => Run::Exited,
        _ => Run::Unknown,
    };
    let attempt = status.metadata.as_ref().map_or(0, |m| m.attempt);
    let user = status.user.as_ref().and_then(|u| u.linux.clone());
    let own_words = (run == Run::Exited).then(|| termination::message(&status)).flatten();
    let message = own_words.unwrap_or_else(|| status.message.clone());
    ContainerRecord {
        id: status.id.clone(),
        sandbox_id,
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        restart_count: annotation(labels::RESTART_COUNT).and_then(|c| c.parse().ok()).unwrap_or(attempt),
        hash: annotation(labels::HASH).and_then(|h| u64::from_str_radix(h, 16).ok()).unwrap_or(0),
        grace_period_seconds: annotation(labels::GRACE_PERIOD).and_then(|g| g.parse().ok()),
        run,
        created_at: time(status.created_at),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at)
            .or((run == Run::Exited).then(|| time(status.created_at)).flatten()),
        exit_code: status.exit_code,
        reason: status.reason,
        message,
        image: status
            .image
            .map(|i| if i.user_specified_image.is_empty() { i.image } else { i.user_specified_image })
            .unwrap_or_default(),
        image_id: if status.image_ref.is_empty() { status.image_id } else { status.image_ref },
        log_path: status.log_path,
        user: user.map(|u| (u.uid, u.gid, u.supplemental_groups)),
        replaced: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_that_never_answers_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("silent.sock");
        // The kernel takes connections up for a listener that never looks at them.
        let _silent = tokio::net::UnixListener::bind(&path).unwrap();
        let endpoint = format!("unix://{}", path.display());
        let asked = Runtime::connect_within(&endpoint, Duration::from_millis(10));
        // An end of the test's own, so that it fails where it would hang.
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
        let error = answer.expect("it ends by itself").err().expect("nobody answered");
        assert_eq!(error.to_string(), "Timeout expired");
    }
}
