//! Typed calls on one resource: thin paths and bodies over `Client`.

use std::marker::PhantomData;

use bytes::Bytes;
use futures::Stream;
use http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde_json::{Value, json};

use crate::{Client, Error, Resource, Writable};

pub struct Api<K> {
    client: Client,
    namespace: Option<String>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Api { client: self.client.clone(), namespace: self.namespace.clone(), kind: PhantomData }
    }
}

#[derive(Clone, Debug, Default)]
pub struct ListParams {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub limit: Option<u32>,
    pub continue_token: Option<String>,
    pub resource_version: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct DeleteParams {
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<&'static str>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// A patch and its content type.
#[derive(Clone, Debug)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// Server-side apply; the manager's name, and whether to take over conflicting fields.
    Apply {
        object: Value,
        manager: String,
        force: bool,
    },
}

impl Patch {
    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Patch::Json(_) => "application/json-patch+json",
            Patch::Merge(_) => "application/merge-patch+json",
            Patch::Strategic(_) => "application/strategic-merge-patch+json",
            Patch::Apply { .. } => "application/apply-patch+yaml",
        }
    }
    pub(crate) fn body(&self) -> Vec<u8> {
        let (Patch::Json(v) | Patch::Merge(v) | Patch::Strategic(v) | Patch::Apply { object: v, .. }) = self;
        v.to_string().into_bytes()
    }
}

/// Builds `?a=b&c=d` with percent-encoding.
#[derive(Default)]
pub struct Query(String);

impl Query {
    pub fn add(&mut self, key: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(key);
        self.0.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.0.push(byte as char);
            } else {
                self.0.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    pub fn add_some(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<K: Resource> Api<K> {
    /// All namespaces, or a cluster-wide kind.
    pub fn all(client: Client) -> Self {
        Api { client, namespace: None, kind: PhantomData }
    }
    pub fn namespaced(client: Client, namespace: &str) -> Self {
        Api { client, namespace: Some(namespace.to_owned()), kind: PhantomData }
    }
    /// The namespace of an object where the kind has one.
    pub fn of(client: Client, object: &K) -> Self {
        Api { client, namespace: K::NAMESPACED.then(|| object.namespace().to_owned()), kind: PhantomData }
    }
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// `/api/v1/namespaces/x/pods[/name[/subresource]]`.
    pub fn path(&self, name: &str, subresource: &str) -> String {
        let mut path = if K::GROUP.is_empty() {
            format!("/api/{}", K::VERSION)
        } else {
            format!("/apis/{}/{}", K::GROUP, K::VERSION)
        };
        if let Some(namespace) = &self.namespace {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(K::URL_PATH_SEGMENT);
        for part in [name, subresource] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        path
    }

    async fn call(
        &self,
        method: &str,
        path: String,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", "application/json")
            .header("content-type", content_type)
            .body(body)?;
        self.client.request(request).await
    }

    pub async fn get(&self, name: &str) -> Result<K, Error> {
        K::decode(&self.call("GET", self.path(name, ""), "application/json", Vec::new()).await?)
    }
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>, Error> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
    pub async fn list(&self, params: &ListParams) -> Result<(ListMeta, Vec<K>), Error> {
        let path = format!("{}{}", self.path("", ""), list_query(params).as_str());
        K::decode_list(&self.call("GET", path, "application/json", Vec::new()).await?)
    }
    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<K, Error> {
        self.patch_subresource(name, "", patch).await
    }
    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<K, Error> {
        self.patch_subresource(name, "status", patch).await
    }
    /// The same for those who do not need the answer: it is not decoded.
    pub async fn send_status(&self, name: &str, patch: &Patch) -> Result<(), Error> {
        self.send_patch(name, "status", patch).await
    }
    /// [`Api::patch_subresource`] without its answer; no patch that is an apply.
    pub async fn send_patch(&self, name: &str, subresource: &str, patch: &Patch) -> Result<(), Error> {
        let path = self.path(name, subresource);
        self.call("PATCH", path, patch.content_type(), patch.body()).await.map(|_| ())
    }
    pub async fn patch_subresource(&self, name: &str, subresource: &str, patch: &Patch) -> Result<K, Error> {
        let mut query = Query::default();
        if let Patch::Apply { manager, force, .. } = patch {
            query.add("fieldManager", manager);
            query.add("force", if *force { "true" } else { "false" });
        }
        let path = format!("{}{}", self.path(name, subresource), query.as_str());
        K::decode(&self.call("PATCH", path, patch.content_type(), patch.body()).await?)
    }
    /// Ok also while the object still terminates; the answer's body is not needed by callers.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        let path = self.path(name, "");
        self.call("DELETE", path, "application/json", delete_options(params)).await.map(|_| ())
    }
    pub async fn delete_collection(&self, params: &DeleteParams, select: &ListParams) -> Result<(), Error> {
        let path = format!("{}{}", self.path("", ""), list_query(select).as_str());
        self.call("DELETE", path, "application/json", delete_options(params)).await.map(|_| ())
    }
    /// POST to a subresource (`binding`, `eviction`, `token`); the raw answer.
    pub async fn create_subresource(
        &self,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Bytes, Error> {
        let path = self.path(name, subresource);
        self.call("POST", path, "application/json", body.to_string().into_bytes()).await
    }
    /// The raw watch stream: newline-delimited JSON events.
    pub async fn watch_raw(
        &self,
        params: &ListParams,
        resource_version: &str,
        timeout_seconds: u32,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<K>, Error> {
        let mut query = Query::default();
        query.add("watch", "true");
        query.add("allowWatchBookmarks", "true");
        query.add("resourceVersion", resource_version);
        query.add("timeoutSeconds", &timeout_seconds.to_string());
        query.add_some("labelSelector", params.label_selector.as_deref());
        query.add_some("fieldSelector", params.field_selector.as_deref());
        let uri = format!("{}{}", self.path("", ""), query.as_str());
        let request = Request::builder().uri(uri).header("accept", "application/json").body(Vec::new())?;
        self.client.stream(request).await
    }
}

/// Only what is held whole can be written back.
impl<K: Writable> Api<K> {
    pub async fn create(&self, object: &K) -> Result<K, Error> {
        K::decode(&self.post(object).await?)
    }
    /// The same for those who do not need the answer: it is not decoded.
    pub async fn send_new(&self, object: &K) -> Result<(), Error> {
        self.post(object).await.map(drop)
    }
    async fn post(&self, object: &K) -> Result<Bytes, Error> {
        self.call("POST", self.path("", ""), "application/json", object.encode()).await
    }
    pub async fn update(&self, object: &K) -> Result<K, Error> {
        let path = self.path(object.name(), "");
        K::decode(&self.call("PUT", path, "application/json", object.encode()).await?)
    }
    pub async fn update_status(&self, object: &K) -> Result<K, Error> {
        let path = self.path(object.name(), "status");
        K::decode(&self.call("PUT", path, "application/json", object.encode()).await?)
    }
    /// PUT of the whole object to a subresource (`finalize`, `approval`).
    pub async fn update_subresource(&self, object: &K, subresource: &str) -> Result<K, Error> {
        let path = self.path(object.name(), subresource);
        K::decode(&self.call("PUT", path, "application/json", object.encode()).await?)
    }
}

pub(crate) fn list_query(params: &ListParams) -> Query {
    let mut query = Query::default();
    query.add_some("labelSelector", params.label_selector.as_deref());
    query.add_some("fieldSelector", params.field_selector.as_deref());
    query.add_some("continue", params.continue_token.as_deref());
    query.add_some("resourceVersion", params.resource_version.as_deref());
    if let Some(limit) = params.limit {
        query.add("limit", &limit.to_string());
    }
    query
}

pub(crate) fn delete_options(params: &DeleteParams) -> Vec<u8> {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    if let Some(seconds) = params.grace_period_seconds {
        options["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(policy) = params.propagation {
        options["propagationPolicy"] = policy.into();
    }
    if let Some(uid) = &params.uid {
        options["preconditions"]["uid"] = uid.clone().into();
    }
    if let Some(version) = &params.resource_version {
        options["preconditions"]["resourceVersion"] = version.clone().into();
    }
    options.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;

    #[test]
    fn queries_are_percent_encoded() {
        let mut query = Query::default();
        query.add("labelSelector", "a in (b,c)");
        assert_eq!(query.as_str(), "?labelSelector=a%20in%20%28b%2Cc%29");
    }

    #[test]
    fn delete_options_carry_preconditions() {
        let params =
            DeleteParams { uid: Some("u".into()), grace_period_seconds: Some(0), ..Default::default() };
        let options: Value = serde_json::from_slice(&delete_options(&params)).unwrap();
        assert_eq!(options["preconditions"]["uid"], "u");
        assert_eq!(options["gracePeriodSeconds"], 0);
        assert_eq!(<Deployment as k8s_openapi::Resource>::URL_PATH_SEGMENT, "deployments");
    }
}
