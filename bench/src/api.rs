//! Load on an API server: creates that are durable when answered, reads, whole lists, server-side
//! apply, and many watchers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use crate::flood::Flood;
use crate::report::{Report, percentile};
use crate::wire::{Call, JSON, PROTOBUF, Wire};
use crate::{Outcome, process, watch};

pub const NAMESPACE: &str = "amphipod-bench";
/// For pods that are made beside those that are listed.
const ASIDE: &str = "amphipod-bench-aside";
const APPLY: &str = "application/apply-patch+yaml";

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The server to measure.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Seconds per throughput figure.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Pods listed.
    #[arg(long, default_value_t = 10_000)]
    pub pods: usize,
    /// Watchers on one resource.
    #[arg(long, default_value_t = 1_000)]
    pub watchers: usize,
    /// The server's process, for figures of its memory; on this machine only.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Only these figures.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Figure>,
}

/// A group of figures that are taken together.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Figure {
    ConfigMaps,
    Reads,
    Applies,
    Watchers,
    Pods,
    /// Of the pods that are made for it.
    Lists,
}

impl Options {
    fn wants(&self, figure: Figure) -> bool {
        self.only.is_empty() || self.only.contains(&figure)
    }
}

pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let wire = Wire::connect(&options.kubeconfig).await?;
    for name in [NAMESPACE, ASIDE] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let _ = wire.call(Call::post("/api/v1/namespaces", &namespace)).await;
        wait_for_service_account(&wire, name).await?;
    }
    let outcome = figures(&wire, options, report).await;
    for name in [NAMESPACE, ASIDE] {
        let _ = wire.call(Call::delete(&format!("/api/v1/namespaces/{name}"))).await;
    }
    outcome
}

async fn figures(wire: &Wire, options: &Options, report: &mut Report) -> Outcome<()> {
    let period = Duration::from_secs(options.seconds);
    if options.wants(Figure::ConfigMaps) {
        for clients in [1, 64] {
            let object = move |index: usize| config_map(&format!("c{clients}-{index}"));
            let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
            let rate = creates(wire, path, clients, period, object).await?;
            rate.report(report, &format!("create ConfigMap 1 KB, {clients} clients"));
        }
    }
    if options.wants(Figure::Reads) {
        reads(wire, 64, period).await?.report(report, "get ConfigMap, 64 clients");
    }
    if options.wants(Figure::Applies) {
        let rate = applies(wire, 64, period).await?;
        rate.report(report, "server-side apply of a Deployment, 64 clients");
    }
    if options.wants(Figure::Watchers) {
        watch::figures(wire, options, report).await?;
    }
    if options.wants(Figure::Pods) {
        let aside = format!("/api/v1/namespaces/{ASIDE}/pods");
        let one = creates(wire, aside, 1, period, |index| pod(&format!("one-{index}"))).await?;
        one.report(report, "create pod, 1 client");
    }
    if options.wants(Figure::Pods) || options.wants(Figure::Lists) {
        let start = Instant::now();
        create_pods(wire, options.pods).await?;
        report.add("create pod, 64 clients", options.pods as f64 / start.elapsed().as_secs_f64(), "/s");
    }
    if options.wants(Figure::Lists) { lists(wire, options, report).await } else { Ok(()) }
}

/// Pods need the namespace's account; it comes a moment after the namespace.
pub async fn wait_for_service_account(wire: &Wire, namespace: &str) -> Outcome<()> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match wire.call(Call::get(&path)).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"payload": "x".repeat(850)}})
}

/// A pod of common size that no scheduler takes.
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "shard": (name.len() % 10).to_string()}},
        "spec": {
            // Nobody schedules these: the figure is the server's.
            "schedulerName": "nobody",
            "containers": [container()],
        },
    })
}

pub fn container() -> Value {
    json!({
        "name": "main",
        "image": "registry.example/app:1",
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "ports": [{"containerPort": 8080, "name": "http"}],
        "env": (0..8).map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "some value of common length"})).collect::<Vec<_>>(),
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
    })
}

/// What a closed loop did.
pub struct Rate {
    per_second: f64,
    samples_ms: Vec<f64>,
}

impl Rate {
    fn report(mut self, report: &mut Report, name: &str) {
        report.add(name, self.per_second, "/s");
        report.add(&format!("{name}, p50"), percentile(&mut self.samples_ms, 0.5), "ms");
        report.add(&format!("{name}, p99"), percentile(&mut self.samples_ms, 0.99), "ms");
    }
}

async fn creates(
    wire: &Wire,
    path: String,
    clients: usize,
    period: Duration,
    object: impl Fn(usize) -> Value + Send + Sync + 'static,
) -> Outcome<Rate> {
    let (wire, object) = (wire.clone(), Arc::new(object));
    closed_loop(clients, period, move |turn| {
        let (wire, path, object) = (wire.clone(), path.clone(), object.clone());
        async move { wire.drain(Call::post(&path, &object(turn.index))).await.map(|_| ()) }
    })
    .await
}

async fn reads(wire: &Wire, clients: usize, period: Duration) -> Outcome<Rate> {
    let all = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    wire.call(Call::post(&all, &config_map("read"))).await?;
    let (wire, path) = (wire.clone(), format!("{all}/read"));
    closed_loop(clients, period, move |_| {
        let (wire, path) = (wire.clone(), path.clone());
        async move { wire.drain(Call::get(&path)).await.map(|_| ()) }
    })
    .await
}

/// Each client applies a Deployment of its own again and again, with another image each time.
async fn applies(wire: &Wire, clients: usize, period: Duration) -> Outcome<Rate> {
    let wire = wire.clone();
    closed_loop(clients, period, move |Turn { client, index }| {
        let wire = wire.clone();
        async move {
            let name = format!("applied-{client}");
            let path = format!(
                "/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}?fieldManager=amphipod-bench&force=true"
            );
            let mut container = container();
            container["image"] = format!("registry.example/app:{index}").into();
            let object = json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
                "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}},
            });
            let call = Call { method: Method::PATCH, content_type: APPLY, ..Call::post(&path, &object) };
            wire.drain(call).await.map(|_| ())
        }
    })
    .await
}

/// Whose request it is, and which of all.
#[derive(Clone, Copy, Debug)]
struct Turn {
    client: usize,
    index: usize,
}

/// Clients that ask again as soon as they are answered.
async fn closed_loop<F, Fut>(clients: usize, period: Duration, work: F) -> Outcome<Rate>
where
    F: Fn(Turn) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Outcome<()>> + Send,
{
    let counter = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..clients {
        let (work, counter) = (work.clone(), counter.clone());
        tasks.push(tokio::spawn(async move {
            let mut samples = Vec::new();
            while start.elapsed() < period {
                let begin = Instant::now();
                work(Turn { client, index: counter.fetch_add(1, Ordering::Relaxed) }).await?;
                samples.push(begin.elapsed().as_secs_f64() * 1000.0);
            }
            Outcome::Ok(samples)
        }));
    }
    let mut samples = Vec::new();
    for task in tasks {
        samples.extend(task.await??);
    }
    let per_second = samples.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Rate { per_second, samples_ms: samples })
}

async fn create_pods(wire: &Wire, count: usize) -> Outcome<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let each = move |index| (path.clone(), pod(&format!("pod-{index}")).to_string().into());
    Flood::posts(count).send(wire, each).await
}

async fn lists(wire: &Wire, options: &Options, report: &mut Report) -> Outcome<()> {
    let pods = options.pods;
    for (form, accept) in [("JSON", JSON), ("protobuf", PROTOBUF)] {
        for (what, query) in
            [("from cache", "?resourceVersion=0"), ("consistent", ""), ("limit=500 page", "?limit=500")]
        {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods{query}");
            let mut samples = Vec::new();
            let mut bytes = 0;
            let peak = process::Peak::start(options.pid)?;
            for _ in 0..7 {
                let begin = Instant::now();
                bytes = wire.drain(Call { accept, ..Call::get(&path) }).await?;
                samples.push(begin.elapsed().as_secs_f64() * 1000.0);
            }
            let name = format!("list {pods} pods, {form}, {what}");
            report.add(&format!("{name}, p50"), percentile(&mut samples, 0.5), "ms");
            report.add(&format!("{name}, size"), bytes as f64 / 1e6, "MB");
            if let Some(grown) = peak.grown_mb()? {
                report.add(&format!("{name}, memory while it streams"), grown, "MB");
            }
        }
    }
    Ok(())
}
