//! The connection of one command: which cluster, which namespace, and plain calls on JSON values.

use std::path::PathBuf;

use amphipod_client::{Client, Query};
use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::discovery::{Discovery, Kind};
use crate::error::usage;
use crate::{Error, Global};

/// Where `amphipod up` leaves its kubeconfig unless told otherwise.
const DEFAULT_KUBECONFIG: &str = "/var/lib/amphipod/admin.kubeconfig";

pub struct Session {
    pub client: Client,
    pub namespace: String,
    discovery: OnceCell<Discovery>,
}

/// `--kubeconfig`, `$KUBECONFIG`, `~/.kube/config`, then the local cluster's.
fn kubeconfig(flag: Option<&PathBuf>) -> Result<PathBuf, Error> {
    if let Some(path) = flag {
        return Ok(path.clone());
    }
    if let Some(paths) = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) {
        return Ok(std::env::split_paths(&paths).next().unwrap_or_default());
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let candidates = home.into_iter().chain([PathBuf::from(DEFAULT_KUBECONFIG)]);
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        usage(format!(
            "no kubeconfig found: set KUBECONFIG, pass --kubeconfig, or start a cluster with `amphipod up` \
             (it writes {DEFAULT_KUBECONFIG})"
        ))
    })
}

impl Session {
    pub async fn open(global: &Global) -> Result<Self, Error> {
        let path = kubeconfig(global.kubeconfig.as_ref())?;
        let fail = |error: &dyn std::fmt::Display| usage(format!("{}: {error}", path.display()));
        let file = kube::config::Kubeconfig::read_from(&path).map_err(|e| fail(&e))?;
        let options =
            kube::config::KubeConfigOptions { context: global.context.clone(), ..Default::default() };
        let mut config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|e| fail(&e))?;
        config.read_timeout = None;
        let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::new(kube::Client::try_from(config).map_err(|e| fail(&e))?);
        Ok(Session::new(client, namespace))
    }

    pub fn new(client: Client, namespace: String) -> Self {
        Session { client, namespace, discovery: OnceCell::new() }
    }

    pub async fn discovery(&self) -> Result<&Discovery, Error> {
        self.discovery.get_or_try_init(|| Discovery::fetch(&self.client)).await
    }
    /// The namespace's pods, for streams to and from their processes.
    pub fn pods(&self) -> kube::Api<k8s_openapi::api::core::v1::Pod> {
        kube::Api::namespaced(self.client.kube(), &self.namespace)
    }

    /// The kind a word on the command line means.
    pub async fn kind(&self, word: &str) -> Result<Kind, Error> {
        let found = self.discovery().await?.find(word).cloned();
        found.ok_or_else(|| usage(format!("the server doesn't have a resource type {word:?}")))
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Bytes, Error> {
        let mut request = Request::builder().method(method).uri(path).header("accept", accept);
        let mut bytes = Vec::new();
        if let Some((content_type, content)) = body {
            request = request.header("content-type", content_type);
            bytes = content;
        }
        Ok(self.client.request(request.body(bytes)?).await?)
    }
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        Ok(serde_json::from_slice(&self.call("GET", path, "application/json", None).await?)?)
    }
    pub async fn send(&self, method: &str, path: &str, object: &Value) -> Result<Value, Error> {
        let body = Some(("application/json", object.to_string().into_bytes()));
        Ok(serde_json::from_slice(&self.call(method, path, "application/json", body).await?)?)
    }
    /// Creates with kubectl's field manager for that command.
    pub async fn create(&self, kind: &Kind, manager: &str, object: &Value) -> Result<Value, Error> {
        let mut query = Query::default();
        query.add("fieldManager", manager);
        query.add("fieldValidation", "Strict");
        let namespace = amphipod_api::object::namespace(object);
        let namespace = if namespace.is_empty() { &self.namespace } else { namespace };
        self.send("POST", &format!("{}{}", kind.path(Some(namespace), ""), query.as_str()), object).await
    }
    pub async fn patch(&self, path: &str, content_type: &str, patch: &Value) -> Result<Value, Error> {
        let body = Some((content_type, patch.to_string().into_bytes()));
        Ok(serde_json::from_slice(&self.call("PATCH", path, "application/json", body).await?)?)
    }
}
