//! What `/metrics` says about the server, in Kubernetes' names and labels.

mod access;
mod cache;
mod flow_control;
mod labels;
mod plugins;
mod process;
mod sizes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use amphipod_api::exposition;
use amphipod_api::resource::Resource;
use amphipod_api::status::qualified;
use http::Response;
use http_body::Body as _;
use parking_lot::RwLock;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::body::{self, Body};
use crate::cache::Standing;
use crate::config::{Version, version};
use crate::http::limits::Kind;
use crate::seams::Attributes;
use access::Access;
pub use access::Step;
use cache::CacheFamilies;
pub use flow_control::{FlowControlFamilies, FlowMeters, Late};
use labels::{
    Answered, BuildLabels, ClusterLabels, DryTarget, KindLabels, ResourceLabels, StoreLabels, StoredLabels,
    Target, Terminated, VersionedLabels, resource_labels, store_labels,
};
pub use plugins::{Plugin, PluginDurations};
use process::Process;
use sizes::{Sizes, Tally};

/// Upper bounds in seconds of requests' and the store's durations, as upstream's.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// Upper bounds in bytes of answers.
const ANSWER_SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// The one component these requests are of.
const COMPONENT: &str = "apiserver";
/// Paths that are no resources and are counted by name; others are counted as one.
const PATHS: [&str; 9] =
    ["/healthz", "/livez", "/readyz", "/version", "/metrics", "/openapi/v2", "/openapi/v3", "/apis", "/api"];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histograms<L: Clone + std::hash::Hash + Eq>(make: fn() -> Histogram) -> Histograms<L> {
    Family::new_with_constructor(make)
}
fn durations() -> Histogram {
    Histogram::new(DURATIONS)
}
fn answer_sizes() -> Histogram {
    Histogram::new(ANSWER_SIZES)
}

struct Families {
    requests: Family<Answered, Counter>,
    durations: Histograms<DryTarget>,
    sli_durations: Histograms<Target>,
    answer_sizes: Histograms<Target>,
    terminations: Family<Terminated, Counter>,
    inflight: Family<KindLabels, Gauge>,
    waiting: Family<KindLabels, Gauge>,
    long_running: Family<Target, Gauge>,
    watchers: Family<VersionedLabels, Gauge>,
    lagging: Family<ResourceLabels, Counter>,
    watch_events: Family<VersionedLabels, Counter>,
    watch_event_sizes: Family<VersionedLabels, Sizes>,
    objects: Family<StoredLabels, Gauge>,
    resource_objects: Family<ResourceLabels, Gauge>,
    store_bytes: Family<ClusterLabels, Gauge>,
    store_requests: Family<StoreLabels, Counter>,
    store_errors: Family<StoreLabels, Counter>,
    store_durations: Histograms<StoreLabels>,
    lists: Family<ResourceLabels, Counter>,
    listed_objects: Family<ResourceLabels, Counter>,
    build: Family<BuildLabels, Gauge>,
}

impl Families {
    fn new() -> Self {
        Families {
            requests: Family::default(),
            durations: histograms(durations),
            sli_durations: histograms(durations),
            answer_sizes: histograms(answer_sizes),
            terminations: Family::default(),
            inflight: Family::default(),
            waiting: Family::default(),
            long_running: Family::default(),
            watchers: Family::default(),
            lagging: Family::default(),
            watch_events: Family::default(),
            watch_event_sizes: Family::default(),
            objects: Family::default(),
            resource_objects: Family::default(),
            store_bytes: Family::default(),
            store_requests: Family::default(),
            store_errors: Family::default(),
            store_durations: histograms(durations),
            lists: Family::default(),
            listed_objects: Family::default(),
            build: Family::default(),
        }
    }

    fn register(&self, registry: &mut Registry) {
        self.register_requests(registry);
        registry.register("apiserver_registered_watchers", "Open watches", self.watchers.clone());
        registry.register(
            "apiserver_terminated_watchers",
            "Watches ended because they could not keep up",
            self.lagging.clone(),
        );
        registry.register("apiserver_watch_events", "Events sent to watchers", self.watch_events.clone());
        registry.register(
            "apiserver_watch_events_sizes",
            "Size in bytes of events sent to watchers",
            self.watch_event_sizes.clone(),
        );
        registry.register("apiserver_storage_objects", "Stored objects", self.objects.clone());
        registry.register("apiserver_resource_objects", "Stored objects", self.resource_objects.clone());
        registry.register(
            "apiserver_storage_size_bytes",
            "Size of the store on disk",
            self.store_bytes.clone(),
        );
        registry.register("etcd_requests", "Writes given to the store", self.store_requests.clone());
        registry.register(
            "etcd_request_errors",
            "Writes the store did not answer",
            self.store_errors.clone(),
        );
        registry.register(
            "etcd_request_duration_seconds",
            "Time the store took for a write, durable then",
            self.store_durations.clone(),
        );
        registry.register("apiserver_cache_list", "Lists served from the watch cache", self.lists.clone());
        registry.register(
            "apiserver_cache_list_returned_objects",
            "Objects in lists served from the watch cache",
            self.listed_objects.clone(),
        );
        registry.register("kubernetes_build_info", "What this server was built from", self.build.clone());
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register("apiserver_request", "Requests answered", self.requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Time until a request was answered to its end",
            self.durations.clone(),
        );
        registry.register(
            "apiserver_request_sli_duration_seconds",
            "Time until a request was answered, long-running ones left out",
            self.sli_durations.clone(),
        );
        registry.register(
            "apiserver_response_sizes",
            "Size in bytes of answers to reads",
            self.answer_sizes.clone(),
        );
        registry.register(
            "apiserver_request_terminations",
            "Requests the server ended in self-defence",
            self.terminations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being served",
            self.inflight.clone(),
        );
        registry.register(
            "apiserver_current_inqueue_requests",
            "Requests waiting for a place",
            self.waiting.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and connections",
            self.long_running.clone(),
        );
    }
}

/// Takes one off a gauge when what it counts ends.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One watch, as long as it lives.
pub struct WatchMeter {
    events: Counter,
    sizes: Sizes,
    /// Since it was last published.
    seen: Tally,
    lagging: Counter,
    _watcher: Counted,
}

impl WatchMeter {
    /// The watch ends because it could not keep up.
    pub fn lagged(&self) {
        self.lagging.inc();
    }

    pub fn sent(&mut self, bytes: usize) {
        self.seen.observe(bytes);
    }

    /// Shows what was sent to those who scrape.
    pub fn publish(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        if seen.count() > 0 {
            self.events.inc_by(seen.count());
            self.sizes.add(&seen);
        }
    }
}

/// What is known of a request before it is answered.
pub struct Observed<'a> {
    pub attributes: &'a Attributes,
    pub resource: Option<&'a Resource>,
    pub is_apply: bool,
    pub is_dry_run: bool,
    pub is_long_running: bool,
}

/// One request until its answer is out.
pub struct RequestMeter {
    families: Arc<Families>,
    target: DryTarget,
    is_long_running: bool,
    started: Instant,
    _long_running: Option<Counted>,
}

impl RequestMeter {
    /// The server ends this request itself: too many, or too slow.
    pub fn terminated(&self, code: u16) {
        let labels = Terminated { target: self.target.target.clone(), code };
        self.families.terminations.get_or_create(&labels).inc();
    }

    /// Counts the request once its answer is out.
    pub fn answered(self, answer: Response<Body>) -> Response<Body> {
        let code = answer.status().as_u16();
        if let Some(size) = answer.body().size_hint().exact() {
            self.finish(code, size);
            return answer;
        }
        answer.map(|content| body::finally(content, move |bytes| self.finish(code, bytes)))
    }

    fn finish(self, code: u16, bytes: u64) {
        let took = self.started.elapsed().as_secs_f64();
        let families = &self.families;
        let target = &self.target.target;
        families.requests.get_or_create(&Answered { target: self.target.clone(), code }).inc();
        families.durations.get_or_create(&self.target).observe(took);
        if !self.is_long_running {
            families.sli_durations.get_or_create(target).observe(took);
        }
        if matches!(target.verb.as_str(), "GET" | "LIST") {
            families.answer_sizes.get_or_create(target).observe(bytes as f64);
        }
    }
}

/// Series in the OpenMetrics text format.
type Part = Box<dyn Fn() -> String + Send + Sync>;

pub struct Metrics {
    registry: Registry,
    /// Of others in this process.
    parts: RwLock<Vec<Part>>,
    families: Arc<Families>,
    process: Process,
    cache: CacheFamilies,
    /// Who asks, and whether they may.
    pub access: Access,
    /// Who is served when.
    pub flow_control: Arc<FlowControlFamilies>,
}

/// What the server looks like at the moment it is asked.
pub struct Scrape {
    /// Group, resource, and how the cache of it stands.
    pub collections: Vec<(String, String, Standing)>,
    pub store_bytes: u64,
    /// (kind, being served, waiting)
    pub load: [(Kind, usize, usize); 2],
}

impl Metrics {
    pub fn new(version: &Version, platform: String) -> Self {
        let mut registry = Registry::default();
        let families = Families::new();
        families.register(&mut registry);
        let process = Process::new(&mut registry);
        let access = Access::new(&mut registry);
        let cache = CacheFamilies::new(&mut registry);
        let flow_control = Arc::new(FlowControlFamilies::new(&mut registry));
        let (major, minor) = version.numbers();
        let build = BuildLabels {
            major: major.to_owned(),
            minor: minor.to_owned(),
            git_version: version.git_version.clone(),
            git_commit: version.git_commit.clone(),
            git_tree_state: version::TREE_STATE,
            build_date: version.build_date.clone(),
            go_version: version::GO_VERSION,
            compiler: version::COMPILER,
            platform,
        };
        families.build.get_or_create(&build).set(1);
        let (parts, families) = (RwLock::default(), Arc::new(families));
        Metrics { registry, parts, families, process, cache, access, flow_control }
    }

    pub fn request(&self, request: &Observed<'_>) -> RequestMeter {
        let target = target(request);
        let counted = request
            .is_long_running
            .then(|| Counted::new(self.families.long_running.get_or_create(&target).clone()));
        RequestMeter {
            families: self.families.clone(),
            target: DryTarget { target, dry_run: if request.is_dry_run { "All" } else { "" } },
            is_long_running: request.is_long_running,
            started: Instant::now(),
            _long_running: counted,
        }
    }

    pub fn watch_started(&self, resource: &Resource) -> WatchMeter {
        let labels = VersionedLabels {
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
        };
        WatchMeter {
            events: self.families.watch_events.get_or_create(&labels).clone(),
            sizes: self.families.watch_event_sizes.get_or_create(&labels).clone(),
            seen: Tally::default(),
            lagging: self.families.lagging.get_or_create(&resource_labels(resource)).clone(),
            _watcher: Counted::new(self.families.watchers.get_or_create(&labels).clone()),
        }
    }

    pub fn listed(&self, resource: &Resource, objects: usize) {
        let labels = resource_labels(resource);
        self.families.lists.get_or_create(&labels).inc();
        self.families.listed_objects.get_or_create(&labels).inc_by(objects as u64);
    }

    /// The store was asked to write something, which took so long. `failed`: it could not be asked, or did
    /// not say how that went.
    pub fn stored(&self, operation: &'static str, resource: &Resource, took: Duration, failed: bool) {
        let labels = store_labels(operation, resource);
        self.families.store_requests.get_or_create(&labels).inc();
        self.families.store_durations.get_or_create(&labels).observe(took.as_secs_f64());
        if failed {
            self.families.store_errors.get_or_create(&labels).inc();
        }
    }

    /// Shows the series of another component of this process with the server's.
    pub fn also(&self, part: impl Fn() -> String + Send + Sync + 'static) {
        self.parts.write().push(Box::new(part));
    }

    /// The text of `/metrics`, in the one format that upstream's server has.
    pub fn render(&self, scrape: &Scrape) -> String {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for (group, resource, standing) in &scrape.collections {
            let labels = StoredLabels { resource: qualified(group, resource) };
            self.families.objects.get_or_create(&labels).set(number(standing.objects));
            let labels = ResourceLabels { group: group.clone(), resource: resource.clone() };
            self.families.resource_objects.get_or_create(&labels).set(number(standing.objects));
            self.cache.show(&labels, standing);
        }
        for (kind, served, waiting) in scrape.load {
            let labels = KindLabels { request_kind: kind.name() };
            self.families.inflight.get_or_create(&labels).set(number(served));
            self.families.waiting.get_or_create(&labels).set(number(waiting));
        }
        let cluster = ClusterLabels { storage_cluster_id: "etcd-0" };
        let bytes = i64::try_from(scrape.store_bytes).unwrap_or(i64::MAX);
        self.families.store_bytes.get_or_create(&cluster).set(bytes);
        self.process.refresh();
        let mut open = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut open, &self.registry);
        open.extend(self.parts.read().iter().map(|part| part()));
        exposition::classic(&open)
    }
}

fn target(request: &Observed<'_>) -> Target {
    let attributes = request.attributes;
    let resource = request.resource;
    let known = |sub: &str| resource.is_some_and(|r| r.subresource(sub).is_some());
    let subresource = match resource {
        Some(_) if known(&attributes.subresource) => attributes.subresource.clone(),
        Some(_) => String::new(),
        None => PATHS.iter().find(|p| attributes.path.starts_with(**p)).copied().unwrap_or("").to_owned(),
    };
    let scope = match attributes {
        a if !a.name.is_empty() || a.verb == "create" => "resource",
        a if !a.namespace.is_empty() => "namespace",
        a if a.resource_request => "cluster",
        _ => "",
    };
    Target {
        verb: verb(attributes, request.is_apply).to_owned(),
        group: resource.map_or_else(String::new, |r| r.group.to_string()),
        version: resource.map_or_else(String::new, |r| r.version.to_string()),
        resource: resource.map_or_else(String::new, |r| r.plural.to_string()),
        subresource,
        scope,
        component: COMPONENT,
    }
}

/// What dashboards call it: mostly the HTTP method.
fn verb(attributes: &Attributes, is_apply: bool) -> &'static str {
    match (attributes.subresource.as_str(), attributes.verb.as_str()) {
        ("exec" | "attach" | "portforward" | "proxy", _) => "CONNECT",
        (_, "get" | "head") => "GET",
        (_, "list") => "LIST",
        (_, "watch") => "WATCH",
        (_, "create" | "post") => "POST",
        (_, "update" | "put") => "PUT",
        (_, "patch") if is_apply => "APPLY",
        (_, "patch") => "PATCH",
        (_, "delete") => "DELETE",
        (_, "deletecollection") => "DELETECOLLECTION",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::testing::ProbedStore;
    use crate::testing::send;
    use crate::{ApiServer, Config};

    #[tokio::test]
    async fn a_write_that_fails_is_a_request_too() {
        let store = Arc::new(ProbedStore::default());
        let server = ApiServer::start(Config::default(), store.clone()).await.expect("a server");
        let row = amphipod_api::resource::find("", "v1", "configmaps").expect("a resource");
        let (labels, families) = (store_labels("create", row), &server.metrics.families);
        let counts = || {
            let requests = families.store_requests.get_or_create(&labels).get();
            (requests, families.store_errors.get_or_create(&labels).get())
        };
        let (requests, errors) = counts();
        *store.meddler.lock() =
            Some(Box::new(|_| Err(amphipod_store::Error::Unavailable("no member answers".into()))));
        let map = json!({"metadata": {"name": "m"}}).to_string();
        let (code, _) = send(&server, "POST", "/api/v1/namespaces/default/configmaps", map).await;
        assert_eq!(code, 503);
        assert_eq!(counts(), (requests + 1, errors + 1));
    }
}
