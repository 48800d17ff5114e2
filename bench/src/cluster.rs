//! A whole local cluster, driven through the binary as a person would: how fast it comes up, what
//! it costs when nothing happens, how fast a pod runs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::report::{Report, percentile};
use crate::{Outcome, api, connect};

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/amphipod")]
    pub binary: PathBuf,
    /// A data directory for the measurement; deleted afterwards.
    #[arg(long, default_value = "/var/lib/amphipod-bench")]
    pub data_dir: PathBuf,
    #[arg(long, default_value = "127.0.0.1:16443")]
    pub listen: String,
    /// Seconds of idleness before memory and CPU are read.
    #[arg(long, default_value_t = 60)]
    pub idle_seconds: u64,
    /// Pods started one after the other.
    #[arg(long, default_value_t = 10)]
    pub pods: usize,
}

pub async fn run(options: &Options, report: &mut Report, with_api: bool) -> Outcome<()> {
    let size =
        std::fs::metadata(&options.binary).map_err(|e| format!("{}: {e}", options.binary.display()))?.len();
    report.add("binary size", size as f64 / 1e6, "MB");
    up(options).await?;
    amphipod(options, "down", &[]).await?;
    let start = Instant::now();
    up(options).await?;
    report.add("warm up to node Ready and DNS answering", start.elapsed().as_secs_f64() * 1000.0, "ms");
    let outcome = figures(options, report, with_api).await;
    amphipod(options, "down", &["--purge"]).await?;
    outcome
}

async fn up(options: &Options) -> Outcome<()> {
    amphipod(options, "up", &["--detach", "--listen", &options.listen]).await
}

async fn amphipod(options: &Options, command: &str, flags: &[&str]) -> Outcome<()> {
    let output = Command::new(&options.binary)
        .args([command, "--data-dir"])
        .arg(&options.data_dir)
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .await?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("amphipod {command} failed ({}): {text}", output.status).into())
}

async fn figures(options: &Options, report: &mut Report, with_api: bool) -> Outcome<()> {
    let kubeconfig = options.data_dir.join("admin.kubeconfig");
    let client = connect(&kubeconfig).await?;
    let mut samples = Vec::new();
    for index in 0..options.pods {
        samples.push(pod_start(&client, index).await?);
    }
    report.add("pod create to Running, p50", percentile(&mut samples, 0.5), "ms");
    report.add("pod create to Running, p99", percentile(&mut samples, 0.99), "ms");
    let pid = pid(&options.data_dir)?;
    tokio::time::sleep(Duration::from_secs(options.idle_seconds)).await;
    let (before, start) = (cpu_ticks(pid)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let ticks = cpu_ticks(pid)? - before;
    // The kernel counts in hundredths of a second on every common configuration.
    report.add("idle CPU", ticks as f64 / start.elapsed().as_secs_f64(), "% of a core");
    report.add("idle resident memory", resident_kib(pid)? as f64 / 1024.0, "MB");
    if with_api {
        let options = api::Options { kubeconfig, seconds: 5, pods: 10_000 };
        api::run(&options, report).await?;
        report.add("resident memory after the load", resident_kib(pid)? as f64 / 1024.0, "MB");
    }
    Ok(())
}

/// Milliseconds from the create call to the first Running seen.
async fn pod_start(client: &kube::Client, index: usize) -> Outcome<f64> {
    let name = format!("bench-{index}");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "demo", "image": "amphipod.local/demo:1"}], "terminationGracePeriodSeconds": 0},
    });
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let begin = Instant::now();
    api::call(client, "POST", "/api/v1/namespaces/default/pods", Some(&pod)).await?;
    let deadline = begin + Duration::from_secs(60);
    let took = loop {
        let seen: Value = serde_json::from_slice(&api::call(client, "GET", &path, None).await?)?;
        if seen.pointer("/status/phase").and_then(Value::as_str) == Some("Running") {
            break begin.elapsed();
        }
        if Instant::now() > deadline {
            return Err(format!("{name} was not Running within a minute").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    api::call(client, "DELETE", &format!("{path}?gracePeriodSeconds=0"), None).await?;
    Ok(took.as_secs_f64() * 1000.0)
}

fn pid(data_dir: &Path) -> Outcome<u32> {
    let text = std::fs::read_to_string(data_dir.join("run/instance.json"))?;
    let record: Value = serde_json::from_str(&text)?;
    Ok(record["pid"].as_u64().and_then(|p| u32::try_from(p).ok()).ok_or("the instance record has no pid")?)
}

/// User and system time of the process in clock ticks.
fn cpu_ticks(pid: u32) -> Outcome<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit(')').next().unwrap_or("");
    let field =
        |index: usize| rest.split_whitespace().nth(index).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Ok(field(11) + field(12))
}

fn resident_kib(pid: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().next().ok_or("no VmRSS")?.parse()?)
}
