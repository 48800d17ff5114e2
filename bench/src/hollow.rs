//! What hollow nodes cost, so that it can be told from what is measured on them: how soon all are
//! Ready, memory and CPU of each at rest, and whether their pods start as fast as they are bound.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use crate::api::{NAMESPACE, pod, wait_for_service_account};
use crate::flood::Flood;
use crate::local::Local;
use crate::report::Report;
use crate::wire::{Call, Wire};
use crate::{Outcome, process};

/// Longer than a heartbeat's interval: figures at rest hold each node's share of it.
const SETTLE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Pods must start, and end, at least at this rate, or the run is given up.
const SLOWEST_PODS_PER_SECOND: u64 = 20;

#[derive(Clone, Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub local: Local,
    #[arg(long, default_value_t = 5_000)]
    pub nodes: usize,
    #[arg(long, default_value_t = 20_000)]
    pub pods: usize,
    /// What the nodes are like (docs/hollow-nodes.md).
    #[arg(long)]
    pub hollow_config: Option<String>,
}

pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let local = &options.local;
    local.up(&["--no-node"]).await?;
    tokio::time::sleep(SETTLE).await;
    let empty_mb = process::resident_mb(local.pid()?);
    local.run("down", &["--purge"]).await?;

    let count = options.nodes.to_string();
    let mut flags = vec!["--hollow-nodes", &count];
    flags.extend(options.hollow_config.iter().flat_map(|file| ["--hollow-config", file.as_str()]));
    let begin = Instant::now();
    local.up(&flags).await?;
    report.add(&format!("{count} hollow nodes, up to all Ready"), begin.elapsed().as_secs_f64(), "s");
    let outcome = figures(local, options, empty_mb?, report).await;
    local.run("down", &["--purge"]).await?;
    outcome
}

async fn figures(local: &Local, options: &Options, empty_mb: f64, report: &mut Report) -> Outcome<()> {
    let pid = local.pid()?;
    let name = format!("{} hollow nodes", options.nodes);
    tokio::time::sleep(SETTLE).await;
    let (ticks, start) = (process::cpu_ticks(pid)?, Instant::now());
    tokio::time::sleep(SETTLE).await;
    let ticks = process::cpu_ticks(pid)? - ticks;
    report.add(&format!("{name}, CPU at rest"), ticks as f64 / start.elapsed().as_secs_f64(), "% of a core");
    let resident = process::resident_mb(pid)?;
    report.add(&format!("{name}, resident memory"), resident, "MB");
    let each_kb = (resident - empty_mb) * 1024.0 / options.nodes as f64;
    report.add(&format!("{name}, memory of each, objects and caches included"), each_kb, "KB");

    let wire = Wire::connect(&local.kubeconfig()).await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    wire.call(Call::post("/api/v1/namespaces", &namespace)).await?;
    wait_for_service_account(&wire, NAMESPACE).await?;
    let nodes: Value =
        serde_json::from_slice(&wire.call(Call::get("/api/v1/nodes?resourceVersion=0")).await?)?;
    let nodes = nodes["items"].as_array().into_iter().flatten();
    let nodes: Vec<String> =
        nodes.filter_map(|n| n["metadata"]["name"].as_str().map(str::to_owned)).collect();
    pods(&wire, options, nodes, report).await
}

async fn pods(wire: &Wire, options: &Options, nodes: Vec<String>, report: &mut Report) -> Outcome<()> {
    let (count, path) = (options.pods, format!("/api/v1/namespaces/{NAMESPACE}/pods"));
    let create = path.clone();
    let creation = move |index| (create.clone(), pod(&format!("pod-{index}")).to_string().into());
    Flood::posts(count).send(wire, creation).await?;
    let bind = path.clone();
    let binding = move |index: usize| {
        let (name, node) = (format!("pod-{index}"), &nodes[index % nodes.len()]);
        let object = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        (format!("{bind}/{name}/binding"), object.to_string().into())
    };
    let begin = Instant::now();
    Flood::posts(count).send(wire, binding).await?;
    let bound = begin.elapsed();
    let patience = Duration::from_secs(60 + count as u64 / SLOWEST_PODS_PER_SECOND);
    until_none(wire, &format!("{path}?limit=1&fieldSelector=status.phase!%3DRunning"), patience).await?;
    let running = begin.elapsed();
    let rate = |elapsed: Duration| count as f64 / elapsed.as_secs_f64();
    report.add(&format!("{count} pods bound"), rate(bound), "/s");
    report.add(&format!("{count} pods bound and Running"), rate(running), "/s");
    report.add("last pod Running after the last was bound", (running - bound).as_secs_f64(), "s");
    let begin = Instant::now();
    let each = path.clone();
    let deletion = move |index: usize| (format!("{each}/pod-{index}"), Bytes::new());
    Flood::deletes(count).send(wire, deletion).await?;
    until_none(wire, &format!("{path}?limit=1"), patience).await?;
    report.add(&format!("{count} pods deleted and gone"), rate(begin.elapsed()), "/s");
    Ok(())
}

/// Waits until a list is empty.
async fn until_none(wire: &Wire, path: &str, patience: Duration) -> Outcome<()> {
    let begin = Instant::now();
    loop {
        let list: Value = serde_json::from_slice(&wire.call(Call::get(path)).await?)?;
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        if begin.elapsed() > patience {
            return Err(format!("{path}: not empty within {} s", patience.as_secs()).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
