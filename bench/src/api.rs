//! Load on an API server: creates that are durable when answered, reads, and whole lists.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::report::{Report, percentile};
use crate::{Outcome, connect};

const NAMESPACE: &str = "amphipod-bench";

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
}

pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let client = connect(&options.kubeconfig).await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let _ = call(&client, "POST", "/api/v1/namespaces", Some(&namespace)).await;
    wait_for_service_account(&client).await?;
    let outcome = figures(&client, options, report).await;
    let _ = call(&client, "DELETE", &format!("/api/v1/namespaces/{NAMESPACE}"), None).await;
    outcome
}

async fn figures(client: &kube::Client, options: &Options, report: &mut Report) -> Outcome<()> {
    let period = Duration::from_secs(options.seconds);
    for clients in [1, 64] {
        let object = move |index: usize| config_map(&format!("c{clients}-{index}"));
        let (rate, p50, p99) = creates(client, "configmaps", clients, period, object).await?;
        report.add(&format!("create ConfigMap 1 KB, {clients} clients"), rate, "/s");
        report.add(&format!("create ConfigMap 1 KB, {clients} clients, p50"), p50, "ms");
        report.add(&format!("create ConfigMap 1 KB, {clients} clients, p99"), p99, "ms");
    }
    let (rate, _, p99) = reads(client, 64, period).await?;
    report.add("get ConfigMap, 64 clients", rate, "/s");
    report.add("get ConfigMap, 64 clients, p99", p99, "ms");
    let start = Instant::now();
    create_pods(client, options.pods).await?;
    report.add("create pod, 64 clients", options.pods as f64 / start.elapsed().as_secs_f64(), "/s");
    lists(client, options.pods, report).await
}

pub async fn call(client: &kube::Client, method: &str, path: &str, body: Option<&Value>) -> Outcome<Vec<u8>> {
    let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(Body::from(bytes))?;
    let response = client.send(request).await?;
    let code = response.status();
    let answer = response.into_body().collect().await?.to_bytes();
    if code.is_success() {
        return Ok(answer.to_vec());
    }
    Err(format!("{method} {path}: {code}: {}", String::from_utf8_lossy(&answer)).into())
}

/// Pods need the namespace's account; it comes a moment after the namespace.
async fn wait_for_service_account(client: &kube::Client) -> Outcome<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match call(client, "GET", &path, None).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"payload": "x".repeat(850)}})
}

fn pod(index: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{index}"), "labels": {"app": "bench", "shard": (index % 10).to_string()}},
        "spec": {
            // Nobody schedules these: the figure is the server's.
            "schedulerName": "nobody",
            "containers": [{
                "name": "main",
                "image": "registry.example/app:1",
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "ports": [{"containerPort": 8080, "name": "http"}],
                "env": (0..8).map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "some value of common length"})).collect::<Vec<_>>(),
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            }],
        },
    })
}

/// (per second, p50 ms, p99 ms) of closed-loop clients over a period.
async fn creates(
    client: &kube::Client,
    plural: &str,
    clients: usize,
    period: Duration,
    object: impl Fn(usize) -> Value + Send + Sync + 'static,
) -> Outcome<(f64, f64, f64)> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/{plural}");
    let object = Arc::new(object);
    closed_loop(
        clients,
        period,
        move |client, index| {
            let (path, object) = (path.clone(), object.clone());
            async move { call(&client, "POST", &path, Some(&object(index))).await.map(|_| ()) }
        },
        client,
    )
    .await
}

async fn reads(client: &kube::Client, clients: usize, period: Duration) -> Outcome<(f64, f64, f64)> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/c1-0");
    closed_loop(
        clients,
        period,
        move |client, _| {
            let path = path.clone();
            async move { call(&client, "GET", &path, None).await.map(|_| ()) }
        },
        client,
    )
    .await
}

async fn closed_loop<F, Fut>(
    clients: usize,
    period: Duration,
    work: F,
    client: &kube::Client,
) -> Outcome<(f64, f64, f64)>
where
    F: Fn(kube::Client, usize) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Outcome<()>> + Send,
{
    let counter = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (client, work, counter) = (client.clone(), work.clone(), counter.clone());
        tasks.push(tokio::spawn(async move {
            let mut samples = Vec::new();
            while start.elapsed() < period {
                let begin = Instant::now();
                work(client.clone(), counter.fetch_add(1, Ordering::Relaxed)).await?;
                samples.push(begin.elapsed().as_secs_f64() * 1000.0);
            }
            Outcome::Ok(samples)
        }));
    }
    let mut samples = Vec::new();
    for task in tasks {
        samples.extend(task.await??);
    }
    let rate = samples.len() as f64 / start.elapsed().as_secs_f64();
    Ok((rate, percentile(&mut samples, 0.5), percentile(&mut samples, 0.99)))
}

async fn create_pods(client: &kube::Client, count: usize) -> Outcome<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let (client, next) = (client.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Outcome::Ok(());
                }
                let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
                call(&client, "POST", &path, Some(&pod(index))).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn lists(client: &kube::Client, pods: usize, report: &mut Report) -> Outcome<()> {
    for (what, query) in
        [("from cache", "?resourceVersion=0"), ("consistent", ""), ("limit=500 page", "?limit=500")]
    {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods{query}");
        let mut samples = Vec::new();
        let mut bytes = 0;
        for _ in 0..5 {
            let begin = Instant::now();
            bytes = call(client, "GET", &path, None).await?.len();
            samples.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        report.add(&format!("list {pods} pods, {what}, p50"), percentile(&mut samples, 0.5), "ms");
        report.add(&format!("list {pods} pods, {what}, size"), bytes as f64 / 1e6, "MB");
    }
    Ok(())
}
