//! A kubelet's surroundings for tests of its shell: an API that knows nothing, a runtime that is
//! not asked.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use amphipod_client::{Client, SharedInformers};
use bytes::Bytes;
use http_body_util::Empty;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::config::CgroupConfig;
use crate::context::Context;
use crate::runtime::Runtime;

/// Everything is kept below `root`.
pub fn context(root: &Path) -> Arc<Context> {
    let endpoint = format!("unix://{}", root.join("cri.sock").display());
    let mut config = Config::new("n1", "127.0.0.1".parse().unwrap(), &endpoint);
    config.root_dir = root.join("kubelet");
    config.cgroups = CgroupConfig { enabled: false, ..config.cgroups };
    let client = unknowing_api();
    let informers = SharedInformers::new(client.clone(), CancellationToken::new());
    Arc::new(crate::build(config, client, &informers, Runtime::unasked(&endpoint)))
}

pub fn unknowing_api() -> Client {
    Client::local(tower::service_fn(|_| async {
        let answer = http::Response::builder().status(http::StatusCode::NOT_FOUND);
        Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).unwrap())
    }))
}
