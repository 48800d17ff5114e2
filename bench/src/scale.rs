//! A large cluster of hollow nodes on one machine: how fast it fills with pods and how much memory
//! the whole control plane, its nodes included, holds afterwards.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::api::container;
use crate::local::Local;
use crate::report::Report;
use crate::wire::{Call, Wire};
use crate::{Outcome, process};

const PODS_PER_DEPLOYMENT: usize = 1_000;
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// The cluster must fill at least at this rate, or the run is given up.
const SLOWEST_PODS_PER_SECOND: u64 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(250);
const SETTLE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub local: Local,
    #[arg(long, default_value_t = 1_000)]
    pub nodes: usize,
    #[arg(long, default_value_t = 30_000)]
    pub pods: usize,
}

pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let local = &options.local;
    local.up(&["--hollow-nodes", &options.nodes.to_string()]).await?;
    let outcome = figures(local, options, report).await;
    local.run("down", &["--purge"]).await?;
    outcome
}

async fn figures(local: &Local, options: &Options, report: &mut Report) -> Outcome<()> {
    let wire = Wire::connect(&local.kubeconfig()).await?;
    let pid = local.pid()?;
    let ready = Duration::from_secs(60 + options.nodes as u64 / 10);
    reach(&wire, "/api/v1/nodes?limit=1&resourceVersion=0", options.nodes, ready).await?;
    report.add(&format!("{} nodes, resident memory", options.nodes), process::resident_mb(pid)?, "MB");
    let begin = Instant::now();
    for index in 0..options.pods.div_ceil(PODS_PER_DEPLOYMENT) {
        let replicas = PODS_PER_DEPLOYMENT.min(options.pods - index * PODS_PER_DEPLOYMENT);
        wire.drain(Call::post(DEPLOYMENTS, &deployment(index, replicas))).await?;
    }
    let patience = Duration::from_secs(60 + options.pods as u64 / SLOWEST_PODS_PER_SECOND);
    let available = loop {
        let list: Value = serde_json::from_slice(&wire.call(Call::get(DEPLOYMENTS)).await?)?;
        let count = |d: &Value| d["status"]["availableReplicas"].as_u64().unwrap_or(0) as usize;
        let available: usize = list["items"].as_array().into_iter().flatten().map(count).sum();
        if available >= options.pods {
            break begin.elapsed();
        }
        if begin.elapsed() > patience {
            return Err(format!("only {available} of {} pods became available", options.pods).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let name = format!("{} nodes, {} pods", options.nodes, options.pods);
    report.add(&format!("{name}, all available"), available.as_secs_f64(), "s");
    report.add(&format!("{name}, rate"), options.pods as f64 / available.as_secs_f64(), "pods/s");
    tokio::time::sleep(SETTLE).await;
    report.add(&format!("{name}, resident memory"), process::resident_mb(pid)?, "MB");
    let (before, start) = (process::cpu_ticks(pid)?, Instant::now());
    tokio::time::sleep(SETTLE).await;
    let ticks = process::cpu_ticks(pid)? - before;
    report.add(&format!("{name}, CPU at rest"), ticks as f64 / start.elapsed().as_secs_f64(), "% of a core");
    Ok(())
}

/// Waits until a collection has that many objects; `path` asks for one of them.
async fn reach(wire: &Wire, path: &str, count: usize, patience: Duration) -> Outcome<()> {
    let begin = Instant::now();
    loop {
        let list: Value = serde_json::from_slice(&wire.call(Call::get(path)).await?)?;
        let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0) as usize;
        let found = list["items"].as_array().map_or(0, Vec::len) + more;
        if found >= count {
            return Ok(());
        }
        if begin.elapsed() > patience {
            return Err(format!("{path}: {found} of {count} within {} s", patience.as_secs()).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn deployment(index: usize, replicas: usize) -> Value {
    let name = format!("bench-{index}");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container()]}}},
    })
}
