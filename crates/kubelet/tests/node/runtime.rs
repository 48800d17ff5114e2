//! A container runtime of the mind: it keeps sandboxes and containers, tells events, and lets the
//! test end containers as it likes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use amphipod_cri::v1::image_service_server::{ImageService, ImageServiceServer};
use amphipod_cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use amphipod_cri::v1::*;
use futures::StreamExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tonic::{Request, Response, Status};
use tower::Service;

#[derive(Default)]
pub struct State {
    next: u32,
    pub sandboxes: Vec<PodSandboxStatus>,
    /// With the id of the sandbox.
    pub containers: Vec<(String, ContainerStatus)>,
    pub configs: HashMap<String, ContainerConfig>,
    pub stopped: Vec<(String, i64)>,
    pub execs: Vec<String>,
    /// Updates of resources, in order, with the id of the container.
    pub updates: Vec<(String, LinuxContainerResources)>,
    /// Bytes each container uses; no statistics without.
    pub memory_usage: Option<u64>,
    /// What is wrong with the network.
    pub network: Option<String>,
    /// Where exec streams are served.
    pub stream: Option<String>,
}

#[derive(Clone)]
pub struct MindRuntime {
    pub state: Arc<Mutex<State>>,
    events: broadcast::Sender<ContainerEventResponse>,
    /// While true, containers that were told to stop go on.
    pub stops_held: watch::Sender<bool>,
}

type Answer<T> = Result<Response<T>, Status>;

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

impl MindRuntime {
    pub fn serve(socket: &Path) -> Self {
        let runtime = MindRuntime {
            state: Arc::default(),
            events: broadcast::channel(1024).0,
            stops_held: watch::Sender::new(false),
        };
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let (calls, images) =
            (RuntimeServiceServer::new(runtime.clone()), ImageServiceServer::new(runtime.clone()));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (calls, images) = (calls.clone(), images.clone());
                let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                    let (mut calls, mut images) = (calls.clone(), images.clone());
                    async move {
                        if request.uri().path().starts_with("/runtime.v1.ImageService/") {
                            images.call(request).await
                        } else {
                            calls.call(request).await
                        }
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        runtime
    }
    /// The newest instance of a container, if it runs.
    pub fn running(&self, name: &str) -> Option<ContainerStatus> {
        let state = self.state.lock();
        let last =
            state.containers.iter().rev().find(|(_, c)| c.labels["io.kubernetes.container.name"] == name);
        last.map(|(_, c)| c.clone()).filter(|c| c.state == ContainerState::ContainerRunning as i32)
    }
    pub fn end(&self, id: &str, exit_code: i32) {
        let mut state = self.state.lock();
        let found = state.containers.iter_mut().find(|(_, c)| c.id == id);
        let Some((sandbox, container)) =
            found.filter(|(_, c)| c.state != ContainerState::ContainerExited as i32)
        else {
            return;
        };
        container.state = ContainerState::ContainerExited as i32;
        container.exit_code = exit_code;
        container.finished_at = now();
        let sandbox = sandbox.clone();
        drop(state);
        self.tell(&sandbox);
    }
    fn tell(&self, sandbox: &str) {
        let found = self.state.lock().sandboxes.iter().find(|s| s.id == sandbox).cloned();
        let _ = self.events.send(ContainerEventResponse { pod_sandbox_status: found, ..Default::default() });
    }
    fn id(&self) -> String {
        let mut state = self.state.lock();
        state.next += 1;
        format!("id{}", state.next)
    }
}

fn fits(labels: &HashMap<String, String>, selector: Option<&HashMap<String, String>>) -> bool {
    selector.is_none_or(|s| s.iter().all(|(k, v)| labels.get(k) == Some(v)))
}

#[tonic::async_trait]
impl RuntimeService for MindRuntime {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            runtime_name: "mind".into(),
            runtime_version: "1".into(),
            ..Default::default()
        }))
    }
    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let problem = self.state.lock().network.clone();
        let conditions = problem.map(|message| RuntimeCondition {
            r#type: "NetworkReady".into(),
            status: false,
            reason: "NetworkPluginNotReady".into(),
            message,
        });
        let status = RuntimeStatus { conditions: conditions.into_iter().collect() };
        Ok(Response::new(StatusResponse { status: Some(status), ..Default::default() }))
    }
    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap();
        let id = self.id();
        let options = config.linux.and_then(|l| l.security_context).and_then(|c| c.namespace_options);
        let network = PodSandboxNetworkStatus { ip: "10.9.8.7".into(), ..Default::default() };
        self.state.lock().sandboxes.push(PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: now(),
            network: Some(network),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
            labels: config.labels,
            ..Default::default()
        });
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: id }))
    }
    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        for sandbox in self.state.lock().sandboxes.iter_mut().filter(|s| s.id == id) {
            sandbox.state = PodSandboxState::SandboxNotready as i32;
        }
        Ok(Response::new(Default::default()))
    }
    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.state.lock().sandboxes.retain(|s| s.id != id);
        Ok(Response::new(Default::default()))
    }
    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let status = self.state.lock().sandboxes.iter().find(|s| s.id == id).cloned();
        let status = Some(status.ok_or_else(|| Status::not_found(id))?);
        Ok(Response::new(PodSandboxStatusResponse { status, ..Default::default() }))
    }
    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        let state = self.state.lock();
        let found =
            state.sandboxes.iter().filter(|s| fits(&s.labels, filter.as_ref().map(|f| &f.label_selector)));
        let items = found.map(|s| PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(ListPodSandboxResponse { items: items.collect() }))
    }
    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap();
        let id = self.id();
        let folder = request.sandbox_config.unwrap().log_directory;
        let log_path = std::path::Path::new(&folder).join(&config.log_path);
        std::fs::create_dir_all(log_path.parent().unwrap()).unwrap();
        std::fs::write(&log_path, "2024-01-01T00:00:00Z stdout F one\n2024-01-01T00:00:01Z stdout F two\n")
            .unwrap();
        let status = ContainerStatus {
            log_path: log_path.display().to_string(),
            id: id.clone(),
            metadata: config.metadata.clone(),
            created_at: now(),
            image: config.image.clone(),
            image_ref: "sha256:1".into(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            ..Default::default()
        };
        let mut state = self.state.lock();
        state.configs.insert(id.clone(), config);
        state.containers.push((request.pod_sandbox_id, status));
        Ok(Response::new(CreateContainerResponse { container_id: id }))
    }
    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let mut state = self.state.lock();
        let (sandbox, container) = state.containers.iter_mut().find(|(_, c)| c.id == id).unwrap();
        container.state = ContainerState::ContainerRunning as i32;
        container.started_at = now();
        let sandbox = sandbox.clone();
        drop(state);
        self.tell(&sandbox);
        Ok(Response::new(Default::default()))
    }
    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        self.state.lock().stopped.push((request.container_id.clone(), request.timeout));
        self.stops_held.subscribe().wait_for(|held| !held).await.unwrap();
        self.end(&request.container_id, 143);
        Ok(Response::new(Default::default()))
    }
    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.state.lock().containers.retain(|(_, c)| c.id != id);
        Ok(Response::new(Default::default()))
    }
    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter;
        let state = self.state.lock();
        let found = state
            .containers
            .iter()
            .filter(|(_, c)| fits(&c.labels, filter.as_ref().map(|f| &f.label_selector)));
        let containers = found.map(|(sandbox, c)| Container {
            id: c.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            metadata: c.metadata.clone(),
            state: c.state,
            created_at: c.created_at,
            labels: c.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(ListContainersResponse { containers: containers.collect() }))
    }
    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let status = self.state.lock().containers.iter().find(|(_, c)| c.id == id).map(|(_, c)| c.clone());
        let status = Some(status.ok_or_else(|| Status::not_found(id))?);
        Ok(Response::new(ContainerStatusResponse { status, ..Default::default() }))
    }
    /// The first word decides: `false` fails.
    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let command = request.cmd.join(" ");
        let exit_code = i32::from(command.starts_with("false"));
        self.state.lock().execs.push(command);
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(Response::new(ExecSyncResponse { exit_code, stdout: b"said".to_vec(), ..Default::default() }))
    }
    type GetContainerEventsStream =
        std::pin::Pin<Box<dyn futures::Stream<Item = Result<ContainerEventResponse, Status>> + Send>>;
    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let stream = tokio_stream::wrappers::BroadcastStream::new(self.events.subscribe());
        Ok(Response::new(stream.map(|e| e.map_err(|e| Status::data_loss(e.to_string()))).boxed()))
    }
    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.state.lock().updates.push((request.container_id, request.linux.unwrap()));
        Ok(Response::new(Default::default()))
    }
    async fn reopen_container_log(
        &self,
        _: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        Err(Status::unimplemented("reopen_container_log"))
    }
    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        assert!(request.stdin && request.stdout && request.tty && !request.stderr);
        let url = self.state.lock().stream.clone().unwrap();
        Ok(Response::new(ExecResponse {
            url: format!("{url}/exec/{}", request.cmd.join("-").replace(' ', "%20")),
        }))
    }
    async fn attach(&self, _: Request<AttachRequest>) -> Answer<AttachResponse> {
        Err(Status::unimplemented("attach"))
    }
    async fn port_forward(&self, _: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        Err(Status::unimplemented("port_forward"))
    }
    async fn container_stats(&self, _: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let Some(value) = self.state.lock().memory_usage else {
            return Err(Status::unimplemented("container_stats"));
        };
        let memory = Some(MemoryUsage { usage_bytes: Some(UInt64Value { value }), ..Default::default() });
        Ok(Response::new(ContainerStatsResponse {
            stats: Some(ContainerStats { memory, ..Default::default() }),
        }))
    }
    async fn list_container_stats(
        &self,
        _: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        Err(Status::unimplemented("list_container_stats"))
    }
    async fn pod_sandbox_stats(&self, _: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        Err(Status::unimplemented("pod_sandbox_stats"))
    }
    async fn list_pod_sandbox_stats(
        &self,
        _: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        Err(Status::unimplemented("list_pod_sandbox_stats"))
    }
    async fn update_runtime_config(
        &self,
        _: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        Err(Status::unimplemented("update_runtime_config"))
    }
    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        Err(Status::unimplemented("runtime_config"))
    }
    async fn update_pod_sandbox_resources(
        &self,
        _: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        Err(Status::unimplemented("update_pod_sandbox_resources"))
    }
}

#[tonic::async_trait]
impl ImageService for MindRuntime {
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        Ok(Response::new(Default::default()))
    }
    /// Every image is there, but those called missing.
    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap().image;
        let image =
            (!name.starts_with("missing")).then(|| Image { id: "sha256:1".into(), ..Default::default() });
        Ok(Response::new(ImageStatusResponse { image, ..Default::default() }))
    }
    async fn pull_image(&self, _: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        Err(Status::not_found("no such image"))
    }
    async fn remove_image(&self, _: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        Ok(Response::new(Default::default()))
    }
    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        Ok(Response::new(Default::default()))
    }
}
