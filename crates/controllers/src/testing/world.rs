//! A server of its own for one controller, whose answers and news come late: what is read at a path is
//! held back until the test lets it pass.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use amphipod_apiserver::body::{self, Body};
use amphipod_apiserver::http::local::LocalService;
use amphipod_apiserver::{ApiServer, Config as ServerConfig, UserInfo};
use amphipod_client::{Api, Client, Resource, SharedInformers, Writable};
use amphipod_store::EmbeddedStore;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::object;
use crate::Config;
use crate::harness::Scope;

const DEADLINE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(5);

/// How the paths end of which nothing is told: `pods?watch`, `pods/x`.
/// True once there is something that waits.
type Held = HashMap<&'static str, bool>;

pub struct World {
    pub client: Client,
    scope: Scope,
    server: Arc<ApiServer>,
    held: watch::Sender<Held>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.scope.cancel.cancel();
        self.held.send_modify(Held::clear);
        self.server.close();
    }
}

impl World {
    /// With this namespace, in which pods can be made.
    pub async fn with_namespace(name: &str) -> World {
        let store = Arc::new(EmbeddedStore::memory().unwrap());
        let server = ApiServer::start(ServerConfig::default(), store).await.unwrap();
        let service = server.local_service(UserInfo::new("admin", &["system:masters"]));
        let held = watch::Sender::new(Held::new());
        let lagging = lagging(service.clone(), held.clone());
        let cancel = CancellationToken::new();
        let scope = Scope {
            name: "test",
            informers: SharedInformers::new(lagging.clone(), cancel.clone()),
            client: lagging,
            config: Arc::new(Config::new("")),
            cancel,
        };
        let world = World { client: Client::local(service), scope, server, held };
        world.create::<Namespace>("", json!({"metadata": {"name": name}})).await;
        world.create::<ServiceAccount>(name, json!({"metadata": {"name": "default"}})).await;
        world
    }

    /// What the controller gets.
    pub fn scope(&self) -> Scope {
        self.scope.clone()
    }
    pub fn hold(&self, path: &'static str) {
        self.held.send_modify(|held| held.extend([(path, false)]));
    }
    pub fn pass(&self, path: &str) {
        self.held.send_modify(|held| held.retain(|held, _| *held != path));
    }
    /// Waits until something was answered there that is held back now.
    pub async fn until_held(&self, path: &str) {
        let mut held = self.held.subscribe();
        let waits = held.wait_for(|all| all.get(path) == Some(&true));
        let waited = tokio::time::timeout(DEADLINE, waits).await;
        waited.unwrap_or_else(|_| panic!("never read: {path}")).unwrap();
    }

    pub fn api<K: Resource>(&self, namespace: &str) -> Api<K> {
        if K::NAMESPACED {
            Api::namespaced(self.client.clone(), namespace)
        } else {
            Api::all(self.client.clone())
        }
    }
    pub async fn create<K: Writable>(&self, namespace: &str, json: Value) -> K {
        self.api::<K>(namespace).create(&object(json)).await.unwrap()
    }
}

/// The server's client, whose reads wait while what they read is held: an answer before it begins, a
/// watch before each piece.
fn lagging(service: LocalService, held: watch::Sender<Held>) -> Client {
    Client::local(tower::service_fn(move |request: Request<_>| {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let watched = if is_watch { "?watch" } else { "" };
        let path = (request.method() == Method::GET).then(|| format!("{}{watched}", request.uri().path()));
        let (answer, held) = (service.clone().oneshot(request), held.clone());
        async move {
            let answer: Response<Body> = answer.await?;
            Ok::<_, Infallible>(match path {
                Some(path) if is_watch => answer.map(|content| held_back(content, path, held)),
                Some(path) => {
                    passed(&path, &held).await;
                    answer
                }
                None => answer,
            })
        }
    }))
}

fn held_back(content: Body, path: String, held: watch::Sender<Held>) -> Body {
    body::stream(content.into_data_stream().then(move |chunk| {
        let (path, held) = (path.clone(), held.clone());
        async move {
            passed(&path, &held).await;
            chunk
        }
    }))
}

async fn passed(path: &str, held: &watch::Sender<Held>) {
    let is_held = |held: &str| path.strip_suffix(held).is_some_and(|rest| rest.ends_with('/'));
    held.send_if_modified(|all| {
        let here = all.iter_mut().filter(|(held, _)| is_held(held));
        here.fold(false, |told, (_, waits)| !std::mem::replace(waits, true) || told)
    });
    // It cannot fail: a sender is here.
    let _ = held.subscribe().wait_for(|all| !all.keys().any(|held| is_held(held))).await;
}

/// Waits until `probe` gives something.
pub async fn eventually<T, Fut>(what: &str, probe: impl Fn() -> Fut) -> T
where
    Fut: Future<Output = Option<T>>,
{
    let wait = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}
