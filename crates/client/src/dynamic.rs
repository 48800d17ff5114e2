//! Kinds known only at run time, by discovery, and of their objects only the metadata: what the
//! garbage and namespace collectors need. The server is asked to send nothing else.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::api::{Query, delete_options, list_query};
use crate::informer::{FIRST_RETRY, Frames, LAST_RETRY, PAGE_SIZE, WATCH_TIMEOUT_SECONDS};
use crate::{Client, DeleteParams, Error, ListParams, Patch};

const ONE: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// Group versions asked at once.
const DISCOVERIES_AT_ONCE: usize = 16;

/// A served resource, at its group's preferred version that has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ApiKind {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl ApiKind {
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        amphipod_api::status::qualified(&self.group, &self.plural)
    }
}

/// What is served, and the group versions that could not be asked (with why).
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    pub kinds: Vec<ApiKind>,
    pub failed: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(default)]
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

async fn get(client: &Client, path: &str, accept: &str) -> Result<Bytes, Error> {
    let request = Request::builder().uri(path).header("accept", accept).body(Vec::new())?;
    client.request(request).await
}

fn decode<'a, T: Deserialize<'a>>(what: &'static str, json: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|source| Error::Decode { what, source })
}

/// Asks for everything served. Fails only when the list of groups itself cannot be had.
pub async fn discover(client: &Client) -> Result<Discovery, Error> {
    let groups: Groups = decode("APIGroupList", &get(client, "/apis", "application/json").await?)?;
    let mut wanted = vec![(String::new(), "v1".to_owned())];
    for group in groups.groups {
        let preferred = group.preferred_version.map(|v| v.version);
        let mut versions: Vec<String> = group.versions.into_iter().map(|v| v.version).collect();
        versions.sort_by_key(|v| Some(v) != preferred.as_ref());
        wanted.extend(versions.into_iter().map(|version| (group.name.clone(), version)));
    }
    let asked = wanted.into_iter().map(|(group, version)| async move {
        let path =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let answer = get(client, &path, "application/json").await;
        let found = answer.and_then(|json| decode::<Resources>("APIResourceList", &json));
        (group, version, found)
    });
    let mut answers = futures::stream::iter(asked).buffered(DISCOVERIES_AT_ONCE);
    let mut discovery = Discovery::default();
    while let Some((group, version, found)) = answers.next().await {
        match found {
            Ok(found) => discovery.add(&group, &version, found.resources),
            Err(error) => {
                let name = if group.is_empty() { version } else { format!("{group}/{version}") };
                discovery.failed.push((name, error.to_string()));
            }
        }
    }
    Ok(discovery)
}

impl Discovery {
    fn add(&mut self, group: &str, version: &str, resources: Vec<Resource>) {
        for resource in resources {
            let known = self.kinds.iter().any(|k| k.group == group && k.plural == resource.name);
            // Subresources are no collections; a later version adds only what the first lacks.
            if known || resource.name.contains('/') {
                continue;
            }
            self.kinds.push(ApiKind {
                group: group.to_owned(),
                version: version.to_owned(),
                plural: resource.name,
                kind: resource.kind,
                namespaced: resource.namespaced,
                verbs: resource.verbs,
            });
        }
    }
}

/// The metadata of any object, as far as ownership and deletion go.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub deletion_timestamp: Option<String>,
    pub deletion_grace_period_seconds: Option<i64>,
    pub finalizers: Vec<String>,
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: Option<String>,
}

#[derive(Deserialize)]
struct ObjectList {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Vec<Object>,
}

#[derive(Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

/// What a watch over metadata tells.
#[derive(Debug, PartialEq)]
pub enum Observed {
    /// A new list begins: what does not come again before `Listed` is gone.
    Listing,
    Listed,
    Put(Metadata),
    Deleted(Metadata),
}

/// Calls on one kind, in one namespace or in all.
#[derive(Clone)]
pub struct Dynamic {
    client: Client,
    base: String,
}

impl Dynamic {
    /// `namespace` empty: all namespaces, or a cluster-wide kind.
    pub fn new(client: Client, kind: &ApiKind, namespace: &str) -> Self {
        let root = if kind.group.is_empty() {
            format!("/api/{}", kind.version)
        } else {
            format!("/apis/{}/{}", kind.group, kind.version)
        };
        let base = if namespace.is_empty() || !kind.namespaced {
            format!("{root}/{}", kind.plural)
        } else {
            format!("{root}/namespaces/{namespace}/{}", kind.plural)
        };
        Dynamic { client, base }
    }

    async fn call(
        &self,
        method: &str,
        path: String,
        (accept, kind): (&str, &str),
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", accept)
            .header("content-type", kind)
            .body(body)?;
        self.client.request(request).await
    }

    pub async fn get(&self, name: &str) -> Result<Metadata, Error> {
        let json = get(&self.client, &format!("{}/{name}", self.base), ONE).await?;
        Ok(decode::<Object>("PartialObjectMetadata", &json)?.metadata)
    }

    /// One page: the list's version, the token of the next page, the objects.
    pub async fn list(&self, params: &ListParams) -> Result<(String, Option<String>, Vec<Metadata>), Error> {
        let path = format!("{}{}", self.base, list_query(params).as_str());
        let json = get(&self.client, &path, LIST).await?;
        let list: ObjectList = decode("PartialObjectMetadataList", &json)?;
        let next = list.metadata.continue_token.filter(|token| !token.is_empty());
        Ok((list.metadata.resource_version, next, list.items.into_iter().map(|o| o.metadata).collect()))
    }

    /// Hands over everything, page by page; the list's version.
    pub async fn list_all(&self, mut each: impl FnMut(Metadata)) -> Result<String, Error> {
        let mut params = ListParams { limit: Some(PAGE_SIZE), ..ListParams::default() };
        loop {
            let (version, next, page) = self.list(&params).await?;
            page.into_iter().for_each(&mut each);
            match next {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(version),
            }
        }
    }

    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        let path = format!("{}/{name}", self.base);
        self.call("DELETE", path, (ONE, "application/json"), delete_options(params)).await.map(drop)
    }

    pub async fn delete_collection(&self, params: &DeleteParams) -> Result<(), Error> {
        // What was deleted is answered as a list.
        let types = (LIST, "application/json");
        self.call("DELETE", self.base.clone(), types, delete_options(params)).await.map(drop)
    }

    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<(), Error> {
        let path = format!("{}/{name}", self.base);
        self.call("PATCH", path, (ONE, patch.content_type()), patch.body()).await.map(drop)
    }

    /// A subresource as it is (`scale`).
    pub async fn get_subresource(&self, name: &str, subresource: &str) -> Result<Value, Error> {
        let path = format!("{}/{name}/{subresource}", self.base);
        decode("subresource", &get(&self.client, &path, "application/json").await?)
    }

    async fn watch(
        &self,
        version: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>, Error> {
        let mut query = Query::default();
        query.add("watch", "true");
        query.add("allowWatchBookmarks", "true");
        query.add("resourceVersion", version);
        query.add("timeoutSeconds", &WATCH_TIMEOUT_SECONDS.to_string());
        let uri = format!("{}{}", self.base, query.as_str());
        let request = Request::builder().uri(uri).header("accept", ONE).body(Vec::new())?;
        self.client.stream(request).await
    }

    /// Lists and watches until cancelled. Nothing is kept here: `observe` gets it all, in order.
    pub async fn reflect(&self, cancel: &CancellationToken, observe: impl Fn(Observed) + Send + Sync) {
        let mut retry = FIRST_RETRY;
        loop {
            let round = self.list_and_watch(&observe, &mut retry);
            let outcome = tokio::select! {
                () = cancel.cancelled() => return,
                outcome = round => outcome,
            };
            if let Err(error) = outcome {
                debug!(path = self.base, %error, "metadata watch ended, listing again");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(retry) => {}
            }
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    async fn list_and_watch(
        &self,
        observe: &(impl Fn(Observed) + Send + Sync),
        retry: &mut std::time::Duration,
    ) -> Result<(), Error> {
        observe(Observed::Listing);
        let mut version = self.list_all(|metadata| observe(Observed::Put(metadata))).await?;
        observe(Observed::Listed);
        *retry = FIRST_RETRY;
        loop {
            let mut frames = Frames { stream: self.watch(&version).await?, buffer: Vec::new() };
            while let Some(line) = frames.next().await? {
                observe_line(&line, observe, &mut version)?;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

fn observe_line(line: &[u8], observe: &impl Fn(Observed), version: &mut String) -> Result<(), Error> {
    let event: WatchEvent = decode("watch event", line)?;
    let json = event.object.get().as_bytes();
    if event.kind == "ERROR" {
        return Err(Error::Api(Box::new(decode("watch error", json)?)));
    }
    let metadata = decode::<Object>("PartialObjectMetadata", json)?.metadata;
    version.clone_from(&metadata.resource_version);
    match event.kind {
        "BOOKMARK" => {}
        "DELETED" => observe(Observed::Deleted(metadata)),
        _ => observe(Observed::Put(metadata)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn only_the_metadata_of_an_event_is_read() {
        let seen = Mutex::new(Vec::new());
        let mut version = String::new();
        let line = br#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a","uid":"u","resourceVersion":"7",
            "ownerReferences":[{"apiVersion":"v1","kind":"X","name":"x","uid":"o"}]},"spec":{"big":[1,2,3]}}}"#;
        observe_line(line, &|o| seen.lock().unwrap().push(o), &mut version).unwrap();
        assert_eq!(version, "7");
        let seen = seen.into_inner().unwrap();
        let Observed::Put(metadata) = &seen[0] else { panic!("{seen:?}") };
        assert_eq!(metadata.owner_references[0].uid, "o");
    }

    #[test]
    fn the_preferred_version_wins() {
        let resource = |name: &str| Resource {
            name: name.into(),
            kind: "K".into(),
            namespaced: true,
            verbs: vec!["list".into()],
        };
        let mut discovery = Discovery::default();
        discovery.add("g", "v2", vec![resource("things"), resource("things/status")]);
        discovery.add("g", "v1", vec![resource("things"), resource("others")]);
        let found: Vec<_> = discovery.kinds.iter().map(|k| (k.plural.as_str(), k.version.as_str())).collect();
        assert_eq!(found, [("things", "v2"), ("others", "v1")]);
    }
}
