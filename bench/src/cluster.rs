//! A whole local cluster, driven through the binary as a person would: how fast it comes up, what
//! it costs when nothing happens, how fast a pod runs.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::local::Local;
use crate::report::{Report, percentile};
use crate::wire::{Call, Wire};
use crate::{Outcome, api, process};

#[derive(Clone, Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub local: Local,
    /// Seconds of idleness before memory and CPU are read.
    #[arg(long, default_value_t = 60)]
    pub idle_seconds: u64,
    /// Pods started one after the other.
    #[arg(long, default_value_t = 10)]
    pub pods: usize,
}

pub async fn run(options: &Options, report: &mut Report, with_api: bool) -> Outcome<()> {
    let size = std::fs::metadata(&options.local.binary)
        .map_err(|e| format!("{}: {e}", options.local.binary.display()))?
        .len();
    report.add("binary size", size as f64 / 1e6, "MB");
    let binary = &options.local;
    binary.up(&[]).await?;
    binary.run("down", &[]).await?;
    let start = Instant::now();
    binary.up(&[]).await?;
    report.add("warm up to node Ready and DNS answering", start.elapsed().as_secs_f64() * 1000.0, "ms");
    let outcome = figures(options, report, with_api).await;
    binary.run("down", &["--purge"]).await?;
    outcome
}

async fn figures(options: &Options, report: &mut Report, with_api: bool) -> Outcome<()> {
    let kubeconfig = options.local.kubeconfig();
    let wire = Wire::connect(&kubeconfig).await?;
    let mut samples = Vec::new();
    for index in 0..options.pods {
        samples.push(pod_start(&wire, index).await?);
    }
    report.add("pod create to Running, p50", percentile(&mut samples, 0.5), "ms");
    report.add("pod create to Running, p99", percentile(&mut samples, 0.99), "ms");
    let pid = options.local.pid()?;
    tokio::time::sleep(Duration::from_secs(options.idle_seconds)).await;
    let (before, start) = (process::cpu_ticks(pid)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let ticks = process::cpu_ticks(pid)? - before;
    // The kernel counts in hundredths of a second on every common configuration.
    report.add("idle CPU", ticks as f64 / start.elapsed().as_secs_f64(), "% of a core");
    report.add("idle resident memory", process::resident_mb(pid)?, "MB");
    if with_api {
        let options = api::Options {
            kubeconfig,
            seconds: 5,
            pods: 10_000,
            watchers: 1_000,
            pid: Some(pid),
            only: Vec::new(),
        };
        api::run(&options, report).await?;
        report.add("resident memory after the load", process::resident_mb(pid)?, "MB");
    }
    Ok(())
}

/// Milliseconds from the create call to the first Running seen.
async fn pod_start(wire: &Wire, index: usize) -> Outcome<f64> {
    let name = format!("bench-{index}");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "demo", "image": "amphipod.local/demo:1"}], "terminationGracePeriodSeconds": 0},
    });
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let begin = Instant::now();
    wire.drain(Call::post("/api/v1/namespaces/default/pods", &pod)).await?;
    let deadline = begin + Duration::from_secs(60);
    let took = loop {
        let seen: Value = serde_json::from_slice(&wire.call(Call::get(&path)).await?)?;
        if seen.pointer("/status/phase").and_then(Value::as_str) == Some("Running") {
            break begin.elapsed();
        }
        if Instant::now() > deadline {
            return Err(format!("{name} was not Running within a minute").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    wire.drain(Call::delete(&format!("{path}?gracePeriodSeconds=0"))).await?;
    Ok(took.as_secs_f64() * 1000.0)
}
