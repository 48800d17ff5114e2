//! What the node's API answers with, path by path.
#![allow(clippy::result_large_err)] // an answer in place of a value is a handler's way out

use std::sync::Arc;

use amphipod_client::Resource;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::streams::{self, Wish};
use super::{Answer, Server, full, json, logs, pod_list, query_of, text};
use crate::pod::state::RuntimeState;

impl Server {
    pub(super) fn configz(&self) -> String {
        let config = &self.context.config;
        let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
        serde_json::json!({"kubeletconfig": {
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "clusterDNS": dns, "clusterDomain": config.cluster_domain, "maxPods": config.max_pods,
            "cgroupDriver": "cgroupfs", "containerRuntimeEndpoint": config.cri_endpoint,
            "staticPodPath": config.manifest_dir, "podLogsDir": config.pod_logs_dir,
            "imageGCHighThresholdPercent": config.image_gc_high_percent,
            "imageGCLowThresholdPercent": config.image_gc_low_percent,
        }})
        .to_string()
    }

    pub(super) async fn running_pods(&self) -> Answer {
        let all = match self.context.runtime.all_pods().await {
            Ok(all) => all,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        let pods = self.pods.list();
        let running = pods.into_iter().filter(|p| all.keys().any(|key| key.uid == p.uid()));
        json(pod_list(&running.collect::<Vec<_>>()))
    }

    fn find(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Answer> {
        let missing =
            || text(StatusCode::NOT_FOUND, format!("pod {:?} does not exist", format!("{name}_{namespace}")));
        self.pods.find(namespace, name).ok_or_else(missing)
    }

    async fn state(&self, pod: &Pod) -> Result<RuntimeState, Answer> {
        let state = self.context.runtime.pod_state(pod.uid(), &RuntimeState::default()).await;
        state.map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }

    pub(super) async fn logs(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        query: &[(String, String)],
    ) -> Answer {
        self.try_logs(namespace, name, container, query).await.unwrap_or_else(|answer| answer)
    }

    async fn try_logs(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        query: &[(String, String)],
    ) -> Result<Answer, Answer> {
        let bad = |message: String| text(StatusCode::BAD_REQUEST, message);
        let options = logs::Options::parse(query, Timestamp::now()).map_err(&bad)?;
        let pod = self.find(namespace, name)?;
        if crate::pod::find_container(&pod, container).is_none() {
            let message =
                format!("container {container:?} not found in pod {:?}", format!("{name}_{namespace}"));
            return Err(text(StatusCode::NOT_FOUND, message));
        }
        let state = self.state(&pod).await?;
        let record = if options.previous {
            let id = self.previous_id(&pod, container);
            let found = state.containers.iter().find(|c| Some(&c.id) == id.as_ref());
            found.ok_or_else(|| {
                bad(format!("previous terminated container {container:?} in pod {name:?} not found"))
            })?
        } else {
            let found = state.latest(container);
            found.ok_or_else(|| bad(self.waiting_text(&pod, container)))?
        };
        let (runtime, uid, id) = (self.context.runtime.clone(), pod.uid().to_owned(), record.id.clone());
        let alive: logs::Alive = Box::new(move || {
            let (runtime, uid, id) = (runtime.clone(), uid.clone(), id.clone());
            Box::pin(async move {
                let state = runtime.pod_state(&uid, &RuntimeState::default()).await;
                state.is_ok_and(|s| s.containers.iter().any(|c| c.id == id && !c.is_over()))
            })
        });
        let pieces = logs::stream(record.log_path.clone().into(), options, alive).map_err(|error| {
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("failed to try resolving symlinks in path {:?}: {error}", record.log_path),
            )
        })?;
        let frames = tokio_stream::wrappers::ReceiverStream::new(pieces).map(|piece| Ok(Frame::data(piece)));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    fn container_status(&self, pod: &Pod, container: &str) -> Option<ContainerStatus> {
        let status =
            self.pods.list().into_iter().find(|p| p.uid() == pod.uid()).and_then(|p| p.status.clone())?;
        let lists =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten().find(|c| c.name == container)
    }

    /// The instance that `lastState` tells of: also the newest one, while it waits to start again.
    fn previous_id(&self, pod: &Pod, container: &str) -> Option<String> {
        let last = self.container_status(pod, container)?.last_state?.terminated?.container_id?;
        Some(last.split_once("://")?.1.to_owned())
    }

    fn waiting_text(&self, pod: &Pod, container: &str) -> String {
        let found = self.container_status(pod, container);
        let waiting = found.and_then(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone());
        let reason = waiting.unwrap_or_else(|| "ContainerCreating".to_owned());
        let name = pod.name();
        match reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                format!(
                    "container {container:?} in pod {name:?} is waiting to start: trying and failing to pull image"
                )
            }
            _ => format!("container {container:?} in pod {name:?} is waiting to start: {reason}"),
        }
    }

    async fn running_id(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
    ) -> Result<(String, Arc<Pod>), Answer> {
        let pod = self.find(namespace, name)?;
        let state = self.state(&pod).await?;
        let running = state.latest(container).filter(|r| r.is_running()).map(|r| r.id.clone());
        let missing = || text(StatusCode::NOT_FOUND, format!("container not found ({container:?})"));
        Ok((running.ok_or_else(missing)?, pod))
    }

    pub(super) async fn exec(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        request: Request<Incoming>,
    ) -> Answer {
        match self.running_id(namespace, name, container).await {
            Ok((container_id, _)) => {
                let query = query_of(&request);
                streams::proxy(&self.context.runtime, Wish::Exec { container_id, query }, request).await
            }
            Err(answer) => answer,
        }
    }

    pub(super) async fn attach(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        request: Request<Incoming>,
    ) -> Answer {
        match self.running_id(namespace, name, container).await {
            Ok((container_id, pod)) => {
                let query = query_of(&request);
                let tty = crate::pod::find_container(&pod, container)
                    .is_some_and(|c| c.container.tty == Some(true));
                streams::proxy(&self.context.runtime, Wish::Attach { container_id, query, tty }, request)
                    .await
            }
            Err(answer) => answer,
        }
    }

    pub(super) async fn port_forward(
        &self,
        namespace: &str,
        name: &str,
        request: Request<Incoming>,
    ) -> Answer {
        let pod = match self.find(namespace, name) {
            Ok(pod) => pod,
            Err(answer) => return answer,
        };
        let state = match self.state(&pod).await {
            Ok(state) => state,
            Err(answer) => return answer,
        };
        let Some(sandbox) = state.ready_sandbox() else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("pod not found ({:?})", format!("{name}_{namespace}")),
            );
        };
        let wish = Wish::PortForward { sandbox_id: sandbox.id.clone(), query: query_of(&request) };
        streams::proxy(&self.context.runtime, wish, request).await
    }

    /// Runs a command to its end and answers with its output.
    pub(super) async fn run(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        query: &[(String, String)],
    ) -> Answer {
        let (id, _) = match self.running_id(namespace, name, container).await {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let written = query.iter().filter(|(k, _)| k == "cmd" || k == "command").map(|(_, v)| v.as_str());
        let words: Vec<String> = written.flat_map(str::split_whitespace).map(str::to_owned).collect();
        match self.context.runtime.exec_sync(&id, words, std::time::Duration::ZERO).await {
            Ok(output) if output.exit_code == 0 => Response::new(full(output.output)),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.output).into_owned();
                let message = format!("command terminated with exit code {}: {said}", output.exit_code);
                text(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}
