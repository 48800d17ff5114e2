//! The server as one value: cache, catalog, policy, and the two ways in (the TLS
//! listener and the in-process service).

use std::net::TcpListener;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use amphipod_store::{LeaseId, Revision, Store};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::body;
use crate::bootstrap::{self, Loopback};
use crate::cache::{Cache, storage_status};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::Error;
use crate::flow_control::FlowControl;
use crate::flow_control::keeper::{self, Keeper};
use crate::http::local::LocalService;
use crate::http::pipeline;
use crate::kubelet_proxy;
use crate::metrics::Metrics;
use crate::reader::CacheReader;
use crate::registry::object_key;
use crate::seams::{Policy, SchedulingExplainer, UserInfo};
use crate::services::{Repair, repair_periodically};

/// Events written within this time share a lease, so that leases stay few.
const EVENT_LEASE_SHARED: Duration = Duration::from_secs(60);

pub struct ApiServer {
    pub config: Config,
    pub cache: Arc<Cache>,
    pub catalog: Arc<ArcSwap<Catalog>>,
    pub policy: Policy,
    pub metrics: Metrics,
    pub shutdown: CancellationToken,
    pub kubelet_tls: Arc<rustls::ClientConfig>,
    /// Who is served now and who waits.
    pub flow_control: FlowControl,
    event_lease: Mutex<Option<(LeaseId, Instant)>>,
    /// Given once there is a scheduler's explainer, which needs the server to read from.
    /// It reads through this server, so that the server must not keep it alive.
    explainer: OnceLock<Weak<dyn SchedulingExplainer>>,
}

impl ApiServer {
    /// Loads the cache, creates what every cluster has, and starts the background work. Nothing
    /// listens yet.
    pub async fn start(config: Config, store: Arc<dyn Store>) -> Result<Arc<Self>, Error> {
        let shutdown = CancellationToken::new();
        let catalog = Arc::new(ArcSwap::from_pointee(Catalog::builtin()));
        let cache = Cache::start(store, catalog.load().resources(), shutdown.clone()).await?;
        let reader = Arc::new(CacheReader::new(cache.clone(), catalog.clone()));
        let metrics = Metrics::new(&config.version, crate::http::handlers::platform());
        let policy = crate::policy::build(&config, reader.clone(), reader, metrics.access.plugins.clone())
            .map_err(|e| Error::Policy(e.to_string()))?;
        let tls =
            kubelet_proxy::kubelet_tls(config.kubelet_client.as_ref(), config.kubelet_ca_pem.as_deref())?;
        let server = Arc::new(ApiServer {
            flow_control: FlowControl::new(config.seats(), metrics.flow_control.clone()),
            cache,
            catalog,
            policy,
            metrics,
            shutdown,
            kubelet_tls: Arc::new(tls),
            event_lease: Mutex::default(),
            explainer: OnceLock::new(),
            config,
        });
        let loopback = InProcess(server.clone());
        bootstrap::run(&loopback, &server.config, (server.policy.bootstrap_objects)()).await?;
        let mut keeper = Keeper::default();
        keeper.obey(&server, &loopback).await.map_err(|status| Error::Bootstrap {
            what: "the FlowSchemas and their priority levels".into(),
            why: status.message,
        })?;
        let mut repair = Repair::default();
        repair.run(&server, &loopback, true).await.map_err(|status| Error::Bootstrap {
            what: "the addresses and ports of services".into(),
            why: status.message,
        })?;
        server.clone().spawn_background(repair, keeper);
        info!("API server ready");
        Ok(server)
    }

    fn spawn_background(self: Arc<Self>, repair: Repair, keeper: Keeper) {
        let server = self.clone();
        tokio::spawn(async move {
            bootstrap::keep(&InProcess(server.clone()), &server.config, server.shutdown.clone()).await;
        });
        let server = self.clone();
        tokio::spawn(async move {
            repair_periodically(&server, &InProcess(server.clone()), repair).await;
        });
        let server = self.clone();
        tokio::spawn(async move { keeper.keep(server.clone(), &InProcess(server)).await });
        tokio::spawn(keeper::adjust_periodically(self.clone()));
        tokio::spawn(async move { self.compact_periodically().await });
    }

    /// Each round forgets what was history at the round before: between one and two intervals of
    /// history are kept.
    async fn compact_periodically(&self) {
        let mut previous: Option<Revision> = None;
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(self.config.compaction_interval) => {}
            }
            if let Some(revision) = previous
                && let Err(error) = self.cache.compact(revision).await
            {
                warn!(%error, "compaction failed");
            }
            previous = Some(self.cache.applied());
            debug!(revision = ?previous, "next compaction");
        }
    }

    /// The API as a function call, with this identity. Authorization and admission are the same
    /// as for requests from the network.
    pub fn local_service(self: &Arc<Self>, user: UserInfo) -> LocalService {
        LocalService::new(self.clone(), user)
    }

    /// Serves HTTPS until `shutdown`, then lets requests in flight finish. Does not stop the rest
    /// of the server: see `close`.
    pub async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let serving = self.config.serving.as_ref().ok_or(Error::NoServingCertificate)?;
        let tls = crate::serve::tls_config(serving, self.config.client_ca_pem.as_deref())?;
        let server = self.clone();
        let handler = move |request| pipeline::handle(server.clone(), request);
        let counted = self.clone();
        let turned_away = move || counted.metrics.access.handshake_failed();
        crate::serve::serve(listener, tls, handler, turned_away, shutdown).await?;
        Ok(())
    }

    /// Ends watches and background work. The store stays open: it belongs to the caller.
    pub fn close(&self) {
        self.shutdown.cancel();
    }

    /// Who explains scheduling from now on, for as long as somebody else holds it; the first that is
    /// given stays.
    pub fn explain_scheduling_by(&self, explainer: Weak<dyn SchedulingExplainer>) {
        // A second one would read the same cluster: keeping the first loses nothing.
        let _ = self.explainer.set(explainer);
    }
    pub(crate) fn scheduling_explainer(&self) -> Result<Arc<dyn SchedulingExplainer>, Status> {
        let explainer = self.explainer.get().and_then(Weak::upgrade);
        explainer.ok_or_else(|| Status::unavailable("the server cannot explain scheduling yet"))
    }

    /// Events are written under a lease: the store forgets them in time.
    pub async fn event_lease(&self, resource: &Resource) -> Result<Option<LeaseId>, Status> {
        if resource.storage.as_ref().is_none_or(|s| s.prefix != "events") {
            return Ok(None);
        }
        let now = Instant::now();
        if let Some((lease, until)) = *self.event_lease.lock()
            && now < until
        {
            return Ok(Some(lease));
        }
        let ttl = (self.config.event_ttl + EVENT_LEASE_SHARED).as_secs();
        let lease = self.cache.store().lease_grant(ttl).await.map_err(storage_status)?;
        *self.event_lease.lock() = Some((lease, now + EVENT_LEASE_SHARED));
        Ok(Some(lease))
    }

    /// The store does not know this lease any more.
    pub fn forget_event_lease(&self, gone: LeaseId) {
        let mut shared = self.event_lease.lock();
        if shared.is_some_and(|(lease, _)| lease == gone) {
            *shared = None;
        }
    }

    /// Reads another object, as of now, in its stored version.
    pub async fn lookup(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let Some(resource) = self.catalog.load().stored(group, plural) else { return Ok(None) };
        let key = object_key(&resource, namespace, name);
        match crate::registry::existing(self, &resource, &key).await? {
            Some(existing) => existing.value(&resource).map(Some),
            None => Ok(None),
        }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Bootstrap speaks to the server as everyone does, with the rights of its masters.
struct InProcess(Arc<ApiServer>);

#[async_trait]
impl Loopback for InProcess {
    async fn call(&self, method: &str, path: &str, content: Option<&Value>) -> (u16, Bytes) {
        let content = content.map(Value::to_string).unwrap_or_default();
        let content_type =
            if method == "PATCH" { "application/apply-patch+yaml" } else { "application/json" };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::USER_AGENT, "kube-apiserver")
            .extension(UserInfo::new("system:apiserver", &["system:masters", "system:authenticated"]))
            .body(body::full(content));
        let Ok(request) = request else { return (400, Bytes::from_static(b"malformed request")) };
        let answer = pipeline::handle(self.0.clone(), request).await;
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes);
        (code, bytes.unwrap_or_default())
    }
}
