//! Channels to a CRI socket, since tonic speaks to URIs and a runtime listens on a path.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error, Uri};

/// Address that satisfies HTTP/2's `:authority`; the connector ignores it.
const PLACEHOLDER_URI: &str = "http://localhost";

/// Connects to the runtime behind `endpoint` (`unix:///path` or a plain path).
pub async fn connect(endpoint: &str) -> Result<Channel, Error> {
    let path = socket_path(endpoint);
    Endpoint::from_static(PLACEHOLDER_URI)
        .connect_with_connector(tower::service_fn(move |_: Uri| dial(path.clone())))
        .await
}

/// Like [`connect`], but dials at the first call and again whenever the connection is lost.
pub fn connect_lazy(endpoint: &str) -> Channel {
    let path = socket_path(endpoint);
    Endpoint::from_static(PLACEHOLDER_URI)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| dial(path.clone())))
}

async fn dial(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(path).await?))
}

fn socket_path(endpoint: &str) -> PathBuf {
    PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_may_be_uris_or_paths() {
        for endpoint in ["unix:///run/cri.sock", "/run/cri.sock"] {
            assert_eq!(socket_path(endpoint), PathBuf::from("/run/cri.sock"));
        }
    }
}
