//! CRI's RuntimeService.

use std::{pin::Pin, sync::Arc, time::Duration};

use amphipod_cri::v1::{
    AttachRequest, AttachResponse, CgroupDriver, ContainerEventResponse, ContainerState,
    ContainerStatsRequest, ContainerStatsResponse, ContainerStatusRequest, ContainerStatusResponse,
    CreateContainerRequest, CreateContainerResponse, ExecRequest, ExecResponse, ExecSyncRequest,
    ExecSyncResponse, GetEventsRequest, LinuxRuntimeConfiguration, ListContainerStatsRequest,
    ListContainerStatsResponse, ListContainersRequest, ListContainersResponse, ListPodSandboxRequest,
    ListPodSandboxResponse, ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStatsRequest,
    PodSandboxStatsResponse, PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
    PortForwardResponse, RemoveContainerRequest, RemoveContainerResponse, RemovePodSandboxRequest,
    RemovePodSandboxResponse, ReopenContainerLogRequest, ReopenContainerLogResponse, RunPodSandboxRequest,
    RunPodSandboxResponse, RuntimeCondition, RuntimeConfigRequest, RuntimeConfigResponse, RuntimeFeatures,
    RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StartContainerRequest, StartContainerResponse,
    StatusRequest, StatusResponse, StopContainerRequest, StopContainerResponse, StopPodSandboxRequest,
    StopPodSandboxResponse, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
    UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse, UpdateRuntimeConfigRequest,
    UpdateRuntimeConfigResponse, VersionRequest, VersionResponse, runtime_service_server::RuntimeService,
};
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::{labels_match, streams::StreamServer};
use crate::{
    RUNTIME_NAME,
    cgroup::Cgroup,
    container::{exec_sync, record::Container},
    error::Error,
    sandbox::cni,
    shim::{client, now_nanos, protocol},
    state::Runtime,
};

const KUBELET_API_VERSION: &str = "0.1.0";
const CRI_VERSION: &str = "v1";

pub struct RuntimeApi {
    pub runtime: Arc<Runtime>,
    pub streams: Arc<StreamServer>,
}

type Answer<T> = Result<Response<T>, Status>;

/// Runs blocking work off the asynchronous threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or_default())
}

fn running(container: &Container) -> bool {
    container.cri_state() == ContainerState::ContainerRunning
}

#[tonic::async_trait]
impl RuntimeService for RuntimeApi {
    async fn version(&self, _request: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: KUBELET_API_VERSION.into(),
            runtime_name: RUNTIME_NAME.into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: CRI_VERSION.into(),
        }))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let pod_sandbox_id = self.runtime.run_sandbox(request.into_inner()).await?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        self.runtime.stop_sandbox(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        self.runtime.remove_sandbox(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.runtime.sandbox(&request.pod_sandbox_id)?;
        let containers = self.runtime.containers_of(&sandbox.id);
        let mut response = PodSandboxStatusResponse {
            status: Some(sandbox.status()),
            containers_statuses: containers.iter().map(|container| container.status()).collect(),
            timestamp: now_nanos(),
            ..PodSandboxStatusResponse::default()
        };
        if request.verbose {
            let state = sandbox.state();
            let info = serde_json::json!({
                "pausePid": state.pause_pid, "cniResult": state.cni_result,
                "networkNamespace": sandbox.namespace("net"),
            });
            response.info.insert("info".into(), info.to_string());
        }
        Ok(Response::new(response))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut items: Vec<_> = self.runtime.sandboxes().iter().map(|sandbox| sandbox.summary()).collect();
        items.retain(|item| {
            (filter.id.is_empty() || item.id.starts_with(&filter.id))
                && filter.state.is_none_or(|state| state.state == item.state)
                && labels_match(&filter.label_selector, &item.labels)
        });
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let container_id = self.runtime.create_container(request.into_inner()).await?;
        Ok(Response::new(CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        self.runtime.start_container(&request.into_inner().container_id).await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        self.runtime.stop_container(&request.container_id, seconds(request.timeout)).await?;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        self.runtime.remove_container(&request.into_inner().container_id).await?;
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut containers: Vec<_> = self.runtime.containers().iter().map(|one| one.summary()).collect();
        containers.retain(|one| {
            (filter.id.is_empty() || one.id.starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty()
                    || one.pod_sandbox_id.starts_with(&filter.pod_sandbox_id))
                && filter.state.is_none_or(|state| state.state == one.state)
                && labels_match(&filter.label_selector, &one.labels)
        });
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        let mut response = ContainerStatusResponse {
            status: Some(container.status()),
            ..ContainerStatusResponse::default()
        };
        if request.verbose {
            let record = container.record();
            let info = serde_json::json!({
                "sandboxID": record.sandbox_id, "pid": record.pid, "cgroupPath": record.cgroup_path,
                "directory": container.directory,
            });
            response.info.insert("info".into(), info.to_string());
        }
        Ok(Response::new(response))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        if let Some(resources) = request.linux {
            if running(&container) {
                Cgroup::find(&container.record().cgroup_path)
                    .update(&resources)
                    .map_err(Error::io("update", &container.directory))?;
            }
            container.change_resources(&resources)?;
        }
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let container = self.runtime.container(&request.into_inner().container_id)?;
        if !running(&container) {
            return Err(
                Error::FailedPrecondition(format!("container {} is not running", container.id)).into()
            );
        }
        client::request(&container.socket, &protocol::Request::ReopenLog)
            .await
            .map_err(Error::io("reopen log through", &container.socket))?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = seconds(request.timeout);
        let response = exec_sync::run(&self.runtime, &request.container_id, &request.cmd, timeout).await?;
        Ok(Response::new(response))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let url = self.streams.exec(request.into_inner())?;
        Ok(Response::new(ExecResponse { url }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let url = self.streams.attach(request.into_inner())?;
        Ok(Response::new(AttachResponse { url }))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let url = self.streams.port_forward(request.into_inner())?;
        Ok(Response::new(PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let container = self.runtime.container(&request.into_inner().container_id)?;
        let runtime = Arc::clone(&self.runtime);
        let stats = blocking(move || runtime.container_stats(&container)).await?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut containers = self.runtime.containers();
        containers.retain(|one| {
            running(one)
                && (filter.id.is_empty() || one.id.starts_with(&filter.id))
                && one.record().sandbox_id.starts_with(&filter.pod_sandbox_id)
                && labels_match(&filter.label_selector, &one.config.labels)
        });
        let runtime = Arc::clone(&self.runtime);
        let work = move || containers.iter().map(|one| runtime.container_stats(one)).collect();
        Ok(Response::new(ListContainerStatsResponse { stats: blocking(work).await? }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let sandbox = self.runtime.sandbox(&request.into_inner().pod_sandbox_id)?;
        let runtime = Arc::clone(&self.runtime);
        let stats = blocking(move || runtime.sandbox_stats(&sandbox)).await?;
        Ok(Response::new(PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut sandboxes = self.runtime.sandboxes();
        sandboxes.retain(|one| {
            one.state().ready
                && (filter.id.is_empty() || one.id.starts_with(&filter.id))
                && labels_match(&filter.label_selector, &one.config.labels)
        });
        let runtime = Arc::clone(&self.runtime);
        let work = move || sandboxes.iter().map(|one| runtime.sandbox_stats(one)).collect();
        Ok(Response::new(ListPodSandboxStatsResponse { stats: blocking(work).await? }))
    }

    async fn update_runtime_config(
        &self,
        _request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        // The pod CIDR is the CNI configuration's business.
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn status(&self, _request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let condition = |kind: &str, outcome: Result<(), String>| RuntimeCondition {
            r#type: kind.into(),
            status: outcome.is_ok(),
            reason: if outcome.is_ok() {
                String::new()
            } else {
                format!("{kind}Not").replace("ReadyNot", "NotReady")
            },
            message: outcome.err().unwrap_or_default(),
        };
        let network = cni::load(&self.runtime.cni.conf_dir).map(|_| ()).map_err(|error| error.to_string());
        let conditions = vec![condition("RuntimeReady", Ok(())), condition("NetworkReady", network)];
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: false, user_namespaces: false };
        let handler = RuntimeHandler { name: String::new(), features: Some(features) };
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            runtime_handlers: vec![handler],
            features: Some(RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
            ..StatusResponse::default()
        }))
    }

    async fn runtime_config(&self, _request: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
        Ok(Response::new(RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        // The kubelet owns the pod's cgroup; the call only tells.
        self.runtime.sandbox(&request.into_inner().pod_sandbox_id)?;
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }

    type GetContainerEventsStream =
        Pin<Box<dyn Stream<Item = Result<ContainerEventResponse, Status>> + Send + 'static>>;

    async fn get_container_events(
        &self,
        _request: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        // A subscriber that falls behind is told so, and can list instead.
        let events = BroadcastStream::new(self.runtime.subscribe())
            .map(|event| event.map_err(|lost| Status::data_loss(lost.to_string())));
        Ok(Response::new(Box::pin(events)))
    }
}
