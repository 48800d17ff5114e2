//! The gRPC face: one file per service, each call a few lines over the runtime.

mod images;
mod library;
mod runtime;
pub mod streams;

use std::{convert::Infallible, sync::Arc};

use amphipod_cri::{
    MAX_MESSAGE_BYTES,
    library::image_library_server::ImageLibraryServer,
    v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, server::NamedService};
use tower::{Service, ServiceExt};

use self::{images::ImageApi, library::LibraryApi, runtime::RuntimeApi, streams::StreamServer};
use crate::state::Runtime;

/// All services, told apart by the path of a call.
#[derive(Clone)]
pub struct Services {
    runtime: RuntimeServiceServer<RuntimeApi>,
    images: ImageServiceServer<ImageApi>,
    library: ImageLibraryServer<LibraryApi>,
}

impl Services {
    pub fn new(state: Arc<Runtime>, streams: Arc<StreamServer>) -> Services {
        let runtime = RuntimeApi { runtime: Arc::clone(&state), streams };
        let images = ImageApi { runtime: Arc::clone(&state) };
        Services {
            runtime: RuntimeServiceServer::new(runtime).max_encoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceServer::new(images).max_encoding_message_size(MAX_MESSAGE_BYTES),
            library: ImageLibraryServer::new(LibraryApi { runtime: state }),
        }
    }

    async fn call(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let path = request.uri().path().to_string();
        if addressed_to(&self.runtime, &path) {
            run(self.runtime, request).await
        } else if addressed_to(&self.images, &path) {
            run(self.images, request).await
        } else if addressed_to(&self.library, &path) {
            run(self.library, request).await
        } else {
            Ok(tonic::Status::unimplemented(format!("unknown service in {path}")).into_http())
        }
    }
}

fn addressed_to<S: NamedService>(_: &S, path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(S::NAME))
        .is_some_and(|rest| rest.starts_with('/'))
}

async fn run<S>(service: S, request: Request<Incoming>) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    service.oneshot(request).await
}

/// Serves gRPC until cancelled, then lets open calls finish.
pub async fn serve(listener: UnixListener, services: Services, cancel: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, services.clone(), cancel.clone()));
            }
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(stream: UnixStream, services: Services, cancel: CancellationToken) {
    let handler = hyper::service::service_fn(move |request| services.clone().call(request));
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), handler);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "CRI connection");
    }
}

/// Whether every wanted label is there.
fn labels_match(
    wanted: &std::collections::HashMap<String, String>,
    labels: &std::collections::HashMap<String, String>,
) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
